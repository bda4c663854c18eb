//! `--store`: where bars are, and how to get in. The address never holds a secret, for addresses
//! are shown.

use std::{ffi::OsString, path::PathBuf};

use clap::Args;
use tapeflow_schemas::Secret;
use tapeflow_sinks::cassandra::{ClientCertificate, TlsConfig};

use super::{errors::Errors, values::abbreviated};
use crate::secret;

/// The store of `tapeflow run`, and what commands that only read look at if they are not told
/// otherwise.
pub(crate) const DEFAULT_STORE: &str = "sqlite:tapeflow-data/tapeflow.db";
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

/// How to get in.
#[derive(Debug, Default)]
pub(crate) struct Login {
    /// The user, if the cluster asks for one.
    pub(crate) user: Option<String>,
    /// The password.
    pub(crate) password: Option<Secret>,
    /// TLS, if the cluster is to be spoken to that way.
    pub(crate) tls: Option<TlsConfig>,
}

/// The credentials' flags, for commands that may talk to Cassandra.
#[derive(Args, Debug)]
#[command(next_help_heading = "Cassandra")]
pub(crate) struct LoginArgs {
    /// User of the Cassandra cluster, if it asks for one
    #[arg(long, env = "TAPEFLOW_CASSANDRA_USER", value_name = "NAME")]
    cassandra_user: Option<String>,
    /// File with that user's password [or the password itself in the variable
    /// TAPEFLOW_CASSANDRA_PASSWORD]
    #[arg(long, env = "TAPEFLOW_CASSANDRA_PASSWORD_FILE", value_name = "FILE")]
    cassandra_password_file: Option<PathBuf>,
    /// Talk TLS to the nodes
    #[arg(long, env = "TAPEFLOW_CASSANDRA_TLS")]
    cassandra_tls: bool,
    /// File with the authorities that vouch for the nodes, PEM [default: those of the web]
    #[arg(long, env = "TAPEFLOW_CASSANDRA_CA_FILE", value_name = "FILE")]
    cassandra_ca_file: Option<PathBuf>,
    /// File with our certificate, PEM, where nodes ask for one
    #[arg(long, env = "TAPEFLOW_CASSANDRA_CERT_FILE", value_name = "FILE")]
    cassandra_cert_file: Option<PathBuf>,
    /// File with its key, PEM, not encrypted
    #[arg(long, env = "TAPEFLOW_CASSANDRA_KEY_FILE", value_name = "FILE")]
    cassandra_key_file: Option<PathBuf>,
}

impl LoginArgs {
    /// The same flags for another process of this program. A password from the environment is not
    /// among them.
    pub(crate) fn flags(&self) -> Vec<OsString> {
        let user = self
            .cassandra_user
            .as_ref()
            .map(|user| ("--cassandra-user", OsString::from(user)));
        let files = [
            ("--cassandra-password-file", &self.cassandra_password_file),
            ("--cassandra-ca-file", &self.cassandra_ca_file),
            ("--cassandra-cert-file", &self.cassandra_cert_file),
            ("--cassandra-key-file", &self.cassandra_key_file),
        ];
        let files = files
            .into_iter()
            .filter_map(|(flag, file)| Some((flag, file.clone()?.into_os_string())));
        let mut flags: Vec<OsString> = user
            .into_iter()
            .chain(files)
            .flat_map(|(flag, value)| [OsString::from(flag), value])
            .collect();
        flags.extend(self.cassandra_tls.then(|| "--cassandra-tls".into()));
        flags
    }

    /// Reads the password.
    pub(crate) fn check(self, errors: &mut Errors) -> Login {
        let password = secret::from(
            "--cassandra-password-file",
            self.cassandra_password_file.as_deref(),
            &["TAPEFLOW_CASSANDRA_PASSWORD"],
            errors,
        );
        if password.is_some() && self.cassandra_user.is_none() {
            errors.add("--cassandra-user: missing, though there is a password");
        }
        if password.is_none() && self.cassandra_user.is_some() {
            errors.add("--cassandra-password-file: missing, though there is --cassandra-user");
        }
        if self.cassandra_cert_file.is_some() != self.cassandra_key_file.is_some() {
            errors.add("--cassandra-cert-file and --cassandra-key-file: give both or neither");
        }
        if !self.cassandra_tls
            && (self.cassandra_ca_file.is_some() || self.cassandra_cert_file.is_some())
        {
            errors.add("--cassandra-tls: missing, though there are files for it");
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
        }
    }
}

/// A store, and how to get in.
#[derive(Debug)]
pub(crate) struct StoreChoice {
    pub(crate) address: StoreAddress,
    pub(crate) login: Login,
}

/// Reads `--store` and the credentials.
pub(crate) fn store_choice(
    text: &str,
    login: LoginArgs,
    errors: &mut Errors,
) -> Option<StoreChoice> {
    let login = login.check(errors);
    let address = errors.read("--store", text, store_address)?;
    Some(StoreChoice { address, login })
}

/// Reads `sqlite:PATH` or `cassandra://HOST[:PORT][,HOST...]/KEYSPACE`.
pub(crate) fn store_address(text: &str) -> Result<StoreAddress, String> {
    if let Some(path) = text.strip_prefix("sqlite:") {
        return sqlite_path(path).map(StoreAddress::Sqlite);
    }
    let Some(rest) = text.strip_prefix("cassandra://") else {
        // What was given may hold a secret in a place of its own invention: it is not shown back.
        return Err(
            "not a store: give sqlite:PATH or cassandra://HOST[:PORT][,HOST...]/KEYSPACE".into(),
        );
    };
    if rest.contains('@') {
        return Err(
            "credentials do not belong in an address, which everyone on the machine can see: use --cassandra-user and --cassandra-password-file"
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
            "{:?} is not a keyspace: at most 48 lower-case letters, digits and underscores, a letter first",
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
