//! The opening handshake of WebSocket (RFC 6455, section 4), both sides.
//!
//! It is written here because Finnhub expects the token in the request line, and tungstenite writes
//! the request line to its trace log. This one wipes the request after sending it, and tells
//! refusals apart by status.

use std::io;

use tapeflow_schemas::Secret;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};
use zeroize::Zeroizing;

use super::{endpoint::Endpoint, session::Refusal};

/// Bound of the head of a request or response.
const MAX_HEAD_BYTES: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;

/// Opens a WebSocket as a client. Returns the bytes that were read beyond the head of the response.
pub(crate) async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    endpoint: &Endpoint,
    token: &Secret,
) -> Result<Vec<u8>, Refusal> {
    let key = generate_key();
    let request = Zeroizing::new(format!(
        "GET {}?token={} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\
         User-Agent: {}\r\n\r\n",
        endpoint.path,
        token.expose(),
        endpoint.authority(),
        concat!("tapeflow/", env!("CARGO_PKG_VERSION")),
    ));
    let unreachable = |error: io::Error| Refusal::Unreachable(token.scrub(&error.to_string()));
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(unreachable)?;
    stream.flush().await.map_err(unreachable)?;
    let (head, rest) = read_head(stream).await.map_err(unreachable)?;
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    response
        .parse(&head)
        .map_err(|_| Refusal::NotWebSocket("the response is not HTTP"))?;
    match response.code {
        Some(101) => {}
        Some(401) => return Err(Refusal::Unauthorized),
        Some(status) => return Err(Refusal::Status(status)),
        None => return Err(Refusal::NotWebSocket("the response has no status")),
    }
    if !header(response.headers, "upgrade")
        .is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
    {
        return Err(Refusal::NotWebSocket("the response does not upgrade"));
    }
    if header(response.headers, "sec-websocket-accept")
        != Some(derive_accept_key(key.as_bytes()).as_str())
    {
        return Err(Refusal::NotWebSocket("the response is for another key"));
    }
    Ok(rest)
}

/// A client's request, as a server reads it.
pub(crate) struct Request {
    /// The token of its query.
    pub(crate) token: Option<Secret>,
    /// The response that accepts it; `None` if it does not ask for a WebSocket.
    pub(crate) acceptance: Option<String>,
    /// The bytes that were read beyond the head.
    pub(crate) rest: Vec<u8>,
}

/// Reads a client's request.
pub(crate) async fn read_request<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Request> {
    let (head, rest) = read_head(stream).await?;
    let head = Zeroizing::new(head);
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    request
        .parse(&head)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "not an HTTP request"))?;
    let query = request
        .path
        .and_then(|path| path.split_once('?'))
        .map_or("", |(_, query)| query);
    let token = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("token="))
        .map(Secret::new);
    let acceptance = header(request.headers, "sec-websocket-key").map(|key| {
        let accept = derive_accept_key(key.as_bytes());
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        )
    });
    Ok(Request {
        token,
        acceptance,
        rest,
    })
}

fn header<'a>(headers: &[httparse::Header<'a>], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case(name))
        .and_then(|header| std::str::from_utf8(header.value).ok())
}

/// Reads up to the empty line that ends the head; also returns the bytes after it.
async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let mut bytes = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "closed during the handshake",
            ));
        }
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(at + 4);
            return Ok((bytes, rest));
        }
        if bytes.len() > MAX_HEAD_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "handshake head too long",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Connects a client to a server that responds with `answer`, or accepts if it is empty.
    async fn handshake(answer: &'static str) -> (Result<Vec<u8>, Refusal>, Option<Secret>) {
        let (mut client, mut server) = tokio::io::duplex(4096);
        let endpoint: Endpoint = "ws://127.0.0.1:1/feed".parse().expect("an address");
        let token = Secret::new("sesame");
        let serve = async {
            let request = read_request(&mut server).await.expect("a request");
            let accept = request.acceptance.expect("a WebSocket request");
            let answer = if answer.is_empty() {
                accept + "more"
            } else {
                answer.to_owned()
            };
            server.write_all(answer.as_bytes()).await.expect("written");
            request.token
        };
        tokio::join!(open(&mut client, &endpoint, &token), serve)
    }

    #[tokio::test]
    async fn client_and_server_agree_and_nothing_read_is_lost() {
        let (opened, token) = handshake("").await;
        assert_eq!(opened, Ok(b"more".to_vec()));
        assert_eq!(token, Some(Secret::new("sesame")));
    }

    #[tokio::test]
    async fn refusals_are_distinguished() {
        assert_eq!(
            handshake("HTTP/1.1 401 Unauthorized\r\n\r\n").await.0,
            Err(Refusal::Unauthorized)
        );
        assert_eq!(
            handshake("HTTP/1.1 200 OK\r\n\r\n").await.0,
            Err(Refusal::Status(200))
        );
        assert!(matches!(
            handshake("HTTP/1.1 101 Switching Protocols\r\n\r\n")
                .await
                .0,
            Err(Refusal::NotWebSocket(_))
        ));
        assert!(matches!(
            handshake("HTTP/1.1 101 X\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n")
                .await
                .0,
            Err(Refusal::NotWebSocket(_))
        ));
        assert!(matches!(
            handshake("SSH-2.0-x\r\n\r\n").await.0,
            Err(Refusal::NotWebSocket(_))
        ));
    }
}
