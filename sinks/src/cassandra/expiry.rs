//! Bars and views that leave a keyspace, beside a running job.
//!
//! A minute is written again without its packed bars: its `state` alone, at a write timestamp that
//! lies between the job's own ([`Expiry::minute_without`]). The display columns say nothing of
//! packed bars and stay. Bars with rows of their own are deleted by range, and views by whole
//! partitions of two weeks, because their ranks are not ordered by time alone.

use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering},
};

use futures::{StreamExt, TryStreamExt};
use scylla::{
    client::session::Session, statement::prepared::PreparedStatement, value::CqlTimestamp,
};
use tapeflow_protocol::{Expired, Expiry, ExpiryMarks, StoreError};
use tapeflow_schemas::{
    BarRow, Symbol, View, WindowSize, WindowStart, WriteTimestamp,
    window::{BUCKET_MS, format_utc},
};

use super::{
    errors::{broken, of_execution, of_pager, of_row},
    retry::retry,
    session::Cluster,
};

/// Minutes that are written at once.
const AT_ONCE: usize = 8;

/// The statements by which bars leave.
pub(super) struct Leaving {
    minutes: PreparedStatement,
    rewrite: PreparedStatement,
    delete_bars: PreparedStatement,
    delete_views: [PreparedStatement; 2],
    marks: PreparedStatement,
    begun: PreparedStatement,
    done: PreparedStatement,
}

impl Leaving {
    pub(super) async fn prepare(cluster: &Cluster, keyspace: &str) -> Result<Self, StoreError> {
        let bar = "WHERE symbol = ? AND bucket = ? AND size = ?";
        let of_view = "USING TIMESTAMP ? WHERE view_name = ? AND size = ? AND bucket = ?";
        let mark = async |column: &str| {
            let insert = format!(
                "INSERT INTO {keyspace}.expired (only_one, {column}) VALUES (1, ?) USING TIMESTAMP ?"
            );
            cluster.prepare(insert).await
        };
        Ok(Self {
            minutes: cluster
                .prepare(format!(
                    "SELECT start, state, WRITETIME(state) FROM {keyspace}.bars {bar} \
                     AND start >= ? AND start < ?"
                ))
                .await?,
            rewrite: cluster
                .prepare(format!(
                    "UPDATE {keyspace}.bars USING TIMESTAMP ? SET state = ? {bar} AND start = ?"
                ))
                .await?,
            delete_bars: cluster
                .prepare(format!(
                    "DELETE FROM {keyspace}.bars USING TIMESTAMP ? {bar} \
                     AND start >= ? AND start < ?"
                ))
                .await?,
            delete_views: [
                cluster
                    .prepare(format!("DELETE FROM {keyspace}.view_entries {of_view}"))
                    .await?,
                cluster
                    .prepare(format!("DELETE FROM {keyspace}.views {of_view}"))
                    .await?,
            ],
            marks: cluster
                .prepare(format!(
                    "SELECT begun, done FROM {keyspace}.expired WHERE only_one = 1"
                ))
                .await?,
            begun: mark("begun").await?,
            done: mark("done").await?,
        })
    }

    /// Up to which watermarks bars have left.
    pub(super) async fn up_to(&self, session: &Session) -> Result<ExpiryMarks, StoreError> {
        const DOING: &str = "reading up to where bars have left";
        let answer = session
            .execute_unpaged(&self.marks, ())
            .await
            .map_err(|error| of_execution(DOING, &error))?;
        let row = answer
            .into_rows_result()
            .map_err(|error| broken(format!("{DOING}: {error}")))?
            .maybe_first_row::<(Option<CqlTimestamp>, Option<CqlTimestamp>)>()
            .map_err(|error| broken(format!("{DOING}: {error}")))?;
        let (begun, done) = row.unwrap_or_default();
        Ok(ExpiryMarks {
            begun: begun.map(|at| at.0),
            done: done.map(|at| at.0),
        })
    }

    /// Before anything leaves by this watermark.
    pub(super) async fn begin(&self, session: &Session, watermark: i64) -> Result<(), StoreError> {
        keep(session, &self.begun, watermark).await
    }

    /// After everything has.
    pub(super) async fn end(&self, session: &Session, watermark: i64) -> Result<(), StoreError> {
        keep(session, &self.done, watermark).await
    }

    /// Bars of one symbol leave, in the buckets that the directory lists.
    pub(super) async fn bars_of(
        &self,
        session: &Session,
        symbol: &Symbol,
        buckets: &[i64],
        expiry: &Expiry,
    ) -> Result<Expired, StoreError> {
        let mut all = Expired::default();
        for range in expiry.minutes() {
            for (bucket, range) in within(buckets, &range) {
                all += self.minutes(session, symbol, bucket, range, expiry).await?;
            }
        }
        for size in expiry.row_sizes() {
            for (bucket, range) in within(buckets, &hours(expiry.rows(size))) {
                let values = (
                    expiry.delete_at(),
                    symbol.as_str(),
                    CqlTimestamp(bucket),
                    size.to_string(),
                    CqlTimestamp(range.start),
                    CqlTimestamp(range.end),
                );
                let doing = format!("deleting bars of {symbol} {size}");
                retry(async || {
                    let sent = session
                        .execute_unpaged(&self.delete_bars, values.clone())
                        .await;
                    sent.map_err(|error| of_execution(&doing, &error))
                })
                .await?;
                all.bars += 1;
            }
        }
        Ok(all)
    }

