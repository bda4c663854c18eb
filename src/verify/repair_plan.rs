//! What the bars and lists that differ must say, made from the log once more, for them alone.
//!
//! Bars are made by two programs that share no rule: the recomputation that judged them, and the
//! job's own fold, which alone knows all that a bar's cell holds. Only what both agree on is ever
//! written.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::atomic::AtomicBool,
};

use tapeflow_dataflow::Recompute;
use tapeflow_log::Log;
use tapeflow_oracle::{Oracle, OracleEntry};
use tapeflow_protocol::Checkpoint;
use tapeflow_schemas::{
    BarKey, Baskets, Epoch, Offset, Price, Totals, View, ViewEntry, ViewKey, WindowSize,
    WindowStart, view::SMALLEST_VIEW_MS,
};

use super::{bars, judge::Place, lists, recompute::Feed};
use crate::exit::Exit;

/// Some bars and lists, recomputed up to a checkpoint's last binding.
pub(super) struct RepairPlan<'a> {
    pub(super) bars: BTreeSet<BarKey>,
    pub(super) lists: BTreeSet<ViewKey>,
    baskets: &'a Baskets,
    feed: Feed<'a>,
    oracle: Oracle,
    recompute: Recompute,
}

impl<'a> RepairPlan<'a> {
    /// For these places. The lists of a bar's window come along, if lists are looked at: while the
    /// bar was wrong, a job may have made them of it.
    pub(super) fn new(
        log: &'a dyn Log,
        sizes: &[WindowSize],
        from: &[Offset],
        places: &[Place],
        with_lists: bool,
        baskets: &'a Baskets,
        asked: &'a AtomicBool,
    ) -> Result<Self, Exit> {
        let (mut bars, mut lists) = (BTreeSet::new(), BTreeSet::new());
        for place in places {
            match place {
                Place::Row(key) => {
                    bars.insert(key.clone());
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
        for key in &bars {
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
            u32::try_from(from.len()).map_err(|error| Exit::Failed(error.to_string()))?;
        let oracle = Oracle::new(sizes.to_vec(), partitions).keeping(wanted);
        let recompute = Recompute::new(sizes, from, bars.iter().cloned());
        Ok(Self {
            bars,
            lists,
            baskets,
            feed: Feed::new(log, from, asked),
            oracle,
            recompute,
        })
    }

    /// Goes on to all that a checkpoint has bound.
    pub(super) fn advance(&mut self, checkpoint: &Checkpoint) -> Result<(), Exit> {
        let (oracle, recompute) = (&mut self.oracle, &mut self.recompute);
        self.feed
            .to(&checkpoint.last_binding().cuts, &mut |record| {
                oracle.record(
                    0,
                    record.partition,
                    record.offset,
                    record.timestamp_ms,
                    record.payload,
                );
                recompute.record(record);
            })
    }

    /// What a bar must hold.
    pub(super) fn bar(&mut self, key: &BarKey) -> Result<Totals, String> {
        let judged = self
            .oracle
            .bar_as_of(key.symbol.as_str(), key.size, key.start, Epoch::MAX);
        let (Some(judged), Some(folded)) = (judged, self.recompute.bar(key)) else {
            return Err("the log has no trades for it".into());
        };
        let differences = bars::differences(&folded, &judged);
        if differences.is_empty() {
            Ok(folded)
        } else {
            Err(format!(
                "the job's own fold disagrees with its judge: {}",
                differences.join("; ")
            ))
        }
    }

    /// What a list must hold; none if no bar calls for it.
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
