//! The bars that every layout is given: recorded trades, dealt to symbols that trade in proportion
//! to 1/n. The same numbers give the same bars.

use std::{
    collections::{BTreeMap, HashMap},
    ops::RangeInclusive,
};

use rand::{Rng, SeedableRng, rngs::SmallRng};
use serde_json::Value;
use tapeflow_schemas::{
    AssetClass, BarState, Conditions, EventTime, Position, Price, Size, Totals, Trade, WindowSize,
    partition_for,
};

use crate::cell;

/// Real trades, one frame of the feed a line.
const RECORDED: &str = include_str!("../../../tests/golden/finnhub-recorded.jsonl");
/// When trading begins: a full hour of a day of both markets.
const BEGIN_MS: i64 = 1_700_002_800_000;
/// How many symbols there are; the n-th trades in proportion to 1/n.
pub(crate) const SYMBOLS: usize = 5_000;
/// One symbol of so many is crypto.
const CRYPTO_EVERY: usize = 5;
/// Partitions of the topic.
const PARTITIONS: u32 = 12;
/// Trades of one symbol in one second, where a second has any.
const OF_A_SECOND: RangeInclusive<usize> = 1..=3;
/// Where the log stands: offsets of a topic that is a year old.
const FIRST_OFFSET: i64 = 1_800_000_000;
const MINUTE_MS: i64 = 60_000;
const SEED: u64 = 7;

/// One row to write.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) symbol: String,
    /// The symbol's number, for tables that store one.
    pub(crate) number: i64,
    pub(crate) size: WindowSize,
    pub(crate) start: i64,
    pub(crate) state: BarState,
    /// What a minute has packed in it; none: it is a row of its own size alone.
    pub(crate) seconds: Option<Seconds>,
}

/// The seconds of a minute: those written before are kept as bytes, the others are encoded when the
/// row is written.
#[derive(Clone, Debug)]
pub(crate) struct Seconds {
    first: BarState,
    encoded: Vec<u8>,
    fresh: Vec<(i64, BarState)>,
}

impl Row {
    /// The lean cell, with what is packed in it.
    pub(crate) fn cell(&self) -> Vec<u8> {
        let Some(seconds) = &self.seconds else {
            return cell::cell(&self.state, self.start);
        };
        let mut packed = Vec::with_capacity(seconds.encoded.len() + 64 * seconds.fresh.len());
        packed.extend(&seconds.encoded);
        seconds.encode_fresh(&mut packed, self.start);
        cell::pack(&self.state, self.start, &packed)
    }
}

impl Seconds {
    fn encode_fresh(&self, to: &mut Vec<u8>, minute: i64) {
        for (start, state) in &self.fresh {
            let number = u8::try_from((start - minute) / 1_000).expect("a second of its minute");
            cell::second(to, number, state, *start, &self.first);
        }
    }

    /// These seconds once they are written.
    fn written(&self, minute: i64) -> Self {
        let mut encoded = self.encoded.clone();
        self.encode_fresh(&mut encoded, minute);
        Self {
            first: self.first,
            encoded,
            fresh: Vec::new(),
        }
    }
}

/// A recorded trade without its time.
#[derive(Clone, Copy, Debug)]
struct Print {
    price: Price,
    size: Size,
    conditions: Conditions,
}

/// Trading under way.
struct Market {
    random: SmallRng,
    /// Recorded trades of one symbol and day, by asset class: crypto and stocks.
    recorded: [Vec<Vec<Print>>; 2],
    /// The sum of the shares up to and including each symbol's.
    shares: Vec<f64>,
    offset: i64,
}

impl Market {
    fn open() -> Self {
        let mut sum = 0.0;
        let shares = (1..=SYMBOLS).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        Self {
            random: SmallRng::seed_from_u64(SEED),
            recorded: recorded(),
            shares: shares.collect(),
            offset: FIRST_OFFSET,
        }
    }

    /// Which symbol trades next, from 0.
    fn rank(&mut self) -> usize {
        let all = self.shares.last().copied().unwrap_or_default();
        let drawn = self.random.random_range(0.0..all);
        let rank = self.shares.partition_point(|share| *share <= drawn);
        rank.min(SYMBOLS - 1)
    }

    /// The totals of one trade at `event_ms`.
    fn trade(&mut self, rank: usize, event_ms: i64) -> Totals {
        let of_class = &self.recorded[usize::from(is_crypto(rank))];
        // A symbol keeps its day: prices of one bar lie together.
        let day = &of_class[rank % of_class.len()];
        let print = day[self.random.random_range(0..day.len())];
        let time = EventTime::from_ms(event_ms).expect("a time of trading");
        let trade = Trade::new(time, print.price, print.size, print.conditions)
            .expect("a recorded trade is one");
        self.offset += self.random.random_range(1..50);
        let position = Position {
            partition: partition_for(&name(rank), PARTITIONS),
            offset: self.offset,
            index: 0,
        };
        Totals::of(&trade, position, false)
    }

