//! The contract suite on the stores that need no server: memory and SQLite. `stack.rs` runs the
//! same suite on a real Cassandra.

mod suite;

use std::sync::Arc;

use futures::FutureExt;
use libtest_mimic::{Arguments, Trial};
use tapeflow_log::sqlite::{Access, Database};
use tapeflow_protocol::Store;
use tapeflow_sinks::{memory::MemoryStore, sqlite::SqliteStore};

fn main() {
    let trials = suite::CHECKS.iter().flat_map(|(name, check)| {
        let memory = Trial::test(format!("memory::{name}"), || {
            let store = MemoryStore::default();
            run(*check, Arc::new(store.clone()));
            // What the suite writes twice at one write timestamp is equal, and its epochs grow with
            // their write timestamps.
            store
                .violations()
                .is_empty()
                .then_some(())
                .ok_or_else(|| format!("{:#?}", store.violations()).into())
        });
        let sqlite = Trial::test(format!("sqlite::{name}"), || {
            let directory = tempfile::tempdir()?;
            let database = Database::open(&directory.path().join("contract.db"), Access::Job)?;
            run(*check, Arc::new(SqliteStore::new(database)));
            Ok(())
        });
        [memory, sqlite]
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit();
}

fn run(check: suite::Check, store: Arc<dyn Store>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    // The store is dropped inside the runtime, as a job drops it.
    runtime.block_on(check(store).boxed());
}
