//! The coordinator: worker 0 of process 0. It decides when epochs end, binds them, and commits them.
//!
//! ```text
//!  idle ──Seal──▶ sealing ──all cuts──▶ proposing ──won──▶ idle        (bind b+1, and commit what is acknowledged, in one step)
//!    ▲               │ nobody read anything │
//!    └───Reopen──────┘                      └─ also proposed without a binding: commit only
//! ```
//!
//! It never waits: facts come in through [`Coordinator::hear`], [`Coordinator::proposal_ended`] and the
//! arguments of [`Coordinator::turn`]; what is to be done goes out as [`Act`]s. Epochs bound and not
//! committed are at most [`EPOCHS_AHEAD`], and fewer where each touches many windows
//! ([`WINDOWS_AHEAD`]): a slow store stops the sealing, and with it the reading.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tapeflow_protocol::{Checkpoint, Counts, Cut, HistoryEntry, decide};
use tapeflow_schemas::{Epoch, Partition};

use crate::coordinator::messages::{ToCoordinator, ToWorker};

/// The most epochs that may be bound and not yet committed.
pub(crate) const EPOCHS_AHEAD: u64 = 4;
/// Once the epochs that are bound and not committed touch so many windows together, no further one
/// is bound. All of these bars are read and written by whoever takes over after a crash, before
/// anything fresh is: this bounds how long that takes (`bench/results/restart.md`). One full epoch
/// is more than that: it is written while the next is gathered, which keeps the store busy.
pub(crate) const WINDOWS_AHEAD: u64 = 8_192;

/// What the coordinator wants done.
#[derive(Debug)]
pub(crate) enum Act {
    /// Tell all workers.
    Say(ToWorker),
    /// Move the checkpoint: first write these history entries, then compare-and-set.
    Propose {
        proposed: Box<Checkpoint>,
        history: Vec<HistoryEntry>,
    },
}

/// What the coordinator is doing.
#[derive(Debug)]
enum Phase {
    Idle,
    Sealing(Seal),
    Proposing,
}

/// An epoch being sealed, and what the workers have answered so far.
#[derive(Debug)]
struct Seal {
    epoch: Epoch,
    answers: usize,
    cuts: BTreeMap<Partition, Cut>,
    counts: Counts,
    windows: u64,
    at_end: bool,
}

/// How far the drain has come.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Drain {
    No,
    /// Asked for; sources have been told to stop reading.
    Asked,
    /// Every source has sealed after it stopped, and there was nothing more.
    Empty,
    Finished,
}

pub(crate) struct Coordinator {
    checkpoint: Checkpoint,
    peers: usize,
    interval: Duration,
    until_end: bool,
    phase: Phase,
    next_seal: Instant,
    /// The last epoch bound when this generation took over: all of (c, b] is replayed at this one
    /// time.
    replayed_at: Epoch,
    /// Workers that have replayed.
    replayed: usize,
    /// What the epochs bound and not committed came to.
    counts: BTreeMap<Epoch, Counts>,
    /// How many windows each of them touches; nothing of those that were replayed.
    windows: BTreeMap<Epoch, u64>,
    /// Whether sources have given offsets up that no binding says are lost.
    unbound_loss: bool,
    /// Whether the last seal found nothing, so that no binding will carry a commit along soon.
    quiet: bool,
    drain: Drain,
}

impl Coordinator {
    /// A coordinator that has taken over `checkpoint`.
    pub(crate) fn new(
        checkpoint: Checkpoint,
        peers: usize,
        interval: Duration,
        until_end: bool,
        now: Instant,
    ) -> (Self, Act) {
        let start = Act::Say(ToWorker::Start(Box::new(checkpoint.clone())));
        let replayed_at = checkpoint.last_binding().epoch;
        let coordinator = Self {
            checkpoint,
            peers,
            interval,
            until_end,
            phase: Phase::Idle,
            next_seal: now + interval,
            replayed_at,
            replayed: 0,
            counts: BTreeMap::new(),
            windows: BTreeMap::new(),
            unbound_loss: false,
            quiet: true,
            drain: Drain::No,
        };
        (coordinator, start)
    }

    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Whether everything is over.
    pub(crate) fn finished(&self) -> bool {
        self.drain == Drain::Finished
    }

