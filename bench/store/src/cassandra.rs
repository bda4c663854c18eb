//! One layout in Cassandra: a table, its statements, and what writing and reading a workload costs.

mod rows;

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use scylla::{
    client::{
        PoolSize, execution_profile::ExecutionProfile, session::Session,
        session_builder::SessionBuilder,
    },
    policies::retry::FallthroughRetryPolicy,
    statement::{
        Consistency,
        batch::{Batch, BatchStatement, BatchType},
        prepared::PreparedStatement,
    },
    value::CqlTimestamp,
};

use self::rows::{CellRow, Lean, Wide};
use crate::{
    cost::Cpu,
    feed::{Row, Statement},
    servers::Servers,
};

/// The keyspace of the bench.
pub(crate) const KEYSPACE: &str = "tapeflow_store";
/// As the job does it (`sinks/src/cassandra`): statements in flight, and connections to a node.
const IN_FLIGHT: usize = 64;
const POOL_SIZE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1);
/// The most rows of a statement.
const MAX_BATCH: usize = 32;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The columns of a row beside its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Columns {
    /// Today's: 15, three of them text, and the cell of format 1.
    Wide,
    /// Epoch and lean cell.
    Cell,
    /// Epoch, seven doubles, trades, revision and lean cell.
    Lean,
}

/// What shares a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Partition {
    /// Today's: 10,000 windows of one size of a symbol.
    Size,
    /// All sizes of a symbol, for a month.
    Symbol,
}

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) columns: Columns,
    pub(crate) partition: Partition,
}

impl Table {
    fn name(self) -> &'static str {
        match (self.columns, self.partition) {
            (Columns::Wide, Partition::Size) => "wide_by_size",
            (Columns::Wide, Partition::Symbol) => "wide_by_symbol",
            (Columns::Cell, Partition::Size) => "cell_by_size",
            (Columns::Cell, Partition::Symbol) => "cell_by_symbol",
            (Columns::Lean, Partition::Size) => "lean_by_size",
            (Columns::Lean, Partition::Symbol) => "lean_by_symbol",
        }
    }

    /// The type of `size`: today's tables have the text.
    fn size_type(self) -> &'static str {
        match self.columns {
            Columns::Wide => "text",
            Columns::Cell | Columns::Lean => "int",
        }
    }

    fn columns(self) -> &'static [(&'static str, &'static str)] {
        const WIDE: [(&str, &str); 15] = [
            ("epoch", "bigint"),
            ("open", "double"),
            ("high", "double"),
            ("low", "double"),
            ("close", "double"),
            ("vwap", "double"),
            ("volume", "double"),
            ("notional", "double"),
            ("volume_exact", "text"),
            ("notional_exact", "text"),
            ("vwap_exact", "text"),
            ("trades", "bigint"),
            ("priced", "bigint"),
            ("revision", "bigint"),
            ("state", "blob"),
        ];
        const CELL: [(&str, &str); 2] = [("epoch", "bigint"), ("state", "blob")];
        const LEAN: [(&str, &str); 11] = [
            ("epoch", "bigint"),
            ("open", "double"),
            ("high", "double"),
            ("low", "double"),
            ("close", "double"),
            ("vwap", "double"),
            ("volume", "double"),
            ("notional", "double"),
            ("trades", "bigint"),
            ("revision", "bigint"),
            ("state", "blob"),
        ];
        match self.columns {
            Columns::Wide => &WIDE,
            Columns::Cell => &CELL,
            Columns::Lean => &LEAN,
        }
    }

    fn create(self) -> String {
        let columns: Vec<String> = self
            .columns()
            .iter()
            .map(|(name, of)| format!("{name} {of}"))
            .collect();
        let (key, order) = match self.partition {
            Partition::Size => ("(symbol, size, bucket), start", "start DESC"),
            Partition::Symbol => ("(symbol, bucket), size, start", "size ASC, start DESC"),
        };
        format!(
            "CREATE TABLE {KEYSPACE}.{} (symbol text, size {}, bucket timestamp, start timestamp, \
             {}, PRIMARY KEY ({key})) WITH CLUSTERING ORDER BY ({order})",
            self.name(),
            self.size_type(),
            columns.join(", ")
        )
    }

    fn insert(self) -> String {
        let names: Vec<&str> = self.columns().iter().map(|(name, _)| *name).collect();
        format!(
            "INSERT INTO {KEYSPACE}.{} (symbol, size, bucket, start, {}) VALUES (?, ?, ?, ?{}) \
             USING TIMESTAMP ?",
            self.name(),
            names.join(", "),
            ", ?".repeat(names.len())
        )
    }

    fn select(self) -> String {
        let keys = match self.partition {
            Partition::Size => "symbol = ? AND size = ? AND bucket = ? AND start IN ?",
            Partition::Symbol => "symbol = ? AND bucket = ? AND (size, start) IN ?",
        };
        format!(
            "SELECT start, epoch, state FROM {KEYSPACE}.{} WHERE {keys}",
            self.name()
        )
    }

    /// The bucket of a row: of 10,000 windows, or of 30 days, which stand for a month.
    fn bucket(self, row: &Row) -> CqlTimestamp {
        const MONTH_MS: i64 = 30 * 86_400_000;
        CqlTimestamp(match self.partition {
            Partition::Size => row.start - row.start.rem_euclid(10_000 * row.size.ms()),
            Partition::Symbol => row.start - row.start.rem_euclid(MONTH_MS),
        })
    }
}

