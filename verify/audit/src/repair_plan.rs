//! The correct content of the places that differ, recomputed from the log once more.
//!
//! Two programs that share no rules make each bar: the oracle, and the job's own code, which also
//! knows the fields that the oracle does not have. A bar is written only if both agree.

use std::collections::{BTreeSet, HashMap, HashSet};

use tapeflow_dataflow::{RepairValues, RowValues};
use tapeflow_log::Log;
use tapeflow_oracle::{Oracle, OracleEntry};
use tapeflow_protocol::{Checkpoint, FeedGap};
use tapeflow_schemas::{
    BarKey, Baskets, Epoch, Offset, Price, Totals, View, ViewEntry, ViewKey, WindowSize,
    WindowStart, view::has_views,
};
use tokio_util::sync::CancellationToken;

use crate::{
    comparison::{bar_differences, oracle_view},
    error::AuditError,
    findings::Place,
    log_cursor::LogCursor,
    recompute::{COMMITTED, partitions},
    rules::Rules,
};

/// The rows of bars, the views and the feed gaps that a repair writes.
pub(crate) struct RepairPlan<'a> {
    pub(crate) rows: BTreeSet<BarKey>,
    pub(crate) views: BTreeSet<ViewKey>,
    pub(crate) feed_gaps: Vec<FeedGap>,
    baskets: &'a Baskets,
    cursor: LogCursor<'a>,
    oracle: Oracle,
    recompute: RepairValues,
}

impl<'a> RepairPlan<'a> {
    /// A plan for these places, from the offsets `from`. With `with_views` it includes the views of
    /// each bar's window: a job may have made them while the bar was wrong.
    pub(crate) fn new(
        log: &'a dyn Log,
        rules: &'a Rules,
        from: &[Offset],
        places: &[Place],
        with_views: bool,
        stop: &'a CancellationToken,
    ) -> Self {
        let (rows, views) = rows_and_views(places, with_views);
        let oracle = Oracle::new(rules.sizes.clone(), partitions(from))
            .with_horizons(rules.horizons.iter())
            .keeping(needed_bars(&rows, &views));
        let recompute =
            RepairValues::new(&rules.sizes, &rules.horizons, from, rows.iter().cloned());
        Self {
            rows,
            views,
            feed_gaps: places.iter().filter_map(feed_gap).collect(),
            baskets: &rules.baskets,
            cursor: LogCursor::new(log, from, stop),
            oracle,
            recompute,
        }
    }

    /// Reads on to the end of everything that a checkpoint has bound.
    pub(crate) fn read_to(&mut self, checkpoint: &Checkpoint) -> Result<(), AuditError> {
        let (oracle, recompute) = (&mut self.oracle, &mut self.recompute);
        self.cursor
            .read_to(&checkpoint.last_binding().cuts, &mut |record| {
                oracle.record(
                    COMMITTED,
                    record.partition,
                    record.offset,
                    record.timestamp_ms,
                    record.payload,
                );
                recompute.record(record);
            })
    }

    /// The correct content of a row, or why it is not known.
    pub(crate) fn row(&mut self, key: &BarKey) -> Result<RowValues, String> {
        let Some(row) = self.recompute.row(key) else {
            return Err("the log has no trades for it".into());
        };
        self.check(key, &row.totals)?;
        for bar in row.packed.iter(key.start) {
            let bar = bar.map_err(|error| error.to_string())?;
            let key = BarKey {
                symbol: key.symbol.clone(),
                size: bar.size,
                start: bar.start,
            };
            self.check(&key, &bar.totals)?;
        }
        Ok(row)
    }

    /// Compares a bar with the oracle's.
    fn check(&self, key: &BarKey, totals: &Totals) -> Result<(), String> {
        let expected = self
            .oracle
            .bar_as_of(key.symbol.as_str(), key.size, key.start, Epoch::MAX);
        let Some(expected) = expected else {
            return Err("the log has no trades for it".into());
        };
        let differences = bar_differences(totals, &expected);
        if differences.is_empty() {
            Ok(())
        } else {
            Err(format!(
                "the job's own code and the oracle disagree about {key}: {}",
                differences.join("; ")
            ))
        }
    }

    /// The correct content of a view; `None` if no bar makes it.
    pub(crate) fn view(&self, key: ViewKey) -> Option<Vec<ViewEntry>> {
        let entries = self.oracle.view_as_of(
            oracle_view(key.view),
            key.size,
            key.start,
            Epoch::MAX,
            self.baskets,
        )?;
        Some(entries.into_iter().map(view_entry).collect())
    }
}

fn feed_gap(place: &Place) -> Option<FeedGap> {
    match place {
        Place::FeedGap(gap) => Some(gap.clone()),
        Place::Bar(_) | Place::View(_) | Place::Unlisted(_) | Place::FeedGaps => None,
    }
}

fn rows_and_views(places: &[Place], with_views: bool) -> (BTreeSet<BarKey>, BTreeSet<ViewKey>) {
    let (mut rows, mut views) = (BTreeSet::new(), BTreeSet::new());
    for place in places {
        match place {
            Place::Bar(key) => {
                rows.insert(key.row());
                if with_views && has_views(key.size) {
                    let (size, start) = (key.size, key.start);
                    views.extend(View::EVERY.map(|view| ViewKey { view, size, start }));
                }
            }
            Place::View(key) => {
                views.insert(*key);
            }
            // The repair action is never to write, or a gap, which one record alone makes.
            Place::Unlisted(_) | Place::FeedGaps | Place::FeedGap(_) => {}
        }
    }
    (rows, views)
}

/// The bars to recompute: those in the rows of the plan, and all bars in the windows of its views.
fn needed_bars(
    rows: &BTreeSet<BarKey>,
    views: &BTreeSet<ViewKey>,
) -> impl Fn(&str, WindowSize, WindowStart) -> bool + Send + 'static {
    let windows: HashSet<(WindowSize, WindowStart)> =
        views.iter().map(|key| (key.size, key.start)).collect();
    let mut symbols: HashMap<(WindowSize, WindowStart), HashSet<String>> = HashMap::new();
    for key in rows {
        symbols
            .entry((key.size, key.start))
            .or_default()
            .insert(key.symbol.as_str().to_owned());
    }
    move |symbol, size, start| {
        windows.contains(&(size, start))
            || symbols
                .get(&size.row_of(start))
                .is_some_and(|symbols| symbols.contains(symbol))
    }
}

fn view_entry(entry: OracleEntry) -> ViewEntry {
    let OracleEntry {
        quote,
        name,
        symbols,
        trades,
        volume,
        notional,
        open,
        close,
    } = entry;
    let price = |e8: Option<i64>| e8.and_then(|e8| Price::from_e8(e8).ok());
    ViewEntry {
        quote,
        name,
        symbols,
        trades,
        volume,
        notional,
        open: price(open),
        close: price(close),
    }
}
