//! Where trades come from: the feeds of `ingest` and `run`, and `simulate`, the simulated Finnhub.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::Args;
use tapeflow_console::HttpSettings;
use tapeflow_ingest::{Speed, simulator::HeldHistory, spool::SpoolConfig};
use tapeflow_log::kafka::KafkaConfig;
use tapeflow_schemas::{Secret, Symbol};

use super::{
    errors::Errors,
    http::HttpArgs,
    log::KafkaArgs,
    spool::SpoolArgs,
    values::{self, Symbols},
};
use crate::{exit::Exit, secret};

/// The producer of a live feed if none is given.
pub(crate) const PRODUCER: &str = "finnhub";
/// The token of the simulated server if no file gives another.
const SIMULATED_TOKEN: &str = "simulated";

/// Where trades come from.
#[derive(Debug)]
pub(crate) enum Feed {
    /// The simulated server on loopback.
    Simulated {
        seed: u64,
        symbols: Vec<String>,
        rate: u64,
        history: History,
    },
    /// A recording.
    Replay {
        path: PathBuf,
        speed: Speed,
        until_end: bool,
        /// Also if the log has its beginning and it differs later.
        as_new: bool,
    },
    /// Finnhub.
    Live {
        url: String,
        symbols: Vec<String>,
        token: Secret,
        /// The name by which a run finds the one before it in the log.
        producer: String,
    },
}

/// The history that a simulated market begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum History {
    /// None: prices begin at those of the seed.
    Off,
    /// Appended before the first live trade, after what the log holds of it.
    Append(Option<HeldHistory>),
    /// The log has it already: prices begin where it ends.
    Skip,
}

impl Feed {
    /// Whether the run ends with the recording.
    pub(crate) fn is_until_end(&self) -> bool {
        matches!(
            self,
            Self::Replay {
                until_end: true,
                ..
            }
        )
    }
}

/// Symbols as texts.
pub(crate) fn names(symbols: &[Symbol]) -> Vec<String> {
    symbols.iter().map(ToString::to_string).collect()
}

/// A recording to replay.
#[derive(Args, Debug)]
#[command(next_help_heading = "Feed")]
pub(crate) struct ReplayArgs {
    /// Replay a recording: JSON lines, each a frame as Finnhub sends it; also .gz, or - for
    /// standard input. Adds only what earlier replays of the recording have not added. One that
    /// begins like a recording that was replayed and differs later is refused
    #[arg(long, env = "TAPEFLOW_REPLAY", value_name = "FILE")]
    pub(crate) replay: Option<PathBuf>,
    /// Speed of a replay: max, or a multiple of the recorded pace such as 1x, 10x [default: max]
    #[arg(long, env = "TAPEFLOW_SPEED")]
    speed: Option<Speed>,
    /// Exit with code 0 when everything up to the end of the recording is committed
    #[arg(long, env = "TAPEFLOW_UNTIL_END")]
    until_end: bool,
    /// Take a recording that begins like an earlier one and differs later as another recording:
    /// all of its trades count, also those that the log has of the earlier one. Meant for one
    /// replay, so it has no environment variable
    #[arg(long)]
    replay_as_new: bool,
}

impl ReplayArgs {
    /// The replay, if there is one.
    pub(crate) fn feed(self, errors: &mut Errors) -> Option<Feed> {
        let Some(path) = self.replay else {
            if self.speed.is_some() {
                errors.add("--speed: only a recording has one; give it with --replay FILE");
            }
            if self.until_end {
                errors.add("--until-end: only a recording ends; give it with --replay FILE");
            }
            if self.replay_as_new {
                errors.add("--replay-as-new: it is about a recording; give it with --replay FILE");
            }
            return None;
        };
        Some(Feed::Replay {
            path,
            speed: self.speed.unwrap_or(Speed::Max),
            until_end: self.until_end,
            as_new: self.replay_as_new,
        })
    }
}

/// The live feed.
#[derive(Args, Debug)]
#[command(next_help_heading = "Feed")]
pub(crate) struct LiveArgs {
    /// File with Finnhub's token
    #[arg(
        long,
        env = "TAPEFLOW_TOKEN_FILE",
        value_name = "FILE",
        conflicts_with = "replay"
    )]
    pub(crate) token_file: Option<PathBuf>,
    /// Symbols to subscribe to, such as AAPL,BINANCE:BTCUSDT
    #[arg(
        long,
        env = "TAPEFLOW_SYMBOLS",
        value_name = "SYMBOL,...",
        value_parser = values::symbols,
        conflicts_with = "replay"
    )]
    pub(crate) symbols: Option<Symbols>,
}

/// The live feed of Finnhub; reads the file with the token.
pub(crate) fn live(
    url: String,
    symbols: &[Symbol],
    token_file: &Path,
    producer: String,
    errors: &mut Errors,
) -> Option<Feed> {
    let token = errors.keep("--token-file", secret::read(token_file))?;
    Some(Feed::Live {
        url,
        symbols: names(symbols),
        token,
        producer,
    })
}

/// `tapeflow ingest`.
#[derive(Args, Debug)]
pub(crate) struct IngestArgs {
    #[command(flatten)]
    replay: ReplayArgs,
    #[command(flatten)]
    live: LiveArgs,
    /// URL of the live feed
    #[arg(
        long,
        env = "TAPEFLOW_FINNHUB_URL",
        default_value = tapeflow_ingest::finnhub::endpoint::FINNHUB_URL,
        value_name = "URL",
        help_heading = "Feed"
    )]
    finnhub_url: String,
    /// Name of this producer: a start finds the session before it in the topic by the name, and says
    /// since when the feed was away. Of several live feeds into one topic, each needs its own
    #[arg(
        long,
        env = "TAPEFLOW_PRODUCER",
        default_value = PRODUCER,
        value_name = "NAME",
        value_parser = values::producer,
        help_heading = "Feed"
    )]
    producer: String,
    #[command(flatten)]
    spool: SpoolArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
    #[command(flatten)]
    http: HttpArgs,
}

