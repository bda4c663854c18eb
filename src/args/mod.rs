//! The command line: what each command takes, where else a value may come from, and what is wrong
//! with it, all at once.

pub(crate) mod bench;
pub(crate) mod commands;
pub(crate) mod errors;
pub(crate) mod feed;
pub(crate) mod http;
pub(crate) mod job;
pub(crate) mod log;
pub(crate) mod read;
pub(crate) mod run;
pub(crate) mod store;
pub(crate) mod values;
pub(crate) mod verify;

pub(crate) use commands::{Cli, Command};
