//! `--store`: where bars are, and how to log in. An address is logged, so it never holds a secret.

use std::{
    ffi::OsString,
    fmt,
    path::{Path, PathBuf},
};

use clap::Args;
use tapeflow_schemas::Secret;
use tapeflow_sinks::cassandra::{ClientCertificate, TlsConfig};

use super::{errors::Errors, values::abbreviated};
use crate::secret;

/// The file of `tapeflow run`, and of every command that reads a store that is not named.
const DEFAULT_STORE: &str = "tapeflow-data/tapeflow.db";
/// Cassandra's own port.
const CASSANDRA_PORT: u16 = 9042;

/// Where bars are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StoreAddress {
    /// An SQLite file.
    Sqlite(PathBuf),
    /// A keyspace of a Cassandra cluster.
    Cassandra {
        /// `HOST:PORT` of nodes to begin with.
        nodes: Vec<String>,
        /// The keyspace.
        keyspace: String,
    },
}

/// How to log in to a Cassandra cluster.
#[derive(Debug, Default)]
pub(crate) struct Login {
    /// The user, if the cluster requires one.
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    /// None: no TLS.
    pub(crate) tls: Option<TlsConfig>,
    /// None: the only one.
    pub(crate) datacenter: Option<String>,
}

/// The flags of commands that may connect to Cassandra.
#[derive(Args, Debug)]
#[command(next_help_heading = "Cassandra")]
pub(crate) struct LoginArgs {
    /// User of the Cassandra cluster, if it requires one
    #[arg(long, env = "TAPEFLOW_CASSANDRA_USER", value_name = "NAME")]
    cassandra_user: Option<String>,
    /// File with that user's password [or the password itself in the variable
    /// TAPEFLOW_CASSANDRA_PASSWORD]
    #[arg(long, env = "TAPEFLOW_CASSANDRA_PASSWORD_FILE", value_name = "FILE")]
    cassandra_password_file: Option<PathBuf>,
    /// Connect to the nodes over TLS
    #[arg(long, env = "TAPEFLOW_CASSANDRA_TLS")]
    cassandra_tls: bool,
    /// File of the certificate authorities of the nodes, PEM [default: the public ones]
    #[arg(long, env = "TAPEFLOW_CASSANDRA_CA_FILE", value_name = "FILE")]
    cassandra_ca_file: Option<PathBuf>,
    /// File of the client certificate, PEM, if the nodes require one
    #[arg(long, env = "TAPEFLOW_CASSANDRA_CERT_FILE", value_name = "FILE")]
    cassandra_cert_file: Option<PathBuf>,
    /// File of the client certificate's key, PEM, not encrypted
    #[arg(long, env = "TAPEFLOW_CASSANDRA_KEY_FILE", value_name = "FILE")]
    cassandra_key_file: Option<PathBuf>,
    /// Datacenter to read from and write to, if the cluster has several. A keyspace keeps the one
    /// it began with, because another one may lack what this one acknowledged
    #[arg(long, env = "TAPEFLOW_CASSANDRA_DATACENTER", value_name = "NAME")]
    cassandra_datacenter: Option<String>,
}

impl LoginArgs {
    /// The same flags for a child process. A password from the environment is not among them.
    pub(crate) fn flags(&self) -> Vec<OsString> {
        let texts = [
            ("--cassandra-user", &self.cassandra_user),
            ("--cassandra-datacenter", &self.cassandra_datacenter),
        ];
        let texts = texts
            .into_iter()
            .filter_map(|(flag, text)| Some((flag, OsString::from(text.as_ref()?))));
        let files = [
            ("--cassandra-password-file", &self.cassandra_password_file),
            ("--cassandra-ca-file", &self.cassandra_ca_file),
            ("--cassandra-cert-file", &self.cassandra_cert_file),
            ("--cassandra-key-file", &self.cassandra_key_file),
        ];
        let files = files
            .into_iter()
            .filter_map(|(flag, file)| Some((flag, file.clone()?.into_os_string())));
        let mut flags: Vec<OsString> = texts
            .chain(files)
            .flat_map(|(flag, value)| [OsString::from(flag), value])
            .collect();
        flags.extend(self.cassandra_tls.then(|| "--cassandra-tls".into()));
        flags
    }

