//! The final comparison. Every trade must be in exactly one bar, once. Every bar and view that a
//! reader saw must equal the prefix of the log that its epoch names.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use tapeflow_log::{
    Log,
    kafka::{KafkaConfig, KafkaLog},
};
use tapeflow_protocol::{BarReader, EpochStore, HistoryEntry};
use tapeflow_schemas::{
    AssetClass, BarKey, BarState, Offset, Partition, Policy, Position,
    codec::{self, Header},
    partition_for,
};
use tapeflow_sinks::cassandra::CassandraStore;

use crate::{
    ledger::{Id, Ledger, Minute, minute, notional_of},
    poison::DeadLetter,
    reader::{EntryValues, Observed, prefix},
    watch::patiently,
};

/// How long the log may return nothing before a read ends with an error.
const SILENCE: Duration = Duration::from_secs(60);
/// The most epochs of the history that are read.
const HISTORY: usize = 1_000_000;
/// The most errors of one kind that are reported.
const TOLD: usize = 20;

/// The content of the topic: by minute, the place of each trade.
pub(crate) struct Topic {
    places: HashMap<Minute, Vec<Offset>>,
    partition_of: Vec<Partition>,
    /// The dead letters that must exist.
    pub(crate) dead_letters: BTreeMap<Position, DeadLetter>,
    /// Records that are repeated later.
    pub(crate) repeated: HashSet<(Partition, Offset)>,
    pub(crate) records: u64,
    pub(crate) repeats: u64,
}

/// The result of the final comparison.
#[derive(Default)]
pub(crate) struct FinalComparison {
    pub(crate) trades: u64,
    pub(crate) bars: u64,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    /// Contents that readers saw, compared with the prefix that their epoch names.
    pub(crate) audited: u64,
    pub(crate) lists_audited: u64,
    /// Contents of epochs without history.
    pub(crate) not_audited: u64,
    /// Dead letters, each in its place.
    pub(crate) dead_letters: u64,
    /// Bars of far-future trades, looked for and not there.
    pub(crate) futures: u64,
    pub(crate) faults: Vec<String>,
}

