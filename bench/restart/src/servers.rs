//! The servers: real Kafka and Cassandra, one node each, in a directory and on ports of their own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tapeflow_sinks::cassandra::{CassandraConfig, CassandraStore};

use crate::dev_stack::{Layout, Stack};

const KAFKA_PORT: u16 = 92;
const CQL_PORT: u16 = 42;
/// How often servers that do not start are started again: a busy machine makes them slow.
const TRIES: u32 = 3;

/// Running servers; stopped, and their data deleted, when dropped.
pub(crate) struct Servers {
    stack: Stack,
    first_port: u16,
    folder: PathBuf,
}

impl Servers {
    /// Starts servers with nothing in them. `name` is the directory under `target/stack`.
    ///
    /// # Errors
    /// They do not start.
    pub(crate) fn start(root: &Path, name: &str, first_port: u16) -> Result<Self, String> {
        let folder = root.join("target/stack").join(name);
        // Once in a process: a stack is made for constants.
        let name: &'static str = Box::leak(name.to_owned().into_boxed_str());
        let ports = [
            ("KAFKA_PORT", KAFKA_PORT),
            ("CQL_PORT", CQL_PORT),
            ("STORAGE_PORT", 0),
            ("JMX_PORT", 499),
        ];
        let ports: &'static [(&'static str, u16)] =
            Box::leak(ports.map(|(name, port)| (name, first_port + port)).into());
        let mut tries = 1..TRIES;
        loop {
            let servers = Self {
                stack: Stack::new(Layout {
                    name,
                    arguments: &["--nodes", "1"],
                    ports,
                }),
                first_port,
                folder: folder.clone(),
            };
            match servers.stack.up() {
                Ok(()) => return Ok(servers),
                Err(error) if tries.next().is_none() => return Err(error),
                Err(error) => eprintln!("the servers do not start, again: {error}"),
            }
        }
    }

    /// `--brokers`.
    pub(crate) fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.first_port + KAFKA_PORT)
    }

    /// `--store` of a keyspace.
    pub(crate) fn store(&self, keyspace: &str) -> String {
        format!(
            "cassandra://127.0.0.1:{}/{keyspace}",
            self.first_port + CQL_PORT
        )
    }

    /// A connection to a keyspace.
    ///
    /// # Errors
    /// There is none.
    pub(crate) async fn connect(&self, keyspace: &str) -> Result<CassandraStore, String> {
        let config = CassandraConfig::parse(&self.store(keyspace), "tapeflow")
            .map_err(|errors| errors.to_string())?;
        CassandraStore::connect(config)
            .await
            .map_err(|error| error.to_string())
    }

    /// How many bytes the records of a topic take on disk; 0 if that cannot be seen.
    pub(crate) fn bytes_of(&self, topic: &str) -> u64 {
        let is_of = |path: &Path| {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| name.rsplit_once('-'));
            name.is_some_and(|(of, partition)| {
                of == topic && partition.bytes().all(|byte| byte.is_ascii_digit())
            })
        };
        let in_folder = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
        let partitions = in_folder(&self.folder.join("kafka/node1/data"))
            .map(|entry| entry.path())
            .filter(|path| is_of(path));
        let segments = partitions.flat_map(|partition| in_folder(&partition).collect::<Vec<_>>());
        let logs = segments.filter(|file| {
            file.path()
                .extension()
                .is_some_and(|extension| extension == "log")
        });
        logs.filter_map(|file| file.metadata().ok())
            .map(|found| found.len())
            .sum()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.stack.stop();
    }
}

/// Runs a command to its end and returns its output, as an error if it failed.
///
/// # Errors
/// It failed.
pub(crate) fn said(command: &mut Command) -> Result<String, String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?} does not start: {error}"))?;
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
