//! `run`: a feed, a job and a store in one process.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser};
use tapeflow_console::HttpSettings;
use tapeflow_dataflow::JobConfig;
use tapeflow_ingest::Speed;

use super::{
    errors::Errors,
    feed::{Feed, History, names, token},
    http::HttpArgs,
    job::JobArgs,
    store::{DEFAULT_STORE, sqlite_address},
    values,
};
use crate::end::End;

/// `tapeflow run`.
#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// Replay recorded frames, JSON lines as Finnhub sends them, instead of the simulated feed
    #[arg(long, env = "TAPEFLOW_REPLAY", value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Speed of a replay: max, or a multiple of the recording's own pace such as 1x, 10x
    #[arg(long, env = "TAPEFLOW_SPEED", default_value = "max")]
    speed: String,
    /// End with code 0 once the replay's every bar is committed
    #[arg(long, env = "TAPEFLOW_EXIT_AT_END", requires = "replay")]
    exit_at_end: bool,
    /// File holding Finnhub's token: read the live feed instead of the simulated one
    #[arg(
        long,
        env = "TAPEFLOW_FINNHUB_TOKEN_FILE",
        value_name = "FILE",
        conflicts_with = "replay"
    )]
    finnhub_token_file: Option<PathBuf>,
    /// Symbols to subscribe to; with the simulated feed, how many it has [default: 200 simulated;
    /// AAPL,MSFT,BINANCE:BTCUSDT live]
    #[arg(long, env = "TAPEFLOW_SYMBOLS", value_name = "LIST")]
    symbols: Option<String>,
    /// Seed of the simulated feed
    #[arg(
        long,
        env = "TAPEFLOW_SEED",
        default_value = "1",
        value_name = "N",
        allow_hyphen_values = true
    )]
    seed: String,
    /// Trades a second of the simulated feed
    #[arg(long, env = "TAPEFLOW_RATE", default_value = "1000", value_name = "N")]
    rate: String,
    /// Begin the simulated feed without the four hours of history that fill the first chart. A
    /// store that holds trades gets no history
    #[arg(long, env = "TAPEFLOW_NO_HISTORY")]
    no_history: bool,
    /// Log and bars
    #[arg(long, env = "TAPEFLOW_STORE", default_value = DEFAULT_STORE, value_name = "sqlite:PATH")]
    store: String,
    /// Worker threads
    #[arg(long, env = "TAPEFLOW_WORKERS", default_value = "2", value_name = "N")]
    workers: String,
    /// Partitions of the embedded log, when it is made
    #[arg(
        long,
        env = "TAPEFLOW_PARTITIONS",
        default_value = "4",
        value_name = "N"
    )]
    partitions: String,
    /// End, with everything committed, after this long
    #[arg(long, env = "TAPEFLOW_DURATION", value_name = "DURATION")]
    duration: Option<String>,
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
    pub(crate) fn check(self) -> Result<RunSettings, End> {
        let mut errors = Errors::default();
        let speed = errors.read("--speed", &self.speed, str::parse::<Speed>);
        let seed = errors.read("--seed", &self.seed, values::number(0..=u64::MAX));
        let rate = errors.read("--rate", &self.rate, values::number(1..=10_000_000));
        let partitions = errors
            .read("--partitions", &self.partitions, values::number(1..=1_024))
            .and_then(|n| u32::try_from(n).ok());
        let duration = errors.read_option("--duration", self.duration.as_deref(), values::duration);
        let store = errors.read("--store", &self.store, sqlite_address);
        let job = self.job.check(&self.workers, &mut errors);
        let http = self.http.check(([127, 0, 0, 1], 8_080).into(), &mut errors);
        let feed = match (self.replay, self.finnhub_token_file) {
            (Some(path), _) => speed.map(|speed| Feed::Replay {
                path,
                speed,
                exit_at_end: self.exit_at_end,
            }),
            (None, Some(file)) => {
                let symbols = errors.read(
                    "--symbols",
                    self.symbols
                        .as_deref()
                        .unwrap_or("AAPL,MSFT,BINANCE:BTCUSDT"),
                    values::symbols,
                );
                let token = token(&file, "--finnhub-token-file", &mut errors);
                let url = tapeflow_ingest::finnhub::endpoint::FINNHUB_URL.to_owned();
                symbols.zip(token).map(|(symbols, token)| Feed::Live {
                    url,
                    symbols: names(symbols),
                    token,
                })
            }
            (None, None) => {
                let text = self.symbols.as_deref().unwrap_or("200");
                let symbols = match text.parse::<usize>() {
                    Ok(_) => errors
                        .read("--symbols", text, values::count(1..=100_000))
                        .map(tapeflow_ingest::simulator::symbols),
                    Err(_) => errors.read("--symbols", text, values::symbols).map(names),
                };
                symbols
                    .zip(seed)
                    .zip(rate)
                    .map(|((symbols, seed), rate)| Feed::Simulated {
                        seed,
                        symbols,
                        rate,
                        history: if self.no_history {
                            History::Off
                        } else {
                            History::Append
                        },
                    })
            }
        };
        errors.settle(|| {
            Some(RunSettings {
                feed: feed?,
                store: store?,
                partitions: partitions?,
                duration: duration?,
                job: job?,
                http: http?,
            })
        })
    }
}

impl Default for RunArgs {
    /// What `tapeflow` without a command runs: the flags' own defaults, and the environment's.
    fn default() -> Self {
        #[derive(Parser)]
        struct Alone {
            #[command(flatten)]
            run: RunArgs,
        }
        Alone::parse_from(["tapeflow"]).run
    }
}
