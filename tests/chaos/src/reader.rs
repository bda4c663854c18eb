//! The readers read bars and views at quorum for the whole run, as a dashboard would, and compare
//! each one at once.
//!
//! Every bar that is read must be a prefix of its symbol's trades, exact in all sums; it must not
//! be older than what any reader had seen before this read began; and one epoch must mean one
//! content. A read that fails because servers are down is counted and is not an error.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tapeflow_protocol::{BarReader, EpochStore};
use tapeflow_schemas::{BarKey, BarState, Policy, Totals, View, ViewState};
use tapeflow_sinks::cassandra::CassandraStore;

use crate::ledger::{Id, Ledger, MINUTE_MS, Minute, SLOTS, minute, notional_of, trade};

/// Bars asked for in one go.
const ROWS_PER_READ: usize = 12;
/// How long a reader rests between two reads: the machine has other work.
const REST: Duration = Duration::from_millis(50);
/// A reader reads views once in this many reads.
const LISTS_EVERY: u64 = 8;
/// Faults kept; one is enough to fail.
const FAULTS_KEPT: usize = 50;

/// What a reader has seen of a bar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Floor {
    trades: u8,
    epoch: u64,
}

/// An entry of the view `market`: a class of symbols in a minute.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Line {
    pub(crate) class: String,
    pub(crate) minute: usize,
}

/// The values of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct EntryValues {
    pub(crate) symbols: u64,
    pub(crate) trades: u64,
    pub(crate) notional_e16: Option<i128>,
}

/// What all readers have seen.
#[derive(Default)]
pub(crate) struct Observed {
    bars: HashMap<Minute, Floor>,
    /// How many trades a bar had at an epoch.
    pub(crate) contents: HashMap<(Minute, u64), u8>,
    lists: HashMap<usize, u64>,
    lines: HashMap<Line, EntryValues>,
    /// The values of an entry at an epoch.
    pub(crate) said: HashMap<(Line, u64), EntryValues>,
    pub(crate) counts: Counts,
    pub(crate) faults: Vec<String>,
    /// Bars that were no prefix.
    wrong: HashSet<Minute>,
}

/// How much was read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) reads: u64,
    pub(crate) failed: u64,
    pub(crate) bars: u64,
    pub(crate) absent: u64,
    pub(crate) lists: u64,
}

impl Observed {
    fn fault(&mut self, text: String) {
        eprintln!("FAULT: {text}");
        if self.faults.len() < FAULTS_KEPT {
            self.faults.push(text);
        }
    }

    /// Compares a bar. `floor` is what readers had seen of it when the read began; `sent` is the
    /// number of trades sent by its end.
    fn bar(
        &mut self,
        name: &str,
        minute: Minute,
        state: Option<&BarState>,
        floor: Floor,
        sent: u8,
    ) {
        let Some(state) = state else {
            self.counts.absent += 1;
            if floor != Floor::default() {
                self.fault(format!(
                    "{name}: a bar that had {} trades at epoch {} is gone",
                    floor.trades, floor.epoch
                ));
            }
            return;
        };
        self.counts.bars += 1;
        let trades = match prefix(minute, &state.totals) {
            Ok(trades) => trades,
            // Once a bar: what is wrong stays wrong.
            Err(what) if self.wrong.insert(minute) => {
                return self.fault(format!("{name} at epoch {}: {what}", state.epoch));
            }
            Err(_) => return,
        };
        let at = format!("{name} at epoch {} with {trades} trades", state.epoch);
        if trades > sent {
            self.fault(format!("{at}: only {sent} have been sent"));
        }
        if trades < floor.trades || state.epoch < floor.epoch {
            self.fault(format!(
                "{at}: went back, it had {} trades at epoch {}",
                floor.trades, floor.epoch
            ));
        }
        let before = *self.contents.entry((minute, state.epoch)).or_insert(trades);
        if before != trades {
            self.fault(format!("{at}: at the same epoch it had {before} trades"));
        }
        let observed = self.bars.entry(minute).or_default();
        observed.trades = observed.trades.max(trades);
        observed.epoch = observed.epoch.max(state.epoch);
    }

