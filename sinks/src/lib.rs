//! Where bars go: three stores with one contract ([`tapeflow_protocol::Store`]).

pub mod cassandra;
pub mod memory;
pub mod sqlite;
