//! The binary under test, for every target that runs it.

use std::process::{Command, Stdio};

/// The binary, under no foreign settings.
pub(crate) fn tapeflow(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tapeflow"));
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TAPEFLOW_")) {
        command.env_remove(name);
    }
    // Tests that count the trades of the simulated feed count live ones; history has its own test.
    command.env("TAPEFLOW_NO_HISTORY", "true");
    // Tests run side by side: who wants to look in asks for it.
    command.env("TAPEFLOW_HTTP", "off");
    command
}
