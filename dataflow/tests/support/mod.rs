//! Shared by the tests that run jobs.

#![allow(dead_code, reason = "each target uses a part of it")]
#![allow(unreachable_pub, reason = "a module of several test targets")]

pub mod check;
pub mod crashing_store;
pub mod feed;
pub mod interrupted_run;
pub mod job;
pub mod memory_log;
