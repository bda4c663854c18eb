//! Which cluster, which keyspace, as whom: read from a `cassandra://` address in a pure function
//! that reports every error at once.

use std::{fmt, time::Duration};

use tapeflow_schemas::Secret;

use super::tls::TlsConfig;

/// The port of a host that names none.
pub const DEFAULT_PORT: u16 = 9_042;
/// The longest keyspace name Cassandra takes.
const MAX_KEYSPACE_BYTES: usize = 48;

/// What a [`super::CassandraStore`] needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CassandraConfig {
    /// `host:port` of some nodes; the driver finds the others.
    pub hosts: Vec<String>,
    /// The keyspace: one job's own.
    pub keyspace: String,
    /// The job's name, under which history is written.
    pub job: String,
    /// User and password, where the cluster asks for them.
    pub credentials: Option<Credentials>,
    /// How to talk TLS; without it nothing is encrypted.
    pub tls: Option<TlsConfig>,
    /// The datacenter whose quorum counts; needed only if the cluster has several.
    pub datacenter: Option<String>,
    /// How many writes may be on their way at once.
    pub writes_in_flight: usize,
    /// How many reads may be on their way at once.
    pub reads_in_flight: usize,
    /// How long a read or a write may take before its outcome counts as unknown.
    pub request_timeout: Duration,
    /// The same for a compare-and-set.
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

/// One thing that is wrong with an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It does not begin with `cassandra://`.
    #[error("it does not begin with cassandra://")]
    Scheme,
    /// It holds a user or a password, which everyone who lists processes would read. It is not
    /// repeated here for the same reason.
    #[error("it holds a user or password, which belong in options of their own")]
    Credentials,
    /// No host, or an empty place in the list.
    #[error("a host is missing")]
    NoHost,
    /// A host with a character that no name or address has.
    #[error("{0:?} is not a host name or address")]
    Host(String),
    /// A port that is none.
    #[error("{port:?} of host {host:?} is not a port")]
    Port {
        /// The host.
        host: String,
        /// What stands for a port.
        port: String,
    },
    /// No keyspace.
    #[error("the keyspace is missing")]
    NoKeyspace,
    /// A name Cassandra would not take, or would only take in quotes.
    #[error(
        "{0:?} is not a keyspace: give a lower-case letter, then lower-case letters, digits and _, at most {MAX_KEYSPACE_BYTES} in all"
    )]
    Keyspace(String),
}

/// Everything that is wrong with an address.
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
    /// Reads `cassandra://HOST[:PORT][,HOST...]/KEYSPACE`; the rest is as a job that says nothing
    /// wants it.
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
            writes_in_flight: 64,
            reads_in_flight: 64,
            request_timeout: Duration::from_secs(5),
            cas_timeout: Duration::from_secs(5),
        })
    }

    /// The address, for messages: it never holds a password.
    #[must_use]
    pub fn address(&self) -> String {
        format!("cassandra://{}/{}", self.hosts.join(","), self.keyspace)
    }
}

fn parse_host(text: &str) -> Result<String, AddressError> {
    // An IPv6 address stands in brackets, for it has colons of its own.
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

/// Names that need no quotes, so that no statement needs any.
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
