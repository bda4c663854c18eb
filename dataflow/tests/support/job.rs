//! Runs a job on a [`MemoryLog`].

use std::{sync::Arc, time::Duration};

use tapeflow_dataflow::{JobConfig, JobError, Limits, Metrics, Stop, Summary, run};
use tapeflow_protocol::JobStore;
use tapeflow_schemas::{Baskets, Horizons};

use super::memory_log::MemoryLog;

/// A runtime of one thread.
pub fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// A job with three sizes and baskets that ends at the end of the log.
pub fn config(workers: usize, resident_bars: usize) -> JobConfig {
    JobConfig {
        job: "test".into(),
        workers,
        processes: 1,
        process: 0,
        hosts: Vec::new(),
        secret: None,
        sizes: vec![
            "1s".parse().expect("size"),
            "1m".parse().expect("size"),
            "1d".parse().expect("size"),
        ],
        horizons: Horizons::NONE,
        epoch: Duration::from_millis(1),
        resident_bars,
        most_ranked: 12,
        baskets: Baskets::parse(
            "tech,AAPL,0.5\ntech,MSFT,0.25\ntech,NVDA,100\ncoins,BINANCE:BTCUSDT,1\n\
             coins,BINANCE:ETHUSDT,0.0001\nnone,UNSEEN,1\n",
        )
        .expect("baskets"),
        until_end: true,
        accept_loss: false,
        skip_batches: Vec::new(),
        limits: Limits::default(),
    }
}

/// A runtime for a job's calls to its store.
pub fn io() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Runs a job to its end.
pub fn run_job(
    config: &JobConfig,
    log: &MemoryLog,
    store: Arc<dyn JobStore>,
) -> Result<Summary, JobError> {
    run_counted(config, log, store, &Arc::default())
}

/// Runs a job to its end and counts in `metrics`.
pub fn run_counted(
    config: &JobConfig,
    log: &MemoryLog,
    store: Arc<dyn JobStore>,
    metrics: &Arc<Metrics>,
) -> Result<Summary, JobError> {
    run(
        config.clone(),
        Arc::new(log.clone()),
        store,
        Stop::default(),
        Arc::new(()),
        Arc::clone(metrics),
        io().handle(),
    )
}
