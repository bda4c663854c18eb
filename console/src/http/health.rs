//! `/livez` and `/readyz`, for orchestrators: should the process be restarted, and is it ready?

use std::{sync::Arc, time::Duration};

use axum::{extract::State, http::StatusCode};

use super::state::{JobState, ServerState};

/// The longest step of a worker that counts as alive: a request to a log that is out of reach takes
/// up to a minute.
const LONGEST_STEP: Duration = Duration::from_secs(90);
/// The longest time without progress that counts as alive.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);
/// After a retry this recent the store does not answer, and a restart would not help. After an
/// answer about bars this recent a long load goes on, and a restart would begin it anew.
const RECENT_CALL: Duration = Duration::from_secs(120);

/// 503 if a restart may help, else 200. The body gives the reason.
pub(super) async fn livez(State(state): State<Arc<ServerState>>) -> (StatusCode, String) {
    answer(
        state
            .job
            .as_ref()
            .map_or_else(|| Ok("serving".into()), |job| alive(&Ages::of(job))),
    )
}

/// 200 once the job has replayed all bound epochs, while nothing that it needs is out of reach and
/// the feed is connected; else 503. The body says what is missing, since when and why.
pub(super) async fn readyz(State(state): State<Arc<ServerState>>) -> (StatusCode, String) {
    answer(match (&state.job, state.waits_for()) {
        (_, Some(outages)) => Err(format!("waiting: {outages}")),
        (Some(job), None) if job.metrics.ready() => Ok("the job counts new records".into()),
        (Some(_), None) => Err("the job is starting or replaying".into()),
        (None, None) if state.feed.is_some() => Ok("reading the feed".into()),
        (None, None) => Ok("serving".into()),
    })
}

fn answer(found: Result<String, String>) -> (StatusCode, String) {
    match found {
        Ok(text) => (StatusCode::OK, format!("ok: {text}\n")),
        Err(text) => (StatusCode::SERVICE_UNAVAILABLE, format!("{text}\n")),
    }
}

/// How long ago each of these last happened; none if never.
struct Ages {
    step: Option<Duration>,
    progress: Option<Duration>,
    retry: Option<Duration>,
    /// An answer of the store about bars.
    answer: Option<Duration>,
}

impl Ages {
    fn of(job: &JobState) -> Self {
        Self {
            step: job.metrics.step_age(),
            progress: job.metrics.progress_age(),
            retry: job.metrics.retry_age(),
            answer: job.metrics.answer_age(),
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
        "last step {}, last progress {}",
        seconds(ages.step),
        seconds(ages.progress)
    );
    if ages.step.is_some_and(|age| age > LONGEST_STEP) {
        return Err(format!("a worker hangs: {text}"));
    }
    let recent = |age: Option<Duration>| age.is_some_and(|age| age < RECENT_CALL);
    let goes_on = recent(ages.retry) || recent(ages.answer);
    if ages.progress.is_some_and(|age| age > LONGEST_PAUSE) && !goes_on {
        return Err(format!("records wait and nothing is committed: {text}"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_dead_only_if_a_restart_may_help() {
        let ages = |step: u64, progress: Option<u64>, retry: Option<u64>| Ages {
            step: Some(Duration::from_secs(step)),
            progress: progress.map(Duration::from_secs),
            retry: retry.map(Duration::from_secs),
            answer: None,
        };
        let loads = |answer: u64| Ages {
            answer: Some(Duration::from_secs(answer)),
            ..ages(0, Some(7_000), None)
        };
        assert!(
            alive(&Ages {
                step: None,
                progress: None,
                retry: None,
                answer: None
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
            "the store has long been back"
        );
        assert!(alive(&loads(5)).is_ok(), "a long load makes progress");
        assert!(alive(&loads(600)).is_err(), "the load is stuck");
    }
}