impl Topic {
    /// Reads the whole topic.
    pub(crate) fn read(brokers: String, name: &str, ledger: &Ledger) -> Result<Self, String> {
        let log = KafkaLog::connect(KafkaConfig::new(brokers, name))
            .map_err(|fault| fault.to_string())?;
        let partitions = log.partitions().map_err(|fault| fault.to_string())?;
        let bounds: Vec<_> = (0..partitions)
            .map(|p| log.bounds(p).map(|bounds| (p, bounds)))
            .collect::<Result<_, _>>()
            .map_err(|fault| fault.to_string())?;
        let mut left: HashMap<Partition, (Offset, Offset)> = bounds
            .iter()
            .map(|(p, bounds)| (*p, (bounds.start, bounds.end)))
            .collect();
        let from: Vec<(Partition, Offset)> = bounds
            .iter()
            .map(|(p, bounds)| (*p, bounds.start))
            .collect();
        let number: HashMap<&str, usize> = ledger
            .symbols
            .iter()
            .enumerate()
            .map(|(n, symbol)| (symbol.as_str(), n))
            .collect();
        let mut reader = log.reader(&from).map_err(|fault| fault.to_string())?;
        let mut topic = Self {
            places: HashMap::new(),
            partition_of: ledger
                .symbols
                .iter()
                .map(|symbol| partition_for(symbol.as_str(), partitions))
                .collect(),
            dead_letters: BTreeMap::new(),
            repeated: HashSet::new(),
            records: 0,
            repeats: 0,
        };
        let (mut entries, mut heard, mut known) = (Vec::new(), HashMap::new(), Ok(()));
        let mut since = Instant::now();
        while left.values().any(|(next, end)| next < end) {
            let read = reader.poll(10_000, &mut |record| {
                let Some(place) = left.get_mut(&record.partition) else {
                    return;
                };
                place.0 = place.0.max(record.offset + 1);
                topic.records += 1;
                let payload = record.payload.unwrap_or_default();
                let position = |index| Position {
                    partition: record.partition,
                    offset: record.offset,
                    index,
                };
                if let Some(reason) = ledger.poison.reason(payload) {
                    topic
                        .dead_letters
                        .insert(position(0), DeadLetter::new(reason, payload));
                    return;
                }
                let Ok(Header::Batch {
                    session, sequence, ..
                }) = codec::decode(payload, &mut entries)
                else {
                    known = Err(format!(
                        "partition {} offset {}: a record that neither the feed nor ingest has made",
                        record.partition, record.offset
                    ));
                    return;
                };
                let first = *heard
                    .entry((record.partition, session, sequence))
                    .or_insert(record.offset);
                if first != record.offset {
                    topic.repeats += 1;
                    topic.repeated.insert((record.partition, first));
                    return;
                }
                let mut bytes = payload;
                for (index, entry) in (0..).zip(&entries) {
                    let symbol = number.get(codec::symbol_of(payload, entry));
                    let Some((symbol, trade)) = symbol.zip(entry.trade.ok()) else {
                        continue;
                    };
                    // The feed's far-future trades are more than a day ahead, and all others are
                    // years old. Only the first of a record keeps its bytes.
                    if trade.event_time.ms() > record.timestamp_ms {
                        topic.dead_letters.insert(
                            position(index),
                            DeadLetter::new("future", std::mem::take(&mut bytes)),
                        );
                        continue;
                    }
                    let start = minute().start_of(trade.event_time, AssetClass::Crypto);
                    let Some(minute) = Minute::at(*symbol, start) else {
                        continue;
                    };
                    topic.places.entry(minute).or_default().push(record.offset);
                }
            });
            if read.map_err(|fault| fault.to_string())? > 0 {
                since = Instant::now();
            } else if since.elapsed() > SILENCE {
                return Err(format!(
                    "the topic is silent for {} s, before its end",
                    SILENCE.as_secs()
                ));
            } else {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        known.map(|()| topic)
    }

    /// The offsets of the trades of a minute, in order.
    pub(crate) fn places(&self, minute: Minute) -> (Partition, &[Offset]) {
        let partition = self
            .partition_of
            .get(minute.symbol)
            .copied()
            .unwrap_or_default();
        (
            partition,
            self.places.get(&minute).map_or(&[], Vec::as_slice),
        )
    }

    /// The number of trades of a minute below a cut.
    fn below(&self, minute: Minute, cuts: &[Offset]) -> Option<u8> {
        let cut = *cuts.get(usize::try_from(*self.partition_of.get(minute.symbol)?).ok()?)?;
        let places = self.places.get(&minute).map_or(&[][..], Vec::as_slice);
        u8::try_from(places.partition_point(|offset| *offset < cut)).ok()
    }

    /// A trade with its place, for a person.
    fn name(&self, id: Id) -> String {
        let place = self
            .places
            .get(&id.minute)
            .and_then(|places| places.get(usize::from(id.slot)));
        let partition = self
            .partition_of
            .get(id.minute.symbol)
            .copied()
            .unwrap_or_default();
        let at = place.map_or_else(
            || "not in the topic".to_owned(),
            |offset| format!("partition {partition} offset {offset}"),
        );
        format!("trade {} ({at})", id.slot)
    }
}

impl FinalComparison {
    pub(crate) fn fault(&mut self, text: String) {
        if self.faults.len() < TOLD {
            eprintln!("FAULT: {text}");
            self.faults.push(text);
        }
    }

    /// Compares the final bars with all trades that were sent.
    pub(crate) async fn bars(
        &mut self,
        store: &CassandraStore,
        ledger: &Ledger,
        topic: &Topic,
    ) -> Result<(), String> {
        let all = ledger.all();
        for chunk in all.chunks(512) {
            let keys: Vec<BarKey> = chunk
                .iter()
                .map(|(minute, _)| ledger.key(*minute))
                .collect();
            let bars = patiently(|| store.read_bars(&keys)).await?;
            for ((minute, sent), bar) in chunk.iter().zip(&bars) {
                self.bar(
                    *minute,
                    *sent,
                    bar.as_ref().map(|row| &row.state),
                    ledger,
                    topic,
                );
            }
        }
        Ok(())
    }

    fn bar(
        &mut self,
        minute: Minute,
        sent: u8,
        bar: Option<&BarState>,
        ledger: &Ledger,
        topic: &Topic,
    ) {
        self.bars += 1;
        self.trades += u64::from(sent);
        let logged = topic.places.get(&minute).map_or(0, Vec::len);
        if logged != usize::from(sent) {
            self.fault(format!(
                "{}: {sent} trades were sent, {logged} are in the topic",
                ledger.key(minute)
            ));
        }
        let sums = bar
            .map(|bar| *bar.totals.of_policy(Policy::All))
            .unwrap_or_default();
        if bar.is_some_and(|bar| prefix(minute, &bar.totals) == Ok(sent))
            || (bar.is_none() && sent == 0)
        {
            return;
        }
        let (lost, doubled) = explain(sums.volume_e8, sums.trades, sent);
        self.lost += u64::try_from(lost.len()).unwrap_or(0);
        self.doubled += u64::try_from(doubled.len()).unwrap_or(0);
        let named = |slots: &[u8]| {
            slots
                .iter()
                .map(|slot| {
                    topic.name(Id {
                        minute,
                        slot: *slot,
                    })
                })
                .collect::<Vec<_>>()
                .join(", ")
        };
        self.fault(format!(
            "{}: {sent} trades were sent, the bar has {} of volume {}; lost: {}; doubled: {}",
            ledger.key(minute),
            sums.trades,
            sums.volume_e8,
            named(&lost),
            named(&doubled)
        ));
    }

    /// Compares what readers saw with the prefix that each epoch names.
    pub(crate) async fn audit(
        &mut self,
        store: &CassandraStore,
        observed: &Observed,
        ledger: &Ledger,
        topic: &Topic,
    ) -> Result<(), String> {
        let history = patiently(|| store.history(HISTORY)).await?;
        let cuts: HashMap<u64, &HistoryEntry> =
            history.iter().map(|entry| (entry.epoch, entry)).collect();
        for ((minute, epoch), trades) in &observed.contents {
            let Some(below) = cuts
                .get(epoch)
                .and_then(|entry| topic.below(*minute, &entry.cuts))
            else {
                self.not_audited += 1;
                continue;
            };
            self.audited += 1;
            if below != *trades {
                let key = ledger.key(*minute);
                self.fault(format!(
                    "{key}: seen with {trades} trades at epoch {epoch}, below \
                whose cut there are {below}"
                ));
            }
        }
        for ((line, epoch), said) in &observed.said {
            let Some(entry) = cuts.get(epoch) else {
                self.not_audited += 1;
                continue;
            };
            self.lists_audited += 1;
            let (mut want, mut notional) = (EntryValues::default(), 0);
            for symbol in (0..ledger.symbols.len())
                .filter(|symbol| ledger.symbols[*symbol].class().name() == line.class)
            {
                let minute = Minute {
                    symbol,
                    number: line.minute,
                };
                let trades = topic.below(minute, &entry.cuts).unwrap_or(0);
                want.symbols += u64::from(trades > 0);
                want.trades += u64::from(trades);
                notional += notional_of(minute, trades);
            }
            want.notional_e16 = Some(notional);
            if want != *said {
                self.fault(format!(
                    "market of {line:?}: seen as {said:?} at epoch {epoch}, whose \
                prefix gives {want:?}"
                ));
            }
        }
        Ok(())
    }
}

/// The trades that a wrong volume lacks and those that it has twice: the fewest that explain it,
/// given the number of trades that the bar counts.
fn explain(volume: i128, count: u64, sent: u8) -> (Vec<u8>, Vec<u8>) {
    let want = (1i128 << sent) - 1;
    // One wrong set of each kind explains any difference: what is missing in all is lost, what is
    // too much in all is doubled.
    let difference = volume - want;
    let slots = |number: i128| {
        (0..u8::try_from(i128::BITS - 1).unwrap_or(127))
            .filter(|bit| number >> bit & 1 == 1)
            .collect::<Vec<u8>>()
    };
    let found = if difference < 0 {
        (slots(-difference), Vec::new())
    } else {
        (Vec::new(), slots(difference))
    };
    let counted = i128::from(count) - i128::from(sent);
    let explained =
        i128::try_from(found.1.len()).unwrap_or(0) - i128::try_from(found.0.len()).unwrap_or(0);
    if counted == explained {
        return found;
    }
    // Some lost and some doubled at once: the bits as they stand say the most.
    (slots(want & !volume), slots(volume & !want))
}

/// Names with their counts, for the report.
pub(crate) fn counted(ends: &BTreeMap<String, u64>) -> String {
    ends.iter()
        .map(|(name, count)| format!("{name} ({count})"))
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_and_doubled_trades_are_named() {
        let volume = |slots: &[u8]| slots.iter().map(|slot| 1i128 << slot).sum::<i128>();
        assert_eq!(explain(volume(&[0, 1, 3]), 3, 4), (vec![2], vec![]));
        assert_eq!(explain(volume(&[0, 1, 2, 3, 1]), 5, 4), (vec![], vec![1]));
        assert_eq!(
            explain(volume(&[0, 1, 2, 3, 1, 3]), 6, 4),
            (vec![], vec![1, 3])
        );
        assert_eq!(explain(0, 0, 3), (vec![0, 1, 2], vec![]), "the whole bar");
    }
}
