//! The kill loop as CI runs it: one node of each server, 25 cycles.
//!
//! Where java or mvn are missing it is listed as not run, with the reason; `TAPEFLOW_REQUIRE_STACK=1` makes it fail instead.

#[expect(dead_code, reason = "the binary starts the servers; here it is only asked whether they can run")]
#[path = "../../../deploy/dev/stack.rs"]
mod dev_stack;

use std::process::Command;

use dev_stack::Wanted;
use libtest_mimic::{Arguments, Failed, Trial};

const NAME: &str = "twenty_five_kill_cycles_lose_and_double_nothing_and_no_reader_sees_a_row_go_back";

fn main() {
    let arguments = Arguments::from_args();
    let wanted = dev_stack::wanted();
    if let Wanted::Skip(reason) = &wanted {
        eprintln!("not run: every test of this target {reason}");
    }
    let outcome = wanted.clone();
    let trial = Trial::test(NAME, move || match outcome {
        Wanted::Run => twenty_five_cycles(),
        Wanted::Skip(reason) | Wanted::Fail(reason) => Err(reason.into()),
    });
    let trial = match wanted {
        Wanted::Skip(reason) => trial.with_kind(reason).with_ignored_flag(true),
        Wanted::Run | Wanted::Fail(_) => trial,
    };
    libtest_mimic::run(&arguments, vec![trial]).exit();
}

/// A directory and ports of its own.
fn twenty_five_cycles() -> Result<(), Failed> {
    let arguments = ["--nodes", "1", "--cycles", "25", "--seed", "1", "--stack", "test-chaos", "--ports", "28000"];
    let ended = Command::new(env!("CARGO_BIN_EXE_tapeflow-chaos")).args(arguments).status()?;
    if ended.success() { Ok(()) } else { Err(format!("tapeflow-chaos {}: {ended}", arguments.join(" ")).into()) }
}
