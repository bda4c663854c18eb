//! A hook for code that displays what the job writes: the live page, the terminal, a test.

use tapeflow_protocol::EpochWrites;
use tapeflow_schemas::WindowSize;

/// Is called with acknowledged writes, on the job's own threads. Its methods must not block.
pub trait Observer: Send + Sync + 'static {
    /// The store has acknowledged these writes of one epoch. They may not be committed yet.
    fn acknowledged(&self, _epoch: u64, _writes: &EpochWrites) {}

    /// The window size whose bars of all processes the observer of process 0 receives. Called once
    /// in each process. `None`: each observer receives the bars of its own process only.
    fn shared_size(&self) -> Option<WindowSize> {
        None
    }
}

/// Ignores everything.
impl Observer for () {}
