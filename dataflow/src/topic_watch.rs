//! Watches the topic while a job reads it, for changes that the readers do not notice: added
//! partitions, and a topic that was deleted and created again under its name.
//!
//! Process 0 asks every few seconds. A change ends the job, so that the next start handles it: the
//! take-over gives each added partition a cut at its first record, and refuses another topic. If
//! the brokers do not answer, the watch asks again later.

use std::{
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use tapeflow_log::Log;
use tapeflow_protocol::SourceIdentity;

use crate::failure::{Failure, JobError};

/// The interval between two requests to the log.
const INTERVAL: Duration = Duration::from_secs(5);

/// Ends the watch when dropped: the thread waits on the other end of this channel.
pub(crate) struct Watch {
    _alive: Sender<()>,
}

/// Watches the log of a job that took over `partitions` partitions of `source`. A change fails the
/// job.
pub(crate) fn start(
    log: Arc<dyn Log>,
    source: SourceIdentity,
    partitions: usize,
    failure: Failure,
) -> std::io::Result<Watch> {
    let (alive, ended) = channel();
    // A thread, because requests to the log block.
    thread::Builder::new()
        .name("log-watch".into())
        .spawn(move || {
            while ended.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let (Ok(found), Ok(now)) = (log.identity(), log.partitions()) else {
                    continue;
                };
                if let Some(error) = compare(&source, partitions, &found, now as usize) {
                    return failure.set(error);
                }
            }
        })?;
    Ok(Watch { _alive: alive })
}

fn compare(
    source: &SourceIdentity,
    before: usize,
    found: &SourceIdentity,
    now: usize,
) -> Option<JobError> {
    if !source.is_still(found) {
        return Some(JobError::Refused(format!(
            "topic {} is not the one the job began with: it was deleted and made again; rebuild \
             into a new store with --store",
            source.topic
        )));
    }
    (now > before).then(|| {
        JobError::Failed(format!(
            "topic {} has {now} partitions now, and had {before}: restart the job to read them",
            source.topic
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn added_partitions_and_a_recreated_topic_are_detected() {
        let source = |id: Option<&str>| SourceIdentity {
            cluster: "c".into(),
            topic: "t".into(),
            topic_id: id.map(Into::into),
        };
        let compared = |before: Option<&str>, now: Option<&str>, partitions| {
            compare(&source(before), 4, &source(now), partitions)
        };
        assert!(compared(Some("a"), Some("a"), 4).is_none());
        assert!(
            compared(None, Some("a"), 4).is_none(),
            "the next take-over stores an id that was unknown"
        );
        assert!(matches!(
            compared(Some("a"), Some("a"), 6),
            Some(JobError::Failed(text)) if text.contains("6 partitions now, and had 4")
        ));
        assert!(matches!(
            compared(Some("a"), Some("b"), 4),
            Some(JobError::Refused(_))
        ));
    }
}
