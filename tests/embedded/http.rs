//! The HTTP endpoints of a running process: all metrics exist, their values match the store, and
//! requests without the password are refused.

use std::{
    io::{BufRead, Read, Write},
    net::{TcpListener, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, pki_types::CertificateDer,
};
use serde_json::Value;
use tapeflow_schemas::{
    Metric,
    metric::{Kind, Scope},
};

use crate::{
    command::{Place, end_with, golden, succeed},
    serving::{Running, serving},
};

/// The status code and the body.
fn ask(stream: &mut (impl Read + Write), path: &str, header: &str) -> (u16, String) {
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{header}\r\n"
    )
    .expect("sent");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    let (checkpoint, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("{path}: no answer but {answer:?}"));
    let code = checkpoint
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or_else(|| panic!("{path}: {checkpoint}"));
    (code, body.to_owned())
}

pub(crate) fn get(running: &Running, path: &str) -> (u16, String) {
    ask(
        &mut TcpStream::connect(running.address).expect("a connection"),
        path,
        "",
    )
}

/// Polls until `ask` returns a value.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within a minute");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The value of a sample. `name` is written as in the text, with its labels.
pub(crate) fn value(text: &str, name: &str) -> Option<f64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[test]
fn every_metric_is_exported_and_its_values_match_the_store() {
    let place = Place::new();
    let damaged = std::fs::read_to_string(golden("finnhub-recorded.jsonl")).expect("a recording")
        + "this is no JSON\n";
    let file = place.file("feed.jsonl", &damaged);
    let running = serving(&["run", "--replay", &file, "--store", &place.store]);
    let committed = |text: &str| {
        let trades = value(text, "tapeflow_feed_trades_total")?;
        let done = trades > 0.0 && value(text, "tapeflow_trades_accepted_total")? >= 81.0;
        (done && value(text, "tapeflow_epoch_bound") == value(text, "tapeflow_epoch_committed"))
            .then_some(())
    };
    until("everything is committed", || {
        committed(&get(&running, "/metrics").1)
    });
    // The job asks for the end offsets of the log once a second.
    until("lag is exported", || {
        value(
            &get(&running, "/metrics").1,
            "tapeflow_lag_records{partition=\"3\"}",
        )
    });
    assert_eq!(get(&running, "/readyz").0, 200);
    assert_eq!(get(&running, "/livez").0, 200);
    assert_eq!(get(&running, "/nothing").0, 404);
    let (text, status) = (get(&running, "/metrics").1, get(&running, "/status").1);
    let status: Value = serde_json::from_str(&status).expect("JSON");

    // A recording has no connection, and `run` no spool.
    let is_absent = |metric: &Metric| {
        *metric == Metric::FeedConnected || metric.name().starts_with("tapeflow_feed_spool_")
    };
    for metric in Metric::ALL.iter().filter(|metric| !is_absent(metric)) {
        let (name, kind) = (metric.name(), metric.kind().word());
        assert!(
            text.contains(&format!("# TYPE {name} {kind}\n")),
            "{name} is not exported:\n{text}"
        );
        let (job, feed) = (status["job"].is_object(), status["feed"].is_object());
        assert!(job && feed || metric.scope() == Scope::Process);
    }
    let exported: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
        .collect();
    assert!(
        exported
            .iter()
            .all(|name| Metric::ALL.iter().any(|metric| metric.name() == *name)),
        "a name that is not in the list: {exported:?}"
    );
    assert_eq!(
        value(&text, "tapeflow_dead_letters_total{reason=\"json\"}"),
        Some(1.0),
        "{text}"
    );
    let freshness = Metric::Freshness.name();
    assert_eq!(Metric::Freshness.kind(), Kind::Histogram);
    assert_eq!(
        value(&text, &format!("{freshness}_bucket{{le=\"+Inf\"}}")),
        value(&text, &format!("{freshness}_count"))
    );
    assert!(
        value(&text, &format!("{freshness}_count")) > Some(0.0),
        "{text}"
    );

    // `/status` agrees with the store and the log.
    let stored: Value = serde_json::from_str(&succeed(&[
        "status",
        "--format",
        "json",
        "--store",
        &place.store,
        "--log",
        &place.store,
    ]))
    .expect("JSON");
    assert_eq!(
        status["job"]["epoch_committed"],
        stored["checkpoint"]["committed"]["epoch"]
    );
    for lag in stored["lag"].as_array().expect("partitions") {
        let partition = &status["job"]["partitions"]
            [usize::try_from(lag["partition"].as_u64().expect("a number")).expect("small")];
        assert_eq!(
            (&partition["end"], &partition["lag"]),
            (&lag["end"], &lag["uncommitted"]),
            "{partition} {lag}"
        );
        let label = format!("{{partition=\"{}\"}}", lag["partition"]);
        #[expect(clippy::cast_precision_loss, reason = "a few records")]
        let end = lag["end"].as_i64().map(|end| end as f64);
        assert_eq!(
            value(&text, &format!("tapeflow_offset_committed{label}")),
            end
        );
    }
    let trades: u64 = succeed(&[
        "bars",
        "--store",
        &place.store,
        "--size",
        "1d",
        "--format",
        "csv",
        "--policy",
        "all",
    ])
    .lines()
    .skip(1)
    .map(|line| {
        line.split(',')
            .nth(9)
            .and_then(|trades| trades.parse::<u64>().ok())
            .expect("a number")
    })
    .sum();
    #[expect(clippy::cast_precision_loss, reason = "a few trades")]
    let trades = trades as f64;
    assert_eq!(value(&text, "tapeflow_trades_accepted_total"), Some(trades));
}

