//! The record generator: records of one session for one log, as bytes. Sequences are dense per
//! partition. Totals of what was written are kept, so that the bars can be compared with them.

use std::collections::BTreeMap;

use tapeflow_schemas::{
    SessionId, Symbol, Trade,
    codec::{self, BatchHeader},
    partition_for,
};

use crate::FeedError;

/// The records of one session.
#[derive(Debug)]
pub struct RecordGenerator {
    listed: Vec<Listed>,
    source: &'static str,
    session: SessionId,
    /// The last one of each partition.
    sequences: Vec<u64>,
    payload: Vec<u8>,
    written: Written,
}

/// A symbol, and the partition of its trades.
#[derive(Debug)]
struct Listed {
    symbol: Symbol,
    partition: u32,
}

/// The totals of all trades of a generator: the bars of each window size add up to the same totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Records.
    pub records: u64,
    /// Trades.
    pub trades: u64,
    /// Their sizes, in 1e-8.
    pub volume_e8: i128,
    /// Their prices times their sizes, in 1e-16.
    pub notional_e16: i128,
}

/// One record, ready to be appended.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Its partition.
    pub partition: u32,
    /// Its key, the symbol.
    pub key: &'a str,
    /// Its log timestamp, which decides its retention.
    pub timestamp_ms: i64,
    /// Its bytes.
    pub payload: &'a [u8],
    /// Its session.
    pub session: SessionId,
    /// Its sequence in (session, partition), from 1.
    pub sequence: u64,
}

impl RecordGenerator {
    /// An empty generator. Two generators in one log must differ in their session, or
    /// the second's records would be repeats.
    ///
    /// # Errors
    /// If a name is not a symbol.
    pub fn new(
        names: impl IntoIterator<Item = String>,
        source: &'static str,
        session: SessionId,
        partitions: u32,
    ) -> Result<Self, FeedError> {
        let listed = |name: String| {
            let symbol = Symbol::new(&name)
                .map_err(|error| FeedError::Shape(format!("{name:?}: {error}")))?;
            Ok(Listed {
                symbol,
                partition: partition_for(&name, partitions),
            })
        };
        Ok(Self {
            listed: names
                .into_iter()
                .map(listed)
                .collect::<Result<_, FeedError>>()?,
            source,
            session,
            sequences: (0..partitions).map(|_| 0).collect(),
            payload: Vec::with_capacity(256),
            written: Written::default(),
        })
    }

    /// The number of symbols.
    #[must_use]
    pub fn symbols(&self) -> usize {
        self.listed.len()
    }

    /// A symbol by its number.
    #[must_use]
    pub fn symbol(&self, number: usize) -> Option<&Symbol> {
        self.listed.get(number).map(|listed| &listed.symbol)
    }

    /// The first symbol of each partition.
    #[must_use]
    pub fn of_each_partition(&self) -> Vec<Symbol> {
        let mut first: BTreeMap<u32, &Symbol> = BTreeMap::new();
        for listed in &self.listed {
            first.entry(listed.partition).or_insert(&listed.symbol);
        }
        first.into_values().cloned().collect()
    }

    /// The totals of its records.
    #[must_use]
    pub fn written(&self) -> Written {
        self.written
    }

    /// The next record: trades of one symbol, taken in at that time.
    ///
    /// # Errors
    /// If there are fewer symbols.
    pub fn record(
        &mut self,
        number: usize,
        trades: &[Trade],
        taken_ms: i64,
        timestamp_ms: i64,
    ) -> Result<Record<'_>, FeedError> {
        let listed = self
            .listed
            .get(number)
            .ok_or_else(|| FeedError::Value(format!("there is no symbol {number}")))?;
        let at = usize::try_from(listed.partition)
            .map_err(|error| FeedError::Value(error.to_string()))?;
        self.sequences[at] += 1;
        let (key, sequence, session) = (listed.symbol.as_str(), self.sequences[at], self.session);
        let header = BatchHeader {
            symbol: key,
            source: self.source,
            session,
            sequence,
            taken_ms,
        };
        self.payload.clear();
        codec::encode_batch(&mut self.payload, &header, trades);
        self.written.records += 1;
        for trade in trades {
            self.written.trades += 1;
            self.written.volume_e8 += trade.size.e8();
            self.written.notional_e16 += trade.notional().0;
        }
        Ok(Record {
            partition: listed.partition,
            key,
            timestamp_ms,
            payload: &self.payload,
            session,
            sequence,
        })
    }
}