    /// The totals of a second in which a symbol trades.
    fn second(&mut self, rank: usize, start: i64) -> Totals {
        let mut totals = Totals::default();
        let trades = self.random.random_range(OF_A_SECOND);
        for number in 0..trades {
            let after = i64::try_from(1_000 * number / trades).expect("below a second");
            totals.merge(&self.trade(rank, start + after));
        }
        totals
    }
}

/// What epochs write, a symbol a statement: each epoch is `step_ms` later than the one before and
/// has `trades` trades; every symbol that traded writes its window of each size.
pub(crate) struct Epochs {
    pub(crate) epochs: u64,
    pub(crate) step_ms: i64,
    pub(crate) trades: usize,
    pub(crate) sizes: Vec<WindowSize>,
}

/// A statement of an epoch.
pub(crate) type Statement = Vec<Row>;

/// The statements of each epoch.
pub(crate) fn epochs(of: &Epochs) -> Vec<Vec<Statement>> {
    let mut market = Market::open();
    let mut windows: HashMap<(usize, WindowSize, i64), Totals> = HashMap::new();
    (1..=of.epochs)
        .map(|epoch| {
            let begin = BEGIN_MS + i64::try_from(epoch).expect("few") * of.step_ms;
            let mut touched: BTreeMap<usize, i64> = BTreeMap::new();
            for number in 0..of.trades {
                let rank = market.rank();
                let after = 1_000 * number / of.trades;
                let event_ms = begin + i64::try_from(after).expect("below a second");
                let totals = market.trade(rank, event_ms);
                for size in &of.sizes {
                    let window = (rank, *size, start_of(rank, *size, event_ms));
                    windows.entry(window).or_default().merge(&totals);
                }
                touched.insert(rank, event_ms);
            }
            let statement = |(rank, event_ms): (usize, i64)| {
                let row = |size: &WindowSize| {
                    let start = start_of(rank, *size, event_ms);
                    let totals = windows[&(rank, *size, start)];
                    row(rank, *size, start, BarState { epoch, totals })
                };
                of.sizes.iter().map(row).collect()
            };
            touched.into_iter().map(statement).collect()
        })
        .collect()
}

/// The same with the seconds packed in their minute: of each statement, the row of a second goes
/// into that of its minute.
pub(crate) fn packed(epochs: &[Vec<Statement>]) -> Vec<Vec<Statement>> {
    let mut minutes: HashMap<(i64, i64), Seconds> = HashMap::new();
    let mut pack = |statement: &Statement| -> Statement {
        let (seconds, mut rows): (Vec<_>, Vec<_>) = statement
            .iter()
            .cloned()
            .partition(|row| row.size.ms() < MINUTE_MS);
        let minute = rows
            .iter_mut()
            .find(|row| row.size.ms() == MINUTE_MS)
            .expect("an epoch writes minutes");
        for second in seconds {
            let kept = minutes
                .entry((minute.number, minute.start))
                .or_insert_with(|| Seconds {
                    first: second.state,
                    encoded: Vec::new(),
                    fresh: Vec::new(),
                });
            kept.fresh = vec![(second.start, second.state)];
            minute.seconds = Some(kept.clone());
            *kept = kept.written(minute.start);
        }
        rows
    };
    epochs
        .iter()
        .map(|statements| statements.iter().map(&mut pack).collect())
        .collect()
}

/// `runs` times `length` successive seconds of a symbol.
pub(crate) fn runs(runs: usize, length: usize) -> Vec<Statement> {
    let second: WindowSize = "1s".parse().expect("a size");
    let mut market = Market::open();
    let mut run = |number: usize| -> Statement {
        let rank = market.rank();
        // An hour of its own for each run: no run writes what another has written.
        let begin = BEGIN_MS + i64::try_from(number).expect("few") * 60 * MINUTE_MS;
        (0..length)
            .map(|at| {
                let start = begin + i64::try_from(at).expect("few") * 1_000;
                let totals = market.second(rank, start);
                let epoch = u64::try_from(number + 1).expect("few");
                row(rank, second, start, BarState { epoch, totals })
            })
            .collect()
    };
    (0..runs).map(&mut run).collect()
}

/// Minutes with so many seconds in each, written once.
pub(crate) fn minutes(count: usize, seconds: usize) -> Vec<Statement> {
    let run = runs(count, seconds);
    run.iter().map(|run| vec![minute(run)]).collect()
}

/// The same minutes, written again after each of their seconds: first all with one second in them,
/// then all with two.
pub(crate) fn growing_minutes(count: usize, seconds: usize) -> Vec<Statement> {
    let runs = runs(count, seconds);
    (1..=seconds)
        .flat_map(|length| {
            runs.iter().map(move |run| {
                let mut row = minute(&run[..length]);
                if let Some(seconds) = &mut row.seconds {
                    let newest = seconds.fresh.pop();
                    *seconds = seconds.written(row.start);
                    seconds.fresh.extend(newest);
                }
                vec![row]
            })
        })
        .collect()
}

