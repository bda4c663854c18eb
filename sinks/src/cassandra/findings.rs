//! Compares a cluster with what the guarantee needs. This file reads the facts, a pure function
//! evaluates them, and the caller reports the findings.
//!
//! A finding is not an error. A development set-up of one node runs the same code with a weaker
//! guarantee.

use std::{collections::BTreeMap, fmt};

use scylla::{
    policies::load_balancing::{NodeIdentifier, SingleTargetLoadBalancingPolicy},
    statement::{Consistency, Statement},
};
use tapeflow_protocol::StoreError;

use super::session::Cluster;

/// The replicas needed so that one can be lost and a quorum remains.
const REPLICAS_NEEDED: u32 = 3;
/// The first version with Paxos v2. Its lightweight transactions and serial reads are correct while
/// nodes join and leave.
const VERSION_NEEDED: (u32, u32) = (4, 1);

/// One requirement of the guarantee that a cluster does not meet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Finding {
    /// Too few replicas in the local datacenter: a development set-up. The loss of a node may lose
    /// acknowledged bars or stop the job.
    Replication {
        /// Replicas in the datacenter.
        replicas: u32,
        /// The datacenter.
        datacenter: String,
    },
    /// The keyspace exists with a replication other than the one given to `init`. `init` does not
    /// change it, because a change needs `nodetool repair`.
    OtherReplication {
        /// Replicas in the datacenter.
        replicas: u32,
        /// Replicas given to `init`.
        wanted: u32,
    },
    /// A node older than 4.1.
    Version {
        /// The node.
        node: String,
        /// Its version.
        version: String,
    },
    /// A node that does not run Paxos v2.
    PaxosVariant {
        /// The node.
        node: String,
        /// Its setting `paxos_variant`.
        variant: String,
    },
    /// Nodes that acknowledge a write before it is on their disk.
    CommitLogSync {
        /// The nodes.
        nodes: Vec<String>,
        /// Their setting `commitlog_sync_period`: how long a write may be in memory only.
        period: String,
    },
    /// Quorum reads of a table answer before they repair the replicas.
    ReadRepair {
        /// The table.
        table: String,
        /// The table's option `read_repair`.
        option: String,
    },
    /// Rows of a table expire: a late trade would replace an expired bar.
    TimeToLive {
        /// The table.
        table: String,
        /// The table's `default_time_to_live`, in seconds.
        seconds: i32,
    },
    /// The password is sent over a network unencrypted.
    UnencryptedPassword {
        /// The nodes that receive it.
        nodes: Vec<String>,
    },
    /// A fact that could not be read.
    Unread {
        /// The fact.
        what: String,
        /// The error.
        reason: String,
    },
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replication {
                replicas,
                datacenter,
            } => write!(
                f,
                "development set-up: {replicas} replica(s) in {datacenter}; \
                 {REPLICAS_NEEDED} are needed for bars to survive the loss of one"
            ),
            Self::OtherReplication { replicas, wanted } => {
                write!(
                    f,
                    "the keyspace has {replicas} replica(s), not {wanted}, and is not changed: \
                     use ALTER KEYSPACE, then run nodetool repair"
                )
            }
            Self::Version { node, version } => {
                write!(
                    f,
                    "node {node} runs Cassandra {version}; \
                     compare-and-set needs {}.{} or newer to be safe while nodes join and leave",
                    VERSION_NEEDED.0, VERSION_NEEDED.1
                )
            }
            Self::PaxosVariant { node, variant } => {
                write!(
                    f,
                    "node {node} runs paxos_variant {variant}; \
                     set paxos_variant: v2 in its cassandra.yaml"
                )
            }
            Self::CommitLogSync { nodes, period } => write!(
                f,
                "{} acknowledge writes up to {period} before they are on disk (commitlog_sync: \
                 periodic): a power cut of most replicas at once may lose committed bars; keep \
                 the replicas on separate power, or set commitlog_sync: batch",
                nodes.join(", ")
            ),
            Self::ReadRepair { table, option } => {
                write!(
                    f,
                    "table {table} has read_repair {option}: readers may see bars go back; \
                     run ALTER TABLE {table} WITH read_repair = 'BLOCKING'"
                )
            }
            Self::TimeToLive { table, seconds } => {
                write!(
                    f,
                    "table {table} lets bars expire after {seconds} s, and a late trade would replace an \
                     expired bar; run ALTER TABLE {table} WITH default_time_to_live = 0"
                )
            }
            Self::UnencryptedPassword { nodes } => write!(
                f,
                "the password goes unencrypted to {}: anyone on the network path can read it; \
                 set client_encryption_options there, and use --cassandra-tls",
                nodes.join(", ")
            ),
            Self::Unread { what, reason } => write!(f, "{what} could not be checked: {reason}"),
        }
    }
}

