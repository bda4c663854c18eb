//! A run: takes frames from a source, admits, sequences and appends them, and flushes at the end.
//!
//! ```text
//!  socket, file or history ─▶ queue ─▶ admit ─▶ sequence ─▶ append
//! ```
//!
//! The queue is bounded by bytes, and the log makes the run wait while its own queue is full.
//!
//! A stop ends the source. Frames that were taken in before are still appended and flushed, within
//! [`DRAIN_LIMIT`]. A live run draws a random session at its start and keeps it across reconnects.
//! The session of a replay is a hash of its file, and that of a simulated history is
//! [`HISTORY_SESSION`].

use std::{
    future::Future,
    path::PathBuf,
    time::{Duration, Instant},
};

use rand::{RngCore, SeedableRng, rngs::StdRng};
use tapeflow_log::{AppendError, LogWriter, NewRecord};
use tapeflow_schemas::SessionId;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    admission::{Admitted, admit},
    clock::now_ms,
    counts::Counts,
    finnhub::{FinnhubConfig, FinnhubError, socket},
    frame::Frame,
    pace::{Pace, Speed},
    progress::Progress,
    queue,
    replay::{Recording, ReplayError},
    sequencing::{Origin, Sequencer},
    simulator::{HISTORY_SESSION, Simulator},
};

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The live feed failed.
    #[error(transparent)]
    Finnhub(#[from] FinnhubError),
    /// The recording cannot be read.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The log failed for good.
    #[error("cannot append to the log: {0}")]
    Append(#[from] AppendError),
    /// The log accepted nothing for [`DRAIN_LIMIT`] after the stop.
    #[error(
        "stopped before all trades were appended: the log did not answer for {} s",
        DRAIN_LIMIT.as_secs()
    )]
    Undrained,
}

/// Settings of a live run.
#[derive(Clone, Debug)]
pub struct LiveConfig {
    /// The server, the token and the symbols.
    pub finnhub: FinnhubConfig,
    /// The source named in every record: `finnhub` or `simulator`.
    pub source: String,
}

/// Settings of a replay.
#[derive(Clone, Debug)]
pub struct ReplayConfig {
    /// The file of JSON lines.
    pub path: PathBuf,
    /// As fast as possible, or a multiple of the recording's own pace.
    pub speed: Speed,
    /// The source named in every record; usually `replay`.
    pub source: String,
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The session of the run's records.
    pub session: SessionId,
    /// What came in and what became of it. Continues the counts that the run's [`Progress`] held
    /// at its start, so those of a live run include its simulated history.
    pub counts: Counts,
    /// True if the recording or history was appended to its end; always false for a live run.
    pub complete: bool,
}

/// How long a run that was asked to stop waits for the log.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// The queue of the simulated history: small, because what waits there is appended before a stop.
const HISTORY_QUEUE_BYTES: u32 = 256 << 10;
/// Bound of the frames between the source and the log.
const QUEUE_BYTES: u32 = 16 << 20;
/// A busy live feed is flushed at least this often. A replay is flushed less often, because each
/// flush waits for the log's disk.
const LIVE_FLUSH: Duration = Duration::from_millis(50);
const REPLAY_FLUSH: Duration = Duration::from_millis(500);
/// Records passed to the log in one call.
const APPEND_RECORDS: usize = 1_024;

/// Appends the live feed to the log until it is asked to stop, the server refuses it for good, or
/// the log fails.
///
/// # Errors
/// [`IngestError`]. Frames that were taken in before a failure of the feed are appended.
pub async fn run_live(
    config: &LiveConfig,
    log: &mut dyn LogWriter,
    stop: CancellationToken,
    progress: &Progress,
) -> Result<Summary, IngestError> {
    let session = random_session();
    let (sender, receiver) = queue::bounded(QUEUE_BYTES);
    let pipeline = Pipeline::new(
        Sequencer::new(session, config.source.as_str(), log.partitions()),
        Speed::Max,
        LIVE_FLUSH,
        progress,
    );
    info!(
        %session,
        endpoint = %config.finnhub.endpoint,
        symbols = config.finnhub.symbols.len(),
        "live feed begins"
    );
    let feed = socket::run(&config.finnhub, sender, &stop, progress);
    let (fed, (counts, _)) = side_by_side(feed, pipeline.run(receiver, log, &stop)).await?;
    let summary = Summary {
        session,
        counts,
        complete: false,
    };
    log_summary(&summary);
    fed.map(|()| summary).map_err(Into::into)
}

