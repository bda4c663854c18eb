//! The worlds: small logs and choices of what is modelled finely, each for a part of the protocol.
//!
//! A world with every part modelled finely is too large to explore. Each world is therefore fine in
//! the part that it examines, and coarse where a coarse step leaves out nothing: see the variants
//! of [`Cas`], [`Sources`] and [`Reads`].

use crate::{
    log::{Cut, Log, Record},
    mutants::Mutant,
    state::{Checkpoint, Epoch, WriteTimestamp},
};

/// How compare-and-sets of the checkpoint are modelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cas {
    /// Sent, applied and answered in one step. This leaves out nothing: a conditional write that is
    /// applied late equals one that is sent late, and one whose answer is lost equals one after
    /// which the process does nothing more.
    AtOnce,
    /// Sent, then applied or not, then answered or not, with other steps in between:
    /// unknown outcomes, a coordinator that resolves them, a proposal of a dead process that is
    /// applied later.
    InFlight,
}

/// How sources release what is bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sources {
    /// All at once, when the process learns of the binding.
    Together,
    /// Each partition's source in its own time: bar states see partials of one and not of the
    /// other.
    Apart,
}

/// How bars are read back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reads {
    /// From two replicas at one moment.
    AtOnce,
    /// From two replicas, one after the other.
    Apart,
}

/// One world.
#[derive(Clone, Debug)]
pub struct World {
    /// Its name on the command line.
    pub name: &'static str,
    /// What it is for.
    pub about: &'static str,
    /// The log.
    pub log: Log,
    /// Keys in use.
    pub keys: usize,
    /// How many processes may take the job over, one generation each.
    pub generations: usize,
    /// The most epochs bound and not committed (4 in the real coordinator).
    pub epochs_ahead: u8,
    /// See there.
    pub cas: Cas,
    /// See there.
    pub sources: Sources,
    /// See there.
    pub reads: Reads,
    /// Whether a quorum read repairs the replicas it has read, and readers beside the job look on.
    /// Repair hides mistakes, so most worlds have none.
    pub repair: bool,
    /// The guard that is missing.
    pub mutant: Option<Mutant>,
}

/// The clocks of the processes: the second's is far behind, the third's far ahead.
const CLOCKS: [WriteTimestamp; 3] = [20, 0, 60];

fn record(partition: usize, key: usize, event: u8, sequence: u8) -> Record {
    Record {
        partition,
        key,
        event,
        session: 1,
        sequence,
        offset: 0,
    }
}

impl World {
    /// All worlds.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let base = Self {
            name: "",
            about: "",
            log: Log::new(Vec::new()),
            keys: 1,
            generations: 2,
            epochs_ahead: 4,
            cas: Cas::AtOnce,
            sources: Sources::Together,
            reads: Reads::AtOnce,
            repair: false,
            mutant: None,
        };
        let three = || {
            Log::new(vec![
                record(0, 0, 1, 1),
                record(0, 0, 2, 2),
                record(1, 0, 3, 1),
            ])
        };
        let four = || {
            Log::new(vec![
                record(0, 0, 1, 1),
                record(0, 0, 2, 2),
                record(1, 0, 3, 1),
                record(1, 0, 4, 2),
            ])
        };
        vec![
            Self {
                name: "hydrate",
                about: "three records of one bar in two partitions, up to three epochs in (c, b], \
                eviction and reading back, three generations",
                log: four(),
                generations: 3,
                ..base.clone()
            },
            Self {
                name: "repair",
                about: "as hydrate, with read repair and readers that must never see the bar go \
                back",
                log: four(),
                generations: 3,
                epochs_ahead: 2,
                repair: true,
                ..base.clone()
            },
            Self {
                name: "zombies",
                about: "two generations at work at once, compare-and-sets with unknown outcomes, \
                proposals and writes that outlive their process",
                log: three(),
                cas: Cas::InFlight,
                epochs_ahead: 2,
                generations: 3,
                ..base.clone()
            },
            Self {
                name: "repeats",
                about: "a repeated sequence, and one that counts again since its session was \
                forgotten, with cuts anywhere between",
                log: Log::new(vec![
                    record(0, 0, 1, 1),
                    record(0, 0, 1, 1),
                    Record {
                        session: 2,
                        ..record(0, 0, 2, 1)
                    },
                    record(0, 0, 1, 1),
                    record(1, 0, 3, 1),
                ]),
                generations: 3,
                epochs_ahead: 2,
                ..base.clone()
            },
            Self {
                name: "windows",
                about: "two windows, the rule that spares a read, late records and evictions",
                log: Log::new(vec![
                    record(0, 1, 12, 1),
                    record(0, 0, 2, 2),
                    record(1, 1, 13, 1),
                ]),
                keys: 2,
                generations: 3,
                ..base.clone()
            },
            Self {
                name: "workers",
                about: "two sources that release apart, early reads, and reads of two replicas at \
                two moments",
                log: three(),
                epochs_ahead: 2,
                sources: Sources::Apart,
                reads: Reads::Apart,
                generations: 3,
                ..base.clone()
            },
            Self {
                name: "everything",
                about: "every part modelled finely, for two generations",
                log: three(),
                epochs_ahead: 2,
                cas: Cas::InFlight,
                sources: Sources::Apart,
                reads: Reads::Apart,
                ..base
            },
        ]
    }

    /// The world of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|world| world.name == name)
    }

    /// The same world without a guard.
    #[must_use]
    pub fn with(self, mutant: Mutant) -> Self {
        Self {
            mutant: Some(mutant),
            ..self
        }
    }

    /// Whether this guard is missing.
    #[must_use]
    pub fn lacks(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// The next write timestamp a process issues (`Checkpoint::next_write_timestamp`).
    #[must_use]
    pub fn next_write_timestamp(&self, process: usize, checkpoint: &Checkpoint) -> WriteTimestamp {
        CLOCKS[process].max(checkpoint.last_write_timestamp + 1)
    }

    /// The write timestamp of a take-over.
    #[must_use]
    pub fn recovery_timestamp(&self, process: usize, found: &Checkpoint) -> WriteTimestamp {
        if self.lacks(Mutant::WriteTimestampsFromOwnClock) {
            CLOCKS[process] + 1
        } else {
            self.next_write_timestamp(process, found)
        }
    }

    /// The prefix of the log that a bar's label names; `None` if it names nothing.
    #[must_use]
    pub fn prefix(&self, checkpoint: &Checkpoint, label: Epoch) -> Option<Cut> {
        if self.lacks(Mutant::OffsetsInBars) {
            return Some(Cut(label));
        }
        (label <= checkpoint.bound).then(|| checkpoint.cut(label))
    }
}
