//! The live feed: runs the commands of the [session](super::session) on a socket, and puts frames
//! into the queue.
//!
//! Only the request line of the handshake holds the token. Every error text passes through
//! [`Secret::scrub`], and no library sees the URL.

use std::{sync::Arc, time::Instant};

use futures::{SinkExt, StreamExt};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tapeflow_schemas::Secret;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message as WsMessage,
        protocol::{Role, WebSocketConfig},
    },
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    endpoint::{Endpoint, EndpointError},
    handshake,
    message::{self, Message},
    session::{
        Command, DisconnectReason, Drops, ProviderError, Refusal, Session, SessionError, Timing,
    },
};
use crate::{
    admission::cut,
    clock::now_ms,
    frame::{Frame, MAX_FRAME_BYTES},
    presence::{Cause, Change, Presence},
    progress::{Connection, Progress},
    queue,
};

/// Settings of the client.
#[derive(Clone, Debug)]
pub struct FinnhubConfig {
    /// The server, without a token: `wss://ws.finnhub.io`, or `ws://` on this machine.
    pub endpoint: Endpoint,
    /// Finnhub's token.
    pub token: Secret,
    /// The symbols to subscribe to, as Finnhub spells them.
    pub symbols: Vec<String>,
    /// Time limits.
    pub timing: Timing,
}

/// Why the live feed failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FinnhubError {
    /// The address cannot be used.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// There is no symbol to subscribe to.
    #[error("no symbols to subscribe to: name at least one")]
    NoSymbols,
    /// The token is empty, or has characters that no token has. The text does not show it.
    #[error("the token has characters that no Finnhub token has: check the token file")]
    Token,
    /// The server refused us for good.
    #[error(transparent)]
    Session(#[from] SessionError),
}

impl FinnhubConfig {
    /// Settings with the default time limits.
    ///
    /// # Errors
    /// [`FinnhubError`] if the address, the token or the symbols cannot be used.
    pub fn new(url: &str, token: Secret, symbols: Vec<String>) -> Result<Self, FinnhubError> {
        let config = Self {
            endpoint: url.parse()?,
            token,
            symbols,
            timing: Timing::default(),
        };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), FinnhubError> {
        if self.symbols.is_empty() {
            return Err(FinnhubError::NoSymbols);
        }
        // Other bytes could change the request line.
        let plain =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        if self.token.expose().is_empty() || !self.token.expose().bytes().all(plain) {
            Err(FinnhubError::Token)
        } else {
            Ok(())
        }
    }
}

/// TCP, with TLS or without.
trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

type Socket = WebSocketStream<Box<dyn Transport>>;

/// Frames up to this size reach admission, which records those above [`MAX_FRAME_BYTES`] as
/// invalid. A larger one ends the connection.
const MAX_MESSAGE_BYTES: usize = 16 * MAX_FRAME_BYTES;
/// Error frames are shorter than this; longer frames are not searched for an error.
const MAX_ERROR_BYTES: usize = 4096;
/// The time limit of the closing handshake.
const CLOSE_LIMIT: std::time::Duration = std::time::Duration::from_secs(1);

/// Puts the frames of the live feed into `frames` until it is asked to stop, or the server refuses
/// it for good.
///
/// # Errors
/// [`FinnhubError`]. Drops, stalls and refused connections are retried and are not errors.
pub async fn run(
    config: &FinnhubConfig,
    frames: queue::Sender,
    presence: Presence,
    stop: &CancellationToken,
    progress: &Progress,
) -> Result<(), FinnhubError> {
    config.check()?;
    let session = Session::new(
        config.timing.clone(),
        config.symbols.clone(),
        SmallRng::from_os_rng().random(),
        Instant::now(),
    );
    let tls = tls_connector();
    let mut feed = Feed {
        config,
        tls,
        session,
        socket: None,
        frames,
        presence,
        line: 0,
        progress,
    };
    let ended = tokio::select! {
        ended = feed.run_session() => ended,
        () = stop.cancelled() => Ok(()),
    };
    let at_ms = now_ms();
    let cause = if ended.is_ok() {
        Cause::Stopped
    } else {
        Cause::Refused
    };
    // If the pipeline has ended, it returns the error.
    let _ = feed.frames.send_change(Change::Ends { at_ms, cause }).await;
    if let Some(mut socket) = feed.socket.take() {
        let _ = tokio::time::timeout(CLOSE_LIMIT, socket.close(None)).await;
    }
    progress.set_connection(Connection::Closed);
    ended
}

