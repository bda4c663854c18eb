//! Reads the checkpoint, the history, and ranges of bars and views from the store. One damaged cell
//! does not hide the others.

use std::{collections::BTreeSet, ops::Range};

use tapeflow_protocol::{Audited, Checkpoint, HistoryEntry, Store, StoreError};
use tapeflow_schemas::{WindowSize, WindowStart};
use tokio::runtime::Handle;

use crate::error::AuditError;

/// History entries read at most: three days of epochs of 250 ms.
const MAX_HISTORY: usize = 1_000_000;
/// History entries read at first.
const FIRST_HISTORY: usize = 256;
/// The most rows of a symbol or view and a size that are looked for one by one. With more of them
/// the store is damaged as a whole.
const MOST_DAMAGED: usize = 1_000;
/// How much more history each further read asks for.
const HISTORY_GROWTH: usize = 4;

/// The checkpoint of the job that writes to a store. `runtime` is the one in which the store was
/// opened.
///
/// # Errors
/// [`AuditError::NoJob`], [`AuditError::Checkpoint`].
pub fn checkpoint_of(store: &dyn Store, runtime: &Handle) -> Result<Checkpoint, AuditError> {
    let found = runtime
        .block_on(store.checkpoint())
        .map_err(|source| AuditError::Checkpoint {
            store: store.describe(),
            source,
        })?;
    found.ok_or_else(|| AuditError::NoJob {
        store: store.describe(),
    })
}

/// The newest history, newest first, back to an entry that is old enough or to the first one.
pub(crate) async fn history_back_to(
    store: &dyn Store,
    old_enough: impl Fn(&HistoryEntry) -> bool,
) -> Result<Vec<HistoryEntry>, AuditError> {
    let mut limit = FIRST_HISTORY;
    loop {
        let history = store.history(limit).await.map_err(AuditError::Store)?;
        if history.len() < limit || limit >= MAX_HISTORY || history.last().is_some_and(&old_enough)
        {
            return Ok(history);
        }
        limit = (limit * HISTORY_GROWTH).min(MAX_HISTORY);
    }
}

/// A window as the store has it, or why it cannot be read.
pub(crate) type Stored<T> = (WindowStart, Result<Audited<T>, String>);

/// Reads a range at once. What cannot be read is halved until the damaged row is found, so that one
/// cell hides no other, whether or not a trade belongs to it. `windows` are those that the
/// recomputation has: each one in a damaged row is damaged.
pub(crate) fn read_range<T>(
    size: WindowSize,
    range: &Range<WindowStart>,
    windows: impl Iterator<Item = (WindowSize, WindowStart)>,
    read: impl Fn(Range<WindowStart>) -> Result<Vec<Audited<T>>, StoreError>,
    what: impl Fn() -> String,
) -> Result<Vec<Stored<T>>, AuditError> {
    let row_ms = if size.is_packed() {
        WindowSize::MINUTE.ms()
    } else {
        1
    };
    let mut windows = Some(windows);
    let mut known: BTreeSet<WindowStart> = BTreeSet::new();
    let (mut all, mut damaged) = (Vec::new(), 0);
    // The earliest part is read first, so at most one half waits for each halving.
    let mut waiting = vec![range.clone()];
    while let Some(part) = waiting.pop() {
        let reason = match read(part.clone()) {
            Ok(found) => {
                all.extend(found.into_iter().map(|found| (found.start, Ok(found))));
                continue;
            }
            Err(StoreError::Broken(reason)) => reason,
            Err(error) => return Err(AuditError::Store(error)),
        };
        if let Some(middle) = middle_row(&part, row_ms) {
            waiting.push(middle..part.end);
            waiting.push(part.start..middle);
            continue;
        }
        damaged += 1;
        if damaged > MOST_DAMAGED {
            return Err(AuditError::Unreadable {
                what: what(),
                reason,
            });
        }
        if let Some(windows) = windows.take() {
            let of_size = windows.filter(|(of, _)| *of == size);
            known.extend(of_size.map(|(_, start)| start));
        }
        let mut in_row: Vec<WindowStart> = known.range(part.clone()).copied().collect();
        if in_row.is_empty() {
            in_row.push(part.start);
        }
        all.extend(in_row.into_iter().map(|start| (start, Err(reason.clone()))));
    }
    Ok(all)
}

/// Where to halve a range between two rows; `None` if it is one row.
fn middle_row(range: &Range<WindowStart>, row_ms: i64) -> Option<WindowStart> {
    let middle = range.start.midpoint(range.end);
    let before = middle.checked_sub(middle.rem_euclid(row_ms))?;
    [before, before.saturating_add(row_ms)]
        .into_iter()
        .find(|middle| range.start < *middle && *middle < range.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a store with a window at each of `starts`; the rows of `damaged` ones cannot be read.
    fn read(
        size: &str,
        starts: &[WindowStart],
        damaged: &[WindowStart],
        known: &[WindowStart],
    ) -> Result<Vec<(WindowStart, bool)>, AuditError> {
        let size: WindowSize = size.parse().expect("a size");
        let row = |start: WindowStart| size.row_of(start).1;
        let read = |range: Range<WindowStart>| {
            let rows = damaged.iter().map(|start| row(*start));
            let row_end = if size.is_packed() { 60_000 } else { 1 };
            if let Some(at) = rows
                .filter(|at| *at < range.end && at + row_end > range.start)
                .min()
            {
                return Err(StoreError::Broken(format!("row {at}")));
            }
            let found = starts.iter().filter(|start| range.contains(start));
            Ok(found
                .map(|start| Audited::new(*start, (), Vec::new()))
                .collect())
        };
        let known = known.iter().map(|start| (size, *start));
        let found = read_range(size, &(i64::MIN..i64::MAX), known, read, || "bars".into())?;
        Ok(found
            .into_iter()
            .map(|(start, found)| (start, found.is_ok()))
            .collect())
    }

    #[test]
    fn a_damaged_row_hides_no_other_whether_or_not_a_trade_belongs_to_it() {
        let hour = 3_600_000;
        let starts = [0, hour, 3 * hour, 5 * hour];
        assert_eq!(
            read("1h", &starts, &[hour, 4 * hour], &[0, hour]).expect("read"),
            [
                (0, true),
                (hour, false),
                (3 * hour, true),
                (4 * hour, false),
                (5 * hour, true)
            ]
        );
    }

    #[test]
    fn all_that_is_packed_into_a_damaged_minute_is_damaged() {
        let starts = [0, 61_000, 62_000, 180_000];
        assert_eq!(
            read("1s", &starts, &[61_000], &[0, 61_000, 62_000]).expect("read"),
            [(0, true), (61_000, false), (62_000, false), (180_000, true)]
        );
        assert_eq!(
            read("1s", &[0, 180_000], &[61_000], &[]).expect("read"),
            [(0, true), (60_000, false), (180_000, true)]
        );
    }

    #[test]
    fn a_store_that_is_damaged_as_a_whole_ends_the_audit() {
        let damaged: Vec<WindowStart> = (0..2_000).collect();
        let error = read("1m", &[], &damaged, &[]).expect_err("too many");
        assert!(matches!(error, AuditError::Unreadable { .. }), "{error}");
    }
}
