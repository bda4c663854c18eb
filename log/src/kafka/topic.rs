//! Whether a topic meets what the guarantee needs. Facts are read here, a pure function compares
//! them, and the caller logs the findings.
//!
//! A finding is not an error: a development set-up of one broker runs the same code and guarantees
//! less. A compacted topic is refused, because compaction deletes trades.

use std::{collections::BTreeMap, fmt, time::Duration};

use futures::executor::block_on;
use rdkafka::admin::{AdminOptions, ResourceSpecifier};

use super::settings::{AdminClient, KafkaConfig};

/// With three replicas, writes still reach two after the loss of one.
const REPLICAS_NEEDED: usize = 3;
/// The replicas that must have a record before it is acknowledged.
const IN_SYNC_NEEDED: i64 = 2;
/// An outage that ends within a day must lose nothing.
const RETENTION_NEEDED_MS: i64 = 24 * 60 * 60 * 1_000;
/// Bytes of a partition on a busy day.
const RETENTION_NEEDED_BYTES: i64 = 8 << 30;

const SETTINGS: [&str; 6] = [
    CLEANUP,
    RETENTION_MS,
    RETENTION_BYTES,
    IN_SYNC,
    UNCLEAN,
    TIMESTAMPS,
];
const CLEANUP: &str = "cleanup.policy";
const RETENTION_MS: &str = "retention.ms";
const RETENTION_BYTES: &str = "retention.bytes";
const IN_SYNC: &str = "min.insync.replicas";
const UNCLEAN: &str = "unclean.leader.election.enable";
const TIMESTAMPS: &str = "message.timestamp.type";

/// One way in which a topic is less than the guarantee needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicFinding {
    /// Too few copies of some partition.
    Replication {
        /// Copies of the partition that has the fewest.
        replicas: usize,
        /// Brokers of the cluster.
        brokers: usize,
    },
    /// A record is acknowledged once a single replica has it, although there are several.
    InSync {
        /// Replicas that must have it.
        wanted: i64,
        /// Replicas of the topic.
        replicas: usize,
    },
    /// A replica that lacks acknowledged records may become the leader; they are lost then.
    UncleanElection,
    /// Producers decide the time of their records.
    ProducerTime,
    /// Records are deleted after less than a day.
    RetentionTime {
        /// Retention in milliseconds.
        ms: i64,
    },
    /// Records are deleted once there are too many of them, however young.
    RetentionSize {
        /// Bytes kept of each partition.
        bytes: i64,
    },
    /// A fact that could not be read.
    Unread {
        /// The fact.
        what: String,
        /// Why it could not be read.
        reason: String,
    },
}

impl fmt::Display for TopicFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replication {
                replicas,
                brokers: 1,
            } => {
                write!(
                    f,
                    "development set-up: {replicas} replica(s) on one broker; \
                     trades survive the loss of a broker only with {REPLICAS_NEEDED} on as many"
                )
            }
            Self::Replication { replicas, brokers } => {
                write!(
                    f,
                    "the topic has {replicas} replica(s) on {brokers} brokers; \
                     trades survive the loss of a broker only with {REPLICAS_NEEDED}"
                )
            }
            Self::InSync { wanted, replicas } => write!(
                f,
                "the topic has {IN_SYNC}={wanted} of {replicas} replicas: an acknowledged trade \
                 may be on one broker only, and be lost with it; \
                 set {IN_SYNC}={IN_SYNC_NEEDED}, of {REPLICAS_NEEDED} replicas"
            ),
            Self::UncleanElection => {
                write!(
                    f,
                    "the topic has {UNCLEAN}=true: acknowledged trades may be lost and their \
                     offsets used again; set it to false"
                )
            }
            Self::ProducerTime => write!(
                f,
                "the topic has {TIMESTAMPS}=CreateTime: a record may claim any time, and one of a \
                 wrong clock makes the trades of its partition late; set it to LogAppendTime"
            ),
            Self::RetentionTime { ms } => {
                write!(
                    f,
                    "the topic has {RETENTION_MS}={ms}: a job that is down for longer loses \
                     trades; set it to a week, 604800000"
                )
            }
            Self::RetentionSize { bytes } => {
                write!(
                    f,
                    "the topic has {RETENTION_BYTES}={bytes} a partition: a busy day may \
                     delete trades that are not yet read; set it to -1 and rely on {RETENTION_MS}"
                )
            }
            Self::Unread { what, reason } => write!(f, "{what} could not be checked: {reason}"),
        }
    }
}