/// What `ingest` does.
#[derive(Debug)]
pub(crate) struct IngestSettings {
    pub(crate) kafka: KafkaConfig,
    pub(crate) feed: Feed,
    pub(crate) spool: Option<SpoolConfig>,
    pub(crate) http: HttpSettings,
}

impl IngestArgs {
    pub(crate) fn check(self) -> Result<IngestSettings, Exit> {
        let mut errors = Errors::default();
        let kafka = self.kafka.check(&mut errors);
        let http = self.http.check(([127, 0, 0, 1], 8_070).into(), &mut errors);
        let spool = self.spool.config(&mut errors);
        let replay = self.replay.feed(&mut errors);
        let feed = match (replay, self.live.token_file, self.live.symbols) {
            (Some(replay), ..) => Some(replay),
            (None, Some(file), Some(symbols)) => live(
                self.finnhub_url,
                &symbols,
                &file,
                self.producer,
                &mut errors,
            ),
            (None, Some(_), None) => {
                errors.add("--symbols: missing, but --token-file is given");
                None
            }
            (None, None, Some(_)) => {
                errors.add("--token-file: missing, but --symbols is given");
                None
            }
            (None, None, None) => {
                errors.add("--replay or --token-file: missing; give a recording or a token");
                None
            }
        };
        errors.settle(|| {
            Some(IngestSettings {
                kafka: kafka?,
                feed: feed?,
                spool,
                http: http?,
            })
        })
    }
}

/// The simulated market.
#[derive(Args, Debug)]
#[command(next_help_heading = "Simulated market")]
pub(crate) struct MarketArgs {
    /// Seed of the simulated market: the same seed gives the same market
    #[arg(
        long,
        env = "TAPEFLOW_SEED",
        default_value = "1",
        value_name = "N",
        allow_hyphen_values = true,
        value_parser = values::number(0..=u64::MAX)
    )]
    pub(crate) seed: u64,
    /// How many symbols the simulated market has
    #[arg(
        long,
        env = "TAPEFLOW_MARKET_SYMBOLS",
        default_value = "200",
        value_name = "N",
        value_parser = values::count(1..=100_000)
    )]
    pub(crate) market_symbols: usize,
    /// Trades a second of the simulated market
    #[arg(
        long,
        env = "TAPEFLOW_RATE",
        default_value = "1000",
        value_name = "N",
        value_parser = values::small(10_000_000)
    )]
    pub(crate) rate: u32,
}

/// `tapeflow simulate`.
#[derive(Args, Debug)]
pub(crate) struct SimulateArgs {
    /// Address to listen on
    #[arg(
        long,
        env = "TAPEFLOW_BIND",
        default_value = "127.0.0.1:8765",
        value_name = "IP:PORT",
        value_parser = bind_address
    )]
    bind: SocketAddr,
    /// File with the token that clients must send [default: the token is "simulated"]
    #[arg(long, env = "TAPEFLOW_ACCEPT_TOKEN_FILE", value_name = "FILE")]
    accept_token_file: Option<PathBuf>,
    #[command(flatten)]
    market: MarketArgs,
    /// How many entries in total: trades, and price updates of currency pairs [default: no end, or
    /// 100000 with --out]
    #[arg(
        long,
        env = "TAPEFLOW_TRADES",
        value_name = "N",
        value_parser = values::number(1..=100_000_000_000)
    )]
    trades: Option<u64>,
    /// Share of all trades that the first symbol gets, 0 to 1, instead of shares that fall as 1/n
    #[arg(
        long,
        env = "TAPEFLOW_ONE_SYMBOL_SHARE",
        value_name = "SHARE",
        value_parser = values::fraction
    )]
    one_symbol_share: Option<f64>,
    /// Write a recording, JSON lines, to this file instead of listening
    #[arg(long, env = "TAPEFLOW_OUT", value_name = "FILE")]
    out: Option<PathBuf>,
}

fn bind_address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("{text:?} is not an address: give IP:PORT, such as 127.0.0.1:8765"))
}

/// What `simulate` does.
#[derive(Debug)]
pub(crate) struct SimulateSettings {
    pub(crate) bind: SocketAddr,
    pub(crate) token: Secret,
    pub(crate) seed: u64,
    pub(crate) symbols: usize,
    pub(crate) rate: u32,
    pub(crate) trades: Option<u64>,
    pub(crate) one_symbol_share: Option<f64>,
    pub(crate) out: Option<PathBuf>,
}

impl SimulateArgs {
    pub(crate) fn check(self) -> Result<SimulateSettings, Exit> {
        let mut errors = Errors::default();
        let token = match &self.accept_token_file {
            Some(file) => errors.keep("--accept-token-file", secret::read(file)),
            None => Some(Secret::new(SIMULATED_TOKEN)),
        };
        errors.settle(|| {
            Some(SimulateSettings {
                bind: self.bind,
                token: token?,
                seed: self.market.seed,
                symbols: self.market.market_symbols,
                rate: self.market.rate,
                trades: self.trades,
                one_symbol_share: self.one_symbol_share,
                out: self.out,
            })
        })
    }
}