    /// Asks for the drain: no more reading, commit what was read, end.
    pub(crate) fn drain(&mut self, acts: &mut Vec<Act>, now: Instant) {
        if self.drain == Drain::No {
            self.drain = Drain::Asked;
            self.next_seal = now;
            acts.push(Act::Say(ToWorker::StopReading));
        }
    }

    /// Hears what a worker says.
    pub(crate) fn hear(&mut self, message: ToCoordinator, acts: &mut Vec<Act>, now: Instant) {
        match message {
            ToCoordinator::Replayed { counts, lost } => {
                self.replayed += 1;
                self.unbound_loss |= lost;
                for (epoch, counts) in counts {
                    self.counts.entry(epoch).or_default().add(&counts);
                }
            }
            ToCoordinator::Full => self.next_seal = now,
            ToCoordinator::DrainRequested => self.drain(acts, now),
            ToCoordinator::EndRequested if self.until_end => {}
            ToCoordinator::EndRequested => {
                self.until_end = true;
                acts.push(Act::Say(ToWorker::ReadToEnd));
            }
            ToCoordinator::Sealed {
                epoch,
                cuts,
                counts,
                windows,
                at_end,
            } => {
                let Phase::Sealing(seal) = &mut self.phase else {
                    panic!("a seal of epoch {epoch} that nobody asked for")
                };
                assert_eq!(seal.epoch, epoch, "sealed another epoch than asked for");
                seal.answers += 1;
                seal.cuts.extend(cuts);
                seal.counts.add(&counts);
                seal.windows += windows;
                seal.at_end &= at_end;
            }
        }
    }

    /// The proposal was applied: the checkpoint is what was proposed.
    pub(crate) fn proposal_ended(
        &mut self,
        checkpoint: Checkpoint,
        acts: &mut Vec<Act>,
        now: Instant,
    ) {
        assert!(
            checkpoint.version > self.checkpoint.version
                && checkpoint.last_binding().epoch >= self.checkpoint.last_binding().epoch,
            "the checkpoint only moves forward"
        );
        let before = std::mem::replace(&mut self.checkpoint, checkpoint);
        self.phase = Phase::Idle;
        if let Some(binding) = self
            .checkpoint
            .bound
            .last()
            .filter(|binding| binding.epoch > before.last_binding().epoch)
        {
            self.unbound_loss = false;
            acts.push(Act::Say(ToWorker::Bound {
                epoch: binding.epoch,
                write_timestamp: binding.write_timestamp,
            }));
        }
        if self.checkpoint.committed.epoch > before.committed.epoch {
            self.counts
                .retain(|epoch, _| *epoch > self.checkpoint.committed.epoch);
            self.windows
                .retain(|epoch, _| *epoch > self.checkpoint.committed.epoch);
            acts.push(Act::Say(ToWorker::Committed(
                self.checkpoint.committed.epoch,
            )));
        }
        if self.drain != Drain::No {
            self.next_seal = now;
        }
    }

