//! The log on a real Kafka with TLS and passwords. Valid credentials give access, and errors say
//! what is missing. Topic settings that break the guarantee are found, and a topic that was deleted
//! and created again is refused.
//!
//! Without java or mvn each test is listed as not run, with the reason. With
//! `TAPEFLOW_REQUIRE_STACK=1` it fails instead.

mod access;
mod replays;
mod topics;
mod transactions;
mod unreadable;

use std::{sync::OnceLock, time::Duration};

use libtest_mimic::{Arguments, Failed};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::RDKafkaErrorCode,
    producer::{BaseProducer, BaseRecord, Producer},
};
use tapeflow_log::{
    LogError,
    kafka::{KafkaConfig, KafkaLog},
};
use tapeflow_schemas::Secret;
use tapeflow_stack::{
    certificates::Certificates,
    servers::{self, Layout, Stack},
    trials,
};

/// The ports of this target, below the ephemeral range: TLS with password, controller, and a
/// listener without authentication.
const KAFKA_PORT: u16 = 25_092;
const INTERNAL_PORT: u16 = KAFKA_PORT + 2;

static STACK: Stack = Stack::new(Layout {
    name: "test-secure-log",
    arguments: &["--only", "kafka", "--secure"],
    ports: &[("KAFKA_PORT", KAFKA_PORT)],
});

static CERTIFICATES: OnceLock<Certificates> = OnceLock::new();

type Test = fn() -> Result<(), Failed>;

const TESTS: [(&str, Test); 18] = [
    (
        "with_authority_and_password_records_are_read",
        access::everything_right,
    ),
    ("a_wrong_password_is_refused", access::wrong_password),
    (
        "an_authority_that_did_not_sign_and_another_name_are_refused",
        access::wrong_authority,
    ),
    ("without_tls_the_text_says_so", access::no_tls),
    (
        "settings_that_break_the_guarantee_are_found_and_compaction_is_refused",
        topics::settings,
    ),
    (
        "settings_without_permission_to_read_them_are_reported",
        topics::unseen,
    ),
    (
        "a_topic_deleted_and_created_again_is_refused",
        topics::created_again,
    ),
    (
        "partitions_added_under_a_running_job_end_it_and_group_offsets_are_committed",
        topics::grown,
    ),
    (
        "records_deleted_before_they_were_committed_are_named_and_given_up_only_when_accepted",
        topics::lost,
    ),
    (
        "two_jobs_on_one_topic_show_their_lag_in_groups_of_their_own",
        topics::groups,
    ),
    (
        "the_bounds_of_all_partitions_are_those_of_each_also_with_an_open_transaction",
        transactions::bounds,
    ),
    (
        "a_job_ends_behind_markers_and_aborted_records_and_their_retention_is_no_loss",
        transactions::ends,
    ),
    (
        "a_running_job_binds_markers_that_follow_its_last_record",
        transactions::follows,
    ),
    (
        "a_thousand_transactions_are_read_exactly_and_each_jump_is_proven",
        transactions::many,
    ),
    (
        "a_hole_in_the_log_ends_the_job_with_its_offsets",
        transactions::hole,
    ),
    (
        "a_batch_that_unpacks_beyond_the_limit_is_named_and_left_out_only_when_named",
        unreadable::too_large,
    ),
    (
        "a_new_replay_searches_no_record_and_one_that_was_interrupted_only_the_last_ones",
        replays::search,
    ),
    (
        "recordings_are_noted_beside_their_sessions_and_found_by_their_beginning",
        replays::notes,
    ),
];

fn main() {
    let arguments = Arguments::from_args();
    let tests = TESTS.map(|(name, test)| (name, move || up().and_then(|()| test())));
    let conclusion = libtest_mimic::run(&arguments, trials::on_servers(&servers::wanted(), tests));
    STACK.stop();
    conclusion.exit();
}

/// The servers, with certificates made for this run.
fn up() -> Result<(), Failed> {
    STACK.up_with(|folder| {
        let made = Certificates::make()?;
        made.install(folder)?;
        CERTIFICATES
            .set(made)
            .map_err(|_| std::io::Error::other("a stack is prepared once"))
    })?;
    Ok(())
}

