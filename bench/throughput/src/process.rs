//! What the system says of a process: `/proc`.

use std::{fs, time::Duration};

/// Clock ticks a second in what the kernel tells programs: 100 on every Linux, whatever the
/// kernel's own clock.
const TICKS_A_SECOND: u64 = 100;

/// Memory in use, and the most of it there has been, in kilobytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Now.
    pub now_kb: u64,
    /// At most.
    pub peak_kb: u64,
}

/// The memory of a process; `None` of one that has ended.
#[must_use]
pub fn memory(pid: u32) -> Option<Memory> {
    memory_of(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

fn memory_of(status: &str) -> Option<Memory> {
    let field = |name: &str| {
        status.lines().find_map(|line| {
            line.strip_prefix(name)?
                .strip_prefix(':')?
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
    };
    Some(Memory {
        now_kb: field("VmRSS")?,
        peak_kb: field("VmHWM")?,
    })
}

/// CPU time: in the process's own code, and in the kernel on its behalf.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpu {
    /// In its own code.
    pub user: Duration,
    /// In the kernel.
    pub system: Duration,
}

impl Cpu {
    /// Both.
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

/// How long all processors together have worked since the machine was started.
#[must_use]
pub fn machine() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let fields: Vec<u64> = stat
        .lines()
        .next()?
        .split_whitespace()
        .skip(1)
        .filter_map(|field| field.parse().ok())
        .collect();
    // user, nice, system; then idle and waiting; then interrupts.
    let ticks: u64 = fields.iter().take(3).chain(fields.get(5..7)?).sum();
    Some(time(ticks))
}

fn time(ticks: u64) -> Duration {
    Duration::from_millis(ticks * 1_000 / TICKS_A_SECOND)
}

/// The CPU time of a process, and whether it has ended: then the time stays there until its exit
/// code is asked for.
#[must_use]
pub fn cpu(pid: u32) -> Option<(Cpu, bool)> {
    cpu_of(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn cpu_of(stat: &str) -> Option<(Cpu, bool)> {
    // The name before this may hold anything; after it come the state, the third field, and so on.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let of = |at: usize| fields.get(at)?.parse().ok().map(time);
    Some((
        Cpu {
            user: of(11)?,
            system: of(12)?,
        },
        *fields.first()? == "Z",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 500 0 0 0 150 25 0 0 20 0 1 0 100 8000000 300";
        let spent = Cpu {
            user: Duration::from_millis(1_500),
            system: Duration::from_millis(250),
        };
        assert_eq!(spent.total(), Duration::from_millis(1_750));
        assert_eq!(cpu_of(stat), Some((spent, false)));
        assert_eq!(cpu_of(&stat.replace(" S ", " Z ")), Some((spent, true)));
        assert_eq!(cpu_of("7 (x) S 1"), None);
        let status = "Name:\tx\nVmPeak:\t  900 kB\nVmHWM:\t  200 kB\nVmRSS:\t  100 kB\n";
        assert_eq!(
            memory_of(status),
            Some(Memory {
                now_kb: 100,
                peak_kb: 200
            })
        );
        assert_eq!(memory_of("Name:\tx\nState:\tZ (zombie)\n"), None);
    }

    #[test]
    fn this_process_has_memory_and_time() {
        let own = memory(std::process::id()).expect("this is Linux");
        assert!(0 < own.now_kb && own.now_kb <= own.peak_kb);
        assert!(cpu(std::process::id()).is_some_and(|(_, ended)| !ended));
        assert!(machine() > Some(Duration::ZERO));
    }
}
