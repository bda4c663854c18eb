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

use axum::Router;
use tapeflow_dataflow::{Metrics, Stop};
use tapeflow_ingest::Progress;
use tapeflow_log::sqlite::{Access, SqliteLog, SqlitePublisher};
use tapeflow_protocol::Store;
use tapeflow_sinks::sqlite::SqliteStore;
use tokio::sync::watch;

use crate::{
    args::{feed::Feed, run::RunSettings},
    columns::counted,
    exit::{Exit, unreachable_store},
    feed,
    http::{self, Job, Told},
    live::{self, Live},
    signals, stores,
    terminal::{self, View},
};

pub(crate) fn run(settings: RunSettings) -> Result<(), Exit> {
    let RunSettings {
        feed: source,
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
    // Before the feed begins: the next run would count what a refused one has appended.
    tapeflow_dataflow::may_run(&job, &log, &*store, runtime.handle())?;
    let (metrics, progress, stop) = (
        Arc::new(Metrics::default()),
        Progress::default(),
        Stop::default(),
    );
    let job_told = Job::new(&job, &log, name.clone(), &metrics);
    let told = Arc::new(Told::job("run", job_told, Some(progress.clone())));
    let live = Live::new(&job.sizes);
    let routes = if http.address.is_some() {
        live::routes(&live, &told, &store, runtime.handle())
    } else {
        Router::new()
    };
    let page = http::serve(
        &http,
        told,
        Some(Arc::new(log.clone())),
        routes,
        runtime.handle(),
    )?;
    let view = View::new(
        Arc::clone(&live),
        Arc::clone(&metrics),
        Some(progress.clone()),
        describe(&source),
        name,
        page,
    );
    let (ask, asked) = watch::channel(false);
    let ask = Arc::new(ask);

    let done = Arc::new(AtomicBool::new(false));
    let (view_done, view_ask, painted) = (Arc::clone(&done), Arc::clone(&ask), Arc::clone(&view));
    let colours = std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let painter =
        thread::spawn(move || terminal::paint(painted, view_done, colours, move || say(&view_ask)));
    let signal_ask = Arc::clone(&ask);
    signals::on_end(runtime.handle(), move || say(&signal_ask));
    if let Some(duration) = duration {
        let ask = Arc::clone(&ask);
        runtime.spawn(async move {
            tokio::time::sleep(duration).await;
            say(&ask);
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
            live,
            metrics,
            &handle,
        )
    });
    let fed = runtime.block_on(async {
        let mut publisher = SqlitePublisher::new(log);
        let mut stop = asked.clone();
        let feeding = async {
            let fed = feed::feed(source, &mut publisher, asked.clone(), &progress).await;
            if fed.is_ok() && !until_end {
                // Without --until-end the run continues after the end of a recording.
                let _ = stop.wait_for(|stop| *stop).await;
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

/// Asks the feed to stop; one that has ended no longer listens.
fn say(ask: &watch::Sender<bool>) {
    let _ = ask.send(true);
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
