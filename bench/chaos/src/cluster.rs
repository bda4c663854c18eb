//! The servers: real Kafka and Cassandra, one node each or three, in a directory and on ports of their own.

use std::process::Command;

use rand::{Rng, rngs::StdRng};
use tapeflow_sinks::cassandra::{CassandraConfig, CassandraStore};

use crate::dev_stack::{Layout, Stack};

/// The one topic.
pub(crate) const TOPIC: &str = "chaos";
/// The one keyspace.
const KEYSPACE: &str = "chaos";
/// Ports from the first one on: 100 for the servers' own numbers and those of further nodes, then those of the processes' mesh.
const MESH_PORTS: std::ops::Range<u16> = 800..1_000;

/// How often servers that do not start are started again: on a busy machine a Cassandra node gives up when it hears no other soon.
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
    next_mesh_port: u16,
}

impl Cluster {
    /// Starts servers with nothing in them. `name` is the directory under `target/stack`.
    pub(crate) fn start(name: &str, nodes: u8, first_port: u16) -> Result<Self, String> {
        // Once in a process: a stack is made for constants.
        let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
        let ports = [("KAFKA_PORT", 92), ("CQL_PORT", 42), ("STORAGE_PORT", 0), ("JMX_PORT", 499)];
        let ports: &'static [(&'static str, u16)] = Box::leak(ports.map(|(name, port)| (name, first_port + port)).into());
        let arguments: &'static [&'static str] = if nodes == 3 { &["--nodes", "3"] } else { &["--nodes", "1"] };
        let mut tries = 1..=TRIES;
        loop {
            let cluster = Self { stack: Stack::new(Layout { name, arguments, ports }), nodes, first_port, next_mesh_port: MESH_PORTS.start };
            match cluster.stack.up() {
                Ok(()) => return Ok(cluster),
                Err(fault) if tries.next().is_none() => return Err(fault),
                Err(fault) => {
                    eprintln!("the servers do not start, again: {}", fault.lines().find(|line| line.starts_with("stack:")).unwrap_or(&fault))
                }
            }
        }
    }

    /// Starts what is not running, and waits until it is ready.
    pub(crate) fn up(&self) -> Result<(), String> {
        let nodes = self.nodes.to_string();
        let mut tries = 1..=TRIES;
        loop {
            match said(self.stack.command("up").args(["--nodes", &nodes])) {
                Ok(_) => return Ok(()),
                Err(fault) if tries.next().is_none() => return Err(fault),
                Err(fault) => {
                    eprintln!("the servers do not come up, again: {}", fault.lines().find(|line| line.starts_with("stack:")).unwrap_or(&fault))
                }
            }
        }
    }

    /// kill -9 of a node, counted from 1.
    pub(crate) fn kill(&self, server: Server, node: u8) -> Result<(), String> {
        said(self.stack.command("kill").args([server.name(), &node.to_string()])).map(drop)
    }

    /// Which Kafka node leads the controllers.
    pub(crate) fn controller(&self) -> Result<u8, String> {
        let brokers = self.brokers();
        let status = said(self.stack.command("kafka").args(["MetadataQuorumCommand", "--bootstrap-server", &brokers, "describe", "--status"]))?;
        let leader = status.lines().find_map(|line| line.strip_prefix("LeaderId:")).map(str::trim);
        leader.and_then(|id| id.parse().ok()).ok_or_else(|| format!("who the controller is, is not said: {status}"))
    }

    /// Any node.
    pub(crate) fn any(&self, random: &mut StdRng) -> u8 {
        random.random_range(1..=self.nodes)
    }

    /// `--brokers`.
    pub(crate) fn brokers(&self) -> String {
        (0..u16::from(self.nodes)).map(|node| format!("127.0.0.1:{}", self.first_port + 92 + node * 100)).collect::<Vec<_>>().join(",")
    }

    /// `--store`.
    pub(crate) fn store(&self) -> String {
        let hosts: Vec<String> = (1..=self.nodes).map(|node| format!("127.0.0.{node}:{}", self.first_port + 42)).collect();
        format!("cassandra://{}/{KEYSPACE}", hosts.join(","))
    }

    /// A connection to the store.
    pub(crate) async fn connect(&self) -> Result<CassandraStore, String> {
        let config = CassandraConfig::parse(&self.store(), "tapeflow").map_err(|faults| faults.to_string())?;
        CassandraStore::connect(config).await.map_err(|fault| fault.to_string())
    }

    /// Ports for the mesh of so many processes: those of a process that was killed may linger, so they go round.
    pub(crate) fn mesh(&mut self, processes: u16) -> Vec<String> {
        if self.next_mesh_port + processes > MESH_PORTS.end {
            self.next_mesh_port = MESH_PORTS.start;
        }
        let from = self.first_port + self.next_mesh_port;
        self.next_mesh_port += processes;
        (from..from + processes).map(|port| format!("127.0.0.1:{port}")).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stack.stop();
    }
}

/// Runs a command to its end, and tells what it said if it failed.
pub(crate) fn said(command: &mut Command) -> Result<String, String> {
    let output = command.output().map_err(|fault| format!("{command:?} does not start: {fault}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{command:?}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr)))
    }
}
