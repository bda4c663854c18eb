//! CPU time and memory of processes, from `/proc`.

use std::time::Duration;

use procfs::{
    CurrentSI, KernelStats,
    process::{Process, Stat, Status},
};

/// Resident memory in kilobytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Now.
    pub now_kb: u64,
    /// The largest so far.
    pub peak_kb: u64,
}

/// The memory of a process; none if it has ended.
#[must_use]
pub fn memory(pid: u32) -> Option<Memory> {
    memory_of(&process(pid)?.status().ok()?)
}

fn memory_of(status: &Status) -> Option<Memory> {
    Some(Memory {
        now_kb: status.vmrss?,
        peak_kb: status.vmhwm?,
    })
}

/// The CPU time of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// In its own code.
    pub user: Duration,
    /// In the kernel, on its behalf.
    pub system: Duration,
}

impl Cpu {
    /// User and system time.
    #[must_use]
    pub fn total(self) -> Duration {
        self.user + self.system
    }
}

impl std::ops::Add for Cpu {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            user: self.user + other.user,
            system: self.system + other.system,
        }
    }
}

/// The time that all processors together have worked since the machine started: without idle time
/// and without waiting for I/O.
#[must_use]
pub fn machine() -> Option<Duration> {
    let total = KernelStats::current().ok()?.total;
    let work = total.user_duration() + total.nice_duration() + total.system_duration();
    Some(work + total.irq_duration()? + total.softirq_duration()?)
}

/// The CPU time of a process, and whether it has ended. `/proc` keeps the time of an ended process
/// until its exit code is read.
#[must_use]
pub fn cpu(pid: u32) -> Option<(Cpu, bool)> {
    let stat = process(pid)?.stat().ok()?;
    Some(cpu_of(&stat, procfs::ticks_per_second()))
}

fn cpu_of(stat: &Stat, ticks_per_second: u64) -> (Cpu, bool) {
    let time = |ticks: u64| Duration::from_millis(ticks * 1_000 / ticks_per_second.max(1));
    let cpu = Cpu {
        user: time(stat.utime),
        system: time(stat.stime),
    };
    (cpu, stat.state == 'Z')
}

fn process(pid: u32) -> Option<Process> {
    Process::new(i32::try_from(pid).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use procfs::FromRead;

    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let text = "7 (a) b) S 1 7 7 0 -1 4194560 500 0 0 0 150 25 0 0 20 0 1 0 100 8000000 300 \
                    18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 17 0 0 0 0 0 0 0 0 0 0 0 0 0 0";
        let spent = Cpu {
            user: Duration::from_millis(1_500),
            system: Duration::from_millis(250),
        };
        let read = |text: &str| {
            let stat = Stat::from_read(text.as_bytes()).expect("a line of /proc/7/stat");
            cpu_of(&stat, 100)
        };
        assert_eq!(spent.total(), Duration::from_millis(1_750));
        assert_eq!(read(text), (spent, false));
        assert_eq!(read(&text.replace(" S ", " Z ")), (spent, true));
        assert!(Stat::from_read("7 (x) S 1".as_bytes()).is_err());
    }

    #[test]
    fn this_process_has_memory_and_time() {
        let own = memory(std::process::id()).expect("this is Linux");
        assert!(0 < own.now_kb && own.now_kb <= own.peak_kb);
        assert!(cpu(std::process::id()).is_some_and(|(_, ended)| !ended));
        assert!(machine() > Some(Duration::ZERO));
    }

    #[test]
    fn a_process_that_has_ended_has_no_memory() {
        // Larger than any process id of Linux.
        assert_eq!(memory(u32::MAX), None);
        assert_eq!(cpu(4_194_305), None);
    }
}
