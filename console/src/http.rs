//! HTTP: metrics, health and status of the process.
//!
//! ```text
//!  GET /metrics  text for Prometheus       GET /livez    alive? 200 or 503
//!  GET /status   the same values as JSON   GET /readyz   ready? 200 or 503
//! ```
//!
//! `/livez` and `/readyz` need no password: an orchestrator asks them.

pub(crate) mod end_offsets;
mod guesses;
mod health;
mod host;
mod metrics;
mod pace;
mod password;
mod places;
mod process;
pub(crate) mod server;
pub(crate) mod settings;
pub(crate) mod state;
pub(crate) mod status;

use std::sync::Arc;

use axum::{
    Router,
    http::{HeaderValue, StatusCode, header::CONNECTION},
    middleware,
    response::Response,
    routing::get,
};
use tapeflow_schemas::Secret;

use self::{server::Routes, state::ServerState};

/// Who may ask.
pub(crate) struct Access<'a> {
    /// The password, for everything but probes.
    pub(crate) password: Option<&'a Secret>,
    /// Whether the listener is on loopback.
    pub(crate) is_loopback: bool,
}

/// All routes. `page` are further routes, under the same password as `/metrics` and `/status`.
pub(crate) fn routes(state: &Arc<ServerState>, page: Router, access: &Access<'_>) -> Routes {
    let probes = Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .with_state(Arc::clone(state));
    let protected = Router::new()
        .route("/status", get(status::status))
        .with_state(Arc::clone(state))
        .merge(metrics::route(state))
        .merge(page);
    let protected = password::require(protected, access.password, &state.wrong_passwords);
    let all = probes.clone().merge(protected);
    let only_probes = probes
        .fallback(all_places_taken)
        .layer(middleware::map_response(last_answer));
    let mut routes = Routes {
        all,
        probes: only_probes,
    };
    if access.is_loopback && access.password.is_none() {
        routes.all = host::require_loopback(routes.all);
        routes.probes = host::require_loopback(routes.probes);
    }
    routes
}

async fn all_places_taken() -> (StatusCode, &'static str) {
    (
        StatusCode::SERVICE_UNAVAILABLE,
        "all connections are taken, or all that one client may have; try again later\n",
    )
}

/// A connection for probes is needed for the next one.
async fn last_answer(mut answer: Response) -> Response {
    let close = HeaderValue::from_static("close");
    answer.headers_mut().insert(CONNECTION, close);
    answer
}
