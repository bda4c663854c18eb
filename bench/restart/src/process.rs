//! What the system says of a process: `/proc`.

use std::{fs, time::Duration};

/// Clock ticks a second in what the kernel tells programs: 100 on every Linux, whatever the kernel's own clock.
const TICKS_A_SECOND: u64 = 100;

/// Memory in use, and the most of it there has been, in kilobytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) now_kb: u64,
    pub(crate) peak_kb: u64,
}

/// The memory of a process; `None` of one that has ended.
pub(crate) fn memory(pid: u32) -> Option<Memory> {
    memory_of(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

fn memory_of(status: &str) -> Option<Memory> {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok());
    Some(Memory { now_kb: field("VmRSS")?, peak_kb: field("VmHWM")? })
}

/// The CPU time of a process, and whether it has ended: then the time stays there until its exit code is asked for.
pub(crate) fn cpu(pid: u32) -> Option<(Duration, bool)> {
    cpu_of(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn cpu_of(stat: &str) -> Option<(Duration, bool)> {
    // The name before this may hold anything; after it come the state, the third field, and so on.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
    Some((Duration::from_millis(ticks * 1_000 / TICKS_A_SECOND), *fields.first()? == "Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 500 0 0 0 150 25 0 0 20 0 1 0 100 8000000 300";
        assert_eq!(cpu_of(stat), Some((Duration::from_millis(1_750), false)));
        assert_eq!(cpu_of(&stat.replace(" S ", " Z ")), Some((Duration::from_millis(1_750), true)));
        assert_eq!(cpu_of("7 (x) S 1"), None);
        let status = "Name:\tx\nVmPeak:\t  900 kB\nVmHWM:\t  200 kB\nVmRSS:\t  100 kB\n";
        assert_eq!(memory_of(status), Some(Memory { now_kb: 100, peak_kb: 200 }));
        assert_eq!(memory_of("Name:\tx\nState:\tZ (zombie)\n"), None);
    }

    #[test]
    fn this_process_has_memory_and_time() {
        let own = memory(std::process::id()).expect("this is Linux");
        assert!(0 < own.now_kb && own.now_kb <= own.peak_kb);
        assert!(cpu(std::process::id()).is_some_and(|(_, ended)| !ended));
    }
}
