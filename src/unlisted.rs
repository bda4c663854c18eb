//! Symbols of baskets that have no bar and are not subscribed to. Nothing is wrong with a basket of
//! symbols that trade later, but a misspelled symbol would be missing from its sums for ever.

use std::collections::BTreeSet;

use tapeflow_protocol::Store;
use tapeflow_schemas::{Baskets, Symbol};

/// The most symbols that are named; the count is that of all.
const NAMED: usize = 20;

/// The symbols of the baskets that neither the store lists nor the feed has; warns of them. `None`
/// if nothing can be said: there are no baskets, no known symbols, or the store does not answer,
/// which the job will report.
pub(crate) async fn basket_symbols(
    baskets: &Baskets,
    store: &dyn Store,
    feed: &[String],
) -> Option<Vec<Symbol>> {
    if baskets.is_empty() {
        return None;
    }
    let listed = store.symbols().await.ok()?;
    let known: BTreeSet<&str> = listed
        .iter()
        .map(|(symbol, _)| symbol.as_str())
        .chain(feed.iter().map(String::as_str))
        .collect();
    if known.is_empty() {
        return None;
    }
    let members: BTreeSet<&Symbol> = baskets
        .iter()
        .flat_map(|(_, members)| members.keys())
        .collect();
    let unlisted: Vec<Symbol> = members
        .into_iter()
        .filter(|symbol| !known.contains(symbol.as_str()))
        .cloned()
        .collect();
    if !unlisted.is_empty() {
        let named: Vec<&str> = unlisted.iter().take(NAMED).map(Symbol::as_str).collect();
        tracing::warn!(
            count = unlisted.len(),
            symbols = named.join(","),
            "baskets name symbols without a bar: check how they are spelled"
        );
    }
    Some(unlisted)
}
