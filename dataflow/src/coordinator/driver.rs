//! Carries out what the coordinator decides: broadcasts, proposals to the store, and the committed
//! group offsets. Calls run on tokio, so that no step of a worker waits for them.

use std::{
    cell::RefCell,
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

use tapeflow_protocol::{
    Checkpoint,
    workflow::{self, WorkflowError},
};
use tapeflow_schemas::Epoch;
use timely::dataflow::ProbeHandle;

use crate::{
    clock::SteadyClock,
    coordinator::{
        decisions::{Action, Coordinator, Pace},
        messages::{ToCoordinator, ToWorker},
    },
    operators::acknowledged::acknowledged_epoch,
    shared::Shared,
};

/// The interval at which committed offsets are written to the consumer group.
const GROUP_OFFSETS_INTERVAL: Duration = Duration::from_secs(1);

/// The coordinator, and the proposal under way.
pub(crate) struct Driver {
    coordinator: Coordinator,
    start: Option<Action>,
    /// The outcome of the proposal under way.
    outcomes: Receiver<Result<Checkpoint, WorkflowError>>,
    send_outcome: Sender<Result<Checkpoint, WorkflowError>>,
    group_offsets: GroupOffsets,
    clock: SteadyClock,
}

/// Writes committed offsets to the log's consumer group, for tools that display lag. At most one
/// call is under way.
#[derive(Default)]
struct GroupOffsets {
    under_way: Arc<AtomicBool>,
    last: Option<Instant>,
    /// The epoch of the last call.
    epoch: Epoch,
}

impl GroupOffsets {
    fn commit_if_due(&mut self, checkpoint: &Checkpoint, shared: &Shared, now: Instant) {
        let early = self
            .last
            .is_some_and(|last| now.duration_since(last) < GROUP_OFFSETS_INTERVAL);
        if checkpoint.committed.epoch == self.epoch
            || early
            || self.under_way.swap(true, Ordering::AcqRel)
        {
            return;
        }
        (self.last, self.epoch) = (Some(now), checkpoint.committed.epoch);
        let committed: Vec<_> = (0u32..)
            .zip(&checkpoint.committed.cuts)
            .map(|(partition, cut)| (partition, cut.next))
            .collect();
        let (log, under_way) = (Arc::clone(&shared.log), Arc::clone(&self.under_way));
        shared.runtime.spawn_blocking(move || {
            if let Err(error) = log.commit_group_offsets(&committed) {
                tracing::debug!(
                    %error,
                    "cannot commit group offsets; the job continues, lag tools show old values"
                );
            }
            under_way.store(false, Ordering::Release);
        });
    }
}

impl Driver {
    pub(crate) fn new(checkpoint: Checkpoint, shared: &Shared, peers: usize) -> Self {
        let (send_outcome, outcomes) = channel();
        shared.metrics.set_checkpoint(&checkpoint);
        let (coordinator, start) = Coordinator::new(
            checkpoint,
            Pace {
                peers,
                interval: shared.config.epoch,
                until_end: shared.config.until_end,
                limits: shared.config.limits,
            },
            shared.clock.now(),
        );
        Self {
            coordinator,
            start: Some(start),
            outcomes,
            send_outcome,
            group_offsets: GroupOffsets::default(),
            clock: SteadyClock::default(),
        }
    }

    /// One step: takes the `arrived` messages and adds the messages to broadcast to `outgoing`.
    /// Returns whether anything happened.
    pub(crate) fn step(
        &mut self,
        arrived: &RefCell<VecDeque<ToCoordinator>>,
        probe: &ProbeHandle<u64>,
        shared: &Arc<Shared>,
        outgoing: &mut Vec<ToWorker>,
    ) -> bool {
        let now = shared.clock.now();
        let mut actions: Vec<Action> = self.start.take().into_iter().collect();
        for message in arrived.borrow_mut().drain(..) {
            self.coordinator.receive(message, &mut actions, now);
        }
        match self.outcomes.try_recv() {
            Ok(Ok(checkpoint)) => {
                shared.metrics.set_checkpoint(&checkpoint);
                self.coordinator
                    .proposal_applied(checkpoint, &mut actions, now);
            }
            Ok(Err(error)) => {
                shared.failure.set(error.into());
                return true;
            }
            Err(_) => {}
        }
        self.group_offsets
            .commit_if_due(self.coordinator.checkpoint(), shared, now);
        if !self.coordinator.finished() {
            self.coordinator.step(
                acknowledged_epoch(probe),
                self.clock.time_us(now, shared.clock.wall_us()),
                now,
                &mut actions,
            );
        }
        let busy = !actions.is_empty();
        for action in actions {
            match action {
                Action::Broadcast(message) => outgoing.push(message),
                Action::Propose { proposed, history } => {
                    let (checkpoint, shared, send_outcome, thread) = (
                        self.coordinator.checkpoint().clone(),
                        Arc::clone(shared),
                        self.send_outcome.clone(),
                        std::thread::current(),
                    );
                    shared.runtime.clone().spawn(async move {
                        let outcome =
                            workflow::advance(&*shared.store, &checkpoint, *proposed, &history)
                                .await;
                        let _ = send_outcome.send(outcome);
                        thread.unpark();
                    });
                }
            }
        }
        busy
    }
}
