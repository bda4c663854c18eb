//! `run`: a feed, a job and a store in one process.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use tapeflow_console::HttpSettings;
use tapeflow_dataflow::JobConfig;
use tapeflow_ingest::{finnhub::endpoint::FINNHUB_URL, simulator};

use super::{
    errors::Errors,
    feed::{Feed, History, LiveArgs, MarketArgs, ReplayArgs, live, names},
    http::HttpArgs,
    job::JobArgs,
    store::FileArgs,
    values,
};
use crate::exit::Exit;

/// What the live feed subscribes to without `--symbols`.
const LIVE_SYMBOLS: &str = "AAPL,MSFT,BINANCE:BTCUSDT";

/// `tapeflow run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    #[command(flatten)]
    replay: ReplayArgs,
    #[command(flatten)]
    live: LiveArgs,
    #[command(flatten)]
    market: MarketArgs,
    /// Begin the simulated feed without the four hours of history that fill the first chart. A
    /// store that holds trades gets no history
    #[arg(long, env = "TAPEFLOW_NO_HISTORY")]
    no_history: bool,
    #[command(flatten)]
    file: FileArgs,
    /// Partitions of the embedded log; counts only when the log is created
    #[arg(
        long,
        env = "TAPEFLOW_PARTITIONS",
        default_value = "4",
        value_name = "N",
        value_parser = values::small(1_024)
    )]
    partitions: u32,
    /// Commit everything and exit after this time
    #[arg(
        long,
        env = "TAPEFLOW_DURATION",
        value_name = "DURATION",
        value_parser = values::duration
    )]
    duration: Option<Duration>,
    /// Worker threads
    #[arg(
        long,
        env = "TAPEFLOW_WORKERS",
        default_value = "2",
        value_name = "N",
        value_parser = values::count(1..=256)
    )]
    workers: usize,
    #[command(flatten)]
    job: JobArgs,
    #[command(flatten)]
    http: HttpArgs,
}

/// What `run` does.
#[derive(Debug)]
pub(crate) struct RunSettings {
    pub(crate) feed: Feed,
    pub(crate) store: PathBuf,
    pub(crate) partitions: u32,
    pub(crate) duration: Option<Duration>,
    pub(crate) job: JobConfig,
    pub(crate) http: HttpSettings,
}

impl RunArgs {
    pub(crate) fn check(self) -> Result<RunSettings, Exit> {
        let mut errors = Errors::default();
        let store = self.file.check(&mut errors);
        let http = self.http.check(([127, 0, 0, 1], 8_080).into(), &mut errors);
        let feed = match (self.replay.feed(), self.live.token_file, self.live.symbols) {
            (Some(replay), ..) => Some(replay),
            (None, Some(file), symbols) => symbols
                .map_or_else(
                    || errors.keep("--symbols", values::symbols(LIVE_SYMBOLS)),
                    Some,
                )
                .and_then(|symbols| live(FINNHUB_URL.to_owned(), &symbols, &file, &mut errors)),
            (None, None, symbols) => Some(Feed::Simulated {
                seed: self.market.seed,
                symbols: symbols.map_or_else(
                    || simulator::symbols(self.market.market_symbols),
                    |symbols| names(&symbols),
                ),
                rate: self.market.rate.into(),
                history: if self.no_history {
                    History::Off
                } else {
                    History::Append
                },
            }),
        };
        let job = self.job.config(self.workers);
        errors.settle(|| {
            Some(RunSettings {
                feed: feed?,
                store: store?,
                partitions: self.partitions,
                duration: self.duration,
                job,
                http: http?,
            })
        })
    }
}
