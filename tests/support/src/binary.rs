//! The binary under test.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The binary that cargo built for the test that runs.
///
/// # Panics
/// If there is none: cargo names it, and a test that is run by hand finds it above its own folder.
#[must_use]
pub fn path() -> PathBuf {
    if let Some(named) = std::env::var_os("CARGO_BIN_EXE_tapeflow") {
        return named.into();
    }
    let test = std::env::current_exe().expect("the path of the test");
    let found = test
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("tapeflow"))
        .find(|binary| binary.is_file());
    found.expect("the binary: run this test with cargo")
}

/// The root of the repository.
#[must_use]
pub fn root() -> &'static Path {
    let support = Path::new(env!("CARGO_MANIFEST_DIR"));
    support
        .ancestors()
        .nth(2)
        .expect("tests/support is two folders below the root")
}

/// A command of the binary, without any `TAPEFLOW_` variable of the environment, and without
/// an HTTP listener: tests run side by side.
#[must_use]
pub fn tapeflow(arguments: &[&str]) -> Command {
    let mut command = Command::new(path());
    command.args(arguments).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("TAPEFLOW_")) {
        command.env_remove(name);
    }
    // Tests that count the trades of the simulated feed count live ones; history has its own test.
    command.env("TAPEFLOW_NO_HISTORY", "true");
    command.env("TAPEFLOW_HTTP", "off");
    command
}
