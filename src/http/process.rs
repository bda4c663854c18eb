//! What the kernel knows of this process.

use std::{
    fs,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::param::{clock_ticks_per_second, page_size};

/// CPU time so far, user and system; none where there is no `/proc`.
pub(super) fn cpu() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything; the fields after it are numbers: state is the
    // third, utime the 14th, stime the 15th (proc(5)).
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let user: u64 = fields.nth(11)?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let per_second = clock_ticks_per_second().max(1);
    Some(Duration::from_millis(
        (user + system).saturating_mul(1_000) / per_second,
    ))
}

/// Memory in RAM, in bytes.
pub(super) fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages.saturating_mul(page_size() as u64))
}

/// Open files and connections.
pub(super) fn open_files() -> Option<u64> {
    // One of them is the folder that is being read.
    fs::read_dir("/proc/self/fd")
        .ok()
        .map(|entries| (entries.count() as u64).saturating_sub(1))
}

/// The moment `began` in seconds since 1970.
pub(super) fn unix_seconds(began: Instant) -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .saturating_sub(began.elapsed())
        .as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_of_this_process() {
        let before = cpu().expect("there is /proc");
        let begun = Instant::now();
        let mut sum = 0u64;
        // CPU time comes in ticks of 10 ms: work until it has moved.
        while cpu().expect("there is /proc") == before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        assert!(begun.elapsed() > Duration::ZERO);
        assert!(resident_bytes().expect("there is /proc") > 1_000_000);
        assert!(open_files().expect("there is /proc") >= 3);
    }
}
