//! The live feed: some hundred trades a second that happen as they are sent, every other one of the
//! hot symbol. It continues whatever happens to the job.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tapeflow_throughput::{now_ms, topic::Topic};

use crate::{
    preload::{SPAN_MS, topic_at},
    records::Records,
};

/// How often records are sent.
const BEAT: Duration = Duration::from_millis(10);
/// How long records wait for others to travel with.
const LINGER: Duration = Duration::from_millis(2);
/// How late a late trade is: in the middle of what was preloaded, where windows have many bars.
const LATE_MS: i64 = SPAN_MS / 2;

/// A feed that runs.
pub(crate) struct Feed {
    stop: Arc<AtomicBool>,
    /// Late trades that were asked for and not sent.
    late: Arc<AtomicU32>,
    thread: Option<JoinHandle<Result<Records, String>>>,
}

impl Feed {
    /// Starts it: the generator continues where it ended.
    ///
    /// # Errors
    /// There is no client.
    pub(crate) fn start(
        brokers: &str,
        name: &str,
        records: Records,
        rate: u32,
    ) -> Result<Self, String> {
        let (topic, stop) = (
            Topic::new(&topic_at(brokers, name), LINGER).map_err(|error| error.to_string())?,
            Arc::new(AtomicBool::new(false)),
        );
        let (asked, late) = (Arc::clone(&stop), Arc::<AtomicU32>::default());
        let wanted = Arc::clone(&late);
        Ok(Self {
            stop,
            late,
            thread: Some(std::thread::spawn(move || {
                run(&topic, records, rate, &asked, &wanted)
            })),
        })
    }

    /// Sends a trade that is [`LATE_MS`] late, of another symbol each time.
    pub(crate) fn send_late(&self) {
        self.late.fetch_add(1, Ordering::AcqRel);
    }

    /// Ends it, when all of it is durable.
    ///
    /// # Errors
    /// What the topic said, if it failed.
    pub(crate) fn end(mut self) -> Result<Records, String> {
        self.stop.store(true, Ordering::Release);
        let ended = self.thread.take().map(JoinHandle::join);
        ended
            .ok_or("the feed has ended before")?
            .map_err(|_| "the feed panicked")?
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}

fn run(
    topic: &Topic,
    mut records: Records,
    rate: u32,
    stop: &AtomicBool,
    late: &AtomicU32,
) -> Result<Records, String> {
    let (begun, mut sent, others) = (
        Instant::now(),
        0u64,
        u64::try_from(records.symbols() - 1).map_err(|error| error.to_string())?,
    );
    while !stop.load(Ordering::Acquire) {
        let due = u64::try_from(begun.elapsed().as_micros() * u128::from(rate) / 1_000_000)
            .map_err(|error| error.to_string())?;
        while sent < due {
            let symbol = if sent.is_multiple_of(2) {
                0
            } else {
                1 + sent / 2 % others
            };
            let record = records.next(
                usize::try_from(symbol).map_err(|error| error.to_string())?,
                now_ms(),
            )?;
            topic.append(&record).map_err(|error| error.to_string())?;
            sent += 1;
        }
        for _ in 0..late.swap(0, Ordering::AcqRel) {
            let symbol = usize::try_from(1 + sent % others).map_err(|error| error.to_string())?;
            let record = records.next(symbol, now_ms() - LATE_MS)?;
            topic.append(&record).map_err(|error| error.to_string())?;
        }
        topic
            .hear(Duration::ZERO)
            .map_err(|error| error.to_string())?;
        std::thread::sleep(BEAT);
    }
    topic.flush().map_err(|error| error.to_string())?;
    Ok(records)
}
