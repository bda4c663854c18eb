//! Opens the store that a command names.

use std::{path::Path, sync::Arc};

use tapeflow_log::sqlite::{Access, Database};
use tapeflow_protocol::{Checkpoint, CheckpointStore, Store, StoreError};
use tapeflow_sinks::{
    cassandra::{CassandraConfig, CassandraStore, Credentials},
    sqlite::SqliteStore,
};

use crate::{
    args::store::{StoreAddress, StoreChoice},
    exit::{Exit, unreachable_store},
};

/// The settings of a Cassandra store.
pub(crate) fn cassandra(
    nodes: &[String],
    keyspace: &str,
    login: &crate::args::store::Login,
    job: &str,
) -> Result<CassandraConfig, Exit> {
    let address = format!("cassandra://{}/{keyspace}", nodes.join(","));
    let mut config = CassandraConfig::parse(&address, job)
        .map_err(|errors| Exit::Input(format!("--store: {errors}")))?;
    config.credentials = login
        .user
        .clone()
        .zip(login.password.as_ref())
        .map(|(user, password)| Credentials {
            user,
            password: password.clone(),
        });
    config.tls.clone_from(&login.tls);
    Ok(config)
}

/// A store to read from. Only a writer names its job; a reader takes the keyspace's own.
pub(crate) async fn reader(choice: &StoreChoice) -> Result<Arc<dyn Store>, Exit> {
    match &choice.address {
        StoreAddress::Sqlite(path) => Ok(Arc::new(SqliteStore::new(sqlite(path, Access::Reader)?))),
        StoreAddress::Cassandra { nodes, keyspace } => {
            let config = cassandra(nodes, keyspace, &choice.login, "")?;
            let name = config.address();
            Ok(Arc::new(
                CassandraStore::connect(config)
                    .await
                    .map_err(|error| unreachable_store(&name, &error))?,
            ))
        }
    }
}

/// A store for a job.
pub(crate) async fn writer(choice: &StoreChoice, job: &str) -> Result<Arc<dyn Store>, Exit> {
    match &choice.address {
        StoreAddress::Sqlite(path) => {
            make_folder(path)?;
            Ok(Arc::new(SqliteStore::new(sqlite(path, Access::Job)?)))
        }
        StoreAddress::Cassandra { nodes, keyspace } => {
            let config = cassandra(nodes, keyspace, &choice.login, job)?;
            let name = config.address();
            let store = CassandraStore::connect(config)
                .await
                .map_err(|error| unreachable_store(&name, &error))?;
            for finding in store.findings() {
                tracing::warn!("{finding}");
            }
            Ok(Arc::new(store))
        }
    }
}

/// Opens an SQLite file.
pub(crate) fn sqlite(path: &Path, access: Access) -> Result<Database, Exit> {
    if matches!(access, Access::Reader) && !path.exists() {
        return Err(Exit::Input(format!(
            "sqlite:{} does not exist: start a job with tapeflow run, or name another file with \
             --store or --log",
            path.display()
        )));
    }
    Database::open(path, access)
        .map_err(|error| unreachable_store(&format!("sqlite:{}", path.display()), &error))
}

/// Creates the folder of an SQLite file.
pub(crate) fn make_folder(path: &Path) -> Result<(), Exit> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    folder.map_or(Ok(()), |folder| {
        std::fs::create_dir_all(folder).map_err(|error| {
            Exit::Input(format!(
                "--store: cannot create {}: {error}",
                folder.display()
            ))
        })
    })
}

/// The checkpoint of the job whose store this is.
pub(crate) async fn checkpoint(store: &dyn CheckpointStore) -> Result<Checkpoint, Exit> {
    let found = store
        .checkpoint()
        .await
        .map_err(|error| unreachable_store(&store.describe(), &error))?;
    found.ok_or_else(|| {
        Exit::Input(format!(
            "no job has run on {} yet: start one with tapeflow run or tapeflow dataflow, or name \
             another store with --store",
            store.describe()
        ))
    })
}

/// The answer to a later call to the store.
pub(crate) fn answered<T>(answer: Result<T, StoreError>) -> Result<T, Exit> {
    answer.map_err(|error| crate::exit::store_failed(&error))
}
