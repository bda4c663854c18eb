//! The watermark and the allowed lateness: which trades count as late.
//!
//! The *watermark* of a partition is the largest event time of its accepted records. A trade is
//! *late* for a window if the window ended [`ALLOWED_LATENESS_MS`] or more before the watermark.
//! A late trade counts like any other; the bar's revision number increases.
//!
//! It differs from Flink's watermark:
//!
//! | | Flink | here |
//! |---|---|---|
//! | scope | an operator: the minimum over its inputs | one partition |
//! | driven by | records, and a clock for idle sources | records alone, never a clock |
//! | a window is final | when the watermark passes its end and the lateness | never |
//! | a late record | is dropped or goes to a side output | is added, and counts as a revision |
//!
//! No clock is involved, so that a replay of the same records marks the same trades as late. The
//! checkpoint stores the watermark of each partition in its cut. The take-over also uses the
//! largest watermark of all partitions: no bar can exist in a window that starts after it.

/// Milliseconds after its end in which a window still receives trades that do not count as late.
/// Trades are often late by seconds on this feed.
pub const ALLOWED_LATENESS_MS: i64 = 5_000;

/// Windows that end at this event time or before are late for a partition with this watermark.
/// `None`: the partition has no accepted record yet.
#[inline]
pub(crate) fn late_up_to(watermark_ms: Option<i64>) -> i64 {
    watermark_ms.map_or(i64::MIN, |watermark| watermark - ALLOWED_LATENESS_MS)
}
