//! The commands that only read the store: `bars`, `views`, `status`, `dead-letters`.

use std::ops::Range;

use clap::{Args, ValueEnum};
use jiff::tz::TimeZone;
use tapeflow_console::cumulative::Anchor;
use tapeflow_schemas::{Policy, Symbol, View, WindowSize, window::format_utc};

use super::{
    errors::Errors,
    log::{LogArgs, LogChoice},
    store::{StoreArgs, StoreChoice},
    values::{self, AnchorChoice, Moment, SizeChoice, Symbols},
};
use crate::exit::Exit;

/// The form of the output.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Aligned columns.
    Table,
    /// Exact decimals, no exponent, empty where there is no value.
    Csv,
    /// One object a line, decimals as strings.
    Json,
}

/// The form of the output, the same flag in every command that prints from the store.
#[derive(Args, Debug)]
struct FormatArg {
    /// Form of the output
    #[arg(long, env = "TAPEFLOW_FORMAT", default_value = "table", value_enum)]
    format: Format,
}

/// A range of window starts, and the zone of its dates.
#[derive(Args, Debug)]
struct RangeArgs {
    /// First window start, RFC 3339 or a date
    #[arg(long, env = "TAPEFLOW_FROM", value_name = "TIME", value_parser = values::moment)]
    from: Option<Moment>,
    /// Window starts before this, RFC 3339 or a date
    #[arg(long, env = "TAPEFLOW_TO", value_name = "TIME", value_parser = values::moment)]
    to: Option<Moment>,
}

impl RangeArgs {
    /// Milliseconds since 1970. `None` without either flag.
    #[expect(
        clippy::option_option,
        reason = "the outer one is an error, the inner one no range"
    )]
    fn check(&self, zone: &TimeZone, errors: &mut Errors) -> Option<Option<Range<i64>>> {
        let mut ms = |flag, moment: Option<Moment>, absent| match moment {
            Some(moment) => errors.keep(flag, moment.in_zone(zone)),
            None => Some(absent),
        };
        let (from, to) = (
            ms("--from", self.from, i64::MIN),
            ms("--to", self.to, i64::MAX),
        );
        let range = from?..to?;
        if range.is_empty() {
            errors.add(format!(
                "--from: {} is not before --to {}, which is not included: no window starts in \
                 between",
                format_utc(range.start),
                format_utc(range.end)
            ));
            return None;
        }
        Some((self.from.is_some() || self.to.is_some()).then_some(range))
    }
}

/// `tapeflow bars`.
#[derive(Args, Debug)]
pub(crate) struct BarsArgs {
    /// Window sizes, or all
    #[arg(
        long,
        env = "TAPEFLOW_SIZE",
        default_value = "1m",
        value_name = "SIZE,...",
        value_parser = values::size_choice
    )]
    size: SizeChoice,
    /// A symbol; may be repeated [default: all]
    #[arg(
        long,
        env = "TAPEFLOW_SYMBOL",
        value_name = "SYMBOL,...",
        value_parser = values::symbols
    )]
    symbol: Vec<Symbols>,
    #[command(flatten)]
    range: RangeArgs,
    /// Only the last N bars of each symbol and size
    #[arg(
        long,
        env = "TAPEFLOW_LAST",
        value_name = "N",
        value_parser = values::count(1..=1_000_000)
    )]
    last: Option<usize>,
    /// Time zone of the printed times, and of the dates in --from and --to
    #[arg(
        long,
        env = "TAPEFLOW_TZ",
        default_value = "UTC",
        value_name = "ZONE",
        value_parser = values::zone
    )]
    tz: TimeZone,
    /// Which trades volume, notional, trades and VWAP are made of: all; those that count in the
    /// consolidated tape's volume (sip); those that form prices (strict)
    #[arg(
        long,
        env = "TAPEFLOW_POLICY",
        default_value = "sip",
        value_name = "POLICY",
        value_parser = values::policy()
    )]
    policy: Policy,
    /// Also print cumulative volume, notional and VWAP: of all trades from this anchor to the end of
    /// each bar. It is the start of the bar's trading session, the market's midnight (day), or a
    /// time, RFC 3339 or a date
    #[arg(
        long,
        env = "TAPEFLOW_ANCHOR",
        value_name = "session|day|TIME",
        value_parser = values::anchor
    )]
    anchor: Option<AnchorChoice>,
    #[command(flatten)]
    format: FormatArg,
    #[command(flatten)]
    store: StoreArgs,
}