/// The facts to evaluate. A fact that could not be read is replaced by the error.
pub(super) struct Facts {
    pub(super) datacenter: String,
    pub(super) replicas: u32,
    pub(super) nodes: Vec<NodeFacts>,
    pub(super) tables: Vec<TableFacts>,
    pub(super) in_clear_to: Vec<String>,
}

/// The options of a table.
pub(super) struct TableFacts {
    pub(super) table: String,
    pub(super) read_repair: String,
    pub(super) time_to_live_s: i32,
}

/// The facts of one node.
pub(super) struct NodeFacts {
    pub(super) node: String,
    pub(super) version: Result<String, String>,
    pub(super) paxos_variant: Result<String, String>,
    /// `commitlog_sync_period` if `commitlog_sync` is `periodic`.
    pub(super) commitlog_sync: Result<Option<String>, String>,
}

/// Evaluates the facts.
pub(super) fn evaluate(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut periodic: BTreeMap<String, Vec<String>> = BTreeMap::new();
    if facts.replicas < REPLICAS_NEEDED {
        findings.push(Finding::Replication {
            replicas: facts.replicas,
            datacenter: facts.datacenter.clone(),
        });
    }
    for NodeFacts {
        node,
        version,
        paxos_variant,
        commitlog_sync,
    } in &facts.nodes
    {
        let unread = |what: &str, reason: &String| Finding::Unread {
            what: format!("{what} of node {node}"),
            reason: reason.clone(),
        };
        match version {
            Ok(version) if is_new_enough(version) => {}
            Ok(version) => findings.push(Finding::Version {
                node: node.clone(),
                version: version.clone(),
            }),
            Err(reason) => findings.push(unread("the version", reason)),
        }
        match paxos_variant {
            Ok(variant) if variant.starts_with("v2") => {}
            Ok(variant) => findings.push(Finding::PaxosVariant {
                node: node.clone(),
                variant: variant.clone(),
            }),
            Err(reason) => findings.push(unread("paxos_variant", reason)),
        }
        match commitlog_sync {
            Ok(None) => {}
            Ok(Some(period)) => periodic
                .entry(period.clone())
                .or_default()
                .push(node.clone()),
            Err(reason) => findings.push(unread("commitlog_sync", reason)),
        }
    }
    findings.extend(
        periodic
            .into_iter()
            .map(|(period, nodes)| Finding::CommitLogSync { nodes, period }),
    );
    for TableFacts {
        table,
        read_repair,
        time_to_live_s,
    } in &facts.tables
    {
        if !read_repair.eq_ignore_ascii_case("BLOCKING") {
            findings.push(Finding::ReadRepair {
                table: table.clone(),
                option: read_repair.clone(),
            });
        }
        if *time_to_live_s != 0 {
            findings.push(Finding::TimeToLive {
                table: table.clone(),
                seconds: *time_to_live_s,
            });
        }
    }
    if !facts.in_clear_to.is_empty() {
        findings.push(Finding::UnencryptedPassword {
            nodes: facts.in_clear_to.clone(),
        });
    }
    findings
}

fn is_new_enough(version: &str) -> bool {
    let mut parts = version
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= VERSION_NEEDED
}

/// The replicas in the datacenter, from the options of a keyspace's replication. `SimpleStrategy`
/// counts replicas over all datacenters.
pub(super) fn replicas(options: &[(String, String)], datacenter: &str) -> u32 {
    let of = |name: &str| {
        options
            .iter()
            .find(|(key, _)| key == name)
            .and_then(|(_, value)| value.parse().ok())
    };
    of(datacenter)
        .or_else(|| of("replication_factor"))
        .unwrap_or(0)
}

/// Reads the facts and evaluates them.
pub(super) async fn examine(cluster: &Cluster, keyspace: &str) -> Result<Vec<Finding>, StoreError> {
    let replication = cluster.replication(keyspace).await?.unwrap_or_default();
    let cql = "SELECT table_name, read_repair, default_time_to_live FROM system_schema.tables \
               WHERE keyspace_name = ? AND table_name IN ('bars', 'views')";
    let tables: Vec<(String, Option<String>, Option<i32>)> = cluster
        .all("reading the options of the tables", cql, (keyspace,))
        .await?;
    let tables = tables
        .into_iter()
        .map(|(table, read_repair, time_to_live_s)| TableFacts {
            table,
            read_repair: read_repair.unwrap_or_else(|| "BLOCKING".into()),
            time_to_live_s: time_to_live_s.unwrap_or(0),
        });
    let state = cluster.session.get_cluster_state();
    let local = state
        .get_nodes_info()
        .iter()
        .filter(|node| node.datacenter.as_deref() == Some(&cluster.datacenter));
    let nodes = futures::future::join_all(local.map(|node| node_facts(cluster, node))).await;
    Ok(evaluate(&Facts {
        replicas: replicas(&replication, &cluster.datacenter),
        datacenter: cluster.datacenter.clone(),
        nodes,
        tables: tables.collect(),
        in_clear_to: cluster.in_clear_to.clone(),
    }))
}

