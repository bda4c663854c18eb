//! The decisions of the coordinator, as pure code. It decides when epochs are sealed, bound and
//! committed.
//!
//! ```text
//!  idle ──Seal──▶ sealing ──all cuts──▶ proposing ──applied──▶ idle
//!    ▲               │                  (bind b+1, and commit what is acknowledged, in one step;
//!    └────Reopen─────┘                   or commit alone)
//!    (no records were read)
//! ```
//!
//! It never waits. Facts arrive through [`Coordinator::receive`], [`Coordinator::proposal_applied`]
//! and the arguments of [`Coordinator::step`]; decisions leave as [`Action`]s. At most
//! [`Limits::epochs_ahead`] epochs are bound and not committed, and fewer if they write many
//! rows ([`Limits::rows_ahead`]). So a slow store stops the sealing, and with it the reading.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use tapeflow_protocol::{Checkpoint, Counts, Cut, HistoryEntry, decide};
use tapeflow_schemas::{Epoch, Partition};

use crate::{
    coordinator::{
        messages::{ToCoordinator, ToWorker},
        pacing::Pacing,
    },
    limits::Limits,
};

/// What a coordinator decides by, beside the checkpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Workers of the job.
    pub(crate) peers: usize,
    /// Between two seals, at most.
    pub(crate) interval: Duration,
    /// Whether the job ends where the log ended at the start.
    pub(crate) until_end: bool,
    pub(crate) limits: Limits,
}

/// A decision that the driver carries out.
#[derive(Debug)]
pub(crate) enum Action {
    /// Send a message to all workers.
    Broadcast(ToWorker),
    /// Move the checkpoint: write these history entries, then compare-and-set.
    Propose {
        proposed: Box<Checkpoint>,
        history: Vec<HistoryEntry>,
    },
}

#[derive(Debug)]
enum Phase {
    Idle,
    Sealing(Seal),
    Proposing,
}

/// An epoch being sealed, and the answers of the workers so far.
#[derive(Debug)]
struct Seal {
    epoch: Epoch,
    answers: usize,
    cuts: BTreeMap<Partition, Cut>,
    counts: Counts,
    rows: u64,
    at_end: bool,
}

/// The progress of the drain, which ends the job.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Drain {
    No,
    /// Requested: the sources stop reading.
    Requested,
    /// Every source has sealed after it stopped, without further records.
    Empty,
    Finished,
}

pub(crate) struct Coordinator {
    checkpoint: Checkpoint,
    pace: Pace,
    phase: Phase,
    pacing: Pacing,
    /// The last epoch bound at the take-over: all of (c, b] is replayed at this one time.
    replayed_at: Epoch,
    /// The number of workers that have replayed.
    replayed: usize,
    /// The counts of the epochs that are bound and not committed.
    counts: BTreeMap<Epoch, Counts>,
    /// The number of rows that each of them writes, except the replayed ones.
    rows: BTreeMap<Epoch, u64>,
    /// Whether sources have given up offsets that no binding records as lost.
    unbound_loss: bool,
    /// Whether the last seal found no records, so that no binding will soon carry a commit.
    quiet: bool,
    drain: Drain,
}

impl Coordinator {
    /// A coordinator that has taken over `checkpoint`, and its first action.
    pub(crate) fn new(checkpoint: Checkpoint, pace: Pace, now: Instant) -> (Self, Action) {
        let start = Action::Broadcast(ToWorker::Start(Box::new(checkpoint.clone())));
        let replayed_at = checkpoint.last_binding().epoch;
        let coordinator = Self {
            checkpoint,
            pacing: Pacing::new(pace.interval, now),
            pace,
            phase: Phase::Idle,
            replayed_at,
            replayed: 0,
            counts: BTreeMap::new(),
            rows: BTreeMap::new(),
            unbound_loss: false,
            quiet: true,
            drain: Drain::No,
        };
        (coordinator, start)
    }