/// A compacted topic, which must not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "topic {topic} has cleanup.policy={policy}: compaction deletes trades; \
     set it with `kafka-configs --alter --entity-type topics --entity-name {topic} \
     --add-config cleanup.policy=delete`, \
     or use another topic with --topic if it has been compacted already"
)]
pub(super) struct Compacted {
    topic: String,
    policy: String,
}

/// The facts about a topic. Settings that could not be read hold the reason.
pub(super) struct Facts {
    pub(super) replicas: usize,
    pub(super) brokers: usize,
    pub(super) settings: Result<BTreeMap<String, String>, String>,
}

/// Compares the facts with what the guarantee needs.
pub(super) fn examine(topic: &str, facts: &Facts) -> Result<Vec<TopicFinding>, Compacted> {
    let mut findings = Vec::new();
    let Facts {
        replicas,
        brokers,
        settings,
    } = facts;
    if *replicas < REPLICAS_NEEDED {
        findings.push(TopicFinding::Replication {
            replicas: *replicas,
            brokers: *brokers,
        });
    }
    let settings = match settings {
        Ok(settings) => settings,
        Err(reason) => {
            findings.push(TopicFinding::Unread {
                what: format!("the settings of topic {topic}"),
                reason: reason.clone(),
            });
            return Ok(findings);
        }
    };
    for name in SETTINGS {
        let unread = |reason: &str| TopicFinding::Unread {
            what: format!("{name} of topic {topic}"),
            reason: reason.into(),
        };
        let Some(value) = settings.get(name) else {
            findings.push(unread("the broker does not report it"));
            continue;
        };
        if name == CLEANUP {
            if value
                .split(',')
                .any(|policy| policy.trim().eq_ignore_ascii_case("compact"))
            {
                return Err(Compacted {
                    topic: topic.into(),
                    policy: value.clone(),
                });
            }
            continue;
        }
        if name == UNCLEAN {
            if value.eq_ignore_ascii_case("true") {
                findings.push(TopicFinding::UncleanElection);
            }
            continue;
        }
        if name == TIMESTAMPS {
            if value != "LogAppendTime" {
                findings.push(TopicFinding::ProducerTime);
            }
            continue;
        }
        let Ok(number) = value.parse::<i64>() else {
            findings.push(unread(&format!("{value:?} is not a number")));
            continue;
        };
        // -1 means no limit.
        match name {
            RETENTION_MS if (0..RETENTION_NEEDED_MS).contains(&number) => {
                findings.push(TopicFinding::RetentionTime { ms: number })
            }
            RETENTION_BYTES if (0..RETENTION_NEEDED_BYTES).contains(&number) => {
                findings.push(TopicFinding::RetentionSize { bytes: number })
            }
            IN_SYNC if number < IN_SYNC_NEEDED && *replicas > 1 => {
                findings.push(TopicFinding::InSync {
                    wanted: number,
                    replicas: *replicas,
                })
            }
            _ => {}
        }
    }
    Ok(findings)
}