/// Queries the node itself: other nodes do not have its settings.
async fn node_facts(cluster: &Cluster, node: &std::sync::Arc<scylla::cluster::Node>) -> NodeFacts {
    let ask = async |cql: &str| {
        let mut statement = Statement::new(cql);
        statement.set_consistency(Consistency::One);
        statement.set_load_balancing_policy(Some(SingleTargetLoadBalancingPolicy::new(
            NodeIdentifier::HostId(node.host_id),
            None,
        )));
        let rows = cluster
            .all::<(Option<String>,)>("asking", statement, ())
            .await
            .map_err(|error| error.to_string())?;
        rows.into_iter()
            .next()
            .and_then(|(value,)| value)
            .ok_or_else(|| "the node has no value".to_owned())
    };
    let setting = async |name: &str| {
        let cql = format!("SELECT value FROM system_views.settings WHERE name = '{name}'");
        ask(&cql).await
    };
    let commitlog_sync = match setting("commitlog_sync").await {
        Ok(sync) if sync == "periodic" => setting("commitlog_sync_period").await.map(Some),
        other => other.map(|_| None),
    };
    NodeFacts {
        node: format!("{}:{}", node.address.ip(), node.address.port()),
        version: ask("SELECT release_version FROM system.local WHERE key = 'local'").await,
        paxos_variant: setting("paxos_variant").await,
        commitlog_sync,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(version: &str, paxos_variant: &str) -> Facts {
        let node = NodeFacts {
            node: "n".into(),
            version: Ok(version.into()),
            paxos_variant: Ok(paxos_variant.into()),
            commitlog_sync: Ok(None),
        };
        let table = |table: &str| TableFacts {
            table: table.into(),
            read_repair: "BLOCKING".into(),
            time_to_live_s: 0,
        };
        Facts {
            datacenter: "dc1".into(),
            replicas: 3,
            nodes: vec![node],
            tables: vec![table("bars"), table("views")],
            in_clear_to: Vec::new(),
        }
    }

    #[test]
    fn a_cluster_that_keeps_the_guarantee_gives_no_finding() {
        for version in ["4.1.10", "4.1-beta1", "5.0.9", "5.0.9-SNAPSHOT", "10.0"] {
            assert_eq!(evaluate(&facts(version, "v2")), []);
        }
    }

    #[test]
    fn everything_that_weakens_the_guarantee_is_found() {
        let mut weak = facts("4.0.13", "v1");
        weak.replicas = 1;
        weak.tables[0].read_repair = "NONE".into();
        weak.tables[1].time_to_live_s = 60;
        weak.in_clear_to = vec!["10.0.0.1:9042".into(), "10.0.0.2:9042".into()];
        weak.nodes.push(NodeFacts {
            node: "m".into(),
            version: Err("down".into()),
            paxos_variant: Err("down".into()),
            commitlog_sync: Err("down".into()),
        });
        for node in ["o", "p"] {
            weak.nodes.push(NodeFacts {
                node: node.into(),
                version: Ok("5.0.9".into()),
                paxos_variant: Ok("v2".into()),
                commitlog_sync: Ok(Some("10000ms".into())),
            });
        }
        let texts: Vec<_> = evaluate(&weak).iter().map(ToString::to_string).collect();
        let starts = [
            "development set-up: 1 replica(s) in dc1",
            "node n runs Cassandra 4.0.13",
            "node n runs paxos_variant v1",
            "the version of node m could not be checked: down",
            "paxos_variant of node m could not",
            "commitlog_sync of node m could not",
            "o, p acknowledge writes up to 10000ms before they are on disk",
            "table bars has read_repair NONE",
            "table views lets bars expire after 60 s",
            "the password goes unencrypted to 10.0.0.1:9042, 10.0.0.2:9042",
        ];
        assert_eq!(texts.len(), starts.len(), "{texts:#?}");
        for (text, start) in texts.iter().zip(starts) {
            assert!(text.starts_with(start), "{text}");
        }
    }

    #[test]
    fn replicas_are_those_of_the_local_datacenter() {
        let options = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                .collect::<Vec<_>>()
        };
        let network = options(&[
            (
                "class",
                "org.apache.cassandra.locator.NetworkTopologyStrategy",
            ),
            ("dc1", "3"),
            ("dc2", "5"),
        ]);
        assert_eq!(
            (
                replicas(&network, "dc1"),
                replicas(&network, "dc2"),
                replicas(&network, "dc3")
            ),
            (3, 5, 0)
        );
        assert_eq!(
            replicas(
                &options(&[("class", "SimpleStrategy"), ("replication_factor", "2")]),
                "dc1"
            ),
            2
        );
    }
}
