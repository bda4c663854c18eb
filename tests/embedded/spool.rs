//! `ingest --spool` on the mock brokers of librdkafka: a broker that is away, `kill -9` under load,
//! and a spool that cannot be used.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
    time::Duration,
};

use rdkafka::{
    ClientConfig, Message, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    mocking::MockCluster,
    producer::DefaultProducerContext,
};
use tapeflow_ingest::simulator::{Simulator, SimulatorConfig};
use tapeflow_schemas::{
    SessionId,
    codec::{self, Header},
};

use crate::{
    command::{Place, end_with},
    http::{get, until, value},
    serving::{Running, serving},
};

const PARTITIONS: i32 = 3;

/// A broker, a feed, and what `ingest` needs to know of them.
struct World {
    cluster: MockCluster<'static, DefaultProducerContext>,
    _runtime: tokio::runtime::Runtime,
    url: String,
    place: Place,
    token: String,
    spool: String,
}

impl World {
    fn new() -> Self {
        let cluster = MockCluster::new(1).expect("mock brokers");
        cluster
            .create_topic("trades", PARTITIONS, 1)
            .expect("a topic");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let simulator = runtime
            .block_on(Simulator::start(SimulatorConfig::default()))
            .expect("a feed");
        let url = simulator.url();
        // It serves until the runtime ends.
        std::mem::forget(simulator);
        let place = Place::new();
        let token = place.file("token", "simulated");
        let spool = place.path("spool").to_str().expect("UTF-8").to_owned();
        Self {
            cluster,
            _runtime: runtime,
            url,
            place,
            token,
            spool,
        }
    }

