//! What tests of the binary share: its commands, a store of their own, a process that serves.
//!
//! Only tests of the root package use it, for only there does cargo build the binary first.

pub mod binary;
pub mod blocks;
pub mod command;
pub mod serving;

pub use binary::tapeflow;
