//! Internals that `bench/parts` measures. Not part of the public interface.

use std::time::{Duration, Instant};

use tapeflow_log::LogRecord;
use tapeflow_protocol::Cut;
use tapeflow_schemas::{WindowSize, codec::Entry};

use crate::{
    limits::Limits,
    operators::{
        combine::Combiner,
        partition::{Intake, PartitionState},
    },
    views::bench::ViewBench,
};

/// The source of one partition, without a log.
pub struct Source {
    state: PartitionState,
    intake: Intake,
    entries: Vec<Entry>,
}

impl Source {
    /// A source that has read nothing.
    #[must_use]
    pub fn new(sizes: &[WindowSize]) -> Self {
        Self {
            state: PartitionState::from_cut(0, &Cut::default()),
            intake: Intake::new(Combiner::new(
                sizes,
                &tapeflow_schemas::Horizons::NONE,
                &Limits::default(),
            )),
            entries: Vec::new(),
        }
    }

    /// Decodes and combines the next record.
    pub fn take(&mut self, payload: &[u8]) {
        let record = LogRecord {
            partition: 0,
            offset: self.state.next,
            timestamp_ms: 0,
            payload: Some(payload),
        };
        self.state.take(record, &mut self.entries, &mut self.intake);
    }

    /// The number of accepted trades.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.intake.counts.accepted
    }

    /// The number of open windows.
    #[must_use]
    pub fn windows(&self) -> u64 {
        self.intake.combiner.len() as u64
    }

    /// Seals an epoch. Returns the number of exchange items.
    pub fn seal(&mut self) -> usize {
        self.intake.combiner.seal(1).len()
    }
}

/// Measures `epochs` epochs in each of which `changed` of a window's bars change: from the changes of
/// a worker to the views' cells. The window has a bar of each symbol before.
///
/// # Panics
/// Only if a symbol `S<number>` were invalid.
#[must_use]
pub fn views(symbols: usize, changed: usize, epochs: u64) -> Duration {
    let mut bench = ViewBench::new(symbols);
    bench.epoch(0, 0..symbols);
    let started = Instant::now();
    for epoch in 1..=epochs {
        // Spread over the symbols, different ones in each epoch.
        let offset = usize::try_from(epoch).unwrap_or(0) * 13;
        bench.epoch(epoch, (0..changed).map(|n| (n * 7 + offset) % symbols));
    }
    started.elapsed()
}
