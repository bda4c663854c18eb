//! Alive, and ready? For whoever starts processes again, and whoever waits for them.

use std::{sync::Arc, time::Duration};

use axum::{extract::State, http::StatusCode};
use tapeflow_ingest::Connection;

use super::{Job, Told};

/// How long a worker may take for one turn: a question to a log that is out of reach takes up to a
/// minute.
const TURN: Duration = Duration::from_secs(90);
/// How long a job may go without progress.
const PROGRESS: Duration = Duration::from_secs(600);
/// A store that was asked again so lately does not answer: to start the process again mends
/// nothing.
const RETRIED: Duration = Duration::from_secs(120);

/// 200 as long as starting again would mend nothing, else 503; the text says why.
pub(super) async fn livez(State(told): State<Arc<Told>>) -> (StatusCode, String) {
    answer(
        told.job
            .as_ref()
            .map_or_else(|| Ok("serving".into()), |job| alive(&Ages::of(job))),
    )
}

/// 200 once the job goes on, or the feed is taken in, else 503; the text says why.
pub(super) async fn readyz(State(told): State<Arc<Told>>) -> (StatusCode, String) {
    answer(match (&told.job, &told.feed) {
        (Some(job), _) if job.metrics.ready() => Ok("the job goes on".into()),
        (Some(_), _) => Err("the job has not begun, or still replays".into()),
        (None, Some(feed)) => match feed.snapshot().connection {
            Connection::None | Connection::Open => Ok("the feed is taken in".into()),
            Connection::Connecting | Connection::Waiting => Err("not connected to the feed".into()),
            Connection::Closed => Err("the feed is closed".into()),
        },
        (None, None) => Ok("serving".into()),
    })
}

fn answer(found: Result<String, String>) -> (StatusCode, String) {
    match found {
        Ok(text) => (StatusCode::OK, format!("ok: {text}\n")),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, format!("{text}\n")),
    }
}

/// How long ago things last happened; none if never.
struct Ages {
    turn: Option<Duration>,
    progress: Option<Duration>,
    retry: Option<Duration>,
}

impl Ages {
    fn of(job: &Job) -> Self {
        Self {
            turn: job.metrics.step_age(),
            progress: job.metrics.progress_age(),
            retry: job.metrics.retry_age(),
        }
    }
}

fn alive(ages: &Ages) -> Result<String, String> {
    let seconds = |age: Option<Duration>| {
        age.map_or_else(
            || "never".to_owned(),
            |age| format!("{:.1} s ago", age.as_secs_f64()),
        )
    };
    let text = format!(
        "last turn {}, last progress {}",
        seconds(ages.turn),
        seconds(ages.progress)
    );
    if ages.turn.is_some_and(|age| age > TURN) {
        return Err(format!("a worker stands still: {text}"));
    }
    let waits_for_store = ages.retry.is_some_and(|age| age < RETRIED);
    if ages.progress.is_some_and(|age| age > PROGRESS) && !waits_for_store {
        return Err(format!(
            "nothing was committed, and there is something to commit: {text}"
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_starting_again_may_mend_is_called_dead() {
        let ages = |turn: u64, progress: Option<u64>, retry: Option<u64>| Ages {
            turn: Some(Duration::from_secs(turn)),
            progress: progress.map(Duration::from_secs),
            retry: retry.map(Duration::from_secs),
        };
        assert!(
            alive(&Ages {
                turn: None,
                progress: None,
                retry: None
            })
            .is_ok(),
            "waits for the other processes"
        );
        assert!(alive(&ages(0, Some(3), None)).is_ok());
        assert!(alive(&ages(0, None, None)).is_ok(), "replays");
        assert!(alive(&ages(100, Some(3), None)).is_err(), "a worker hangs");
        assert!(alive(&ages(0, Some(700), None)).is_err(), "stuck");
        assert!(
            alive(&ages(0, Some(700), Some(5))).is_ok(),
            "the store is out of reach"
        );
        assert!(
            alive(&ages(0, Some(7_000), Some(6_000))).is_err(),
            "it has been back for long"
        );
    }
}
