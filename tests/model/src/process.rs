//! One process: what it starts from, and what it has to do next for a bar. All of it follows from
//! the checkpoint it took over, the bindings it has learned of, and the log.

use crate::{
    log::{Cut, PARTITIONS, Totals, start_of},
    mutants::Mutant,
    state::{BarState, Checkpoint, Epoch, Memory, Process, Proposal, Stage, WriteTimestamp},
    worlds::{Sources, World},
};

impl Process {
    /// Begins work from the checkpoint that its take-over has put in place.
    pub(crate) fn begin(&mut self, world: &World, checkpoint: Checkpoint) {
        let (from, at) = (checkpoint.committed, checkpoint.bound);
        let from = if world.lacks(Mutant::NoReplay) {
            at
        } else {
            from
        };
        let (committed, bound) = (checkpoint.cut(from), checkpoint.cut(at));
        let filter = match world.mutant {
            Some(Mutant::FilterAsOfBound) => bound,
            Some(Mutant::FilterForgotten) => Cut::default(),
            _ => committed,
        };
        let watermark = if world.lacks(Mutant::WatermarkForgotten) {
            Cut::default()
        } else {
            committed
        };
        let partitions = if world.lacks(Mutant::WatermarkOfOnePartition) {
            0..1
        } else {
            0..PARTITIONS
        };
        *self = Self {
            stage: Stage::Running,
            checkpoint,
            replay_from: from,
            replay_at: at,
            reading: world.log.reading(committed, filter, watermark),
            watermark: if world.lacks(Mutant::WatermarkAtStart) {
                self.watermark
            } else {
                world.log.watermark(bound, partitions)
            },
            released: [if from == at { at } else { from }; PARTITIONS],
            ..Self::default()
        };
        for key in 0..world.keys {
            self.bar_states[key].taken = if self.last_time(world, key, at) == 0 {
                at
            } else {
                from
            };
        }
    }

    /// The checkpoint as its bar states know it.
    pub(crate) fn known(&self, world: &World) -> &Checkpoint {
        if world.lacks(Mutant::ReleaseBeforeBinding) && self.proposal != Proposal::None {
            &self.proposed
        } else {
            &self.checkpoint
        }
    }

    /// The last epoch each source has released.
    pub(crate) fn released(&self, world: &World) -> [Epoch; PARTITIONS] {
        match world.sources {
            Sources::Together => [self.known(world).bound; PARTITIONS],
            Sources::Apart => self.released,
        }
    }

    /// The epoch a record belongs to, as far as bound; `None` for records that do not count or lie
    /// below the start.
    fn epoch_of(&self, world: &World, record: usize) -> Option<Epoch> {
        let checkpoint = self.known(world);
        let counts = self.reading.counts(record);
        (self.replay_from + 1..=checkpoint.bound)
            .find(|epoch| counts && checkpoint.cut(*epoch).contains(&world.log.records[record]))
    }

    /// The epochs of a bar's records, one a record.
    fn epochs(&self, world: &World, key: usize) -> impl Iterator<Item = (usize, Epoch)> {
        let records = world
            .log
            .records
            .iter()
            .enumerate()
            .filter(move |(_, record)| record.key == key);
        records.filter_map(|(at, _)| Some((at, self.epoch_of(world, at)?)))
    }

    /// At which time an epoch is taken: all that is replayed, at one.
    fn time_of(&self, world: &World, epoch: Epoch) -> Epoch {
        if world.lacks(Mutant::ReplayIntermediate) {
            epoch
        } else {
            epoch.max(self.replay_at)
        }
    }

    /// The next time a bar has something for.
    pub(crate) fn next_time(&self, world: &World, key: usize) -> Option<Epoch> {
        let taken = self.bar_states[key].taken;
        self.epochs(world, key)
            .filter(|(_, epoch)| *epoch > taken)
            .map(|(_, epoch)| self.time_of(world, epoch))
            .min()
    }

    /// The last time not after an epoch at which the bar was, or is to be, written; 0 if there is
    /// none.
    pub(crate) fn last_time(&self, world: &World, key: usize, until: Epoch) -> Epoch {
        self.epochs(world, key)
            .filter(|(_, epoch)| *epoch <= until)
            .map(|(_, epoch)| self.time_of(world, epoch))
            .max()
            .unwrap_or(0)
    }

    /// Whether a partial of the bar has arrived that is not taken yet.
    pub(crate) fn has_arrived(&self, world: &World, key: usize) -> bool {
        let (taken, released) = (self.bar_states[key].taken, self.released(world));
        self.epochs(world, key).any(|(at, epoch)| {
            epoch > taken && self.time_of(world, epoch) <= released[world.log.records[at].partition]
        })
    }