struct Feed<'a> {
    config: &'a FinnhubConfig,
    tls: TlsConnector,
    session: Session,
    socket: Option<Socket>,
    frames: queue::Sender,
    presence: Presence,
    line: u64,
    progress: &'a Progress,
}

impl Feed<'_> {
    /// Runs until the session ends for good. May be dropped at any await.
    async fn run_session(&mut self) -> Result<(), FinnhubError> {
        loop {
            while let Some(command) = self.session.poll(Instant::now()) {
                self.execute(command).await?;
            }
            // All symbols are subscribed to. The server does not acknowledge it.
            if self.socket.is_some() && self.presence.is_away() {
                let change = self.presence.back(now_ms());
                self.say(change).await;
            }
            let Some(deadline) = self.session.deadline() else {
                return Ok(());
            };
            let event = match &mut self.socket {
                Some(socket) => tokio::time::timeout_at(deadline.into(), socket.next())
                    .await
                    .ok(),
                None => {
                    tokio::time::sleep_until(deadline.into()).await;
                    None
                }
            };
            match event {
                None => {}
                Some(Some(Ok(WsMessage::Text(text)))) => self.take(text.as_bytes()).await?,
                Some(Some(Ok(WsMessage::Binary(bytes)))) => self.take(&bytes).await?,
                Some(Some(Ok(WsMessage::Ping(_) | WsMessage::Pong(_) | WsMessage::Frame(_)))) => {}
                Some(Some(Ok(WsMessage::Close(close)))) => {
                    let change = self.presence.closed(now_ms());
                    self.say(change).await;
                    self.closed(&close.map_or_else(
                        || "closed by the server".to_owned(),
                        |close| format!("closed by the server: {close}"),
                    ))
                    .await
                }
                Some(Some(Err(error))) => self.closed(&error.to_string()).await,
                Some(None) => self.closed("closed by the server").await,
            }
        }
    }

    async fn execute(&mut self, command: Command) -> Result<(), FinnhubError> {
        match command {
            Command::Connect => self.connect().await,
            Command::Send(text) => {
                if let Some(socket) = &mut self.socket
                    && let Err(error) = socket.send(WsMessage::text(text)).await
                {
                    self.closed(&error.to_string()).await;
                }
            }
            Command::Disconnect(reason) => {
                let reason = match reason {
                    DisconnectReason::Silence => "no message for too long",
                    DisconnectReason::ConnectTimeout => "connecting took too long",
                };
                warn!(reason, "feed connection closed; reconnecting");
                self.socket = None;
                self.progress.set_waiting(reason);
                let change = self.presence.lost(Cause::Silent);
                self.say(change).await;
            }
            Command::Fail(error) => {
                error!(%error, "feed refused");
                return Err(error.into());
            }
        }
        Ok(())
    }

    async fn connect(&mut self) {
        self.progress.set_connection(Connection::Connecting);
        let deadline = self.session.deadline().unwrap_or_else(Instant::now);
        // On a time-out the next poll of the session closes the attempt.
        let Ok(outcome) =
            tokio::time::timeout_at(deadline.into(), connect(self.config, &self.tls)).await
        else {
            return;
        };
        match outcome {
            Ok(socket) => {
                self.socket = Some(socket);
                self.session.handle_connected(Instant::now());
                self.progress.set_connection(Connection::Open);
                info!(
                    endpoint = %self.config.endpoint,
                    symbols = self.session.symbols().len(),
                    "feed connected"
                );
            }
            Err(refusal) => {
                warn!(endpoint = %self.config.endpoint, %refusal, "feed not connected");
                self.session.handle_refused(&refusal, Instant::now());
                self.progress.set_waiting(&refusal.to_string());
            }
        }
    }

    /// Says what has changed, after the frames so far.
    async fn say(&mut self, change: Option<Change>) {
        if let Some(change) = change
            && self.frames.send_change(change).await.is_err()
        {
            // The pipeline has ended, and returns the error.
            std::future::pending().await
        }
    }

    async fn closed(&mut self, reason: &str) {
        self.socket = None;
        let reason = cut(&self.config.token.scrub(reason));
        self.progress.set_waiting(&reason);
        match self.session.handle_closed(Instant::now()) {
            Drops::Routine => info!(reason, "feed dropped; reconnecting"),
            Drops::Repeated => warn!(
                reason,
                "feed dropped soon after it opened, several times: \
                 another client may be using the same token"
            ),
        }
        let change = self.presence.lost(Cause::Disconnected);
        self.say(change).await;
    }

    async fn take(&mut self, bytes: &[u8]) -> Result<(), FinnhubError> {
        self.session.handle_message(Instant::now());
        if bytes.len() <= MAX_ERROR_BYTES && contains(bytes, b"\"error\"") {
            self.handle_error(bytes);
        }
        self.line += 1;
        let taken_ms = now_ms();
        self.presence.frame(taken_ms);
        let frame = Frame {
            line: self.line,
            bytes: bytes.to_vec(),
            taken_ms: Some(taken_ms),
        };
        if self.frames.send(vec![frame]).await.is_err() {
            // The pipeline has ended, and returns the error.
            return std::future::pending().await;
        }
        // The time spent waiting for the queue is not the feed's silence.
        self.session.handle_message(Instant::now());
        Ok(())
    }

    fn handle_error(&mut self, bytes: &[u8]) {
        let Ok(Message::Error { message }) = message::parse(bytes) else {
            return;
        };
        let text = cut(&self.config.token.scrub(&message));
        match self.session.handle_provider_error(&message) {
            ProviderError::TooManySymbols => {
                error!(
                    symbols = self.session.symbols().len(),
                    "feed allows fewer symbols than were given, and does not say which it left \
                     out: give fewer with --symbols"
                )
            }
            ProviderError::InvalidSymbol(symbol) => {
                error!(
                    symbol,
                    "feed does not know this symbol; continuing without it"
                )
            }
            ProviderError::Other => warn!(message = text, "feed reports an error"),
        }
    }
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

