//! The real job in a simulated world: the operators, the coordinator and the workflow of
//! `tapeflow-dataflow` and `tapeflow-sinks`, several workers stepped on one thread by a seeded
//! scheduler, on a simulated log, a simulated network with three replicas, and clocks that are off.
//!
//! ```text
//!          ┌── append, crash, pause, start another, set the clock, silence replicas ──┐
//!  seed ──▶│ scheduler: turn one worker │ let its calls go on │ move the time │ read    │──▶ judge: every write as it is sent, every commit,
//!          └────────────────────────────────────────────────────────────────────────┘    every read, against the recomputation
//! ```
//!
//! A seed replays exactly: every choice comes from it, nothing from the machine. What is simulated
//! is what the job does not own; a guard taken out of the job's source makes seeds fail.

mod allocators;
mod checker;
mod feed;
mod job_process;
mod log;
mod replica;
mod seed;
mod store;
mod world;

pub use checker::Checked;
pub use seed::{Outcome, play};

/// The seeds of `kept.txt`: those that were ever found to fail.
#[must_use]
pub fn kept() -> Vec<u64> {
    let lines = include_str!("../kept.txt")
        .lines()
        .filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect()
}