    /// Partitions of a view leave whole, once all their windows are beyond the horizon.
    pub(super) async fn views(
        &self,
        session: &Session,
        view: View,
        size: WindowSize,
        buckets: &[i64],
        expiry: &Expiry,
    ) -> Result<u64, StoreError> {
        let range = expiry.rows(size);
        let old = buckets.iter().filter(|bucket| {
            // A day may begin before its bucket does, by its time zone.
            bucket.saturating_add(BUCKET_MS) <= range.end && **bucket < range.end
        });
        let mut deleted = 0;
        for bucket in old {
            let values = (
                expiry.delete_at(),
                view.name(),
                size.to_string(),
                CqlTimestamp(*bucket),
            );
            for statement in &self.delete_views {
                let sent = session.execute_unpaged(statement, values.clone()).await;
                sent.map_err(|error| of_execution("deleting views", &error))?;
            }
            deleted += 1;
        }
        Ok(deleted)
    }

    async fn minutes(
        &self,
        session: &Session,
        symbol: &Symbol,
        bucket: i64,
        range: Range<WindowStart>,
        expiry: &Expiry,
    ) -> Result<Expired, StoreError> {
        let doing = format!("reading minutes of {symbol}");
        let minute = WindowSize::MINUTE.to_string();
        let values = (
            symbol.as_str(),
            CqlTimestamp(bucket),
            minute.as_str(),
            CqlTimestamp(range.start),
            CqlTimestamp(range.end),
        );
        let pager = session
            .execute_iter(self.minutes.clone(), values)
            .await
            .map_err(|error| of_pager(&doing, &error))?;
        let rows = pager
            .rows_stream::<(CqlTimestamp, Option<Vec<u8>>, Option<i64>)>()
            .map_err(|error| broken(format!("{doing}: {error}")))?;
        let unreadable = AtomicU64::new(0);
        let without = rows.map(|row| {
            let (CqlTimestamp(start), cell, at) = row.map_err(|error| of_row(&doing, &error))?;
            // A row without a cell is damage, which an audit reports.
            let Some((cell, at)) = cell.zip(at) else {
                return Ok(None);
            };
            let without = BarRow::from_cell(&cell, start)
                .and_then(|row| expiry.minute_without(start, &row, at));
            match without {
                Ok(without) => Ok(without.map(|(row, at)| (start, row.to_cell(start), at))),
                // An audit reports it, and a repair needs what is there.
                Err(_) => {
                    unreadable.fetch_add(1, Ordering::Relaxed);
                    Ok(None)
                }
            }
        });
        let minutes = without
            .try_filter_map(async |write| Ok(write))
            .map_ok(|(start, cell, at)| self.rewrite(session, symbol, bucket, start, cell, at))
            .try_buffer_unordered(AT_ONCE)
            .try_fold(0, async |count, ()| Ok(count + 1))
            .await?;
        Ok(Expired {
            minutes,
            unreadable: unreadable.into_inner(),
            ..Expired::default()
        })
    }

    async fn rewrite(
        &self,
        session: &Session,
        symbol: &Symbol,
        bucket: i64,
        start: WindowStart,
        cell: Vec<u8>,
        at: WriteTimestamp,
    ) -> Result<(), StoreError> {
        let minute = WindowSize::MINUTE.to_string();
        let values = (
            at,
            cell,
            symbol.as_str(),
            CqlTimestamp(bucket),
            minute.as_str(),
            CqlTimestamp(start),
        );
        retry(async || {
            let sent = session.execute_unpaged(&self.rewrite, &values).await;
            let doing = || format!("writing the minute {} of {symbol}", format_utc(start));
            sent.map(drop)
                .map_err(|error| of_execution(&doing(), &error))
        })
        .await
    }
}

/// A range of starts in whole hours. Each range that is deleted leaves a tombstone, and one each few
/// minutes would be many.
fn hours(range: Range<WindowStart>) -> Range<WindowStart> {
    let hour = |start: WindowStart| start - start.rem_euclid(3_600_000);
    hour(range.start)..hour(range.end)
}

/// Writes a mark at a write timestamp that grows with it, so that a later and lower one loses.
async fn keep(
    session: &Session,
    statement: &PreparedStatement,
    watermark: i64,
) -> Result<(), StoreError> {
    let values = (CqlTimestamp(watermark), watermark);
    let sent = session.execute_unpaged(statement, values).await;
    sent.map(drop)
        .map_err(|error| of_execution("writing up to where bars have left", &error))
}

/// The buckets that overlap a range of starts, each with its part of the range.
fn within(buckets: &[i64], range: &Range<WindowStart>) -> Vec<(i64, Range<WindowStart>)> {
    let part = |bucket: &i64| {
        let part = range.start.max(*bucket)..range.end.min(bucket.saturating_add(BUCKET_MS));
        (!part.is_empty()).then_some((*bucket, part))
    };
    buckets.iter().filter_map(part).collect()
}
