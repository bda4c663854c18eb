//! `tapeflow run`: the whole pipeline in one process, on an embedded log and an embedded store in
//! one file.
//!
//! The feed runs on tokio, the job on its worker threads, the terminal view on a thread of its own.
//! A request to stop goes to the feed, which flushes; then the job commits everything that the log
//! holds.

use std::{
    io::IsTerminal,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tapeflow_console::{
    JobState, LivePage, ServerState,
    live::LiveBars,
    serve,
    terminal::{self, RunDisplay, RunSources},
};
use tapeflow_dataflow::{Metrics, Stop};
use tapeflow_ingest::{Progress, simulator::HISTORY_SESSION};
use tapeflow_log::sqlite::{Access, SqliteLog, SqliteLogWriter};
use tapeflow_protocol::{Store, StoreError};
use tapeflow_sinks::sqlite::SqliteStore;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::{
    args::{
        feed::{Feed, History},
        run::RunSettings,
    },
    exit::{Exit, unreachable_store},
    feed, signals, stores,
};
use tapeflow_console::format::text::counted;

pub(crate) fn run(settings: RunSettings) -> Result<(), Exit> {
    let RunSettings {
        feed: mut source,
        store: path,
        partitions,
        duration,
        job,
        http,
    } = settings;
    let until_end = source.is_until_end();
    feed::check(&source)?;
    stores::make_folder(&path)?;
    let database = stores::sqlite(&path, Access::Job)?;
    let runtime = crate::small_runtime()?;
    let name = database.describe();
    let log = runtime
        .block_on(SqliteLog::create_if_absent(&database, partitions))
        .map_err(|error| unreachable_store(&name, &error))?;
    let store: Arc<dyn Store> = Arc::new(SqliteStore::new(database));
    if let Feed::Simulated { history, .. } = &mut source
        && *history == History::Append
        && !holds_only_history(&log, &runtime).map_err(|error| unreachable_store(&name, &error))?
    {
        tracing::info!(
            "the log holds trades already: no simulated history; \
             minutes since the last run stay empty"
        );
        *history = History::Skip;
    }
    // Before the feed begins: the next run would count what a refused one has appended.
    tapeflow_dataflow::may_run(&job, &log, &*store, runtime.handle())?;
    let (metrics, progress, stop) = (
        Arc::new(Metrics::default()),
        Progress::default(),
        Stop::default(),
    );
    let job_state = JobState::new(&job, &log, name.clone(), &metrics);
    let state = Arc::new(ServerState::of_job(
        "run",
        job_state,
        Some(progress.clone()),
    ));
    let bars = LiveBars::new(&job.sizes);
    let page = serve(
        &http,
        &state,
        Some(Arc::new(log.clone())),
        Some(LivePage {
            bars: Arc::clone(&bars),
            store: Arc::clone(&store),
        }),
        runtime.handle(),
    )?;
    let display = RunDisplay::new(RunSources {
        bars: Arc::clone(&bars),
        metrics: Arc::clone(&metrics),
        progress: Some(progress.clone()),
        feed: describe(&source),
        store: name,
        page,
    });
    // Asks the feed to end.
    let ask = CancellationToken::new();

    let done = Arc::new(AtomicBool::new(false));
    let (display_done, display_ask) = (Arc::clone(&done), ask.clone());
    let colours = std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let painter = thread::spawn(move || {
        terminal::show(&display, &display_done, colours, move || {
            display_ask.cancel()
        })
    });
    let signal_ask = ask.clone();
    signals::on_end(runtime.handle(), move || signal_ask.cancel());
    if let Some(duration) = duration {
        let ask = ask.clone();
        runtime.spawn(async move {
            tokio::time::sleep(duration).await;
            ask.cancel();
        });
    }

    let (job_log, job_stop) = (log.clone(), stop.clone());
    let handle = runtime.handle().clone();
    let worker = thread::spawn(move || {
        tapeflow_dataflow::run(
            job,
            Arc::new(job_log),
            store,
            job_stop,
            bars,
            metrics,
            &handle,
        )
    });
    let fed = runtime.block_on(async {
        let mut publisher = SqliteLogWriter::new(log);
        let feeding = async {
            let fed = feed::feed(source, &mut publisher, ask.clone(), &progress).await;
            if fed.is_ok() && !until_end {
                // Without --until-end the run continues after the end of a recording.
                ask.cancelled().await;
            }
            fed
        };
        tokio::select! {
            fed = feeding => fed.map(drop),
            // A job that has failed ends the feed.
            () = ended(&worker) => Ok(()),
        }
    });
    stop.request_at_end();
    let ran = worker
        .join()
        .map_err(|_| Exit::Failed("the job's thread panicked".into()));
    done.store(true, Ordering::Release);
    let _ = painter.join();
    // The job's error explains the end of the feed, which it caused.
    let summary = ran??;
    fed?;
    tracing::info!(
        committed = summary.committed,
        bars = summary.bars_written,
        "everything is committed"
    );
    Ok(())
}

/// Whether the log is empty, or holds only a part of the simulated history. Older trades than
/// those in the log would come too late for their bars.
fn holds_only_history(log: &SqliteLog, runtime: &Runtime) -> Result<bool, StoreError> {
    let history = runtime.block_on(log.last_sequences(HISTORY_SESSION))?;
    for (partition, last) in (0..log.partitions()).zip(history) {
        // One record of a session for each sequence, and offsets from 0 without gaps.
        if u64::try_from(log.bounds(partition)?.end) != Ok(last) {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn ended<T>(worker: &thread::JoinHandle<T>) {
    while !worker.is_finished() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The feed for a person.
fn describe(feed: &Feed) -> String {
    match feed {
        Feed::Simulated {
            seed,
            symbols,
            rate,
            history: _,
        } => format!(
            "simulated feed, {}, {rate} trades/s, seed {seed}",
            counted(symbols.len() as u64, "symbol", "symbols")
        ),
        Feed::Replay { path, speed, .. } => format!("replay of {}, speed {speed}", path.display()),
        Feed::Live { symbols, .. } => {
            format!(
                "Finnhub, {}",
                counted(symbols.len() as u64, "symbol", "symbols")
            )
        }
    }
}
