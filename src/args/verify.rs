//! `verify`: a log and a store against each other.

use std::time::Duration;

use clap::Args;
use tapeflow_schemas::{Baskets, Symbol};

use super::{
    errors::Errors,
    job::BasketsArg,
    log::{KafkaArgs, LogChoice},
    store::{DEFAULT_STORE, LoginArgs, StoreAddress, StoreChoice, sqlite_address, store_choice},
    values,
};
use crate::end::End;

/// `tapeflow verify`.
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    kafka: KafkaArgs,
    /// An embedded log instead of a topic; its bars are beside it unless --store says otherwise
    /// [default: the log beside the bars of a sqlite: store, if they come from it]
    #[arg(long, env = "TAPEFLOW_LOG", value_name = "sqlite:PATH")]
    log: Option<String>,
    /// Where the bars are [default: beside --log, or sqlite:tapeflow-data/tapeflow.db]
    #[arg(long, env = "TAPEFLOW_STORE", value_name = "URL")]
    store: Option<String>,
    #[command(flatten)]
    baskets: BasketsArg,
    #[command(flatten)]
    look: LookArgs,
    #[command(flatten)]
    repair: HealArgs,
    #[command(flatten)]
    login: LoginArgs,
}

/// How much is looked at, and how often.
#[derive(Args, Debug)]
#[command(next_help_heading = "Look")]
struct LookArgs {
    /// Read only what the job read in so long a time before its last commit, and judge the bars and
    /// lists that nothing earlier can have touched
    #[arg(long, env = "TAPEFLOW_SINCE", value_name = "DURATION")]
    since: Option<String>,
    /// Look at these symbols; may be repeated. Lists are made of all symbols, and are not judged
    /// then [default: all]
    #[arg(
        long,
        alias = "symbols",
        env = "TAPEFLOW_SYMBOL",
        value_name = "SYMBOL,..."
    )]
    symbol: Vec<String>,
    /// Look at one of N symbols, always the same ones. Lists are not judged then
    #[arg(long, env = "TAPEFLOW_SAMPLE", value_name = "1/N")]
    sample: Option<String>,
    /// Read the log and the store N times, each time for one of N slices of the windows: for a
    /// fraction of the memory
    #[arg(long, env = "TAPEFLOW_PASSES", default_value = "1", value_name = "N")]
    passes: String,
    /// Look again and again, a line each time, until Ctrl-C or SIGTERM; the exit code is that of
    /// the worst look
    #[arg(long, env = "TAPEFLOW_EVERY", value_name = "DURATION")]
    every: Option<String>,
}

/// Whether what differs is mended.
#[derive(Args, Debug)]
#[command(next_help_heading = "Heal")]
struct HealArgs {
    /// Write what differs as the log says it must be. A running job is stopped for the time of the
    /// writing, and goes on by itself if it is supervised
    #[arg(long, env = "TAPEFLOW_HEAL", conflicts_with_all = ["since", "every"])]
    repair: bool,
    /// Do not ask before writing
    #[arg(long, env = "TAPEFLOW_YES", requires = "repair")]
    yes: bool,
}

/// What `verify` does.
#[derive(Debug)]
pub(crate) struct VerifySettings {
    pub(crate) log: LogChoice,
    pub(crate) store: StoreChoice,
    pub(crate) baskets: Baskets,
    pub(crate) since: Option<Duration>,
    /// All if there are none.
    pub(crate) symbols: Vec<Symbol>,
    pub(crate) sample: u64,
    pub(crate) passes: u64,
    pub(crate) every: Option<Duration>,
    pub(crate) repair: bool,
    pub(crate) yes: bool,
}

impl VerifyArgs {
    pub(crate) fn check(self) -> Result<VerifySettings, End> {
        let mut errors = Errors::default();
        let kafka = self.kafka.check(&mut errors);
        let store = store_choice(
            self.store
                .as_deref()
                .or(self.log.as_deref())
                .unwrap_or(DEFAULT_STORE),
            self.login,
            &mut errors,
        );
        let log = match (&self.log, store.as_ref().map(|store| &store.address)) {
            (Some(text), _) => errors
                .read("--log", text, sqlite_address)
                .map(LogChoice::Sqlite),
            (None, Some(StoreAddress::Sqlite(path))) => {
                kafka.map(|kafka| LogChoice::Beside(path.clone(), kafka))
            }
            (None, _) => kafka.map(LogChoice::Kafka),
        };
        let baskets = self.baskets.check(&mut errors);
        let since = errors.read_option("--since", self.look.since.as_deref(), values::duration);
        let symbols: Vec<_> = self
            .look
            .symbol
            .iter()
            .map(|symbol| errors.read("--symbol", symbol, values::symbols))
            .collect();
        let sample = errors.read_option("--sample", self.look.sample.as_deref(), values::share);
        let passes = errors.read("--passes", &self.look.passes, values::number(1..=1_000));
        let every = errors.read_option("--every", self.look.every.as_deref(), values::duration);
        errors.settle(|| {
            Some(VerifySettings {
                log: log?,
                store: store?,
                baskets: baskets?,
                since: since?,
                symbols: symbols.into_iter().collect::<Option<Vec<_>>>()?.concat(),
                sample: sample?.unwrap_or(1),
                passes: passes?,
                every: every?,
                repair: self.repair.repair,
                yes: self.repair.yes,
            })
        })
    }
}
