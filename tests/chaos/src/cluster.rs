//! The servers: real Kafka and Cassandra, one node each or three, in a directory and on ports of
//! their own.

use std::{
    net::{Ipv4Addr, SocketAddr},
    process::Command,
};

use rand::{Rng, rngs::StdRng};
use tapeflow_sinks::cassandra::{CassandraConfig, CassandraStore};
use tokio::runtime::Handle;

use crate::{
    dev_stack::{Layout, Stack},
    links::{Link, Links, beside},
    proxy::Proxy,
};

/// The topic and the keyspace of the one job that runs through all cycles.
pub(crate) const MAIN: &str = "chaos";
/// Kafka's ports: the first node's own, and after it that of the listener whose clients are led
/// through proxies.
const KAFKA_PORT: u16 = 92;
const KAFKA_PROXIED_PORT: u16 = KAFKA_PORT + 3;
const CQL_PORT: u16 = 42;
/// Ports from the first one on: 100 for the servers' own numbers and those of further nodes, then
/// those of the processes' cluster.
const CLUSTER_PORTS: std::ops::Range<u16> = 800..1_000;

/// Attempts to start the servers. On a busy machine a Cassandra node may exit because it does not
/// hear from another one in time.
const TRIES: u32 = 4;

/// Which kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    Kafka,
    Cassandra,
}

impl Server {
    fn name(self) -> &'static str {
        match self {
            Self::Kafka => "kafka",
            Self::Cassandra => "cassandra",
        }
    }
}

/// Running servers; stopped, and their data deleted, when dropped.
pub(crate) struct Cluster {
    stack: Stack,
    pub(crate) nodes: u8,
    first_port: u16,
    next_cluster_port: u16,
    pub(crate) links: Links,
}

/// The listeners of the processes of a job, and the proxies before them.
pub(crate) struct Meeting {
    /// Where each listens.
    pub(crate) near: Vec<String>,
    /// Where the others find it.
    pub(crate) far: Vec<String>,
    pub(crate) proxies: Vec<Proxy>,
}

