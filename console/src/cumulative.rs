//! Cumulative VWAP: what each bar's symbol has traded from an *anchor* to the end of the bar.
//!
//! It is computed on read, by adding up the stored bars of a minute. So late trades need no rule,
//! nothing more is stored, and any anchor is possible. Sums are exact; the division comes last.
//!
//! A minute bar contains the trades of its minute, whatever their sale conditions. The cumulative
//! values follow the clock alone: a closing print is in them from the minute in which it came.

use std::ops::Range;

use tapeflow_protocol::{BarReader, StoreError};
use tapeflow_schemas::{
    AssetClass, Policy, StoredBar, Stretch, Sums, Symbol, WindowSize,
    decimal::{SCALE, format_fixed},
    trading_session::UnknownYear,
    window::format_utc,
};

/// The names of the columns.
pub const COLUMNS: [&str; 3] = [
    "cumulative_volume",
    "cumulative_notional",
    "cumulative_vwap",
];

/// Windows that one read of the store covers: a week of minutes. Memory stays bounded, however long
/// ago the anchor is.
const READ_WINDOWS: i64 = 10_000;

/// From where values accumulate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// The start of the trading session that contains the last millisecond of the bar.
    Session,
    /// The midnight before the end of the bar: in New York for stocks, in UTC for other classes.
    Day,
    /// This time, in milliseconds since 1970 UTC.
    At(i64),
}

/// Why there are no cumulative values.
#[derive(Debug, thiserror::Error)]
pub enum CumulativeError {
    /// A bar whose session is not known.
    #[error(transparent)]
    UnknownYear(#[from] UnknownYear),
    /// The store lacks the bars that are added up.
    #[error(
        "cumulative values of {size} bars are added up from {base} bars, which the job has not"
    )]
    NoBars {
        /// The size of the bars that were asked for.
        size: WindowSize,
        /// The size that is missing.
        base: WindowSize,
    },
    /// An anchor within a bar that is added up.
    #[error(
        "cumulative values are added up from {base} bars, and none of them starts at {}: give the \
         start of one",
        format_utc(*.ms)
    )]
    WithinBar {
        /// The anchor.
        ms: i64,
        /// The size of the bars.
        base: WindowSize,
    },
    /// Sums beyond the range of 128 bits. No market trades as much.
    #[error("the cumulative values of {0} are too large: choose a later anchor")]
    TooLarge(Symbol),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What a symbol has traded from the anchor to the end of each of these bars, which are ascending
/// and of one size. `kept` are the sizes in the store. `None` for a bar that ends between two
/// sessions, or before the anchor.
///
/// # Errors
/// [`CumulativeError`].
pub async fn cumulative(
    store: &dyn BarReader,
    (symbol, size): (&Symbol, WindowSize),
    bars: &[StoredBar],
    (anchor, policy): (Anchor, Policy),
    kept: &[WindowSize],
) -> Result<Vec<Option<Sums>>, CumulativeError> {
    let class = symbol.class();
    let base = base_of(size);
    if !kept.contains(&base) {
        return Err(CumulativeError::NoBars { size, base });
    }
    let spans = bars
        .iter()
        .map(|bar| span(anchor, size.end_of(bar.start, class), class))
        .collect::<Result<Vec<_>, _>>()?;
    let within = |span: &&Range<i64>| !base.is_start(span.start, class);
    if let Some(span) = spans.iter().flatten().find(within) {
        return Err(CumulativeError::WithinBar {
            ms: span.start,
            base,
        });
    }
    let width_ms = base.ms() * READ_WINDOWS;
    let mut running = Running::new(spans);
    for range in running.ranges(width_ms / 2) {
        let mut from = range.start;
        while from < range.end {
            let to = from.saturating_add(width_ms).min(range.end);
            for bar in store.bars(symbol, base, from..to).await? {
                running
                    .add(bar.start, bar.state.totals.of_policy(policy))
                    .ok_or_else(|| CumulativeError::TooLarge(symbol.clone()))?;
            }
            from = to;
        }
    }
    Ok(running.finish())
}

/// The values in the order of [`COLUMNS`]; empty where there are none.
#[must_use]
pub fn values(sums: Option<&Sums>) -> [String; 3] {
    let Some(sums) = sums else {
        return Default::default();
    };
    [
        format_fixed(sums.volume_e8, SCALE),
        format_fixed(sums.notional_e16, 2 * SCALE),
        sums.vwap_e8()
            .map(|vwap| format_fixed(vwap, SCALE))
            .unwrap_or_default(),
    ]
}

/// The size whose bars are added up: minutes where they make up the bars, else the bars themselves.
fn base_of(size: WindowSize) -> WindowSize {
    if size.ms() % WindowSize::MINUTE.ms() == 0 {
        WindowSize::MINUTE
    } else {
        size
    }
}

/// From the anchor to the end of a bar.
fn span(anchor: Anchor, end: i64, class: AssetClass) -> Result<Option<Range<i64>>, UnknownYear> {
    let from = match anchor {
        Anchor::Session => {
            let stretch = Stretch::at(end - 1, class);
            stretch.session()?.map(|_| stretch.start)
        }
        Anchor::Day => Some(WindowSize::DAY.start_at(end - 1, class)),
        Anchor::At(ms) => (ms < end).then_some(ms),
    };
    Ok(from.map(|from| from..end))
}

