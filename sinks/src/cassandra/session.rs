//! A session with the cluster. It sets TLS, consistency levels and the datacenter, and disables the
//! driver's retries.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use scylla::{
    client::{
        PoolSize, execution_profile::ExecutionProfile, session::Session,
        session_builder::SessionBuilder,
    },
    policies::{load_balancing::DefaultPolicy, retry::FallthroughRetryPolicy},
    statement::{Consistency, SerialConsistency, Statement, prepared::PreparedStatement},
};
use tapeflow_protocol::StoreError;

use super::{
    config::CassandraConfig,
    errors::{broken, of_connecting, of_execution, of_prepare},
    migrations::Recorded,
    tls,
};

/// A session with the datacenter that `LOCAL_QUORUM` refers to.
pub(super) struct Cluster {
    pub(super) session: Session,
    pub(super) datacenter: String,
    /// The nodes on other machines that get the password over an unencrypted connection.
    pub(super) in_clear_to: Vec<String>,
}

/// Connects and determines the datacenter.
pub(super) async fn open(config: &CassandraConfig) -> Result<Cluster, StoreError> {
    let profile = ExecutionProfile::builder()
        .consistency(Consistency::LocalQuorum)
        .serial_consistency(Some(SerialConsistency::LocalSerial))
        .retry_policy(Arc::new(FallthroughRetryPolicy))
        .speculative_execution_policy(None)
        .request_timeout(Some(config.request_timeout))
        .build();
    let mut handle = profile.clone().into_handle();
    let mut builder = SessionBuilder::new()
        .known_nodes(&config.hosts)
        .default_execution_profile_handle(handle.clone())
        .pool_size(PoolSize::PerHost(POOL_SIZE))
        .connection_timeout(config.request_timeout)
        // A connection is closed if it does not answer a keepalive within the request timeout. The
        // driver's defaults are 30 s between keepalives and 30 s to answer: writes on a dead
        // connection would wait that long.
        .keepalive_interval(KEEPALIVE)
        .keepalive_timeout(config.request_timeout)
        // The driver needs only the replication, to send a statement to a replica of its row. The
        // tables and columns are known.
        .fetch_full_schema_metadata(false)
        .refresh_metadata_on_auto_schema_agreement(false)
        // The servers log this name and list it in `system_views.clients`.
        .custom_identity(scylla::client::SelfIdentity::new().with_application_name("tapeflow"));
    if let Some(credentials) = &config.credentials {
        builder = builder.user(&credentials.user, credentials.password.expose());
    }
    if let Some(tls) = &config.tls {
        builder = builder.tls_context(Some(tls::client_config(tls, &config.hosts)?));
    }
    let session = builder
        .build()
        .await
        .map_err(|error| of_connecting(config, &error))?;
    let mut found: Vec<String> = session
        .get_cluster_state()
        .get_nodes_info()
        .iter()
        .filter_map(|node| node.datacenter.clone())
        .collect();
    found.sort();
    found.dedup();
    let datacenter = choose_datacenter(config.datacenter.as_deref(), &found)?;
    // LOCAL_QUORUM is a quorum in the datacenter of the node that coordinates the request. A node
    // in another datacenter would use a quorum of other replicas.
    let policy = DefaultPolicy::builder()
        .prefer_datacenter(datacenter.clone())
        .token_aware(true)
        .permit_dc_failover(false)
        .build();
    handle.map_to_another_profile(profile.to_builder().load_balancing_policy(policy).build());
    let in_clear = config.credentials.is_some() && config.tls.is_none();
    let addresses = session
        .get_cluster_state()
        .get_nodes_info()
        .iter()
        .map(|node| (node.address.ip(), node.address.port()))
        .collect::<Vec<_>>();
    Ok(Cluster {
        session,
        datacenter,
        in_clear_to: if in_clear {
            beyond_this_machine(addresses)
        } else {
            Vec::new()
        },
    })
}

/// A limit as CQL takes it: a 32-bit integer.
pub(super) fn row_limit(limit: usize) -> i32 {
    i32::try_from(limit).unwrap_or(i32::MAX)
}

fn beyond_this_machine(addresses: Vec<(IpAddr, u16)>) -> Vec<String> {
    let mut beyond: Vec<_> = addresses
        .into_iter()
        .filter(|(ip, _)| !ip.to_canonical().is_loopback())
        .map(|(ip, port)| SocketAddr::new(ip, port))
        .collect();
    beyond.sort();
    beyond.iter().map(ToString::to_string).collect()
}

/// The time between two keepalives of a connection.
const KEEPALIVE: Duration = Duration::from_secs(2);
/// Connections to each node. The server handles one connection on a single thread.
const POOL_SIZE: std::num::NonZeroUsize = std::num::NonZeroUsize::MIN.saturating_add(1);

