//! The epoch protocol as a model, explored exhaustively: every order in which its processes, its
//! store and its crashes can take turns, for small logs.
//!
//! ```text
//!    log ──▶ process 0: binds, releases, reads back, writes, evicts, commits ──┐ writes under way   ┌─▶ replica 0 ┐
//!       ├──▶ process 1: takes over, replays (c, b] as of b, goes on ───────────┼────────────────────┼─▶ replica 1 ├─▶ readers: any two
//!       └──▶ process 2: ... (the others are zombies, or have crashed) ─────────┘ late, in any order └─▶ replica 2 ┘
//!                     └───────────── compare-and-set ─────────────▶ checkpoint
//! ```
//!
//! The guarantee cannot be tested by trying: what breaks it takes ten events in one order of
//! thousands. Here all orders are tried. A world is a small log and a choice of what is modelled
//! finely ([`worlds`]); a state is everything durable, everything under way and everything
//! remembered ([`state`]); a step is one thing that one process or the store does ([`steps`]);
//! rules are checked of every write, every step of the checkpoint and every state ([`invariants`]); and
//! breadth-first search finds the shortest way to what breaks one ([`explore()`]). A model that
//! finds nothing proves little unless it finds what is wrong: so each guard of the protocol can be
//! taken out ([`mutants`]), and then a rule must break.
//!
//! # What it follows
//! The code, not only the design. One step here, and where the code decides it:
//!
//! | step | code |
//! |---|---|
//! | take over: generation, recovery timestamp, write timestamps that never go back | `decide::take_over`, `Checkpoint::next_write_timestamp` |
//! | bind, commit, a commit riding with a binding | `decide::{bind, commit}`, `Coordinator::turn` |
//! | unknown outcomes: applied, sent again, fenced | `decide::resolve`, `workflow::propose`, `workflow::take_over` |
//! | nothing of the replay is committed before all of it; nothing is bound before all have replayed | `Coordinator::turn` (`replayed_at`, `replayed`) |
//! | at most so many epochs ahead | `coordinator::EPOCHS_AHEAD` |
//! | repeats, late records, the filter and the watermark as of the cut | `PartitionState`, `DuplicateFilter` |
//! | all of (c, b] released at time b; an epoch only after its binding | `source::{finish_replay, obey}` |
//! | an epoch is taken once every source has released it; early reads, replies used once | `Keeper::{receive, take_next}` |
//! | the rule that spares a read: watermark as of the b taken over, and evictions | `Keeper::may_exist` |
//! | the filter by the row's label, the limit that tells a zombie, absolute rows at the time's write timestamp | `Keeper::fold`, `EpochTimestamps::write_timestamp_of` |
//! | eviction once the last write is acknowledged | `Keeper::{hear, evict}` |
//! | an epoch is acknowledged once every row of it is, on all workers | the sink's frontier |
//!
//! Each row has a keeper, and so a worker, of its own (I8 holds by construction). A keeper of
//! several rows does what several keepers do one after the other. A crash is a process that takes
//! no further step, at any point; what it has sent goes on without it.
//!
//! # What is left out, because it can change nothing Replicas have no names. A write that all
//! replicas have is none. What a zombie can no longer use is forgotten. A commit that rides with a
//! binding is a commit and a binding where nothing can be lost between. A take-over that lost its
//! compare-and-set has not started. An acknowledgement is that two replicas have the write or a
//! newer one; a process may learn of it at any time later.
//!
//! # What is not explored More than five records, two rows, three generations, three replicas or
//! one symbol's windows of one size. Views and their rows; skips and dead letters; `history` and
//! the directory; TTL; partitions added; a log that is truncated or replaced; replicas that lose
//! what they acknowledged; workers of one generation that fail apart (the code makes all of them
//! leave); the sealing itself, which is no more than the choice of a cut; the inside of Paxos: the
//! checkpoint is linearizable. Read repair is either blocking and whole or absent. That something good
//! happens at last is checked only as: no state but a finished one is without a next step.

mod canon;
pub mod explore;
mod fingerprint;
pub mod invariants;
pub mod log;
pub mod mutants;
mod process;
pub mod state;
pub mod steps;
pub mod worlds;

pub use explore::{Outcome, Trace, explore};
pub use invariants::{Rule, Violation};
pub use mutants::Mutant;
pub use worlds::World;
