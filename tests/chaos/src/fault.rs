//! What is done in a cycle. [`crate::fault_schedule`] says how often.

use crate::{feed_profile::FeedProfile, links::Link};

/// Who does not answer for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pause {
    /// Shorter than the heartbeat timeout between processes, so that no process need notice.
    Short,
    /// Longer: the others leave.
    Long,
}

/// What is done to a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    /// All connections are reset, and new ones too for a while.
    Cut,
    /// What goes one way vanishes, on these connections for ever.
    HalfOpen,
    /// Data arrives later; the job must continue meanwhile.
    Delay,
    /// Nothing passes for a while.
    BlackHole,
}

impl Way {
    pub(crate) const ALL: [Self; 4] = [Self::Cut, Self::HalfOpen, Self::Delay, Self::BlackHole];
}

/// Whose clock is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Clocks {
    /// That of process 0, which makes the write timestamps.
    OfOne,
    OfAll,
}

/// What makes a topic unfit for a job, which must say so and touch nothing. Done to a small job of
/// its own, beside the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum TopicFault {
    /// Records are deleted beyond what is committed, while it is down.
    Retention,
    /// The topic is deleted and made again, while it is down.
    AgainWhileDown,
    /// The topic is deleted and created again, while the job runs.
    AgainWhileUp,
}

impl TopicFault {
    pub(crate) const ALL: [Self; 3] = [Self::Retention, Self::AgainWhileDown, Self::AgainWhileUp];
}

/// What happens to the job or its servers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// kill -9 of one process of several.
    KillOne,
    /// kill -9 of all, also while the next ones take over and replay.
    KillAll,
    /// kill -9 of a supervisor; its process dies with it.
    KillSupervisor,
    /// SIGSTOP, then SIGCONT, of one process of several.
    PauseOne(Pause),
    /// SIGSTOP, then SIGCONT, of all processes at once.
    PauseAll(Pause),
    /// All are stopped, others are started in their place, and then they wake.
    Zombies,
    /// Others are started beside running ones.
    Overtake,
    /// One process ends itself at a place of the protocol, when it comes there for the nth time.
    Failpoint {
        /// One of [`tapeflow_protocol::failpoint::NAMES`].
        name: &'static str,
        /// The nth time.
        times: u32,
    },
    /// All are asked to end, and started again with another number of processes and workers.
    Rescale,
    /// kill -9 of ingest, which replays a recording that has grown.
    KillIngest,
    /// kill -9 of one Cassandra node.
    KillCassandra,
    /// kill -9 of two Cassandra nodes of three: everything stands still until they are back.
    KillTwoCassandra,
    /// kill -9 of a broker that is not the controller.
    KillBroker,
    /// kill -9 of the controller.
    KillController,
    /// The network between the job and its servers, or between its processes.
    Network(Link, Way),
    /// Processes whose clock is an hour ahead, and then others whose clocks are right, or an hour
    /// behind.
    Clock(Clocks),
    /// The feed has too much of something.
    Feed(FeedProfile),
    /// A topic that can no longer be read.
    TopicFault(TopicFault),
}

/// The processes that a fault requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wants {
    pub(crate) several: bool,
    /// With a supervisor each, or without; none if it does not matter.
    pub(crate) supervised: Option<bool>,
}

impl Fault {
    /// Its kind, for the report.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::KillOne => "kill -9 of one process".into(),
            Self::KillAll => "kill -9 of all processes, also while they take over".into(),
            Self::KillSupervisor => "kill -9 of a supervisor".into(),
            Self::PauseOne(Pause::Short) => "SIGSTOP of one process for 3 s".into(),
            Self::PauseOne(Pause::Long) => "SIGSTOP of one process for 15 s".into(),
            Self::PauseAll(Pause::Short) => "SIGSTOP of all processes for 3 s".into(),
            Self::PauseAll(Pause::Long) => "SIGSTOP of all processes for 15 s".into(),
            Self::Zombies => "stopped, replaced, woken".into(),
            Self::Overtake => "a second job under the same name".into(),
            Self::Failpoint { name, .. } => format!("failpoint {name}"),
            Self::Rescale => "asked to end, other workers and processes".into(),
            Self::KillIngest => "kill -9 of ingest, its recording grown".into(),
            Self::KillCassandra => "kill -9 of one Cassandra node".into(),
            Self::KillTwoCassandra => "kill -9 of two Cassandra nodes of three".into(),
            Self::KillBroker => "kill -9 of a broker".into(),
            Self::KillController => "kill -9 of the controller".into(),
            Self::Network(link, way) => {
                let what = match way {
                    Way::Cut => "cut",
                    Way::HalfOpen => "half open",
                    Way::Delay => "slow by 0.2 s to 1.5 s",
                    Way::BlackHole => "a black hole",
                };
                format!("{}: {what}", link.name())
            }
            Self::Clock(Clocks::OfOne) => "clock of process 0 an hour ahead, then right".into(),
            Self::Clock(Clocks::OfAll) => "clocks of all an hour ahead, then an hour behind".into(),
            Self::Feed(feed_profile) => format!("feed: {}", feed_profile.name()),
            Self::TopicFault(TopicFault::Retention) => {
                "topic: retention beyond what is committed, while down".into()
            }
            Self::TopicFault(TopicFault::AgainWhileDown) => {
                "topic: deleted and made again, while down".into()
            }
            Self::TopicFault(TopicFault::AgainWhileUp) => {
                "topic: deleted and made again, while it runs".into()
            }
        }
    }

    pub(crate) fn wants(&self) -> Wants {
        match self {
            Self::KillOne | Self::PauseOne(_) | Self::Network(Link::Cluster, _) => Wants {
                several: true,
                supervised: None,
            },
            Self::KillSupervisor => Wants {
                several: true,
                supervised: Some(true),
            },
            // A supervised zombie would be started again, and take over in turn.
            Self::Zombies => Wants {
                several: false,
                supervised: Some(false),
            },
            Self::KillAll
            | Self::PauseAll(_)
            | Self::Overtake
            | Self::Failpoint { .. }
            | Self::Rescale
            | Self::KillIngest
            | Self::KillCassandra
            | Self::KillTwoCassandra
            | Self::KillBroker
            | Self::KillController
            | Self::Network(Link::Kafka | Link::Cassandra, _)
            | Self::Clock(_)
            | Self::Feed(_)
            | Self::TopicFault(_) => Wants {
                several: false,
                supervised: None,
            },
        }
    }
}