/// The row of a minute that has these seconds.
fn minute(seconds: &[Row]) -> Row {
    let (first, last) = (&seconds[0], &seconds[seconds.len() - 1]);
    let mut totals = Totals::default();
    for second in seconds {
        totals.merge(&second.state.totals);
    }
    let packed = Seconds {
        first: first.state,
        encoded: Vec::new(),
        fresh: seconds.iter().map(|row| (row.start, row.state)).collect(),
    };
    Row {
        size: WindowSize::from_ms(MINUTE_MS).expect("a size"),
        state: BarState {
            epoch: last.state.epoch,
            totals,
        },
        seconds: Some(packed),
        ..first.clone()
    }
}

fn row(rank: usize, size: WindowSize, start: i64, state: BarState) -> Row {
    Row {
        symbol: name(rank),
        number: i64::try_from(rank).expect("few symbols"),
        size,
        start,
        state,
        seconds: None,
    }
}

fn start_of(rank: usize, size: WindowSize, event_ms: i64) -> i64 {
    let time = EventTime::from_ms(event_ms).expect("a time of trading");
    size.start_of(time, AssetClass::of(&name(rank)))
}

fn is_crypto(rank: usize) -> bool {
    rank % CRYPTO_EVERY == CRYPTO_EVERY - 1
}

fn name(rank: usize) -> String {
    if is_crypto(rank) {
        format!("BENCH:S{rank:04}-USDT")
    } else {
        format!("S{rank:04}")
    }
}

/// The recorded trades by symbol and day, of stocks and of crypto.
fn recorded() -> [Vec<Vec<Print>>; 2] {
    let mut days: BTreeMap<(String, i64), Vec<Print>> = BTreeMap::new();
    for line in RECORDED.lines() {
        let frame: Value = serde_json::from_str(line).expect("a recorded frame is JSON");
        for trade in frame["data"].as_array().into_iter().flatten() {
            let symbol = trade["s"].as_str().expect("a symbol").to_owned();
            let day = trade["t"].as_i64().expect("a time") / 86_400_000;
            if let Some(print) = print(trade) {
                days.entry((symbol, day)).or_default().push(print);
            }
        }
    }
    let of_class = |class: AssetClass| {
        days.iter()
            .filter(|((symbol, _), _)| AssetClass::of(symbol) == class)
            // As often as it has trades: most symbols are given a day of many.
            .flat_map(|(_, prints)| std::iter::repeat_n(prints.clone(), prints.len()))
            .collect()
    };
    [of_class(AssetClass::Stock), of_class(AssetClass::Crypto)]
}

/// A trade of a frame; none if it has no size, or is a price update.
fn print(trade: &Value) -> Option<Print> {
    let codes = trade["c"].as_array().into_iter().flatten();
    let code = |set: Conditions, code: &Value| {
        let text = code.as_str().unwrap_or_default();
        set.with(Conditions::code_of(text))
    };
    Some(Print {
        price: Price::from_f64(trade["p"].as_f64()?).ok()?.value,
        size: Size::from_f64(trade["v"].as_f64()?).ok()?.value,
        conditions: codes.fold(Conditions::NONE, code),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn default_epochs() -> Epochs {
        Epochs {
            epochs: 70,
            step_ms: 1_000,
            trades: 100,
            sizes: WindowSize::DEFAULTS.to_vec(),
        }
    }

    #[test]
    fn recorded_trades_are_of_both_markets() {
        let [stocks, crypto] = recorded();
        assert!(stocks.iter().map(Vec::len).sum::<usize>() > 60);
        assert!(crypto.len() > 1 && crypto.iter().all(|day| !day.is_empty()));
    }

    #[test]
    fn the_same_numbers_give_the_same_bars_and_symbols_trade_by_their_rank() {
        let of = default_epochs();
        let (one, other) = (epochs(&of), epochs(&of));
        assert_eq!(format!("{one:?}"), format!("{other:?}"));
        let writes_of = |number: i64| {
            let rows = one.iter().flatten().filter(|rows| rows[0].number == number);
            rows.count()
        };
        assert!(writes_of(0) > 65 && writes_of(0) > 2 * writes_of(30));
    }

    #[test]
    fn a_minute_grows_by_a_second_and_says_the_same_however_it_grew() {
        let of = default_epochs();
        let packed = packed(&epochs(&of));
        let busiest = packed.iter().flatten().map(|rows| &rows[0]);
        let lengths: Vec<usize> = busiest
            .filter(|row| row.number == 0 && row.start == BEGIN_MS)
            .map(|row| row.cell().len())
            .collect();
        assert!(lengths.len() > 40, "{lengths:?}");
        assert!(lengths.is_sorted_by(|a, b| a + 10 < *b), "{lengths:?}");
        let grown = growing_minutes(3, 60);
        let (once, last) = (minutes(3, 60), &grown[grown.len() - 3..]);
        for (once, last) in once.iter().zip(last) {
            assert_eq!(once[0].cell(), last[0].cell());
        }
    }
}