    /// Compares the view `market` of a minute.
    fn list(
        &mut self,
        minute: usize,
        state: &ViewState,
        floor: u64,
        floors: &HashMap<Line, EntryValues>,
    ) {
        self.counts.lists += 1;
        let epoch = state.epoch;
        if epoch < floor {
            self.fault(format!(
                "market of minute {minute}: went back from epoch {floor} to {epoch}"
            ));
        }
        for (line, was) in floors.iter().filter(|(line, _)| line.minute == minute) {
            let now = state.entries.iter().find(|entry| entry.name == line.class);
            let now = now.map_or(EntryValues::default(), |entry| EntryValues {
                symbols: entry.symbols,
                trades: entry.trades,
                notional_e16: entry.notional,
            });
            if now.symbols < was.symbols
                || now.trades < was.trades
                || now.notional_e16 < was.notional_e16
            {
                self.fault(format!(
                    "market of minute {minute}, {}: went back from {was:?} to \
                {now:?} at epoch {epoch}",
                    line.class
                ));
            }
        }
        for entry in &state.entries {
            let line = Line {
                class: entry.name.clone(),
                minute,
            };
            let said = EntryValues {
                symbols: entry.symbols,
                trades: entry.trades,
                notional_e16: entry.notional,
            };
            let before = *self.said.entry((line.clone(), epoch)).or_insert(said);
            if before != said {
                self.fault(format!(
                    "market of minute {minute}, {}: {before:?} and {said:?} at the \
                same epoch {epoch}",
                    line.class
                ));
            }
            let observed = self.lines.entry(line).or_default();
            if said.trades >= observed.trades {
                *observed = said;
            }
        }
        let observed = self.lists.entry(minute).or_default();
        *observed = (*observed).max(epoch);
    }
}

/// How many trades a bar has, if they are the first ones of its minute and all its sums are theirs.
pub(crate) fn prefix(minute: Minute, totals: &Totals) -> Result<u8, String> {
    let sums = totals.of_policy(Policy::All);
    let held = sums.volume_e8;
    let trades = held.trailing_ones();
    let trades = u8::try_from(trades)
        .ok()
        .filter(|trades| *trades <= SLOTS && held == (1i128 << trades) - 1)
        .ok_or_else(|| {
            let bits: Vec<u32> = (0..127).filter(|bit| held >> bit & 1 == 1).collect();
            let top = bits.last().copied().unwrap_or(0);
            let missing: Vec<u32> = (0..top).filter(|bit| !bits.contains(bit)).collect();
            format!(
                "its volume is {held}, the trades {bits:?}: not the first ones ({missing:?} are \
        missing); it counts {} trades",
                sums.trades
            )
        })?;
    let mut want = (notional_of(minute, trades), None, None);
    for trade in (0..trades).filter_map(|slot| trade(Id { minute, slot })) {
        want.1 = want.1.max(Some(trade.price));
        want.2 = Some(want.2.map_or(trade.price, |low: tapeflow_schemas::Price| {
            low.min(trade.price)
        }));
    }
    let have = (sums.notional_e16, totals.high, totals.low);
    if have != want || sums.trades != u64::from(trades) || totals.priced != u64::from(trades) {
        return Err(format!(
            "its volume says {trades} trades, but it counts {} ({} priced), and of {have:?} the \
             recomputation is {want:?}",
            sums.trades, totals.priced
        ));
    }
    if totals.of_policy(Policy::Sip) != sums || totals.of_policy(Policy::Strict) != sums {
        return Err("its policies differ, though no trade has a condition".into());
    }
    Ok(trades)
}