/// Appends a recording to the log until its end, or until it is asked to stop. Skips records that
/// the log holds from an earlier run.
///
/// # Errors
/// [`IngestError`]. A run that is stopped early is not an error.
pub async fn run_replay(
    config: &ReplayConfig,
    log: &mut dyn LogWriter,
    stop: CancellationToken,
    progress: &Progress,
) -> Result<Summary, IngestError> {
    let path = config.path.clone();
    let recording = blocking(move || Recording::open(&path)).await?;
    let partitions = log.partitions();
    let session = recording.session(partitions);
    let held = log.last_sequences(session).await?;
    let resumed: u64 = held.iter().sum();
    info!(
        %session,
        file = %config.path.display(),
        speed = %config.speed,
        resumed,
        "replay begins"
    );
    let mut sequencer = Sequencer::new(session, config.source.as_str(), partitions);
    sequencer.resume_from(&held);
    let pipeline = Pipeline::new(sequencer, config.speed, REPLAY_FLUSH, progress);
    let (sender, receiver) = queue::bounded(QUEUE_BYTES);
    let (runtime, stopped) = (tokio::runtime::Handle::current(), stop.clone());
    let read = blocking(move || {
        recording
            .read(|frames| !stopped.is_cancelled() && runtime.block_on(sender.send(frames)).is_ok())
    });
    let (read, (counts, all)) = side_by_side(read, pipeline.run(receiver, log, &stop)).await?;
    let summary = Summary {
        session,
        counts,
        complete: read? && all,
    };
    log_summary(&summary);
    Ok(summary)
}

/// Appends the history of a simulated market, which ends now, or until it is asked to stop. Live
/// prices of the simulator continue where the history ends.
///
/// The log must hold nothing but records of [`HISTORY_SESSION`]: bars do not accept trades older
/// than those that are already in them. Records of an earlier start that was interrupted are
/// skipped. The rest follows with times that end now, so the minutes between the two starts stay
/// empty.
///
/// # Errors
/// [`IngestError`]. A run that is stopped early is not an error.
pub async fn run_history(
    simulator: &Simulator,
    source: &str,
    log: &mut dyn LogWriter,
    stop: CancellationToken,
    progress: &Progress,
) -> Result<Summary, IngestError> {
    let begun = Instant::now();
    let held = log.last_sequences(HISTORY_SESSION).await?;
    let mut sequencer = Sequencer::new(HISTORY_SESSION, source, log.partitions());
    sequencer.resume_from(&held);
    let pipeline = Pipeline::new(sequencer, Speed::Max, REPLAY_FLUSH, progress);
    let (sender, receiver) = queue::bounded(HISTORY_QUEUE_BYTES);
    let runtime = tokio::runtime::Handle::current();
    let (market, stopped) = (simulator.market(), stop.clone());
    let generate = blocking(move || {
        let mut line = 0;
        market.generate_history(now_ms(), |texts| {
            let numbered = |text: String| {
                line += 1;
                Frame {
                    line,
                    bytes: text.into_bytes(),
                    taken_ms: None,
                }
            };
            let frames = texts.into_iter().map(numbered).collect();
            !stopped.is_cancelled() && runtime.block_on(sender.send(frames)).is_ok()
        })
    });
    let (generated, (counts, all)) =
        side_by_side(generate, pipeline.run(receiver, log, &stop)).await?;
    let summary = Summary {
        session: HISTORY_SESSION,
        counts,
        complete: generated && all,
    };
    info!(
        trades = summary.counts.trades,
        records = summary.counts.records,
        resumed = summary.counts.records_resumed,
        complete = summary.complete,
        ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        "simulated history appended"
    );
    Ok(summary)
}

/// Runs the source and the pipeline together. A pipeline that fails ends the source; one that
/// succeeds has seen the source end.
async fn side_by_side<A, B>(
    source: impl Future<Output = A>,
    pipeline: impl Future<Output = Result<B, IngestError>>,
) -> Result<(A, B), IngestError> {
    let source = async { Ok::<A, IngestError>(source.await) };
    tokio::try_join!(source, pipeline)
}

/// Runs blocking work on a thread of its own. A panic there continues here.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

fn random_session() -> SessionId {
    let mut session = [0; 16];
    StdRng::from_os_rng().fill_bytes(&mut session);
    SessionId(session)
}

fn log_summary(summary: &Summary) {
    let counts = &summary.counts;
    info!(
        session = %summary.session,
        complete = summary.complete,
        frames = counts.frames,
        trades = counts.trades,
        price_updates = counts.price_updates,
        invalid_frames = counts.invalid_frames(),
        rounded = counts.rounded,
        records = counts.records,
        records_resumed = counts.records_resumed,
        "feed ends"
    );
}

