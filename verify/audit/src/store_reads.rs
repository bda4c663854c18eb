//! Reads the checkpoint, the history, and ranges of bars and views from the store. One damaged cell
//! does not hide the others.

use std::ops::Range;

use tapeflow_protocol::{Audited, Checkpoint, HistoryEntry, Store, StoreError};
use tapeflow_schemas::{WindowSize, WindowStart};
use tokio::runtime::Handle;

use crate::error::AuditError;

/// History entries read at most: three days of epochs of 250 ms.
const MAX_HISTORY: usize = 1_000_000;
/// History entries read at first.
const FIRST_HISTORY: usize = 256;
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

/// Reads a range at once. If something in it cannot be read, it reads the range window by window:
/// those of `windows`, which are the ones that the recomputation has.
pub(crate) fn read_range<T>(
    size: WindowSize,
    range: &Range<WindowStart>,
    windows: impl Iterator<Item = (WindowSize, WindowStart)>,
    read: impl Fn(Range<WindowStart>) -> Result<Vec<Audited<T>>, StoreError>,
    what: impl Fn() -> String,
) -> Result<Vec<Stored<T>>, AuditError> {
    let stored = |found: Vec<Audited<T>>| found.into_iter().map(|found| (found.start, Ok(found)));
    let reason = match read(range.clone()) {
        Ok(found) => return Ok(stored(found).collect()),
        Err(StoreError::Broken(reason)) => reason,
        Err(error) => return Err(AuditError::Store(error)),
    };
    let (mut all, mut damaged) = (Vec::new(), false);
    for (_, start) in windows.filter(|(of, start)| *of == size && range.contains(start)) {
        match read(start..start + 1) {
            Ok(found) => all.extend(stored(found)),
            Err(StoreError::Broken(reason)) => {
                damaged = true;
                all.push((start, Err(reason)));
            }
            Err(error) => return Err(AuditError::Store(error)),
        }
    }
    // Otherwise the damage is in a window without trades, or in the store as a whole.
    if damaged {
        Ok(all)
    } else {
        Err(AuditError::Unreadable {
            what: what(),
            reason,
        })
    }
}
