//! Listening: plain or TLS, a bounded number of connections, each with a bounded patience, and a
//! password where one is asked for.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::Request,
    http::{
        StatusCode,
        header::{AUTHORIZATION, WWW_AUTHENTICATE},
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use tapeflow_schemas::Secret;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::Semaphore,
    time::timeout,
};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;

use crate::exit::Exit;

/// Connections at once; further ones wait.
const CONNECTIONS: usize = 256;
/// How long a handshake, or a request's checkpoint, may take, and how long someone who is answered may
/// read nothing: also one who has vanished.
const PATIENCE: Duration = Duration::from_secs(10);
/// After a failure to accept, such as too many open files.
const PAUSE: Duration = Duration::from_millis(100);
/// Who asks.
const USER: &str = "tapeflow";

/// Takes the address; none if it is taken and was not asked for.
pub(super) fn listen(
    address: SocketAddr,
    asked: bool,
    runtime: &Handle,
) -> Result<Option<TcpListener>, Exit> {
    // Not awaited: some callers are within the runtime already.
    let _within = runtime.enter();
    let bound = std::net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    match bound {
        Ok(listener) => {
            let address = listener.local_addr().unwrap_or(address);
            tracing::info!(%address, "serving the live page, /metrics, /status, /livez and /readyz");
            if !address.ip().is_loopback() {
                tracing::info!(
                    "--http listens beyond this machine: see --http-tls-cert and --http-password-file"
                );
            }
            Ok(Some(listener))
        }
        Err(error) if asked => Err(Exit::Input(format!(
            "--http: cannot listen at {address}: {error}"
        ))),
        Err(error) => {
            tracing::warn!(%address, %error, "no live page and no metrics: the address cannot be had; see --http");
            Ok(None)
        }
    }
}

/// Serves until the runtime ends.
pub(super) async fn run(listener: TcpListener, router: Router, tls: Option<Arc<ServerConfig>>) {
    let (room, acceptor) = (
        Arc::new(Semaphore::new(CONNECTIONS)),
        tls.map(TlsAcceptor::from),
    );
    loop {
        let Ok(place) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection could not be accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (router, acceptor) = (router.clone(), acceptor.clone());
        tokio::spawn(async move {
            let _place = place;
            let _ = stream.set_nodelay(true);
            match acceptor {
                None => talk(stream, router).await,
                Some(acceptor) => {
                    if let Ok(Ok(stream)) =
                        timeout(PATIENCE, acceptor.accept::<TcpStream>(stream)).await
                    {
                        talk(stream, router).await;
                    }
                }
            }
        });
    }
}

async fn talk(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, router: Router) {
    let service = TowerToHyperService::new(router);
    let mut stream = Box::pin(TimeoutStream::new(stream));
    stream.as_mut().set_write_timeout_pinned(Some(PATIENCE));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(PATIENCE)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// The routes, for those who know the password, if there is one.
pub(super) fn behind_password(routes: Router, password: Option<Secret>) -> Router {
    let Some(password) = password else {
        return routes;
    };
    let wanted: Arc<str> = format!(
        "Basic {}",
        base64(format!("{USER}:{}", password.expose()).as_bytes())
    )
    .into();
    routes.layer(middleware::from_fn(move |request: Request, next: Next| {
        let wanted = Arc::clone(&wanted);
        async move {
            let given = request
                .headers()
                .get(AUTHORIZATION)
                .map(axum::http::HeaderValue::as_bytes)
                .unwrap_or_default();
            if same(given, wanted.as_bytes()) {
                next.run(request).await
            } else {
                refuse()
            }
        }
    }))
}

fn refuse() -> Response {
    (
        StatusCode::UNAUTHORIZED,
        [(
            WWW_AUTHENTICATE,
            "Basic realm=\"tapeflow\", charset=\"UTF-8\"",
        )],
        "a password is asked for\n",
    )
        .into_response()
}

/// Compares without telling by the time it takes how much was right.
fn same(given: &[u8], wanted: &[u8]) -> bool {
    given.len() == wanted.len()
        && given
            .iter()
            .zip(wanted)
            .fold(0, |differs, (a, b)| differs | (a ^ b))
            == 0
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let bits = three
            .iter()
            .chain([0; 2].iter())
            .take(3)
            .fold(0u32, |bits, byte| bits << 8 | u32::from(*byte));
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= three.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_the_rfc() {
        // RFC 4648, section 10.
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn only_the_same_password_is_the_same() {
        assert!(same(b"Basic x", b"Basic x"));
        assert!(
            !same(b"Basic y", b"Basic x")
                && !same(b"", b"Basic x")
                && !same(b"Basic xx", b"Basic x")
        );
    }
}
