//! Whether the bars are right: every one of them recomputed from the log by code that the job does
//! not use, and the job's own counts against what was fed.

use std::{
    process::Output,
    time::{Duration, Instant},
};

use tapeflow_feed::Written;
use tapeflow_protocol::{Counts, HistoryEntry};
use tokio::runtime::Handle;

use crate::{
    Error,
    target::{Program, Target},
};

/// Differences repeated in a report.
const TOLD: usize = 10;

/// What came of it.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Whether every bar and every count is as it must be.
    pub correct: bool,
    /// Lines for the report.
    pub told: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

/// Checks everything.
///
/// # Errors
/// It could not be checked.
pub fn check(
    program: &Program,
    target: &Target,
    written: Written,
    runtime: &Handle,
) -> Result<Checked, Error> {
    let begun = Instant::now();
    let output = program
        .command("verify")
        .args(["--log-level", "error"])
        .output();
    let (mut correct, mut told) = verdict(
        &output.map_err(|error| Error::Failed(format!("verify does not start: {error}")))?,
    )?;
    let store = target
        .look(runtime)?
        .ok_or_else(|| Error::Failed("the job has made no store".into()))?;
    let history = runtime
        .block_on(store.history(usize::MAX))
        .map_err(|error| Error::Failed(error.to_string()))?;
    let (counts_are_right, counts) = account(&history, written);
    correct &= counts_are_right;
    told.push(counts);
    Ok(Checked {
        correct,
        told,
        took: begun.elapsed(),
    })
}

/// The output of `verify`. Code 0 means no differences, 1 some; any other code is an error.
fn verdict(output: &Output) -> Result<(bool, Vec<String>), Error> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let said = text(&output.stdout);
    let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
    let correct = match output.status.code() {
        Some(0) => true,
        // Without its summary it failed and compared nothing.
        Some(1)
            if lines.last().is_some_and(|last| {
                last.contains(" difference; ") || last.contains(" differences; ")
            }) =>
        {
            false
        }
        _ => {
            return Err(Error::Failed(format!(
                "verify ended with {}: {}",
                output.status,
                text(&output.stderr).trim_end()
            )));
        }
    };
    let summary = lines.pop().unwrap_or_default();
    let left_out = lines.len().saturating_sub(TOLD);
    lines.truncate(TOLD);
    if left_out > 0 {
        lines.push(format!("and {left_out} more"));
    }
    lines.push(summary);
    Ok((correct, lines))
}

/// The counts of all epochs against what was fed.
fn account(history: &[HistoryEntry], written: Written) -> (bool, String) {
    let mut counts = Counts::default();
    history.iter().for_each(|entry| counts.add(&entry.counts));
    let clean = counts.duplicates + counts.dead_letters + counts.gaps + counts.price_updates == 0;
    let correct = clean && (counts.records, counts.accepted) == (written.records, written.trades);
    let told = if correct {
        format!(
            "the history of {} epochs comes to the {} messages and {} trades that were fed",
            history.len(),
            written.records,
            written.trades
        )
    } else {
        format!(
            "the history comes to {counts:?}, and {} messages of {} trades were fed",
            written.records, written.trades
        )
    };
    (correct, told)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process::ExitStatus};

    use super::*;

    fn output(code: i32, said: &str) -> Output {
        Output {
            status: ExitStatus::from_raw(code << 8),
            stdout: said.as_bytes().to_vec(),
            stderr: b"no such store\n".to_vec(),
        }
    }

    #[test]
    fn differences_are_reported_and_a_verify_that_failed_is_no_result() {
        assert!(
            verdict(&output(0, "0 differences; 5 bars compared\n"))
                .is_ok_and(|(correct, told)| correct && told.len() == 1)
        );
        let many = format!(
            "{}13 differences; 50 bars compared\n",
            "a bar: volume\n".repeat(13)
        );
        let (correct, told) = verdict(&output(1, &many)).expect("a verdict");
        assert!(!correct);
        assert_eq!(
            told[TOLD..],
            ["and 3 more", "13 differences; 50 bars compared"]
        );
        let one = verdict(&output(
            1,
            "a bar: volume\n1 difference; 50 bars compared\n",
        ));
        assert!(one.is_ok_and(|(correct, told)| !correct && told.len() == 2));
        for failed in [output(1, ""), output(2, ""), output(1, "a bar: volume\n")] {
            assert!(
                verdict(&failed).is_err_and(|error| error.to_string().contains("no such store"))
            );
        }
    }

    #[test]
    fn counts_must_come_to_what_was_fed() {
        let entry = |accepted, duplicates| HistoryEntry {
            epoch: 1,
            write_timestamp: 1,
            cuts: vec![1],
            counts: Counts {
                records: accepted,
                accepted,
                duplicates,
                ..Counts::default()
            },
        };
        let written = Written {
            records: 7,
            trades: 7,
            ..Written::default()
        };
        assert!(account(&[entry(3, 0), entry(4, 0)], written).0);
        assert!(
            !account(&[entry(3, 0), entry(3, 0)], written).0,
            "one is missing"
        );
        assert!(
            !account(&[entry(3, 0), entry(4, 1)], written).0,
            "one came twice"
        );
    }
}
