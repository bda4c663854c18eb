//! The embedded form as a user runs it: the binary, its commands, one SQLite file, killed and
//! stopped at bad moments. Needs no server.

mod audit;
mod bench;
mod endings;
mod flags;
mod http;
mod judge;
mod lists;
mod loss;
mod repair;
mod retention;
mod values;

use tapeflow_support::{command, serving};