/// What a workload costs in one table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Costs {
    /// To write it.
    pub(crate) written: Cpu,
    /// To flush it, the servers' CPU time, and what is on disk then; only with one node, because
    /// nodetool takes longer than the writes.
    pub(crate) flushed: Option<(Duration, u64)>,
    /// Of all state cells that were written.
    pub(crate) cell_bytes: u64,
    /// To read the rows of every fourth statement back.
    pub(crate) read: Cpu,
}

/// Every so many statements one is read back.
pub(crate) const READ_ONE_OF: usize = 4;

/// A table and its prepared statements.
pub(crate) struct Bars {
    table: Table,
    insert: PreparedStatement,
    /// Unlogged batches of two and more inserts; the first one has two.
    batches: Vec<Batch>,
    select: PreparedStatement,
}

/// Connects and creates the keyspace, with a replica on each node.
///
/// # Errors
/// The servers refuse.
pub(crate) async fn connect(servers: &Servers) -> Result<Session, String> {
    let profile = ExecutionProfile::builder()
        .consistency(Consistency::LocalQuorum)
        .retry_policy(Arc::new(FallthroughRetryPolicy))
        .request_timeout(Some(REQUEST_TIMEOUT))
        .build();
    let session = SessionBuilder::new()
        .known_nodes(servers.addresses())
        .default_execution_profile_handle(profile.into_handle())
        .pool_size(PoolSize::PerHost(POOL_SIZE))
        .build()
        .await
        .map_err(|error| error.to_string())?;
    let create = format!(
        "CREATE KEYSPACE {KEYSPACE} WITH replication = \
         {{'class': 'NetworkTopologyStrategy', 'replication_factor': {}}}",
        servers.nodes()
    );
    session
        .query_unpaged(create, ())
        .await
        .map_err(|error| error.to_string())?;
    Ok(session)
}

impl Bars {
    /// Creates the table.
    ///
    /// # Errors
    /// The servers refuse.
    pub(crate) async fn create(session: &Session, table: Table) -> Result<Self, String> {
        session
            .query_unpaged(table.create(), ())
            .await
            .map_err(|error| error.to_string())?;
        let prepare = async |text: String| {
            let statement = session.prepare(text).await;
            statement.map_err(|error| error.to_string())
        };
        let insert = prepare(table.insert()).await?;
        let batch = |rows: usize| {
            Batch::new_with_statements(
                BatchType::Unlogged,
                vec![BatchStatement::PreparedStatement(insert.clone()); rows],
            )
        };
        Ok(Self {
            table,
            batches: (2..=MAX_BATCH).map(batch).collect(),
            select: prepare(table.select()).await?,
            insert,
        })
    }

    /// Writes a workload into the empty table, flushes it and reads a part of it. The statements of
    /// one call have write timestamps from `timestamp` on.
    ///
    /// # Errors
    /// A server refuses, or a row that was written is not there.
    pub(crate) async fn measure(
        &self,
        session: &Session,
        servers: &Servers,
        statements: &[Statement],
        timestamp: i64,
    ) -> Result<Costs, String> {
        let name = self.table.name();
        session
            .query_unpaged(format!("TRUNCATE {KEYSPACE}.{name}"), ())
            .await
            .map_err(|error| error.to_string())?;
        let pids = servers.pids()?;
        let before = Cpu::now(&pids)?;
        let cell_bytes = self.write_all(session, statements, timestamp).await?;
        let after_writes = Cpu::now(&pids)?;
        let flushed = if servers.nodes() == 1 {
            servers.flush(KEYSPACE, name)?;
            let spent = Cpu::now(&pids)?.since(after_writes).servers;
            Some((spent, servers.on_disk(KEYSPACE, name)))
        } else {
            None
        };
        let before_reads = Cpu::now(&pids)?;
        self.read_all(session, statements).await?;
        let after_reads = Cpu::now(&pids)?;
        Ok(Costs {
            written: after_writes.since(before),
            flushed,
            cell_bytes,
            read: after_reads.since(before_reads),
        })
    }

