//! The state of a world: the checkpoint, the replicas of the bars, the writes in flight, and the
//! processes with all they remember.
//!
//! A state is a plain value. Facts that cannot affect any later step are left out or set to zero
//! (`canon.rs`).

use crate::log::{Cut, EventTime, KEYS, PARTITIONS, RECORDS, Reading, Totals};

/// Copies of each bar.
pub const REPLICAS: usize = 3;
/// The most epochs of a world: each holds a record at least.
pub const EPOCHS: usize = RECORDS;
/// The most processes, and so generations, of a world.
pub const PROCESSES: usize = 3;
/// The most writes that may be in flight at once.
const WRITES: usize = 12;

/// An epoch's number; 0 stands for "none yet".
pub type Epoch = u8;
/// The write timestamp of bars.
pub type WriteTimestamp = u8;

/// The durable state of the job, which only compare-and-set touches.
///
/// Other than the real checkpoint it keeps the bindings of committed epochs: so that it can be told
/// what the label of a bar says.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Checkpoint {
    /// One more with each take-over.
    pub generation: u8,
    /// One more with each compare-and-set, where they are modelled in flight.
    pub version: u8,
    /// The process that took the job over, from 1.
    pub owner: u8,
    /// *c*.
    pub committed: Epoch,
    /// *b*.
    pub bound: Epoch,
    /// The write timestamp of what this generation replays.
    pub recovery_timestamp: WriteTimestamp,
    /// The largest write timestamp ever issued.
    pub last_write_timestamp: WriteTimestamp,
    cuts: [Cut; EPOCHS],
    write_timestamps: [WriteTimestamp; EPOCHS],
}

impl Checkpoint {
    /// Where an epoch ends; epoch 0 ends before the first record.
    #[must_use]
    pub fn cut(&self, epoch: Epoch) -> Cut {
        if epoch == 0 {
            Cut::default()
        } else {
            self.cuts[usize::from(epoch) - 1]
        }
    }

    /// The write timestamp of an epoch's bars.
    #[must_use]
    pub fn write_timestamp(&self, epoch: Epoch) -> WriteTimestamp {
        self.write_timestamps[usize::from(epoch) - 1]
    }

    /// Adds a binding.
    pub fn bind(&mut self, cut: Cut, write_timestamp: WriteTimestamp) {
        self.cuts[usize::from(self.bound)] = cut;
        self.write_timestamps[usize::from(self.bound)] = write_timestamp;
        self.bound += 1;
    }

    /// Forgets the bindings after an epoch. No right process does.
    pub fn forget_after(&mut self, epoch: Epoch) {
        self.cuts[usize::from(epoch)..].fill(Cut::default());
        self.write_timestamps[usize::from(epoch)..].fill(0);
        self.bound = epoch;
    }

    /// Cuts and write timestamps of all epochs.
    pub(crate) fn bindings(&self) -> ([Cut; EPOCHS], [WriteTimestamp; EPOCHS]) {
        (self.cuts, self.write_timestamps)
    }

    /// What a compare-and-set is conditional on.
    #[must_use]
    pub fn identity(&self) -> (u8, u8, u8) {
        (self.generation, self.version, self.owner)
    }
}

/// One replica's copy of a bar: label and exact state. They are one cell, and so have one write
/// timestamp; the second write timestamp is for the mutant that keeps them apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Cell {
    /// When it was written; 0: never.
    pub write_timestamp: WriteTimestamp,
    /// The last epoch it contains.
    pub label: Epoch,
    /// When the totals were written.
    pub totals_write_timestamp: WriteTimestamp,
    /// What it holds.
    pub totals: Totals,
}

impl Cell {
    /// The newer of two copies, cell by cell.
    #[must_use]
    pub fn newest(self, other: Self) -> Self {
        let (label, totals) = (
            if self.write_timestamp >= other.write_timestamp {
                self
            } else {
                other
            },
            if self.totals_write_timestamp >= other.totals_write_timestamp {
                self
            } else {
                other
            },
        );
        Self {
            write_timestamp: label.write_timestamp,
            label: label.label,
            totals_write_timestamp: totals.totals_write_timestamp,
            totals: totals.totals,
        }
    }

    /// Whether a write of this cell would change nothing there.
    #[must_use]
    pub fn is_in(self, copy: Self) -> bool {
        copy.write_timestamp >= self.write_timestamp
            && copy.totals_write_timestamp >= self.totals_write_timestamp
    }
}

/// A write that has left its process. Any replica may take it at any time, however often; nothing
/// ends it but that all have it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Debug)]
pub struct Write {
    /// The bar.
    pub key: u8,
    /// What is written.
    pub cell: Cell,
}

