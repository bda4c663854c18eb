//! What `/proc` reports of this process.

use std::time::Duration;

/// The resources that the process uses.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ProcessStats {
    /// CPU time since the start, user and system.
    pub(super) cpu: Option<Duration>,
    /// Resident memory in bytes.
    pub(super) resident_bytes: Option<u64>,
    /// Open files and sockets.
    pub(super) open_files: Option<u64>,
}

impl ProcessStats {
    /// The current values; none for those that cannot be read, as in a container without `/proc`.
    pub(super) fn now() -> Self {
        let Ok(own) = procfs::process::Process::myself() else {
            return Self::default();
        };
        let ticks = own.stat().ok().map(|stat| stat.utime + stat.stime);
        let pages = own.statm().ok().map(|memory| memory.resident);
        let files = own.fd_count().ok();
        Self {
            cpu: ticks.map(|ticks| {
                let millis = ticks.saturating_mul(1_000) / procfs::ticks_per_second().max(1);
                Duration::from_millis(millis)
            }),
            resident_bytes: pages.map(|pages| pages.saturating_mul(procfs::page_size())),
            // Without the one that `own` holds.
            open_files: files.map(|files| (files as u64).saturating_sub(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_cpu_time_memory_and_open_files() {
        let cpu = || ProcessStats::now().cpu.expect("there is /proc");
        let before = cpu();
        let mut sum = 0u64;
        // CPU time advances in ticks of 10 ms: work until it has moved.
        while cpu() == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let now = ProcessStats::now();
        assert!(now.cpu > Some(before));
        assert!(now.resident_bytes > Some(1_000_000));
        assert!(now.open_files >= Some(3));
    }
}
