//! What work costs: CPU time of processes and bytes written, from `/proc`, over the bars of the
//! work; and the median of rounds.

use std::time::Duration;

use procfs::process::{Process, Stat};

/// CPU time of this process and of servers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cpu {
    pub(crate) client: Duration,
    pub(crate) servers: Duration,
}

impl Cpu {
    /// So far.
    ///
    /// # Errors
    /// A process has ended.
    pub(crate) fn now(servers: &[i32]) -> Result<Self, String> {
        let spent = servers.iter().map(|pid| cpu_of(&stat(*pid)?));
        Ok(Self {
            client: own_cpu()?,
            servers: spent.sum::<Result<_, String>>()?,
        })
    }

    /// Since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            client: self.client.saturating_sub(before.client),
            servers: self.servers.saturating_sub(before.servers),
        }
    }
}

/// Bytes that this process has handed to `write` so far: also what the page cache still holds.
///
/// # Errors
/// The kernel does not count them.
pub(crate) fn bytes_written() -> Result<u64, String> {
    let io = own()?.io().map_err(|error| error.to_string())?;
    Ok(io.wchar)
}

/// The CPU time of this process's threads, to the nanosecond: cheap layouts take less than a tick
/// of 10 ms. None of its threads ends while something is measured.
fn own_cpu() -> Result<Duration, String> {
    let tasks = own()?.tasks().map_err(|error| error.to_string())?;
    tasks
        .map(|task| {
            let spent = task.and_then(|task| task.schedstat());
            spent.map(|spent| Duration::from_nanos(spent.sum_exec_runtime))
        })
        .sum::<Result<_, _>>()
        .map_err(|error| error.to_string())
}

fn own() -> Result<Process, String> {
    Process::myself().map_err(|error| error.to_string())
}

fn stat(pid: i32) -> Result<Stat, String> {
    Process::new(pid)
        .and_then(|process| process.stat())
        .map_err(|error| format!("process {pid}: {error}"))
}

fn cpu_of(stat: &Stat) -> Result<Duration, String> {
    let ticks_per_second = procfs::ticks_per_second();
    let ticks = stat.utime + stat.stime;
    (ticks * 1_000)
        .checked_div(ticks_per_second)
        .map(Duration::from_millis)
        .ok_or_else(|| "the kernel's clock does not tick".into())
}

/// Microseconds a bar.
pub(crate) fn us(spent: Duration, bars: u64) -> f64 {
    spent.as_secs_f64() * 1e6 / bars.max(1) as f64
}

/// Bytes a bar.
pub(crate) fn bytes(bytes: u64, bars: u64) -> f64 {
    bytes as f64 / bars.max(1) as f64
}

/// One figure in all rounds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figure(Vec<f64>);

impl Figure {
    pub(crate) fn add(&mut self, round: f64) {
        self.0.push(round);
    }

    /// The middle one; the upper one of two.
    pub(crate) fn median(&self) -> f64 {
        let sorted = self.sorted();
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// `median (least to most)`.
    pub(crate) fn with_spread(&self) -> String {
        let sorted = self.sorted();
        let (Some(least), Some(most)) = (sorted.first(), sorted.last()) else {
            return String::new();
        };
        format!(
            "{} ({}-{})",
            short(self.median()),
            short(*least),
            short(*most)
        )
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            return Ok(());
        }
        f.write_str(&short(self.median()))
    }
}

/// Two significant digits below ten, whole numbers above.
fn short(value: f64) -> String {
    match value {
        value if value >= 10.0 => format!("{value:.0}"),
        value if value >= 1.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_its_median_with_least_and_most() {
        let mut figure = Figure::default();
        assert_eq!(figure.with_spread(), "");
        for round in [12.4, 0.5, 3.25] {
            figure.add(round);
        }
        assert_eq!(figure.to_string(), "3.2");
        assert_eq!(figure.with_spread(), "3.2 (0.50-12)");
    }

    #[test]
    fn this_process_has_spent_time_and_a_process_that_is_not_there_is_an_error() {
        assert!(Cpu::now(&[]).is_ok_and(|cpu| cpu.servers == Duration::ZERO));
        assert!(Cpu::now(&[i32::MAX]).is_err());
        assert!(bytes_written().is_ok());
    }
}
