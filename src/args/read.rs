//! The commands that only read the store: `bars`, `top`, `status`, `dead_letters list`.

use std::ops::Range;

use clap::{Args, ValueEnum};
use tapeflow_schemas::{Policy, Symbol, View, WindowSize, window::parse_utc};

use super::{
    errors::Errors,
    log::{LagArgs, LogChoice},
    store::{DEFAULT_STORE, LoginArgs, StoreChoice, store_choice},
    values::{self, SizeChoice},
};
use crate::end::End;

/// The form of printed bars.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Columns for people.
    Table,
    /// Exact decimals, no exponent, empty where there is no value.
    Csv,
    /// One object a line, decimals as strings.
    Json,
}

/// `tapeflow bars`.
#[derive(Args, Debug)]
pub(crate) struct BarsArgs {
    /// Where the bars are: sqlite:PATH, or cassandra://HOST[:PORT][,HOST...]/KEYSPACE
    #[arg(long, env = "TAPEFLOW_STORE", default_value = DEFAULT_STORE, value_name = "URL")]
    store: String,
    /// Window sizes, or all
    #[arg(
        long,
        env = "TAPEFLOW_SIZE",
        default_value = "1m",
        value_name = "SIZE,..."
    )]
    size: String,
    /// A symbol; may be repeated [default: all]
    #[arg(long, env = "TAPEFLOW_SYMBOL", value_name = "SYMBOL")]
    symbol: Vec<String>,
    /// First window start, RFC 3339 or a date
    #[arg(long, env = "TAPEFLOW_FROM", value_name = "TIME")]
    from: Option<String>,
    /// Window starts before this, RFC 3339 or a date
    #[arg(long, env = "TAPEFLOW_TO", value_name = "TIME")]
    to: Option<String>,
    /// Which trades volume, notional, trades and VWAP are made of: all, those the tape counts
    /// (sip), or those that form prices (strict)
    #[arg(
        long,
        env = "TAPEFLOW_POLICY",
        default_value = "sip",
        value_name = "all|sip|strict"
    )]
    policy: String,
    /// Form of the output
    #[arg(long, env = "TAPEFLOW_FORMAT", default_value = "table", value_enum)]
    format: Format,
    #[command(flatten)]
    login: LoginArgs,
}

/// What `bars` does.
#[derive(Debug)]
pub(crate) struct BarsSettings {
    pub(crate) store: StoreChoice,
    pub(crate) sizes: SizeChoice,
    pub(crate) symbols: Vec<Symbol>,
    pub(crate) range: Range<i64>,
    pub(crate) policy: Policy,
    pub(crate) format: Format,
}

impl BarsArgs {
    pub(crate) fn check(self) -> Result<BarsSettings, End> {
        let mut errors = Errors::default();
        let store = store_choice(&self.store, self.login, &mut errors);
        let sizes = errors.read("--size", &self.size, values::size_choice);
        let symbols: Vec<_> = self
            .symbol
            .iter()
            .map(|symbol| errors.read("--symbol", symbol, values::symbols))
            .collect();
        let from = errors.read_option("--from", self.from.as_deref(), parse_utc);
        let to = errors.read_option("--to", self.to.as_deref(), parse_utc);
        let policy = errors.read("--policy", &self.policy, |text| {
            Policy::EVERY
                .into_iter()
                .find(|policy| policy.name() == text)
                .ok_or_else(|| format!("{text:?} is not a policy: give all, sip or strict"))
        });
        errors.settle(|| {
            let symbols = symbols.into_iter().collect::<Option<Vec<_>>>()?.concat();
            let range = from?.unwrap_or(i64::MIN)..to?.unwrap_or(i64::MAX);
            Some(BarsSettings {
                store: store?,
                sizes: sizes?,
                symbols,
                range,
                policy: policy?,
                format: self.format,
            })
        })
    }
}