/// The sums of spans while bars pass by in ascending order. Spans end in ascending order, and one
/// with another anchor than the span before it begins where that one ends, or later.
struct Running {
    spans: Vec<Option<Range<i64>>>,
    sums: Vec<Option<Sums>>,
    /// The anchor of the running sums.
    anchor: i64,
    running: Sums,
}

impl Running {
    fn new(spans: Vec<Option<Range<i64>>>) -> Self {
        Self {
            sums: Vec::with_capacity(spans.len()),
            spans,
            anchor: i64::MIN,
            running: Sums::default(),
        }
    }

    /// What must be read, ascending. Spans that are closer than `gap_ms` share a range: one read
    /// costs less than two.
    fn ranges(&self, gap_ms: i64) -> Vec<Range<i64>> {
        let mut ranges: Vec<Range<i64>> = Vec::new();
        for span in self.spans.iter().flatten() {
            match ranges.last_mut() {
                Some(last) if span.start <= last.end.saturating_add(gap_ms) => {
                    last.end = last.end.max(span.end);
                }
                _ => ranges.push(span.clone()),
            }
        }
        ranges
    }

    /// Adds the next bar. `None`: the sums overflow.
    fn add(&mut self, start: i64, sums: &Sums) -> Option<()> {
        self.complete(start);
        if let Some(Some(span)) = self.spans.get(self.sums.len())
            && span.start <= start
        {
            self.turn_to(span.start);
            self.running = self.running.checked_add(sums)?;
        }
        Some(())
    }

    /// Completes the spans that end before or at a time.
    fn complete(&mut self, until: i64) {
        while let Some(span) = self.spans.get(self.sums.len()).cloned() {
            match span {
                Some(span) if span.end > until => return,
                Some(span) => {
                    self.turn_to(span.start);
                    self.sums.push(Some(self.running));
                }
                None => self.sums.push(None),
            }
        }
    }

    fn turn_to(&mut self, anchor: i64) {
        if self.anchor != anchor {
            (self.anchor, self.running) = (anchor, Sums::default());
        }
    }

    fn finish(mut self) -> Vec<Option<Sums>> {
        self.complete(i64::MAX);
        self.sums
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tapeflow_log::sqlite::{Access, Database};
    use tapeflow_protocol::{DirectoryEntry, EpochStore, EpochWrites};
    use tapeflow_schemas::{
        BarKey, BarState, BarWrite, Conditions, EventTime, PackedBar, PackedBars, Position, Price,
        Size, Totals, Trade, window::parse_utc,
    };
    use tapeflow_sinks::sqlite::SqliteStore;

    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    /// Trades of two weeks around the end of daylight saving time, some in each hour.
    fn made_up_trades() -> Vec<Trade> {
        let begin = parse_utc("2023-10-30T00:00:00Z").expect("a time");
        let mut state = 7_u64;
        let mut below = move |bound: i64| {
            // Knuth's MMIX generator; its low bits are weak.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            i64::try_from(state >> 33).expect("31 bits") % bound
        };
        let mut one = |_| {
            let ms = begin + below(14 * 24 * 3_600) * 1_000 + below(1_000);
            let price = Price::parse(&format!("{}.5", 90 + below(20)));
            let size = Size::parse(&(1 + below(500)).to_string());
            Trade::new(
                EventTime::from_ms(ms).expect("a time"),
                price.expect("a price").value,
                size.expect("a size").value,
                Conditions::NONE,
            )
            .expect("a trade")
        };
        (0..1_500).map(&mut one).collect()
    }

    fn bars_of(trades: &[Trade], symbol: &Symbol, size: WindowSize) -> BTreeMap<i64, Totals> {
        let position = Position {
            partition: 0,
            offset: 0,
            index: 0,
        };
        let mut bars = BTreeMap::<i64, Totals>::new();
        for trade in trades {
            bars.entry(size.start_of(trade.event_time, symbol.class()))
                .or_default()
                .add_trade(trade, position, false);
        }
        bars
    }

    /// The sums of the trades in a span, one by one.
    fn sum(trades: &[Trade], span: &Range<i64>) -> Sums {
        let inside = trades
            .iter()
            .filter(|trade| span.contains(&trade.event_time.ms()));
        inside.fold(Sums::default(), |sum, trade| Sums {
            volume_e8: sum.volume_e8 + trade.size.e8(),
            notional_e16: sum.notional_e16 + trade.notional().0,
            trades: sum.trades + 1,
        })
    }

    #[tokio::test]
    async fn cumulative_values_are_those_of_the_trades_since_the_anchor() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore::new(
            Database::open(&folder.path().join("t.db"), Access::Job).expect("a store"),
        );
        let trades = made_up_trades();
        let sizes = ["30s", "1m", "5m", "1h", "1d"].map(|size| size.parse().expect("a size"));
        let symbols = ["AAPL", "BINANCE:BTCUSDT"].map(|name| Symbol::new(name).expect("a symbol"));
        for symbol in &symbols {
            let mut rows = BTreeMap::<BarKey, (Totals, Vec<PackedBar>)>::new();
            for size in sizes {
                for (start, totals) in bars_of(&trades, symbol, size) {
                    let key = BarKey {
                        symbol: symbol.clone(),
                        size,
                        start,
                    };
                    let (of_row, packed) = rows.entry(key.row()).or_default();
                    if size.is_packed() {
                        packed.push(PackedBar {
                            size,
                            start,
                            totals,
                        });
                    } else {
                        *of_row = totals;
                    }
                }
            }
            let directory = rows.keys().map(DirectoryEntry::of).collect();
            let bars = rows
                .into_iter()
                .map(|(key, (totals, mut packed))| BarWrite {
                    packed: PackedBars::of(key.start, &mut packed),
                    key,
                    state: BarState { epoch: 1, totals },
                    write_timestamp: 1,
                });
            let writes = EpochWrites {
                directory,
                bars: bars.collect(),
                ..EpochWrites::default()
            };
            store.write(&writes).await.expect("written");
        }
        let late = parse_utc("2023-11-06T15:00:00Z").expect("a time");
        for symbol in &symbols {
            for size in sizes {
                let rows = store.bars(symbol, size, i64::MIN..i64::MAX).await;
                let rows = rows.expect("read");
                for anchor in [Anchor::Session, Anchor::Day, Anchor::At(late)] {
                    let choice = (anchor, Policy::All);
                    let found = cumulative(&store, (symbol, size), &rows, choice, &sizes)
                        .await
                        .expect("cumulative values");
                    assert_eq!(found.len(), rows.len());
                    let mut values = 0;
                    for (row, found) in rows.iter().zip(found) {
                        let end = size.end_of(row.start, symbol.class());
                        let span = span(anchor, end, symbol.class()).expect("a known year");
                        values += usize::from(span.is_some());
                        let want = span.map(|span| sum(&trades, &span));
                        assert_eq!(found, want, "{symbol} {size} {anchor:?} {}", row.start);
                    }
                    // A day in New York ends at midnight, outside of all sessions.
                    let none = anchor == Anchor::Session
                        && size == WindowSize::DAY
                        && symbol == &symbols[0];
                    assert_eq!(values == 0, none, "{symbol} {size} {anchor:?}");
                }
            }
        }
    }

