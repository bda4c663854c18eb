//! `verify`: compares a store with its log.

use std::time::Duration;

use clap::Args;
use tapeflow_schemas::{Baskets, Symbol};

use super::{
    errors::Errors,
    job::BasketsArg,
    log::{LogArgs, LogChoice},
    store::{StoreArgs, StoreChoice},
    values::{self, Symbols},
};
use crate::exit::Exit;

/// `tapeflow verify`.
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    audit: AuditArgs,
    #[command(flatten)]
    repair: RepairArgs,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    log: LogArgs,
}

/// How much is verified, and how often.
#[derive(Args, Debug)]
#[command(next_help_heading = "Selection")]
struct AuditArgs {
    /// Read only what the job read in this time before its last commit, and verify the bars and
    /// views that nothing earlier can have changed
    #[arg(
        long,
        env = "TAPEFLOW_SINCE",
        value_name = "DURATION",
        value_parser = values::duration
    )]
    since: Option<Duration>,
    /// Verify these symbols; may be repeated. A view is made of all symbols, so views are left out
    /// [default: all]
    #[arg(
        long,
        env = "TAPEFLOW_SYMBOL",
        value_name = "SYMBOL,...",
        value_parser = values::symbols
    )]
    symbol: Vec<Symbols>,
    /// Verify one of N symbols, always the same ones. Views are left out
    #[arg(long, env = "TAPEFLOW_SAMPLE", value_name = "1/N", value_parser = values::share)]
    sample: Option<u64>,
    /// Read the log and the store N times, each time for one of N slices of the windows: needs a
    /// fraction of the memory
    #[arg(
        long,
        env = "TAPEFLOW_PASSES",
        default_value = "1",
        value_name = "N",
        value_parser = values::number(1..=1_000)
    )]
    passes: u64,
    /// Verify again after each DURATION, a line each time, until Ctrl-C or SIGTERM; exits with the
    /// worst result
    #[arg(
        long,
        env = "TAPEFLOW_EVERY",
        value_name = "DURATION",
        value_parser = values::duration
    )]
    every: Option<Duration>,
    /// Exit with code 4 if nothing differs, but less than this percentage of the bars or of the
    /// views was compared. Bars older than the log do not count. 0 accepts an audit that
    /// compared nothing
    #[arg(
        long,
        env = "TAPEFLOW_MIN_COMPARED",
        default_value = "50",
        value_name = "PERCENT",
        value_parser = values::number(0..=100)
    )]
    min_compared: u64,
    #[command(flatten)]
    baskets: BasketsArg,
}

/// Whether differences are repaired. These flags have no environment variable: a variable that
/// stays set would repeat the repair.
#[derive(Args, Debug)]
#[command(next_help_heading = "Repair")]
struct RepairArgs {
    /// Write the bars and views that differ as the log says they must be. A running job stops while
    /// they are written, and resumes by itself if it is supervised
    #[arg(long, conflicts_with_all = ["since", "every"])]
    repair: bool,
    /// Do not ask before writing
    #[arg(long, requires = "repair")]
    yes: bool,
}

/// What `verify` does.
#[derive(Debug)]
pub(crate) struct VerifySettings {
    pub(crate) log: LogChoice,
    pub(crate) store: StoreChoice,
    /// `None`: those that the store keeps.
    pub(crate) baskets: Option<Baskets>,
    pub(crate) since: Option<Duration>,
    /// All if there are none.
    pub(crate) symbols: Vec<Symbol>,
    pub(crate) sample: u64,
    pub(crate) passes: u64,
    pub(crate) every: Option<Duration>,
    /// In percent.
    pub(crate) min_compared: u64,
    pub(crate) repair: bool,
    pub(crate) yes: bool,
}

impl VerifyArgs {
    pub(crate) fn check(self) -> Result<VerifySettings, Exit> {
        let mut errors = Errors::default();
        let store = self.store.for_reading(self.log.log.as_deref(), &mut errors);
        let log = self.log.of_store(&store.address, &mut errors);
        let AuditArgs {
            since,
            symbol,
            sample,
            passes,
            every,
            min_compared,
            baskets,
        } = self.audit;
        errors.settle(|| {
            Some(VerifySettings {
                log: log?,
                store,
                baskets: baskets.baskets,
                since,
                symbols: symbol.concat(),
                sample: sample.unwrap_or(1),
                passes,
                every,
                min_compared,
                repair: self.repair.repair,
                yes: self.repair.yes,
            })
        })
    }
}