/// Asks the brokers for the settings that [`examine`] needs.
pub(super) fn settings(
    config: &KafkaConfig,
    timeout: Duration,
) -> Result<BTreeMap<String, String>, String> {
    let admin: AdminClient = config.admin().map_err(|error| error.to_string())?;
    let options = AdminOptions::new().request_timeout(Some(timeout));
    let topic = ResourceSpecifier::Topic(&config.topic);
    let answers =
        block_on(admin.describe_configs([&topic], &options)).map_err(|error| error.to_string())?;
    let described = answers
        .into_iter()
        .next()
        .ok_or("kafka does not answer about it")?;
    let described = described.map_err(|code| code.to_string())?;
    // The client ignores a refusal; the answer is empty then.
    if described.entries.is_empty() {
        return Err("the broker reports none of them; \
             a user needs the right to DescribeConfigs of the topic"
            .into());
    }
    let known = described
        .entries
        .into_iter()
        .filter(|entry| SETTINGS.contains(&entry.name.as_str()));
    Ok(known
        .filter_map(|entry| entry.value.map(|value| (entry.name, value)))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(replicas: usize, brokers: usize, changed: &[(&str, &str)]) -> Facts {
        let good = [
            (CLEANUP, "delete"),
            (RETENTION_MS, "604800000"),
            (RETENTION_BYTES, "-1"),
            (IN_SYNC, "2"),
            (UNCLEAN, "false"),
            (TIMESTAMPS, "LogAppendTime"),
        ];
        let settings = good
            .iter()
            .chain(changed)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Facts {
            replicas,
            brokers,
            settings: Ok(settings),
        }
    }

    fn findings(facts: &Facts) -> Vec<TopicFinding> {
        examine("trades", facts).expect("not compacted")
    }

    #[test]
    fn a_topic_that_keeps_the_guarantee_gives_no_finding() {
        assert_eq!(findings(&facts(3, 3, &[])), []);
        assert_eq!(
            findings(&facts(
                3,
                5,
                &[
                    (RETENTION_MS, "-1"),
                    (RETENTION_BYTES, "8589934592"),
                    (CLEANUP, "")
                ]
            )),
            []
        );
        assert_eq!(findings(&facts(3, 3, &[(RETENTION_MS, "86400000")])), []);
    }

    #[test]
    fn a_compacted_topic_is_refused_with_what_to_do() {
        for policy in ["compact", "compact,delete", "delete, compact"] {
            let text = examine("trades", &facts(3, 3, &[(CLEANUP, policy)]))
                .expect_err(policy)
                .to_string();
            assert!(
                text.contains(policy)
                    && text.contains("--add-config cleanup.policy=delete")
                    && text.contains("--topic"),
                "{text}"
            );
        }
    }

    #[test]
    fn everything_that_weakens_the_guarantee_is_found() {
        let weak = facts(
            2,
            3,
            &[
                (UNCLEAN, "true"),
                (RETENTION_MS, "86399999"),
                (RETENTION_BYTES, "1073741824"),
                (IN_SYNC, "1"),
                (TIMESTAMPS, "CreateTime"),
            ],
        );
        let expected = [
            TopicFinding::Replication {
                replicas: 2,
                brokers: 3,
            },
            TopicFinding::RetentionTime { ms: 86_399_999 },
            TopicFinding::RetentionSize { bytes: 1 << 30 },
            TopicFinding::InSync {
                wanted: 1,
                replicas: 2,
            },
            TopicFinding::UncleanElection,
            TopicFinding::ProducerTime,
        ];
        assert_eq!(findings(&weak), expected);
        let one_broker = findings(&facts(1, 1, &[(IN_SYNC, "1")]));
        assert_eq!(
            one_broker,
            [TopicFinding::Replication {
                replicas: 1,
                brokers: 1
            }],
            "of one replica no more can be asked"
        );
        assert!(one_broker[0].to_string().starts_with("development set-up"));
    }

    #[test]
    fn what_cannot_be_read_is_said_and_does_not_pass_for_good() {
        let mut partly = facts(3, 3, &[(RETENTION_MS, "soon")]);
        partly.settings.as_mut().expect("settings").remove(UNCLEAN);
        let texts: Vec<_> = findings(&partly).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "retention.ms of topic trades could not be checked: \"soon\" is not a number",
                "unclean.leader.election.enable of topic trades could not be checked: \
                 the broker does not report it"
            ]
        );
        let nothing = Facts {
            settings: Err("refused".into()),
            ..facts(3, 3, &[])
        };
        assert_eq!(
            findings(&nothing)[0].to_string(),
            "the settings of topic trades could not be checked: refused"
        );
    }
}
