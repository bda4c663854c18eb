//! Recomputes chosen bars from the log, with the code that the job uses. For repair, which writes
//! exact totals: a bar's cell also holds values that the independent oracle does not compute, for
//! example revisions.

use tapeflow_log::LogRecord;
use tapeflow_protocol::Cut;
use tapeflow_schemas::{BarKey, Offset, Totals, WindowSize, codec::Entry};

use crate::{
    hash::Map,
    operators::{
        combine::Combiner,
        exchange::ExchangeItem,
        partition::{Intake, PartitionState},
    },
};

/// The windows that the combiner may hold before they are added to the wanted bars.
const WINDOWS_OPEN: usize = 20_000;
/// The dead letters kept. [`PartitionState`] logs no more than so many.
const DEAD_LETTERS_KEPT: usize = 16;

/// Adds records to the wanted bars. Memory is bounded by the number of wanted bars.
pub struct RepairValues {
    sizes: Vec<WindowSize>,
    partitions: Vec<PartitionState>,
    intake: Intake,
    entries: Vec<Entry>,
    bars: Map<BarKey, Option<Totals>>,
}

impl RepairValues {
    /// `from`: the first offset of each partition. The bars are exact if the job began there.
    #[must_use]
    pub fn new(
        sizes: &[WindowSize],
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
            intake: Intake::new(Combiner::new(sizes)),
            entries: Vec::new(),
            bars: wanted.into_iter().map(|key| (key, None)).collect(),
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
        if self.intake.combiner.len() >= WINDOWS_OPEN {
            self.add_up();
        }
    }

    /// A wanted bar, as of the records added so far; `None` if none of them is in it.
    #[must_use]
    pub fn bar(&mut self, key: &BarKey) -> Option<Totals> {
        self.add_up();
        self.bars.get(key).copied().flatten()
    }

    fn add_up(&mut self) {
        for item in self.intake.combiner.seal(0) {
            let ExchangeItem::SymbolPartials(symbol_partials) = item else {
                continue;
            };
            for partial in symbol_partials.partials {
                let key = BarKey {
                    symbol: symbol_partials.symbol.clone(),
                    size: self.sizes[usize::from(partial.size)],
                    start: partial.start,
                };
                if let Some(bar) = self.bars.get_mut(&key) {
                    bar.get_or_insert_default().merge(&partial.totals);
                }
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
        let wanted = [
            key("A", 0, 1_000),
            key("A", 1, 0),
            key("B", 1, 0),
            key("C", 1, 0),
        ];
        let mut recompute = RepairValues::new(&sizes, &[3], wanted.clone());
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
                    recompute.bar(&wanted[1]).map(|totals| totals.priced),
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
        let found = wanted.each_ref().map(|key| {
            recompute
                .bar(key)
                .map(|totals| (totals.sums[0].trades, totals.revision))
        });
        assert_eq!(found, [Some((2, 1)), Some((3, 0)), Some((1, 0)), None]);
        assert_eq!(recompute.bar(&key("B", 0, 2_000)), None, "not wanted");
        assert_eq!(recompute.bars.len(), 4);
    }
}