    pub(crate) fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Whether the job has ended.
    pub(crate) fn finished(&self) -> bool {
        self.drain == Drain::Finished
    }

    /// Starts the drain: stop reading, commit what was read, end.
    pub(crate) fn drain(&mut self, actions: &mut Vec<Action>, now: Instant) {
        if self.drain == Drain::No {
            self.drain = Drain::Requested;
            self.pacing.end_now(now);
            actions.push(Action::Broadcast(ToWorker::StopReading));
        }
    }

    /// Takes a message of a worker.
    pub(crate) fn receive(
        &mut self,
        message: ToCoordinator,
        actions: &mut Vec<Action>,
        now: Instant,
    ) {
        match message {
            ToCoordinator::Replayed { counts, lost } => {
                self.replayed += 1;
                self.unbound_loss |= lost;
                for (epoch, counts) in counts {
                    self.counts.entry(epoch).or_default().add(&counts);
                }
            }
            ToCoordinator::Full => self.pacing.end_now(now),
            ToCoordinator::RecordWaits => self.pacing.record_waits(),
            ToCoordinator::DrainRequested => self.drain(actions, now),
            ToCoordinator::EndRequested if self.pace.until_end => {}
            ToCoordinator::EndRequested => {
                self.pace.until_end = true;
                actions.push(Action::Broadcast(ToWorker::ReadToEnd));
            }
            ToCoordinator::Sealed {
                epoch,
                cuts,
                counts,
                rows,
                at_end,
            } => {
                let Phase::Sealing(seal) = &mut self.phase else {
                    panic!("epoch {epoch} was sealed without a request")
                };
                assert_eq!(seal.epoch, epoch, "another epoch was sealed than requested");
                seal.answers += 1;
                seal.cuts.extend(cuts);
                seal.counts.add(&counts);
                seal.rows += rows;
                seal.at_end &= at_end;
            }
        }
    }

