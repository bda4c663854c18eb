//! `tapeflow run`: the whole pipeline in one process, on an embedded log and an embedded store in
//! one file.
//!
//! The feed runs on tokio, the job on its worker threads, the terminal view on a thread of its own.
//! A request to stop goes to the feed, which flushes; then the job commits what the log holds. If it
//! is far behind, as within a simulated history, it commits what it has read and leaves the rest of
//! the log to the next run.

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
    terminal::{self, RunDisplay, RunSources, Warnings},
};
use tapeflow_dataflow::{Metrics, Stop};
use tapeflow_ingest::Progress;
use tapeflow_log::sqlite::{Access, SqliteLog, SqliteLogWriter};
use tapeflow_protocol::Store;
use tapeflow_sinks::sqlite::SqliteStore;
use tokio_util::sync::CancellationToken;

use crate::{
    args::{
        feed::{Feed, History},
        run::RunSettings,
    },
    exit::{Exit, say, unreachable_store},
    expire, feed, history, retention,
    signals::{self, Ending},
    stores, unfinished, unlisted,
};
use tapeflow_console::format::text::counted;

pub(crate) fn run(settings: RunSettings, warnings: Arc<Warnings>) -> Result<(), Exit> {
    let RunSettings {
        feed: mut source,
        store: path,
        partitions,
        keep,
        keep_history,
        duration,
        end_within,
        job,
        http,
    } = settings;
    let until_end = source.is_until_end();
    feed::check(&source)?;
    stores::make_folder(&path)?;
    let database = stores::sqlite(&path, Access::Job)?;
    let runtime = crate::small_runtime()?;
    let _closing = stores::Closing::of(&database);
    let name = database.describe();
    let log = runtime
        .block_on(SqliteLog::create_if_absent(&database, partitions))
        .map_err(|error| unreachable_store(&name, &error))?;
    let store = SqliteStore::new(database).keeping_history(keep_history.limit());
    let store: Arc<dyn Store> = Arc::new(store);
    if let Feed::Simulated { history, .. } = &mut source
        && *history != History::Off
    {
        *history = history::of(&log, &runtime).map_err(|error| unreachable_store(&name, &error))?;
        if *history == History::Skip {
            tracing::info!(
                "the log holds trades already: no simulated history; \
                 minutes since the last run stay empty"
            );
        }
    }
    // Before the feed begins: the next run would count what a refused one has appended. Nothing has
    // been written, so a checkpoint that cannot be read is an error of the input too.
    tapeflow_dataflow::may_run(&job, &log, &*store, runtime.handle())
        .map_err(|error| Exit::Input(error.to_string()))?;
    if let Some(keep) = keep.limit() {
        let trim = retention::trim_regularly(log.clone(), Arc::clone(&store), keep);
        runtime.spawn(trim);
    }
    runtime.spawn(expire::regularly(
        Arc::clone(&store),
        job.job.clone(),
        job.horizons.clone(),
    ));
    let (metrics, progress, stop) = (
        Arc::new(Metrics::default()),
        Progress::new(feed::kind(&source)),
        Stop::default(),
    );
    let mut publisher = SqliteLogWriter::new(log.clone());
    // The symbols of a recording are known when it has been read.
    let unlisted = match &source {
        Feed::Replay { .. } => None,
        Feed::Live { symbols, .. } | Feed::Simulated { symbols, .. } => {
            runtime.block_on(unlisted::basket_symbols(&job.baskets, &*store, symbols))
        }
    };
    let of_recording = matches!(source, Feed::Replay { .. }).then(|| job.baskets.clone());
    let job_state = JobState::new(&job, &log, name.clone(), &metrics)
        .with_unlisted(unlisted.unwrap_or_default());
    let state = Arc::new(
        ServerState::of_job("run", job_state, Some(progress.clone()))
            .with_appends(publisher.outage()),
    );
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
        state: Arc::clone(&state),
        page,
        warnings,
    });
    // Asks the feed to end.
    let ask = CancellationToken::new();
    let asked = ask.clone();
    let ending = Ending::within(
        end_within,
        runtime.handle(),
        move || asked.cancel(),
        move || state.waits_for(),
    );

    let done = Arc::new(AtomicBool::new(false));
    let (display_done, at_quit) = (Arc::clone(&done), Arc::clone(&ending));
    let colours = std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let painter = thread::spawn(move || {
        terminal::show(&display, &display_done, colours, move || at_quit.begin())
    });
    let at_signal = Arc::clone(&ending);
    signals::on_end(runtime.handle(), move || at_signal.begin());
    if let Some(duration) = duration {
        runtime.spawn(async move {
            tokio::time::sleep(duration).await;
            ending.begin();
        });
    }

    // Before the job begins: a feed that is refused must not take the store over.
    let accepted = match runtime.block_on(feed::accept(source, &mut publisher)) {
        Ok(accepted) => accepted,
        Err(refused) => {
            done.store(true, Ordering::Release);
            let _ = painter.join();
            return Err(refused);
        }
    };

    let (job_log, job_stop, kept_log, kept_store) =
        (log.clone(), stop.clone(), log.clone(), Arc::clone(&store));
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
        let feeding = async {
            let fed = feed::feed(accepted, &mut publisher, ask.clone(), &progress).await;
            if let Ok(fed) = &fed
                && !until_end
            {
                // Without --until-end the run continues after the end of a recording.
                if fed.summary.complete {
                    say_recording_ended()?;
                }
                ask.cancelled().await;
            }
            fed
        };
        tokio::select! {
            fed = feeding => fed.map(|fed| fed.is_history_cut),
            // A job that has failed ends the feed.
            () = ended(&worker) => Ok(false),
        }
    });
    stop.request_at_end();
    if ask.is_cancelled() {
        runtime.spawn(async move {
            tokio::time::sleep(unfinished::CATCH_UP).await;
            stop.request();
        });
    }
    let ran = worker
        .join()
        .map_err(|_| Exit::Failed("the job's thread panicked".into()));
    done.store(true, Ordering::Release);
    let _ = painter.join();
    // The job's error explains the end of the feed, which it caused.
    let summary = ran??;
    let is_history_cut = fed?;
    tracing::info!(
        committed = summary.committed,
        bars = summary.bars_written,
        "everything that was read is committed"
    );
    if let Some(baskets) = of_recording {
        runtime.block_on(unlisted::basket_symbols(&baskets, &*kept_store, &[]));
    }
    runtime.block_on(unfinished::say_what_is_left(
        &kept_log,
        &*kept_store,
        is_history_cut,
    ))
}

/// A terminal shows the state of the feed instead.
fn say_recording_ended() -> Result<(), Exit> {
    if std::io::stdout().is_terminal() {
        return Ok(());
    }
    say("the recording has ended; waiting for a signal (--until-end would exit here)")
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
