//! Timely's channels between workers of one process, all on one thread.

#![allow(
    unsafe_code,
    reason = "timely makes the ends of a process's channels on a thread each, and has no other way to make them"
)]

use timely::{
    CommunicationConfig,
    communication::{Allocator, initialize},
};

/// Carries an allocator from the thread that made it to the one that uses it.
struct Carried(Allocator);

// SAFETY: an allocator is not `Send` because it counts references to its own queue without atomics.
// It is carried before anyone has asked it for a channel or its queue, so that the only reference
// there is goes along with it, and the thread that made it ends.
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
