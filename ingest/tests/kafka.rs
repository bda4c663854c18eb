//! The Kafka writer against the mock brokers of librdkafka: a real client and real sockets, without
//! a server. Tests that need a real broker are in `tests/servers.rs`.

mod common;

use std::{collections::BTreeMap, io::Write, time::Duration};

use common::{Decoded, MemoryLog, run_replay};
use rdkafka::{
    ClientConfig, Message, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    mocking::MockCluster,
    producer::DefaultProducerContext,
};
use tapeflow_ingest::{
    Differing, Progress, ReplayConfig, Speed,
    simulator::{FeedFile, write_feed},
};
use tapeflow_log::{
    LogWriter, NewRecord,
    kafka::{KafkaConfig, KafkaWriter},
};
use tapeflow_schemas::{
    Secret, SessionId,
    codec::{self, BatchHeader, encode_batch},
};
use tokio_util::sync::CancellationToken;

const TOPIC: &str = "market";
const PARTITIONS: i32 = 3;

fn cluster() -> MockCluster<'static, DefaultProducerContext> {
    let cluster = MockCluster::new(1).expect("mock brokers");
    cluster.create_topic(TOPIC, PARTITIONS, 1).expect("a topic");
    cluster
}

fn config(brokers: String) -> KafkaConfig {
    KafkaConfig::new(brokers, TOPIC)
}

fn recording(trades: u64) -> (tempfile::NamedTempFile, ReplayConfig) {
    let mut bytes = Vec::new();
    write_feed(
        &mut bytes,
        &FeedFile {
            trades,
            symbols: 50,
            ..FeedFile::default()
        },
    )
    .expect("written");
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(&bytes).expect("written");
    let config = ReplayConfig {
        path: file.path().to_owned(),
        speed: Speed::Max,
        source: "replay".into(),
        differing: Differing::Refuse,
    };
    (file, config)
}

fn stop() -> CancellationToken {
    CancellationToken::new()
}

