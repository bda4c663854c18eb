//! `tapeflow init`: creates the keyspace and its tables. It is idempotent.
//!
//! A migration is recorded after its statements have run and the nodes agree on the schema. After a
//! crash in between, the next `init` runs its statements again.

use std::{fmt, time::Duration};

use scylla::statement::Statement;
use tapeflow_protocol::StoreError;

use super::{
    config::CassandraConfig,
    errors::{broken, of_execution},
    findings::{self, Finding},
    migrations::{self, MIGRATIONS, Migration},
    session::{self, Cluster},
};

/// The timeout of a schema change. It waits for all nodes, so it may take longer than a write.
const SCHEMA_TIMEOUT: Duration = Duration::from_secs(30);

/// The result of `init`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitReport {
    /// The keyspace.
    pub keyspace: String,
    /// The datacenter that `LOCAL_QUORUM` refers to.
    pub datacenter: String,
    /// Replicas in that datacenter.
    pub replication: u32,
    /// Whether this run created the keyspace.
    pub created: bool,
    /// The migrations of this run, in order. Empty if the tables were up to date.
    pub applied: Vec<&'static str>,
    /// The requirements of the guarantee that the cluster does not meet.
    pub findings: Vec<Finding>,
}

impl fmt::Display for InitReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            keyspace,
            datacenter,
            replication,
            created,
            applied,
            ..
        } = self;
        let state = if *created { "created" } else { "there already" };
        let tables = if applied.is_empty() {
            "up to date".to_owned()
        } else {
            format!("now have {}", applied.join(", "))
        };
        write!(
            f,
            "keyspace {keyspace} {state} with {replication} replica(s) in {datacenter}; \
             tables {tables}"
        )
    }
}

/// Creates the keyspace with `replication` replicas in the local datacenter, and migrates its
/// tables to this binary's version. It is idempotent.
///
/// # Errors
/// [`StoreError::Broken`] if there are too few nodes, or a newer binary created the tables;
/// [`StoreError::Unavailable`] if the cluster does not answer.
pub async fn init(config: &CassandraConfig, replication: u32) -> Result<InitReport, StoreError> {
    init_with(config, replication, MIGRATIONS).await
}

/// The number of nodes in the local datacenter. It is the limit of `replication`.
///
/// # Errors
/// [`StoreError`] if the cluster cannot be reached.
pub async fn nodes(config: &CassandraConfig) -> Result<u32, StoreError> {
    let cluster = session::open(config).await?;
    u32::try_from(nodes_of(&cluster)).map_err(|_| broken("a cluster has fewer nodes than 2^32"))
}

fn nodes_of(cluster: &Cluster) -> usize {
    cluster
        .session
        .get_cluster_state()
        .get_nodes_info()
        .iter()
        .filter(|node| node.datacenter.as_ref() == Some(&cluster.datacenter))
        .count()
}

/// [`init`] with only `known`, the first few migrations, as an older binary has them.
///
/// # Errors
/// As [`init`].
pub async fn init_with(
    config: &CassandraConfig,
    replication: u32,
    known: &'static [Migration],
) -> Result<InitReport, StoreError> {
    let cluster = session::open(config).await?;
    let (keyspace, datacenter) = (&config.keyspace, &cluster.datacenter);
    let created = cluster.replication(keyspace).await?.is_none();
    if created {
        create_keyspace(&cluster, keyspace, replication).await?;
    }
    let recorded = cluster.recorded(keyspace).await?;
    let outstanding =
        migrations::outstanding(keyspace, known, recorded.as_deref().unwrap_or_default())?;
    if recorded.is_none() {
        let columns = "version int PRIMARY KEY, name text, checksum text, applied_at timestamp";
        change(
            &cluster,
            &format!("CREATE TABLE IF NOT EXISTS {keyspace}.migrations ({columns})"),
        )
        .await?;
    }
    if !outstanding.is_empty() {
        cluster
            .session
            .use_keyspace(keyspace, false)
            .await
            .map_err(|error| broken(format!("using keyspace {keyspace}: {error}")))?;
    }
    for migration in outstanding {
        run(&cluster, keyspace, migration).await?;
    }
    let found = findings::replicas(
        &cluster.replication(keyspace).await?.unwrap_or_default(),
        datacenter,
    );
    let mut findings = findings::examine(&cluster, keyspace).await?;
    if found != replication {
        findings.push(Finding::OtherReplication {
            replicas: found,
            wanted: replication,
        });
    }
    Ok(InitReport {
        keyspace: keyspace.clone(),
        datacenter: datacenter.clone(),
        replication: found,
        created,
        applied: outstanding.iter().map(|migration| migration.name).collect(),
        findings,
    })
}

