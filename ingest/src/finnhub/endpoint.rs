//! The address of the server. Connections to another machine need TLS.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use tokio_tungstenite::tungstenite::http::Uri;

/// Finnhub's own address.
pub const FINNHUB_URL: &str = "wss://ws.finnhub.io";

/// The address of a server that speaks Finnhub's protocol. It never contains a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) path: String,
}

/// Why a text is not a usable address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// Not a URL with a host.
    #[error("not a WebSocket address: give one such as {FINNHUB_URL}")]
    NotAnAddress,
    /// Neither `wss` nor `ws`.
    #[error("the address must begin with wss:// (or ws:// on this machine)")]
    Scheme,
    /// `ws` to another machine: the token would cross the network unencrypted.
    #[error("ws:// is for this machine only: it sends the token unencrypted, use wss://")]
    PlainText,
    /// A query or a user: the token belongs in a file.
    #[error("the address must not have a query or a user: give the token in a file")]
    Query,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let uri: Uri = text.parse().map_err(|_| EndpointError::NotAnAddress)?;
        let authority = uri.authority().ok_or(EndpointError::NotAnAddress)?;
        let tls = match uri.scheme_str() {
            Some("wss") => true,
            Some("ws") => false,
            _ => return Err(EndpointError::Scheme),
        };
        if uri.query().is_some() || authority.as_str().contains('@') {
            return Err(EndpointError::Query);
        }
        let (host, port) = host_and_port(authority.as_str()).ok_or(EndpointError::NotAnAddress)?;
        if !tls && !is_loopback(host) {
            return Err(EndpointError::PlainText);
        }
        Ok(Self {
            tls,
            host: host.to_owned(),
            port: port.unwrap_or(if tls { 443 } else { 80 }),
            path: uri.path().to_owned(),
        })
    }
}

/// The host of `host`, `host:port` or `[IPv6]:port`, without brackets, and the port if there is one.
/// The parser of URLs accepts more, such as brackets inside a name and ports above 65535.
fn host_and_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let (host, rest) = match authority.strip_prefix('[') {
        Some(bracketed) => {
            let (host, rest) = bracketed.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (host, rest)
        }
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    if host.is_empty() || host.contains(['[', ']']) {
        return None;
    }
    if rest.is_empty() {
        return Some((host, None));
    }
    let digits = rest.strip_prefix(':')?;
    let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some((host, Some(digits.parse().ok()?)))
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "wss" } else { "ws" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl Endpoint {
    /// Host and port as in a `Host` header.
    pub(crate) fn authority(&self) -> String {
        let host = if self.host.contains(':') {
            format!("[{}]", self.host)
        } else {
            self.host.clone()
        };
        if self.port == if self.tls { 443 } else { 80 } {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_printed_without_secrets() {
        for (text, want) in [
            ("wss://ws.finnhub.io", "wss://ws.finnhub.io/"),
            ("ws://127.0.0.1:9001", "ws://127.0.0.1:9001/"),
            ("ws://[::1]:9001/x", "ws://[::1]:9001/x"),
            ("ws://localhost", "ws://localhost/"),
        ] {
            assert_eq!(
                text.parse::<Endpoint>()
                    .map(|endpoint| endpoint.to_string()),
                Ok(want.to_owned())
            );
        }
    }

    #[test]
    fn addresses_that_would_expose_the_token_are_refused() {
        let error = |text: &str| text.parse::<Endpoint>().expect_err(text);
        assert_eq!(error("ws://ws.finnhub.io"), EndpointError::PlainText);
        assert_eq!(error("ws://10.0.0.1"), EndpointError::PlainText);
        assert_eq!(error("wss://ws.finnhub.io?token=abc"), EndpointError::Query);
        assert_eq!(error("wss://me@ws.finnhub.io"), EndpointError::Query);
        assert_eq!(error("https://ws.finnhub.io"), EndpointError::Scheme);
        assert_eq!(error("ws.finnhub.io"), EndpointError::Scheme);
        for text in [
            "not an address",
            "wss://a[::1]b",
            "wss://[::1",
            "wss://[a]",
            "wss://a:99999",
            "wss://a:",
        ] {
            assert_eq!(error(text), EndpointError::NotAnAddress, "{text}");
        }
        assert_eq!(error(""), EndpointError::NotAnAddress);
    }
}
