//! Topics that transactions write to: markers and aborted records have offsets and bring no record.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use libtest_mimic::Failed;
use rdkafka::{
    Offset as KafkaOffset, TopicPartitionList,
    admin::{AdminOptions, AlterConfig, ResourceSpecifier},
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::Message,
    producer::{BaseProducer, BaseRecord, Producer},
};
use tapeflow_dataflow::JobError;
use tapeflow_log::{Log, kafka::KafkaConfig};
use tapeflow_protocol::BarReader;
use tapeflow_sinks::memory::MemoryStore;

use super::{
    admin, append, block_on, connect, delete_below, internal, make, open_to_all,
    topics::{checkpoint, run, until},
};

const PATIENCE: Duration = Duration::from_secs(30);

fn transactional(id: &str) -> Result<BaseProducer, KafkaError> {
    let producer: BaseProducer = internal().set("transactional.id", id).create()?;
    producer.init_transactions(PATIENCE)?;
    Ok(producer)
}

/// Appends invalid records, which become dead letters, in an open transaction.
fn send(producer: &BaseProducer, topic: &str, partition: i32, count: usize) -> Result<(), Failed> {
    for _ in 0..count {
        let record = BaseRecord::<[u8], [u8]>::to(topic)
            .partition(partition)
            .payload(b"no record of ours");
        producer.send(record).map_err(|(error, _)| error)?;
    }
    Ok(producer.flush(PATIENCE)?)
}

fn committed(producer: &BaseProducer, topic: &str, count: usize) -> Result<(), Failed> {
    producer.begin_transaction()?;
    send(producer, topic, 0, count)?;
    Ok(producer.commit_transaction(PATIENCE)?)
}

fn aborted(producer: &BaseProducer, topic: &str, count: usize) -> Result<(), Failed> {
    producer.begin_transaction()?;
    send(producer, topic, 0, count)?;
    Ok(producer.abort_transaction(PATIENCE)?)
}

/// Runs a job to the end of the log, or fails after a minute: a job that waits for a record that
/// never comes has no end.
fn ends_within_a_minute(config: &KafkaConfig, store: &Arc<MemoryStore>) -> Result<(), Failed> {
    let (log, store) = (connect(config)?, Arc::clone(store));
    let ended = Arc::new(AtomicBool::new(false));
    let job = std::thread::spawn({
        let ended = Arc::clone(&ended);
        move || {
            let ran = run(log, store);
            ended.store(true, Ordering::Release);
            ran
        }
    });
    until("the job ends", || Ok(ended.load(Ordering::Acquire)))?;
    Ok(job.join().map_err(|_| "the job panicked")??)
}

fn next(store: &MemoryStore) -> Result<i64, Failed> {
    Ok(checkpoint(store)?.committed.cuts[0].next)
}

pub(crate) fn bounds() -> Result<(), Failed> {
    make("bounds", &[])?;
    append("bounds", 1)?;
    append("bounds", 1)?;
    delete_below("bounds", 1, 1)?;
    let producer = transactional("bounds")?;
    producer.begin_transaction()?;
    send(&producer, "bounds", 0, 3)?;
    let log = connect(&open_to_all("bounds"))?;
    let each = |log: &dyn Log| -> Result<_, Failed> { Ok(vec![log.bounds(1)?, log.bounds(0)?]) };
    assert_eq!(
        log.bounds_of(&[1, 0])?,
        [1..2, 0..0],
        "open: nothing to read yet"
    );
    assert_eq!(log.bounds_of(&[1, 0])?, each(&log)?);
    producer.commit_transaction(PATIENCE)?;
    until("the marker is written", || Ok(log.bounds(0)?.end == 4))?;
    assert_eq!(log.bounds_of(&[1, 0])?, [1..2, 0..4]);
    assert_eq!(log.bounds_of(&[])?, []);
    assert!(log.bounds_of(&[0, 7]).is_err(), "no such partition");
    Ok(())
}

pub(crate) fn ends() -> Result<(), Failed> {
    make("markers", &[])?;
    let producer = transactional("markers")?;
    committed(&producer, "markers", 3)?;
    aborted(&producer, "markers", 2)?;
    append("markers", 0)?;
    committed(&producer, "markers", 1)?;
    // 0 1 2 c | 4 5 a | 7 | 8 c
    let (config, store) = (open_to_all("markers"), Arc::new(MemoryStore::new()));
    ends_within_a_minute(&config, &store)?;
    assert_eq!(next(&store)?, 10, "behind the last marker");
    let read: Vec<i64> = block_on(store.dead_letters(100))?
        .iter()
        .map(|dead_letter| dead_letter.offset)
        .collect();
    assert_eq!(read, [0, 1, 2, 7, 8]);
    delete_below("markers", 0, 10)?;
    ends_within_a_minute(&config, &store)?;
    // A transaction of which nothing is left but the marker.
    aborted(&producer, "markers", 1)?;
    ends_within_a_minute(&config, &store)?;
    assert_eq!(next(&store)?, 12);
    delete_below("markers", 0, 12)?;
    ends_within_a_minute(&config, &store)?;
    assert_eq!(block_on(store.dead_letters(100))?.len(), 5);
    Ok(())
}

