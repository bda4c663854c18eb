//! The leader with its hands: what it decides is told, proposed and mirrored here, on tokio, so
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
    Head,
    workflow::{self, WorkflowError},
};
use tapeflow_schemas::Epoch;
use timely::dataflow::ProbeHandle;

use crate::{
    coordinator::{
        decisions::{Act, Leader},
        messages::{Down, Up},
    },
    job::{Shared, failed},
    worker::acknowledged,
};

/// How often committed offsets are mirrored for lag tools.
const MIRROR_EVERY: Duration = Duration::from_secs(1);

/// The leader together with its hands: the proposal under way.
pub(crate) struct Lead {
    leader: Leader,
    start: Option<Act>,
    ended: Receiver<Result<Head, WorkflowError>>,
    ends: Sender<Result<Head, WorkflowError>>,
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
    fn offer(&mut self, head: &Head, shared: &Shared, now: Instant) {
        let early = self
            .last
            .is_some_and(|last| now.duration_since(last) < MIRROR_EVERY);
        if head.committed.epoch == self.epoch
            || early
            || self.under_way.swap(true, Ordering::AcqRel)
        {
            return;
        }
        (self.last, self.epoch) = (Some(now), head.committed.epoch);
        let committed: Vec<_> = (0u32..)
            .zip(&head.committed.cuts)
            .map(|(partition, cut)| (partition, cut.next))
            .collect();
        let (log, under_way) = (Arc::clone(&shared.log), Arc::clone(&self.under_way));
        shared.runtime.spawn_blocking(move || {
            if let Err(fault) = log.mirror(&committed) {
                tracing::debug!(%fault, "committed offsets are not mirrored; only tools that show lag miss them");
            }
            under_way.store(false, Ordering::Release);
        });
    }
}

impl Lead {
    pub(crate) fn new(head: Head, shared: &Shared, peers: usize) -> Self {
        let (ends, ended) = channel();
        shared.metrics.set_head(&head);
        let (leader, start) = Leader::new(
            head,
            peers,
            shared.config.epoch,
            shared.config.until_end,
            shared.clock.now(),
        );
        Self {
            leader,
            start: Some(start),
            ended,
            ends,
            mirror: Mirror::default(),
        }
    }

    /// One turn of the leader; returns whether anything happened.
    pub(crate) fn turn(
        &mut self,
        arrived: &RefCell<VecDeque<Up>>,
        probe: &ProbeHandle<u64>,
        shared: &Arc<Shared>,
        said: &mut Vec<Down>,
    ) -> bool {
        let now = shared.clock.now();
        let mut acts: Vec<Act> = self.start.take().into_iter().collect();
        for message in arrived.borrow_mut().drain(..) {
            self.leader.hear(message, &mut acts, now);
        }
        if let Ok(ended) = self.ended.try_recv() {
            match ended {
                Ok(head) => {
                    shared.metrics.set_head(&head);
                    self.leader.proposal_ended(head, &mut acts, now);
                }
                Err(fault) => {
                    shared.failure.set(failed(fault));
                    return true;
                }
            }
        }
        self.mirror.offer(self.leader.head(), shared, now);
        if !self.leader.finished() {
            self.leader
                .turn(acknowledged(probe), shared.clock.wall_us(), now, &mut acts);
        }
        let busy = !acts.is_empty();
        for act in acts {
            match act {
                Act::Say(message) => said.push(message),
                Act::Propose { proposed, history } => {
                    let (head, shared, ends, thread) = (
                        self.leader.head().clone(),
                        Arc::clone(shared),
                        self.ends.clone(),
                        std::thread::current(),
                    );
                    shared.runtime.clone().spawn(async move {
                        let ended =
                            workflow::advance(&*shared.store, &head, *proposed, &history).await;
                        let _ = ends.send(ended);
                        thread.unpark();
                    });
                }
            }
        }
        busy
    }
}
