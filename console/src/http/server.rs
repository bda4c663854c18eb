//! The listener: plain or TLS, a bounded number of connections with places for probes, an age for
//! each, and a timeout for each handshake, request header and write.
//!
//! The accept loop is our own, over hyper. `axum::serve` limits neither connections nor the time
//! for a header. `axum-server` limits neither connections nor writes: both limits would be adapters
//! around it that are longer than this loop, and it brings HTTP/2 along.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::{Router, http::Request};
use hyper::{server::conn::http1, service::Service};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    runtime::Handle,
    time::timeout,
};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;

use super::{
    pace::Paced,
    places::{Limits, Places, Probes, network},
};
use crate::serve::ServeError;

/// The longest time for a handshake or the header of a request, and the longest time that a client
/// may leave an answer unread. It also ends connections of clients that have vanished.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after a failed accept, such as one for too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Binds the address; the error inside if that fails and the server is not required.
pub(crate) fn listen(
    address: SocketAddr,
    required: bool,
    runtime: &Handle,
) -> Result<io::Result<TcpListener>, ServeError> {
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
            Ok(Ok(listener))
        }
        Err(source) if required => Err(ServeError::Listen { address, source }),
        Err(error) => {
            tracing::warn!(
                %address,
                %error,
                "cannot listen; no live page and no metrics; choose an address with --http"
            );
            Ok(Err(error))
        }
    }
}

/// What is served: all routes to those who have a place, and probes to the others.
#[derive(Clone)]
pub(crate) struct Routes {
    pub(crate) all: Router,
    pub(crate) probes: Router,
}

/// Serves until the runtime ends.
pub(crate) async fn run(listener: TcpListener, routes: Routes, tls: Option<Arc<ServerConfig>>) {
    accept(
        listener,
        routes,
        tls.map(TlsAcceptor::from),
        Limits::default(),
    )
    .await;
}

async fn accept(listener: TcpListener, routes: Routes, tls: Option<TlsAcceptor>, limits: Limits) {
    let (places, mut probes) = (Places::default(), Probes::default());
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok((stream, peer)) => (stream, peer.ip()),
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let place = places.take(peer, &limits);
        let is_probe = place.is_none();
        let router = if is_probe {
            &routes.probes
        } else {
            &routes.all
        };
        let connection = Connection {
            service: WithPeer {
                routes: TowerToHyperService::new(router.clone()),
                peer: Peer(network(peer)),
            },
            limits,
        };
        let tls = tls.clone();
        let task = tokio::spawn(async move {
            let _place = place;
            let _ = stream.set_nodelay(true);
            if is_probe {
                let _ = timeout(limits.probe_age, connection.serve(stream, tls)).await;
            } else {
                connection.serve(stream, tls).await;
            }
        });
        if is_probe {
            probes.add(task.abort_handle(), &limits);
        }
    }
}

/// Whom a request comes from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer(pub(super) IpAddr);

/// The routes; each request carries its [`Peer`].
struct WithPeer {
    routes: TowerToHyperService<Router>,
    peer: Peer,
}

type Incoming = Request<hyper::body::Incoming>;

impl Service<Incoming> for WithPeer {
    type Response = <TowerToHyperService<Router> as Service<Incoming>>::Response;
    type Error = <TowerToHyperService<Router> as Service<Incoming>>::Error;
    type Future = <TowerToHyperService<Router> as Service<Incoming>>::Future;

    fn call(&self, mut request: Incoming) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        self.routes.call(request)
    }
}

struct Connection {
    service: WithPeer,
    limits: Limits,
}

impl Connection {
    async fn serve(self, stream: TcpStream, tls: Option<TlsAcceptor>) {
        match tls {
            None => self.serve_on(stream).await,
            Some(tls) => {
                if let Ok(Ok(stream)) = timeout(TIMEOUT, tls.accept::<TcpStream>(stream)).await {
                    self.serve_on(stream).await;
                }
            }
        }
    }

    async fn serve_on(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let mut stream = Box::pin(TimeoutStream::new(stream));
        stream.as_mut().set_write_timeout_pinned(Some(TIMEOUT));
        let stream = TokioIo::new(Paced::new(stream, self.limits.pace));
        let mut connection = pin!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(TIMEOUT)
                .serve_connection(stream, self.service)
        );
        let served = match timeout(self.limits.age, connection.as_mut()).await {
            Ok(served) => served,
            Err(_) => {
                // Ends an idle connection at once, and another one after its answer.
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = served {
            tracing::debug!(%error, "connection closed early");
        }
    }
}

#[cfg(test)]
mod tests;
