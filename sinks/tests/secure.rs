//! The store on a real Cassandra that demands TLS, a client certificate and a password. A client
//! with all three connects. Any other gets an error that names what is missing and shows no secret.
//!
//! Without java or mvn each test is listed as not run, with the reason. `TAPEFLOW_REQUIRE_STACK=1`
//! makes it fail instead.

use tapeflow_schemas::Secret;
use tapeflow_stack::certificates;
#[allow(
    dead_code,
    reason = "this target never starts its servers without preparing certificates"
)]
use tapeflow_stack::servers as dev_stack;
use tapeflow_stack::trials;

use std::{
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use certificates::Certificates;
use dev_stack::{Layout, Stack};
use libtest_mimic::{Arguments, Failed};
use tapeflow_protocol::{Store, StoreError};
use tapeflow_sinks::cassandra::{
    CassandraConfig, CassandraStore, ClientCertificate, Credentials, Finding, TlsConfig, init,
};

/// The ports of this test target, below the ephemeral ports of the system.
const CQL_PORT: u16 = 24_042;
/// How long the node may take to create its first user after it has opened its port.
const PATIENCE: Duration = Duration::from_secs(60);
/// A password that no user has. No text may contain it.
const WRONG: &str = "hunter2-is-secret";

static STACK: Stack = Stack::new(Layout {
    name: "test-secure-store",
    arguments: &["--only", "cassandra", "--secure"],
    ports: &[
        ("CQL_PORT", CQL_PORT),
        ("STORAGE_PORT", 24_000),
        ("JMX_PORT", 24_199),
    ],
});

static CERTIFICATES: OnceLock<Certificates> = OnceLock::new();

type Test = fn() -> Result<(), Failed>;

const TESTS: [(&str, Test); 7] = [
    (
        "with_authority_certificate_and_password_the_store_works",
        everything_right,
    ),
    ("an_authority_that_did_not_sign_is_refused", wrong_authority),
    ("a_certificate_for_another_name_is_refused", wrong_name),
    ("a_wrong_password_or_none_is_refused", wrong_password),
    ("without_tls_the_error_says_so", no_tls),
    (
        "without_a_client_certificate_the_error_says_so",
        no_certificate,
    ),
    ("tls_to_a_port_without_tls_says_so", tls_to_plain),
];

fn main() {
    let arguments = Arguments::from_args();
    let tests = TESTS.map(|(name, test)| (name, move || up().and_then(|()| test())));
    let conclusion =
        libtest_mimic::run(&arguments, trials::on_servers(&dev_stack::wanted(), tests));
    STACK.stop();
    conclusion.exit();
}

/// The servers, with certificates made for this run.
fn up() -> Result<(), Failed> {
    STACK.up_with(|folder| {
        let made = Certificates::make()?;
        made.install(folder)?;
        CERTIFICATES
            .set(made)
            .map_err(|_| std::io::Error::other("a stack is prepared once"))
    })?;
    Ok(())
}

fn certificates() -> &'static Certificates {
    CERTIFICATES.get().expect("made before any test")
}

fn tls(ca: &str) -> TlsConfig {
    let file = |name| certificates().file(name);
    TlsConfig {
        ca_file: Some(file(ca)),
        client: Some(ClientCertificate {
            certificate_file: file("client.pem"),
            key_file: file("client.key"),
        }),
    }
}

fn config(host: &str, password: &str, tls: Option<TlsConfig>) -> CassandraConfig {
    let mut config =
        CassandraConfig::parse(&format!("cassandra://{host}:{CQL_PORT}/secure"), "secure")
            .expect("an address");
    config.credentials = Some(Credentials {
        user: "cassandra".into(),
        password: Secret::new(password),
    });
    config.tls = tls;
    config
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// Whether an error says that a retry cannot succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lasts {
    Yes,
    No,
    /// Both are right: the driver may see the closed connection before it reads the reason.
    Either,
}