/// The writes in flight, in order, so that the same set is the same value.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Writes {
    count: u8,
    list: [Write; WRITES],
}

impl Writes {
    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Write] {
        &self.list[..usize::from(self.count)]
    }

    /// Adds one.
    ///
    /// # Panics
    /// If there are too many: the world is too large for this model.
    pub fn add(&mut self, write: Write) {
        let Err(at) = self.all().binary_search(&write) else {
            return;
        };
        let count = usize::from(self.count);
        assert!(
            count < WRITES,
            "more than {WRITES} writes under way: raise the bound"
        );
        self.list.copy_within(at..count, at + 1);
        self.list[at] = write;
        self.count += 1;
    }

    /// Keeps some.
    pub fn retain(&mut self, keep: impl Fn(&Write) -> bool) {
        let kept = std::mem::take(self);
        for write in kept.all().iter().filter(|write| keep(write)) {
            self.list[usize::from(self.count)] = *write;
            self.count += 1;
        }
    }
}

/// The stage of a process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum Stage {
    /// Not started.
    #[default]
    Absent,
    /// Started, and nothing read yet (only where a mutant has done something by then).
    Started,
    /// Its take-over is in flight.
    Opening,
    /// Running. A crashed or paused process is one that takes no step from here on.
    Running,
    /// It takes no more steps that matter.
    Gone,
}

/// How far a compare-and-set has come; at most one is in flight per process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub enum Proposal {
    /// None is in flight.
    #[default]
    None,
    /// Sent, and its outcome unknown: it may be applied now, later or never; it is sent again as
    /// long as the checkpoint is what it was.
    InFlight,
    /// Applied; its process has not learned of it.
    Applied,
    /// It can no longer be applied; its process stops when it learns of that.
    Lost,
}

/// What a process has of a bar in its memory.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Memory {
    /// Nothing.
    #[default]
    Nothing,
    /// A read is in flight: one replica has answered.
    HalfRead {
        /// Which.
        replica: u8,
        /// What it said.
        cell: Cell,
    },
    /// A read was answered by a quorum; the reply is kept until it is used.
    Read {
        /// The label of the bar.
        label: Epoch,
        /// Its content.
        totals: Totals,
    },
    /// The bar is resident.
    Resident {
        /// Its content.
        totals: Totals,
        /// Whether the last change was sent as a write (else nothing needs acknowledging).
        sent: bool,
        /// A reply that should have been discarded.
        stale: Option<(Epoch, Totals)>,
    },
}

/// the bar state of one bar in one process. Each bar has a worker of its own.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct BarState {
    /// The last time taken.
    pub taken: Epoch,
    /// The bar.
    pub memory: Memory,
}

/// One process: one generation, all its workers together.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Process {
    /// How far it has come.
    pub stage: Stage,
    /// The checkpoint as it knows it.
    pub checkpoint: Checkpoint,
    /// Its compare-and-set.
    pub proposal: Proposal,
    /// What that proposes.
    pub proposed: Checkpoint,
    /// *c* when it took over: it replays the epochs above.
    pub replay_from: Epoch,
    /// *b* when it took over: it replays up to here, all at this one time.
    pub replay_at: Epoch,
    /// How it reads the log.
    pub reading: Reading,
    /// The watermark as of that *b*: no bar can stand in a later window.
    pub watermark: EventTime,
    /// The latest window evicted: bars up to here may exist after all.
    pub evicted_up_to: EventTime,
    /// For each source the last epoch released, where sources are modelled apart.
    pub released: [Epoch; PARTITIONS],
    /// The bar states of bars.
    pub bar_states: [BarState; KEYS],
}

/// A state of the world.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct State {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// The replicas.
    pub replicas: [[Cell; KEYS]; REPLICAS],
    /// The writes in flight.
    pub writes: Writes,
    /// The label of the newest copy of each bar that any reader has seen.
    pub seen: [Epoch; KEYS],
    /// The processes.
    pub processes: [Process; PROCESSES],
}

impl State {
    /// What a quorum read finds that leaves one replica out.
    #[must_use]
    pub fn quorum_without(&self, replica: usize, key: usize) -> Cell {
        self.replicas[(replica + 1) % REPLICAS][key]
            .newest(self.replicas[(replica + 2) % REPLICAS][key])
    }

    /// How many replicas have all that was written to the bar up to a write timestamp, or newer.
    #[must_use]
    pub fn holders(&self, key: usize, write_timestamp: WriteTimestamp) -> usize {
        self.replicas
            .iter()
            .filter(|copy| {
                copy[key].write_timestamp >= write_timestamp
                    && copy[key].totals_write_timestamp >= write_timestamp
            })
            .count()
    }
}
