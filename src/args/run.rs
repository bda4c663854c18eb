//! `run`: a feed, a job and a store in one process.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use tapeflow_console::HttpSettings;
use tapeflow_dataflow::JobConfig;
use tapeflow_ingest::{finnhub::endpoint::FINNHUB_URL, simulator};

use super::{
    end::EndArgs,
    errors::Errors,
    feed::{Feed, History, LiveArgs, MarketArgs, PRODUCER, ReplayArgs, live, names},
    http::HttpArgs,
    job::JobArgs,
    store::FileArgs,
    values::{self, Keep},
};
use crate::exit::Exit;

/// What the live feed subscribes to without `--symbols`.
const LIVE_SYMBOLS: &str = "AAPL,MSFT,BINANCE:BTCUSDT";

/// `tapeflow run`.
#[derive(Args, Debug)]
// A recording has its own symbols, rate and prices.
#[command(mut_arg("seed", |arg| arg.conflicts_with("replay")))]
#[command(mut_arg("market_symbols", |arg| arg.conflicts_with("replay")))]
#[command(mut_arg("rate", |arg| arg.conflicts_with("replay")))]
pub(crate) struct RunArgs {
    #[command(flatten)]
    replay: ReplayArgs,
    #[command(flatten)]
    live: LiveArgs,
    /// Simulate the market, also with --symbols. That is the default without --token-file, --replay
    /// and --symbols
    #[arg(long, env = "TAPEFLOW_SIMULATE", help_heading = "Simulated market")]
    simulate: bool,
    #[command(flatten)]
    market: MarketArgs,
    /// Begin the simulated feed without the four hours of history that fill the first chart. A
    /// store that holds trades gets no history
    #[arg(long, env = "TAPEFLOW_NO_HISTORY", help_heading = "Simulated market")]
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
    /// How long the embedded log keeps records: later ones, and all that are not committed, stay.
    /// How long bars are kept, --horizon says. `verify` compares what the log still has; `forever`
    /// removes nothing
    #[arg(
        long,
        env = "TAPEFLOW_KEEP",
        default_value = "7d",
        value_name = "DURATION",
        value_parser = values::keep
    )]
    keep: Keep,
    /// End the feed and exit after this time. What the log holds and is not committed by then stays
    /// in the log, and the next run commits it
    #[arg(
        long,
        env = "TAPEFLOW_DURATION",
        value_name = "DURATION",
        value_parser = values::duration
    )]
    duration: Option<Duration>,
    #[command(flatten)]
    end: EndArgs,
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
    pub(crate) keep: Keep,
    pub(crate) keep_history: Keep,
    pub(crate) duration: Option<Duration>,
    pub(crate) end_within: Duration,
    pub(crate) job: JobConfig,
    pub(crate) http: HttpSettings,
}

impl RunArgs {
    pub(crate) fn check(self) -> Result<RunSettings, Exit> {
        let mut errors = Errors::default();
        let store = self.file.check(&mut errors);
        let http = self.http.check(([127, 0, 0, 1], 8_080).into(), &mut errors);
        if self.simulate {
            let others = [
                ("--replay", self.replay.replay.is_some()),
                ("--token-file", self.live.token_file.is_some()),
            ];
            for (other, _) in others.into_iter().filter(|(_, given)| *given) {
                errors.add(format!("--simulate: cannot be used with {other}"));
            }
        }
        let replay = self.replay.feed(&mut errors);
        let feed = match (replay, self.live.token_file, self.live.symbols) {
            (Some(replay), ..) => Some(replay),
            (None, Some(file), symbols) => symbols
                .map_or_else(
                    || errors.keep("--symbols", values::symbols(LIVE_SYMBOLS)),
                    Some,
                )
                .and_then(|symbols| {
                    live(
                        FINNHUB_URL.to_owned(),
                        &symbols,
                        &file,
                        PRODUCER.to_owned(),
                        &mut errors,
                    )
                }),
            (None, None, Some(_)) if !self.simulate => {
                errors.add(
                    "--symbols: real trades of these need a token; give --token-file FILE, or \
                     --simulate for a simulated market of these symbols",
                );
                None
            }
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
                    History::Append(None)
                },
            }),
        };
        let keep_history = self.job.keep_history;
        let job = self.job.config(self.workers, &mut errors);
        errors.settle(|| {
            Some(RunSettings {
                feed: feed?,
                store: store?,
                partitions: self.partitions,
                keep: self.keep,
                keep_history,
                duration: self.duration,
                end_within: self.end.end_within,
                job,
                http: http?,
            })
        })
    }
}
