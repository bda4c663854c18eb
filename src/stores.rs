//! Opens the store that a command names.

use std::{path::Path, sync::Arc};

use tapeflow_log::sqlite::{Access, Database};
use tapeflow_protocol::{Checkpoint, CheckpointStore, Store, StoreError};
use tapeflow_sinks::{
    cassandra::{CassandraConfig, CassandraStore, Credentials},
    sqlite::SqliteStore,
};

use crate::{
    args::{
        store::{StoreAddress, StoreChoice},
        values::Keep,
    },
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
    config.datacenter.clone_from(&login.datacenter);
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

/// Closes an SQLite file when it is dropped, so that nothing stands beside the file after a clean
/// end, whatever threads still hold handles.
pub(crate) struct Closing(Option<Database>);

impl Closing {
    pub(crate) fn of(database: &Database) -> Self {
        Self(Some(database.clone()))
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if let Some(database) = &self.0 {
            database.close();
        }
    }
}

/// A store for a job that ends with this process, and what closes it then. `keep_history` is how
/// long it keeps the history of epochs.
pub(crate) async fn of_job(
    choice: &StoreChoice,
    job: &str,
    keep_history: Keep,
) -> Result<(Arc<dyn Store>, Closing), Exit> {
    match &choice.address {
        StoreAddress::Sqlite(path) => {
            make_folder(path)?;
            let database = sqlite(path, Access::Job)?;
            let closing = Closing::of(&database);
            let store = SqliteStore::new(database).keeping_history(keep_history.limit());
            Ok((Arc::new(store), closing))
        }
        StoreAddress::Cassandra { .. } => {
            Ok((writer(choice, job, keep_history).await?, Closing(None)))
        }
    }
}

/// A store to write. `keep_history` is how long it keeps the history of epochs.
pub(crate) async fn writer(
    choice: &StoreChoice,
    job: &str,
    keep_history: Keep,
) -> Result<Arc<dyn Store>, Exit> {
    match &choice.address {
        StoreAddress::Sqlite(path) => {
            make_folder(path)?;
            let store = SqliteStore::new(sqlite(path, Access::Job)?);
            Ok(Arc::new(store.keeping_history(keep_history.limit())))
        }
        StoreAddress::Cassandra { nodes, keyspace } => {
            let mut config = cassandra(nodes, keyspace, &choice.login, job)?;
            config.keep_history = keep_history.limit();
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
    Database::open(path, access).map_err(|error| match error {
        // The text names the file.
        StoreError::Broken(reason) => Exit::Input(format!("the store cannot be used: {reason}")),
        StoreError::Unavailable(_) => {
            unreachable_store(&format!("sqlite:{}", path.display()), &error)
        }
    })
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