/// Connecting fails with an error whose text has all of these parts and no secret.
fn refused(config: CassandraConfig, lasts: Lasts, parts: &[&str]) -> Result<(), Failed> {
    assert!(
        !format!("{config:?}").contains(WRONG),
        "the configuration shows its password"
    );
    let error = match block_on(CassandraStore::connect(config)) {
        Ok(_) => return Err("connects".into()),
        Err(error) => error,
    };
    let text = format!("{error} {error:?}");
    let found = if matches!(error, StoreError::Broken(_)) {
        Lasts::Yes
    } else {
        Lasts::No
    };
    if lasts != Lasts::Either && lasts != found {
        return Err(format!("lasts: {lasts:?} expected: {text}").into());
    }
    if text.contains(WRONG) {
        return Err(format!("a secret is shown: {text}").into());
    }
    match parts.iter().find(|part| !text.contains(*part)) {
        Some(part) => Err(format!("{part:?} is not in: {text}").into()),
        None => Ok(()),
    }
}

fn everything_right() -> Result<(), Failed> {
    let config = config("localhost", "cassandra", Some(tls("ca.pem")));
    block_on(async {
        let begun = Instant::now();
        // The port opens before the first user exists.
        let report = loop {
            match init(&config, 1).await {
                Err(StoreError::Broken(text))
                    if text.contains("refuses user or password") && begun.elapsed() < PATIENCE =>
                {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                other => break other.map_err(|error| error.to_string())?,
            }
        };
        assert!(
            !report
                .findings
                .iter()
                .any(|finding| matches!(finding, Finding::UnencryptedPassword { .. })),
            "a password over TLS is nothing to warn of"
        );
        let store: Arc<dyn Store> = Arc::new(
            CassandraStore::connect(config)
                .await
                .map_err(|error| error.to_string())?,
        );
        assert_eq!(
            store
                .checkpoint()
                .await
                .map_err(|error| error.to_string())?,
            None
        );
        Ok(())
    })
}

fn wrong_authority() -> Result<(), Failed> {
    refused(
        config("localhost", WRONG, Some(tls("unknown_peer.pem"))),
        Lasts::Yes,
        &["UnknownIssuer", "--cassandra-ca-file"],
    )?;
    // The authorities of the web did not sign it either.
    let web = TlsConfig {
        ca_file: None,
        ..tls("ca.pem")
    };
    refused(
        config("localhost", WRONG, Some(web)),
        Lasts::Yes,
        &["UnknownIssuer", "--cassandra-ca-file"],
    )?;
    let missing = TlsConfig {
        ca_file: Some("no/such/ca.pem".into()),
        client: None,
    };
    refused(
        config("localhost", WRONG, Some(missing)),
        Lasts::Yes,
        &["no/such/ca.pem", "No such file"],
    )
}

/// The certificate is for `localhost`, and no host of the configuration has this name.
fn wrong_name() -> Result<(), Failed> {
    refused(
        config("127.0.0.1", WRONG, Some(tls("ca.pem"))),
        Lasts::Yes,
        &[
            "names neither its address nor a host of --store",
            "localhost",
        ],
    )
}

fn wrong_password() -> Result<(), Failed> {
    refused(
        config("localhost", WRONG, Some(tls("ca.pem"))),
        Lasts::Yes,
        &["refuses user or password"],
    )?;
    let mut anonymous = config("localhost", WRONG, Some(tls("ca.pem")));
    anonymous.credentials = None;
    refused(anonymous, Lasts::Yes, &["refuses user or password"])
}

fn no_tls() -> Result<(), Failed> {
    refused(
        config("localhost", WRONG, None),
        Lasts::No,
        &["--cassandra-tls"],
    )
}

fn no_certificate() -> Result<(), Failed> {
    let anonymous = TlsConfig {
        client: None,
        ..tls("ca.pem")
    };
    refused(
        config("localhost", WRONG, Some(anonymous)),
        Lasts::Either,
        &["--cassandra-cert-file"],
    )
}

fn tls_to_plain() -> Result<(), Failed> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    // A node without TLS answers with an error of the CQL protocol: version 22 is unknown.
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = std::io::Write::write_all(
                &mut &stream,
                &[0x84, 0, 0, 0, 0, 0, 0, 0, 6, 0, 0, 0, 10, 0, 0],
            );
        }
    });
    let mut plain = config("127.0.0.1", WRONG, Some(tls("ca.pem")));
    plain.hosts = vec![format!("127.0.0.1:{port}")];
    refused(
        plain,
        Lasts::Yes,
        &["does not speak TLS", "--cassandra-tls"],
    )
}
