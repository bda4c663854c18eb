//! The run: frames from a source, admitted, sequenced, published, and at the end flushed and
//! counted.
//!
//! ```text
//!  socket or file ──queue (bounded by bytes)──▶ admit ─▶ sequence ─▶ Publish (waits while its own queue is full)
//! ```
//!
//! A stop ends the source; what it had taken in is still published and flushed, for as long as
//! [`DRAIN_LIMIT`]. A live run draws a random session at its start and keeps it across reconnects;
//! a replay's is the hash of its file.

use std::{
    future::Future,
    path::PathBuf,
    time::{Duration, Instant},
};

use rand::{RngCore, SeedableRng, rngs::StdRng};
use tapeflow_log::{OutRecord, Publish, PublishError};
use tapeflow_schemas::SessionId;
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
    stop::{self, Stop},
};

/// Why a run ended without having been asked to.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The live feed.
    #[error(transparent)]
    Finnhub(#[from] FinnhubError),
    /// The recording.
    #[error(transparent)]
    Replay(#[from] ReplayError),
    /// The log.
    #[error("cannot publish: {0}")]
    Publish(#[from] PublishError),
    /// The log took nothing more for [`DRAIN_LIMIT`] after the stop.
    #[error("stopped before everything was published: the log did not answer for {} s", DRAIN_LIMIT.as_secs())]
    Undrained,
}

/// A live run.
#[derive(Clone, Debug)]
pub struct LiveConfig {
    /// The server, the token, the symbols.
    pub finnhub: FinnhubConfig,
    /// The word for this feed in every record: `finnhub`, `simulator`.
    pub source: String,
}

/// A replay.
#[derive(Clone, Debug)]
pub struct ReplayConfig {
    /// The file of JSON lines.
    pub path: PathBuf,
    /// How fast.
    pub speed: Speed,
    /// The word for this feed in every record; `replay` unless there is a better one.
    pub source: String,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its session.
    pub session: SessionId,
    /// What came in and what became of it.
    pub counts: Counts,
    /// True if the recording was read to its end; a live run never is.
    pub complete: bool,
}

/// How long a stopped run waits for the log.
pub const DRAIN_LIMIT: Duration = Duration::from_secs(30);
/// The bytes of frames between source and publisher.
const QUEUE_BYTES: u32 = 16 << 20;
/// A busy live feed is flushed at least this often, a replay less: each flush waits for the log's
/// disk.
const LIVE_FLUSH: Duration = Duration::from_millis(50);
const REPLAY_FLUSH: Duration = Duration::from_millis(500);
/// Records handed over together.
const PUBLISH_RECORDS: usize = 1_024;

/// Reads the live feed into the log until it is asked to stop, the server turns it away, or the log
/// fails.
///
/// # Errors
/// [`IngestError`]; what was taken in before is published even then, unless the log is what failed.
pub async fn run_live(
    config: &LiveConfig,
    publisher: &mut dyn Publish,
    stop: Stop,
    progress: &Progress,
) -> Result<Summary, IngestError> {
    let session = random_session();
    let (sender, receiver) = queue::bounded(QUEUE_BYTES);
    let line = Line::new(
        Sequencer::new(session, config.source.as_str(), publisher.partitions()),
        Speed::Max,
        LIVE_FLUSH,
        progress,
    );
    info!(%session, endpoint = %config.finnhub.endpoint, symbols = config.finnhub.symbols.len(), "live feed begins");
    let feed = socket::run(&config.finnhub, sender, &stop, progress);
    let (fed, (counts, _)) = side_by_side(feed, line.carry(receiver, publisher, &stop)).await?;
    let summary = Summary {
        session,
        counts,
        complete: false,
    };
    log_summary(&summary);
    fed.map(|()| summary).map_err(Into::into)
}

/// Replays a recording into the log until its end, or until it is asked to stop. Records that the
/// log holds from an earlier run are left out.
///
/// # Errors
/// [`IngestError`]; a run that is stopped early is none.
pub async fn run_replay(
    config: &ReplayConfig,
    publisher: &mut dyn Publish,
    stop: Stop,
    progress: &Progress,
) -> Result<Summary, IngestError> {
    let path = config.path.clone();
    let recording = blocking(move || Recording::open(&path)).await?;
    let partitions = publisher.partitions();
    let session = recording.session(partitions);
    let held = publisher.last_sequences(session).await?;
    let resumed: u64 = held.iter().sum();
    info!(%session, file = %config.path.display(), speed = %config.speed, resumed, "replay begins");
    let mut sequencer = Sequencer::new(session, config.source.as_str(), partitions);
    sequencer.resume_from(&held);
    let line = Line::new(sequencer, config.speed, REPLAY_FLUSH, progress);
    let (sender, receiver) = queue::bounded(QUEUE_BYTES);
    let (runtime, stopped) = (tokio::runtime::Handle::current(), stop.clone());
    let read = blocking(move || {
        recording.read(|frames| !*stopped.borrow() && runtime.block_on(sender.send(frames)).is_ok())
    });
    let (read, (counts, all)) = side_by_side(read, line.carry(receiver, publisher, &stop)).await?;
    let summary = Summary {
        session,
        counts,
        complete: read? && all,
    };
    log_summary(&summary);
    Ok(summary)
}

/// Runs source and publisher together. A publisher that fails takes the source along; one that ends
/// well has seen the source end.
async fn side_by_side<A, B>(
    source: impl Future<Output = A>,
    carry: impl Future<Output = Result<B, IngestError>>,
) -> Result<(A, B), IngestError> {
    let source = async { Ok::<A, IngestError>(source.await) };
    tokio::try_join!(source, carry)
}

/// A thread for what blocks. One that panics takes the run along.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and so are we.
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
        dead_letters = counts.dead_letters(),
        rounded = counts.rounded,
        records = counts.records,
        records_resumed = counts.records_resumed,
        "feed ends"
    );
}

