//! Recomputes chosen rows of bars from the log, with the code that the job uses. For repair, which
//! writes exact totals: a bar's cell also holds values that the independent oracle does not compute,
//! for example revisions.

use tapeflow_log::LogRecord;
use tapeflow_protocol::Cut;
use tapeflow_schemas::{BarKey, Horizons, Offset, PackedBars, Totals, WindowSize, codec::Entry};

use crate::{
    hash::Map,
    limits::Limits,
    operators::{
        combine::Combiner,
        exchange::ExchangeItem,
        partition::{Intake, PartitionState},
    },
};

/// The windows that the combiner may hold before they are added to the wanted bars.
const WINDOWS_OPEN: usize = 20_000;
const ENCODED: &str = "the combiner encodes rows well";
/// The dead letters kept. [`PartitionState`] logs no more than so many.
const DEAD_LETTERS_KEPT: usize = 16;

/// What a repair writes into a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowValues {
    /// The bar.
    pub totals: Totals,
    /// The shorter bars within it.
    pub packed: PackedBars,
}

/// Adds records to the wanted rows. Memory is bounded by the number of wanted rows.
pub struct RepairValues {
    sizes: Vec<WindowSize>,
    partitions: Vec<PartitionState>,
    intake: Intake,
    entries: Vec<Entry>,
    rows: Map<BarKey, Option<RowValues>>,
    scratch: Vec<u8>,
}

impl RepairValues {
    /// `from`: the first offset of each partition. The bars are exact if the job began there.
    /// `wanted`: keys of rows ([`BarKey::row`]).
    #[must_use]
    pub fn new(
        sizes: &[WindowSize],
        horizons: &Horizons,
        from: &[Offset],
        wanted: impl IntoIterator<Item = BarKey>,
    ) -> Self {
        let begin = |(partition, next): (u32, &Offset)| {
            PartitionState::from_cut(
                partition,
                &Cut {
                    next: *next,
                    ..Cut::default()
                },
            )
        };
        Self {
            sizes: sizes.to_vec(),
            partitions: (0..).zip(from).map(begin).collect(),
            intake: Intake::new(Combiner::new(sizes, horizons, &Limits::default())),
            entries: Vec::new(),
            rows: wanted.into_iter().map(|key| (key, None)).collect(),
            scratch: Vec::new(),
        }
    }

    /// Adds the next record of a partition, in offset order.
    ///
    /// # Panics
    /// If `from` had no such partition.
    pub fn record(&mut self, record: LogRecord<'_>) {
        let at = usize::try_from(record.partition).expect("partitions are counted in 32 bits");
        self.partitions[at].take(record, &mut self.entries, &mut self.intake);
        self.intake.dead_letters.truncate(DEAD_LETTERS_KEPT);
        // A repair is about bars.
        self.intake.feed_gaps.clear();
        if self.intake.combiner.len() >= WINDOWS_OPEN {
            self.add_up();
        }
    }

    /// A wanted row, as of the records added so far; `None` if none of them is in it.
    #[must_use]
    pub fn row(&mut self, key: &BarKey) -> Option<RowValues> {
        self.add_up();
        self.rows.get(key).cloned().flatten()
    }

    fn add_up(&mut self) {
        for item in self.intake.combiner.seal(0) {
            let ExchangeItem::SymbolPartials(symbol_partials) = item else {
                continue;
            };
            for row in symbol_partials.rows.iter() {
                let row = row.expect(ENCODED);
                let key = BarKey {
                    symbol: symbol_partials.symbol.clone(),
                    size: self.sizes[usize::from(row.size)],
                    start: row.start,
                };
                let Some(values) = self.rows.get_mut(&key) else {
                    continue;
                };
                let values = values.get_or_insert_default();
                let (totals, packed) = row.decode().expect(ENCODED);
                values.totals.merge(&totals);
                values
                    .packed
                    .merge_encoded(key.start, packed, &mut self.scratch)
                    .expect(ENCODED);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tapeflow_schemas::{
        Conditions, EventTime, Price, SessionId, Size, Symbol, Trade,
        codec::{BatchHeader, encode_batch},
    };

    use super::*;

    /// A record of one trade: one share at price 2.
    fn record(symbol: &str, sequence: u64, event_ms: i64) -> Vec<u8> {
        let time = EventTime::from_ms(event_ms).expect("a time");
        let (price, size) = (
            Price::parse("2").expect("a price").value,
            Size::parse("1").expect("a size").value,
        );
        let trade = Trade::new(time, price, size, Conditions::NONE).expect("a trade");
        let mut payload = Vec::new();
        let header = BatchHeader {
            symbol,
            source: "test",
            session: SessionId([1; 16]),
            sequence,
            taken_ms: event_ms,
        };
        encode_batch(&mut payload, &header, &[trade]);
        payload
    }

    #[test]
    fn wanted_bars_hold_all_their_trades_once_and_no_others_are_kept() {
        let sizes: Vec<WindowSize> = ["1s", "1m"]
            .iter()
            .map(|size| size.parse().expect("a size"))
            .collect();
        let key = |symbol: &str, size: usize, start| BarKey {
            symbol: Symbol::new(symbol).expect("a symbol"),
            size: sizes[size],
            start,
        };
        let wanted = [key("A", 1, 0), key("B", 1, 0), key("C", 1, 0)];
        let mut recompute = RepairValues::new(&sizes, &Horizons::NONE, &[3], wanted.clone());
        // A duplicate, a late trade, another symbol, and an invalid record.
        let trades = [
            ("A", 1, 1_000),
            ("A", 2, 59_000),
            ("A", 2, 59_000),
            ("A", 3, 1_500),
            ("B", 4, 2_000),
        ];
        let mut payloads: Vec<_> = trades
            .iter()
            .map(|(symbol, sequence, ms)| record(symbol, *sequence, *ms))
            .collect();
        payloads.push(b"?".to_vec());
        for (offset, payload) in (3..).zip(&payloads) {
            if offset == 5 {
                assert_eq!(
                    recompute.row(&wanted[0]).map(|row| row.totals.priced),
                    Some(2),
                    "as of the records so far"
                );
            }
            recompute.record(LogRecord {
                partition: 0,
                offset,
                timestamp_ms: 0,
                payload: Some(payload),
            });
        }
        let counts = |totals: &Totals| (totals.sums[0].trades, totals.revision);
        let found = wanted
            .each_ref()
            .map(|key| recompute.row(key).map(|row| counts(&row.totals)));
        assert_eq!(found, [Some((3, 0)), Some((1, 0)), None]);
        let seconds: Vec<_> = recompute
            .row(&wanted[0])
            .expect("a row")
            .packed
            .iter(0)
            .map(|bar| bar.expect("well formed"))
            .map(|bar| (bar.start, counts(&bar.totals)))
            .collect();
        assert_eq!(seconds, [(1_000, (2, 1)), (59_000, (1, 0))]);
        assert_eq!(recompute.row(&key("B", 1, 60_000)), None, "not wanted");
        assert_eq!(recompute.rows.len(), 3);
    }
}
