//! The console: what a running process shows of itself, over HTTP and on its terminal.
//!
//! ```text
//!  job ──▶ Metrics ───────────┐
//!  feed ─▶ Progress ──────────┼─▶ ServerState ──▶ http:  /metrics /status /livez /readyz
//!  log ──▶ end offsets ───────┘        │
//!  job ──▶ acknowledged bars ─▶ LiveBars ───────▶ live:  /  /events  /bars
//!                                      └────────▶ terminal: a table, or one line a second
//! ```
//!
//! - *Server state*: what the process knows of itself: its job, its feed, its start.
//! - *Live bars*: the newest bar of each symbol, of bars that the store has acknowledged.
//! - *Step*: one round of a worker. *Checkpoint*, *epoch*, *bound*, *committed*: as in
//!   [`tapeflow_protocol`].
//!
//! The console only reads. It counts nothing, and the job never waits for it.
//!
//! # Example
//!
//! A process that reads a feed serves its metrics on a free port:
//!
//! ```
//! use std::sync::Arc;
//!
//! use tapeflow_console::{HttpSettings, ServerState, serve};
//! use tapeflow_ingest::Progress;
//!
//! let runtime = tokio::runtime::Runtime::new()?;
//! let settings = HttpSettings {
//!     address: Some("127.0.0.1:0".parse()?),
//!     required: true,
//!     tls: None,
//!     password: None,
//! };
//! let state = Arc::new(ServerState::of_feed(Progress::default()));
//! let served = serve(&settings, &state, None, None, runtime.handle())?;
//! assert!(served.url().is_some_and(|url| url.starts_with("http://127.0.0.1:")));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod clock;
pub mod cumulative;
pub mod format;
mod http;
pub mod live;
mod outages;
mod serve;
pub mod terminal;

pub use self::{
    http::{
        settings::HttpSettings,
        state::{JobState, ServerState},
    },
    serve::{LivePage, ServeError, Served, serve},
};
