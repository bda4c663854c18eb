//! The file of client settings, and the topic that `init` makes.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
};

use super::{KafkaLog, KafkaLogConfig};
use crate::read::LogError;

const PATIENCE: Duration = Duration::from_secs(10);
/// How long records are kept: a week, well above any outage that is noticed.
const RETENTION_MS: &str = "604800000";

/// The settings in a file: one key=value a line; empty lines and lines that begin with # say
/// nothing. Values are never repeated in an error.
pub fn settings(file: &Path) -> Result<Vec<(String, String)>, String> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let lines = text
        .lines()
        .enumerate()
        .map(|(at, line)| (at + 1, line.trim()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(number, line)| match line.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                Ok((key.trim().to_owned(), value.trim().to_owned()))
            }
            _ => Err(format!("{} line {number} is not key=value", file.display())),
        })
        .collect()
}

fn client(config: &KafkaLogConfig) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", &config.brokers)
        .set("client.id", "tapeflow-init")
        .set("allow.auto.create.topics", "false");
    for (key, value) in &config.settings {
        client.set(key, value);
    }
    client
}

/// What stands there now.
pub struct TopicReport {
    pub created: bool,
    pub partitions: usize,
}

/// Makes the topic if there is none: so many partitions, `replication` copies (at most three, at
/// most as many as there are brokers).
pub async fn make_topic(
    config: &KafkaLogConfig,
    partitions: u32,
    replication: Option<u32>,
) -> Result<TopicReport, LogError> {
    let unreachable = |error: &KafkaError| {
        LogError::Broken(match error {
            // Its own text shows the value, which may be secret.
            KafkaError::ClientConfig(_, reason, key, _) => {
                format!("--kafka-config-file: setting {key}: {reason}")
            }
            error => format!(
                "kafka at {} cannot be reached: {error}; check --brokers",
                config.brokers
            ),
        })
    };
    let asker: BaseConsumer = client(config)
        .create()
        .map_err(|error| unreachable(&error))?;
    let (topic, brokers, found) = (config.topic.clone(), config.brokers.clone(), {
        let topic = config.topic.clone();
        tokio::task::spawn_blocking(move || {
            asker
                .fetch_metadata(Some(&topic), PATIENCE)
                .map(|metadata| {
                    let partitions = metadata
                        .topics()
                        .iter()
                        .find(|found| found.name() == topic && found.error().is_none())
                        .map_or(0, |found| found.partitions().len());
                    (metadata.brokers().len(), partitions)
                })
        })
        .await
        .map_err(|error| LogError::Broken(error.to_string()))?
        .map_err(|error| unreachable(&error))?
    });
    let (nodes, existing) = found;
    if existing > 0 {
        return Ok(TopicReport {
            created: false,
            partitions: existing,
        });
    }
    let wanted = replication.map_or(nodes.min(3), |n| n as usize);
    if wanted > nodes {
        return Err(LogError::Broken(format!(
            "--replication: {wanted} copies, but kafka at {brokers} has {nodes} brokers"
        )));
    }
    let copies = i32::try_from(wanted)
        .map_err(|error| LogError::Broken(format!("--replication: {error}")))?;
    let count = i32::try_from(partitions)
        .map_err(|error| LogError::Broken(format!("--partitions: {error}")))?;
    let in_sync = if wanted >= 3 { "2" } else { "1" };
    let new = NewTopic::new(&topic, count, TopicReplication::Fixed(copies))
        .set("min.insync.replicas", in_sync)
        .set("cleanup.policy", "delete")
        .set("unclean.leader.election.enable", "false")
        .set("retention.ms", RETENTION_MS);
    let admin: AdminClient<DefaultClientContext> = client(config)
        .create()
        .map_err(|error| unreachable(&error))?;
    let options = AdminOptions::new()
        .operation_timeout(Some(PATIENCE))
        .request_timeout(Some(PATIENCE));
    let results = admin
        .create_topics([&new], &options)
        .await
        .map_err(|error| unreachable(&error))?;
    match results.into_iter().next() {
        Some(Ok(_)) => Ok(TopicReport {
            created: true,
            partitions: partitions as usize,
        }),
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(TopicReport {
            created: false,
            partitions: partitions as usize,
        }),
        Some(Err((_, code))) => Err(LogError::Broken(format!(
            "kafka at {brokers} does not make topic {topic}: {code}"
        ))),
        None => Err(LogError::Broken(format!(
            "kafka at {brokers} says nothing about topic {topic}"
        ))),
    }
}

/// In what the topic is less than the guarantee needs. One that was just made may not be known to
/// every broker yet.
pub async fn findings(config: KafkaLogConfig) -> Result<Vec<String>, LogError> {
    let examine = move || {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match KafkaLog::connect(config.clone()) {
                Ok(log) => return Ok(log.findings().iter().map(ToString::to_string).collect()),
                Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(100))
                }
                Err(error) => return Err(error),
            }
        }
    };
    tokio::task::spawn_blocking(examine)
        .await
        .map_err(|error| LogError::Broken(error.to_string()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_lines_of_key_and_value_and_errors_do_not_show_values() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(
            file.path(),
            "# tls\nsecurity.protocol = SASL_SSL\n\nsasl.password=a=b\n",
        )
        .expect("written");
        let read = settings(file.path()).expect("two settings");
        assert_eq!(
            read,
            [
                ("security.protocol".into(), "SASL_SSL".into()),
                ("sasl.password".into(), "a=b".into())
            ]
        );
        std::fs::write(file.path(), "hunter2").expect("written");
        let error = settings(file.path()).expect_err("no key");
        assert!(
            error.contains("line 1") && !error.contains("hunter2"),
            "{error}"
        );
    }
}
