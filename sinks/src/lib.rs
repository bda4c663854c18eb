//! Where exact rows go: the store's contract, the epoch protocol, and three stores.
//!
//! ```text
//!             facts ──▶ decide (pure) ──▶ what to do
//!               ▲                           │
//!  leader ── workflow: bind, commit ◀───────┘        rows ──▶ Store::write
//!               │                                              │
//!               └──────────── compare-and-set ────▶ memory │ SQLite │ Cassandra
//! ```
//!
//! *Epoch*: one durable cut of the log. *Binding*: the record that says where an epoch ends.
//! *Head*: the bindings and who may add to them. *Stamp*: the write timestamp of an epoch's rows.

pub mod audit;
pub mod cassandra;
pub mod decide;
pub mod failpoint;
pub mod filter;
pub mod head;
pub mod heal;
pub mod memory;
pub mod resume;
pub mod row;
pub mod sqlite;
pub mod store;
pub mod totals;
pub mod view;
pub mod workflow;

pub use audit::{Audited, Unlisted};
pub use head::{Binding, Cut, Epoch, Head, LostRange, SourceIdentity, Stamp};
pub use row::{RowKey, RowState, RowWrite};
pub use store::{
    CasOutcome, Counts, DirectoryEntry, EpochWrites, HistoryEntry, Reject, Store, StoreError,
};
pub use totals::{Policy, Sums, Totals};
pub use view::{StoredView, View, ViewEntry, ViewKey, ViewState, ViewWrite};
