//! The contract suite and the tests of Cassandra's tables, on a real Cassandra. It is the one that
//! `TAPEFLOW_TEST_CASSANDRA=host:port` names, or one started for this run.
//!
//! Without java or mvn each test is listed as not run, with the reason. `TAPEFLOW_REQUIRE_STACK=1`
//! makes it fail instead.

use tapeflow_stack::servers as dev_stack;
#[path = "stack/faulty.rs"]
mod faulty;
#[path = "stack/keyspace.rs"]
mod keyspace;
#[path = "stack/samples.rs"]
mod samples;
mod suite;
#[path = "stack/tables.rs"]
mod tables;
use tapeflow_stack::trials;
#[path = "stack/views.rs"]
mod views;

use std::{pin::Pin, sync::Arc};

use dev_stack::{Layout, Stack, Wanted};
use keyspace::Keyspace;
use libtest_mimic::{Arguments, Failed};
use tokio::runtime::Runtime;

/// The ports of this test target, below the ephemeral ports of the system.
const CQL_PORT: u16 = 21_042;

static STACK: Stack = Stack::new(Layout {
    name: "test-sinks",
    arguments: &["--only", "cassandra"],
    ports: &[
        ("CQL_PORT", CQL_PORT),
        ("STORAGE_PORT", 21_000),
        ("JMX_PORT", 21_199),
    ],
});

fn main() {
    let arguments = Arguments::from_args();
    let named = std::env::var("TAPEFLOW_TEST_CASSANDRA")
        .ok()
        .filter(|address| !address.is_empty());
    let wanted = if named.is_some() {
        Wanted::Run
    } else {
        dev_stack::wanted()
    };
    let tests = all().into_iter().map(|(name, test)| {
        let named = named.clone();
        (name, move || run(named, test))
    });
    let conclusion = libtest_mimic::run(&arguments, trials::on_servers(&wanted, tests));
    if let Some(host) = &named {
        runtime().block_on(keyspace::drop_all(host));
    }
    STACK.stop();
    conclusion.exit();
}

type Test = Box<dyn FnOnce(String) -> Pin<Box<dyn Future<Output = ()>>> + Send>;

fn all() -> Vec<(String, Test)> {
    let contract = suite::CHECKS.iter().map(|(name, check)| {
        let test: Test = Box::new(move |host| {
            Box::pin(async move {
                let keyspace = Keyspace::borrow(&host).await;
                check(Arc::new(keyspace.connect().await)).await;
                keyspace.give_back();
            })
        });
        (format!("contract::{name}"), test)
    });
    contract
        .chain(tables::tests())
        .chain(views::tests())
        .chain(faulty::tests())
        .collect()
}

fn run(named: Option<String>, test: Test) -> Result<(), Failed> {
    let host = match named {
        Some(host) => host,
        None => STACK.up().map(|()| format!("127.0.0.1:{CQL_PORT}"))?,
    };
    runtime().block_on(test(host));
    Ok(())
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}
