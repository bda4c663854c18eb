//! Topics that break the guarantee, and topics that change while a job reads them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use libtest_mimic::Failed;
use tapeflow_dataflow::{JobConfig, JobError, Limits, Metrics, Stop};
use tapeflow_log::{
    Log,
    kafka::{KafkaConfig, KafkaLog, TopicFinding},
};
use tapeflow_protocol::{
    BarReader, CasOutcome, Checkpoint, CheckpointStore, LostRange, SourceIdentity,
};
use tapeflow_sinks::memory::MemoryStore;

use super::{
    INTERNAL_PORT, STACK, add_partitions, append, block_on, config, connect, delete, delete_below,
    group_offset, make, ours,
};

/// The finding for every topic here: one broker can hold one replica only.
const ONE_BROKER: TopicFinding = TopicFinding::Replication {
    replicas: 1,
    brokers: 1,
};

pub(crate) fn settings() -> Result<(), Failed> {
    make(
        "good",
        &[
            ("cleanup.policy", "delete"),
            ("retention.ms", "604800000"),
            ("message.timestamp.type", "LogAppendTime"),
        ],
    )?;
    assert_eq!(connect(&ours("good"))?.findings(), [ONE_BROKER]);

    make(
        "short",
        &[
            ("retention.ms", "3600000"),
            ("retention.bytes", "1048576"),
            ("unclean.leader.election.enable", "true"),
        ],
    )?;
    let expected = [
        ONE_BROKER,
        TopicFinding::RetentionTime { ms: 3_600_000 },
        TopicFinding::RetentionSize { bytes: 1_048_576 },
        TopicFinding::UncleanElection,
        TopicFinding::ProducerTime,
    ];
    assert_eq!(connect(&ours("short"))?.findings(), expected);

    for (topic, policy) in [("compacted", "compact"), ("partly", "compact,delete")] {
        make(topic, &[("cleanup.policy", policy)])?;
        let text = connect(&ours(topic))
            .err()
            .ok_or("a compacted topic is taken")?
            .to_string();
        assert!(
            text.contains("cleanup.policy=compact") && text.contains("cleanup.policy=delete"),
            "{text}"
        );
    }
    Ok(())
}

/// A user with the rights Read and Describe, without DescribeConfigs.
pub(crate) fn unseen() -> Result<(), Failed> {
    make("unseen", &[])?;
    let tool = [
        "AclCommand",
        "--bootstrap-server",
        &format!("127.0.0.1:{INTERNAL_PORT}"),
        "--add",
        "--force",
        "--allow-principal",
        "User:limited",
        "--operation",
        "Read",
        "--operation",
        "Describe",
        "--topic",
        "unseen",
    ];
    let output = STACK.command("kafka").args(tool).output()?;
    if !output.status.success() {
        return Err(format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        )
        .into());
    }
    let limited = config("unseen", "limited", "limited-development", "ca.pem");
    let log = connect(&limited)?;
    let texts: Vec<_> = log.findings().iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), 2, "{texts:?}");
    assert!(
        texts[1].starts_with("the settings of topic unseen could not be checked")
            && texts[1].contains("DescribeConfigs"),
        "{texts:?}"
    );
    assert_eq!(log.partitions()?, 2, "it can be read");
    assert!(log.identity()?.topic_id.is_some());
    // A topic without Describe is absent or refused for the user. It must not be read.
    assert!(KafkaLog::connect(config("good", "limited", "limited-development", "ca.pem")).is_err());
    Ok(())
}