/// Admits, sequences and appends the frames of one run.
struct Pipeline<'a> {
    sequencer: Sequencer,
    counts: Counts,
    speed: Speed,
    pace: Pace,
    begin: tokio::time::Instant,
    flush_every: Duration,
    taken_ms: Option<i64>,
    progress: &'a Progress,
}

impl<'a> Pipeline<'a> {
    fn new(
        sequencer: Sequencer,
        speed: Speed,
        flush_every: Duration,
        progress: &'a Progress,
    ) -> Self {
        let begin = tokio::time::Instant::now();
        Self {
            sequencer,
            counts: progress.snapshot().counts,
            speed,
            pace: Pace::default(),
            begin,
            flush_every,
            taken_ms: None,
            progress,
        }
    }

    /// Appends frames until the queue is closed and empty; a paced run also ends at the stop.
    /// Returns the counts, and whether all frames were appended.
    async fn run(
        mut self,
        mut frames: queue::Receiver,
        log: &mut dyn LogWriter,
        stop: &CancellationToken,
    ) -> Result<(Counts, bool), IngestError> {
        let mut out = Vec::new();
        let mut flushed = Instant::now();
        let mut all = true;
        while all && let Some(first) = frames.recv().await {
            // Frames that wait already are appended together: few large appends for a busy log,
            // and each frame at once for an idle one.
            let mut next = Some(first);
            while let Some(batch) = next {
                all = self.take(&batch.frames, &mut out, log, stop).await?;
                next = if all && out.len() < APPEND_RECORDS {
                    frames.try_recv()
                } else {
                    None
                };
            }
            append(log, &mut out, stop).await?;
            if frames.is_empty() || flushed.elapsed() >= self.flush_every {
                drained(log.flush(), stop).await?;
                flushed = Instant::now();
                debug!(
                    frames = self.counts.frames,
                    trades = self.counts.trades,
                    records = self.counts.records,
                    "flushed"
                );
            }
            self.progress.set_counts(&self.counts, self.taken_ms);
        }
        drained(log.flush(), stop).await?;
        Ok((self.counts, all))
    }

    /// Admits and sequences a batch of frames; false if a stop came before one was due.
    async fn take(
        &mut self,
        frames: &[Frame],
        out: &mut Vec<NewRecord>,
        log: &mut dyn LogWriter,
        stop: &CancellationToken,
    ) -> Result<bool, IngestError> {
        let mut now = now_ms();
        for frame in frames {
            let admitted = admit(frame, &mut self.counts);
            if let Some(due) = self.due(&admitted) {
                append(log, out, stop).await?;
                drained(log.flush(), stop).await?;
                self.progress.set_counts(&self.counts, self.taken_ms);
                tokio::select! {
                    () = tokio::time::sleep_until(due) => now = now_ms(),
                    () = stop.cancelled() => return Ok(false),
                }
            }
            let taken_ms = frame.taken_ms.unwrap_or(now);
            self.taken_ms = Some(taken_ms);
            self.sequencer.take(
                &admitted,
                Origin {
                    line: frame.line,
                    taken_ms,
                },
                &mut self.counts,
                out,
            );
        }
        Ok(true)
    }

    /// When a frame of a paced replay is due; `None` if that time has passed.
    fn due(&mut self, admitted: &Admitted<'_>) -> Option<tokio::time::Instant> {
        let Speed::Times(times) = self.speed else {
            return None;
        };
        let event_ms = first_event_ms(admitted)?;
        let due = self.begin + self.pace.due(event_ms).div_f64(times);
        (due > tokio::time::Instant::now()).then_some(due)
    }
}

async fn append(
    log: &mut dyn LogWriter,
    out: &mut Vec<NewRecord>,
    stop: &CancellationToken,
) -> Result<(), IngestError> {
    if out.is_empty() {
        Ok(())
    } else {
        drained(log.append(std::mem::take(out)), stop).await
    }
}

/// Waits for the log, after a stop at most [`DRAIN_LIMIT`].
async fn drained(
    work: impl Future<Output = Result<(), AppendError>>,
    stop: &CancellationToken,
) -> Result<(), IngestError> {
    let limit = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN_LIMIT).await;
    };
    tokio::select! {
        biased;
        done = work => done.map_err(Into::into),
        () = limit => {
            warn!("log does not answer after the stop; frames taken in are not appended");
            Err(IngestError::Undrained)
        }
    }
}

fn first_event_ms(admitted: &Admitted<'_>) -> Option<i64> {
    admitted
        .groups
        .first()
        .and_then(|group| group.trades.first())
        .map(|trade| trade.event_time.ms())
}
