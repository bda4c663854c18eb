//! The kill loop as CI runs it: one node of each server, 25 cycles.
//!
//! Where java or mvn are missing it is listed as not run, with the reason;
//! `TAPEFLOW_REQUIRE_STACK=1` makes it fail instead.

use std::process::Command;

use libtest_mimic::{Arguments, Failed};
use tapeflow_stack::{servers as dev_stack, trials};

const NAME: &str =
    "twenty_five_kill_cycles_lose_and_double_nothing_and_no_reader_sees_a_bar_go_back";

fn main() {
    let arguments = Arguments::from_args();
    let trials = trials::on_servers(&dev_stack::wanted(), [(NAME, twenty_five_cycles)]);
    libtest_mimic::run(&arguments, trials).exit();
}

/// A directory and ports of its own.
fn twenty_five_cycles() -> Result<(), Failed> {
    let arguments = [
        "--nodes",
        "1",
        "--cycles",
        "25",
        "--seed",
        "1",
        "--stack",
        "test-chaos",
        "--ports",
        "28000",
    ];
    let ended = Command::new(env!("CARGO_BIN_EXE_tapeflow-chaos"))
        .args(arguments)
        .status()?;
    if ended.success() {
        Ok(())
    } else {
        Err(format!("tapeflow-chaos {}: {ended}", arguments.join(" ")).into())
    }
}
