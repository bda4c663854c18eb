//! The embedded form as a user runs it: the binary, its commands, one SQLite file, killed and
//! stopped at bad moments. Needs no server.

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