async fn connect(config: &FinnhubConfig, tls: &TlsConnector) -> Result<Socket, Refusal> {
    let endpoint = &config.endpoint;
    let unreachable =
        |error: std::io::Error| Refusal::Unreachable(config.token.scrub(&error.to_string()));
    let tcp = TcpStream::connect((endpoint.host.as_str(), endpoint.port))
        .await
        .map_err(unreachable)?;
    tcp.set_nodelay(true).map_err(unreachable)?;
    let mut stream: Box<dyn Transport> = if endpoint.tls {
        let name = ServerName::try_from(endpoint.host.clone()).map_err(|_| {
            Refusal::Unreachable("the host is not a name that a certificate can hold".into())
        })?;
        Box::new(tls.connect(name, tcp).await.map_err(unreachable)?)
    } else {
        // The resolver decides what "localhost" is.
        if !tcp.peer_addr().map_err(unreachable)?.ip().is_loopback() {
            return Err(Refusal::Unreachable(
                "the address is not of this machine: ws:// is allowed on this machine only".into(),
            ));
        }
        Box::new(tcp)
    };
    let rest = handshake::open(&mut stream, endpoint, &config.token).await?;
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    Ok(WebSocketStream::from_partially_read(stream, rest, Role::Client, Some(limits)).await)
}

/// TLS with the roots of Mozilla's list. The provider is named, so that no other crate's features
/// can choose another one.
fn tls_connector() -> TlsConnector {
    let roots = RootCertStore {
        roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
    };
    let config = ClientConfig::builder_with_provider(Arc::new(
        rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .expect("the provider knows TLS 1.2 and 1.3")
    .with_root_certificates(roots)
    .with_no_client_auth();
    TlsConnector::from(Arc::new(config))
}
