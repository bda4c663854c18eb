//! The settings of a Cassandra store, and the parser of `cassandra://` addresses. The parser is a
//! pure function that reports all errors at once.

use std::{fmt, time::Duration};

use tapeflow_schemas::Secret;

use super::tls::TlsConfig;

/// The port of a host without one.
pub const DEFAULT_PORT: u16 = 9_042;
/// The length of the longest keyspace name that Cassandra accepts.
const MAX_KEYSPACE_BYTES: usize = 48;

/// The settings of a [`super::CassandraStore`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CassandraConfig {
    /// `host:port` of some nodes. The driver discovers the others.
    pub hosts: Vec<String>,
    /// The keyspace. It belongs to one job.
    pub keyspace: String,
    /// The job's name, a part of the key of `history`.
    pub job: String,
    /// User and password, for a cluster that demands them.
    pub credentials: Option<Credentials>,
    /// The settings of TLS. Without them connections are not encrypted.
    pub tls: Option<TlsConfig>,
    /// The datacenter that `LOCAL_QUORUM` refers to. Only a cluster with several needs it.
    pub datacenter: Option<String>,
    /// How long the history of epochs is kept, at most 20 years; `None`: for ever.
    pub keep_history: Option<Duration>,
    /// The limit of concurrent writes.
    pub writes_in_flight: usize,
    /// The limit of concurrent reads.
    pub reads_in_flight: usize,
    /// The timeout of a read or a write. After it the outcome is unknown.
    pub request_timeout: Duration,
    /// The timeout of a compare-and-set. After it the outcome is unknown.
    pub cas_timeout: Duration,
}

/// A user and the password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The user.
    pub user: String,
    /// The password.
    pub password: Secret,
}

/// An error in an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It does not begin with `cassandra://`.
    #[error("it does not begin with cassandra://")]
    Scheme,
    /// It contains a user or a password. Command lines are visible in process lists, and the error
    /// does not repeat the text.
    #[error("it holds a user or password, which belong in options of their own")]
    Credentials,
    /// No host, or an empty entry in the list.
    #[error("a host is missing")]
    NoHost,
    /// A host with a character that is not allowed in a name or address.
    #[error("{0:?} is not a host name or address")]
    Host(String),
    /// A port that is not a number from 1 to 65535.
    #[error("{port:?} of host {host:?} is not a port")]
    Port {
        /// The host.
        host: String,
        /// The text in the port's place.
        port: String,
    },
    /// No keyspace.
    #[error("the keyspace is missing")]
    NoKeyspace,
    /// A name that Cassandra does not accept, or accepts only in quotes.
    #[error(
        "{0:?} is not a keyspace: give a lower-case letter, then lower-case letters, \
         digits and _, at most {MAX_KEYSPACE_BYTES} in all"
    )]
    Keyspace(String),
}

/// All errors in an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressErrors(pub Vec<AddressError>);

impl fmt::Display for AddressErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not an address such as cassandra://HOST[:PORT][,HOST...]/KEYSPACE: ")?;
        for (n, error) in self.0.iter().enumerate() {
            write!(f, "{}{error}", if n == 0 { "" } else { "; " })?;
        }
        Ok(())
    }
}

impl std::error::Error for AddressErrors {}

impl CassandraConfig {
    /// Parses `cassandra://HOST[:PORT][,HOST...]/KEYSPACE`. All other settings get their defaults.
    ///
    /// # Errors
    /// All errors of the address.
    pub fn parse(address: &str, job: &str) -> Result<Self, AddressErrors> {
        let Some(rest) = address.strip_prefix("cassandra://") else {
            return Err(AddressErrors(vec![AddressError::Scheme]));
        };
        if rest.contains('@') {
            return Err(AddressErrors(vec![AddressError::Credentials]));
        }
        let (hosts, keyspace) = rest.split_once('/').unwrap_or((rest, ""));
        let mut errors = Vec::new();
        let hosts = hosts
            .split(',')
            .filter_map(|host| parse_host(host).map_err(|error| errors.push(error)).ok())
            .collect();
        if keyspace.is_empty() {
            errors.push(AddressError::NoKeyspace);
        } else if !is_keyspace(keyspace) {
            errors.push(AddressError::Keyspace(keyspace.into()));
        }
        if !errors.is_empty() {
            return Err(AddressErrors(errors));
        }
        Ok(Self {
            hosts,
            keyspace: keyspace.into(),
            job: job.into(),
            credentials: None,
            tls: None,
            datacenter: None,
            keep_history: None,
            writes_in_flight: 64,
            reads_in_flight: 64,
            request_timeout: Duration::from_secs(5),
            cas_timeout: Duration::from_secs(5),
        })
    }

