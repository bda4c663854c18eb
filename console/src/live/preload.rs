//! Reads the newest bars of each symbol from the store when the process starts, a few symbols at a
//! time.

use std::sync::Arc;

use futures::{StreamExt, stream};
use tapeflow_protocol::{BarReader, Store, StoreError};
use tapeflow_schemas::{StoredBar, Symbol, WindowSize, WindowStart};

use super::{
    LiveBars,
    newest::newest,
    table::{CLOSES_KEPT, SYMBOLS_KEPT},
};

/// Symbols read at once.
const CONCURRENCY: usize = 4;
/// The first read covers this many of the newest windows of the job. A symbol without a bar in them
/// needs the search of [`newest`].
const FIRST_WINDOWS: i64 = 4 * CLOSES_KEPT as i64;

/// Reads the newest bars of each symbol into the table. If the store fails, the page starts without
/// them and shows what the job writes.
pub(super) async fn preload(bars: Arc<LiveBars>, store: Arc<dyn Store>) {
    match symbols(&*store).await {
        Ok((symbols, newest_ms)) => {
            let size = bars.table().size();
            let (live, store) = (&bars, &store);
            let each = |symbol: Symbol| async move {
                match bars_of(&**store, &symbol, live, size, newest_ms).await {
                    Ok(bars) => live.table().preload(&symbol, &bars),
                    Err(error) => {
                        tracing::debug!(%symbol, %error, "cannot preload this symbol")
                    }
                }
            };
            stream::iter(symbols)
                .for_each_concurrent(CONCURRENCY, each)
                .await;
        }
        Err(error) => tracing::debug!(%error, "cannot preload the live page"),
    }
}

/// The symbols of the store, at most [`SYMBOLS_KEPT`], and the watermark of the last binding; no
/// symbols before the first trade.
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
    live: &LiveBars,
    size: WindowSize,
    newest_ms: i64,
) -> Result<Vec<StoredBar>, StoreError> {
    let end = newest_ms.saturating_add(size.ms());
    let mut bars = store
        .bars(
            symbol,
            size,
            end.saturating_sub(FIRST_WINDOWS.saturating_mul(size.ms()))..WindowStart::MAX,
        )
        .await?;
    if bars.is_empty() {
        return newest(store, symbol, &live.sizes, size, CLOSES_KEPT + 1, end).await;
    }
    bars.drain(..bars.len().saturating_sub(CLOSES_KEPT + 1));
    Ok(bars)
}