    /// The proposal was applied; `checkpoint` is the new checkpoint.
    pub(crate) fn proposal_applied(
        &mut self,
        checkpoint: Checkpoint,
        actions: &mut Vec<Action>,
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
            actions.push(Action::Broadcast(ToWorker::Bound {
                epoch: binding.epoch,
                write_timestamp: binding.write_timestamp,
            }));
        }
        if self.checkpoint.committed.epoch > before.committed.epoch {
            self.counts
                .retain(|epoch, _| *epoch > self.checkpoint.committed.epoch);
            self.rows
                .retain(|epoch, _| *epoch > self.checkpoint.committed.epoch);
            actions.push(Action::Broadcast(ToWorker::Committed(
                self.checkpoint.committed.epoch,
            )));
        }
        if self.drain != Drain::No {
            self.pacing.end_now(now);
        }
    }

    /// One step: adds what to do now. A quorum has every bar of the epochs up to `acknowledged`, on
    /// all workers. `now_us` becomes a write timestamp.
    pub(crate) fn step(
        &mut self,
        acknowledged: Epoch,
        now_us: i64,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        if self.replayed < self.pace.peers {
            return;
        }
        let (bound, committed) = (
            self.checkpoint.last_binding().epoch,
            self.checkpoint.committed.epoch,
        );
        // The replay enters at the single time b. While its bars are being written, the frontier is
        // at b and says nothing about the epochs below. They must not be committed yet:
        // 1. this generation commits an epoch below b;
        // 2. it crashes before the bars of that epoch are acknowledged;
        // 3. the next generation replays from c, and the bars are never written.
        let acknowledged = if acknowledged < self.replayed_at {
            committed
        } else {
            acknowledged
        };
        self.pacing.acknowledged(acknowledged, now);
        let phase = std::mem::replace(&mut self.phase, Phase::Idle);
        self.phase = match phase {
            Phase::Proposing => Phase::Proposing,
            Phase::Sealing(seal) if seal.answers < self.pace.peers => Phase::Sealing(seal),
            Phase::Sealing(seal) => self.end_seal(seal, acknowledged, now_us, now, actions),
            Phase::Idle => {
                // Lost offsets may belong to the replayed epochs. If these were committed before
                // the loss is bound, no binding would ever record it. So the loss is sealed at
                // once, before any commit, even if there is no room.
                let room = self.has_room() || self.unbound_loss;
                if room
                    && (self.pacing.is_due(now) || self.unbound_loss)
                    && matches!(self.drain, Drain::No | Drain::Requested)
                {
                    let epoch = bound + 1;
                    self.pacing.seals(epoch, now);
                    actions.push(Action::Broadcast(ToWorker::Seal(epoch)));
                    Phase::Sealing(Seal {
                        epoch,
                        answers: 0,
                        cuts: BTreeMap::new(),
                        counts: Counts::default(),
                        rows: 0,
                        at_end: true,
                    })
                } else if acknowledged.min(bound) > committed && (!room || self.quiet) {
                    let proposed = Box::new(decide::commit(&self.checkpoint, acknowledged));
                    actions.push(Action::Propose {
                        proposed,
                        history: self.history(acknowledged),
                    });
                    Phase::Proposing
                } else {
                    if self.drain == Drain::Empty && bound == committed {
                        self.drain = Drain::Finished;
                        actions.push(Action::Broadcast(ToWorker::Finish));
                    }
                    Phase::Idle
                }
            }
        };
    }

    /// Whether another epoch may be bound before one is committed.
    fn has_room(&self) -> bool {
        self.checkpoint.last_binding().epoch - self.checkpoint.committed.epoch
            < self.pace.limits.epochs_ahead
            && self.rows.values().sum::<u64>() < self.pace.limits.rows_ahead
    }

    /// All workers have sealed: binds the epoch, or reopens it if no worker has read a record.
    fn end_seal(
        &mut self,
        seal: Seal,
        acknowledged: Epoch,
        now_us: i64,
        now: Instant,
        actions: &mut Vec<Action>,
    ) -> Phase {
        // A loss must be bound even without new records. Otherwise the next start would need
        // --accept-loss again. And offsets without records were passed: unbound, they would count
        // as lost once the log has removed them.
        let moved = seal
            .cuts
            .values()
            .zip(&self.checkpoint.last_binding().cuts)
            .any(|(now, before)| now.lost != before.lost || now.next > before.next);
        self.quiet = seal.counts.records == 0 && !moved;
        let phase = if self.quiet {
            self.pacing.is_empty();
            actions.push(Action::Broadcast(ToWorker::Reopen(seal.epoch)));
            if self.drain == Drain::Requested {
                self.drain = Drain::Empty;
            }
            Phase::Idle
        } else {
            self.counts.insert(seal.epoch, seal.counts);
            self.rows.insert(seal.epoch, seal.rows);
            let proposed = Box::new(decide::bind(
                &self.checkpoint,
                seal.cuts.into_values().collect(),
                acknowledged,
                now_us,
            ));
            actions.push(Action::Propose {
                proposed,
                history: self.history(acknowledged),
            });
            Phase::Proposing
        };
        if self.pace.until_end && seal.at_end {
            self.drain(actions, now);
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

    /// Epochs that may be bound and not committed.
    const AHEAD: u64 = 3;

    fn limits() -> Limits {
        Limits {
            epochs_ahead: AHEAD,
            ..Limits::default()
        }
    }

    /// Two workers, and a seal every 100 ms.
    fn pace(until_end: bool) -> Pace {
        Pace {
            peers: 2,
            interval: Duration::from_millis(100),
            until_end,
            limits: limits(),
        }
    }

    /// Two workers with a partition each, and a clock that the test moves.
    struct Fixture {
        coordinator: Coordinator,
        now: Instant,
        actions: Vec<Action>,
    }

    fn fixture(until_end: bool) -> Fixture {
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
        let (coordinator, start) = Coordinator::new(checkpoint, pace(until_end), now);
        assert!(matches!(start, Action::Broadcast(ToWorker::Start(_))));
        Fixture {
            coordinator,
            now,
            actions: Vec::new(),
        }
    }

    impl Fixture {
        fn replayed(mut self) -> Self {
            for _ in 0..2 {
                self.coordinator.receive(
                    ToCoordinator::Replayed {
                        counts: Vec::new(),
                        lost: false,
                    },
                    &mut self.actions,
                    self.now,
                );
            }
            self
        }

        fn step(&mut self, acknowledged: Epoch, later_ms: u64) -> Vec<Action> {
            self.now += Duration::from_millis(later_ms);
            self.coordinator
                .step(acknowledged, 50, self.now, &mut self.actions);
            std::mem::take(&mut self.actions)
        }

        fn seals(&mut self, epoch: Epoch, records: u64, at_end: bool) {
            self.seals_rows(epoch, records, 1, at_end);
        }

        fn seals_rows(&mut self, epoch: Epoch, records: u64, rows: u64, at_end: bool) {
            for partition in 0..2 {
                let before = &self.coordinator.checkpoint().last_binding().cuts;
                let before = before[usize::try_from(partition).expect("small")].next;
                let cut = Cut {
                    next: match records {
                        0 => before,
                        _ => i64::try_from(epoch * 10).expect("small"),
                    },
                    ..Cut::default()
                };
                let counts = Counts {
                    records,
                    ..Counts::default()
                };
                self.coordinator.receive(
                    ToCoordinator::Sealed {
                        epoch,
                        cuts: vec![(partition, cut)],
                        counts,
                        rows,
                        at_end,
                    },
                    &mut self.actions,
                    self.now,
                );
            }
        }

        fn won(&mut self, actions: Vec<Action>) -> Vec<Action> {
            let [Action::Propose { proposed, .. }] = &actions[..] else {
                panic!("a proposal, not {actions:?}")
            };
            self.coordinator
                .proposal_applied((**proposed).clone(), &mut self.actions, self.now);
            std::mem::take(&mut self.actions)
        }
    }

    fn is_seal(actions: &[Action], epoch: Epoch) -> bool {
        matches!(actions, [Action::Broadcast(ToWorker::Seal(of))] if *of == epoch)
    }

    #[test]
    fn nothing_is_sealed_before_all_workers_have_replayed() {
        let mut fixture = fixture(false);
        assert!(fixture.step(0, 1_000).is_empty());
        fixture.coordinator.receive(
            ToCoordinator::Replayed {
                counts: Vec::new(),
                lost: false,
            },
            &mut fixture.actions,
            fixture.now,
        );
        assert!(fixture.step(0, 1_000).is_empty(), "one of two");
        let mut fixture = self::fixture(false).replayed();
        fixture.now += Duration::from_millis(1_000);
        assert!(matches!(
            fixture.step(0, 0)[..],
            [Action::Broadcast(ToWorker::Seal(1))]
        ));
    }

    #[test]
    fn an_epoch_is_released_only_after_its_binding_is_durable() {
        let mut fixture = fixture(false).replayed();
        fixture.step(0, 100);
        assert!(
            fixture.step(0, 1).is_empty(),
            "not before all workers have sealed"
        );
        fixture.seals(1, 5, false);
        let actions = fixture.step(0, 1);
        assert!(
            fixture.step(0, 500).is_empty(),
            "not before the proposal has ended"
        );
        let actions = fixture.won(actions);
        assert!(
            matches!(
                actions[..],
                [Action::Broadcast(ToWorker::Bound {
                    epoch: 1,
                    write_timestamp: 64
                })]
            ),
            "{actions:?}"
        );
    }

    #[test]
    fn a_commit_joins_the_next_binding_and_goes_alone_without_new_records() {
        let mut fixture = fixture(false).replayed();
        fixture.step(0, 100);
        fixture.seals(1, 5, false);
        let actions = fixture.step(0, 1);
        fixture.won(actions);
        assert!(
            fixture.step(1, 1).is_empty(),
            "acknowledged, but the next binding is near"
        );
        assert!(matches!(
            fixture.step(1, 100)[..],
            [Action::Broadcast(ToWorker::Seal(2))]
        ));
        fixture.seals(2, 5, false);
        let actions = fixture.step(1, 1);
        let [Action::Propose { history, .. }] = &actions[..] else {
            panic!("{actions:?}")
        };
        assert_eq!(
            (history.len(), history[0].epoch, history[0].counts.records),
            (1, 1, 10),
            "history goes before the commit"
        );
        let actions = fixture.won(actions);
        assert!(
            matches!(
                actions[..],
                [
                    Action::Broadcast(ToWorker::Bound { epoch: 2, .. }),
                    Action::Broadcast(ToWorker::Committed(1))
                ]
            ),
            "{actions:?}"
        );
        fixture.step(1, 100);
        fixture.seals(3, 0, false);
        assert!(
            matches!(
                fixture.step(2, 1)[..],
                [Action::Broadcast(ToWorker::Reopen(3))]
            ),
            "no records: the number is used again"
        );
        let actions = fixture.step(2, 1);
        let actions = fixture.won(actions);
        assert!(
            matches!(actions[..], [Action::Broadcast(ToWorker::Committed(2))]),
            "{actions:?}"
        );
    }

    #[test]
    fn nothing_that_is_replayed_is_committed_before_all_of_it_is_acknowledged() {
        let mut before = fixture(false).replayed();
        for epoch in 1..=3 {
            before.step(0, 100);
            before.seals(epoch, 1, false);
            let actions = before.step(0, 1);
            before.won(actions);
        }
        let now = before.now;
        let checkpoint = before.coordinator.checkpoint().clone();
        let (coordinator, _) = Coordinator::new(checkpoint, pace(false), now);
        let mut fixture = Fixture {
            coordinator,
            now,
            actions: Vec::new(),
        }
        .replayed();
        // All of (0, 3] is written at time 3. The frontier has passed 2, but that says nothing
        // about the bars of 1 and 2.
        assert!(
            fixture.step(2, 1).is_empty(),
            "after a commit of 2 and a crash, the bars of 1 and 2 would never be written"
        );
        let actions = fixture.step(3, 1);
        let [Action::Propose { proposed, .. }] = &actions[..] else {
            panic!("{actions:?}")
        };
        assert_eq!(proposed.committed.epoch, 3);
    }

    #[test]
    fn a_loss_is_bound_before_anything_that_was_replayed_is_committed() {
        let mut before = fixture(false).replayed();
        for epoch in 1..=AHEAD {
            before.step(0, 100);
            before.seals(epoch, 1, false);
            let actions = before.step(0, 1);
            before.won(actions);
        }
        let now = before.now;
        let checkpoint = before.coordinator.checkpoint().clone();
        let (coordinator, _) = Coordinator::new(checkpoint, pace(false), now);
        let mut fixture = Fixture {
            coordinator,
            now,
            actions: Vec::new(),
        };
        for lost in [true, false] {
            fixture.coordinator.receive(
                ToCoordinator::Replayed {
                    counts: Vec::new(),
                    lost,
                },
                &mut fixture.actions,
                fixture.now,
            );
        }
        let last = fixture.coordinator.checkpoint().last_binding().cuts.clone();
        let actions = fixture.step(AHEAD, 0);
        assert!(
            is_seal(&actions, AHEAD + 1),
            "the loss comes before the commit: {actions:?}"
        );
        for (partition, cut) in (0..).zip(last) {
            let cut = Cut {
                lost: (partition == 0).then_some(tapeflow_protocol::LostRange { from: 3, to: 7 }),
                ..cut
            };
            let sealed = ToCoordinator::Sealed {
                epoch: AHEAD + 1,
                cuts: vec![(partition, cut)],
                counts: Counts::default(),
                rows: 0,
                at_end: false,
            };
            fixture
                .coordinator
                .receive(sealed, &mut fixture.actions, fixture.now);
        }
        let actions = fixture.step(AHEAD, 0);
        let [Action::Propose { proposed, .. }] = &actions[..] else {
            panic!("a loss is bound without new records: {actions:?}")
        };
        assert_eq!(
            (proposed.committed.epoch, proposed.bound.len()),
            (AHEAD, 1),
            "in one step"
        );
        fixture.won(actions);
        fixture.step(AHEAD, 100);
        let carried = fixture.coordinator.checkpoint().last_binding().cuts.clone();
        for (partition, cut) in (0..).zip(carried) {
            let sealed = ToCoordinator::Sealed {
                epoch: AHEAD + 2,
                cuts: vec![(partition, cut)],
                counts: Counts::default(),
                rows: 0,
                at_end: false,
            };
            fixture
                .coordinator
                .receive(sealed, &mut fixture.actions, fixture.now);
        }
        assert!(
            matches!(
                fixture.step(AHEAD, 1)[..],
                [Action::Broadcast(ToWorker::Reopen(_))]
            ),
            "a loss that is already bound is not bound again"
        );
    }

    #[test]
    fn a_store_that_does_not_acknowledge_stops_the_sealing() {
        let mut fixture = fixture(false).replayed();
        for epoch in 1..=AHEAD {
            assert!(is_seal(&fixture.step(0, 100), epoch));
            fixture.seals(epoch, 1, false);
            let actions = fixture.step(0, 1);
            fixture.won(actions);
        }
        assert!(fixture.step(0, 10_000).is_empty());
        let actions = fixture.step(1, 1);
        assert!(
            matches!(actions[..], [Action::Propose { .. }]),
            "a commit makes room"
        );
        fixture.won(actions);
        assert!(is_seal(&fixture.step(1, 100), AHEAD + 1));
    }

    #[test]
    fn epochs_that_write_many_rows_are_not_bound_far_ahead() {
        let mut fixture = fixture(false).replayed();
        for epoch in 1..=2 {
            assert!(is_seal(&fixture.step(0, 100), epoch));
            // From each of the two workers.
            fixture.seals_rows(epoch, 1, limits().rows_ahead / 4, false);
            let actions = fixture.step(0, 1);
            fixture.won(actions);
        }
        assert!(
            fixture.step(0, 10_000).is_empty(),
            "both together write as many rows as may be bound"
        );
        let actions = fixture.step(1, 1);
        assert!(
            matches!(actions[..], [Action::Propose { .. }]),
            "a commit makes room"
        );
        fixture.won(actions);
        assert!(matches!(
            fixture.step(1, 100)[..],
            [Action::Broadcast(ToWorker::Seal(3))]
        ));
    }

    #[test]
    fn the_end_is_reached_by_draining() {
        let mut fixture = fixture(true).replayed();
        fixture.step(0, 100);
        fixture.seals(1, 5, true);
        let actions = fixture.step(0, 1);
        let [propose, Action::Broadcast(ToWorker::StopReading)] =
            <[Action; 2]>::try_from(actions).expect("two")
        else {
            panic!("bind, and stop reading")
        };
        fixture.won(vec![propose]);
        assert!(
            matches!(
                fixture.step(0, 0)[..],
                [Action::Broadcast(ToWorker::Seal(2))]
            ),
            "records read before the stop are sealed at once"
        );
        fixture.seals(2, 0, true);
        assert!(matches!(
            fixture.step(0, 0)[..],
            [Action::Broadcast(ToWorker::Reopen(2))]
        ));
        assert!(
            fixture.step(0, 1_000).is_empty(),
            "not before everything is acknowledged"
        );
        let actions = fixture.step(u64::MAX, 0);
        fixture.won(actions);
        assert!(matches!(
            fixture.step(u64::MAX, 0)[..],
            [Action::Broadcast(ToWorker::Finish)]
        ));
        assert!(fixture.coordinator.finished());
        assert_eq!(fixture.coordinator.checkpoint().committed.epoch, 1);
    }
}
