//! Whether anything was lost or counted twice: all bars of each window size, added up, must come to
//! what was sent, and so must the history of epochs.

use tapeflow_feed::Written;
use tapeflow_protocol::{BarReader, Counts, SymbolDirectory};
use tapeflow_schemas::{Policy, WindowSize};
use tapeflow_sinks::cassandra::CassandraStore;

/// Compares the store with what was sent. Returns a summary or the difference.
///
/// # Errors
/// What differs.
pub(crate) async fn check(store: &CassandraStore, written: Written) -> Result<String, String> {
    let failed = |error: tapeflow_protocol::StoreError| format!("checking: {error}");
    let symbols = store.symbols().await.map_err(failed)?;
    let mut bars = 0;
    for size in WindowSize::DEFAULTS {
        let mut held = Written {
            records: written.records,
            ..Written::default()
        };
        for (symbol, _) in &symbols {
            for bar in store
                .bars(symbol, size, 0..i64::MAX)
                .await
                .map_err(failed)?
            {
                bars += 1;
                let sums = bar.state.totals.of_policy(Policy::All);
                held.trades += sums.trades;
                held.volume_e8 += sums.volume_e8;
                held.notional_e16 += sums.notional_e16;
            }
        }
        if held != written {
            return Err(format!(
                "the bars of {size} come to {held:?}, and {written:?} was sent"
            ));
        }
    }
    let history = store.history(usize::MAX).await.map_err(failed)?;
    let mut counts = Counts::default();
    history.iter().for_each(|entry| counts.add(&entry.counts));
    let (clean, all) = (
        counts.duplicates + counts.dead_letters + counts.gaps == 0,
        written.trades,
    );
    if (counts.accepted, counts.records, clean) != (all, all, true) {
        return Err(format!(
            "the history comes to {counts:?}, and {all} trades were sent"
        ));
    }
    Ok(format!(
        "the {bars} bars of {} sizes each come to all {all} trades, their volume and notional; so \
         does the history of {} epochs",
        WindowSize::DEFAULTS.len(),
        history.len()
    ))
}