    /// The address, for messages. It contains no password.
    #[must_use]
    pub fn address(&self) -> String {
        format!("cassandra://{}/{}", self.hosts.join(","), self.keyspace)
    }
}

fn parse_host(text: &str) -> Result<String, AddressError> {
    // An IPv6 address is in brackets, because it contains colons.
    let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(Some((host, ""))) => (host, None),
        Some(Some((host, port))) if port.starts_with(':') => (host, Some(&port[1..])),
        Some(_) => return Err(AddressError::Host(text.into())),
        None => text
            .split_once(':')
            .map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let bracketed = text.starts_with('[');
    if host.is_empty() {
        return Err(AddressError::NoHost);
    }
    let is_host = if bracketed {
        host.parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        host.bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
    };
    if !is_host {
        return Err(AddressError::Host(host.into()));
    }
    let port = match port {
        None => DEFAULT_PORT,
        Some(text) => parse_port(text).ok_or_else(|| AddressError::Port {
            host: host.into(),
            port: text.into(),
        })?,
    };
    Ok(if bracketed {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    })
}

fn parse_port(text: &str) -> Option<u16> {
    text.bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| text.parse().ok())
        .flatten()
        .filter(|port| *port > 0)
}

/// Whether a keyspace name is valid without quotes. Statements do not quote it.
fn is_keyspace(text: &str) -> bool {
    text.len() <= MAX_KEYSPACE_BYTES
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(address: &str) -> Vec<String> {
        CassandraConfig::parse(address, "tapeflow")
            .expect(address)
            .hosts
    }

    fn errors(address: &str) -> Vec<AddressError> {
        CassandraConfig::parse(address, "tapeflow")
            .expect_err(address)
            .0
    }

    #[test]
    fn an_address_names_hosts_and_a_keyspace() {
        let config = CassandraConfig::parse(
            "cassandra://db-1.example,127.0.0.1:19042,[::1]:9043,[::2]/tape_flow2",
            "tapeflow",
        )
        .expect("an address");
        assert_eq!(
            config.hosts,
            [
                "db-1.example:9042",
                "127.0.0.1:19042",
                "[::1]:9043",
                "[::2]:9042"
            ]
        );
        assert_eq!(config.keyspace, "tape_flow2");
        assert_eq!(
            config.address(),
            "cassandra://db-1.example:9042,127.0.0.1:19042,[::1]:9043,[::2]:9042/tape_flow2"
        );
        assert_eq!(hosts("cassandra://a/k"), ["a:9042"]);
    }

    #[test]
    fn every_error_of_an_address_is_reported() {
        let port = |host: &str, port: &str| AddressError::Port {
            host: host.into(),
            port: port.into(),
        };
        assert_eq!(errors("sqlite:x"), [AddressError::Scheme]);
        assert_eq!(
            errors("cassandra://"),
            [AddressError::NoHost, AddressError::NoKeyspace]
        );
        assert_eq!(
            errors("cassandra://a,,b:x,c:0,d:99999,e f/K-1"),
            [
                AddressError::NoHost,
                port("b", "x"),
                port("c", "0"),
                port("d", "99999"),
                AddressError::Host("e f".into()),
                AddressError::Keyspace("K-1".into()),
            ]
        );
        assert_eq!(
            errors("cassandra://[::1/k"),
            [AddressError::Host("[::1".into())]
        );
        assert_eq!(
            errors("cassandra://[a]/k"),
            [AddressError::Host("a".into())]
        );
        assert_eq!(
            errors("cassandra://a/k/more"),
            [AddressError::Keyspace("k/more".into())]
        );
        assert_eq!(
            errors(&format!("cassandra://a/{}", "k".repeat(49))).len(),
            1
        );
        let text = AddressErrors(errors("cassandra://a:0")).to_string();
        assert!(
            text.ends_with("\"0\" of host \"a\" is not a port; the keyspace is missing"),
            "{text}"
        );
    }

    #[test]
    fn a_password_is_neither_taken_from_an_address_nor_printed() {
        let error = CassandraConfig::parse("cassandra://user:hunter2@a/k", "tapeflow")
            .expect_err("credentials");
        assert_eq!(error.0, [AddressError::Credentials]);
        assert!(!format!("{error} {error:?}").contains("hunter2"));
        let credentials = Credentials {
            user: "user".into(),
            password: Secret::new("hunter2"),
        };
        assert!(!format!("{credentials:?}").contains("hunter2"));
    }
}
