//! Cassandra nodes in a directory and on ports of their own, with the JVM's full compiler; what they
//! have on disk.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tapeflow_stack::servers::{Layout, Stack};

const CQL_PORT: u16 = 42;

/// Running nodes; stopped, and their data deleted, when dropped.
pub(crate) struct Servers {
    stack: Stack,
    folder: PathBuf,
    first_port: u16,
    nodes: u8,
}

impl Servers {
    /// Starts nodes with nothing in them. `name` is the directory under `target/stack`.
    ///
    /// # Errors
    /// They do not start.
    pub(crate) fn start(name: &str, first_port: u16, nodes: u8) -> Result<Self, String> {
        // Once in a run: a stack is made for constants.
        let leaked: &'static str = Box::leak(name.to_owned().into_boxed_str());
        let ports = [
            ("CQL_PORT", CQL_PORT),
            ("STORAGE_PORT", 0),
            ("JMX_PORT", 499),
        ];
        let ports: &'static [(&'static str, u16)] =
            Box::leak(ports.map(|(name, port)| (name, first_port + port)).into());
        let servers = Self {
            stack: Stack::new(Layout {
                name: leaked,
                arguments: &[],
                ports,
            }),
            folder: Path::new(env!("CARGO_MANIFEST_DIR"))
                .join("../../target/stack")
                .join(name),
            first_port,
            nodes,
        };
        servers.run(&["wipe"])?;
        servers.run(&["up", "--nodes", &nodes.to_string(), "--only", "cassandra"])?;
        Ok(servers)
    }

    /// The addresses of the nodes for clients.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let port = self.first_port + CQL_PORT;
        (1..=self.nodes)
            .map(|node| format!("127.0.0.{node}:{port}"))
            .collect()
    }

    /// How many nodes there are; each has all rows.
    pub(crate) fn nodes(&self) -> u8 {
        self.nodes
    }

    /// The processes of the nodes.
    ///
    /// # Errors
    /// A node left no file that says so.
    pub(crate) fn pids(&self) -> Result<Vec<i32>, String> {
        let pid = |node| {
            let file = self.node(node).join("pid");
            let text = fs::read_to_string(&file)
                .map_err(|error| format!("{}: {error}", file.display()))?;
            text.trim()
                .parse()
                .map_err(|error| format!("{}: {error}", file.display()))
        };
        (1..=self.nodes).map(pid).collect()
    }

    /// Writes what a table has in memory to disk, on all nodes.
    ///
    /// # Errors
    /// What nodetool said.
    pub(crate) fn flush(&self, keyspace: &str, table: &str) -> Result<(), String> {
        (1..=self.nodes).try_for_each(|node| {
            let node = node.to_string();
            self.run(&["nodetool", "--node", &node, "flush", keyspace, table])
        })
    }

    /// The bytes of a table's files on all nodes.
    pub(crate) fn on_disk(&self, keyspace: &str, table: &str) -> u64 {
        let of_table = |folder: &Path| {
            let name = folder.file_name().and_then(|name| name.to_str());
            name.and_then(|name| name.rsplit_once('-'))
                .is_some_and(|(of, _)| of == table)
        };
        (1..=self.nodes)
            .flat_map(|node| entries(&self.node(node).join("data").join(keyspace)))
            .filter(|folder| of_table(folder))
            .flat_map(|folder| entries(&folder))
            .filter_map(|file| file.metadata().ok())
            .filter(fs::Metadata::is_file)
            .map(|found| found.len())
            .sum()
    }

    fn node(&self, node: u8) -> PathBuf {
        self.folder.join(format!("cassandra/node{node}"))
    }

    fn run(&self, arguments: &[&str]) -> Result<(), String> {
        let mut command: Command = self.stack.command(arguments[0]);
        // Without the second compiler the servers' cost of a row is that of the first seconds.
        command
            .args(&arguments[1..])
            .env("TAPEFLOW_STACK_JIT", "full");
        let output = command
            .output()
            .map_err(|error| format!("deploy/dev/stack does not start: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!(
            "stack {}: {}{}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        ))
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        if let Err(reason) = self.run(&["wipe"]) {
            eprintln!("{reason}");
        }
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let found = fs::read_dir(folder).into_iter().flatten().flatten();
    found.map(|entry| entry.path()).collect()
}