fn choose_datacenter(wanted: Option<&str>, found: &[String]) -> Result<String, StoreError> {
    match (wanted, found) {
        (Some(wanted), _) if found.iter().any(|name| name == wanted) => Ok(wanted.into()),
        (Some(wanted), _) => Err(broken(format!(
            "the cluster has no datacenter {wanted:?}; it has {}",
            found.join(", ")
        ))),
        (None, [only]) => Ok(only.clone()),
        (None, []) => Err(broken(
            "the cluster does not say which datacenter its nodes are in",
        )),
        (None, several) => Err(broken(format!(
            "the cluster has datacenters {}: name the one to write to with --cassandra-datacenter",
            several.join(", ")
        ))),
    }
}

impl Cluster {
    /// Prepares an idempotent statement.
    pub(super) async fn prepare(&self, cql: String) -> Result<PreparedStatement, StoreError> {
        let mut statement = self
            .session
            .prepare(cql.as_str())
            .await
            .map_err(|error| of_prepare(&format!("preparing {cql}"), &error))?;
        statement.set_is_idempotent(true);
        Ok(statement)
    }

    /// All rows of a short answer.
    pub(super) async fn all<R>(
        &self,
        doing: &str,
        statement: impl Into<Statement>,
        values: impl scylla::serialize::row::SerializeRow,
    ) -> Result<Vec<R>, StoreError>
    where
        R: for<'f, 'm> scylla::deserialize::row::DeserializeRow<'f, 'm>,
    {
        let answer = self
            .session
            .query_unpaged(statement, values)
            .await
            .map_err(|error| of_execution(doing, &error))?;
        let rows = answer
            .into_rows_result()
            .map_err(|error| broken(format!("{doing}: {error}")))?;
        let rows = rows
            .rows::<R>()
            .map_err(|error| broken(format!("{doing}: {error}")))?;
        rows.collect::<Result<_, _>>()
            .map_err(|error| broken(format!("{doing}: {error}")))
    }

    /// The replication of a keyspace as the server writes it; `None` if there is no such keyspace.
    pub(super) async fn replication(
        &self,
        keyspace: &str,
    ) -> Result<Option<Vec<(String, String)>>, StoreError> {
        let cql = "SELECT replication FROM system_schema.keyspaces WHERE keyspace_name = ?";
        let rows: Vec<(std::collections::HashMap<String, String>,)> = self
            .all("reading the keyspace's replication", cql, (keyspace,))
            .await?;
        Ok(rows
            .into_iter()
            .next()
            .map(|(options,)| options.into_iter().collect()))
    }

    /// The migrations recorded in a keyspace; `None` if it has no table of migrations.
    pub(super) async fn recorded(
        &self,
        keyspace: &str,
    ) -> Result<Option<Vec<Recorded>>, StoreError> {
        let cql = "SELECT table_name FROM system_schema.tables WHERE keyspace_name = ? AND table_name = 'migrations'";
        let tables: Vec<(String,)> = self
            .all("looking for the table of migrations", cql, (keyspace,))
            .await?;
        if tables.is_empty() {
            return Ok(None);
        }
        let cql = format!("SELECT version, checksum FROM {keyspace}.migrations");
        let rows: Vec<(i32, Option<String>)> = self.all("reading the migrations", cql, ()).await?;
        Ok(Some(
            rows.into_iter()
                .map(|(version, checksum)| Recorded {
                    version,
                    checksum: checksum.unwrap_or_default(),
                })
                .collect(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nodes_on_other_machines_are_reported() {
        let at = |ip: &str| (ip.parse().expect("an address"), 9_042);
        assert_eq!(
            beyond_this_machine(vec![
                at("127.0.0.1"),
                at("127.0.0.3"),
                at("::1"),
                at("::ffff:127.0.0.1")
            ]),
            Vec::<String>::new()
        );
        assert_eq!(
            beyond_this_machine(vec![at("127.0.0.1"), at("fd00::1"), at("10.0.0.1")]),
            ["10.0.0.1:9042", "[fd00::1]:9042"]
        );
    }

    #[test]
    fn a_single_datacenter_is_found_and_several_need_a_choice() {
        let names = |names: &[&str]| {
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>()
        };
        let choose = |wanted, found: &[&str]| {
            choose_datacenter(wanted, &names(found)).map_err(|error| error.to_string())
        };
        assert_eq!(choose(None, &["dc1"]), Ok("dc1".into()));
        assert_eq!(choose(Some("dc2"), &["dc1", "dc2"]), Ok("dc2".into()));
        assert!(choose(None, &["dc1", "dc2"]).is_err_and(|text| text.contains("dc1, dc2")));
        assert!(choose(Some("dc3"), &["dc1"]).is_err_and(|text| text.contains("it has dc1")));
        assert!(choose(None, &[]).is_err());
    }
}
