//! From log records to exact bars: the timely dataflow.
//!
//! ```text
//!          log                                   coordinator (worker 0)
//!           │  records                     Seal │ ▲ cuts      │ Bound
//!           ▼                                   ▼ │           ▼
//!        source ──partition──▶ combine ──▶ sealed map ──────▶ release
//!        (decide: count,       (add up)                          │ partials, exchanged by symbol
//!         repeat, reject)                                        ▼
//!                              store ◀──read back──── state (fold, once an epoch is complete)
//!                                ▲                               │ bars, absolute, at the binding's write timestamp
//!                                └────────── write ───────── sink ──▶ frontier: the epoch can be committed
//! ```
//!
//! *Partial*: the combined trades of one window in one epoch. *Resident*: a bar kept in memory.
//! *Replay*: the epochs bound and not committed when this generation took over, read again.

#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
pub mod clock;
mod cluster;
mod coordinator;
mod hash;
pub mod job;
pub mod metrics;
pub mod operators;
pub mod recompute;
pub mod stepped;
mod store_io;
mod topic_watch;
mod views;
mod worker;

pub use job::{
    EXIT_FENCED, JobConfig, JobError, Observer, Stop, Summary, baskets_of, may_run, run, sizes_of,
};
pub use metrics::{Metrics, Observed};
pub use recompute::Recompute;
