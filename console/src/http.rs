//! HTTP: metrics, health and status of the process.
//!
//! ```text
//!  GET /metrics  text for Prometheus       GET /livez    alive? 200 or 503
//!  GET /status   the same values as JSON   GET /readyz   ready? 200 or 503
//! ```
//!
//! `/livez` and `/readyz` need no password: an orchestrator asks them.

pub(crate) mod end_offsets;
mod health;
mod metrics;
mod password;
mod process;
pub(crate) mod server;
pub(crate) mod settings;
pub(crate) mod state;
pub(crate) mod status;

use std::sync::Arc;

use axum::{Router, routing::get};
use tapeflow_schemas::Secret;

use self::state::ServerState;

/// All routes. `page` are further routes, under the same password as `/metrics` and `/status`.
pub(crate) fn routes(state: &Arc<ServerState>, page: Router, password: Option<&Secret>) -> Router {
    let open = Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .with_state(Arc::clone(state));
    let protected = Router::new()
        .route("/status", get(status::status))
        .with_state(Arc::clone(state))
        .merge(metrics::route(state))
        .merge(page);
    open.merge(password::require(protected, password))
}
