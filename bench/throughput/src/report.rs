//! The result of a run: a table for a person, one line of JSON for a program.

use std::{fmt::Write, time::Duration};

use serde_json::{Value, json};
use tapeflow_feed::Written;

use crate::{backlog::Spent, check::Checked, grouped, per_second, rate::Sustained};

/// All there is to tell.
#[derive(Clone, Debug)]
pub struct Report {
    /// The binary's version.
    pub version: &'static str,
    /// Whether it was built with optimization.
    pub optimized: bool,
    /// `embedded` or `servers`.
    pub target: &'static str,
    /// Partitions of the log.
    pub partitions: u32,
    /// The window sizes, as they are given.
    pub sizes: String,
    /// How many symbols traded.
    pub symbols: usize,
    /// The feed's seed.
    pub seed: u64,
    /// Trades a message.
    pub per_message: u64,
    /// Processes, and workers in each.
    pub processes: usize,
    /// Workers in each.
    pub workers: usize,
    /// What was fed.
    pub written: Written,
    /// How long filling took; none where the log was full already, or was filled while the job ran.
    pub preload: Option<Duration>,
    /// The figures of the job.
    pub spent: Spent,
    /// The figures of a sustained rate, if there was one.
    pub sustained: Option<Sustained>,
    /// The result of the check.
    pub checked: Checked,
    /// Processes that wanted to run in the minute before, on average.
    pub load_before: Option<f64>,
}

impl Report {
    /// CPU time a trade, in microseconds: in its own code, in the kernel, in all.
    fn cpu_us(&self) -> [f64; 3] {
        let of = |time: Duration| 1e6 / per_second(self.written.trades, time);
        [
            of(self.spent.cpu.user),
            of(self.spent.cpu.system),
            of(self.spent.cpu.total()),
        ]
    }

    /// One object, on one line.
    #[must_use]
    pub fn json(&self) -> Value {
        let [user, system, total] = self.cpu_us();
        let (written, spent) = (self.written, &self.spent);
        let seconds = |time: Duration| rounded(time.as_secs_f64(), 3);
        let mut all = json!({
            "version": self.version,
            "optimized": self.optimized,
            "target": self.target,
            "mode": if self.sustained.is_some() { "rate" } else { "drain" },
            "trades": written.trades,
            "messages": written.records,
            "per_message": self.per_message,
            "symbols": self.symbols,
            "seed": self.seed,
            "partitions": self.partitions,
            "sizes": self.sizes,
            "processes": self.processes,
            "workers": self.workers,
            "fill_seconds": self.preload.map(seconds),
            "seconds": seconds(spent.took),
            "trades_per_second": rounded(per_second(written.trades, spent.took), 0),
            "cpu_us_per_trade": { "user": rounded(user, 3), "system": rounded(system, 3), "total": rounded(total, 3) },
            "cpu_seconds": seconds(spent.cpu.total()),
            "cpu_seconds_elsewhere": seconds(spent.elsewhere),
            "load_before": self.load_before,
            "bars_written": spent.bars,
            "peak_memory_mb": megabytes(spent.peak_kb),
            "start_up_seconds": spent.start_up.map(seconds),
            "freshness_ms": Value::Null,
            "check_seconds": seconds(self.checked.took),
            "correct": self.checked.correct,
        });
        if let Some(sustained) = &self.sustained {
            all["freshness_ms"] = sustained.freshness.json();
            all["rate"] = json!({
                "asked": sustained.asked,
                "reached": rounded(sustained.reached, 0),
                "seconds": seconds(sustained.lasted),
                "largest_lag": sustained.largest_lag,
                "lag_at_end": sustained.lag_at_end,
                "own_freshness_seconds": sustained.own_freshness,
            });
        }
        all
    }

    /// A table.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = self.write(&mut text);
        text
    }

    fn write(&self, text: &mut String) -> std::fmt::Result {
        let (written, spent, [user, system, total]) = (self.written, &self.spent, self.cpu_us());
        let mut bar = |name: &str, value: String| writeln!(text, "{name:<22}{value}");
        bar(
            "feed",
            format!(
                "{} trades in {} messages, {} symbols, seed {}",
                grouped(written.trades),
                grouped(written.records),
                self.symbols,
                self.seed
            ),
        )?;
        bar(
            "target",
            format!(
                "{}, {} partitions, windows of {}",
                self.target, self.partitions, self.sizes
            ),
        )?;
        bar(
            "job",
            format!(
                "{} process(es) of {} worker(s), version {}",
                self.processes, self.workers, self.version
            ),
        )?;
        if !self.optimized {
            bar(
                "",
                "built without optimization: these figures say nothing about speed".into(),
            )?;
        }
        match &self.sustained {
            None => {
                bar(
                    "seconds",
                    format!(
                        "{:.2}, from the process's start to its end",
                        spent.took.as_secs_f64()
                    ),
                )?;
                bar(
                    "trades a second",
                    grouped_rate(per_second(written.trades, spent.took)),
                )?;
            }
            Some(sustained) => {
                let reached = grouped_rate(sustained.reached);
                bar(
                    "trades a second",
                    format!(
                        "{reached} for {:.0} s, {} asked for",
                        sustained.lasted.as_secs_f64(),
                        grouped(sustained.asked)
                    ),
                )?;
                bar("freshness", sustained.freshness.to_string())?;
                if let [Some(p50), Some(p99)] =
                    ["p50", "p99"].map(|name| sustained.own_freshness[name].as_f64())
                {
                    bar(
                        "",
                        format!(
                            "by the job's own count, until acknowledged: p50 {:.0} ms, p99 {:.0} \
                             ms",
                            p50 * 1e3,
                            p99 * 1e3
                        ),
                    )?;
                }
                bar(
                    "lag",
                    format!(
                        "at most {} messages, {} when the feed ended",
                        grouped(sustained.largest_lag),
                        grouped(sustained.lag_at_end)
                    ),
                )?;
            }
        }
        bar(
            "CPU a trade",
            format!(
                "{total:.3} us: {user:.3} user, {system:.3} system; the whole process, start \
                 included"
            ),
        )?;
        bar("bars written", grouped(spent.bars))?;
        bar("peak memory", format!("{} MB", megabytes(spent.peak_kb)))?;
        bar(
            "start",
            spent.start_up.map_or("no commit was seen".into(), |time| {
                format!("{:.2} s to the first committed bar", time.as_secs_f64())
            }),
        )?;
        let load = self
            .load_before
            .map_or(String::new(), |load| format!("; load before {load:.2}"));
        bar(
            "elsewhere",
            format!(
                "{:.1} s of CPU on this machine meanwhile: servers, this program, others{load}",
                spent.elsewhere.as_secs_f64()
            ),
        )?;
        bar(
            "correct",
            if self.checked.correct {
                "yes".into()
            } else {
                "NO".into()
            },
        )?;
        self.checked
            .told
            .iter()
            .try_for_each(|told| bar("", told.clone()))
    }
}

/// The load of the machine; none where it does not tell.
#[must_use]
pub fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg")
        .ok()?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

fn megabytes(kilobytes: u64) -> u64 {
    kilobytes.div_ceil(1_024)
}

pub(crate) fn rounded(number: f64, places: i32) -> f64 {
    let scale = 10f64.powi(places);
    (number * scale).round() / scale
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate for people"
)]
fn grouped_rate(rate: f64) -> String {
    grouped(rate.round() as u64)
}
