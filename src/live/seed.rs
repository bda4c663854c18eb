//! Fills the board from the store at the start, gently: a few symbols at a time.

use std::sync::Arc;

use futures::{StreamExt, stream};
use tapeflow_protocol::{Store, StoreError};
use tapeflow_schemas::{StoredRow, Symbol, WindowSize, WindowStart};

use super::{
    Live,
    board::{CLOSES_KEPT, SYMBOLS_KEPT},
    newest::newest,
};

/// Symbols asked for at once.
const AT_ONCE: usize = 4;
/// Windows before the newest of all that are looked through first; what a symbol that has not
/// traded for so long did last is looked for further back.
const WINDOWS: i64 = 4 * CLOSES_KEPT as i64;

/// Reads the newest rows of each symbol. A store that does not answer leaves the page to what the
/// job tells.
pub(super) async fn seed(live: Arc<Live>, store: Arc<dyn Store>) {
    match symbols(&*store).await {
        Ok((symbols, newest_ms)) => {
            let size = live.board().size();
            let (live, store) = (&live, &store);
            let each = |symbol: Symbol| async move {
                match rows_of(&**store, &symbol, live, size, newest_ms).await {
                    Ok(rows) => live.board().seed(&symbol, &rows),
                    Err(fault) => {
                        tracing::debug!(%symbol, %fault, "the page begins without this symbol")
                    }
                }
            };
            stream::iter(symbols)
                .for_each_concurrent(AT_ONCE, each)
                .await;
        }
        Err(fault) => tracing::debug!(%fault, "the page begins empty"),
    }
}

/// All symbols, and the newest event time of what is committed; no symbols where nothing is.
async fn symbols(store: &dyn Store) -> Result<(Vec<Symbol>, i64), StoreError> {
    let Some(newest_ms) = store
        .head()
        .await?
        .and_then(|head| head.last_binding().max_event_ms())
    else {
        return Ok((Vec::new(), 0));
    };
    Ok((
        store
            .symbols()
            .await?
            .into_iter()
            .map(|(symbol, _)| symbol)
            .take(SYMBOLS_KEPT)
            .collect(),
        newest_ms,
    ))
}

async fn rows_of(
    store: &dyn Store,
    symbol: &Symbol,
    live: &Live,
    size: WindowSize,
    newest_ms: i64,
) -> Result<Vec<StoredRow>, StoreError> {
    let end = newest_ms.saturating_add(size.ms());
    let mut rows = store
        .rows(
            symbol,
            size,
            end.saturating_sub(WINDOWS.saturating_mul(size.ms()))..WindowStart::MAX,
        )
        .await?;
    if rows.is_empty() {
        return newest(store, symbol, &live.sizes, size, CLOSES_KEPT + 1, end).await;
    }
    rows.drain(..rows.len().saturating_sub(CLOSES_KEPT + 1));
    Ok(rows)
}
