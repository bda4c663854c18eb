//! A batch that the client cannot unpack.

use std::{sync::Arc, time::Duration};

use libtest_mimic::Failed;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tapeflow_dataflow::{JobConfig, JobError};
use tapeflow_log::kafka::KafkaConfig;
use tapeflow_protocol::{BarReader, LostRange};
use tapeflow_schemas::Secret;
use tapeflow_sinks::memory::MemoryStore;

use super::{
    append, block_on, connect, internal, make, open_to_all,
    topics::{checkpoint, job, run, run_as},
};

/// Records of the batch, and bytes of each: a few kilobytes when packed.
const RECORDS: usize = 3;
const BYTES: usize = 1_500_000;

/// A reader that unpacks two megabytes at most.
fn config(topic: &str) -> KafkaConfig {
    let settings = [
        ("fetch.max.bytes", "1000000"),
        ("receive.message.max.bytes", "2000000"),
    ];
    KafkaConfig {
        settings: settings
            .map(|(key, value)| (key.to_owned(), Secret::new(value)))
            .into(),
        ..open_to_all(topic)
    }
}

/// Appends one batch that unpacks beyond the limit.
fn append_large(topic: &str) -> Result<(), Failed> {
    let producer: BaseProducer = internal()
        .set("compression.type", "zstd")
        .set("linger.ms", "900")
        .set("message.max.bytes", "50000000")
        .set("batch.size", "50000000")
        .create()?;
    let payload = vec![0; BYTES];
    for _ in 0..RECORDS {
        let record = BaseRecord::<[u8], [u8]>::to(topic)
            .partition(0)
            .payload(&payload);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    Ok(producer.flush(Duration::from_secs(30))?)
}

pub(crate) fn too_large() -> Result<(), Failed> {
    for (topic, behind) in [("large", 2), ("large-at-the-end", 0)] {
        make(topic, &[])?;
        append(topic, 0)?;
        append_large(topic)?;
        (0..behind).try_for_each(|_| append(topic, 0))?;
        let store = Arc::new(MemoryStore::new());
        let skipping = |offset| JobConfig {
            skip_batches: vec![(0, offset)],
            ..job(true)
        };
        match run(connect(&config(topic))?, store.clone()) {
            Err(JobError::Failed(text)) => assert!(
                text.contains("partition 0: the batch at offset 1 cannot be read: topic large")
                    && text.contains("receive.message.max.bytes, which is 2000000")
                    && text.contains("--kafka-config-file")
                    && text.contains("--skip-batch 0:1"),
                "{text}"
            ),
            other => return Err(format!("{topic}: the batch is read: {other:?}").into()),
        }
        match run_as(connect(&config(topic))?, store.clone(), skipping(2)) {
            Err(error) => assert!(
                error.to_string().contains("begins at offset 1, not at 2"),
                "{error}"
            ),
            Ok(()) => return Err("a wrong place is taken".into()),
        }
        // With room for it, it is read, and naming it changes nothing.
        let roomy = Arc::new(MemoryStore::new());
        run_as(connect(&open_to_all(topic))?, roomy.clone(), skipping(1))?;
        assert_eq!(checkpoint(&*roomy)?.committed.cuts[0].lost, None);

        run_as(connect(&config(topic))?, store.clone(), skipping(1))?;
        run(connect(&config(topic))?, store.clone())?;
        let cut = &checkpoint(&*store)?.committed.cuts[0];
        let end = 1 + i64::try_from(RECORDS)?;
        let lost = LostRange { from: 1, to: end };
        assert_eq!((cut.next, cut.lost), (end + behind, Some(lost)), "{topic}");
        let dead_letters = block_on(store.dead_letters(100))?;
        let places: Vec<_> = dead_letters
            .iter()
            .map(|dead_letter| (dead_letter.offset, dead_letter.reason == "lost"))
            .collect();
        let mut wanted = vec![(0, false), (1, true)];
        wanted.extend((end..end + behind).map(|offset| (offset, false)));
        assert_eq!(places, wanted, "{topic}");
    }
    Ok(())
}
