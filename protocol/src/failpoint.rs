//! Failpoints: places in the protocol where a test ends the process like a crash.
//! `TAPEFLOW_FAILPOINT=NAME:N` ends it when it reaches the failpoint for the Nth time. `tests/chaos`
//! uses them.
//!
//! `TAPEFLOW_CLOCK_OFFSET_S=SECONDS` sets the job's clock ahead or behind, because a test cannot
//! change the machine's clock.
//!
//! Both need the feature `failpoints`. Without it [`reach`] does nothing, and the clock is the
//! machine's.

/// All failpoints, in the order in which an epoch reaches them; take-over and replay come first.
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

/// Aborts the process without clean-up if `TAPEFLOW_FAILPOINT` names this failpoint.
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
        // A misspelt failpoint would never be reached, and its test would pass without testing.
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
        tracing::error!(name, times, "failpoint reached: aborting");
        std::process::abort();
    }
}

/// Does nothing without the feature `failpoints`.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn reach(_name: &str) {}

/// The offset of the job's clock from the machine's, in microseconds.
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

/// Always 0 without the feature `failpoints`.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
#[must_use]
pub fn clock_offset_us() -> i64 {
    0
}
