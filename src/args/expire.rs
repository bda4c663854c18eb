//! `tapeflow expire`.

use std::time::Duration;

use clap::Args;

use super::{
    errors::Errors,
    store::{StoreArgs, StoreChoice},
    values,
};
use crate::exit::Exit;

/// `tapeflow expire`.
#[derive(Args, Debug)]
pub(crate) struct ExpireArgs {
    /// Look at everything that is beyond its horizon, and not only at what became old since the
    /// last time: finds minutes that a late trade has written once more since then
    #[arg(long, env = "TAPEFLOW_EXPIRE_ALL")]
    all: bool,
    /// Go on, once in this time, until asked to stop
    #[arg(
        long,
        env = "TAPEFLOW_EXPIRE_EVERY",
        value_name = "DURATION",
        value_parser = values::duration
    )]
    every: Option<Duration>,
    #[command(flatten)]
    store: StoreArgs,
}

/// What `expire` does.
#[derive(Debug)]
pub(crate) struct ExpireSettings {
    pub(crate) store: StoreChoice,
    pub(crate) all: bool,
    pub(crate) every: Option<Duration>,
}

impl ExpireArgs {
    pub(crate) fn check(self) -> Result<ExpireSettings, Exit> {
        let mut errors = Errors::default();
        let store = self.store.for_reading(None, &mut errors);
        if self
            .every
            .is_some_and(|every| every < Duration::from_secs(1))
        {
            errors.add("--every: at least 1s");
        }
        errors.settle(|| {
            Some(ExpireSettings {
                store,
                all: self.all,
                every: self.every,
            })
        })
    }
}
