//! Where trades come from: `ingest`, and `simulate`, which stands in for Finnhub.

use std::path::{Path, PathBuf};

use clap::Args;
use tapeflow_console::HttpSettings;
use tapeflow_ingest::Speed;
use tapeflow_log::kafka::KafkaConfig;
use tapeflow_schemas::{Secret, Symbol};

use super::{errors::Errors, http::HttpArgs, log::KafkaArgs, values};
use crate::{end::End, secret};

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
        exit_at_end: bool,
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

/// Symbols as texts.
pub(crate) fn names(symbols: Vec<Symbol>) -> Vec<String> {
    symbols.iter().map(ToString::to_string).collect()
}

/// Reads a token's file.
pub(crate) fn token(file: &Path, flag: &str, errors: &mut Errors) -> Option<Secret> {
    secret::from(flag, Some(file), &[], errors)
}

/// `tapeflow ingest`.
#[derive(Args, Debug)]
pub(crate) struct IngestArgs {
    #[command(flatten)]
    kafka: KafkaArgs,
    /// Replay recorded frames, JSON lines as Finnhub sends them, instead of the live feed
    #[arg(
        long,
        env = "TAPEFLOW_REPLAY",
        value_name = "FILE",
        required_unless_present = "token_file"
    )]
    replay: Option<PathBuf>,
    /// Speed of a replay: max, or a multiple of the recording's own pace such as 1x, 10x
    #[arg(long, env = "TAPEFLOW_SPEED", default_value = "max")]
    speed: String,
    /// End with code 0 once the whole replay is in the topic
    #[arg(long, env = "TAPEFLOW_EXIT_AT_END")]
    exit_at_end: bool,
    /// Where the live feed is
    #[arg(long, env = "TAPEFLOW_FINNHUB_URL", default_value = tapeflow_ingest::finnhub::endpoint::FINNHUB_URL, value_name = "URL")]
    finnhub_url: String,
    /// Symbols to subscribe to, such as AAPL,BINANCE:BTCUSDT
    #[arg(
        long,
        env = "TAPEFLOW_SYMBOLS",
        value_name = "LIST",
        requires = "token_file"
    )]
    symbols: Option<String>,
    /// File holding Finnhub's token
    #[arg(
        long,
        env = "TAPEFLOW_TOKEN_FILE",
        value_name = "FILE",
        conflicts_with = "replay",
        requires = "symbols"
    )]
    token_file: Option<PathBuf>,
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
    pub(crate) fn check(self) -> Result<IngestSettings, End> {
        let mut errors = Errors::default();
        let kafka = self.kafka.check(&mut errors);
        let http = self.http.check(([127, 0, 0, 1], 8_070).into(), &mut errors);
        let speed = errors.read("--speed", &self.speed, str::parse::<Speed>);
        let feed = match (self.replay, self.token_file) {
            (Some(path), _) => speed.map(|speed| Feed::Replay {
                path,
                speed,
                exit_at_end: self.exit_at_end,
            }),
            (None, Some(file)) => {
                let symbols = errors.read(
                    "--symbols",
                    self.symbols.as_deref().unwrap_or_default(),
                    values::symbols,
                );
                let token = token(&file, "--token-file", &mut errors);
                symbols.zip(token).map(|(symbols, token)| Feed::Live {
                    url: self.finnhub_url,
                    symbols: names(symbols),
                    token,
                })
            }
            (None, None) => {
                errors.add("--replay or --token-file: one of them must name a file");
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

/// `tapeflow simulate`.
#[derive(Args, Debug)]
pub(crate) struct SimulateArgs {
    /// Where to listen, on this machine alone
    #[arg(
        long,
        env = "TAPEFLOW_BIND",
        default_value = "127.0.0.1:8765",
        value_name = "HOST:PORT"
    )]
    bind: String,
    /// File with the token that clients must bring [default: the token is "simulated"]
    #[arg(long, env = "TAPEFLOW_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The same seed gives the same market
    #[arg(
        long,
        env = "TAPEFLOW_SEED",
        default_value = "1",
        value_name = "N",
        allow_hyphen_values = true
    )]
    seed: String,
    /// How many symbols the market has: AAPL, MSFT and so on; a subscription to "*" is one to all
    /// of them
    #[arg(
        long,
        env = "TAPEFLOW_SYMBOLS",
        default_value = "200",
        value_name = "N"
    )]
    symbols: String,
    /// Trades a second
    #[arg(long, env = "TAPEFLOW_RATE", default_value = "1000", value_name = "N")]
    rate: String,
    /// How many trades in all [default: no end, or 100000 with --out]
    #[arg(long, env = "TAPEFLOW_TRADES", value_name = "N")]
    trades: Option<String>,
    /// Share of all trades that the first symbol gets, 0 to 1, instead of the usual falling shares
    #[arg(long, env = "TAPEFLOW_ONE_SYMBOL_SHARE", value_name = "SHARE")]
    one_symbol_share: Option<String>,
    /// Write a recording, JSON lines, to this file instead of listening
    #[arg(long, env = "TAPEFLOW_OUT", value_name = "FILE")]
    out: Option<PathBuf>,
}

/// What `simulate` does.
#[derive(Debug)]
pub(crate) struct SimulateSettings {
    pub(crate) bind: std::net::SocketAddr,
    pub(crate) token: Secret,
    pub(crate) seed: u64,
    pub(crate) symbols: usize,
    pub(crate) rate: u32,
    pub(crate) trades: Option<u64>,
    pub(crate) one_symbol_share: Option<f64>,
    pub(crate) out: Option<PathBuf>,
}

impl SimulateArgs {
    pub(crate) fn check(self) -> Result<SimulateSettings, End> {
        let mut errors = Errors::default();
        let bind = errors.read("--bind", &self.bind, |text| {
            text.parse::<std::net::SocketAddr>().map_err(|_| {
                format!("{text:?} is not an address: give IP:PORT, such as 127.0.0.1:8765")
            })
        });
        let token = match &self.token_file {
            Some(file) => token(file, "--token-file", &mut errors),
            None => Some(Secret::new("simulated")),
        };
        let seed = errors.read("--seed", &self.seed, values::number(0..=u64::MAX));
        let symbols = errors.read("--symbols", &self.symbols, values::count(1..=100_000));
        let rate = errors
            .read("--rate", &self.rate, values::number(1..=10_000_000))
            .and_then(|n| u32::try_from(n).ok());
        let trades = errors.read_option(
            "--trades",
            self.trades.as_deref(),
            values::number(1..=100_000_000_000),
        );
        let one_symbol_share = errors.read_option(
            "--one-symbol-share",
            self.one_symbol_share.as_deref(),
            |text| {
                text.parse::<f64>()
                    .ok()
                    .filter(|share| (0.0..=1.0).contains(share))
                    .ok_or_else(|| format!("{text:?} is not a share: give 0 to 1"))
            },
        );
        errors.settle(|| {
            Some(SimulateSettings {
                bind: bind?,
                token: token?,
                seed: seed?,
                symbols: symbols?,
                rate: rate?,
                trades: trades?,
                one_symbol_share: one_symbol_share?,
                out: self.out,
            })
        })
    }
}
