//! The dataflow: reads trades from the log and keeps exact bars and views in the store.
//!
//! ```text
//!          log                                  coordinator (worker 0)
//!           │ records                    Seal │ ▲ cuts       │ Bound
//!           ▼                                 ▼ │            ▼
//!        source ─── partition ──▶ combine ──▶ sealed map ──▶ release
//!                   (accept, drop,  (add up)                    │ partials, exchanged by symbol
//!                    dead letter)                               ▼
//!                           store ◀── read back ─── bar state (adds them, once an epoch is
//!                             ▲                         │      complete)
//!                             │                         ├── changes ──▶ views
//!                             │                         │                 │
//!                             └──── write ──── sink ◀── bars ◀────────────┘
//!                                               │
//!                                               └─▶ frontier: the epoch can be committed
//! ```
//!
//! # Words
//!
//! * *Epoch*: a range of records of all partitions that is written and committed as a whole. It is
//!   *sealed* when the sources have fixed its end, *bound* when the checkpoint stores that end, and
//!   *committed* when the store has acknowledged all its writes.
//! * *Partial*: the combined trades of one window in one epoch.
//! * *Resident bar*: a bar that is kept in memory. The others are read back from the store.
//! * *Replay*: the epochs (c, b], bound but not committed at the take-over, are read again.
//! * *Watermark*: the largest event time of a partition's accepted records; see [`watermark`].
//!
//! # Where things are
//!
//! | question | file |
//! |---|---|
//! | how trades add up | `operators/combine.rs`, and `Totals::add_trade` in `schemas` |
//! | which records count | `operators/partition.rs`, and `protocol/src/dedup.rs` (duplicate filter) |
//! | where a restart resumes | `operators/replay.rs`, and `protocol/src/resume.rs` |
//! | when an epoch is bound or committed | `coordinator/decisions.rs` |
//! | what a view contains | `views/window_views.rs` |
//! | how processes find and watch each other | `cluster/` |
//!
//! # Example
//!
//! This job reads the embedded log to its end and writes bars of one minute to the store in the
//! same SQLite file:
//!
//! ```no_run
//! use std::{path::Path, sync::Arc, time::Duration};
//!
//! use tapeflow_dataflow::{JobConfig, Limits, Metrics, Stop, run};
//! use tapeflow_log::sqlite::{Access, Database, SqliteLog};
//! use tapeflow_schemas::{Baskets, Horizons, WindowSize};
//! use tapeflow_sinks::sqlite::SqliteStore;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = JobConfig {
//!     job: "example".into(),
//!     workers: 2,
//!     processes: 1,
//!     process: 0,
//!     hosts: Vec::new(),
//!     secret: None,
//!     sizes: vec!["1m".parse::<WindowSize>()?],
//!     horizons: Horizons::NONE,
//!     baskets: Baskets::default(),
//!     epoch: Duration::from_millis(100),
//!     resident_bars: 12_000,
//!     most_ranked: tapeflow_schemas::view::MOST_RANKED,
//!     until_end: true,
//!     accept_loss: false,
//!     skip_batches: Vec::new(),
//!     limits: Limits::default(),
//! };
//! let runtime = tokio::runtime::Runtime::new()?;
//! let database = Database::open(Path::new("tapeflow.db"), Access::Job)?;
//! let log = SqliteLog::open(&database)?;
//! let store = SqliteStore::new(database);
//! let summary = run(
//!     config,
//!     Arc::new(log),
//!     Arc::new(store),
//!     Stop::default(),
//!     Arc::new(()),
//!     Arc::new(Metrics::default()),
//!     runtime.handle(),
//! )?;
//! println!("{} records, committed up to epoch {}", summary.records, summary.committed);
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
pub mod clock;
mod cluster;
mod config;
mod coordinator;
mod epoch_timestamps;
mod failure;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod hash;
mod job;
mod limits;
pub mod metrics;
mod observer;
mod operators;
mod repair_values;
mod shared;
mod shutdown;
pub mod stepped;
mod store_io;
mod topic_watch;
mod views;
pub mod watermark;
mod worker;

pub use cluster::keys::MIN_SECRET_CHARS;
pub use config::{JobConfig, baskets_of, calendar_of, horizons_of, sizes_of};
pub use failure::{EXIT_FENCED, JobError};
pub use job::{may_run, run};
pub use limits::Limits;
pub use metrics::{HistogramSnapshot, Metrics};
pub use observer::Observer;
pub use operators::bar_state::RESIDENT_BAR_BYTES;
pub use repair_values::{RepairValues, RowValues};
pub use shared::Summary;
pub use shutdown::Stop;