pub(crate) fn follows() -> Result<(), Failed> {
    make("followed", &[])?;
    append("followed", 0)?;
    let (store, stop) = (
        Arc::new(MemoryStore::new()),
        tapeflow_dataflow::Stop::default(),
    );
    let job = std::thread::spawn({
        let (log, store, stop) = (
            connect(&open_to_all("followed"))?,
            store.clone(),
            stop.clone(),
        );
        move || super::topics::run_until_stopped(log, store, stop)
    });
    let at = |offset: i64| {
        let store = store.clone();
        move || {
            let found = block_on(tapeflow_protocol::CheckpointStore::checkpoint(&*store))?;
            Ok(found.is_some_and(|found| found.committed.cuts[0].next == offset))
        }
    };
    until("the record is committed", at(1))?;
    let producer = transactional("followed")?;
    aborted(&producer, "followed", 2)?;
    until("the aborted records and their marker are passed", at(4))?;
    stop.request();
    job.join().map_err(|_| "the job panicked")??;
    delete_below("followed", 0, 4)?;
    ends_within_a_minute(&open_to_all("followed"), &store)
}

pub(crate) fn many() -> Result<(), Failed> {
    const TRANSACTIONS: usize = 1_500;
    make("many", &[])?;
    let producer = transactional("many")?;
    for n in 0..TRANSACTIONS {
        if n % 5 == 4 {
            aborted(&producer, "many", 1)?;
        } else {
            committed(&producer, "many", 1)?;
        }
    }
    let store = Arc::new(MemoryStore::new());
    let begun = Instant::now();
    run(connect(&open_to_all("many"))?, store.clone())?;
    eprintln!(
        "{TRANSACTIONS} transactions of a record each: read and proven in {} ms",
        begun.elapsed().as_millis()
    );
    assert_eq!(next(&store)?, i64::try_from(2 * TRANSACTIONS)?);
    let read: Vec<i64> = block_on(store.dead_letters(10_000))?
        .iter()
        .map(|dead_letter| dead_letter.offset)
        .collect();
    let wanted: Vec<i64> = (0..i64::try_from(TRANSACTIONS)?)
        .filter(|n| n % 5 != 4)
        .map(|n| 2 * n)
        .collect();
    assert_eq!(read, wanted);
    Ok(())
}

/// Compaction makes holes. Here it has run before the topic was set to `delete`.
pub(crate) fn hole() -> Result<(), Failed> {
    make(
        "holes",
        &[
            ("cleanup.policy", "compact"),
            ("min.cleanable.dirty.ratio", "0.01"),
            ("segment.bytes", "1048576"),
            ("segment.ms", "100"),
            ("max.compaction.lag.ms", "100"),
            ("delete.retention.ms", "100"),
        ],
    )?;
    let send = |key: &str| -> Result<(), Failed> {
        let producer: BaseProducer = internal().create()?;
        let record = BaseRecord::to("holes").partition(0).key(key).payload("x");
        producer.send(record).map_err(|(error, _)| error)?;
        Ok(producer.flush(PATIENCE)?)
    };
    let mut keys = (0..).map(|n| format!("another {n}"));
    for key in ["first", "same", "same", "same", "last"] {
        send(key)?;
    }
    // Rolls the segment now and then, so that it can be compacted.
    until("the topic is compacted", || {
        send(&keys.next().unwrap_or_default())?;
        Ok(!offsets("holes")?.contains(&1))
    })?;
    let policy =
        AlterConfig::new(ResourceSpecifier::Topic("holes")).set("cleanup.policy", "delete");
    block_on(admin().alter_configs([&policy], &AdminOptions::new()))?
        .into_iter()
        .try_for_each(|altered| altered.map(drop))
        .map_err(|(_, code)| code.to_string())?;
    let log = {
        let mut connected = None;
        until("the broker knows the new policy", || {
            connected = connect(&open_to_all("holes")).ok();
            Ok(connected.is_some())
        })?;
        connected.ok_or("connected")?
    };
    let store = Arc::new(MemoryStore::new());
    match run(log, store.clone()) {
        Err(JobError::Log(error)) => {
            let text = error.to_string();
            assert!(
                text.contains("topic holes partition 0: offsets 1 to ")
                    && text.contains("brought no record")
                    && text.contains("the log has nothing at offset 1"),
                "{text}"
            );
        }
        other => return Err(format!("the hole is passed over: {other:?}").into()),
    }
    assert_eq!(next(&store)?, 0, "nothing is bound");
    Ok(())
}

/// The offsets of partition 0 that have a record.
fn offsets(topic: &str) -> Result<Vec<i64>, Failed> {
    let consumer: BaseConsumer = internal()
        .set("group.id", "test")
        .set("enable.partition.eof", "true")
        .create()?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, KafkaOffset::Beginning)?;
    consumer.assign(&list)?;
    let mut offsets = Vec::new();
    loop {
        match consumer.poll(PATIENCE) {
            Some(Ok(message)) => offsets.push(message.offset()),
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(offsets),
            Some(Err(error)) => return Err(error.into()),
            None => return Err("no end".into()),
        }
    }
}
