//! `tapeflow init`: the keyspace and its tables, as often as one likes.
//!
//! A migration runs, the nodes agree on the schema, and only then is it recorded: dying anywhere in
//! between only means that its statements run once more.

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

/// A schema change waits for all nodes, so it may take longer than a write.
const SCHEMA_TIMEOUT: Duration = Duration::from_secs(30);

/// What `init` did, and what it found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitReport {
    /// The keyspace.
    pub keyspace: String,
    /// The datacenter whose quorum counts.
    pub datacenter: String,
    /// Replicas in that datacenter.
    pub replication: u32,
    /// Whether the keyspace is new.
    pub created: bool,
    /// The migrations that ran now, in order; none if the tables were up to date.
    pub applied: Vec<&'static str>,
    /// What the guarantee lacks here.
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
            "keyspace {keyspace} {state} with {replication} replica(s) in {datacenter}; tables {tables}"
        )
    }
}

/// Makes the keyspace with `replication` replicas in the local datacenter, and brings its tables to
/// this binary's version. Idempotent.
///
/// # Errors
/// [`StoreError::Broken`] if there are too few nodes, or a newer binary made the tables;
/// [`StoreError::Unavailable`] if the cluster does not answer.
pub async fn init(config: &CassandraConfig, replication: u32) -> Result<InitReport, StoreError> {
    init_with(config, replication, MIGRATIONS).await
}

/// How many nodes the datacenter has whose quorum counts: no more replicas than these can be asked
/// for.
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

/// [`init`] as a binary did it that knew only `known`, the first few migrations.
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

/// Deletes a keyspace with all that is in it: for one that a measurement has made for itself. It is
/// refused where a job of another name than the configuration's has run.
///
/// # Errors
/// [`StoreError::Broken`] if it is another job's; [`StoreError::Unavailable`] if the
/// cluster does not answer.
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
    // Cassandra would take it, and then answer no quorum.
    if replication == 0 || usize::try_from(replication).is_ok_and(|wanted| wanted > nodes) {
        return Err(broken(format!(
            "{replication} replica(s) wanted, {datacenter} has {nodes} node(s): give a number between 1 and {nodes}"
        )));
    }
    let name = datacenter.replace('\'', "''");
    change(
        cluster,
        &format!("CREATE KEYSPACE IF NOT EXISTS {keyspace} WITH replication = {{'class': 'NetworkTopologyStrategy', '{name}': {replication}}}"),
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
        "INSERT INTO {keyspace}.migrations (version, name, checksum, applied_at) VALUES (?, ?, ?, toTimestamp(now()))"
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
