//! The tape: made-up trades of some fifty symbols, one a record, as bytes. Sequences are dense per partition, and what was written is added up, so that
//! the rows can be held against it.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use rand::{RngCore, SeedableRng, rngs::SmallRng};
use tapeflow_schemas::{
    EventTime, Price, SessionId, Size, Symbol, Trade,
    codec::{self, BatchHeader},
    conditions::Conditions,
    partition_for,
};

/// How many symbols there are.
const SYMBOLS: usize = 50;

/// The records of one session, on their way into one topic.
pub(crate) struct Tape {
    listed: Vec<Listed>,
    session: SessionId,
    /// The last one of each partition.
    sequences: Vec<u64>,
    random: SmallRng,
    payload: Vec<u8>,
    pub(crate) written: Written,
}

/// A symbol, and where its trades go.
struct Listed {
    symbol: Symbol,
    partition: u32,
}

/// What all trades of a tape come to: the rows of each window size must come to the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) trades: u64,
    pub(crate) volume_e8: i128,
    pub(crate) notional_e16: i128,
}

/// One record, ready to be appended.
pub(crate) struct Record<'a> {
    pub(crate) partition: u32,
    pub(crate) key: &'a str,
    pub(crate) timestamp_ms: i64,
    pub(crate) payload: &'a [u8],
}

impl Tape {
    /// A tape on which nothing stands yet.
    ///
    /// # Errors
    /// A symbol is none.
    pub(crate) fn new(partitions: u32) -> Result<Self, String> {
        let listed = |number: usize| {
            let name = format!("SYM{number:02}");
            let symbol = Symbol::new(&name).map_err(|fault| fault.to_string())?;
            Ok(Listed { symbol, partition: partition_for(&name, partitions) })
        };
        Ok(Self {
            listed: (0..SYMBOLS).map(listed).collect::<Result<_, String>>()?,
            // Two tapes in one topic must differ in their session, or the second's records would be repeats.
            session: SessionId(rand::random()),
            sequences: vec![0; usize::try_from(partitions).map_err(|fault| fault.to_string())?],
            random: SmallRng::seed_from_u64(1),
            payload: Vec::with_capacity(128),
            written: Written::default(),
        })
    }

    /// How many symbols trade here.
    pub(crate) fn symbols(&self) -> usize {
        self.listed.len()
    }

    /// A symbol of each partition.
    pub(crate) fn of_each_partition(&self) -> Vec<Symbol> {
        let mut first: BTreeMap<u32, &Symbol> = BTreeMap::new();
        for listed in &self.listed {
            first.entry(listed.partition).or_insert(&listed.symbol);
        }
        first.into_values().cloned().collect()
    }

    /// The symbol that trades most while the feed lasts, the first one.
    pub(crate) fn hot(&self) -> Symbol {
        self.listed[0].symbol.clone()
    }

    /// The next trade of a symbol, at that time.
    ///
    /// # Errors
    /// It is no trade.
    pub(crate) fn next(&mut self, symbol: usize, event_ms: i64) -> Result<Record<'_>, String> {
        let Listed { symbol, partition } = &self.listed[symbol];
        let drawn = self.random.next_u64();
        // From 100.00 up to 109.99, from 1 to 100 units.
        let price = Price::from_e8(10_000_000_000 + i64::try_from(drawn % 1_000).unwrap_or(0) * 1_000_000).map_err(|fault| fault.to_string())?;
        let size = Size::from_e8((1 + i128::from((drawn >> 32) % 100)) * 100_000_000).map_err(|fault| fault.to_string())?;
        let time = EventTime::from_ms(event_ms).ok_or_else(|| format!("{event_ms} ms is no time of a trade"))?;
        let trade = Trade::new(time, price, size, Conditions::NONE).map_err(|fault| fault.to_string())?;
        let at = usize::try_from(*partition).map_err(|fault| fault.to_string())?;
        self.sequences[at] += 1;
        let header =
            BatchHeader { symbol: symbol.as_str(), source: "restart", session: self.session, sequence: self.sequences[at], taken_ms: event_ms };
        self.payload.clear();
        codec::encode_batch(&mut self.payload, &header, &[trade]);
        self.written.trades += 1;
        self.written.volume_e8 += trade.size.e8();
        self.written.notional_e16 += trade.notional().0;
        Ok(Record { partition: *partition, key: symbol.as_str(), timestamp_ms: event_ms, payload: &self.payload })
    }
}

/// Milliseconds since 1970 UTC: the feed is live, and retention goes by the records' time.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use tapeflow_schemas::codec::Header;

    use super::*;

    #[test]
    fn records_decode_to_what_was_added_up_and_sequences_have_no_gap() {
        let mut tape = Tape::new(4).expect("a tape");
        let (mut entries, mut last, mut have) = (Vec::new(), [0; 4], Written::default());
        for n in 0..1_000 {
            let record = tape.next(n % SYMBOLS, 1_700_000_000_000).expect("a trade");
            let Ok(Header::Batch { sequence, .. }) = codec::decode(record.payload, &mut entries) else { panic!("a batch") };
            let partition = usize::try_from(record.partition).expect("small");
            assert_eq!(sequence, last[partition] + 1);
            last[partition] = sequence;
            let [entry] = entries[..] else { panic!("one trade a record") };
            assert_eq!(codec::symbol_of(record.payload, &entry), record.key);
            let trade = entry.trade.expect("a trade");
            have.trades += 1;
            have.volume_e8 += trade.size.e8();
            have.notional_e16 += trade.notional().0;
        }
        assert_eq!(have, tape.written);
        assert!(last.iter().all(|last| *last > 0), "symbols spread over all partitions: {last:?}");
    }
}
