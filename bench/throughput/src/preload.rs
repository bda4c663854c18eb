//! Filling a log with a feed, before the job begins.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use tapeflow_feed::{Clock, Feed, Shape, Written};

use crate::{Error, bar::Bar, now_ms, target::Appender};

/// How long records wait for others to travel with.
pub const LINGER: Duration = Duration::from_millis(50);
/// Records between two looks at the time.
const STRETCH: u64 = 1_024;

/// Appends all of a feed; what it comes to, and how long that took.
///
/// # Errors
/// The log did not take it, or a person wants it to end.
pub fn preload(
    log: &mut Appender,
    shape: Shape,
    partitions: u32,
    asked: &AtomicBool,
) -> Result<(Written, Duration), Error> {
    let mut feed = Feed::new(shape, Clock::Tape, partitions)?;
    let (begun, mut bar, mut now, mut sent) = (
        Instant::now(),
        Bar::new("filling", shape.messages()),
        now_ms(),
        0u64,
    );
    while let Some(message) = feed.next(now)? {
        log.append(&message.record)?;
        sent += 1;
        if sent.is_multiple_of(STRETCH) {
            now = now_ms();
            log.hear()?;
            if asked.load(Ordering::Acquire) {
                return Err(Error::Interrupted);
            }
            if bar.is_due() {
                bar.show(sent - log.on_their_way().min(sent), "");
            }
        }
    }
    log.flush()?;
    Ok((feed.written(), begun.elapsed()))
}