#[test]
fn everything_but_health_needs_the_password_and_tls_keeps_it_secret() {
    let place = Place::new();
    let key = rcgen::KeyPair::generate().expect("a key");
    let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])
        .expect("a name")
        .self_signed(&key)
        .expect("signed");
    let (cert_file, key_file) = (
        place.file("cert.pem", &certificate.pem()),
        place.file("key.pem", &key.serialize_pem()),
    );
    let password = place.file("password", "open sesame\n");
    let mut running = serving(&[
        "run",
        "--store",
        &place.store,
        "--http-tls-cert",
        &cert_file,
        "--http-tls-key",
        &key_file,
        "--http-password-file",
        &password,
    ]);
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from(certificate.der().to_vec()))
        .expect("an authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions");
    let config = Arc::new(config.with_root_certificates(roots).with_no_client_auth());
    let address = running.address;
    let ask = |path: &str, header: &str| {
        let connection =
            ClientConnection::new(Arc::clone(&config), "localhost".try_into().expect("a name"))
                .expect("a client");
        ask(
            &mut StreamOwned::new(
                connection,
                TcpStream::connect(address).expect("a connection"),
            ),
            path,
            header,
        )
    };
    assert_eq!(ask("/livez", "").0, 200);
    for path in ["/metrics", "/status", "/"] {
        assert_eq!(ask(path, "").0, 401, "{path}");
        // A second apart, because each is wrong: tapeflow:wrong.
        assert_eq!(
            ask(path, "authorization: Basic dGFwZWZsb3c6d3Jvbmc=\r\n").0,
            401,
            "{path}"
        );
    }
    // tapeflow:open sesame
    let (code, text) = ask(
        "/metrics",
        "authorization: Basic dGFwZWZsb3c6b3BlbiBzZXNhbWU=\r\n",
    );
    assert_eq!(code, 200);
    assert!(text.contains("tapeflow_build_info"), "{text}");
    assert!(!text.contains("sesame"));
    assert_eq!(
        value(&text, "tapeflow_http_wrong_passwords_total"),
        Some(3.0),
        "a request without a password is none"
    );
    let mut said = String::new();
    while !said.contains("wrong HTTP password") {
        said.clear();
        assert!(
            running.said.read_line(&mut said).expect("a line") > 0,
            "wrong passwords are logged"
        );
    }
    assert!(said.contains("127.0.0.1"), "{said}");
    // A request without TLS gets no answer.
    let mut plain = TcpStream::connect(running.address).expect("a connection");
    write!(plain, "GET /livez HTTP/1.1\r\n\r\n").expect("sent");
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer);
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[test]
fn a_client_that_reads_no_answers_is_disconnected() {
    let place = Place::new();
    let running = serving(&["run", "--store", &place.store]);
    let mut client = TcpStream::connect(running.address).expect("a connection");
    // More answers than the socket buffers hold.
    let asked = "GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(4_000);
    client.write_all(asked.as_bytes()).expect("sent");
    until("it is closed", || client.write_all(b"\r\n").err());
    assert_eq!(get(&running, "/livez").0, 200);
}