/// All records of the topic, by partition, in order.
fn topic(brokers: &str) -> BTreeMap<i32, Vec<NewRecord>> {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", brokers)
        .set("group.id", "test")
        .set("enable.partition.eof", "true")
        .set("enable.auto.commit", "false");
    let consumer: BaseConsumer = client.create().expect("a consumer");
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(TOPIC, partition, rdkafka::Offset::Beginning)
            .expect("added");
    }
    consumer.assign(&list).expect("assigned");
    let (mut records, mut ended) = (BTreeMap::<i32, Vec<NewRecord>>::new(), 0);
    while ended < PARTITIONS {
        match consumer
            .poll(Duration::from_secs(30))
            .expect("records or ends")
        {
            Ok(message) => records
                .entry(message.partition())
                .or_default()
                .push(NewRecord {
                    partition: u32::try_from(message.partition()).expect("small"),
                    key: String::from_utf8(message.key().unwrap_or_default().to_vec())
                        .expect("text"),
                    timestamp_ms: message.timestamp().to_millis().expect("a time"),
                    payload: message.payload().expect("a payload").to_vec(),
                    session: session_of(message.payload().expect("a payload")),
                }),
            Err(KafkaError::PartitionEOF(_)) => ended += 1,
            Err(error) => panic!("{error}"),
        }
    }
    records
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_into_kafka_is_appended_in_order_and_a_second_run_adds_nothing() {
    let cluster = cluster();
    let (_file, replay) = recording(3_000);
    let mut writer = KafkaWriter::connect(config(cluster.bootstrap_servers()))
        .await
        .expect("connected");
    assert_eq!(writer.partitions(), 3);
    let first = run_replay(&replay, &mut writer, stop(), &Progress::default())
        .await
        .expect("replayed");

    let memory = MemoryLog::new(3);
    run_replay(&replay, &mut memory.clone(), stop(), &Progress::default())
        .await
        .expect("replayed");
    let found = topic(&cluster.bootstrap_servers());
    for partition in 0..3 {
        let want: Vec<Decoded> = memory
            .records()
            .iter()
            .filter(|record| record.partition == partition)
            .map(Decoded::of)
            .collect();
        let have = &found[&i32::try_from(partition).expect("small")];
        assert_eq!(
            have.iter().map(Decoded::of).collect::<Vec<_>>(),
            want,
            "partition {partition}"
        );
        assert!(
            have.iter()
                .all(|record| record.timestamp_ms > 1_700_000_000_000)
        );
    }

    let mut writer = KafkaWriter::connect(config(cluster.bootstrap_servers()))
        .await
        .expect("connected");
    let second = run_replay(&replay, &mut writer, stop(), &Progress::default())
        .await
        .expect("replayed");
    assert_eq!(
        (second.counts.records, second.counts.records_resumed),
        (0, first.counts.records)
    );
    assert_eq!(topic(&cluster.bootstrap_servers()), found);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_sequence_is_found_behind_thousands_of_other_records() {
    let cluster = cluster();
    let (_early_file, early) = recording(300);
    let (_late_file, late) = recording(9_000);
    let mut writer = KafkaWriter::connect(config(cluster.bootstrap_servers()))
        .await
        .expect("connected");
    let summary = run_replay(&early, &mut writer, stop(), &Progress::default())
        .await
        .expect("replayed");
    run_replay(&late, &mut writer, stop(), &Progress::default())
        .await
        .expect("replayed");
    let last = writer.last_sequences(summary.session).await.expect("found");
    assert_eq!(last.iter().sum::<u64>(), summary.counts.records);
    assert_eq!(
        writer
            .last_sequences(SessionId([9; 16]))
            .await
            .expect("found"),
        [0, 0, 0]
    );
}

/// The mock brokers make no topic for an index of sessions.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_index_the_same_recording_is_searched_for_and_a_grown_one_is_new() {
    let cluster = cluster();
    let (mut file, replay) = recording(300);
    let mut runs = Vec::new();
    for grown in [false, false, true] {
        if grown {
            let frame = r#"{"type":"trade","data":[{"s":"A","p":1,"t":1,"v":1}]}"#;
            writeln!(file, "{frame}").expect("written");
        }
        let mut writer = KafkaWriter::connect(config(cluster.bootstrap_servers()))
            .await
            .expect("connected");
        let run = run_replay(&replay, &mut writer, stop(), &Progress::default()).await;
        let counts = run.expect("replayed").counts;
        runs.push((counts.records, counts.records_resumed));
    }
    let (first, _) = runs[0];
    assert_eq!(runs, [(first, 0), (0, first), (first + 1, 0)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_queue_makes_the_feed_wait_and_loses_nothing() {
    let cluster = cluster();
    let (_file, replay) = recording(3_000);
    let mut config = config(cluster.bootstrap_servers());
    config
        .settings
        .push(("queue.buffering.max.messages".into(), Secret::new("10")));
    let mut writer = KafkaWriter::connect(config).await.expect("connected");
    let summary = run_replay(&replay, &mut writer, stop(), &Progress::default())
        .await
        .expect("replayed");
    let found: usize = topic(&cluster.bootstrap_servers())
        .values()
        .map(Vec::len)
        .sum();
    assert_eq!(u64::try_from(found).expect("small"), summary.counts.records);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_writer_waits_for_a_broker_that_is_down() {
    let cluster = cluster();
    let mut writer = KafkaWriter::connect(config(cluster.bootstrap_servers()))
        .await
        .expect("connected");
    let (memory, (_file, replay)) = (MemoryLog::new(3), recording(500));
    run_replay(&replay, &mut memory.clone(), stop(), &Progress::default())
        .await
        .expect("replayed");
    let records = memory.records();
    writer
        .append(records[..1].to_vec())
        .await
        .expect("accepted");
    writer.flush().await.expect("durable");
    cluster.broker_down(1).expect("down");
    writer
        .append(records[1..].to_vec())
        .await
        .expect("accepted");
    assert!(
        tokio::time::timeout(Duration::from_millis(300), writer.flush())
            .await
            .is_err(),
        "nothing is durable without a broker"
    );
    cluster.broker_up(1).expect("up");
    tokio::time::timeout(Duration::from_secs(60), writer.flush())
        .await
        .expect("the flush ends within a minute")
        .expect("durable");
    let found = topic(&cluster.bootstrap_servers());
    for partition in 0..3 {
        let want: Vec<NewRecord> = records
            .iter()
            .filter(|record| record.partition == partition)
            .cloned()
            .collect();
        assert_eq!(
            found[&i32::try_from(partition).expect("small")],
            want,
            "once each, in order"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_topic_and_a_wrong_setting_are_named_without_secrets() {
    let cluster = MockCluster::new(1).expect("mock brokers");
    cluster
        .topic_error(
            "elsewhere",
            rdkafka::types::RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
        )
        .expect("set");
    let error = |config| async move {
        KafkaWriter::connect(config)
            .await
            .expect_err("refused")
            .to_string()
    };
    let text = error(KafkaConfig {
        topic: "elsewhere".into(),
        ..config(cluster.bootstrap_servers())
    })
    .await;
    assert!(
        text.contains("there is no topic \"elsewhere\"") && text.contains("tapeflow init"),
        "{text}"
    );
    let wrong = KafkaConfig {
        settings: vec![
            ("sasl.mechanism".into(), Secret::new("hunter2")),
            ("no.such".into(), Secret::new("hunter2")),
        ],
        ..config(cluster.bootstrap_servers())
    };
    let debug = format!("{wrong:?}");
    let text = error(wrong).await;
    assert!(
        text.contains("no.such") && !text.contains("hunter2") && !debug.contains("hunter2"),
        "{text} {debug}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_session_of_a_producer_is_found_among_those_of_others() {
    const BEGIN_MS: i64 = 1_700_000_000_000;
    let cluster = cluster();
    let mut writer = KafkaWriter::connect(config(cluster.bootstrap_servers()))
        .await
        .expect("connected");
    assert_eq!(writer.last_session("a").await.expect("asked"), None);
    let session = SessionId::of_producer;
    // One partition has no record of the newest session, and many of another producer at its end.
    let all = [
        (0, session("a", 1), 1..=5, 0),
        (1, session("a", 1), 1..=7, 0),
        (0, session("a", 2), 1..=3, 100_000),
        (2, session("a", 2), 1..=900, 200_000),
        (0, session("b", 1), 1..=2_000, 300_000),
    ];
    for (partition, session, sequences, after_ms) in all {
        let record = |sequence: u64| {
            let taken_ms = BEGIN_MS + after_ms + i64::try_from(sequence).expect("small");
            let mut payload = Vec::new();
            let header = BatchHeader {
                symbol: "AAPL",
                source: "test",
                session,
                sequence,
                taken_ms,
            };
            encode_batch(&mut payload, &header, &[]);
            NewRecord {
                partition,
                key: String::new(),
                timestamp_ms: taken_ms,
                payload,
                session: Some((session, sequence)),
            }
        };
        let records = sequences.map(record).collect();
        writer.append(records).await.expect("appended");
    }
    writer.flush().await.expect("durable");
    let found = writer.last_session("a").await.expect("asked");
    let found = found.expect("there is one");
    assert_eq!(
        (found.session, found.last),
        (session("a", 2), vec![3, 0, 900])
    );
    // A second before its newest record: records of one flush reach partitions in any order.
    assert_eq!(found.until_ms, BEGIN_MS + 200_900 - 1_000);
    assert_eq!(writer.last_session("c").await.expect("asked"), None);
}

/// The session and sequence in the bytes of a record.
fn session_of(payload: &[u8]) -> Option<(SessionId, u64)> {
    codec::decode(payload, &mut Vec::new())
        .expect("a record")
        .identity()
}