    /// Reads the password.
    pub(crate) fn check(self, errors: &mut Errors) -> Login {
        let password = match &self.cassandra_password_file {
            Some(file) => errors.keep("--cassandra-password-file", secret::read(file)),
            None => secret::in_variable("TAPEFLOW_CASSANDRA_PASSWORD"),
        };
        if password.is_some() && self.cassandra_user.is_none() {
            errors.add("--cassandra-user: missing, but a password is given");
        }
        if password.is_none() && self.cassandra_user.is_some() {
            errors.add("--cassandra-password-file: missing, but --cassandra-user is given");
        }
        if self.cassandra_cert_file.is_some() != self.cassandra_key_file.is_some() {
            errors.add("--cassandra-cert-file and --cassandra-key-file: give both or neither");
        }
        if !self.cassandra_tls
            && (self.cassandra_ca_file.is_some() || self.cassandra_cert_file.is_some())
        {
            errors.add("--cassandra-tls: missing, but certificate files are given");
        }
        let client = self.cassandra_cert_file.zip(self.cassandra_key_file);
        let client = client.map(|(certificate_file, key_file)| ClientCertificate {
            certificate_file,
            key_file,
        });
        let tls = self.cassandra_tls.then_some(TlsConfig {
            ca_file: self.cassandra_ca_file,
            client,
        });
        Login {
            user: self.cassandra_user,
            password,
            tls,
            datacenter: self.cassandra_datacenter,
        }
    }
}

/// Where bars are. Every command takes this definition.
#[derive(Args, Debug)]
pub(crate) struct StoreArgs {
    /// Where bars are: sqlite:PATH, or cassandra://HOST:PORT,HOST:PORT/KEYSPACE, ports optional
    /// [default: the file of --log where that is given, or sqlite:tapeflow-data/tapeflow.db]
    #[arg(long, env = "TAPEFLOW_STORE", value_name = "URL", value_parser = store_address)]
    store: Option<StoreAddress>,
    #[command(flatten)]
    login: LoginArgs,
}

/// A store, and how to log in.
#[derive(Debug)]
pub(crate) struct StoreChoice {
    pub(crate) address: StoreAddress,
    pub(crate) login: Login,
}

impl StoreArgs {
    /// The store to read: `--store`, or else the file of an embedded log, or else the default file.
    pub(crate) fn for_reading(self, log: Option<&Path>, errors: &mut Errors) -> StoreChoice {
        let address = self.store.unwrap_or_else(|| {
            StoreAddress::Sqlite(log.unwrap_or(Path::new(DEFAULT_STORE)).to_owned())
        });
        StoreChoice {
            address,
            login: self.login.check(errors),
        }
    }

    /// The store of a job or of `init`, which must be named.
    pub(crate) fn for_writing(
        self,
        log: Option<&Path>,
        errors: &mut Errors,
    ) -> Option<StoreChoice> {
        if self.store.is_none() && log.is_none() {
            errors.add("--store: missing; give cassandra://HOST/KEYSPACE or sqlite:PATH");
            return None;
        }
        Some(self.for_reading(log, errors))
    }
}

/// The file of an embedded log and its bars, for `run`.
#[derive(Args, Debug)]
pub(crate) struct FileArgs {
    /// Where log and bars are: sqlite:PATH
    #[arg(
        long,
        env = "TAPEFLOW_STORE",
        default_value_t = StoreAddress::Sqlite(DEFAULT_STORE.into()),
        value_name = "URL",
        value_parser = store_address
    )]
    store: StoreAddress,
}

impl FileArgs {
    pub(crate) fn check(self, errors: &mut Errors) -> Option<PathBuf> {
        match self.store {
            StoreAddress::Sqlite(path) => Some(path),
            StoreAddress::Cassandra { .. } => {
                errors.add(
                    "--store: run keeps log and bars in one sqlite:PATH; for cassandra:// use \
                     tapeflow ingest and tapeflow dataflow",
                );
                None
            }
        }
    }
}

