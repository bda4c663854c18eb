//! Filling a topic: so many trades, evenly over the last twenty minutes before now, so that bars
//! are few and the job is bound by trades.

use std::time::{Duration, Instant};

use tapeflow_log::kafka::KafkaConfig;
use tapeflow_throughput::{Error, now_ms, per_second, topic::Topic};

use crate::records::Records;

/// What event times spread over.
pub(crate) const SPAN_MS: i64 = 20 * 60_000;
/// How long records wait for others to travel with.
const LINGER: Duration = Duration::from_millis(50);
/// How often progress is printed.
const PROGRESS: Duration = Duration::from_secs(5);
/// Records between two looks at the time.
const STRETCH: u64 = 4_096;

/// A topic of the servers here.
pub(crate) fn topic_at(brokers: &str, name: &str) -> KafkaConfig {
    KafkaConfig::new(brokers, name)
}

/// Appends so many trades; how long that took.
///
/// # Errors
/// The topic did not take them all, each once.
pub(crate) fn preload(
    brokers: &str,
    name: &str,
    records: &mut Records,
    messages: u64,
) -> Result<Duration, String> {
    let failed = |error: Error| error.to_string();
    let address = topic_at(brokers, name);
    let topic = Topic::new(&address, LINGER).map_err(failed)?;
    let (begun, from_ms, symbols) = (Instant::now(), now_ms() - SPAN_MS, records.symbols());
    let (count, mut told) = (i128::from(messages), begun);
    for n in 0..messages {
        let event_ms = from_ms
            + i64::try_from(i128::from(n) * i128::from(SPAN_MS) / count)
                .map_err(|error| error.to_string())?;
        let symbol = usize::try_from(n).map_err(|error| error.to_string())? % symbols;
        topic
            .append(&records.next(symbol, event_ms)?)
            .map_err(failed)?;
        if n.is_multiple_of(STRETCH) {
            topic.hear(Duration::ZERO).map_err(failed)?;
            if told.elapsed() > PROGRESS {
                told = Instant::now();
                let done = n - topic.on_their_way().min(n);
                eprintln!(
                    "fill: {done} of {messages} messages, {:.0} a second",
                    per_second(done, begun.elapsed())
                );
            }
        }
    }
    topic.flush().map_err(failed)?;
    let took = begun.elapsed();
    let held: u64 = tapeflow_log::kafka::admin::record_counts(&address)
        .map_err(|error| error.to_string())?
        .iter()
        .sum();
    if held != messages {
        return Err(format!(
            "the topic holds {held} messages, and {messages} were appended"
        ));
    }
    eprintln!(
        "fill: {messages} messages in {:.1} s, {:.0} a second",
        took.as_secs_f64(),
        per_second(messages, took)
    );
    Ok(took)
}
