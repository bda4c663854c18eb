//! A run: takes frames from a source, admits, sequences and appends them, and flushes at the end.
//!
//! ```text
//!  socket, file or history ─▶ queue ─▶ admit ─▶ sequence ─▶ append
//! ```
//!
//! The queue is bounded by bytes, and the log makes the run wait while its own queue is full.
//!
//! A stop ends the source. Frames that were taken in before are still appended and flushed, within
//! [`DRAIN_LIMIT`]. A live run draws a session at its start and keeps it across reconnects. It finds
//! the session of the run before it in the log, and says in each partition since when its feed is
//! away.
//! The session of a replay is that of its recording ([`crate::recognise`]), and that of a simulated
//! history is [`HISTORY_SESSION`].

use std::{
    future::Future,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rand::{RngCore, SeedableRng, rngs::StdRng};
use tapeflow_log::{AppendError, LastSession, LogWriter, NewRecord};
use tapeflow_schemas::SessionId;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::{
    admission::{Admitted, admit},
    clock::now_ms,
    counts::Counts,
    finnhub::{FinnhubConfig, FinnhubError, socket},
    first_lines::NoRecording,
    frame::Frame,
    pace::{Pace, Speed},
    presence::{Cause, Idle, Presence},
    progress::Progress,
    queue,
    recognise::{Differing, Unlike, recognise},
    replay::{HashedRecording, Recording, ReplayError},
    sequencing::{Origin, Sequencer},
    simulator::{HISTORY_SESSION, HeldHistory, Simulator},
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
    /// The file is no recording. Nothing was appended.
    #[error("{path} is no recording: {reason}")]
    NoRecording {
        /// The file.
        path: String,
        /// What it is.
        reason: NoRecording,
    },
    /// The log has the beginning of the recording, and goes on differently. Nothing was appended.
    #[error("{path} cannot be replayed: {unlike}")]
    Unlike {
        /// The file.
        path: String,
        /// How it differs.
        unlike: Unlike,
    },
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
    /// The name by which the next run finds this one in the log. Of several runs into one log, each
    /// needs its own.
    pub producer: String,
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
    /// What to do with a recording that the log has in another form.
    pub differing: Differing,
}

/// Settings of a simulated history.
#[derive(Clone, Debug)]
pub struct HistoryConfig {
    /// The source named in every record; usually `simulator`.
    pub source: String,
    /// What the log holds of a history that was interrupted.
    pub held: Option<HeldHistory>,
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
    let producer = config.producer.as_str();
    let session = SessionId::of_producer(producer, StdRng::from_os_rng().next_u64());
    let previous = log.last_session(producer).await?;
    let (sender, receiver) = queue::bounded(QUEUE_BYTES);
    let sequencer = Sequencer::new(session, config.source.as_str(), log.partitions());
    let mut pipeline = Pipeline::new(
        sequencer.of_producer(producer),
        Speed::Max,
        LIVE_FLUSH,
        progress,
    );
    let presence = pipeline.begin(previous.as_ref(), now_ms());
    info!(
        %session,
        endpoint = %config.finnhub.endpoint,
        symbols = config.finnhub.symbols.len(),
        producer,
        after = previous.map(|previous| previous.session.to_string()),
        "live feed begins"
    );
    let feed = socket::run(&config.finnhub, sender, presence, &stop, progress);
    let (fed, (counts, _)) = side_by_side(feed, pipeline.run(receiver, log, &stop)).await?;
    let summary = Summary {
        session,
        counts,
        complete: false,
    };
    log_summary(&summary);
    fed.map(|()| summary).map_err(Into::into)
}

/// A recording that the log takes: it was read once, and the log does not have it in another form.
/// Nothing has been written for it.
#[derive(Debug)]
pub struct AcceptedReplay {
    config: ReplayConfig,
    recording: HashedRecording,
    beginning: Option<String>,
    session: SessionId,
    /// Whether the log has noted the recording as it is now.
    is_noted: bool,
}

/// Reads a recording once, and refuses what must not be appended to this log.
///
/// # Errors
/// [`IngestError`]; [`IngestError::NoRecording`] and [`IngestError::Unlike`] say why it is refused.
pub async fn accept_replay(
    config: ReplayConfig,
    log: &mut dyn LogWriter,
) -> Result<AcceptedReplay, IngestError> {
    let (path, partitions) = (config.path.clone(), log.partitions());
    let recording = blocking(move || open_recording(&path, partitions)).await?;
    let beginning = recording.beginning().map(str::to_owned);
    let known = match &beginning {
        Some(beginning) => log.recordings(beginning).await?,
        // Without a trade nothing can count twice.
        None => Vec::new(),
    };
    let wanted = known.iter().map(|known| known.note.frames).collect();
    let recording = blocking(move || recording.hashed(wanted)).await?;
    let session = recognise(recording.prefixes(), &known, config.differing).map_err(|unlike| {
        IngestError::Unlike {
            path: config.path.display().to_string(),
            unlike,
        }
    })?;
    let note = beginning
        .as_ref()
        .map(|beginning| recording.prefixes().note(beginning));
    let is_noted = known
        .iter()
        .any(|known| known.session == session && Some(&known.note) == note.as_ref());
    Ok(AcceptedReplay {
        config,
        recording,
        beginning,
        session,
        is_noted,
    })
}

/// Appends a recording to the log that accepted it until its end, or until it is asked to stop.
/// Skips records that the log holds from an earlier run, also if the recording has grown since.
///
/// What the recording is now is noted before any of its new frames is appended. So after a crash at
/// any point, the records of its session are those of the noted frames.
///
/// # Errors
/// [`IngestError`]. A run that is stopped early is not an error.
pub async fn run_replay(
    replay: AcceptedReplay,
    log: &mut dyn LogWriter,
    stop: CancellationToken,
    progress: &Progress,
) -> Result<Summary, IngestError> {
    let AcceptedReplay {
        config,
        recording,
        beginning,
        session,
        is_noted,
    } = replay;
    let held = log.last_sequences(session).await?;
    if let Some(beginning) = &beginning
        && !is_noted
    {
        let note = recording.prefixes().note(beginning);
        drained(progress, log.note_recording(session, &note), &stop).await?;
    }
    let resumed: u64 = held.iter().sum();
    info!(
        %session,
        file = %config.path.display(),
        frames = recording.prefixes().frames,
        speed = %config.speed,
        resumed,
        "replay begins"
    );
    let mut sequencer = Sequencer::new(session, config.source.as_str(), log.partitions());
    sequencer.resume_from(&held);
    let pipeline = Pipeline::new(sequencer, config.speed, REPLAY_FLUSH, progress);
    let (sender, receiver) = queue::bounded(QUEUE_BYTES);
    let (runtime, stopped) = (tokio::runtime::Handle::current(), stop.clone());
    let read = blocking(move || {
        recording
            .read(|frames| !stopped.is_cancelled() && runtime.block_on(sender.send(frames)).is_ok())
    });
    let (read, (counts, all)) = side_by_side(read, pipeline.run(receiver, log, &stop)).await?;
    drained(progress, log.note_sequences(session), &stop).await?;
    let summary = Summary {
        session,
        counts,
        complete: read? && all,
    };
    log_summary(&summary);
    Ok(summary)
}

/// Appends the history of a simulated market up to now, or until it is asked to stop. Live prices
/// of the simulator continue where the history ends.
///
/// The log must hold nothing but records of [`HISTORY_SESSION`], from a start that was interrupted:
/// bars do not accept trades older than those that are already in them. The history goes on after
/// them, so that the time between the two starts has trades too.
///
/// # Errors
/// [`IngestError`]. A run that is stopped early is not an error.
pub async fn run_history(
    simulator: &Simulator,
    config: &HistoryConfig,
    log: &mut dyn LogWriter,
    stop: CancellationToken,
    progress: &Progress,
) -> Result<Summary, IngestError> {
    let begun = Instant::now();
    let in_log = log.last_sequences(HISTORY_SESSION).await?;
    let mut sequencer = Sequencer::new(HISTORY_SESSION, &config.source, log.partitions());
    sequencer.continue_from(&in_log);
    let pipeline = Pipeline::new(sequencer, Speed::Max, REPLAY_FLUSH, progress);
    let (sender, receiver) = queue::bounded(HISTORY_QUEUE_BYTES);
    let runtime = tokio::runtime::Handle::current();
    let (market, stopped, held) = (simulator.market(), stop.clone(), config.held);
    let generate = blocking(move || {
        let mut line = 0;
        market.generate_history(held, |texts| {
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
        after = in_log.iter().sum::<u64>(),
        complete = summary.complete,
        ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        "simulated history appended"
    );
    Ok(summary)
}

/// Opens a recording, and refuses a file that is none before anything is appended.
fn open_recording(path: &Path, partitions: u32) -> Result<Recording, IngestError> {
    let recording = Recording::open(path, partitions)?;
    match recording.check()? {
        Ok(()) => Ok(recording),
        Err(reason) => Err(IngestError::NoRecording {
            path: path.display().to_string(),
            reason,
        }),
    }
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
    /// Records that come before those of the first frame.
    first: Vec<NewRecord>,
    /// Of a live run.
    idle: Idle,
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
            first: Vec::new(),
            idle: Idle::since(0),
            progress,
        }
    }

    /// Begins a live run. The feed is away since the last record of the run before.
    fn begin(&mut self, previous: Option<&LastSession>, now_ms: i64) -> Presence {
        let from_ms = previous.map_or(now_ms, |previous| previous.until_ms.min(now_ms));
        let cause = previous.map_or(Cause::Start, |_| Cause::Restart);
        self.idle = Idle::since(now_ms);
        let (counts, first) = (&mut self.counts, &mut self.first);
        self.sequencer
            .begin(from_ms, cause, previous, now_ms, counts, first);
        Presence::begins(from_ms, cause)
    }

    /// Appends frames until the queue is closed and empty; a paced run also ends at the stop.
    /// Returns the counts, and whether all frames were appended.
    async fn run(
        mut self,
        mut frames: queue::Receiver,
        log: &mut dyn LogWriter,
        stop: &CancellationToken,
    ) -> Result<(Counts, bool), IngestError> {
        let mut out = std::mem::take(&mut self.first);
        let mut flushed = Instant::now();
        let mut all = true;
        if !out.is_empty() {
            // At once: it may take long until the first frame comes.
            self.append(log, &mut out, stop).await?;
            drained(self.progress, log.flush(), stop).await?;
        }
        while all && let Some(first) = frames.recv().await {
            // Frames that wait already are appended together: few large appends for a busy log,
            // and each frame at once for an idle one.
            let mut next = Some(first);
            while let Some(batch) = next {
                all = self.take(&batch.frames, &mut out, log, stop).await?;
                if let Some(change) = batch.change {
                    let (now_ms, counts) = (now_ms(), &mut self.counts);
                    self.sequencer.change(change, now_ms, counts, &mut out);
                    self.idle.recorded(now_ms);
                }
                next = if all && out.len() < APPEND_RECORDS {
                    frames.try_recv()
                } else {
                    None
                };
            }
            self.append(log, &mut out, stop).await?;
            if frames.is_empty() || flushed.elapsed() >= self.flush_every {
                drained(self.progress, log.flush(), stop).await?;
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
        drained(self.progress, log.flush(), stop).await?;
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
                self.append(log, out, stop).await?;
                drained(self.progress, log.flush(), stop).await?;
                self.progress.set_counts(&self.counts, self.taken_ms);
                tokio::select! {
                    () = tokio::time::sleep_until(due) => now = now_ms(),
                    () = stop.cancelled() => return Ok(false),
                }
            }
            let taken_ms = frame.taken_ms.unwrap_or(now);
            self.taken_ms = Some(taken_ms);
            let before = out.len();
            self.sequencer.take(
                &admitted,
                Origin {
                    line: frame.line,
                    taken_ms,
                },
                &mut self.counts,
                out,
            );
            if frame.taken_ms.is_none() {
                continue;
            }
            if out.len() > before {
                self.idle.recorded(taken_ms);
            } else if self.idle.is_due(taken_ms) {
                self.sequencer.alive(taken_ms, &mut self.counts, out);
            }
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

    async fn append(
        &self,
        log: &mut dyn LogWriter,
        out: &mut Vec<NewRecord>,
        stop: &CancellationToken,
    ) -> Result<(), IngestError> {
        // A frame may hold tens of thousands of symbols, each a record.
        while out.len() > APPEND_RECORDS {
            let rest = out.split_off(APPEND_RECORDS);
            let first = std::mem::replace(out, rest);
            drained(self.progress, log.append(first), stop).await?;
        }
        if out.is_empty() {
            Ok(())
        } else {
            drained(self.progress, log.append(std::mem::take(out)), stop).await
        }
    }
}

/// Waits for the log, after a stop at most [`DRAIN_LIMIT`].
async fn drained(
    progress: &Progress,
    work: impl Future<Output = Result<(), AppendError>>,
    stop: &CancellationToken,
) -> Result<(), IngestError> {
    let limit = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN_LIMIT).await;
    };
    progress.set_appending(true);
    let ended = tokio::select! {
        biased;
        done = work => done.map_err(Into::into),
        () = limit => {
            warn!("log does not answer after the stop; frames taken in are not appended");
            Err(IngestError::Undrained)
        }
    };
    progress.set_appending(false);
    ended
}

fn first_event_ms(admitted: &Admitted<'_>) -> Option<i64> {
    admitted
        .groups
        .first()
        .and_then(|group| group.trades.first())
        .map(|trade| trade.event_time.ms())
}