    async fn write_all(
        &self,
        session: &Session,
        statements: &[Statement],
        timestamp: i64,
    ) -> Result<u64, String> {
        stream::iter(statements.iter().zip(timestamp..))
            .map(|(rows, timestamp)| self.write(session, rows, timestamp))
            .buffer_unordered(IN_FLIGHT)
            .try_fold(0, async |sum, bytes| Ok(sum + bytes))
            .await
    }

    /// Writes the rows of one statement; returns the bytes of their cells.
    async fn write(&self, session: &Session, rows: &[Row], timestamp: i64) -> Result<u64, String> {
        match self.table.columns {
            Columns::Wide => {
                let rows: Vec<_> = rows
                    .iter()
                    .map(|row| Wide::of(self.table, row, timestamp))
                    .collect();
                self.send(session, &rows, |row| row.state.len()).await
            }
            Columns::Cell => {
                let rows: Vec<_> = rows
                    .iter()
                    .map(|row| CellRow::of(self.table, row, timestamp))
                    .collect();
                self.send(session, &rows, |row| row.state.len()).await
            }
            Columns::Lean => {
                let rows: Vec<_> = rows
                    .iter()
                    .map(|row| Lean::of(self.table, row, timestamp))
                    .collect();
                self.send(session, &rows, |row| row.state.len()).await
            }
        }
    }

    async fn send<R: scylla::serialize::row::SerializeRow>(
        &self,
        session: &Session,
        rows: &[R],
        cell_bytes: impl Fn(&R) -> usize,
    ) -> Result<u64, String> {
        let sent = match rows {
            [row] => session.execute_unpaged(&self.insert, row).await,
            rows => session.batch(&self.batches[rows.len() - 2], rows).await,
        };
        sent.map_err(|error| error.to_string())?;
        let bytes: usize = rows.iter().map(cell_bytes).sum();
        u64::try_from(bytes).map_err(|error| error.to_string())
    }

    async fn read_all(&self, session: &Session, statements: &[Statement]) -> Result<(), String> {
        let read = stream::iter(statements.iter().step_by(READ_ONE_OF))
            .map(|rows| self.read(session, rows))
            .buffer_unordered(IN_FLIGHT);
        read.try_collect().await
    }

    /// Reads the rows of a statement as a job reads them back: one query a partition.
    async fn read(&self, session: &Session, rows: &[Row]) -> Result<(), String> {
        let Some(first) = rows.first() else {
            return Ok(());
        };
        match self.table.partition {
            Partition::Symbol => self.read_symbol(session, first, rows).await,
            Partition::Size => {
                let is_one = |a: &Row, b: &Row| a.size == b.size;
                for group in rows.chunk_by(is_one) {
                    self.read_size(session, group).await?;
                }
                Ok(())
            }
        }
    }

    async fn read_symbol(
        &self,
        session: &Session,
        first: &Row,
        rows: &[Row],
    ) -> Result<(), String> {
        let (symbol, bucket) = (first.symbol.as_str(), self.table.bucket(first));
        if self.table.columns == Columns::Wide {
            let key = |row: &Row| (row.size.to_string(), CqlTimestamp(row.start));
            let keys: Vec<_> = rows.iter().map(key).collect();
            let values = (symbol, bucket, keys);
            self.expect(session, values, rows.len()).await
        } else {
            let key = |row: &Row| (rows::seconds_of(row), CqlTimestamp(row.start));
            let keys: Vec<_> = rows.iter().map(key).collect();
            let values = (symbol, bucket, keys);
            self.expect(session, values, rows.len()).await
        }
    }

    async fn read_size(&self, session: &Session, rows: &[Row]) -> Result<(), String> {
        let Some(first) = rows.first() else {
            return Ok(());
        };
        let starts: Vec<_> = rows.iter().map(|row| CqlTimestamp(row.start)).collect();
        let (symbol, bucket) = (first.symbol.as_str(), self.table.bucket(first));
        if self.table.columns == Columns::Wide {
            let values = (symbol, first.size.to_string(), bucket, starts);
            self.expect(session, values, rows.len()).await
        } else {
            let values = (symbol, rows::seconds_of(first), bucket, starts);
            self.expect(session, values, rows.len()).await
        }
    }

    async fn expect(
        &self,
        session: &Session,
        values: impl scylla::serialize::row::SerializeRow,
        rows: usize,
    ) -> Result<(), String> {
        let answer = session
            .execute_unpaged(&self.select, values)
            .await
            .map_err(|error| error.to_string())?;
        let found = answer
            .into_rows_result()
            .map_err(|error| error.to_string())?;
        let cells = found
            .rows::<(CqlTimestamp, i64, &[u8])>()
            .map_err(|error| error.to_string())?;
        let cells = cells.filter(|row| row.as_ref().is_ok_and(|(.., cell)| !cell.is_empty()));
        match cells.count() {
            count if count == rows => Ok(()),
            count => Err(format!("{rows} rows were written, {count} are there")),
        }
    }
}