pub(crate) fn created_again() -> Result<(), Failed> {
    make("again", &[])?;
    let log = connect(&ours("again"))?;
    let first = log.identity()?;
    assert_eq!(
        first.topic_id.as_ref().map(String::len),
        Some(22),
        "{first:?}"
    );
    assert_eq!(
        connect(&ours("again"))?.identity()?,
        first,
        "asked twice, the same"
    );
    let store = Arc::new(MemoryStore::new());
    run(log, store.clone())?;
    // A checkpoint without an id is taken over and gets the id.
    let old = Arc::new(MemoryStore::new());
    let mut checkpoint = checkpoint(&*store)?;
    assert_eq!(checkpoint.source, first);
    checkpoint.source.topic_id = None;
    assert!(matches!(
        block_on(old.compare_and_set(None, &checkpoint)),
        CasOutcome::Won
    ));
    run(connect(&ours("again"))?, old.clone())?;
    assert_eq!(self::checkpoint(&*old)?.source, first, "learned");

    delete("again")?;
    make("again", &[])?;
    let log = connect(&ours("again"))?;
    let second = other_than(&log, &first)?;
    assert_eq!(
        (&second.cluster, &second.topic),
        (&first.cluster, &first.topic),
        "nothing else tells them apart"
    );
    let before = self::checkpoint(&*store)?;
    match run(log, store.clone()) {
        Err(JobError::Refused(text)) => assert!(
            text.contains(first.topic_id.as_deref().unwrap_or("?")) && text.contains("--topic"),
            "{text}"
        ),
        other => return Err(format!("not refused: {other:?}").into()),
    }
    assert_eq!(self::checkpoint(&*store)?, before, "nothing was written");
    Ok(())
}

pub(crate) fn grown() -> Result<(), Failed> {
    make("grown", &[])?;
    let append = |partition: i32| append("grown", partition);
    append(0)?;
    let store = Arc::new(MemoryStore::new());
    let (log, running) = (connect(&ours("grown"))?, store.clone());
    let job = std::thread::spawn(move || run_until(log, running, false));
    until("the first record is committed", || {
        Ok(block_on(store.checkpoint())?
            .is_some_and(|checkpoint| checkpoint.committed.cuts[0].next == 1))
    })?;
    let committed = |partition: i32| group_offset("tapeflow", "grown", partition);
    until("the group offset is committed", || {
        Ok(committed(0)? == Some(1))
    })?;

    add_partitions("grown", 5)?;
    match job.join().map_err(|_| "the job panicked")? {
        Err(JobError::Failed(text)) => {
            assert!(text.contains("has 5 partitions now, and had 2"), "{text}")
        }
        other => return Err(format!("continues without the added partitions: {other:?}").into()),
    }
    append(4)?;
    let log = connect(&ours("grown"))?;
    run(log, store.clone())?;
    let checkpoint = checkpoint(&*store)?;
    assert_eq!(
        checkpoint
            .committed
            .cuts
            .iter()
            .map(|cut| cut.next)
            .collect::<Vec<_>>(),
        [1, 0, 0, 0, 1]
    );
    Ok(())
}

pub(crate) fn lost() -> Result<(), Failed> {
    make("lost", &[])?;
    let some =
        |partition: i32, count: usize| (0..count).try_for_each(|_| append("lost", partition));
    some(0, 3)?;
    some(1, 2)?;
    let store = Arc::new(MemoryStore::new());
    run(connect(&ours("lost"))?, store.clone())?;
    some(0, 5)?;
    some(1, 1)?;
    delete_below("lost", 0, 6)?;
    let before = checkpoint(&*store)?;
    match run(connect(&ours("lost"))?, store.clone()) {
        Err(JobError::Refused(text)) => {
            let named = "partition 0: offsets 3 to 5 are gone from the log (it begins at 6) before \
                         they were committed; ";
            assert!(
                text.starts_with(named) && text.contains("--accept-loss"),
                "{text}"
            );
        }
        other => return Err(format!("not refused: {other:?}").into()),
    }
    assert_eq!(checkpoint(&*store)?.committed, before.committed);
    // A reader that is open when records go.
    let mut reader = connect(&ours("lost"))?.reader(&[(0, 3)])?;
    let mut error = None;
    until("the reader reports that its offset is gone", || {
        error = reader
            .poll(10, &mut |record| panic!("offset {} is read", record.offset))
            .err();
        Ok(error.is_some())
    })?;
    let text = error.map(|error| error.to_string()).unwrap_or_default();
    assert!(
        text.contains("the next offset to read is gone from the log"),
        "{text}"
    );
    run_as(
        connect(&ours("lost"))?,
        store.clone(),
        JobConfig {
            accept_loss: true,
            ..job(true)
        },
    )?;
    let after = checkpoint(&*store)?;
    assert_eq!(
        after
            .committed
            .cuts
            .iter()
            .map(|cut| cut.next)
            .collect::<Vec<_>>(),
        [8, 3]
    );
    assert_eq!(
        after
            .committed
            .cuts
            .iter()
            .map(|cut| cut.lost)
            .collect::<Vec<_>>(),
        [Some(LostRange { from: 3, to: 6 }), None]
    );
    // Every record is a dead letter. The lost ones have one dead letter together.
    let dead_letters = block_on(store.dead_letters(100))?;
    let places: Vec<_> = dead_letters
        .iter()
        .map(|dead_letter| {
            (
                dead_letter.partition,
                dead_letter.offset,
                dead_letter.reason == "lost",
            )
        })
        .collect();
    assert_eq!(
        places,
        [
            (0, 0, false),
            (0, 1, false),
            (0, 2, false),
            (0, 3, true),
            (0, 6, false),
            (0, 7, false),
            (1, 0, false),
            (1, 1, false),
            (1, 2, false)
        ]
    );
    run(connect(&ours("lost"))?, store.clone())?;
    assert_eq!(
        block_on(store.dead_letters(100))?,
        dead_letters,
        "no dead letter is written twice"
    );
    Ok(())
}