    /// Whether any record of the bar may still come to this process: bound and not taken, or, for
    /// the owner of the job, not bound yet.
    pub(crate) fn may_need(&self, world: &World, key: usize, owner: bool) -> bool {
        let (taken, checkpoint) = (self.bar_states[key].taken, self.known(world));
        world
            .log
            .records
            .iter()
            .enumerate()
            .filter(|(at, record)| record.key == key && self.reading.counts(*at))
            .any(|(at, record)| {
                if checkpoint.cut(checkpoint.bound).contains(record) {
                    self.epoch_of(world, at).is_some_and(|epoch| epoch > taken)
                } else {
                    owner
                }
            })
    }

    /// Whether the bar state may take the time: all sources have released it, so that its frontier
    /// has passed.
    pub(crate) fn is_complete(&self, world: &World, time: Epoch) -> bool {
        let released = self.released(world);
        released.iter().all(|last| *last >= time)
            || world.lacks(Mutant::TakeBeforeFrontier) && released.iter().any(|last| *last >= time)
    }

    /// Whether every source has replayed.
    pub(crate) fn has_replayed(&self, world: &World) -> bool {
        self.released(world)
            .iter()
            .all(|last| *last >= self.replay_at)
    }

    /// Whether the bar may stand in the store: its window starts no later than any trade as of b,
    /// or than a bar evicted.
    pub(crate) fn may_exist(&self, world: &World, key: usize) -> bool {
        let evicted_up_to = if world.lacks(Mutant::EvictionsForgotten) {
            0
        } else {
            self.evicted_up_to
        };
        start_of(key) <= self.watermark.max(evicted_up_to)
    }

    /// Whether a time belongs to the replay.
    pub(crate) fn is_replay(&self, time: Epoch) -> bool {
        time <= self.replay_at
    }

    /// The write timestamp of what is written at a time.
    pub(crate) fn write_timestamp_of(&self, world: &World, time: Epoch) -> WriteTimestamp {
        if self.is_replay(time) {
            self.checkpoint.recovery_timestamp
        } else {
            self.known(world).write_timestamp(time)
        }
    }

    /// Whether a label that was read back cannot be there unless this process is a zombie.
    pub(crate) fn is_too_new(&self, world: &World, label: Epoch, time: Epoch) -> bool {
        let limit = match world.mutant {
            Some(Mutant::NoZombieAbort | Mutant::OffsetsInBars) => return false,
            Some(Mutant::LimitIsBound) => self.checkpoint.bound,
            _ if self.is_replay(time) => time.max(self.replay_at),
            _ => time - 1,
        };
        label > limit
    }

    /// A bar with the partials of a time added to it, but for those that its label says it holds.
    /// Second: whether any was added.
    pub(crate) fn fold(
        &self,
        world: &World,
        key: usize,
        time: Epoch,
        base: (Epoch, Totals),
    ) -> (Totals, bool) {
        let (label, before) = base;
        let (taken, released) = (self.bar_states[key].taken, self.released(world));
        let partials = self.epochs(world, key).filter(|(at, epoch)| {
            let record = &world.log.records[*at];
            let held = match world.mutant {
                Some(Mutant::NoEpochFilter) => false,
                Some(Mutant::OffsetsInBars) => Cut(label).contains(record),
                _ => *epoch <= label,
            };
            *epoch > taken
                && self.time_of(world, *epoch) == time
                && released[record.partition] >= time
                && !held
        });
        partials.fold((before, false), |(totals, _), (at, _)| {
            (self.reading.add(totals, at), true)
        })
    }

    /// The label of what is written at a time.
    pub(crate) fn label_of(&self, world: &World, time: Epoch) -> Epoch {
        if world.lacks(Mutant::OffsetsInBars) {
            self.checkpoint.cut(time).0
        } else {
            time
        }
    }

    /// What a bar state starts a time from, if it need not read: a resident bar, a reply, or
    /// nothing.
    pub(crate) fn base(&self, world: &World, key: usize) -> Option<(Epoch, Totals)> {
        let BarState { taken, memory } = self.bar_states[key];
        match memory {
            Memory::Resident { totals, .. } => Some((self.label_of(world, taken), totals)),
            Memory::Read { label, totals } => Some((label, totals)),
            Memory::Nothing if !self.may_exist(world, key) => Some((0, Totals::default())),
            Memory::Nothing | Memory::HalfRead { .. } => None,
        }
    }
}