#[test]
fn an_http_address_in_use_is_an_error() {
    let place = Place::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let said = end_with(
        2,
        &[
            "run",
            "--store",
            &place.store,
            "--http",
            &address,
            "--duration",
            "1s",
        ],
    );
    assert!(said.contains("--http: cannot listen at"), "{said}");
    let file = place.file("key.pem", "this is no key");
    let said = end_with(
        2,
        &[
            "run",
            "--store",
            &place.store,
            "--http",
            "here",
            "--http-tls-key",
            &file,
            "--http-password-file",
            "/nowhere",
        ],
    );
    for part in [
        "--http: \"here\" is not an address",
        "--http-tls-key: its certificate is missing",
        "--http-password-file: cannot read",
    ] {
        assert!(said.contains(part), "{part:?} in {said}");
    }
}

#[test]
fn loopback_without_a_password_answers_to_names_of_this_machine_alone() {
    let place = Place::new();
    let running = serving(&["run", "--store", &place.store]);
    let answer = |host: &str, path: &str| {
        let mut stream = TcpStream::connect(running.address).expect("a connection");
        write!(
            stream,
            "GET {path} HTTP/1.1\r\n{host}connection: close\r\n\r\n"
        )
        .expect("sent");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    };
    for path in ["/", "/status", "/events", "/livez"] {
        let said = answer("host: rebound.example.com:8080\r\n", path);
        assert!(said.starts_with("HTTP/1.1 421 "), "{path}: {said}");
        assert!(said.contains("--http-password-file"), "{path}: {said}");
    }
    for host in ["host: localhost:8080\r\n", "host: [::1]\r\n"] {
        let said = answer(host, "/livez");
        assert!(said.starts_with("HTTP/1.1 200 "), "{host}: {said}");
    }

    let password = place.file("password", "open sesame\n");
    let other = format!("sqlite:{}", place.path("other.db").display());
    let protected = serving(&["run", "--store", &other, "--http-password-file", &password]);
    let mut stream = TcpStream::connect(protected.address).expect("a connection");
    let (code, _) = ask(&mut stream, "/livez", "host: tapeflow.example.com\r\n");
    assert_eq!(code, 200, "behind a password any name is answered");
}

#[test]
fn idle_connections_do_not_shut_out_probes() {
    let place = Place::new();
    let running = serving(&["run", "--store", &place.store]);
    // More than the listener bears of one peer, each kept open after an answer.
    let mut idle = Vec::new();
    until("all places are taken", || {
        for _ in 0..200 {
            let mut stream = TcpStream::connect(running.address).expect("a connection");
            write!(stream, "GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("sent");
            let mut head = [0; 12];
            stream.read_exact(&mut head).expect("an answer");
            assert_eq!(&head, b"HTTP/1.1 200");
            idle.push(stream);
        }
        (get(&running, "/metrics").0 == 503).then_some(())
    });
    assert_eq!(get(&running, "/livez").0, 200);
    let ready = get(&running, "/readyz").1;
    assert!(!ready.contains("taken"), "{ready}");
    drop(idle);
    until("the places are given back", || {
        (get(&running, "/metrics").0 == 200).then_some(())
    });
}

#[test]
fn no_process_dumps_its_memory() {
    let place = Place::new();
    let running = serving(&["run", "--store", &place.store]);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", running.child.id()));
    let limits = limits.expect("there is /proc");
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"));
    let core = core
        .expect("a limit")
        .split_whitespace()
        .collect::<Vec<_>>();
    assert_eq!(core[4..6], ["0", "0"]);
}
