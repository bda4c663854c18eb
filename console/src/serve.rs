//! Starts the HTTP server: binds the address, puts the routes together, and serves in the
//! background until the runtime ends.

use std::{io, net::SocketAddr, sync::Arc};

use axum::Router;
use tapeflow_log::Log;
use tapeflow_protocol::Store;
use tokio::runtime::Handle;

use crate::{
    http::{Access, end_offsets, routes, server, settings::HttpSettings, state::ServerState},
    live::{self, LiveBars},
};

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address that the user gave cannot be bound.
    #[error("--http: cannot listen at {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
}

/// What the live page shows.
pub struct LivePage {
    /// The bars that the job has acknowledged.
    pub bars: Arc<LiveBars>,
    /// Where `GET /bars` and the first page load read older bars.
    pub store: Arc<dyn Store>,
}

/// Whether the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Served {
    /// At this URL.
    At(String),
    /// The settings turn it off.
    Off,
    /// A default address cannot be bound, for this reason.
    Unbound {
        /// The address.
        address: SocketAddr,
        /// The error of the operating system.
        reason: String,
    },
}

impl Served {
    /// The URL; none if it does not listen.
    #[must_use]
    pub fn url(&self) -> Option<&str> {
        match self {
            Self::At(url) => Some(url),
            Self::Off | Self::Unbound { .. } => None,
        }
    }
}

/// Starts the server on `runtime`, unless the settings turn it off or a default address is taken.
/// With `log`, process 0 of a job reads the log's end offsets. With
/// `page`, the live page is served under the same password as `/metrics`.
///
/// # Errors
/// [`ServeError::Listen`] if [`HttpSettings::required`] is set and the address cannot be bound.
pub fn serve(
    settings: &HttpSettings,
    state: &Arc<ServerState>,
    log: Option<Arc<dyn Log>>,
    page: Option<LivePage>,
    runtime: &Handle,
) -> Result<Served, ServeError> {
    let Some(address) = settings.address else {
        return Ok(Served::Off);
    };
    // Before the address is bound: the terminal shows the same bars, with or without a server.
    let page = page.map_or_else(Router::new, |page| {
        live::routes(&page.bars, state, &page.store, runtime)
    });
    let listener = match server::listen(address, settings.required, runtime)? {
        Ok(listener) => listener,
        Err(error) => {
            return Ok(Served::Unbound {
                address,
                reason: error.to_string(),
            });
        }
    };
    let scheme = if settings.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let bound = listener.local_addr().unwrap_or(address);
    // Only the coordinator knows what is committed, so only it needs the end offsets.
    if let Some(log) = log.filter(|_| state.job.as_ref().is_some_and(|job| job.process == 0)) {
        end_offsets::poll(state, log);
    }
    let access = Access {
        password: settings.password.as_ref(),
        is_loopback: bound.ip().to_canonical().is_loopback(),
    };
    let routes = routes(state, page, &access);
    runtime.spawn(server::run(listener, routes, settings.tls.clone()));
    Ok(Served::At(format!("{scheme}://{bound}")))
}