    fn arguments(&self) -> Vec<String> {
        [
            "ingest",
            "--brokers",
            &self.cluster.bootstrap_servers(),
            "--finnhub-url",
            &self.url,
            "--symbols",
            "*",
            "--token-file",
            &self.token,
            "--spool",
            &self.spool,
            "--spool-size",
            "16MiB",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    fn ingest(&self) -> Running {
        let arguments = self.arguments();
        serving(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// The sequences in the topic by session and partition, each as often as it is there.
    fn topic(&self) -> BTreeMap<(SessionId, i32), Vec<u64>> {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", self.cluster.bootstrap_servers())
            .set("group.id", "test")
            .set("enable.partition.eof", "true")
            .set("enable.auto.commit", "false");
        let consumer: BaseConsumer = client.create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        for partition in 0..PARTITIONS {
            list.add_partition_offset("trades", partition, rdkafka::Offset::Beginning)
                .expect("added");
        }
        consumer.assign(&list).expect("assigned");
        let (mut found, mut ended) = (BTreeMap::<_, Vec<u64>>::new(), 0);
        while ended < PARTITIONS {
            match consumer.poll(Duration::from_secs(30)).expect("an answer") {
                Ok(message) => {
                    let payload = message.payload().expect("a payload");
                    let (session, sequence) =
                        match codec::decode(payload, &mut Vec::new()).expect("a record") {
                            Header::Batch {
                                session, sequence, ..
                            }
                            | Header::InvalidFrame {
                                session, sequence, ..
                            } => (session, sequence),
                            Header::FeedState(state) => (state.session, state.sequence),
                            Header::Legacy => panic!("not ours"),
                        };
                    found
                        .entry((session, message.partition()))
                        .or_default()
                        .push(sequence);
                }
                Err(KafkaError::PartitionEOF(_)) => ended += 1,
                Err(error) => panic!("{error}"),
            }
        }
        found
    }
}

fn metric(running: &Running, name: &str) -> u64 {
    let text = get(running, "/metrics").1;
    // Counts of a test are far below 2^53.
    value(&text, name).map_or(0, |value| format!("{value:.0}").parse().expect("a count"))
}

fn signal(name: &str, running: &Running) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &running.child.id().to_string()])
        .status();
    assert!(sent.expect("kill starts").success());
}

fn files(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("a directory");
    entries
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .filter(|name| name != "lock")
        .collect()
}

#[test]
fn what_was_received_before_a_kill_is_in_the_topic_after_the_next_start() {
    let world = World::new();
    let mut received = 0;
    for round in 0..4 {
        let mut ingest = world.ingest();
        // Killed at once, in full flow, and after the broker was away for a while.
        let (is_away, records) = [(false, 1), (false, 700), (true, 900), (true, 300)][round];
        until("the feed flows", || {
            (metric(&ingest, "tapeflow_feed_records_total") >= records).then_some(())
        });
        if is_away {
            world.cluster.broker_down(1).expect("down");
            let begun = metric(&ingest, "tapeflow_feed_spool_records");
            until("the spool grows", || {
                let now = metric(&ingest, "tapeflow_feed_spool_records");
                (now >= begun + 1_500).then_some(())
            });
        }
        received += metric(&ingest, "tapeflow_feed_records_total");
        ingest.child.kill().expect("killed");
        ingest.child.wait().expect("ended");
        if is_away {
            world.cluster.broker_up(1).expect("up");
        }
    }
    let mut ingest = world.ingest();
    until("what was left is sent", || {
        (metric(&ingest, "tapeflow_feed_spool_replayed_records_total") >= 1_500).then_some(())
    });
    received += metric(&ingest, "tapeflow_feed_records_total");
    signal("TERM", &ingest);
    assert!(ingest.child.wait().expect("ended").success());
    assert_eq!(files(Path::new(&world.spool)), [""; 0]);

    let topic = world.topic();
    let sessions: BTreeSet<SessionId> = topic.keys().map(|(session, _)| *session).collect();
    assert_eq!(sessions.len(), 5);
    let mut counted = 0;
    for ((session, partition), sequences) in &topic {
        // As the job counts them: a sequence at or below the last one is a repeat.
        let mut last = 0;
        for sequence in sequences {
            assert!(
                *sequence <= last + 1,
                "session {session} partition {partition}: {sequence} follows {last}"
            );
            last = last.max(*sequence);
        }
        counted += last;
    }
    assert!(counted >= received, "{counted} of {received}");
}

#[test]
fn a_spool_that_cannot_be_used_is_refused_with_code_2_and_nothing_is_sent() {
    let world = World::new();
    let arguments = world.arguments();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let spool = world.place.path("spool");

    let mut ingest = world.ingest();
    until("the feed flows", || {
        (metric(&ingest, "tapeflow_feed_records_total") > 0).then_some(())
    });
    let text = end_with(2, &arguments);
    assert!(
        text.contains("--spool: process ") && text.contains("a directory of its own"),
        "{text}"
    );
    world.cluster.broker_down(1).expect("down");
    let begun = metric(&ingest, "tapeflow_feed_spool_records");
    until("the spool grows", || {
        (metric(&ingest, "tapeflow_feed_spool_records") > begun + 200).then_some(())
    });
    ingest.child.kill().expect("killed");
    ingest.child.wait().expect("ended");
    world.cluster.broker_up(1).expect("up");

    let before = world.topic();
    world
        .cluster
        .create_topic("other", PARTITIONS, 1)
        .expect("a topic");
    let other = [&arguments[..], &["--topic", "other"]].concat();
    let text = end_with(2, &other);
    assert!(
        text.contains("records for topic trades") && text.contains("and this is topic other"),
        "{text}"
    );
    let segment = files(&spool)
        .into_iter()
        .find(|name| name.ends_with(".segment"))
        .expect("a segment");
    let mut bytes = fs::read(spool.join(&segment)).expect("read");
    bytes[30] ^= 1;
    fs::write(spool.join(&segment), bytes).expect("written");
    let text = end_with(2, &arguments);
    let want = format!("{segment} is damaged at byte 0");
    assert!(text.contains(&want), "{text}");
    let file = world.place.file("file", "");
    let place = [&arguments[..9], &["--spool", &file]].concat();
    let text = end_with(2, &place);
    assert!(text.contains("file is no directory"), "{text}");
    assert_eq!(world.topic(), before);
}

#[test]
fn a_spool_is_for_a_live_feed() {
    let text = end_with(2, &["ingest", "--replay", "x", "--spool", "y"]);
    assert!(text.contains("cannot be used with"), "{text}");
    let text = end_with(2, &["ingest", "--replay", "x", "--spool-fsync", "never"]);
    assert!(text.contains("give it with --spool DIR"), "{text}");
}
