//! The epoch protocol as a model, explored exhaustively for small logs: every order of the steps of
//! its processes and its store, crashes included.
//!
//! ```text
//!    log ─▶ process 0: binds, releases, reads, writes, commits ┐        ┌─▶ replica 0 ┐
//!       ├─▶ process 1: takes over, replays (c, b], goes on ────┼─writes─┼─▶ replica 1 ├─▶ readers
//!       └─▶ process 2: (the others are zombies or crashed) ────┘        └─▶ replica 2 ┘   of two
//!                 └────── compare-and-set ──────▶ checkpoint    late, in any order
//! ```
//!
//! Tests with chosen orders cannot show the guarantee: a violation takes about ten events in one
//! order of thousands. The model tries all orders. A world is a small log and a choice of what is
//! modelled finely ([`worlds`]). A state is everything durable, everything in flight and everything
//! in memory ([`state`]). A step is one thing that one process or the store does ([`step`],
//! [`steps`]). Rules are checked on every write, every change of the checkpoint and every state
//! ([`invariants`]). Breadth-first search finds the shortest way to a violation ([`explore()`]).
//!
//! A model that finds nothing proves little unless it finds real errors. Each guard of the protocol
//! can therefore be removed ([`mutants`]), and then a rule must break.
//!
//! # What it follows
//! It follows the code, not only the design. Each step, and where the code decides it:
//!
//! | step | code |
//! |---|---|
//! | take over: generation, recovery timestamp, growing write timestamps | `decide::take_over` |
//! | bind, commit, a commit in the same write as a binding | `decide::{bind, commit}` |
//! | unknown outcomes: applied, sent again, fenced | `decide::resolve`, `workflow` |
//! | no commit before the whole replay is acknowledged | the coordinator (`replayed_at`) |
//! | no binding before all workers have replayed | the coordinator (`replayed`) |
//! | a bound on epochs that are bound and not committed | the coordinator (`epochs_ahead`) |
//! | repeats, late records, filter and watermark as of the cut | `PartitionState` |
//! | all of (c, b] is released at time b | the source (`finish_replay`) |
//! | a later epoch is released only after its binding | the source |
//! | an epoch is taken once every source has released it | the bar state (`take_next`) |
//! | early reads, whose replies are used once | the bar state (`receive`, `take_next`) |
//! | no read for a bar that cannot exist | the bar state (`may_exist`) |
//! | the filter by the bar's label, and the limit that detects a zombie | the bar state (`fold`) |
//! | absolute bars at the write timestamp of their time | the epoch timestamps |
//! | eviction once the last write is acknowledged | the bar state (`evict`) |
//! | an epoch is acknowledged once all its bars are, on all workers | the sink's frontier |
//!
//! Each bar has a bar state of its own, and so a worker of its own (I8 holds by construction). The
//! bar state of several bars does what several of them do one after the other. A crash is a process
//! that takes no further step, at any point. The messages that it has sent still arrive.
//!
//! # What is left out, because it changes nothing
//! - Replicas have no names.
//! - A write that all replicas have is removed.
//! - Memory that a zombie can no longer use is removed.
//! - Where no step can be lost, a commit in the same write as a binding is two steps.
//! - A take-over that lost its compare-and-set has not started.
//! - An acknowledgement means that two replicas have the write or a newer one; a process may learn
//!   of it at any later time.
//!
//! # What is not explored
//! - More than five records, two bars, three generations, three replicas, or one symbol's windows
//!   of one size.
//! - Views and their tables; skips and dead letters; `history` and the directory; TTL.
//! - Partitions added; a log that is truncated or replaced; replicas that lose acknowledged writes.
//! - Workers of one generation that fail apart: the code makes all of them leave.
//! - Sealing, which is only the choice of a cut.
//! - The inside of Paxos: the checkpoint is linearizable.
//! - Partial read repair: it is either blocking and complete or absent.
//! - Progress, except for one rule: every state that is not finished has a next step.

mod canon;
pub mod explore;
mod fingerprint;
pub mod invariants;
pub mod log;
pub mod mutants;
mod process;
pub mod state;
pub mod step;
pub mod steps;
pub mod worlds;

pub use explore::{Outcome, Trace, explore};
pub use invariants::{Rule, Violation};
pub use mutants::Mutant;
pub use worlds::World;
