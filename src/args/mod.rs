//! The command line: the flags of each command, their environment variables, and the checks across
//! flags. [`parse`] reports every unreadable value at once, and each `check` every other error.

pub(crate) mod bench;
pub(crate) mod commands;
pub(crate) mod end;
pub(crate) mod errors;
pub(crate) mod expire;
pub(crate) mod feed;
mod help;
pub(crate) mod http;
pub(crate) mod job;
pub(crate) mod log;
pub(crate) mod parse;
pub(crate) mod read;
pub(crate) mod run;
pub(crate) mod spool;
pub(crate) mod store;
pub(crate) mod values;
pub(crate) mod verify;

pub(crate) use commands::{Cli, Command};