/// The configuration of a user who trusts the authority `ca`.
fn config(topic: &str, user: &str, password: &str, ca: &str) -> KafkaConfig {
    let ca = CERTIFICATES
        .get()
        .expect("made before any test")
        .file(ca)
        .to_str()
        .expect("a path in UTF-8")
        .to_owned();
    let settings = [
        ("security.protocol", "SASL_SSL"),
        ("ssl.ca.location", &ca),
        ("sasl.mechanism", "SCRAM-SHA-512"),
        ("sasl.username", user),
        ("sasl.password", password),
    ];
    let settings = settings
        .map(|(key, value)| (key.to_owned(), Secret::new(value)))
        .into();
    KafkaConfig {
        settings,
        ..KafkaConfig::new(format!("localhost:{KAFKA_PORT}"), topic)
    }
}

/// The configuration of the user with all rights.
fn ours(topic: &str) -> KafkaConfig {
    config(topic, "tapeflow", "tapeflow-development", "ca.pem")
}

/// The configuration of the listener without authentication.
fn open_to_all(topic: &str) -> KafkaConfig {
    KafkaConfig::new(format!("127.0.0.1:{INTERNAL_PORT}"), topic)
}

/// A client of the listener without authentication.
fn internal() -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", format!("127.0.0.1:{INTERNAL_PORT}"));
    client
}

fn admin() -> AdminClient<DefaultClientContext> {
    internal().create().expect("a client")
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

/// Creates a topic with two partitions.
fn make(topic: &str, settings: &[(&str, &str)]) -> Result<(), Failed> {
    let new = settings.iter().fold(
        NewTopic::new(topic, 2, TopicReplication::Fixed(1)),
        |new, (key, value)| new.set(key, value),
    );
    let made = block_on(admin().create_topics([&new], &AdminOptions::new()))?;
    let refused = made.into_iter().find_map(Result::err);
    match refused {
        Some((topic, code)) => Err(format!("{topic}: {code}").into()),
        None => Ok(()),
    }
}

fn delete(topic: &str) -> Result<(), Failed> {
    let deleted = block_on(admin().delete_topics(&[topic], &AdminOptions::new()))?;
    let refused: Option<(String, RDKafkaErrorCode)> = deleted.into_iter().find_map(Result::err);
    match refused {
        Some((topic, code)) => Err(format!("{topic}: {code}").into()),
        None => Ok(()),
    }
}

/// Connects to a new topic. A broker knows it only a moment after the controller has created it.
fn connect(config: &KafkaConfig) -> Result<KafkaLog, LogError> {
    let begun = std::time::Instant::now();
    loop {
        match KafkaLog::connect(config.clone()) {
            Err(LogError::Broken(text))
                if text.contains("there is no topic") && begun.elapsed().as_secs() < 30 =>
            {
                std::thread::yield_now()
            }
            other => return other,
        }
    }
}

/// The error of a connection that must fail.
fn refusal(config: KafkaConfig) -> Result<LogError, Failed> {
    match KafkaLog::connect(config) {
        Ok(_) => Err("connects".into()),
        Err(error) => Ok(error),
    }
}

/// Appends an invalid record, which becomes a dead letter and counts as a record.
fn append(topic: &str, partition: i32) -> Result<(), Failed> {
    let producer: BaseProducer = internal().create()?;
    let record = BaseRecord::<[u8], [u8]>::to(topic)
        .partition(partition)
        .payload(b"no record of ours");
    producer.send(record).map_err(|(error, _)| error)?;
    Ok(producer.flush(Duration::from_secs(30))?)
}

/// The committed offset of a group, as lag tools see it.
fn group_offset(group: &str, topic: &str, partition: i32) -> Result<Option<i64>, Failed> {
    let group: BaseConsumer = internal().set("group.id", group).create()?;
    let mut list = TopicPartitionList::new();
    list.add_partition(topic, partition);
    let committed = group.committed_offsets(list, Duration::from_secs(30))?;
    Ok(committed
        .elements()
        .first()
        .and_then(|element| element.offset().to_raw())
        .filter(|offset| *offset >= 0))
}

/// Deletes the records below an offset, as retention does.
fn delete_below(topic: &str, partition: i32, offset: i64) -> Result<(), Failed> {
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
    let deleted = block_on(admin().delete_records(&list, &AdminOptions::new()))?;
    deleted
        .elements()
        .into_iter()
        .try_for_each(|element| element.error())
        .map_err(|error| format!("{topic}: {error}").into())
}

fn add_partitions(topic: &str, count: usize) -> Result<(), Failed> {
    let results = block_on(
        admin().create_partitions(&[NewPartitions::new(topic, count)], &AdminOptions::new()),
    )?;
    for result in results {
        result.map_err(|(topic, code)| format!("{topic}: {code}"))?;
    }
    Ok(())
}
