//! Every step that may come next: one process does one thing, or the store does.
//!
//! A crash is not a step of its own. A crashed process takes no further steps, and the messages
//! that it has sent still arrive.

use crate::{
    invariants::{Checked, Rule, Violation, broken, check_checkpoint, check_write},
    log::{Cut, KEYS, PARTITIONS, start_of},
    mutants::Mutant,
    state::{
        Cell, Checkpoint, EPOCHS, Epoch, Memory, Process, Proposal, REPLICAS, Stage, State, Write,
    },
    step::Step,
    worlds::{Cas, Reads, Sources, World},
};

/// A step that broke a rule.
#[derive(Clone, Debug)]
pub struct BrokenStep {
    /// The step.
    pub step: Step,
    /// What it broke.
    pub violation: Violation,
}

/// Collects all steps out of a state.
pub(crate) fn steps(
    world: &World,
    state: &State,
    into: &mut Vec<(Step, State)>,
) -> Result<(), BrokenStep> {
    let mut steps = Steps { world, state, into };
    steps.start()?;
    for process in 0..world.generations {
        steps.checkpoint(process)?;
        if state.processes[process].stage == Stage::Running {
            steps.release(process);
            for key in 0..world.keys {
                steps.read(process, key);
                steps.fold(process, key)?;
                steps.evict(process, key);
            }
            steps.propose(process)?;
        }
    }
    steps.replicas();
    steps.readers();
    Ok(())
}

struct Steps<'a> {
    world: &'a World,
    state: &'a State,
    into: &'a mut Vec<(Step, State)>,
}

