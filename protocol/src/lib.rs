//! Exactly once: what the job decides, and what a store must do for it.
//!
//! ```text
//!                  facts ──▶ decide (pure) ──▶ what to do
//!                    ▲                           │
//!  coordinator ── workflow: bind, commit ◀───────┘        bars ──▶ Store::write
//!                    │                                              │
//!                    └────────────── compare-and-set ────▶ memory │ SQLite │ Cassandra
//! ```
//!
//! *Epoch*: one durable cut of the log. *Binding*: the record that says where an epoch ends.
//! *Checkpoint*: the bindings and who may add to them.

pub mod audit;
pub mod checkpoint;
pub mod decide;
pub mod dedup;
pub mod failpoint;
pub mod repair;
pub mod resume;
pub mod store;
pub mod workflow;

pub use audit::{Audited, Unlisted};
pub use checkpoint::{Binding, Checkpoint, Cut, LostRange, SourceIdentity};
pub use store::{
    CasOutcome, Counts, DeadLetter, DirectoryEntry, EpochWrites, HistoryEntry, Store, StoreError,
};