    /// One turn: what there is to do now. `acknowledged`: every bar of the epochs up to it is on a
    /// quorum, on all workers. `now_us` becomes a write timestamp.
    pub(crate) fn turn(
        &mut self,
        acknowledged: Epoch,
        now_us: i64,
        now: Instant,
        acts: &mut Vec<Act>,
    ) {
        if self.replayed < self.peers {
            return;
        }
        let (bound, committed) = (
            self.checkpoint.last_binding().epoch,
            self.checkpoint.committed.epoch,
        );
        // What was bound before this generation is replayed as of b, all of it at that one time:
        // while its bars are on their way, the frontier stands at b and says nothing of the epochs
        // below. Were those committed then, a crash before the acknowledgement would lose them: the
        // next generation replays from c on only.
        let acknowledged = if acknowledged < self.replayed_at {
            committed
        } else {
            acknowledged
        };
        let phase = std::mem::replace(&mut self.phase, Phase::Idle);
        self.phase = match phase {
            Phase::Proposing => Phase::Proposing,
            Phase::Sealing(seal) if seal.answers < self.peers => Phase::Sealing(seal),
            Phase::Sealing(seal) => self.end_seal(seal, acknowledged, now_us, now, acts),
            Phase::Idle => {
                // What was given up may lie in the epochs that were replayed. Were they committed
                // before it is bound, nothing would ever tell that it is lost. So it is sealed at
                // once, before a commit may go alone, and whatever the room.
                let room = self.has_room() || self.unbound_loss;
                if room
                    && (now >= self.next_seal || self.unbound_loss)
                    && matches!(self.drain, Drain::No | Drain::Asked)
                {
                    let epoch = bound + 1;
                    self.next_seal = now + self.interval;
                    acts.push(Act::Say(ToWorker::Seal(epoch)));
                    Phase::Sealing(Seal {
                        epoch,
                        answers: 0,
                        cuts: BTreeMap::new(),
                        counts: Counts::default(),
                        windows: 0,
                        at_end: true,
                    })
                } else if acknowledged.min(bound) > committed && (!room || self.quiet) {
                    let proposed = Box::new(decide::commit(&self.checkpoint, acknowledged));
                    acts.push(Act::Propose {
                        proposed,
                        history: self.history(acknowledged),
                    });
                    Phase::Proposing
                } else {
                    if self.drain == Drain::Empty && bound == committed {
                        self.drain = Drain::Finished;
                        acts.push(Act::Say(ToWorker::Finish));
                    }
                    Phase::Idle
                }
            }
        };
    }

    /// Whether another epoch may be bound before one is committed.
    fn has_room(&self) -> bool {
        self.checkpoint.last_binding().epoch - self.checkpoint.committed.epoch < EPOCHS_AHEAD
            && self.windows.values().sum::<u64>() < WINDOWS_AHEAD
    }

    /// All workers have sealed: there is an epoch to bind, or nobody has read anything.
    fn end_seal(
        &mut self,
        seal: Seal,
        acknowledged: Epoch,
        now_us: i64,
        now: Instant,
        acts: &mut Vec<Act>,
    ) -> Phase {
        // What is given up must be bound also if nobody has read anything since: else the next
        // start would need the permission again.
        let lost = seal
            .cuts
            .values()
            .zip(&self.checkpoint.last_binding().cuts)
            .any(|(now, before)| now.lost != before.lost);
        self.quiet = seal.counts.records == 0 && !lost;
        let phase = if self.quiet {
            acts.push(Act::Say(ToWorker::Reopen(seal.epoch)));
            if self.drain == Drain::Asked {
                self.drain = Drain::Empty;
            }
            Phase::Idle
        } else {
            self.counts.insert(seal.epoch, seal.counts);
            self.windows.insert(seal.epoch, seal.windows);
            let proposed = Box::new(decide::bind(
                &self.checkpoint,
                seal.cuts.into_values().collect(),
                acknowledged,
                now_us,
            ));
            acts.push(Act::Propose {
                proposed,
                history: self.history(acknowledged),
            });
            Phase::Proposing
        };
        if self.until_end && seal.at_end {
            self.drain(acts, now);
        }
        phase
    }

