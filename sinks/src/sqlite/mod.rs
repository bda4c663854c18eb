//! The SQLite store: bars, views, the checkpoint and dead letters in tables that any SQLite tool
//! reads, in the file that also holds the log ([`tapeflow_log::sqlite`]).

mod rows;
mod store;
mod views;

pub use store::SqliteStore;