/// What readers share.
#[derive(Clone)]
pub(crate) struct Readers {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) observed: Arc<Mutex<Observed>>,
    pub(crate) stop: Arc<AtomicBool>,
}

impl Readers {
    pub(crate) fn observed(&self) -> MutexGuard<'_, Observed> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One reader, with a connection of its own.
    pub(crate) async fn run(self, store: CassandraStore, seed: u64) {
        let mut random = StdRng::seed_from_u64(seed);
        let mut turn = 0u64;
        while !self.stop.load(Ordering::Acquire) {
            tokio::time::sleep(REST).await;
            turn += 1;
            let answered = if turn.is_multiple_of(LISTS_EVERY) {
                self.read_lists(&store, &mut random).await
            } else {
                self.read_bars(&store, &mut random).await
            };
            let mut observed = self.observed();
            observed.counts.reads += 1;
            observed.counts.failed += u64::from(!answered);
        }
    }

    /// A minute: mostly one of the newest, sometimes any.
    fn choose(&self, random: &mut StdRng) -> Minute {
        let symbol = random.random_range(0..self.ledger.symbols.len());
        let minutes = self.ledger.minutes(symbol).max(1);
        let back = if random.random_bool(0.8) {
            random.random_range(0..3)
        } else {
            random.random_range(0..minutes)
        };
        Minute {
            symbol,
            number: (minutes - 1).saturating_sub(back),
        }
    }

    async fn read_bars(&self, store: &CassandraStore, random: &mut StdRng) -> bool {
        let mut minutes: Vec<Minute> = (0..ROWS_PER_READ).map(|_| self.choose(random)).collect();
        minutes.sort_unstable();
        minutes.dedup();
        self.read(store, &minutes).await
    }

    /// Reads these bars and compares them; whether the store answered.
    pub(crate) async fn read(&self, store: &CassandraStore, minutes: &[Minute]) -> bool {
        let keys: Vec<BarKey> = minutes
            .iter()
            .map(|minute| self.ledger.key(*minute))
            .collect();
        let floors: Vec<Floor> = {
            let observed = self.observed();
            minutes
                .iter()
                .map(|minute| observed.bars.get(minute).copied().unwrap_or_default())
                .collect()
        };
        let bars = match store.read_bars(&keys).await {
            Ok(bars) => bars,
            Err(tapeflow_protocol::StoreError::Unavailable(_)) => return false,
            Err(tapeflow_protocol::StoreError::Broken(reason)) => {
                // A damaged cell is as bad as a wrong one; a session that broke is not.
                let mut observed = self.observed();
                if reason.contains("cell") {
                    observed.fault(reason);
                }
                return false;
            }
        };
        let mut observed = self.observed();
        for (((minute, key), bar), floor) in minutes.iter().zip(&keys).zip(&bars).zip(floors) {
            observed.bar(
                &key.to_string(),
                *minute,
                bar.as_ref().map(|row| &row.state),
                floor,
                self.ledger.sent(*minute),
            );
        }
        true
    }