impl Steps<'_> {
    fn to(&mut self, step: Step, change: impl FnOnce(&mut State)) {
        let mut next = *self.state;
        change(&mut next);
        self.into.push((step, next));
    }

    fn checked(step: Step, checked: Checked) -> Result<(), BrokenStep> {
        checked.map_err(|violation| BrokenStep { step, violation })
    }

    /// The next process starts.
    fn start(&mut self) -> Result<(), BrokenStep> {
        let (world, found) = (self.world, self.state.checkpoint);
        let processes = &self.state.processes[..world.generations];
        if let Some(process) = processes
            .iter()
            .position(|process| process.stage == Stage::Started)
        {
            return self.take_over(process);
        }
        let Some(process) = processes
            .iter()
            .position(|process| process.stage == Stage::Absent)
        else {
            return Ok(());
        };
        if world.lacks(Mutant::WatermarkAtStart) {
            let watermark = world.log.watermark(found.cut(found.bound), 0..PARTITIONS);
            self.to(Step::Start { process }, |next| {
                next.processes[process] = Process {
                    stage: Stage::Started,
                    watermark,
                    ..Process::default()
                };
            });
            return Ok(());
        }
        match world.cas {
            Cas::AtOnce => self.take_over(process),
            Cas::InFlight => {
                let proposed = opening(world, process, &found);
                self.to(Step::ProposeTakeOver { process }, |next| {
                    next.processes[process] = Process {
                        stage: Stage::Opening,
                        checkpoint: found,
                        proposal: Proposal::InFlight,
                        proposed,
                        ..Process::default()
                    };
                });
                Ok(())
            }
        }
    }

    fn take_over(&mut self, process: usize) -> Result<(), BrokenStep> {
        let checkpoint = opening(self.world, process, &self.state.checkpoint);
        let step = Step::TakeOver {
            process,
            checkpoint,
        };
        Self::checked(
            step,
            check_checkpoint(self.world, &self.state.checkpoint, &checkpoint),
        )?;
        let world = self.world;
        self.to(step, |next| {
            next.checkpoint = checkpoint;
            next.processes[process].begin(world, checkpoint);
        });
        Ok(())
    }

    /// What becomes of a process's compare-and-set.
    fn checkpoint(&mut self, process: usize) -> Result<(), BrokenStep> {
        let (world, checkpoint) = (self.world, &self.state.checkpoint);
        let Process {
            stage,
            proposal,
            proposed,
            checkpoint: expected,
            ..
        } = self.state.processes[process];
        if proposal == Proposal::InFlight
            && (checkpoint.identity() == expected.identity()
                || world.lacks(Mutant::CasUnconditional))
        {
            let step = Step::Applied { process };
            Self::checked(step, check_checkpoint(world, checkpoint, &proposed))?;
            self.to(step, |next| {
                next.checkpoint = proposed;
                next.processes[process].proposal = Proposal::Applied;
            });
        }
        let same_numbers = (checkpoint.generation, checkpoint.version)
            == (proposed.generation, proposed.version)
            && *checkpoint != proposed;
        let misattributed = world.lacks(Mutant::ResolveByVersion)
            && matches!(proposal, Proposal::InFlight | Proposal::Lost)
            && same_numbers;
        if proposal == Proposal::Applied || misattributed {
            let step = if misattributed {
                Step::Misattribute { process }
            } else {
                Step::Learn { process }
            };
            self.to(step, |next| {
                let this = &mut next.processes[process];
                (this.proposal, this.proposed) = (Proposal::None, Checkpoint::default());
                match stage {
                    Stage::Opening => this.begin(world, proposed),
                    _ => this.checkpoint = proposed,
                }
            });
        }
        Ok(())
    }

    /// A source releases what is bound: its whole replay at once, then epoch by epoch.
    fn release(&mut self, process: usize) {
        if self.world.sources == Sources::Together {
            return;
        }
        let this = &self.state.processes[process];
        for partition in 0..PARTITIONS {
            let epoch = (this.released[partition] + 1).max(this.replay_at);
            if epoch <= this.known(self.world).bound {
                self.to(
                    Step::Release {
                        process,
                        partition,
                        epoch,
                    },
                    |next| next.processes[process].released[partition] = epoch,
                );
            }
        }
    }

    /// The bar state reads a bar back: as soon as a partial has arrived, if the bar is not in
    /// memory and may exist.
    fn read(&mut self, process: usize, key: usize) {
        let (world, state) = (self.world, self.state);
        let this = &state.processes[process];
        let wanted = || this.has_arrived(world, key) && this.may_exist(world, key);
        match this.bar_states[key].memory {
            Memory::Nothing if !wanted() => {}
            Memory::Nothing if world.reads == Reads::Apart => {
                for replica in 0..REPLICAS {
                    let cell = state.replicas[replica][key];
                    self.to(
                        Step::ReadHalf {
                            process,
                            key,
                            replica,
                            label: cell.label,
                        },
                        |next| {
                            let replica = u8::try_from(replica).unwrap_or(u8::MAX);
                            next.processes[process].bar_states[key].memory =
                                Memory::HalfRead { replica, cell };
                        },
                    );
                }
            }
            Memory::Nothing => {
                for replica in 0..REPLICAS {
                    let found = if world.lacks(Mutant::ReadAtOne) {
                        state.replicas[replica][key]
                    } else {
                        state.quorum_without(replica, key)
                    };
                    self.to(
                        Step::Read {
                            process,
                            key,
                            label: found.label,
                            totals: found.totals,
                        },
                        |next| {
                            next.processes[process].bar_states[key].memory = Memory::Read {
                                label: found.label,
                                totals: found.totals,
                            };
                            if world.repair {
                                repair(next, replica, key, found);
                            }
                        },
                    );
                }
            }
            Memory::HalfRead { replica, cell } => {
                for other in (0..REPLICAS).filter(|other| *other != usize::from(replica)) {
                    let found = cell.newest(state.replicas[other][key]);
                    self.to(
                        Step::Read {
                            process,
                            key,
                            label: found.label,
                            totals: found.totals,
                        },
                        |next| {
                            next.processes[process].bar_states[key].memory = Memory::Read {
                                label: found.label,
                                totals: found.totals,
                            };
                        },
                    );
                }
            }
            Memory::Read { .. } | Memory::Resident { .. } => {}
        }
    }

    /// The bar state takes its next time, and sends the bar.
    fn fold(&mut self, process: usize, key: usize) -> Result<(), BrokenStep> {
        let (world, state) = (self.world, self.state);
        let this = &state.processes[process];
        let Some(time) = this
            .next_time(world, key)
            .filter(|time| this.is_complete(world, *time))
        else {
            return Ok(());
        };
        let Some(base) = this.base(world, key) else {
            return Ok(());
        };
        let memory = this.bar_states[key].memory;
        let reply = if let Memory::Read { .. } = memory {
            Some(base)
        } else {
            None
        };
        if reply.is_some_and(|(label, _)| this.is_too_new(world, label, time)) {
            let step = Step::Abort {
                process,
                key,
                label: base.0,
                time,
            };
            if usize::from(state.checkpoint.owner) == process + 1 {
                Self::checked(
                    step,
                    broken(
                        Rule::OwnerGoesOn,
                        format!("process {process} owns the job and leaves"),
                    ),
                )?;
            }
            self.to(step, |next| {
                next.processes[process] = Process {
                    stage: Stage::Gone,
                    ..Process::default()
                }
            });
            return Ok(());
        }
        let (totals, changed) = this.fold(world, key, time, base);
        let write_timestamp = this.write_timestamp_of(world, time);
        let sent = changed || !(world.lacks(Mutant::ReplayNotRewritten) && this.is_replay(time));
        let cell = sent.then(|| Cell {
            write_timestamp,
            label: this.label_of(world, time),
            totals_write_timestamp: write_timestamp,
            totals,
        });
        let step = Step::Fold {
            process,
            key,
            time,
            cell,
        };
        if let Some(cell) = cell {
            Self::checked(step, check_write(world, state, key, cell))?;
        }
        self.to(step, |next| {
            let stale = if world.lacks(Mutant::StaleReply) {
                reply
            } else {
                None
            };
            let bar_state = &mut next.processes[process].bar_states[key];
            bar_state.taken = time;
            bar_state.memory = Memory::Resident {
                totals,
                sent,
                stale,
            };
            if let Some(cell) = cell {
                next.writes.add(Write {
                    key: u8::try_from(key).unwrap_or(u8::MAX),
                    cell,
                });
            }
        });
        Ok(())
    }

    /// Whether what was written at a time is acknowledged.
    fn is_acknowledged(&self, this: &Process, key: usize, time: Epoch) -> bool {
        let quorum = if self.world.lacks(Mutant::AcknowledgeAtOne) {
            1
        } else {
            2
        };
        let bar_state = &this.bar_states[key];
        let unsent = bar_state.taken == time
            && matches!(bar_state.memory, Memory::Resident { sent: false, .. });
        unsent
            || self
                .state
                .holders(key, this.write_timestamp_of(self.world, time))
                >= quorum
    }

    /// The bar state evicts a bar whose last write is acknowledged. Where it can have no
    /// consequence it is left out.
    fn evict(&mut self, process: usize, key: usize) {
        let (world, this) = (self.world, &self.state.processes[process]);
        let bar_state = this.bar_states[key];
        let Memory::Resident { stale, .. } = bar_state.memory else {
            return;
        };
        let owner = usize::from(self.state.checkpoint.owner) == process + 1;
        let matters = this.may_need(world, key, owner)
            || start_of(key) > this.evicted_up_to.max(this.watermark)
                && (0..KEYS).any(|other| other != key && this.may_need(world, other, owner));
        let permitted = match world.mutant {
            Some(Mutant::EvictUnacknowledged) => true,
            Some(Mutant::EvictOnOlderAcknowledgement) => {
                let older = this.last_time(world, key, bar_state.taken - 1);
                self.is_acknowledged(this, key, if older > 0 { older } else { bar_state.taken })
            }
            _ => self.is_acknowledged(this, key, bar_state.taken),
        };
        if matters && permitted {
            self.to(
                Step::Evict {
                    process,
                    key,
                    time: bar_state.taken,
                },
                |next| {
                    let this = &mut next.processes[process];
                    this.bar_states[key].memory =
                        stale.map_or(Memory::Nothing, |(label, totals)| Memory::Read {
                            label,
                            totals,
                        });
                    this.evicted_up_to = this.evicted_up_to.max(start_of(key));
                },
            );
        }
    }

    /// The coordinator binds another epoch, or commits, or both.
    fn propose(&mut self, process: usize) -> Result<(), BrokenStep> {
        let (world, state) = (self.world, self.state);
        let this = &state.processes[process];
        let may = match world.cas {
            Cas::AtOnce => usize::from(state.checkpoint.owner) == process + 1,
            // A proposal that cannot be applied any more is the same as none.
            Cas::InFlight => {
                let hopeless = state.checkpoint.identity() != this.checkpoint.identity();
                this.proposal == Proposal::None
                    && (!hopeless
                        || matches!(
                            world.mutant,
                            Some(Mutant::CasUnconditional | Mutant::ResolveByVersion)
                        ))
            }
        };
        if !may || !this.has_replayed(world) {
            return Ok(());
        }
        let checkpoint = this.checkpoint;
        let version = checkpoint.version + u8::from(world.cas == Cas::InFlight);
        let acknowledged: Vec<Epoch> = (checkpoint.committed + 1..=checkpoint.bound)
            .filter(|epoch| self.may_commit(this, *epoch))
            .collect();
        for epoch in &acknowledged {
            let mut proposed = checkpoint;
            (proposed.version, proposed.committed) = (version, *epoch);
            self.send(
                Step::Commit {
                    process,
                    epoch: *epoch,
                    sent: world.cas == Cas::InFlight,
                },
                process,
                proposed,
            )?;
        }
        if checkpoint.bound - checkpoint.committed >= world.epochs_ahead
            || usize::from(checkpoint.bound) >= EPOCHS
        {
            return Ok(());
        }
        // That a commit rides along is two steps in one, which matters only where steps can be
        // lost.
        let riding = if world.cas == Cas::InFlight {
            acknowledged.last().copied()
        } else {
            None
        };
        let (last, end) = (checkpoint.cut(checkpoint.bound), world.log.end());
        for first in last.next(0)..=end.next(0) {
            for second in last.next(1)..=end.next(1) {
                let cut = Cut::at([first, second]);
                for committed in [Some(checkpoint.committed), riding]
                    .into_iter()
                    .flatten()
                    .filter(|_| cut != last)
                {
                    let write_timestamp = world.next_write_timestamp(process, &checkpoint);
                    let mut proposed = checkpoint;
                    (
                        proposed.version,
                        proposed.committed,
                        proposed.last_write_timestamp,
                    ) = (version, committed, write_timestamp);
                    proposed.bind(cut, write_timestamp);
                    let commit = if committed > checkpoint.committed {
                        committed
                    } else {
                        0
                    };
                    let sent = world.cas == Cas::InFlight;
                    self.send(
                        Step::Bind {
                            process,
                            cut,
                            epoch: proposed.bound,
                            write_timestamp,
                            commit,
                            sent,
                        },
                        process,
                        proposed,
                    )?;
                }
            }
        }
        Ok(())
    }

    /// Whether all bars up to the epoch are acknowledged, as the sink's frontier tells.
    fn may_commit(&self, this: &Process, epoch: Epoch) -> bool {
        let world = self.world;
        if epoch < this.replay_at {
            // The frontier stands at b, where all of the replay is, and has nothing to say of what
            // lies below.
            return world.lacks(Mutant::CommitDuringReplay);
        }
        let keys = if world.lacks(Mutant::CommitOfOneWorker) {
            0..1
        } else {
            0..world.keys
        };
        this.is_complete(world, epoch)
            && keys
                .into_iter()
                .all(|key| match this.last_time(world, key, epoch) {
                    0 => true,
                    time => {
                        this.bar_states[key].taken >= time
                            && (world.lacks(Mutant::CommitUnacknowledged)
                                || self.is_acknowledged(this, key, time))
                    }
                })
    }

    /// A proposal: done at once, or sent on its way.
    fn send(&mut self, step: Step, process: usize, proposed: Checkpoint) -> Result<(), BrokenStep> {
        let world = self.world;
        match world.cas {
            Cas::AtOnce if world.lacks(Mutant::OffsetsInBars) => self.to(step, |next| {
                // Nothing is bound: the process keeps its cuts to itself, and makes durable what is
                // committed, and write timestamps.
                next.processes[process].checkpoint = proposed;
                next.checkpoint = proposed;
                next.checkpoint.forget_after(proposed.committed);
            }),
            Cas::AtOnce => {
                Self::checked(
                    step,
                    check_checkpoint(world, &self.state.checkpoint, &proposed),
                )?;
                self.to(step, |next| {
                    next.processes[process].checkpoint = proposed;
                    next.checkpoint = proposed;
                });
            }
            Cas::InFlight => self.to(step, |next| {
                let this = &mut next.processes[process];
                (this.proposal, this.proposed) = (Proposal::InFlight, proposed);
            }),
        }
        Ok(())
    }

    /// A replica takes a write that is in flight.
    fn replicas(&mut self) {
        let state = self.state;
        for write in state.writes.all() {
            let key = usize::from(write.key);
            for replica in 0..REPLICAS {
                // Of replicas that nothing tells apart, one will do.
                let alike = self.world.reads == Reads::AtOnce
                    && state.replicas[..replica].contains(&state.replicas[replica]);
                if !alike && !write.cell.is_in(state.replicas[replica][key]) {
                    let Cell {
                        write_timestamp,
                        label,
                        ..
                    } = write.cell;
                    self.to(
                        Step::Take {
                            replica,
                            key,
                            write_timestamp,
                            label,
                        },
                        |next| {
                            let copy = &mut next.replicas[replica][key];
                            *copy = copy.newest(write.cell);
                        },
                    );
                }
            }
        }
    }

    /// Readers beside the job.
    fn readers(&mut self) {
        let (world, state) = (self.world, self.state);
        for key in 0..world.keys {
            for without in 0..REPLICAS {
                let found = state.quorum_without(without, key);
                let agree = [1, 2]
                    .iter()
                    .all(|n| found.is_in(state.replicas[(without + n) % REPLICAS][key]));
                if world.repair
                    && found.write_timestamp > 0
                    && (state.seen[key] != found.label || !agree)
                {
                    self.to(
                        Step::ReaderSees {
                            without,
                            key,
                            label: found.label,
                        },
                        |next| {
                            next.seen[key] = found.label;
                            repair(next, without, key, found);
                        },
                    );
                }
                if world.lacks(Mutant::LabelApart) && !agree {
                    self.to(
                        Step::RepairLabel {
                            without,
                            key,
                            label: found.label,
                        },
                        |next| {
                            for n in [1, 2] {
                                let copy = &mut next.replicas[(without + n) % REPLICAS][key];
                                (copy.write_timestamp, copy.label) =
                                    (found.write_timestamp, found.label);
                            }
                        },
                    );
                }
            }
        }
    }
}

/// The checkpoint that takes the job over from the one found (`decide::take_over`).
fn opening(world: &World, process: usize, found: &Checkpoint) -> Checkpoint {
    let mut checkpoint = *found;
    checkpoint.generation += 1;
    checkpoint.version += u8::from(world.cas == Cas::InFlight);
    checkpoint.owner = u8::try_from(process + 1).unwrap_or(u8::MAX);
    checkpoint.recovery_timestamp = world.recovery_timestamp(process, found);
    if !world.lacks(Mutant::RecoveryTimestampNotIssued) {
        checkpoint.last_write_timestamp = checkpoint.recovery_timestamp;
    }
    if world.lacks(Mutant::FreshCuts) {
        checkpoint.forget_after(checkpoint.committed);
    }
    checkpoint
}

/// Blocking read repair: both replicas that were read have what was found before the reader has its
/// answer.
fn repair(state: &mut State, without: usize, key: usize, found: Cell) {
    for n in [1, 2] {
        state.replicas[(without + n) % REPLICAS][key] = found;
    }
}
