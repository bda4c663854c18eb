//! The opening handshake (RFC 6455, section 4), both sides, written out.
//!
//! A library's handshake puts the request line into its trace log, and Finnhub wants the token in
//! the request line. Here the request is wiped after it is sent, and refusals are told apart by
//! status.

use std::io;

use tapeflow_schemas::Secret;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::tungstenite::handshake::{client::generate_key, derive_accept_key};
use zeroize::Zeroizing;

use super::{endpoint::Endpoint, session::Refusal};

/// The longest checkpoint of a request or an answer.
const MAX_CHECKPOINT_BYTES: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;

/// Opens a WebSocket as a client; returns what was read beyond the answer's checkpoint.
pub(crate) async fn open<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    endpoint: &Endpoint,
    token: &Secret,
) -> Result<Vec<u8>, Refusal> {
    let key = generate_key();
    let request = Zeroizing::new(format!(
        "GET {}?token={} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\nUser-Agent: {}\r\n\r\n",
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
    let (checkpoint, rest) = read_checkpoint(stream).await.map_err(unreachable)?;
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut answer = httparse::Response::new(&mut headers);
    answer
        .parse(&checkpoint)
        .map_err(|_| Refusal::NotWebSocket("the answer is not HTTP"))?;
    match answer.code {
        Some(101) => {}
        Some(401) => return Err(Refusal::Unauthorized),
        Some(status) => return Err(Refusal::Status(status)),
        None => return Err(Refusal::NotWebSocket("the answer has no status")),
    }
    if !header(answer.headers, "upgrade")
        .is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
    {
        return Err(Refusal::NotWebSocket("the answer does not upgrade"));
    }
    if header(answer.headers, "sec-websocket-accept")
        != Some(derive_accept_key(key.as_bytes()).as_str())
    {
        return Err(Refusal::NotWebSocket("the answer is to another key"));
    }
    Ok(rest)
}

/// A client's request, as a server reads it.
pub(crate) struct Request {
    /// The token of its query.
    pub(crate) token: Option<Secret>,
    /// The answer that accepts it; `None` if it does not ask for a WebSocket.
    pub(crate) acceptance: Option<String>,
    /// What was read beyond the request's checkpoint.
    pub(crate) rest: Vec<u8>,
}

/// Reads a client's request.
pub(crate) async fn read_request<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Request> {
    let (checkpoint, rest) = read_checkpoint(stream).await?;
    let checkpoint = Zeroizing::new(checkpoint);
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    request
        .parse(&checkpoint)
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
        format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n")
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

/// Everything up to the empty line, and what came with it.
async fn read_checkpoint<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<(Vec<u8>, Vec<u8>)> {
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
        if bytes.len() > MAX_CHECKPOINT_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "handshake too long",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets a client meet a server that answers `answer`, or accepts if it is empty.
    async fn meet(answer: &'static str) -> (Result<Vec<u8>, Refusal>, Option<Secret>) {
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
        let (opened, token) = meet("").await;
        assert_eq!(opened, Ok(b"more".to_vec()));
        assert_eq!(token, Some(Secret::new("sesame")));
    }

    #[tokio::test]
    async fn refusals_are_told_apart() {
        assert_eq!(
            meet("HTTP/1.1 401 Unauthorized\r\n\r\n").await.0,
            Err(Refusal::Unauthorized)
        );
        assert_eq!(
            meet("HTTP/1.1 200 OK\r\n\r\n").await.0,
            Err(Refusal::Status(200))
        );
        assert!(matches!(
            meet("HTTP/1.1 101 Switching Protocols\r\n\r\n").await.0,
            Err(Refusal::NotWebSocket(_))
        ));
        assert!(matches!(
            meet("HTTP/1.1 101 X\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n")
                .await
                .0,
            Err(Refusal::NotWebSocket(_))
        ));
        assert!(matches!(
            meet("SSH-2.0-x\r\n\r\n").await.0,
            Err(Refusal::NotWebSocket(_))
        ));
    }
}
