//! A peer says that another generation has taken the job over. Is it so?
//!
//! A process that ends with [`EXIT_FENCED`] is not started again, so this must not rest on a byte
//! that a peer sent. The checkpoint knows: it is read as the coordinator reads it, at SERIAL.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use tapeflow_protocol::{Checkpoint, JobStore, repair::is_repairer, workflow::until_answered};
use tokio::runtime::Handle;

use crate::failure::EXIT_FENCED;

/// How long the store has to answer. Without an answer the process is started again: a process by
/// itself takes nothing over.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Reads the checkpoint. Returns the exit code of this process, and why; `None` if the process ends
/// before there is an answer. `owner` is this job's.
pub(crate) fn ask(
    store: &Arc<dyn JobStore>,
    runtime: &Handle,
    owner: &str,
) -> Option<(u8, String)> {
    let store = Arc::clone(store);
    let found = answer(runtime, async move {
        until_answered("reading the checkpoint", || store.checkpoint()).await
    })?;
    Some(verdict(found, owner))
}

/// What a reading returns, or that it took too long; `None` if the runtime ends meanwhile, because
/// the process does. It must not be waited for in the runtime: timers panic in one that ends, and
/// a panic of any thread ends the process with another code.
fn answer<T: Send + 'static>(
    runtime: &Handle,
    read: impl Future<Output = Result<T, String>> + Send + 'static,
) -> Option<Result<T, String>> {
    let (send, answered) = mpsc::sync_channel(1);
    runtime.spawn(async move {
        let found = tokio::time::timeout(ANSWER_WITHIN, read).await;
        let late = |_| Err(format!("no answer within {} s", ANSWER_WITHIN.as_secs()));
        let _ = send.send(found.unwrap_or_else(late));
    });
    // A runtime that ends drops the task, and with it the sender.
    answered.recv().ok()
}

fn verdict(found: Result<Option<Checkpoint>, String>, owner: &str) -> (u8, String) {
    match found {
        Ok(Some(found)) if found.owner == owner => (
            1,
            "the checkpoint says that this job still owns it: the peer, or something between it \
             and this process, lies or is broken"
                .into(),
        ),
        Ok(Some(found)) if is_repairer(&found.owner) => {
            (1, "a `verify --repair` owns the checkpoint".into())
        }
        Ok(Some(found)) => (
            EXIT_FENCED,
            format!(
                "the checkpoint confirms it: generation {} (owner {})",
                found.generation, found.owner
            ),
        ),
        Ok(None) => (1, "the store has no checkpoint".into()),
        Err(reason) => (1, format!("the checkpoint cannot be read: {reason}")),
    }
}

#[cfg(test)]
mod tests {
    use tapeflow_protocol::decide::{self, Opening};

    use super::*;

    fn owned_by(owner: &str) -> Checkpoint {
        let opening = Opening {
            job: "test".into(),
            fingerprint: "rules".into(),
            source: tapeflow_protocol::SourceIdentity {
                topic: "trades".into(),
                topic_id: None,
                cluster: "c".into(),
            },
            earliest: vec![0],
            owner: owner.into(),
        };
        decide::take_over(None, &opening, 0).expect("a new job")
    }

    #[test]
    fn a_process_that_ends_while_it_asks_ends_without_a_panic() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let handle = runtime.handle().clone();
        let (begun, has_begun) = mpsc::channel();
        let asking = std::thread::spawn(move || {
            answer::<()>(&handle, async move {
                begun.send(()).expect("heard");
                loop {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
            })
        });
        has_begun.recv().expect("it asks");
        drop(runtime);
        assert_eq!(asking.join().expect("no panic"), None);
    }

    #[test]
    fn what_the_store_answers_is_the_answer() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        for found in [Ok(7), Err("no quorum".to_owned())] {
            let read = std::future::ready(found.clone());
            assert_eq!(answer(runtime.handle(), read), Some(found));
        }
    }

    #[test]
    fn only_the_checkpoint_fences_a_process() {
        let code = |found| verdict(found, "mine").0;
        assert_eq!(code(Ok(Some(owned_by("mine")))), 1, "the peer lies");
        assert_eq!(code(Ok(Some(owned_by("theirs")))), EXIT_FENCED);
        assert_eq!(
            code(Ok(Some(owned_by("repair-1")))),
            1,
            "it gives the job back"
        );
        assert_eq!(code(Ok(Some(owned_by("repaired-1")))), 1, "it has");
        assert_eq!(code(Ok(None)), 1);
        assert_eq!(code(Err("no quorum".into())), 1, "not known");
    }
}
