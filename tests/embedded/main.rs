//! The embedded form as a user runs it: the binary and its commands on one SQLite file, also
//! stopped and killed at bad moments. These tests need no server.

mod audit;
mod bench;
mod comparison;
mod endings;
mod feed_gaps;
mod files;
mod flags;
mod history;
mod horizon;
mod http;
mod inputs;
mod loss;
mod memory;
mod outages;
mod recordings;
mod refusals;
mod repair;
mod retention;
mod rows;
mod sessions;
mod spool;
mod values;
mod views;

use tapeflow_support::{command, serving, tapeflow};
