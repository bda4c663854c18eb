//! What may change about a log while a job reads it, and must not go unnoticed: partitions that
//! were added, and a topic that was deleted and made again under its name.
//!
//! Process 0 asks every few seconds. Added partitions are taken up by starting again: the take-over
//! gives each a cut at its first record, and nothing in them is lost meanwhile. Brokers that do not
//! answer are no change.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tapeflow_log::Log;
use tapeflow_protocol::SourceIdentity;

use crate::job::{Failure, JobError};

/// How often the log is asked.
const EVERY: Duration = Duration::from_secs(5);
/// How often the thread looks whether the job has ended.
const STEP: Duration = Duration::from_millis(100);

/// Ends the watch when dropped.
pub(crate) struct Watch(Arc<AtomicBool>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Watches the log of a job that took `partitions` of `source` over; a change fails the job.
pub(crate) fn start(
    log: Arc<dyn Log>,
    source: SourceIdentity,
    partitions: usize,
    failure: Failure,
) -> std::io::Result<Watch> {
    let ended = Arc::new(AtomicBool::new(false));
    let watch = Watch(Arc::clone(&ended));
    thread::Builder::new()
        .name("log watch".into())
        .spawn(move || {
            loop {
                let mut slept = Duration::ZERO;
                while slept < EVERY {
                    if ended.load(Ordering::Acquire) {
                        return;
                    }
                    thread::sleep(STEP);
                    slept += STEP;
                }
                let (Ok(found), Ok(now)) = (log.identity(), log.partitions()) else {
                    continue;
                };
                if let Some(error) = judge(&source, partitions, &found, now as usize) {
                    return failure.set(error);
                }
            }
        })?;
    Ok(watch)
}

fn judge(
    source: &SourceIdentity,
    before: usize,
    found: &SourceIdentity,
    now: usize,
) -> Option<JobError> {
    if !source.is_still(found) {
        return Some(JobError::Refused(format!(
            "topic {} is not the one the job began with: it was deleted and made again; rebuild into a new store with --store",
            source.topic
        )));
    }
    (now > before).then(|| {
        JobError::Failed(format!(
            "topic {} has {now} partitions now, and had {before}: start the job again to read them",
            source.topic
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_partitions_and_a_topic_made_again_are_noticed_and_nothing_else_is() {
        let source = |id: Option<&str>| SourceIdentity {
            cluster: "c".into(),
            topic: "t".into(),
            topic_id: id.map(Into::into),
        };
        let judged = |before: Option<&str>, now: Option<&str>, partitions| {
            judge(&source(before), 4, &source(now), partitions)
        };
        assert!(judged(Some("a"), Some("a"), 4).is_none());
        assert!(
            judged(None, Some("a"), 4).is_none(),
            "an id that was not known is learnt by the next take-over"
        );
        assert!(
            matches!(judged(Some("a"), Some("a"), 6), Some(JobError::Failed(text)) if text.contains("6 partitions now, and had 4"))
        );
        assert!(matches!(
            judged(Some("a"), Some("b"), 4),
            Some(JobError::Refused(_))
        ));
    }
}
