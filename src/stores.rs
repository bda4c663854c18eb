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
    end::{End, unreachable_store},
};

/// The settings of a Cassandra store.
pub(crate) fn cassandra(
    nodes: &[String],
    keyspace: &str,
    login: &crate::args::store::Login,
    job: &str,
) -> Result<CassandraConfig, End> {
    let address = format!("cassandra://{}/{keyspace}", nodes.join(","));
    let mut config = CassandraConfig::parse(&address, job)
        .map_err(|errors| End::Input(format!("--store: {errors}")))?;
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

/// A store to read from. `job` is asked for by name only where bars are written; a reader takes the
/// keyspace's own.
pub(crate) async fn reader(choice: &StoreChoice) -> Result<Arc<dyn Store>, End> {
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
pub(crate) async fn writer(choice: &StoreChoice, job: &str) -> Result<Arc<dyn Store>, End> {
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
pub(crate) fn sqlite(path: &Path, access: Access) -> Result<Database, End> {
    Database::open(path, access)
        .map_err(|error| unreachable_store(&format!("sqlite:{}", path.display()), &error))
}

/// Makes the folder an SQLite file will lie in.
pub(crate) fn make_folder(path: &Path) -> Result<(), End> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    folder.map_or(Ok(()), |folder| {
        std::fs::create_dir_all(folder).map_err(|error| {
            End::Input(format!(
                "--store: cannot make {}: {error}",
                folder.display()
            ))
        })
    })
}

/// The checkpoint of the job whose store this is.
pub(crate) async fn checkpoint(store: &dyn CheckpointStore) -> Result<Checkpoint, End> {
    let found = store
        .checkpoint()
        .await
        .map_err(|error| unreachable_store(&store.describe(), &error))?;
    found.ok_or_else(|| {
        End::Input(format!(
            "no job has run on {}: nothing to show yet",
            store.describe()
        ))
    })
}

/// What a later question to the store came to.
pub(crate) fn answered<T>(answer: Result<T, StoreError>) -> Result<T, End> {
    answer.map_err(|error| crate::end::store_failed(&error))
}
