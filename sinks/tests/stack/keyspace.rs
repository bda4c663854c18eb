//! A keyspace for one test, with a session to query it.
//!
//! To create the tables takes a second. Therefore a test that does not change them gives its keyspace
//! back, and the next test empties it. A keyspace of a failed test is not used again.

use std::sync::{
    Mutex as Shelf,
    atomic::{AtomicU32, Ordering},
};

use scylla::{
    client::{session::Session, session_builder::SessionBuilder},
    serialize::row::SerializeRow,
    value::{CqlValue, Row},
};
use tapeflow_sinks::cassandra::{
    CassandraConfig, CassandraStore, InitReport, MIGRATIONS, Migration, init_with,
};
use tokio::sync::Mutex;

/// Cassandra does not order concurrent schema changes.
static SCHEMA: Mutex<()> = Mutex::const_new(());
/// Names of keyspaces with all tables that no test uses.
static IDLE: Shelf<Vec<String>> = Shelf::new(Vec::new());

pub(crate) struct Keyspace {
    pub(crate) config: CassandraConfig,
    session: Session,
}

impl Keyspace {
    /// A name that no other test has. The keyspace is not created yet.
    pub(crate) async fn plan(host: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self::named(
            host,
            &format!("{}{}", prefix(), NEXT.fetch_add(1, Ordering::Relaxed)),
        )
        .await
    }

    async fn named(host: &str, name: &str) -> Self {
        let config = CassandraConfig::parse(&format!("cassandra://{host}/{name}"), "contract")
            .expect("an address");
        Self {
            config,
            session: session(host).await,
        }
    }

    /// A keyspace with all tables, empty.
    pub(crate) async fn borrow(host: &str) -> Self {
        let idle = IDLE.lock().expect("no test panics here").pop();
        let Some(name) = idle else {
            return Self::create(host).await;
        };
        let keyspace = Self::named(host, &name).await;
        let tables = [
            "bars",
            "symbols",
            "symbol_buckets",
            "checkpoint",
            "history",
            "history_hours",
            "dead_letters",
            "dead_letter_blocks",
            "views",
            "view_entries",
            "feed_gaps",
            "expired",
        ];
        for table in tables {
            if !keyspace
                .cql(&format!("SELECT * FROM KS.{table} LIMIT 1"), ())
                .await
                .is_empty()
            {
                let _alone = SCHEMA.lock().await;
                keyspace.cql(&format!("TRUNCATE KS.{table}"), ()).await;
            }
        }
        keyspace
    }

    /// Gives the keyspace to the next test.
    pub(crate) fn give_back(self) {
        IDLE.lock()
            .expect("no test panics here")
            .push(self.config.keyspace);
    }

    /// A keyspace with all tables.
    pub(crate) async fn create(host: &str) -> Self {
        let keyspace = Self::plan(host).await;
        keyspace.init(MIGRATIONS).await;
        keyspace
    }

    pub(crate) async fn init(&self, known: &'static [Migration]) -> InitReport {
        let _alone = SCHEMA.lock().await;
        init_with(&self.config, 1, known).await.expect("init")
    }

    pub(crate) async fn connect(&self) -> CassandraStore {
        CassandraStore::connect(self.config.clone())
            .await
            .expect("connects")
    }

    /// The text of the error with which connecting fails.
    pub(crate) async fn refusal(&self) -> String {
        CassandraStore::connect(self.config.clone())
            .await
            .err()
            .expect("refused")
            .to_string()
    }

    /// Runs a statement. `KS` in it is replaced by the keyspace's name.
    pub(crate) async fn cql(&self, statement: &str, values: impl SerializeRow) -> Vec<Row> {
        let statement = statement.replace("KS", &self.config.keyspace);
        let answer = self
            .session
            .query_unpaged(statement.as_str(), values)
            .await
            .unwrap_or_else(|error| panic!("{statement}: {error}"));
        let Ok(rows) = answer.into_rows_result() else {
            return Vec::new();
        };
        rows.rows::<Row>()
            .expect("rows")
            .collect::<Result<_, _>>()
            .expect("rows")
    }
}

fn prefix() -> String {
    format!("test_{}_", std::process::id())
}

async fn session(host: &str) -> Session {
    SessionBuilder::new()
        .known_node(host)
        .fetch_schema_metadata(false)
        .build()
        .await
        .expect("Cassandra answers")
}

/// Drops the keyspaces of this process in a cluster that keeps running.
pub(crate) async fn drop_all(host: &str) {
    let any = Keyspace::plan(host).await;
    for row in any
        .cql("SELECT keyspace_name FROM system_schema.keyspaces", ())
        .await
    {
        if let Some(Some(CqlValue::Text(name))) = row.columns.into_iter().next()
            && name.starts_with(&prefix())
        {
            any.cql(&format!("DROP KEYSPACE {name}"), ()).await;
        }
    }
}
