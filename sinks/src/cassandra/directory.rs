//! The directory: which symbols exist, and in which partitions of `bars` they have bars.

use std::collections::{BTreeSet, HashSet};

use futures::{StreamExt, TryStreamExt, stream};
use scylla::{
    client::session::Session,
    statement::{
        batch::{Batch, BatchStatement, BatchType},
        prepared::PreparedStatement,
    },
    value::CqlTimestamp,
};
use tapeflow_protocol::{DirectoryEntry, StoreError, Unlisted};
use tapeflow_schemas::{AssetClass, Symbol};

use super::{
    errors::{broken, of_execution, of_pager, of_row},
    session::Cluster,
};

/// Entries in one statement, each in another partition: below the server's warning threshold (see
/// [`super::bars`]).
const ENTRIES: usize = 10;

/// The statements on tables `symbols` and `symbol_buckets`.
pub(super) struct Directory {
    add_symbol: PreparedStatement,
    add_bucket: PreparedStatement,
    symbols: PreparedStatement,
    buckets: PreparedStatement,
    all: PreparedStatement,
}

impl Directory {
    pub(super) async fn prepare(cluster: &Cluster, keyspace: &str) -> Result<Self, StoreError> {
        Ok(Self {
            add_symbol: cluster.prepare(format!("INSERT INTO {keyspace}.symbols (symbol, class) VALUES (?, ?)")).await?,
            add_bucket: cluster.prepare(format!("INSERT INTO {keyspace}.symbol_buckets (symbol, bucket) VALUES (?, ?)")).await?,
            symbols: cluster.prepare(format!("SELECT symbol, class FROM {keyspace}.symbols")).await?,
            buckets: cluster
                .prepare(format!("SELECT bucket FROM {keyspace}.symbol_buckets WHERE symbol = ? ORDER BY bucket ASC"))
                .await?,
            all: cluster.prepare(format!("SELECT symbol, bucket FROM {keyspace}.symbol_buckets")).await?,
        })
    }

    /// Writes the entries, and each of their symbols once.
    pub(super) async fn write(
        &self,
        session: &Session,
        entries: &[DirectoryEntry],
        in_flight: usize,
    ) -> Result<(), StoreError> {
        let mut symbols: Vec<&Symbol> = entries.iter().map(|entry| &entry.symbol).collect();
        symbols.sort_unstable();
        symbols.dedup();
        stream::iter(symbols.chunks(ENTRIES))
            .map(Ok)
            .try_for_each_concurrent(in_flight, |some| self.write_symbols(session, some))
            .await?;
        stream::iter(entries.chunks(ENTRIES))
            .map(Ok)
            .try_for_each_concurrent(in_flight, |some| self.write_buckets(session, some))
            .await
    }

    async fn write_symbols(
        &self,
        session: &Session,
        symbols: &[&Symbol],
    ) -> Result<(), StoreError> {
        let values: Vec<_> = symbols
            .iter()
            .map(|symbol| (symbol.as_str(), symbol.class().name()))
            .collect();
        let sent = session
            .batch(&batch(&self.add_symbol, values.len()), &values)
            .await;
        sent.map(drop)
            .map_err(|error| of_execution("writing symbols", &error))
    }

    async fn write_buckets(
        &self,
        session: &Session,
        entries: &[DirectoryEntry],
    ) -> Result<(), StoreError> {
        let values: Vec<_> = entries
            .iter()
            .map(|entry| (entry.symbol.as_str(), CqlTimestamp(entry.bucket)))
            .collect();
        let sent = session
            .batch(&batch(&self.add_bucket, values.len()), &values)
            .await;
        sent.map(drop)
            .map_err(|error| of_execution("writing buckets", &error))
    }

    /// All symbols, ascending.
    pub(super) async fn symbols(
        &self,
        session: &Session,
    ) -> Result<Vec<(Symbol, AssetClass)>, StoreError> {
        const DOING: &str = "reading the symbols";
        let pager = session
            .execute_iter(self.symbols.clone(), ())
            .await
            .map_err(|error| of_pager(DOING, &error))?;
        let mut found = pager
            .rows_stream::<(String, Option<String>)>()
            .map_err(|error| broken(format!("{DOING}: {error}")))?;
        let mut symbols = Vec::new();
        while let Some((text, class)) = found
            .try_next()
            .await
            .map_err(|error| of_row(DOING, &error))?
        {
            let symbol = Symbol::new(&text)
                .map_err(|error| broken(format!("table symbols holds {text:?}: {error}")))?;
            if class.as_deref() != Some(symbol.class().name()) {
                return Err(broken(format!(
                    "table symbols says {symbol} is of class {class:?}; this tapeflow says {}",
                    symbol.class().name()
                )));
            }
            symbols.push((symbol.clone(), symbol.class()));
        }
        symbols.sort_unstable();
        Ok(symbols)
    }

    /// The buckets in which a symbol has bars, ascending.
    pub(super) async fn buckets(
        &self,
        session: &Session,
        symbol: &Symbol,
    ) -> Result<Vec<i64>, StoreError> {
        let doing = format!("reading the buckets of {symbol}");
        let pager = session
            .execute_iter(self.buckets.clone(), (symbol.as_str(),))
            .await
            .map_err(|error| of_pager(&doing, &error))?;
        let found = pager
            .rows_stream::<(CqlTimestamp,)>()
            .map_err(|error| broken(format!("{doing}: {error}")))?;
        found
            .map_ok(|(bucket,)| bucket.0)
            .try_collect()
            .await
            .map_err(|error| of_row(&doing, &error))
    }

    /// Removes the partitions that the directory lists, and keeps the others.
    pub(super) async fn retain_unlisted(
        &self,
        session: &Session,
        partitions: &mut BTreeSet<Unlisted>,
    ) -> Result<(), StoreError> {
        const DOING: &str = "reading the directory";
        let symbols: HashSet<Symbol> = self
            .symbols(session)
            .await?
            .into_iter()
            .map(|(symbol, _)| symbol)
            .collect();
        let pager = session
            .execute_iter(self.all.clone(), ())
            .await
            .map_err(|error| of_pager(DOING, &error))?;
        let mut found = pager
            .rows_stream::<(String, CqlTimestamp)>()
            .map_err(|error| broken(format!("{DOING}: {error}")))?;
        while let Some((symbol, CqlTimestamp(bucket))) = found
            .try_next()
            .await
            .map_err(|error| of_row(DOING, &error))?
        {
            if symbols.contains(symbol.as_str()) {
                partitions.remove(&Unlisted { symbol, bucket });
            }
        }
        Ok(())
    }
}

fn batch(insert: &PreparedStatement, entries: usize) -> Batch {
    let mut batch = Batch::new_with_statements(
        BatchType::Unlogged,
        vec![BatchStatement::PreparedStatement(insert.clone()); entries],
    );
    batch.set_is_idempotent(true);
    batch
}
