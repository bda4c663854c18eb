//! The report: one line a topic in each table.

use std::{fmt::Write, time::Duration};

use tapeflow_throughput::{grouped, per_second};

use crate::restart::{Restart, Wait};

/// The result of one topic.
pub(crate) struct Outcome {
    pub(crate) messages: u64,
    pub(crate) symbols: u32,
    pub(crate) preload: Duration,
    pub(crate) topic_bytes: u64,
    /// From the first message to the end, in one go.
    pub(crate) catch_up: CatchUp,
    /// Keeping up with the feed.
    pub(crate) restarts: Vec<Restart>,
    /// Keeping up, too.
    pub(crate) waits: Waits,
    /// On the way through the topic.
    pub(crate) behind: Vec<Restart>,
    /// What was found at the end.
    pub(crate) result: String,
}

/// How long fresh trades waited, without and with a late trade among them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Waits {
    pub(crate) without: Vec<Wait>,
    pub(crate) with: Vec<Wait>,
}

/// A job that reads a topic to its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CatchUp {
    pub(crate) took: Duration,
    pub(crate) cpu: Duration,
    pub(crate) peak_kb: u64,
}

/// The results of a run.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) command: String,
    pub(crate) rate: u32,
    pub(crate) workers: u16,
    pub(crate) outcomes: Vec<Outcome>,
}

impl Report {
    /// As markdown.
    pub(crate) fn markdown(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "# Restart after kill -9\n\n    {}\n", self.command)?;
        writeln!(
            text,
            "The dist binary, one process of {} workers, with one Kafka and one Cassandra node \
             beside it on the same machine. One trade a record, event\n\
             times over 20 minutes, four partitions, five window sizes.\n",
            self.workers
        )?;
        writeln!(text, "## From the first message to the last\n")?;
        writeln!(
            text,
            "| messages | symbols | on disk, MB | fill, messages/s | catch-up, s | trades/s | CPU a trade, \
             us | peak memory, MB |\n|---:|---:|---:|---:|---:|---:|---:|---:|"
        )?;
        for outcome in &self.outcomes {
            let CatchUp { took, cpu, peak_kb } = outcome.catch_up;
            writeln!(
                text,
                "| {} | {} | {} | {:.0} | {:.1} | {:.0} | {:.2} | {} |",
                grouped(outcome.messages),
                outcome.symbols,
                outcome.topic_bytes / 1_000_000,
                per_second(outcome.messages, outcome.preload),
                took.as_secs_f64(),
                per_second(outcome.messages, took),
                1e6 / per_second(outcome.messages, cpu),
                peak_kb / 1_024
            )?;
        }
        writeln!(
            text,
            "\n## kill -9 while it keeps up with {} messages/s, started again a second later\n",
            self.rate
        )?;
        writeln!(
            text,
            "Seconds from the start of the new process, median / largest. *Fresh*: a bar of the busiest symbol's minute, \
             read at quorum, is of an epoch above all that were\n\
             bound before the kill; *moved*: of a later epoch than right after the kill. *Made after*: it \
             holds a trade that happened after the start.\n"
        )?;
        self.restarts(text, |outcome| &outcome.restarts)?;
        if self
            .outcomes
            .iter()
            .any(|outcome| !outcome.behind.is_empty())
        {
            writeln!(text, "\n## kill -9 on the way through the topic\n")?;
            writeln!(
                text,
                "Epochs are as large as they get there, and all that are bound and not committed \
                 are replayed before anything fresh is written.\n"
            )?;
            self.restarts(text, |outcome| &outcome.behind)?;
        }
        self.waits(text)?;
        writeln!(text, "\n## What the bars come to\n")?;
        self.outcomes.iter().try_for_each(|outcome| {
            writeln!(
                text,
                "- {} messages, {} symbols: {}.",
                grouped(outcome.messages),
                outcome.symbols,
                outcome.result
            )
        })
    }

    fn waits(&self, text: &mut String) -> std::fmt::Result {
        writeln!(
            text,
            "\n## A late trade while it keeps up\n\n\
             Seconds that fresh trades wait until a bar holds them and until the epochs after them \
             are committed, median / largest, without a late trade\nand with one of ten minutes \
             ago, in windows with many bars.\n\n\
             | messages | symbols | late trades | bar without, s | bar with, s | commit without, s \
             | commit with, s |\n|---:|---:|---:|---:|---:|---:|---:|"
        )?;
        for outcome in &self.outcomes {
            let Waits { without, with } = &outcome.waits;
            let times = |waits: &[Wait], of: fn(&Wait) -> Duration| {
                two(waits.iter().map(of), |time| {
                    format!("{:.2}", time.as_secs_f64())
                })
            };
            writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} |",
                grouped(outcome.messages),
                outcome.symbols,
                with.len(),
                times(without, |wait| wait.bar),
                times(with, |wait| wait.bar),
                times(without, |wait| wait.commit),
                times(with, |wait| wait.commit)
            )?;
        }
        Ok(())
    }

    fn restarts(
        &self,
        text: &mut String,
        of: impl Fn(&Outcome) -> &Vec<Restart>,
    ) -> std::fmt::Result {
        writeln!(
            text,
            "| messages | symbols | kills | replayed records | taken over, s | moved, s | first fresh bar, s | \
             made after, s | first commit, s | memory after 2 s, MB | peak memory, MB |\n\
             |---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
        )?;
        for outcome in &self.outcomes {
            let restarts = of(outcome);
            let times = |of: &dyn Fn(&Restart) -> Option<Duration>| {
                two(restarts.iter().filter_map(of), |time| {
                    format!("{:.2}", time.as_secs_f64())
                })
            };
            let kilobytes = |of: &dyn Fn(&Restart) -> u64| {
                two(restarts.iter().map(of), |kb| (kb / 1_024).to_string())
            };
            writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                grouped(outcome.messages),
                outcome.symbols,
                restarts.len(),
                two(restarts.iter().map(|restart| restart.to_replay), grouped),
                times(&|restart| Some(restart.taken_over)),
                times(&|restart| Some(restart.moved)),
                times(&|restart| Some(restart.fresh)),
                times(&|restart| restart.made_after),
                times(&|restart| Some(restart.committed)),
                kilobytes(&|restart| restart.settled_kb),
                kilobytes(&|restart| restart.peak_kb)
            )?;
        }
        Ok(())
    }
}

/// The median and the largest.
fn two<T: Ord + Copy>(of: impl Iterator<Item = T>, show: impl Fn(T) -> String) -> String {
    let mut sorted: Vec<T> = of.collect();
    sorted.sort_unstable();
    match (
        sorted.get(sorted.len().saturating_sub(1) / 2),
        sorted.last(),
    ) {
        (Some(median), Some(largest)) => format!("{} / {}", show(*median), show(*largest)),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(two([3, 1, 9].into_iter(), |n: u64| n.to_string()), "3 / 9");
        assert_eq!(two([4, 2].into_iter(), |n: u64| n.to_string()), "2 / 4");
        assert_eq!(two(std::iter::empty::<u64>(), |n| n.to_string()), "");
    }
}
