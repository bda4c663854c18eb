//! Internals that `tests/fuzz` feeds with arbitrary bytes. Not part of the public interface.

use tapeflow_log::LogRecord;
use tapeflow_protocol::{Counts, Cut, DeadLetter};
use tapeflow_schemas::{Horizons, WindowSize, codec::Entry};

pub use crate::cluster::handshake::fuzz::check_line;
use crate::{
    limits::Limits,
    operators::{
        combine::Combiner,
        partition::{Intake, PartitionState},
    },
};

/// The first partition as a job reads it, without a log.
pub struct Partition {
    state: PartitionState,
    intake: Intake,
    entries: Vec<Entry>,
}

impl Partition {
    /// A partition of which nothing was read.
    #[must_use]
    pub fn new(sizes: &[WindowSize]) -> Self {
        Self {
            state: PartitionState::from_cut(0, &Cut::default()),
            intake: Intake::new(Combiner::new(sizes, &Horizons::NONE, &Limits::default())),
            entries: Vec::new(),
        }
    }

    /// Takes the next record.
    pub fn take(&mut self, record: LogRecord<'_>) {
        self.state.take(record, &mut self.entries, &mut self.intake);
    }

    /// What became of the records so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.intake.counts
    }

    /// Takes the dead letters out.
    pub fn dead_letters(&mut self) -> Vec<DeadLetter> {
        self.intake.dead_letters.take()
    }
}