/// Each job commits to the group of its name, as `tapeflow dataflow --job` sets it.
pub(crate) fn groups() -> Result<(), Failed> {
    make("shared", &[])?;
    let config = |group: &str| KafkaConfig {
        group: group.into(),
        ..ours("shared")
    };
    append("shared", 0)?;
    run(connect(&config("first"))?, Arc::new(MemoryStore::new()))?;
    append("shared", 0)?;
    run(connect(&config("second"))?, Arc::new(MemoryStore::new()))?;
    for (group, offset) in [("first", 1), ("second", 2)] {
        until("the group offset is committed", || {
            Ok(group_offset(group, "shared", 0)? == Some(offset))
        })?;
    }
    Ok(())
}

pub(crate) fn until(
    what: &str,
    mut happened: impl FnMut() -> Result<bool, Failed>,
) -> Result<(), Failed> {
    let begun = Instant::now();
    while !happened()? {
        if begun.elapsed() > Duration::from_secs(60) {
            return Err(format!("not within 60 s: {what}").into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// The identity of the log, once the broker knows the new topic.
fn other_than(log: &KafkaLog, first: &SourceIdentity) -> Result<SourceIdentity, Failed> {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(30) {
        match log.identity() {
            Ok(now) if now == *first => {}
            Ok(now) => return Ok(now),
            Err(error) if error.to_string().contains("there is no topic") => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err("the topic that was created again has the old id".into())
}

pub(crate) fn checkpoint(store: &dyn CheckpointStore) -> Result<Checkpoint, Failed> {
    block_on(store.checkpoint())?.ok_or_else(|| "no checkpoint".into())
}

/// Runs a job of one process to the end of the log.
pub(crate) fn run(log: KafkaLog, store: Arc<MemoryStore>) -> Result<(), JobError> {
    run_until(log, store, true)
}

fn run_until(log: KafkaLog, store: Arc<MemoryStore>, until_end: bool) -> Result<(), JobError> {
    run_as(log, store, job(until_end))
}

pub(crate) fn job(until_end: bool) -> JobConfig {
    JobConfig {
        job: "again".into(),
        workers: 1,
        processes: 1,
        process: 0,
        hosts: Vec::new(),
        secret: None,
        sizes: vec!["1m".parse().expect("a size")],
        horizons: tapeflow_schemas::Horizons::NONE,
        baskets: tapeflow_schemas::Baskets::default(),
        epoch: Duration::from_millis(10),
        resident_bars: 8,
        most_ranked: 12,
        until_end,
        accept_loss: false,
        skip_batches: Vec::new(),
        limits: Limits::default(),
    }
}

/// Runs a job of one process until it is asked to stop.
pub(crate) fn run_until_stopped(
    log: KafkaLog,
    store: Arc<MemoryStore>,
    stop: Stop,
) -> Result<(), JobError> {
    run_with(log, store, job(false), stop)
}

pub(crate) fn run_as(
    log: KafkaLog,
    store: Arc<MemoryStore>,
    config: JobConfig,
) -> Result<(), JobError> {
    run_with(log, store, config, Stop::default())
}

fn run_with(
    log: KafkaLog,
    store: Arc<MemoryStore>,
    config: JobConfig,
    stop: Stop,
) -> Result<(), JobError> {
    let io = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    tapeflow_dataflow::run(
        config,
        Arc::new(log),
        store,
        stop,
        Arc::new(()),
        Arc::new(Metrics::default()),
        io.handle(),
    )
    .map(drop)
}
