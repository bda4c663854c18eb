//! A peer says that another generation has taken the job over. Is it so?
//!
//! A process that ends with [`EXIT_FENCED`] is not started again, so this must not rest on a byte
//! that a peer sent. The checkpoint knows: it is read as the coordinator reads it, at SERIAL.

use std::{sync::Arc, time::Duration};

use tapeflow_protocol::{Checkpoint, JobStore, repair::is_repairer, workflow::until_answered};
use tokio::runtime::Handle;

use crate::failure::EXIT_FENCED;

/// How long the store has to answer. Without an answer the process is started again: a process by
/// itself takes nothing over.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// Reads the checkpoint. Returns the exit code of this process, and why. `owner` is this job's.
pub(crate) fn ask(store: &Arc<dyn JobStore>, runtime: &Handle, owner: &str) -> (u8, String) {
    let store = Arc::clone(store);
    let answer = async move {
        let read = until_answered("reading the checkpoint", || store.checkpoint());
        match tokio::time::timeout(ANSWER_WITHIN, read).await {
            Ok(found) => found,
            Err(_) => Err(format!("no answer within {} s", ANSWER_WITHIN.as_secs())),
        }
    };
    verdict(runtime.block_on(answer), owner)
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
