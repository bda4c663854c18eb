//! The coordinator with its hands: what it decides is told, proposed and mirrored here, on tokio, so
//! that no step of a worker waits for it.

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
    coordinator::{
        decisions::{Act, Coordinator},
        messages::{ToCoordinator, ToWorker},
    },
    job::{Shared, failed},
    worker::acknowledged,
};

/// How often committed offsets are mirrored for lag tools.
const MIRROR_EVERY: Duration = Duration::from_secs(1);

/// The coordinator together with its hands: the proposal under way.
pub(crate) struct Driver {
    coordinator: Coordinator,
    start: Option<Act>,
    ended: Receiver<Result<Checkpoint, WorkflowError>>,
    ends: Sender<Result<Checkpoint, WorkflowError>>,
    mirror: Mirror,
}

/// Mirrors committed offsets to the log's own place for them: now and then, and one call at a time.
#[derive(Default)]
struct Mirror {
    under_way: Arc<AtomicBool>,
    last: Option<Instant>,
    /// The epoch it was last called for.
    epoch: Epoch,
}

impl Mirror {
    fn offer(&mut self, checkpoint: &Checkpoint, shared: &Shared, now: Instant) {
        let early = self
            .last
            .is_some_and(|last| now.duration_since(last) < MIRROR_EVERY);
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
            if let Err(error) = log.mirror(&committed) {
                tracing::debug!(%error, "committed offsets are not mirrored; only tools that show lag miss them");
            }
            under_way.store(false, Ordering::Release);
        });
    }
}

impl Driver {
    pub(crate) fn new(checkpoint: Checkpoint, shared: &Shared, peers: usize) -> Self {
        let (ends, ended) = channel();
        shared.metrics.set_checkpoint(&checkpoint);
        let (coordinator, start) = Coordinator::new(
            checkpoint,
            peers,
            shared.config.epoch,
            shared.config.until_end,
            shared.clock.now(),
        );
        Self {
            coordinator,
            start: Some(start),
            ended,
            ends,
            mirror: Mirror::default(),
        }
    }

    /// One turn of the coordinator; returns whether anything happened.
    pub(crate) fn turn(
        &mut self,
        arrived: &RefCell<VecDeque<ToCoordinator>>,
        probe: &ProbeHandle<u64>,
        shared: &Arc<Shared>,
        said: &mut Vec<ToWorker>,
    ) -> bool {
        let now = shared.clock.now();
        let mut acts: Vec<Act> = self.start.take().into_iter().collect();
        for message in arrived.borrow_mut().drain(..) {
            self.coordinator.hear(message, &mut acts, now);
        }
        if let Ok(ended) = self.ended.try_recv() {
            match ended {
                Ok(checkpoint) => {
                    shared.metrics.set_checkpoint(&checkpoint);
                    self.coordinator.proposal_ended(checkpoint, &mut acts, now);
                }
                Err(error) => {
                    shared.failure.set(failed(error));
                    return true;
                }
            }
        }
        self.mirror
            .offer(self.coordinator.checkpoint(), shared, now);
        if !self.coordinator.finished() {
            self.coordinator
                .turn(acknowledged(probe), shared.clock.wall_us(), now, &mut acts);
        }
        let busy = !acts.is_empty();
        for act in acts {
            match act {
                Act::Say(message) => said.push(message),
                Act::Propose { proposed, history } => {
                    let (checkpoint, shared, ends, thread) = (
                        self.coordinator.checkpoint().clone(),
                        Arc::clone(shared),
                        self.ends.clone(),
                        std::thread::current(),
                    );
                    shared.runtime.clone().spawn(async move {
                        let ended =
                            workflow::advance(&*shared.store, &checkpoint, *proposed, &history)
                                .await;
                        let _ = ends.send(ended);
                        thread.unpark();
                    });
                }
            }
        }
        busy
    }
}