/// `tapeflow top`.
#[derive(Args, Debug)]
pub(crate) struct TopArgs {
    /// Where the lists are: sqlite:PATH, or cassandra://HOST[:PORT][,HOST...]/KEYSPACE
    #[arg(long, env = "TAPEFLOW_STORE", default_value = DEFAULT_STORE, value_name = "URL")]
    store: String,
    /// Which list: symbols by notional (active), symbols by how far close is from open (movers),
    /// your baskets, or asset classes (market)
    #[arg(
        long,
        env = "TAPEFLOW_VIEW",
        default_value = "active",
        value_name = "active|movers|baskets|market"
    )]
    view: String,
    /// Window size, one minute or longer
    #[arg(long, env = "TAPEFLOW_SIZE", default_value = "1m")]
    size: String,
    /// First window start, RFC 3339 or a date [default: the newest list alone; of days, those of
    /// all markets]
    #[arg(long, env = "TAPEFLOW_FROM", value_name = "TIME")]
    from: Option<String>,
    /// Window starts before this, RFC 3339 or a date
    #[arg(long, env = "TAPEFLOW_TO", value_name = "TIME")]
    to: Option<String>,
    /// Form of the output
    #[arg(long, env = "TAPEFLOW_FORMAT", default_value = "table", value_enum)]
    format: Format,
    #[command(flatten)]
    login: LoginArgs,
}

/// What `top` does.
#[derive(Debug)]
pub(crate) struct TopSettings {
    pub(crate) store: StoreChoice,
    pub(crate) view: View,
    pub(crate) size: WindowSize,
    /// The newest list if there is none.
    pub(crate) range: Option<Range<i64>>,
    pub(crate) format: Format,
}

impl TopArgs {
    pub(crate) fn check(self) -> Result<TopSettings, End> {
        let mut errors = Errors::default();
        let store = store_choice(&self.store, self.login, &mut errors);
        let view = errors.read("--view", &self.view, |text| {
            View::EVERY
                .into_iter()
                .find(|view| view.name() == text)
                .ok_or_else(|| {
                    format!("{text:?} is not a view: give active, movers, baskets or market")
                })
        });
        let size = errors.read("--size", &self.size, str::parse::<WindowSize>);
        let from = errors.read_option("--from", self.from.as_deref(), parse_utc);
        let to = errors.read_option("--to", self.to.as_deref(), parse_utc);
        errors.settle(|| {
            let range = match (from?, to?) {
                (None, None) => None,
                (from, to) => Some(from.unwrap_or(i64::MIN)..to.unwrap_or(i64::MAX)),
            };
            Some(TopSettings {
                store: store?,
                view: view?,
                size: size?,
                range,
                format: self.format,
            })
        })
    }
}

/// `tapeflow status`.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    /// The job's store
    #[arg(long, env = "TAPEFLOW_STORE", default_value = DEFAULT_STORE, value_name = "URL")]
    store: String,
    #[command(flatten)]
    log: LagArgs,
    /// Form of the output
    #[arg(long, env = "TAPEFLOW_FORMAT", default_value = "table", value_enum)]
    format: Format,
    #[command(flatten)]
    login: LoginArgs,
}

/// What `status` does.
#[derive(Debug)]
pub(crate) struct StatusSettings {
    pub(crate) store: StoreChoice,
    /// The log that the job's lag is measured against.
    pub(crate) log: Option<LogChoice>,
    pub(crate) format: Format,
}

impl StatusArgs {
    pub(crate) fn check(self) -> Result<StatusSettings, End> {
        let mut errors = Errors::default();
        let store = store_choice(&self.store, self.login, &mut errors);
        let log = self.log.check(&mut errors);
        errors.settle(|| {
            Some(StatusSettings {
                store: store?,
                log: log?,
                format: self.format,
            })
        })
    }
}

/// `tapeflow dead_letters list`.
#[derive(Args, Debug)]
pub(crate) struct DeadLettersArgs {
    /// The job's store
    #[arg(long, env = "TAPEFLOW_STORE", default_value = DEFAULT_STORE, value_name = "URL")]
    store: String,
    /// At most so many
    #[arg(long, env = "TAPEFLOW_LIMIT", default_value = "1000", value_name = "N")]
    limit: String,
    /// Form of the output
    #[arg(long, env = "TAPEFLOW_FORMAT", default_value = "table", value_enum)]
    format: Format,
    #[command(flatten)]
    login: LoginArgs,
}

/// What `dead_letters list` does.
#[derive(Debug)]
pub(crate) struct DeadLettersSettings {
    pub(crate) store: StoreChoice,
    pub(crate) limit: usize,
    pub(crate) format: Format,
}

impl DeadLettersArgs {
    pub(crate) fn check(self) -> Result<DeadLettersSettings, End> {
        let mut errors = Errors::default();
        let store = store_choice(&self.store, self.login, &mut errors);
        let limit = errors.read("--limit", &self.limit, values::count(1..=100_000_000));
        errors.settle(|| {
            Some(DeadLettersSettings {
                store: store?,
                limit: limit?,
                format: self.format,
            })
        })
    }
}
