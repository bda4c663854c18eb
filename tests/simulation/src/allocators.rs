//! Timely's channels between workers of one process, all on one thread.

#![allow(
    unsafe_code,
    reason = "timely makes the ends of a process's channels on a thread each, and has no other \
    way to make them"
)]

use timely::{
    CommunicationConfig,
    communication::{Allocator, initialize},
};

/// Carries an allocator from the thread that made it to the one that uses it.
struct Carried(Allocator);

// SAFETY: an allocator is not `Send` because it counts references to its own queue without atomics.
// It moves before its first channel or queue exists. The only reference therefore moves with it,
// and the thread that made it ends.
unsafe impl Send for Carried {}

/// The allocators of so many workers.
///
/// # Panics
/// If threads cannot be started.
pub(crate) fn allocators(workers: usize) -> Vec<Allocator> {
    // Each waits for all others while it is made.
    let made = initialize(CommunicationConfig::Process(workers), Carried)
        .expect("a process needs no network");
    made.join()
        .into_iter()
        .map(|carried| carried.expect("making an allocator does not fail").0)
        .collect()
}