/// Drops a keyspace that a benchmark created for itself. A keyspace in which a job with another
/// name than the configuration's has run is kept.
///
/// # Errors
/// [`StoreError::Broken`] if the keyspace belongs to another job; [`StoreError::Unavailable`] if
/// the cluster does not answer.
pub async fn drop_keyspace(config: &CassandraConfig) -> Result<(), StoreError> {
    let cluster = session::open(config).await?;
    let keyspace = &config.keyspace;
    let cql = format!("SELECT job FROM {keyspace}.checkpoint WHERE only_one = 1");
    let found = cluster
        .session
        .query_unpaged(&*cql, ())
        .await
        .map_err(|error| of_execution(&cql, &error))?;
    let rows = found
        .into_rows_result()
        .map_err(|error| broken(format!("{cql}: {error}")))?;
    let owner = rows
        .maybe_first_row::<(String,)>()
        .map_err(|error| broken(format!("{cql}: {error}")))?;
    match owner {
        Some((owner,)) if owner != config.job => Err(broken(format!(
            "keyspace {keyspace} belongs to job {owner}, not to {}: it stays",
            config.job
        ))),
        _ => change(&cluster, &format!("DROP KEYSPACE {keyspace}")).await,
    }
}

async fn create_keyspace(
    cluster: &Cluster,
    keyspace: &str,
    replication: u32,
) -> Result<(), StoreError> {
    let datacenter = &cluster.datacenter;
    let nodes = nodes_of(cluster);
    // Cassandra would accept this replication, and then no quorum would be possible.
    if replication == 0 || usize::try_from(replication).is_ok_and(|wanted| wanted > nodes) {
        return Err(broken(format!(
            "{replication} replica(s) wanted, {datacenter} has {nodes} node(s): \
             give a number between 1 and {nodes}"
        )));
    }
    let name = datacenter.replace('\'', "''");
    change(
        cluster,
        &format!(
            "CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = \
             {{'class': 'NetworkTopologyStrategy', '{name}': {replication}}}"
        ),
    )
    .await
}

async fn run(cluster: &Cluster, keyspace: &str, migration: &Migration) -> Result<(), StoreError> {
    for statement in migration.statements() {
        change(cluster, &statement).await?;
    }
    let agreement = cluster.session.await_schema_agreement().await;
    agreement.map_err(|error| {
        StoreError::Unavailable(format!(
            "the nodes do not agree on the schema after {}: {error}",
            migration.name
        ))
    })?;
    let cql = format!(
        "INSERT INTO {keyspace}.migrations (version, name, checksum, applied_at) \
         VALUES (?, ?, ?, toTimestamp(now()))"
    );
    let version =
        i32::try_from(migration.version).map_err(|_| broken("a migration's number is small"))?;
    let recorded = cluster
        .session
        .query_unpaged(cql, (version, migration.name, migration.checksum()))
        .await;
    recorded
        .map(drop)
        .map_err(|error| of_execution(&format!("recording {}", migration.name), &error))
}

async fn change(cluster: &Cluster, cql: &str) -> Result<(), StoreError> {
    let mut statement = Statement::new(cql);
    statement.set_request_timeout(Some(SCHEMA_TIMEOUT));
    cluster
        .session
        .query_unpaged(statement, ())
        .await
        .map(drop)
        .map_err(|error| of_execution(cql, &error))
}