impl fmt::Display for StoreAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Cassandra { nodes, keyspace } => {
                write!(f, "cassandra://{}/{keyspace}", nodes.join(","))
            }
        }
    }
}

/// Reads `sqlite:PATH` or `cassandra://HOST[:PORT][,HOST...]/KEYSPACE`.
pub(crate) fn store_address(text: &str) -> Result<StoreAddress, String> {
    if let Some(path) = text.strip_prefix("sqlite:") {
        return sqlite_path(path).map(StoreAddress::Sqlite);
    }
    let Some(rest) = text.strip_prefix("cassandra://") else {
        // The text may hold a password, so the error does not quote it.
        return Err(
            "not a store: give sqlite:PATH or cassandra://HOST[:PORT][,HOST...]/KEYSPACE".into(),
        );
    };
    if rest.contains('@') {
        return Err(
            "an address must not hold credentials, every user of the machine can read it: use \
             --cassandra-user and --cassandra-password-file"
                .into(),
        );
    }
    let (hosts, keyspace) = rest
        .split_once('/')
        .ok_or("the keyspace is missing: cassandra://HOST/KEYSPACE")?;
    let nodes = hosts
        .split(',')
        .map(|host| node(host.trim()))
        .collect::<Result<_, _>>()?;
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !keyspace.starts_with(|c: char| c.is_ascii_lowercase())
        || keyspace.len() > 48
        || !keyspace.chars().all(legal)
    {
        return Err(format!(
            "{:?} is not a keyspace: give at most 48 lower-case letters, digits and underscores, \
             a letter first",
            abbreviated(keyspace)
        ));
    }
    Ok(StoreAddress::Cassandra {
        nodes,
        keyspace: keyspace.to_owned(),
    })
}

/// Reads `sqlite:PATH`.
pub(crate) fn sqlite_address(text: &str) -> Result<PathBuf, String> {
    text.strip_prefix("sqlite:")
        .ok_or_else(|| format!("{:?} is not sqlite:PATH", abbreviated(text)))
        .and_then(sqlite_path)
}

fn sqlite_path(path: &str) -> Result<PathBuf, String> {
    if path.is_empty() {
        Err("the path is missing: sqlite:PATH, such as sqlite:tapeflow-data/tapeflow.db".into())
    } else {
        Ok(PathBuf::from(path))
    }
}

fn node(host: &str) -> Result<String, String> {
    let with_port = match host.strip_prefix('[') {
        Some(rest) => !rest.ends_with(']'),
        None => host.contains(':'),
    };
    super::values::address(&if with_port {
        host.to_owned()
    } else {
        format!("{host}:{CASSANDRA_PORT}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_a_file_or_a_keyspace() {
        assert_eq!(
            store_address("sqlite:a/b.db"),
            Ok(StoreAddress::Sqlite("a/b.db".into()))
        );
        let cassandra = |nodes: &[&str]| {
            Ok(StoreAddress::Cassandra {
                nodes: nodes.iter().map(ToString::to_string).collect(),
                keyspace: "market".into(),
            })
        };
        assert_eq!(
            store_address("cassandra://127.0.0.1/market"),
            cassandra(&["127.0.0.1:9042"])
        );
        assert_eq!(
            store_address("cassandra://a:1,b,[::1]/market"),
            cassandra(&["a:1", "b:9042", "[::1]:9042"])
        );
        for text in [
            "",
            "sqlite:",
            "cassandra://",
            "cassandra://a",
            "cassandra:///k",
            "cassandra://a/",
            "cassandra://a/K",
            "cassandra://a/k-1",
            "cassandra://a:x/k",
            "b.db",
        ] {
            assert!(store_address(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_password_in_an_address_is_refused_and_not_repeated() {
        for text in [
            "cassandra://cassandra:hunter2@host/market",
            "postgres://u:hunter2@host/market",
        ] {
            let error = store_address(text).expect_err("refused");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }
}
