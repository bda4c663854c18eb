//! The real job in a simulation: the operators, the coordinator and the workflow of
//! `tapeflow-dataflow` and `tapeflow-protocol`. A seeded scheduler steps several workers on one
//! thread. Log, network, three replicas and clocks are simulated.
//!
//! ```text
//!        ┌── append, crash, pause, start another, set the clock, silence replicas ──┐
//! seed ─▶│ scheduler: step a worker │ run its store calls │ advance the time │ read │
//!        └───────────────────────────────────┬──────────────────────────────────────┘
//!                                            ▼
//!   checker: every write when it is sent, every commit, every read, against the recomputation
//! ```
//!
//! A seed replays exactly: every choice comes from the seed and none from the machine. The
//! simulation replaces only what the job does not own. Seeds fail when a guard is removed from the
//! job's source.

mod allocators;
mod checked;
mod checker;
mod expiring;
mod feed;
mod job_process;
mod log;
mod partition_log;
mod recomputation;
mod repairing;
mod replica;
mod runtime;
mod seed;
mod store;
mod world;

pub use checked::Checked;
pub use seed::{Outcome, play};

/// The seeds of `kept.txt`: all that once failed.
#[must_use]
pub fn kept() -> Vec<u64> {
    let lines = include_str!("../kept.txt")
        .lines()
        .filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect()
}
