//! The queue between a source of frames and the pipeline. It keeps their order, and is bounded by
//! bytes, because a frame may be a megabyte.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::{frame::Frame, presence::Change};

/// The memory of a frame beyond its bytes, roughly, so that empty frames are bounded too.
const FRAME_COST_BYTES: usize = 128;

/// Frames taken from the queue. Dropping this frees their bytes of the queue.
#[derive(Debug)]
pub struct Batch {
    /// The frames, in order.
    pub frames: Vec<Frame>,
    /// What the feed says about itself after them.
    pub change: Option<Change>,
    _permit: OwnedSemaphorePermit,
}

/// The end that sends frames.
#[derive(Clone, Debug)]
pub struct Sender {
    budget: Arc<Semaphore>,
    budget_bytes: u32,
    batches: mpsc::UnboundedSender<Batch>,
}

/// The end that receives frames.
#[derive(Debug)]
pub struct Receiver {
    budget: Arc<Semaphore>,
    batches: mpsc::UnboundedReceiver<Batch>,
}

/// The receiver was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

/// A queue of at most `budget_bytes`. A larger batch passes alone.
#[must_use]
pub fn bounded(budget_bytes: u32) -> (Sender, Receiver) {
    let budget = Arc::new(Semaphore::new(
        usize::try_from(budget_bytes).unwrap_or(Semaphore::MAX_PERMITS),
    ));
    let (sender, receiver) = mpsc::unbounded_channel();
    (
        Sender {
            budget: Arc::clone(&budget),
            budget_bytes,
            batches: sender,
        },
        Receiver {
            budget,
            batches: receiver,
        },
    )
}

impl Sender {
    /// Sends frames; waits while the queue is full.
    ///
    /// # Errors
    /// [`Closed`] if the receiver was dropped.
    pub async fn send(&self, frames: Vec<Frame>) -> Result<(), Closed> {
        let bytes: usize = frames
            .iter()
            .map(|frame| frame.bytes.len() + FRAME_COST_BYTES)
            .sum();
        let cost = u32::try_from(bytes)
            .unwrap_or(u32::MAX)
            .min(self.budget_bytes);
        let permit = Arc::clone(&self.budget)
            .acquire_many_owned(cost)
            .await
            .map_err(|_| Closed)?;
        self.batches
            .send(Batch {
                frames,
                change: None,
                _permit: permit,
            })
            .map_err(|_| Closed)
    }

    /// Sends what the feed says about itself, after the frames so far; waits while the queue is
    /// full.
    ///
    /// # Errors
    /// [`Closed`] if the receiver was dropped.
    pub async fn send_change(&self, change: Change) -> Result<(), Closed> {
        let cost = u32::try_from(FRAME_COST_BYTES).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.budget)
            .acquire_many_owned(cost.min(self.budget_bytes))
            .await
            .map_err(|_| Closed)?;
        self.batches
            .send(Batch {
                frames: Vec::new(),
                change: Some(change),
                _permit: permit,
            })
            .map_err(|_| Closed)
    }
}

impl Receiver {
    /// The next frames; `None` when the queue is empty and all senders were dropped. Cancel safe.
    pub async fn recv(&mut self) -> Option<Batch> {
        self.batches.recv().await
    }

    /// The next frames, if the queue holds any.
    pub fn try_recv(&mut self) -> Option<Batch> {
        self.batches.try_recv().ok()
    }

    /// Whether the queue is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Wakes senders that wait for room.
        self.budget.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(bytes: usize) -> Vec<Frame> {
        vec![Frame {
            line: 1,
            bytes: vec![0; bytes],
            taken_ms: None,
        }]
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_makes_the_sender_wait_until_a_batch_is_dropped() {
        let (sender, mut receiver) = bounded(1_000);
        sender.send(frame(800)).await.expect("room");
        let mut second = Box::pin(sender.send(frame(800)));
        assert!(
            tokio::time::timeout(std::time::Duration::from_secs(1), &mut second)
                .await
                .is_err(),
            "no room"
        );
        let batch = receiver.recv().await.expect("the first");
        drop(batch);
        second.await.expect("room again");
        assert!(!receiver.is_empty());
    }

    #[tokio::test]
    async fn a_batch_above_the_budget_passes_alone_and_a_lost_receiver_is_noticed() {
        let (sender, mut receiver) = bounded(1_000);
        sender.send(frame(5_000)).await.expect("passes");
        assert_eq!(
            receiver.recv().await.expect("it").frames[0].bytes.len(),
            5_000
        );
        sender.send(frame(5_000)).await.expect("passes");
        let waiting = sender.send(frame(10));
        let drop_it = async { drop(receiver) };
        let (sent, ()) = tokio::join!(waiting, drop_it);
        assert_eq!(sent, Err(Closed));
    }
}
