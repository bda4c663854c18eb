//! The listener: plain or TLS, a bounded number of connections, and a timeout for each handshake,
//! request header and write.
//!
//! The accept loop is our own, over hyper. `axum::serve` limits neither connections nor the time
//! for a header. `axum-server` limits neither connections nor writes: both limits would be adapters
//! around it that are longer than this loop, and it brings HTTP/2 along.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    sync::Semaphore,
    time::timeout,
};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;

use crate::serve::ServeError;

/// Connections at once; further ones wait in the backlog of the operating system.
const CONNECTIONS: usize = 256;
/// The longest time for a handshake or the header of a request, and the longest time that a client
/// may leave an answer unread. It also ends connections of clients that have vanished.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after a failed accept, such as one for too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Binds the address; none if that fails and the server is not required.
pub(crate) fn listen(
    address: SocketAddr,
    required: bool,
    runtime: &Handle,
) -> Result<Option<TcpListener>, ServeError> {
    // Not awaited: some callers run inside the runtime already.
    let _within = runtime.enter();
    let bound = std::net::TcpListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    });
    match bound {
        Ok(listener) => {
            let address = listener.local_addr().unwrap_or(address);
            tracing::info!(
                %address,
                "serving the live page, /metrics, /status, /livez and /readyz"
            );
            if !address.ip().is_loopback() {
                tracing::info!(
                    %address,
                    "--http is reachable from other machines; \
                     protect it with --http-tls-cert and --http-password-file"
                );
            }
            Ok(Some(listener))
        }
        Err(source) if required => Err(ServeError::Listen { address, source }),
        Err(error) => {
            tracing::warn!(
                %address,
                %error,
                "cannot listen; no live page and no metrics; choose an address with --http"
            );
            Ok(None)
        }
    }
}

/// Serves until the runtime ends.
pub(crate) async fn run(listener: TcpListener, router: Router, tls: Option<Arc<ServerConfig>>) {
    accept(listener, router, tls.map(TlsAcceptor::from), CONNECTIONS).await;
}

async fn accept(
    listener: TcpListener,
    router: Router,
    tls: Option<TlsAcceptor>,
    connections: usize,
) {
    let slots = Arc::new(Semaphore::new(connections));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (router, tls) = (router.clone(), tls.clone());
        tokio::spawn(async move {
            let _slot = slot;
            let _ = stream.set_nodelay(true);
            match tls {
                None => serve_connection(stream, router).await,
                Some(tls) => {
                    if let Ok(Ok(stream)) = timeout(TIMEOUT, tls.accept::<TcpStream>(stream)).await
                    {
                        serve_connection(stream, router).await;
                    }
                }
            }
        });
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
) {
    let service = TowerToHyperService::new(router);
    let mut stream = Box::pin(TimeoutStream::new(stream));
    stream.as_mut().set_write_timeout_pinned(Some(TIMEOUT));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection closed early");
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn connections_beyond_the_limit_wait_until_one_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let router = Router::new().route("/", get(|| async { "served" }));
        tokio::spawn(accept(listener, router, None, 1));
        let ask = |mut stream: TcpStream| async move {
            let request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
            stream.write_all(request).await.expect("sent");
            let mut answer = [0; 12];
            stream.read_exact(&mut answer).await.expect("an answer");
            assert_eq!(&answer, b"HTTP/1.1 200");
            stream
        };
        let connect = || async { TcpStream::connect(address).await.expect("a connection") };
        let first = ask(connect().await).await;
        let mut second = tokio::spawn(ask(connect().await));
        let waited = timeout(Duration::from_millis(300), &mut second).await;
        assert!(waited.is_err(), "the first connection is still open");
        drop(first);
        second.await.expect("served");
    }
}
