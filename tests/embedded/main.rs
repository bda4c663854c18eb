//! The embedded form as a user runs it: the binary and its commands on one SQLite file, also
//! stopped and killed at bad moments. These tests need no server.

mod audit;
mod bench;
mod comparison;
mod endings;
mod flags;
mod history;
mod http;
mod loss;
mod repair;
mod retention;
mod values;
mod views;

use tapeflow_support::{command, serving};
