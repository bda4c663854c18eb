//! A process that serves over HTTP, for every target that asks one.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ChildStderr, Command, Stdio},
};

use serde_json::Value;

use crate::binary::tapeflow;

/// A run that is killed when the test ends.
pub struct Running {
    /// The process.
    pub child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its log, from the line after the one that names the address.
    pub said: BufReader<ChildStderr>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a command that serves, at a port that was free, and reads where from its log.
pub fn serving(arguments: &[&str]) -> Running {
    serving_at("127.0.0.1:0", arguments)
}

/// Starts a command that serves at an address.
pub fn serving_at(address: &str, arguments: &[&str]) -> Running {
    started(&mut tapeflow(&[arguments, &flags(address)].concat()))
}

/// The flags that make a command serve at an address, and say where in its log.
#[must_use]
pub fn flags(address: &str) -> [&str; 6] {
    [
        "--http",
        address,
        "--log-format",
        "json",
        "--log-level",
        "info",
    ]
}

/// Starts a command with these [`flags`], and reads from its log where it serves.
///
/// # Panics
/// If it does not start, or ends before it serves.
pub fn started(command: &mut Command) -> Running {
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let said = BufReader::new(child.stderr.take().expect("piped"));
    let mut running = Running {
        child,
        address: ([127, 0, 0, 1], 0).into(),
        said,
    };
    let mut all = String::new();
    loop {
        let mut line = String::new();
        assert!(
            running.said.read_line(&mut line).expect("a log line") > 0,
            "it ended before it served: {all}"
        );
        let address = serde_json::from_str::<Value>(&line)
            .ok()
            .and_then(|line| line["fields"]["address"].as_str()?.parse().ok());
        if let Some(address) = address {
            running.address = address;
            return running;
        }
        all.push_str(&line);
    }
}