/// Admission, sequence and publication of one run's frames.
struct Line<'a> {
    sequencer: Sequencer,
    counts: Counts,
    speed: Speed,
    pace: Pace,
    begin: tokio::time::Instant,
    flush_every: Duration,
    taken_ms: Option<i64>,
    progress: &'a Progress,
}

impl<'a> Line<'a> {
    fn new(
        sequencer: Sequencer,
        speed: Speed,
        flush_every: Duration,
        progress: &'a Progress,
    ) -> Self {
        let begin = tokio::time::Instant::now();
        Self {
            sequencer,
            counts: Counts::default(),
            speed,
            pace: Pace::default(),
            begin,
            flush_every,
            taken_ms: None,
            progress,
        }
    }

    /// Carries frames to the log until the queue is closed and empty, or, paced, until the stop.
    /// Also says whether it carried all.
    async fn carry(
        mut self,
        mut frames: queue::Receiver,
        publisher: &mut dyn Publish,
        stop: &Stop,
    ) -> Result<(Counts, bool), IngestError> {
        let mut out = Vec::new();
        let mut flushed = Instant::now();
        let mut all = true;
        while all && let Some(first) = frames.recv().await {
            // What waits already goes along: a busy log gets few large appends, an idle one gets
            // each frame at once.
            let mut next = Some(first);
            while let Some(batch) = next {
                all = self.take(&batch.frames, &mut out, publisher, stop).await?;
                next = if all && out.len() < PUBLISH_RECORDS {
                    frames.try_recv()
                } else {
                    None
                };
            }
            publish(publisher, &mut out, stop).await?;
            if frames.is_empty() || flushed.elapsed() >= self.flush_every {
                drained(publisher.flush(), stop).await?;
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
        drained(publisher.flush(), stop).await?;
        Ok((self.counts, all))
    }

    /// Admits and sequences a batch of frames; false if a stop came while one was not due.
    async fn take(
        &mut self,
        frames: &[Frame],
        out: &mut Vec<OutRecord>,
        publisher: &mut dyn Publish,
        stop: &Stop,
    ) -> Result<bool, IngestError> {
        let mut now = now_ms();
        for frame in frames {
            let admitted = admit(frame, &mut self.counts);
            if let Some(due) = self.due(&admitted) {
                publish(publisher, out, stop).await?;
                drained(publisher.flush(), stop).await?;
                self.progress.set_counts(&self.counts, self.taken_ms);
                tokio::select! {
                    () = tokio::time::sleep_until(due) => now = now_ms(),
                    () = stop::requested(stop) => return Ok(false),
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

    /// When a frame of a paced replay is due, if that is not yet.
    fn due(&mut self, admitted: &Admitted<'_>) -> Option<tokio::time::Instant> {
        let Speed::Times(times) = self.speed else {
            return None;
        };
        let event_ms = first_event_ms(admitted)?;
        let due = self.begin + self.pace.due(event_ms).div_f64(times);
        (due > tokio::time::Instant::now()).then_some(due)
    }
}

async fn publish(
    publisher: &mut dyn Publish,
    out: &mut Vec<OutRecord>,
    stop: &Stop,
) -> Result<(), IngestError> {
    if out.is_empty() {
        Ok(())
    } else {
        drained(publisher.publish(std::mem::take(out)), stop).await
    }
}

/// Waits for the log; after a stop no longer than [`DRAIN_LIMIT`].
async fn drained(
    work: impl Future<Output = Result<(), PublishError>>,
    stop: &Stop,
) -> Result<(), IngestError> {
    let limit = async {
        stop::requested(stop).await;
        tokio::time::sleep(DRAIN_LIMIT).await;
    };
    tokio::select! {
        biased;
        done = work => done.map_err(Into::into),
        () = limit => {
            warn!("log does not answer; leaving what was taken in unpublished");
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
