//! The live page: a table of all symbols, candles of one, and how the pipeline stands, in a
//! browser.
//!
//! ```text
//!  job ── acknowledged bars ──▶ board ◀── what changed since? ── stream ──▶ GET /events
//!                                 ▲                                          page
//!  store ── newest bars, at start ┘       store ── bars of one ── bars ────▶ GET /bars
//! ```
//!
//! The page shows bars that the store has acknowledged, so nothing on it can be lost any more. The
//! job never waits for a browser.

mod bars;
mod board;
mod newest;
mod page;
mod seed;
mod stream;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::{Router, routing::get};
use tapeflow_dataflow::Observer;
use tapeflow_protocol::{EpochWrites, Store};
use tapeflow_schemas::WindowSize;
use tokio::sync::Semaphore;

pub(crate) use self::board::Line;
use self::{board::Board, stream::Beat};
use crate::{http::Told, terminal::now_ms};

/// Questions to the store at once, on behalf of browsers.
const STORE_QUESTIONS: usize = 4;

/// What the page, and the terminal, show; the job fills it.
pub(crate) struct Live {
    board: Mutex<Board>,
    /// All sizes of the job.
    sizes: Vec<WindowSize>,
}

impl Live {
    /// Of a job with these sizes.
    pub(crate) fn new(sizes: &[WindowSize]) -> Arc<Self> {
        Arc::new(Self {
            board: Mutex::new(Board::new(sizes)),
            sizes: sizes.to_vec(),
        })
    }

    /// A board is whole whatever its holder died of: each line is put there complete.
    pub(crate) fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observer for Live {
    fn acknowledged(&self, _epoch: u64, writes: &EpochWrites) {
        self.board().take(writes, now_ms());
    }

    fn shared_size(&self) -> Option<WindowSize> {
        Some(self.board().size())
    }
}

/// What the routes share.
struct Shown {
    live: Arc<Live>,
    told: Arc<Told>,
    store: Arc<dyn Store>,
    questions: Semaphore,
    beat: Beat,
}

/// The page's routes. Begins to fill the board from the store as well, so that the page of a job
/// that was started again is not empty.
pub(crate) fn routes(
    live: &Arc<Live>,
    told: &Arc<Told>,
    store: &Arc<dyn Store>,
    runtime: &tokio::runtime::Handle,
) -> Router {
    // Other processes show their own symbols, and cannot tell which of the stored ones those are.
    if told.job.as_ref().is_some_and(|job| job.process == 0) {
        runtime.spawn(seed::seed(Arc::clone(live), Arc::clone(store)));
    }
    let shown = Shown {
        live: Arc::clone(live),
        told: Arc::clone(told),
        store: Arc::clone(store),
        questions: Semaphore::new(STORE_QUESTIONS),
        beat: Beat::new(told),
    };
    let shown = Arc::new(shown);
    runtime.spawn(stream::beat(Arc::clone(&shown)));
    page::routes().merge(
        Router::new()
            .route("/events", get(stream::events))
            .route("/bars", get(bars::answer))
            .with_state(shown),
    )
}
