//! How long a process may take to end.

use std::time::Duration;

use clap::Args;

use super::values;

/// The limit of an end.
#[derive(Args, Debug)]
pub(crate) struct EndArgs {
    /// How long to keep committing after SIGTERM or Ctrl-C while the store is slow, full or out of
    /// reach; then the process exits with code 1, and the next start commits the rest
    #[arg(
        long,
        env = "TAPEFLOW_END_WITHIN",
        default_value = "30s",
        value_name = "DURATION",
        value_parser = values::duration
    )]
    pub(crate) end_within: Duration,
}