impl Cluster {
    /// Starts servers with nothing in them, and the proxies before them. `name` is the directory
    /// under `target/stack`.
    pub(crate) fn start(
        name: &str,
        nodes: u8,
        first_port: u16,
        runtime: Handle,
    ) -> Result<Self, String> {
        // Once in a process: a stack is made for constants.
        let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
        let ports = [
            ("KAFKA_PORT", KAFKA_PORT),
            ("CQL_PORT", CQL_PORT),
            ("STORAGE_PORT", 0),
            ("JMX_PORT", 499),
        ];
        let ports = ports
            .map(|(name, port)| (name, first_port + port))
            .into_iter()
            .chain([("PROXIED", 1)]);
        let ports: &'static [(&'static str, u16)] = Box::leak(ports.collect());
        let arguments: &'static [&'static str] = if nodes == 3 {
            &["--nodes", "3"]
        } else {
            &["--nodes", "1"]
        };
        let mut tries = 1..=TRIES;
        loop {
            let (stack, links) = (
                Stack::new(Layout {
                    name,
                    arguments,
                    ports,
                }),
                Links::new(runtime.clone()),
            );
            let mut cluster = Self {
                stack,
                nodes,
                first_port,
                next_cluster_port: CLUSTER_PORTS.start,
                links,
            };
            match cluster.stack.up() {
                Ok(()) => return cluster.add_proxies().map(|()| cluster),
                Err(fault) if tries.next().is_none() => return Err(fault),
                Err(fault) => {
                    eprintln!(
                        "the servers do not start; trying again: {}",
                        fault
                            .lines()
                            .find(|line| line.starts_with("stack:"))
                            .unwrap_or(&fault)
                    )
                }
            }
        }
    }

    fn add_proxies(&mut self) -> Result<(), String> {
        for node in 1..=self.nodes {
            let kafka = self.first_port + KAFKA_PROXIED_PORT + u16::from(node - 1) * 100;
            self.links.add_server(
                Link::Kafka,
                node,
                SocketAddr::from((Ipv4Addr::LOCALHOST, kafka)),
            )?;
            self.links.add_server(
                Link::Cassandra,
                node,
                SocketAddr::from((Ipv4Addr::new(127, 0, 0, node), self.first_port + CQL_PORT)),
            )?;
        }
        Ok(())
    }

    /// Starts what is not running, and waits until it is ready.
    pub(crate) fn up(&self) -> Result<(), String> {
        let nodes = self.nodes.to_string();
        let mut tries = 1..=TRIES;
        loop {
            match output_of(self.stack.command("up").args(["--nodes", &nodes])) {
                Ok(_) => return Ok(()),
                Err(fault) if tries.next().is_none() => return Err(fault),
                Err(fault) => {
                    eprintln!(
                        "the servers do not become ready; trying again: {}",
                        fault
                            .lines()
                            .find(|line| line.starts_with("stack:"))
                            .unwrap_or(&fault)
                    )
                }
            }
        }
    }

    /// kill -9 of a node, counted from 1.
    pub(crate) fn kill(&self, server: Server, node: u8) -> Result<(), String> {
        output_of(
            self.stack
                .command("kill")
                .args([server.name(), &node.to_string()]),
        )
        .map(drop)
    }

    /// Which Kafka node leads the controllers.
    pub(crate) fn controller(&self) -> Result<u8, String> {
        let brokers = self.brokers();
        let status = output_of(self.stack.command("kafka").args([
            "MetadataQuorumCommand",
            "--bootstrap-server",
            &brokers,
            "describe",
            "--status",
        ]))?;
        let leader = status
            .lines()
            .find_map(|line| line.strip_prefix("LeaderId:"))
            .map(str::trim);
        leader
            .and_then(|id| id.parse().ok())
            .ok_or_else(|| format!("Kafka does not name its controller: {status}"))
    }

    /// Any node.
    pub(crate) fn any(&self, random: &mut StdRng) -> u8 {
        random.random_range(1..=self.nodes)
    }

    /// The brokers for the feed and the readers.
    pub(crate) fn brokers(&self) -> String {
        self.brokers_at(KAFKA_PORT, |_| Ipv4Addr::LOCALHOST)
    }

    /// The brokers for the job, whose connections all lead through proxies.
    pub(crate) fn job_brokers(&self) -> String {
        self.brokers_at(KAFKA_PROXIED_PORT, beside)
    }

    fn brokers_at(&self, port: u16, address: impl Fn(u8) -> Ipv4Addr) -> String {
        let at = |node: u8| {
            format!(
                "{}:{}",
                address(node),
                self.first_port + port + u16::from(node - 1) * 100
            )
        };
        (1..=self.nodes).map(at).collect::<Vec<_>>().join(",")
    }

    /// `--store` of a keyspace, for the readers.
    pub(crate) fn store(&self, keyspace: &str) -> String {
        self.store_at(keyspace, |node| Ipv4Addr::new(127, 0, 0, node))
    }

    /// `--store` of a keyspace for the job: all of its connections lead through proxies.
    pub(crate) fn job_store(&self, keyspace: &str) -> String {
        self.store_at(keyspace, beside)
    }

    fn store_at(&self, keyspace: &str, address: impl Fn(u8) -> Ipv4Addr) -> String {
        let hosts: Vec<String> = (1..=self.nodes)
            .map(|node| format!("{}:{}", address(node), self.first_port + CQL_PORT))
            .collect();
        format!("cassandra://{}/{keyspace}", hosts.join(","))
    }

    /// A connection to the store of a keyspace.
    pub(crate) async fn connect(&self, keyspace: &str) -> Result<CassandraStore, String> {
        let config = CassandraConfig::parse(&self.store(keyspace), "tapeflow")
            .map_err(|faults| faults.to_string())?;
        CassandraStore::connect(config)
            .await
            .map_err(|fault| fault.to_string())
    }

    /// Ports for the cluster of so many processes, with proxies before them: those of a process
    /// that was killed may linger, so they go round.
    ///
    /// # Errors
    /// A proxy cannot listen.
    pub(crate) fn cluster(&mut self, processes: u16) -> Result<Meeting, String> {
        if self.next_cluster_port + processes > CLUSTER_PORTS.end {
            self.next_cluster_port = CLUSTER_PORTS.start;
        }
        let from = self.first_port + self.next_cluster_port;
        self.next_cluster_port += processes;
        let at = |address: Ipv4Addr| {
            (from..from + processes)
                .map(|port| format!("{address}:{port}"))
                .collect()
        };
        // A single process has no peers.
        let proxies = if processes > 1 {
            (from..from + processes)
                .map(|port| self.links.to_process(port))
                .collect::<Result<_, _>>()?
        } else {
            Vec::new()
        };
        Ok(Meeting {
            near: at(Ipv4Addr::LOCALHOST),
            far: at(beside(1)),
            proxies,
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stack.stop();
    }
}

/// Runs a command to its end. The error contains its output.
pub(crate) fn output_of(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|fault| format!("{command:?} does not start: {fault}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!(
            "{command:?}: {}\n{}{}",
            output.status,
            text(&output.stdout),
            text(&output.stderr)
        ))
    }
}