    fn history(&self, acknowledged: Epoch) -> Vec<HistoryEntry> {
        let done = self
            .checkpoint
            .bound
            .iter()
            .take_while(|binding| binding.epoch <= acknowledged);
        done.map(|binding| HistoryEntry {
            epoch: binding.epoch,
            write_timestamp: binding.write_timestamp,
            cuts: binding.cuts.iter().map(|cut| cut.next).collect(),
            counts: self.counts.get(&binding.epoch).copied().unwrap_or_default(),
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use tapeflow_protocol::{SourceIdentity, decide::Opening};

    use super::*;

    /// Two workers with a partition each, and a clock that a test moves.
    struct Table {
        coordinator: Coordinator,
        now: Instant,
        acts: Vec<Act>,
    }

    fn table(until_end: bool) -> Table {
        let source = SourceIdentity {
            cluster: "c".into(),
            topic: "t".into(),
            topic_id: None,
        };
        let opening = Opening {
            job: "j".into(),
            fingerprint: "l".into(),
            source,
            earliest: vec![0, 0],
            owner: "o".into(),
        };
        let checkpoint = decide::take_over(None, &opening, 1).expect("a fresh store");
        let now = Instant::now();
        let (coordinator, start) =
            Coordinator::new(checkpoint, 2, Duration::from_millis(100), until_end, now);
        assert!(matches!(start, Act::Say(ToWorker::Start(_))));
        Table {
            coordinator,
            now,
            acts: Vec::new(),
        }
    }

    impl Table {
        fn replayed(mut self) -> Self {
            for _ in 0..2 {
                self.coordinator.hear(
                    ToCoordinator::Replayed {
                        counts: Vec::new(),
                        lost: false,
                    },
                    &mut self.acts,
                    self.now,
                );
            }
            self
        }

        fn turn(&mut self, acknowledged: Epoch, later_ms: u64) -> Vec<Act> {
            self.now += Duration::from_millis(later_ms);
            self.coordinator
                .turn(acknowledged, 50, self.now, &mut self.acts);
            std::mem::take(&mut self.acts)
        }

        fn seals(&mut self, epoch: Epoch, records: u64, at_end: bool) {
            self.seals_windows(epoch, records, 1, at_end);
        }

        fn seals_windows(&mut self, epoch: Epoch, records: u64, windows: u64, at_end: bool) {
            for partition in 0..2 {
                let cut = Cut {
                    next: i64::try_from(epoch * 10).expect("small"),
                    ..Cut::default()
                };
                let counts = Counts {
                    records,
                    ..Counts::default()
                };
                self.coordinator.hear(
                    ToCoordinator::Sealed {
                        epoch,
                        cuts: vec![(partition, cut)],
                        counts,
                        windows,
                        at_end,
                    },
                    &mut self.acts,
                    self.now,
                );
            }
        }

        fn won(&mut self, acts: Vec<Act>) -> Vec<Act> {
            let [Act::Propose { proposed, .. }] = &acts[..] else {
                panic!("a proposal, not {acts:?}")
            };
            self.coordinator
                .proposal_ended((**proposed).clone(), &mut self.acts, self.now);
            std::mem::take(&mut self.acts)
        }
    }

    #[test]
    fn nothing_is_sealed_before_everyone_has_replayed() {
        let mut table = table(false);
        assert!(table.turn(0, 1_000).is_empty());
        let mut table = table.replayed();
        assert!(matches!(
            table.turn(0, 0)[..],
            [Act::Say(ToWorker::Seal(1))]
        ));
    }

    #[test]
    fn an_epoch_is_released_only_after_its_binding_is_durable() {
        let mut table = table(false).replayed();
        table.turn(0, 100);
        assert!(
            table.turn(0, 1).is_empty(),
            "not before all workers have sealed"
        );
        table.seals(1, 5, false);
        let acts = table.turn(0, 1);
        assert!(
            table.turn(0, 500).is_empty(),
            "not before the proposal has ended"
        );
        let acts = table.won(acts);
        assert!(
            matches!(
                acts[..],
                [Act::Say(ToWorker::Bound {
                    epoch: 1,
                    write_timestamp: 50
                })]
            ),
            "{acts:?}"
        );
    }

    #[test]
    fn a_commit_rides_with_the_next_binding_and_goes_alone_when_it_is_quiet() {
        let mut table = table(false).replayed();
        table.turn(0, 100);
        table.seals(1, 5, false);
        let acts = table.turn(0, 1);
        table.won(acts);
        assert!(
            table.turn(1, 1).is_empty(),
            "acknowledged, but the next binding is near"
        );
        assert!(matches!(
            table.turn(1, 100)[..],
            [Act::Say(ToWorker::Seal(2))]
        ));
        table.seals(2, 5, false);
        let acts = table.turn(1, 1);
        let [Act::Propose { history, .. }] = &acts[..] else {
            panic!("{acts:?}")
        };
        assert_eq!(
            (history.len(), history[0].epoch, history[0].counts.records),
            (1, 1, 10),
            "history goes before the commit"
        );
        let acts = table.won(acts);
        assert!(
            matches!(
                acts[..],
                [
                    Act::Say(ToWorker::Bound { epoch: 2, .. }),
                    Act::Say(ToWorker::Committed(1))
                ]
            ),
            "{acts:?}"
        );
        table.turn(1, 100);
        table.seals(3, 0, false);
        assert!(
            matches!(table.turn(2, 1)[..], [Act::Say(ToWorker::Reopen(3))]),
            "nobody read anything: the number is used again"
        );
        let acts = table.turn(2, 1);
        let acts = table.won(acts);
        assert!(
            matches!(acts[..], [Act::Say(ToWorker::Committed(2))]),
            "{acts:?}"
        );
    }

    #[test]
    fn nothing_that_is_replayed_is_committed_before_all_of_it_is_acknowledged() {
        let mut before = table(false).replayed();
        for epoch in 1..=3 {
            before.turn(0, 100);
            before.seals(epoch, 1, false);
            let acts = before.turn(0, 1);
            before.won(acts);
        }
        let now = before.now;
        let (coordinator, _) = Coordinator::new(
            before.coordinator.checkpoint().clone(),
            2,
            Duration::from_millis(100),
            false,
            now,
        );
        let mut table = Table {
            coordinator,
            now,
            acts: Vec::new(),
        }
        .replayed();
        // All of (0, 3] is on its way at time 3: the frontier has passed 2 and has nothing to say
        // of the bars of 1 and 2.
        assert!(
            table.turn(2, 1).is_empty(),
            "a commit of 2 now, a crash, and the bars of 1 and 2 would never be written"
        );
        let acts = table.turn(3, 1);
        let [Act::Propose { proposed, .. }] = &acts[..] else {
            panic!("{acts:?}")
        };
        assert_eq!(proposed.committed.epoch, 3);
    }

    #[test]
    fn what_is_given_up_is_bound_before_anything_that_was_replayed_is_committed() {
        let mut before = table(false).replayed();
        for epoch in 1..=EPOCHS_AHEAD {
            before.turn(0, 100);
            before.seals(epoch, 1, false);
            let acts = before.turn(0, 1);
            before.won(acts);
        }
        let now = before.now;
        let (coordinator, _) = Coordinator::new(
            before.coordinator.checkpoint().clone(),
            2,
            Duration::from_millis(100),
            false,
            now,
        );
        let mut table = Table {
            coordinator,
            now,
            acts: Vec::new(),
        };
        for lost in [true, false] {
            table.coordinator.hear(
                ToCoordinator::Replayed {
                    counts: Vec::new(),
                    lost,
                },
                &mut table.acts,
                table.now,
            );
        }
        let last = table.coordinator.checkpoint().last_binding().cuts.clone();
        let acts = table.turn(EPOCHS_AHEAD, 0);
        assert!(
            matches!(acts[..], [Act::Say(ToWorker::Seal(epoch))] if epoch == EPOCHS_AHEAD + 1),
            "all is acknowledged, and yet: {acts:?}"
        );
        for (partition, cut) in (0..).zip(last) {
            let cut = Cut {
                lost: (partition == 0).then_some(tapeflow_protocol::LostRange { from: 3, to: 7 }),
                ..cut
            };
            let sealed = ToCoordinator::Sealed {
                epoch: EPOCHS_AHEAD + 1,
                cuts: vec![(partition, cut)],
                counts: Counts::default(),
                windows: 0,
                at_end: false,
            };
            table.coordinator.hear(sealed, &mut table.acts, table.now);
        }
        let acts = table.turn(EPOCHS_AHEAD, 0);
        let [Act::Propose { proposed, .. }] = &acts[..] else {
            panic!("nobody has read anything, and yet: {acts:?}")
        };
        assert_eq!(
            (
                proposed.committed.epoch,
                proposed.bound.len(),
                proposed.format
            ),
            (EPOCHS_AHEAD, 1, 2),
            "in one step"
        );
        table.won(acts);
        table.turn(EPOCHS_AHEAD, 100);
        let carried = table.coordinator.checkpoint().last_binding().cuts.clone();
        for (partition, cut) in (0..).zip(carried) {
            let sealed = ToCoordinator::Sealed {
                epoch: EPOCHS_AHEAD + 2,
                cuts: vec![(partition, cut)],
                counts: Counts::default(),
                windows: 0,
                at_end: false,
            };
            table.coordinator.hear(sealed, &mut table.acts, table.now);
        }
        assert!(
            matches!(
                table.turn(EPOCHS_AHEAD, 1)[..],
                [Act::Say(ToWorker::Reopen(_))]
            ),
            "what is carried along is no loss"
        );
    }

    #[test]
    fn a_store_that_does_not_acknowledge_stops_the_sealing() {
        let mut table = table(false).replayed();
        for epoch in 1..=EPOCHS_AHEAD {
            assert!(matches!(table.turn(0, 100)[..], [Act::Say(ToWorker::Seal(e))] if e == epoch));
            table.seals(epoch, 1, false);
            let acts = table.turn(0, 1);
            table.won(acts);
        }
        assert!(table.turn(0, 10_000).is_empty());
        let acts = table.turn(1, 1);
        assert!(
            matches!(acts[..], [Act::Propose { .. }]),
            "a commit makes room"
        );
        table.won(acts);
        assert!(
            matches!(table.turn(1, 100)[..], [Act::Say(ToWorker::Seal(e))] if e == EPOCHS_AHEAD + 1)
        );
    }

    #[test]
    fn epochs_that_touch_many_windows_are_not_bound_far_ahead() {
        let mut table = table(false).replayed();
        for epoch in 1..=2 {
            assert!(matches!(table.turn(0, 100)[..], [Act::Say(ToWorker::Seal(e))] if e == epoch));
            // Two workers say so.
            table.seals_windows(epoch, 1, WINDOWS_AHEAD / 4, false);
            let acts = table.turn(0, 1);
            table.won(acts);
        }
        assert!(
            table.turn(0, 10_000).is_empty(),
            "both together touch as many as may be ahead"
        );
        let acts = table.turn(1, 1);
        assert!(
            matches!(acts[..], [Act::Propose { .. }]),
            "a commit makes room"
        );
        table.won(acts);
        assert!(matches!(
            table.turn(1, 100)[..],
            [Act::Say(ToWorker::Seal(3))]
        ));
    }

    #[test]
    fn the_end_is_reached_by_draining() {
        let mut table = table(true).replayed();
        table.turn(0, 100);
        table.seals(1, 5, true);
        let acts = table.turn(0, 1);
        let [propose, Act::Say(ToWorker::StopReading)] = <[Act; 2]>::try_from(acts).expect("two")
        else {
            panic!("bind, and stop reading")
        };
        table.won(vec![propose]);
        assert!(
            matches!(table.turn(0, 0)[..], [Act::Say(ToWorker::Seal(2))]),
            "what was read before the stop is sealed at once"
        );
        table.seals(2, 0, true);
        assert!(matches!(
            table.turn(0, 0)[..],
            [Act::Say(ToWorker::Reopen(2))]
        ));
        assert!(
            table.turn(0, 1_000).is_empty(),
            "not before everything is acknowledged"
        );
        let acts = table.turn(u64::MAX, 0);
        table.won(acts);
        assert!(matches!(
            table.turn(u64::MAX, 0)[..],
            [Act::Say(ToWorker::Finish)]
        ));
        assert!(table.coordinator.finished());
        assert_eq!(table.coordinator.checkpoint().committed.epoch, 1);
    }
}