    #[test]
    fn an_anchor_follows_the_end_of_the_bar() {
        let check = |anchor: Anchor, end: &str, class: AssetClass, from: Option<&str>| {
            let ms = |text: &str| parse_utc(text).expect("a time");
            let want = from.map(|from| ms(from)..ms(end));
            assert_eq!(span(anchor, ms(end), class), Ok(want), "{anchor:?} {end}");
        };
        let stock = AssetClass::Stock;
        let session = |end, from| check(Anchor::Session, end, stock, from);
        // The hour from 9:00 to 10:00 ends in the regular session.
        session("2023-03-13T14:00:00Z", Some("2023-03-13T13:30:00Z"));
        session("2023-03-13T13:30:00Z", Some("2023-03-13T08:00:00Z"));
        session("2023-03-14T00:00:00Z", Some("2023-03-13T20:00:00Z"));
        session("2023-03-14T00:01:00Z", None);
        check(
            Anchor::Session,
            "2023-03-14T00:00:00Z",
            AssetClass::Crypto,
            Some("2023-03-13T00:00:00Z"),
        );
        check(
            Anchor::Day,
            "2023-03-13T03:00:00Z",
            stock,
            Some("2023-03-12T05:00:00Z"),
        );
        check(Anchor::At(0), "1970-01-01T00:00:00Z", stock, None);
        let unknown = parse_utc("2041-06-03T15:00:00Z").expect("a time");
        assert!(span(Anchor::Session, unknown, stock).is_err());
        assert!(span(Anchor::Day, unknown, stock).is_ok());
    }

    #[tokio::test]
    async fn what_cannot_be_added_up_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore::new(
            Database::open(&folder.path().join("t.db"), Access::Job).expect("a store"),
        );
        let symbol = Symbol::new("AAPL").expect("a symbol");
        let hour: WindowSize = "1h".parse().expect("a size");
        let bar = StoredBar {
            start: 400_000 * HOUR_MS,
            state: BarState {
                epoch: 1,
                totals: Totals::default(),
            },
        };
        let ask = async |anchor, kept: &[WindowSize]| {
            let choice = (anchor, Policy::Sip);
            cumulative(
                &store,
                (&symbol, hour),
                std::slice::from_ref(&bar),
                choice,
                kept,
            )
            .await
            .expect_err("refused")
            .to_string()
        };
        assert_eq!(
            ask(Anchor::Day, &[hour]).await,
            "cumulative values of 1h bars are added up from 1m bars, which the job has not"
        );
        assert_eq!(
            ask(Anchor::At(1), &[WindowSize::MINUTE]).await,
            "cumulative values are added up from 1m bars, and none of them starts at \
             1970-01-01T00:00:00.001Z: give the start of one"
        );
    }
}
