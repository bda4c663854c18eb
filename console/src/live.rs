//! The live page: a table of all symbols, candles of one symbol, and the state of the pipeline, in
//! a browser.
//!
//! ```text
//!  job ──── acknowledged bars ──▶ BarTable ◀── changed bars? ── stream ──▶ GET /events
//!                                    ▲                                      page
//!  store ── newest bars, at start ───┘        store ── bars ─────────────▶ GET /bars
//! ```
//!
//! The page shows only bars that the store has acknowledged: they survive any failure. The job
//! never waits for a browser.

mod bars;
mod newest;
mod page;
mod preload;
mod stream;
mod table;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::{Router, routing::get};
use tapeflow_dataflow::Observer;
use tapeflow_protocol::{EpochWrites, Store};
use tapeflow_schemas::WindowSize;
use tokio::sync::Semaphore;

pub(crate) use self::table::LiveBar;
use self::{stream::Ticker, table::BarTable};
use crate::{clock::now_ms, http::state::ServerState};

/// Requests to the store at once on behalf of browsers; further ones wait.
const STORE_REQUESTS: usize = 4;

/// The live bars: the newest bar of each symbol. The job fills them, the page and the terminal show
/// them.
#[derive(Debug)]
pub struct LiveBars {
    table: Mutex<BarTable>,
    /// All window sizes of the job; the table holds bars of one of them.
    sizes: Vec<WindowSize>,
}

impl LiveBars {
    /// Empty, for a job with these window sizes.
    #[must_use]
    pub fn new(sizes: &[WindowSize]) -> Arc<Self> {
        Arc::new(Self {
            table: Mutex::new(BarTable::new(sizes)),
            sizes: sizes.to_vec(),
        })
    }

    /// Each entry is put there complete, so a poisoned lock still guards a valid table.
    pub(crate) fn table(&self) -> MutexGuard<'_, BarTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for LiveBars {
    fn acknowledged(&self, _epoch: u64, writes: &EpochWrites) {
        self.table().take(writes, now_ms());
    }

    fn shared_size(&self) -> Option<WindowSize> {
        Some(self.table().size())
    }
}

/// What the routes of the page share.
struct PageState {
    bars: Arc<LiveBars>,
    server: Arc<ServerState>,
    store: Arc<dyn Store>,
    store_requests: Semaphore,
    ticker: Ticker,
}

/// The routes of the page. In process 0 it also starts to read the newest bars from the store, so
/// that the page is not empty after a restart.
pub(crate) fn routes(
    bars: &Arc<LiveBars>,
    server: &Arc<ServerState>,
    store: &Arc<dyn Store>,
    runtime: &tokio::runtime::Handle,
) -> Router {
    // Other processes show only their own symbols, and the store does not say which those are.
    if server.job.as_ref().is_some_and(|job| job.process == 0) {
        runtime.spawn(preload::preload(Arc::clone(bars), Arc::clone(store)));
    }
    let state = Arc::new(PageState {
        bars: Arc::clone(bars),
        server: Arc::clone(server),
        store: Arc::clone(store),
        store_requests: Semaphore::new(STORE_REQUESTS),
        ticker: Ticker::new(server),
    });
    runtime.spawn(stream::tick(Arc::clone(&state)));
    page::routes().merge(
        Router::new()
            .route("/events", get(stream::events))
            .route("/bars", get(bars::bars))
            .with_state(state),
    )
}
