//! Places in the protocol where a test may end the process, as a crash there would:
//! `TAPEFLOW_FAILPOINT=NAME:N` ends it when it comes to the place of that name for the Nth time.
//! `tests/chaos` does so.
//!
//! And a wrong clock, which no test can give the machine: `TAPEFLOW_CLOCK_OFFSET_S=SECONDS` puts
//! the job's clock ahead, or behind.
//!
//! Only with the feature `failpoints`; without it [`reach`] is nothing, and the clock is the
//! machine's.

/// The places, in the order in which an epoch comes past them; those of the take-over and the
/// replay first.
pub const NAMES: [&str; 16] = [
    "take-over-before",
    "take-over-after",
    "replay-release",
    "bind-before",
    "bind-after",
    "release-before",
    "release-after",
    "fold-emit",
    "bars-before",
    "views-before",
    "write-acknowledged",
    "write-heard",
    "history-written",
    "commit-before",
    "commit-after",
    "committed-heard",
];

/// Ends the process without any clean-up, if this is where it shall end.
#[cfg(feature = "failpoints")]
pub fn reach(name: &str) {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    };
    static WHERE: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static REACHED: AtomicU64 = AtomicU64::new(0);
    let wanted = WHERE.get_or_init(|| {
        let text = std::env::var("TAPEFLOW_FAILPOINT").ok()?;
        let wanted = text
            .split_once(':')
            .and_then(|(name, times)| Some((name.to_owned(), times.parse().ok()?)));
        // A place that does not exist would never be reached, and a test would believe that it was.
        let known = wanted.filter(|(name, _)| NAMES.contains(&name.as_str()));
        Some(known.unwrap_or_else(|| {
            panic!(
                "TAPEFLOW_FAILPOINT is {text:?}: give NAME:N with one of {}",
                NAMES.join(", ")
            )
        }))
    });
    if let Some((_, times)) = wanted.as_ref().filter(|(wanted, _)| wanted == name)
        && REACHED.fetch_add(1, Ordering::Relaxed) + 1 == *times
    {
        tracing::error!(name, times, "the failpoint is reached");
        std::process::abort();
    }
}

/// Nothing.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reach(_name: &str) {}

/// How far ahead of the machine's the job's clock is to be, in microseconds.
#[cfg(feature = "failpoints")]
#[must_use]
pub fn clock_offset_us() -> i64 {
    static OFFSET: std::sync::OnceLock<i64> = std::sync::OnceLock::new();
    *OFFSET.get_or_init(|| {
        let Ok(text) = std::env::var("TAPEFLOW_CLOCK_OFFSET_S") else {
            return 0;
        };
        let offset = text
            .parse()
            .ok()
            .and_then(|seconds: i64| seconds.checked_mul(1_000_000));
        offset.unwrap_or_else(|| panic!("TAPEFLOW_CLOCK_OFFSET_S is {text:?}: give whole seconds"))
    })
}

/// None.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
#[must_use]
pub fn clock_offset_us() -> i64 {
    0
}
