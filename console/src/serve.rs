//! Starts the HTTP server: binds the address, puts the routes together, and serves in the
//! background until the runtime ends.

use std::{io, net::SocketAddr, sync::Arc};

use axum::Router;
use tapeflow_log::Log;
use tapeflow_protocol::Store;
use tokio::runtime::Handle;

use crate::{
    http::{end_offsets, routes, server, settings::HttpSettings, state::ServerState},
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

/// Starts the server on `runtime` and returns its URL; none if the settings turn it off or a
/// default address is taken. With `log`, process 0 of a job reads the log's end offsets. With
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
) -> Result<Option<String>, ServeError> {
    let Some(address) = settings.address else {
        return Ok(None);
    };
    // Before the address is bound: the terminal shows the same bars, with or without a server.
    let page = page.map_or_else(Router::new, |page| {
        live::routes(&page.bars, state, &page.store, runtime)
    });
    let Some(listener) = server::listen(address, settings.required, runtime)? else {
        return Ok(None);
    };
    let scheme = if settings.tls.is_some() {
        "https"
    } else {
        "http"
    };
    let url = listener
        .local_addr()
        .map(|address| format!("{scheme}://{address}"))
        .ok();
    // Only the coordinator knows what is committed, so only it needs the end offsets.
    if let Some(log) = log.filter(|_| state.job.as_ref().is_some_and(|job| job.process == 0)) {
        end_offsets::poll(state, log);
    }
    let router = routes(state, page, settings.password.as_ref());
    runtime.spawn(server::run(listener, router, settings.tls.clone()));
    Ok(url)
}