/// What `bars` does.
#[derive(Debug)]
pub(crate) struct BarsSettings {
    pub(crate) store: StoreChoice,
    pub(crate) sizes: SizeChoice,
    /// All if there are none.
    pub(crate) symbols: Vec<Symbol>,
    pub(crate) range: Range<i64>,
    pub(crate) last: Option<usize>,
    pub(crate) zone: TimeZone,
    pub(crate) policy: Policy,
    /// From where cumulative values are printed, if at all.
    pub(crate) anchor: Option<Anchor>,
    pub(crate) format: Format,
}

impl BarsArgs {
    pub(crate) fn check(self) -> Result<BarsSettings, Exit> {
        let mut errors = Errors::default();
        let store = self.store.for_reading(None, &mut errors);
        let range = self.range.check(&self.tz, &mut errors);
        let anchor = self
            .anchor
            .map(|anchor| errors.keep("--anchor", anchor.in_zone(&self.tz)));
        errors.settle(|| {
            Some(BarsSettings {
                store,
                sizes: self.size,
                symbols: self.symbol.concat(),
                range: range?.unwrap_or(i64::MIN..i64::MAX),
                last: self.last,
                zone: self.tz,
                policy: self.policy,
                anchor: match anchor {
                    Some(anchor) => Some(anchor?),
                    None => None,
                },
                format: self.format.format,
            })
        })
    }
}

/// `tapeflow views`.
#[derive(Args, Debug)]
pub(crate) struct ViewsArgs {
    /// Which view: symbols by notional in each quote currency (active), symbols by how far close is
    /// from open (movers), your baskets, or totals by quote currency and asset class (market)
    #[arg(
        long,
        env = "TAPEFLOW_VIEW",
        default_value = "active",
        value_name = "VIEW",
        value_parser = values::view()
    )]
    view: View,
    /// Window size, one minute or longer
    #[arg(long, env = "TAPEFLOW_VIEWS_SIZE", default_value = "1m")]
    size: WindowSize,
    #[command(flatten)]
    range: RangeArgs,
    #[command(flatten)]
    format: FormatArg,
    #[command(flatten)]
    store: StoreArgs,
}

/// What `views` does.
#[derive(Debug)]
pub(crate) struct ViewsSettings {
    pub(crate) store: StoreChoice,
    pub(crate) view: View,
    pub(crate) size: WindowSize,
    /// `None`: the newest window.
    pub(crate) range: Option<Range<i64>>,
    pub(crate) format: Format,
}

impl ViewsArgs {
    pub(crate) fn check(self) -> Result<ViewsSettings, Exit> {
        let mut errors = Errors::default();
        let store = self.store.for_reading(None, &mut errors);
        let range = self.range.check(&TimeZone::UTC, &mut errors);
        errors.settle(|| {
            Some(ViewsSettings {
                store,
                view: self.view,
                size: self.size,
                range: range?,
                format: self.format.format,
            })
        })
    }
}

/// `tapeflow status`.
#[derive(Args, Debug)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    format: FormatArg,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    log: LogArgs,
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
    pub(crate) fn check(self) -> Result<StatusSettings, Exit> {
        let mut errors = Errors::default();
        let store = self.store.for_reading(self.log.log.as_deref(), &mut errors);
        let log = self.log.of_store_if_named(&store.address, &mut errors);
        errors.settle(|| {
            Some(StatusSettings {
                store,
                log: log?,
                format: self.format.format,
            })
        })
    }
}

/// `tapeflow dead-letters`.
#[derive(Args, Debug)]
pub(crate) struct DeadLettersArgs {
    /// Print at most this many
    #[arg(
        long,
        env = "TAPEFLOW_LIMIT",
        default_value = "1000",
        value_name = "N",
        value_parser = values::count(1..=100_000_000)
    )]
    limit: usize,
    #[command(flatten)]
    format: FormatArg,
    #[command(flatten)]
    store: StoreArgs,
}

/// What `dead-letters` does.
#[derive(Debug)]
pub(crate) struct DeadLettersSettings {
    pub(crate) store: StoreChoice,
    pub(crate) limit: usize,
    pub(crate) format: Format,
}

impl DeadLettersArgs {
    pub(crate) fn check(self) -> Result<DeadLettersSettings, Exit> {
        let mut errors = Errors::default();
        let store = self.store.for_reading(None, &mut errors);
        errors.settle(|| {
            Some(DeadLettersSettings {
                store,
                limit: self.limit,
                format: self.format.format,
            })
        })
    }
}
