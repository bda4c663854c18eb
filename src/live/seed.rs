//! Fills the board from the store at the start, gently: a few symbols at a time.

use std::sync::Arc;

use futures::{StreamExt, stream};
use tapeflow_protocol::{BarReader, Store, StoreError};
use tapeflow_schemas::{StoredBar, Symbol, WindowSize, WindowStart};

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

/// Reads the newest bars of each symbol. A store that does not answer leaves the page to what the
/// job tells.
pub(super) async fn seed(live: Arc<Live>, store: Arc<dyn Store>) {
    match symbols(&*store).await {
        Ok((symbols, newest_ms)) => {
            let size = live.board().size();
            let (live, store) = (&live, &store);
            let each = |symbol: Symbol| async move {
                match bars_of(&**store, &symbol, live, size, newest_ms).await {
                    Ok(bars) => live.board().seed(&symbol, &bars),
                    Err(error) => {
                        tracing::debug!(%symbol, %error, "the page begins without this symbol")
                    }
                }
            };
            stream::iter(symbols)
                .for_each_concurrent(AT_ONCE, each)
                .await;
        }
        Err(error) => tracing::debug!(%error, "the page begins empty"),
    }
}

/// All symbols, and the newest event time of what is committed; no symbols where nothing is.
async fn symbols(store: &dyn Store) -> Result<(Vec<Symbol>, i64), StoreError> {
    let Some(newest_ms) = store
        .checkpoint()
        .await?
        .and_then(|checkpoint| checkpoint.last_binding().watermark_ms())
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

async fn bars_of(
    store: &dyn BarReader,
    symbol: &Symbol,
    live: &Live,
    size: WindowSize,
    newest_ms: i64,
) -> Result<Vec<StoredBar>, StoreError> {
    let end = newest_ms.saturating_add(size.ms());
    let mut bars = store
        .bars(
            symbol,
            size,
            end.saturating_sub(WINDOWS.saturating_mul(size.ms()))..WindowStart::MAX,
        )
        .await?;
    if bars.is_empty() {
        return newest(store, symbol, &live.sizes, size, CLOSES_KEPT + 1, end).await;
    }
    bars.drain(..bars.len().saturating_sub(CLOSES_KEPT + 1));
    Ok(bars)
}
