//! The records: made-up trades, one a record.

use rand::{RngCore, SeedableRng, rngs::SmallRng};
use tapeflow_feed::{Record, Written};
use tapeflow_schemas::{EventTime, Price, SessionId, Size, Symbol, Trade, conditions::Conditions};

/// The records of one session, on their way into one topic.
pub(crate) struct Records {
    records: tapeflow_feed::RecordGenerator,
    random: SmallRng,
}

impl Records {
    /// An empty record generator.
    ///
    /// # Errors
    /// A symbol is none.
    pub(crate) fn new(partitions: u32, symbols: usize) -> Result<Self, String> {
        let names = (0..symbols).map(|number| format!("SYM{number:02}"));
        // Two tapes in one topic must differ in their session, or the second's records would be
        // repeats.
        let records = tapeflow_feed::RecordGenerator::new(
            names,
            "restart",
            SessionId(rand::random()),
            partitions,
        );
        Ok(Self {
            records: records.map_err(|error| error.to_string())?,
            random: SmallRng::seed_from_u64(1),
        })
    }

    /// How many symbols trade here.
    pub(crate) fn symbols(&self) -> usize {
        self.records.symbols()
    }

    /// The totals of its records.
    pub(crate) fn written(&self) -> Written {
        self.records.written()
    }

    /// A symbol of each partition.
    pub(crate) fn of_each_partition(&self) -> Vec<Symbol> {
        self.records.of_each_partition()
    }

    /// The symbol that trades most while the feed lasts, the first one.
    pub(crate) fn hot(&self) -> Result<Symbol, String> {
        self.records
            .symbol(0)
            .cloned()
            .ok_or_else(|| "a records without symbols".into())
    }

    /// The next trade of a symbol, at that time.
    ///
    /// # Errors
    /// It is no trade.
    pub(crate) fn next(&mut self, symbol: usize, event_ms: i64) -> Result<Record<'_>, String> {
        let drawn = self.random.next_u64();
        // From 100.00 up to 109.99, from 1 to 100 units.
        let price =
            Price::from_e8(10_000_000_000 + i64::try_from(drawn % 1_000).unwrap_or(0) * 1_000_000)
                .map_err(|error| error.to_string())?;
        let size = Size::from_e8((1 + i128::from((drawn >> 32) % 100)) * 100_000_000)
            .map_err(|error| error.to_string())?;
        let time = EventTime::from_ms(event_ms)
            .ok_or_else(|| format!("{event_ms} ms is no time of a trade"))?;
        let trade =
            Trade::new(time, price, size, Conditions::NONE).map_err(|error| error.to_string())?;
        self.records
            .record(symbol, &[trade], event_ms, event_ms)
            .map_err(|error| error.to_string())
    }
}