    async fn read_lists(&self, store: &CassandraStore, random: &mut StdRng) -> bool {
        let first = self.choose(random);
        let (lists, lines) = {
            let observed = self.observed();
            let near = |minute: usize| (first.number..first.number + 2).contains(&minute);
            let lists: HashMap<usize, u64> = observed
                .lists
                .iter()
                .filter(|(minute, _)| near(**minute))
                .map(|(minute, epoch)| (*minute, *epoch))
                .collect();
            let lines: HashMap<Line, EntryValues> = observed
                .lines
                .iter()
                .filter(|(line, _)| near(line.minute))
                .map(|(line, said)| (line.clone(), *said))
                .collect();
            (lists, lines)
        };
        let Ok(found) = store
            .views(
                View::Market,
                minute(),
                first.start()..first.start() + 2 * MINUTE_MS,
            )
            .await
        else {
            return false;
        };
        let mut observed = self.observed();
        for list in &found {
            let Some(minute) = Minute::at(0, list.start) else {
                continue;
            };
            observed.list(
                minute.number,
                &list.state,
                lists.get(&minute.number).copied().unwrap_or(0),
                &lines,
            );
        }
        for minute in lists.keys().filter(|number| {
            !found
                .iter()
                .any(|list| Minute::at(0, list.start).is_some_and(|m| m.number == **number))
        }) {
            observed.fault(format!(
                "market of minute {minute}: a view that existed is gone"
            ));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use tapeflow_schemas::Position;

    use super::*;

    const MINUTE: Minute = Minute {
        symbol: 1,
        number: 2,
    };

    fn bar(slots: &[u8]) -> Totals {
        let mut totals = Totals::default();
        for slot in slots {
            let trade = trade(Id {
                minute: MINUTE,
                slot: *slot,
            })
            .expect("a trade");
            totals.add_trade(
                &trade,
                Position {
                    partition: 0,
                    offset: i64::from(*slot),
                    index: 0,
                },
                false,
            );
        }
        totals
    }

    #[test]
    fn a_prefix_is_recognized_and_what_is_lost_or_doubled_is_named() {
        assert_eq!(prefix(MINUTE, &Totals::default()), Ok(0));
        assert_eq!(prefix(MINUTE, &bar(&[0, 1, 2])), Ok(3));
        assert_eq!(
            prefix(MINUTE, &bar(&(0..SLOTS).collect::<Vec<_>>())),
            Ok(SLOTS)
        );
        assert!(prefix(MINUTE, &bar(&[0, 2])).is_err_and(|text| text.contains("[1] are missing")));
        assert!(
            prefix(MINUTE, &bar(&[0, 1, 1])).is_err(),
            "1 + 2 + 2 is no 2^k - 1"
        );
        assert!(
            prefix(MINUTE, &bar(&[0, 0, 1, 2, 3])).is_err(),
            "16 has one bit"
        );
        let mut cheap = bar(&[0, 1]);
        cheap.sums[0].notional_e16 -= 1;
        assert!(prefix(MINUTE, &cheap).is_err());
    }

    #[test]
    fn a_bar_that_goes_back_vanishes_or_has_two_contents_at_an_epoch_is_a_fault() {
        let state = |slots: &[u8], epoch| BarState {
            epoch,
            totals: bar(slots),
        };
        let faults = |check: &dyn Fn(&mut Observed)| {
            let mut observed = Observed::default();
            observed.bar("bar", MINUTE, Some(&state(&[0, 1], 5)), Floor::default(), 2);
            assert!(observed.faults.is_empty());
            check(&mut observed);
            observed.faults.len()
        };
        let floor = Floor {
            trades: 2,
            epoch: 5,
        };
        assert_eq!(
            faults(&|observed| observed.bar("bar", MINUTE, Some(&state(&[0, 1], 6)), floor, 2)),
            0
        );
        assert_eq!(
            faults(&|observed| observed.bar("bar", MINUTE, None, floor, 2)),
            1
        );
        assert_eq!(
            faults(&|observed| observed.bar("bar", MINUTE, Some(&state(&[0], 6)), floor, 2)),
            1
        );
        assert_eq!(
            faults(&|observed| observed.bar("bar", MINUTE, Some(&state(&[0, 1], 4)), floor, 2)),
            1
        );
        assert_eq!(
            faults(&|observed| observed.bar("bar", MINUTE, Some(&state(&[0, 1, 2], 5)), floor, 3)),
            1
        );
        assert_eq!(
            faults(&|observed| observed.bar("bar", MINUTE, Some(&state(&[0, 1, 2], 6)), floor, 2)),
            1,
            "more than was sent"
        );
        assert_eq!(
            faults(&|observed| observed.bar("bar", MINUTE, None, Floor::default(), 2)),
            0,
            "a read that began before the bar was seen"
        );
    }
}
