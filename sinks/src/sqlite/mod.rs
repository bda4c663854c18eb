//! The SQLite store: bars, views, the checkpoint, dead letters and feed gaps in tables that any
//! SQLite tool reads. The file also holds the log, and both share one writer ([`tapeflow_log::sqlite`]).

mod bars;
mod expiry;
mod feed_gaps;
mod store;
mod views;

pub use store::SqliteStore;
