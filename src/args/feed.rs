//! Where trades come from: the feeds of `ingest` and `run`, and `simulate`, the simulated Finnhub.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use clap::Args;
use tapeflow_console::HttpSettings;
use tapeflow_ingest::Speed;
use tapeflow_log::kafka::KafkaConfig;
use tapeflow_schemas::{Secret, Symbol};

use super::{
    errors::Errors,
    http::HttpArgs,
    log::KafkaArgs,
    values::{self, Symbols},
};
use crate::{exit::Exit, secret};

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
    },
    /// Finnhub.
    Live {
        url: String,
        symbols: Vec<String>,
        token: Secret,
    },
}

/// The history that a simulated market begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum History {
    /// None: prices begin at those of the seed.
    Off,
    /// Appended before the first live trade.
    Append,
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
    /// standard input
    #[arg(long, env = "TAPEFLOW_REPLAY", value_name = "FILE")]
    pub(crate) replay: Option<PathBuf>,
    /// Speed of a replay: max, or a multiple of the recorded pace such as 1x, 10x
    #[arg(long, env = "TAPEFLOW_SPEED", default_value = "max")]
    speed: Speed,
    /// Exit with code 0 when everything up to the end is committed
    #[arg(long, env = "TAPEFLOW_UNTIL_END", requires = "replay")]
    until_end: bool,
}

impl ReplayArgs {
    /// The replay, if there is one.
    pub(crate) fn feed(self) -> Option<Feed> {
        let (speed, until_end) = (self.speed, self.until_end);
        self.replay.map(|path| Feed::Replay {
            path,
            speed,
            until_end,
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
        value_parser = values::symbols
    )]
    pub(crate) symbols: Option<Symbols>,
}

/// The live feed of Finnhub; reads the file with the token.
pub(crate) fn live(
    url: String,
    symbols: &[Symbol],
    token_file: &Path,
    errors: &mut Errors,
) -> Option<Feed> {
    let token = errors.keep("--token-file", secret::read(token_file))?;
    Some(Feed::Live {
        url,
        symbols: names(symbols),
        token,
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
    pub(crate) http: HttpSettings,
}

impl IngestArgs {
    pub(crate) fn check(self) -> Result<IngestSettings, Exit> {
        let mut errors = Errors::default();
        let kafka = self.kafka.check(&mut errors);
        let http = self.http.check(([127, 0, 0, 1], 8_070).into(), &mut errors);
        let feed = match (self.replay.feed(), self.live.token_file, self.live.symbols) {
            (Some(replay), ..) => Some(replay),
            (None, Some(file), Some(symbols)) => {
                live(self.finnhub_url, &symbols, &file, &mut errors)
            }
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
    /// How many trades in total [default: no end, or 100000 with --out]
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
