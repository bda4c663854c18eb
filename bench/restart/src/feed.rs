//! The live feed: some hundred trades a second that happen as they are sent, every other one of the
//! hot symbol. It continues whatever happens to the job.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tapeflow_throughput::{now_ms, topic::Topic};

use crate::{preload::topic_at, records::Records};

/// How often records are sent.
const BEAT: Duration = Duration::from_millis(10);
/// How long records wait for others to travel with.
const LINGER: Duration = Duration::from_millis(2);

/// A feed that runs.
pub(crate) struct Feed {
    stop: Arc<AtomicBool>,
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
        let asked = Arc::clone(&stop);
        Ok(Self {
            stop,
            thread: Some(std::thread::spawn(move || {
                run(&topic, records, rate, &asked)
            })),
        })
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
        topic
            .hear(Duration::ZERO)
            .map_err(|error| error.to_string())?;
        std::thread::sleep(BEAT);
    }
    topic.flush().map_err(|error| error.to_string())?;
    Ok(records)
}
