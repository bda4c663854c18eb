//! Exactly once: what the job decides, and what a store must do for it.
//!
//! ```text
//!                  facts ──▶ decide (pure) ──▶ proposed checkpoint
//!                    ▲                           │
//!  coordinator ── workflow: bind, commit ◀───────┘        bars ──▶ EpochStore::write
//!                    │                                              │
//!                    └────────────── compare-and-set ────▶ memory │ SQLite │ Cassandra
//! ```
//!
//! | word | meaning |
//! |---|---|
//! | epoch | a cut of the log: one offset in each partition |
//! | binding | the durable decision where an epoch ends, and at which write timestamp it writes |
//! | checkpoint | the job's durable record: what is bound, what is committed, which generation owns it |
//! | generation | one run of the whole job; a later generation fences the earlier ones |
//! | recovery timestamp | the write timestamp at which a generation rewrites what it replays |
//!
//! | to change | look in |
//! |---|---|
//! | which checkpoint follows which | [`decide`] |
//! | how an unknown compare-and-set is resolved | [`workflow`] |
//! | where a restart resumes, and what it gives up | [`resume`] |
//! | which records are duplicates | [`dedup`] |
//! | how wrong bars are rewritten | [`repair`] |
//! | which bars may leave, and how | [`expiry`] |
//! | what a store must do | [`store`] |
//!
//! The decisions need no store and no clock:
//!
//! ```
//! use tapeflow_protocol::{
//!     Cut, SourceIdentity,
//!     decide::{Opening, bind, commit, take_over},
//! };
//!
//! let opening = Opening {
//!     job: "tapeflow".into(),
//!     fingerprint: "rules 1".into(),
//!     source: SourceIdentity { cluster: "c".into(), topic: "trades".into(), topic_id: None },
//!     earliest: vec![0],
//!     owner: "0123456789abcdef0123456789abcdef".into(),
//! };
//! // A fresh store: the first generation begins at the earliest offset.
//! let checkpoint = take_over(None, &opening, 1_000)?;
//! // Epoch 1 ends before offset 42. Its bars may be written now.
//! let bound = bind(&checkpoint, vec![Cut { next: 42, ..Cut::default() }], 0, 2_000);
//! assert_eq!((bound.committed.epoch, bound.last_binding().epoch), (0, 1));
//! // A quorum has all bars of epoch 1.
//! let committed = commit(&bound, 1);
//! assert_eq!(committed.committed.cuts[0].next, 42);
//! # Ok::<(), tapeflow_protocol::decide::Refusal>(())
//! ```

pub mod audit;
pub mod checkpoint;
pub mod decide;
pub mod dedup;
pub mod expiry;
pub mod failpoint;
mod fingerprint;
pub mod log_throttle;
pub mod repair;
pub mod resume;
pub mod store;
pub mod workflow;

pub use audit::{Audited, Unlisted};
pub use checkpoint::{Binding, Checkpoint, Cut, LastRecord, LostRange, SourceIdentity};
pub use expiry::{Expired, Expiry, ExpiryMarks};
pub use store::{
    AuditStore, BarReader, CasOutcome, CheckpointStore, Counts, DeadLetter, DirectoryEntry,
    EpochStore, EpochWrites, ExpiryStore, FeedGap, HistoryEntry, JobStore, Store, StoreError,
    SymbolDirectory,
};
