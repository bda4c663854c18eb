//! What the rows and lists that differ must say, made from the log once more, for them alone.
//!
//! Rows are made by two programs that share no rule: the recomputation that judged them, and the
//! job's own fold, which alone knows all that a row's cell holds. Only what both agree on is ever
//! written.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::atomic::AtomicBool,
};

use tapeflow_dataflow::Refold;
use tapeflow_log::Log;
use tapeflow_oracle::{Oracle, OracleEntry};
use tapeflow_protocol::Head;
use tapeflow_schemas::{
    Baskets, Epoch, Offset, Price, RowKey, Totals, View, ViewEntry, ViewKey, WindowSize,
    WindowStart, view::SMALLEST_VIEW_MS,
};

use super::{judge::Place, lists, recompute::Feed, rows};
use crate::end::End;

/// Some rows and lists, recomputed up to a head's last binding.
pub(super) struct Remedy<'a> {
    pub(super) rows: BTreeSet<RowKey>,
    pub(super) lists: BTreeSet<ViewKey>,
    baskets: &'a Baskets,
    feed: Feed<'a>,
    oracle: Oracle,
    refold: Refold,
}

impl<'a> Remedy<'a> {
    /// For these places. The lists of a row's window come along, if lists are looked at: while the
    /// row was wrong, a job may have made them of it.
    pub(super) fn new(
        log: &'a dyn Log,
        sizes: &[WindowSize],
        from: &[Offset],
        places: &[Place],
        with_lists: bool,
        baskets: &'a Baskets,
        asked: &'a AtomicBool,
    ) -> Result<Self, End> {
        let (mut rows, mut lists) = (BTreeSet::new(), BTreeSet::new());
        for place in places {
            match place {
                Place::Row(key) => {
                    rows.insert(key.clone());
                    if with_lists && key.size.ms() >= SMALLEST_VIEW_MS {
                        lists.extend(View::EVERY.map(|view| ViewKey {
                            view,
                            size: key.size,
                            start: key.start,
                        }));
                    }
                }
                Place::List(key) => {
                    lists.insert(*key);
                }
                // Nothing is ever written for these.
                Place::Unlisted(_) => {}
            }
        }
        let windows: HashSet<(WindowSize, WindowStart)> =
            lists.iter().map(|key| (key.size, key.start)).collect();
        let mut symbols: HashMap<(WindowSize, WindowStart), HashSet<String>> = HashMap::new();
        for key in &rows {
            symbols
                .entry((key.size, key.start))
                .or_default()
                .insert(key.symbol.as_str().to_owned());
        }
        let wanted = move |symbol: &str, size, start| {
            windows.contains(&(size, start))
                || symbols
                    .get(&(size, start))
                    .is_some_and(|symbols| symbols.contains(symbol))
        };
        let partitions =
            u32::try_from(from.len()).map_err(|fault| End::Failed(fault.to_string()))?;
        let oracle = Oracle::new(sizes.to_vec(), partitions).keeping(wanted);
        let refold = Refold::new(sizes, from, rows.iter().cloned());
        Ok(Self {
            rows,
            lists,
            baskets,
            feed: Feed::new(log, from, asked),
            oracle,
            refold,
        })
    }

    /// Goes on to all that a head has bound.
    pub(super) fn advance(&mut self, head: &Head) -> Result<(), End> {
        let (oracle, refold) = (&mut self.oracle, &mut self.refold);
        self.feed.to(&head.last_binding().cuts, &mut |record| {
            oracle.record(
                0,
                record.partition,
                record.offset,
                record.timestamp_ms,
                record.payload,
            );
            refold.record(record);
        })
    }

    /// What a row must hold.
    pub(super) fn row(&mut self, key: &RowKey) -> Result<Totals, String> {
        let judged = self
            .oracle
            .row_as_of(key.symbol.as_str(), key.size, key.start, Epoch::MAX);
        let (Some(judged), Some(folded)) = (judged, self.refold.row(key)) else {
            return Err("the log has no trades for it".into());
        };
        let differences = rows::differences(&folded, &judged);
        if differences.is_empty() {
            Ok(folded)
        } else {
            Err(format!(
                "the job's own fold disagrees with its judge: {}",
                differences.join("; ")
            ))
        }
    }

    /// What a list must hold; none if no row calls for it.
    pub(super) fn list(&self, key: ViewKey) -> Option<Vec<ViewEntry>> {
        let lines = self.oracle.list_as_of(
            lists::named(key.view),
            key.size,
            key.start,
            Epoch::MAX,
            self.baskets,
        )?;
        Some(lines.into_iter().map(entry).collect())
    }
}

fn entry(line: OracleEntry) -> ViewEntry {
    let OracleEntry {
        name,
        symbols,
        trades,
        volume,
        notional,
        open,
        close,
    } = line;
    let price = |e8: Option<i64>| e8.and_then(|e8| Price::from_e8(e8).ok());
    ViewEntry {
        name,
        symbols,
        trades,
        volume,
        notional,
        open: price(open),
        close: price(close),
    }
}
