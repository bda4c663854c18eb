//! Feed gaps by bucket. A gap is in each bucket that it touches, so a reader of a range needs no
//! other buckets.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use scylla::{
    client::session::Session, statement::prepared::PreparedStatement, value::CqlTimestamp,
};
use tapeflow_protocol::{FeedGap, StoreError};
use tapeflow_schemas::window::BUCKET_MS;

use super::{
    errors::{broken, of_execution, of_pager, of_row},
    session::Cluster,
};

const DOING: &str = "reading feed gaps";

/// The statements on table `feed_gaps`.
pub(super) struct FeedGaps {
    insert: PreparedStatement,
    buckets: PreparedStatement,
    select: PreparedStatement,
}

/// A row: from, session, to, whether it is open, producer, cause.
type Row = (CqlTimestamp, String, CqlTimestamp, bool, String, String);

impl FeedGaps {
    pub(super) async fn prepare(cluster: &Cluster, keyspace: &str) -> Result<Self, StoreError> {
        let columns = "from_time, session, to_time, is_open, producer, cause";
        Ok(Self {
            insert: cluster
                .prepare(format!(
                    "INSERT INTO {keyspace}.feed_gaps (bucket, {columns}) \
                     VALUES (?, ?, ?, ?, ?, ?, ?)"
                ))
                .await?,
            // A bucket covers two weeks, so the partitions are few.
            buckets: cluster
                .prepare(format!("SELECT DISTINCT bucket FROM {keyspace}.feed_gaps"))
                .await?,
            select: cluster
                .prepare(format!(
                    "SELECT {columns} FROM {keyspace}.feed_gaps WHERE bucket = ?"
                ))
                .await?,
        })
    }

    /// Writes a gap into one of its buckets.
    pub(super) async fn write(
        &self,
        session: &Session,
        bucket: i64,
        gap: &FeedGap,
    ) -> Result<(), StoreError> {
        let values = (
            CqlTimestamp(bucket),
            CqlTimestamp(gap.from_ms),
            gap.session.to_string(),
            CqlTimestamp(gap.to_ms.unwrap_or(gap.from_ms)),
            gap.to_ms.is_none(),
            gap.producer.as_str(),
            gap.cause.as_str(),
        );
        let sent = session.execute_unpaged(&self.insert, values).await;
        sent.map(drop)
            .map_err(|error| of_execution("writing a feed gap", &error))
    }

    /// The gaps in buckets whose starts lie in a range; those of several buckets come several
    /// times.
    pub(super) async fn read(
        &self,
        session: &Session,
        starts: std::ops::Range<i64>,
        in_flight: usize,
    ) -> Result<Vec<FeedGap>, StoreError> {
        let pager = session
            .execute_iter(self.buckets.clone(), ())
            .await
            .map_err(|error| of_pager(DOING, &error))?;
        let mut found = pager.rows_stream::<(CqlTimestamp,)>().map_err(damaged)?;
        let mut buckets = BTreeSet::new();
        while let Some((CqlTimestamp(bucket),)) = found
            .try_next()
            .await
            .map_err(|error| of_row(DOING, &error))?
        {
            if bucket.saturating_add(BUCKET_MS) > starts.start && bucket < starts.end {
                buckets.insert(bucket);
            }
        }
        let parts: Vec<Vec<FeedGap>> = stream::iter(buckets)
            .map(|bucket| self.read_bucket(session, bucket))
            .buffered(in_flight)
            .try_collect()
            .await?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// Every gap, with the number of its buckets that have it.
    pub(super) async fn audit(
        &self,
        session: &Session,
        in_flight: usize,
    ) -> Result<BTreeMap<FeedGap, usize>, StoreError> {
        let mut found = BTreeMap::new();
        for gap in self.read(session, i64::MIN..i64::MAX, in_flight).await? {
            *found.entry(gap).or_default() += 1;
        }
        Ok(found)
    }

    async fn read_bucket(
        &self,
        session: &Session,
        bucket: i64,
    ) -> Result<Vec<FeedGap>, StoreError> {
        let pager = session
            .execute_iter(self.select.clone(), (CqlTimestamp(bucket),))
            .await
            .map_err(|error| of_pager(DOING, &error))?;
        let mut rows = pager.rows_stream::<Row>().map_err(damaged)?;
        let mut gaps = Vec::new();
        while let Some((
            CqlTimestamp(from_ms),
            session,
            CqlTimestamp(to_ms),
            is_open,
            producer,
            cause,
        )) = rows
            .try_next()
            .await
            .map_err(|error| of_row(DOING, &error))?
        {
            gaps.push(FeedGap {
                from_ms,
                to_ms: (!is_open).then_some(to_ms),
                session: session.parse().map_err(damaged)?,
                producer,
                cause,
            });
        }
        Ok(gaps)
    }
}

fn damaged(error: impl std::fmt::Display) -> StoreError {
    broken(format!("{DOING}: {error}"))
}
