//! `verify`: a log and a store against each other.

use clap::Args;
use tapeflow_schemas::Baskets;

use super::{
    faults::Faults,
    job::BasketsArg,
    log::{KafkaArgs, LogChoice},
    store::{LoginArgs, StoreChoice, sqlite_address, store_choice},
};
use crate::end::End;

/// `tapeflow verify`.
#[derive(Args, Debug)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    kafka: KafkaArgs,
    /// An embedded log instead of a topic; its rows are beside it unless --store says otherwise
    #[arg(long, env = "TAPEFLOW_LOG", value_name = "sqlite:PATH")]
    log: Option<String>,
    /// Where the rows are
    #[arg(long, env = "TAPEFLOW_STORE", value_name = "URL", required_unless_present = "log")]
    store: Option<String>,
    #[command(flatten)]
    baskets: BasketsArg,
    #[command(flatten)]
    login: LoginArgs,
}

/// What `verify` does.
#[derive(Debug)]
pub(crate) struct VerifySettings {
    pub(crate) log: LogChoice,
    pub(crate) store: StoreChoice,
    pub(crate) baskets: Baskets,
}

impl VerifyArgs {
    pub(crate) fn check(self) -> Result<VerifySettings, End> {
        let mut faults = Faults::default();
        let kafka = self.kafka.check(&mut faults);
        let log = match &self.log {
            Some(text) => faults.read("--log", text, sqlite_address).map(LogChoice::Sqlite),
            None => kafka.map(LogChoice::Kafka),
        };
        let store = store_choice(self.store.as_deref().or(self.log.as_deref()).unwrap_or_default(), self.login, &mut faults);
        let baskets = self.baskets.check(&mut faults);
        faults.settle(|| Some(VerifySettings { log: log?, store: store?, baskets: baskets? }))
    }
}
