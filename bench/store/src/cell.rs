//! A model of cell format 2: varints and deltas. It has the length and the cost of such a cell, and
//! no reader: nothing stores it outside of this bench.
//!
//! ```text
//!  cell:  format, epoch, entry of the bar, checksum
//!  pack:  format, epoch, entry of the minute, { second, epoch, entry of the second }..., checksum
//!  entry: flags, scales, sums by `sip`, the other sums where they differ, prices as distances from
//!         the low, first and last trade as distances from the window's start and from each other
//! ```

use tapeflow_schemas::{BarState, Price, Sums, Totals, totals::Mark};
use xxhash_rust::xxh3::xxh3_64;

const FORMAT: u8 = 2;

/// The epoch and the log offset that entries of a pack are relative to.
#[derive(Clone, Copy, Debug, Default)]
struct Base {
    epoch: u64,
    offset: i64,
}

/// The cell of one bar in the first form, of fixed width, which the job wrote until it had this one.
pub(crate) fn first_form(state: &BarState) -> Vec<u8> {
    let totals = &state.totals;
    let mut cell = vec![1];
    cell.extend(state.epoch.to_le_bytes());
    for sums in &totals.sums {
        cell.extend(sums.volume_e8.to_le_bytes());
        cell.extend(sums.notional_e16.to_le_bytes());
        cell.extend(sums.trades.to_le_bytes());
    }
    for count in [totals.priced, totals.revision, totals.sole_trades] {
        cell.extend(count.to_le_bytes());
    }
    cell.extend(totals.sole_price_e8.to_le_bytes());
    for price in [totals.high, totals.low] {
        cell.extend(price.map_or(0, Price::e8).to_le_bytes());
    }
    for mark in [totals.first, totals.last] {
        cell.push(u8::from(mark.is_some()));
        if let Some(mark) = mark {
            cell.extend(mark.event_ms.to_le_bytes());
            cell.extend(mark.position.partition.to_le_bytes());
            cell.extend(mark.position.offset.to_le_bytes());
            cell.extend(mark.position.index.to_le_bytes());
            cell.extend(mark.price.e8().to_le_bytes());
        }
    }
    seal(&mut cell);
    cell
}

/// The cell of one bar.
pub(crate) fn cell(state: &BarState, start_ms: i64) -> Vec<u8> {
    let mut cell = head(state, start_ms);
    seal(&mut cell);
    cell
}

/// The cell of a minute with its seconds in it: `seconds` are entries as [`second`] makes them.
pub(crate) fn pack(minute: &BarState, start_ms: i64, seconds: &[u8]) -> Vec<u8> {
    let mut cell = head(minute, start_ms);
    cell.extend(seconds);
    seal(&mut cell);
    cell
}

/// Appends the entry of a second to those of its minute. `first` is the first state of the minute:
/// its epoch and offset are what the entries are relative to.
pub(crate) fn second(
    to: &mut Vec<u8>,
    number: u8,
    state: &BarState,
    start_ms: i64,
    first: &BarState,
) {
    let base = Base {
        epoch: first.epoch,
        offset: first
            .totals
            .first
            .or(first.totals.last)
            .map_or(0, |mark| mark.position.offset),
    };
    to.push(number);
    signed(
        to,
        i128::from(state.epoch).wrapping_sub(i128::from(base.epoch)),
    );
    entry(to, &state.totals, start_ms, base);
}

fn head(state: &BarState, start_ms: i64) -> Vec<u8> {
    let mut cell = Vec::with_capacity(96);
    cell.push(FORMAT);
    unsigned(&mut cell, u128::from(state.epoch));
    entry(&mut cell, &state.totals, start_ms, Base::default());
    cell
}

fn seal(cell: &mut Vec<u8>) {
    let sum = xxh3_64(cell);
    cell.extend(sum.to_le_bytes());
}

fn entry(to: &mut Vec<u8>, totals: &Totals, start_ms: i64, base: Base) {
    let [all, sip, strict] = &totals.sums;
    let flags = [
        all != sip,
        strict != sip,
        totals.priced != strict.trades,
        totals.revision != 0,
        totals.sole_trades != 0,
        totals.low.is_some(),
        totals.first.is_some(),
        totals.last.is_some() && totals.last != totals.first,
    ];
    let flags = (0..)
        .zip(flags)
        .fold(0, |set, (bit, is_set)| set | (u8::from(is_set) << bit));
    let scales = Scales::of(totals);
    to.push(flags);
    to.extend([scales.price | (scales.volume << 4), scales.notional]);
    sums(to, sip, &Sums::default(), &scales);
    if all != sip {
        sums(to, all, sip, &scales);
    }
    if strict != sip {
        sums(to, strict, sip, &scales);
    }
    if totals.priced != strict.trades {
        signed(to, i128::from(totals.priced) - i128::from(strict.trades));
    }
    if totals.revision != 0 {
        unsigned(to, u128::from(totals.revision));
    }
    if totals.sole_trades != 0 {
        unsigned(to, u128::from(totals.sole_trades));
        signed(to, totals.sole_price_e8);
    }
    let low_e8 = totals.low.map_or(0, |price| price.e8());
    if let (Some(low), Some(high)) = (totals.low, totals.high) {
        signed(to, scales.price_of(low.e8()));
        signed(to, scales.price_of(high.e8() - low.e8()));
    }
    marks(to, totals, &scales, start_ms, low_e8, base);
}

fn marks(
    to: &mut Vec<u8>,
    totals: &Totals,
    scales: &Scales,
    start_ms: i64,
    low_e8: i64,
    base: Base,
) {
    let mut last = Mark {
        event_ms: start_ms,
        position: tapeflow_schemas::Position {
            partition: 0,
            offset: base.offset,
            index: 0,
        },
        price: tapeflow_schemas::Price::from_e8(low_e8.max(1)).expect("a low is a price"),
    };
    let mut before_e8 = low_e8;
    let second = totals.last.filter(|_| totals.last != totals.first);
    for mark in totals.first.into_iter().chain(second) {
        signed(to, i128::from(mark.event_ms - last.event_ms));
        signed(
            to,
            i128::from(mark.position.partition) - i128::from(last.position.partition),
        );
        signed(
            to,
            i128::from(mark.position.offset) - i128::from(last.position.offset),
        );
        unsigned(to, u128::from(mark.position.index));
        signed(to, scales.price_of(mark.price.e8() - before_e8));
        before_e8 = mark.price.e8();
        last = mark;
    }
}

fn sums(to: &mut Vec<u8>, sums: &Sums, of: &Sums, scales: &Scales) {
    signed(to, i128::from(sums.trades) - i128::from(of.trades));
    signed(to, scales.volume_of(sums.volume_e8 - of.volume_e8));
    signed(to, scales.notional_of(sums.notional_e16 - of.notional_e16));
}

/// How many decimal zeros all prices, volumes and notionals of a bar end with.
struct Scales {
    price: u8,
    volume: u8,
    notional: u8,
}

impl Scales {
    fn of(totals: &Totals) -> Self {
        let prices = [totals.low, totals.high]
            .into_iter()
            .flatten()
            .chain(
                totals
                    .first
                    .iter()
                    .chain(&totals.last)
                    .map(|mark| mark.price),
            )
            .map(|price| i128::from(price.e8()));
        Self {
            price: zeros(prices, 8),
            volume: zeros(totals.sums.iter().map(|sums| sums.volume_e8), 8),
            notional: zeros(totals.sums.iter().map(|sums| sums.notional_e16), 16),
        }
    }

    fn price_of(&self, e8: i64) -> i128 {
        i128::from(e8 / 10i64.pow(u32::from(self.price)))
    }

    fn volume_of(&self, e8: i128) -> i128 {
        scaled(e8, self.volume)
    }

    fn notional_of(&self, e16: i128) -> i128 {
        scaled(e16, self.notional)
    }
}

/// In 64 bits where it fits: a division of 128 bits costs ten times as much.
fn scaled(value: i128, zeros: u8) -> i128 {
    let by = 10i64.pow(u32::from(zeros));
    i64::try_from(value).map_or_else(|_| value / i128::from(by), |value| i128::from(value / by))
}

/// The decimal zeros that all of `values` end with, at most `most`.
fn zeros(values: impl Iterator<Item = i128>, most: u8) -> u8 {
    values.fold(most, |most, value| {
        let mut left = most;
        while left > 0 && scaled(value, left) * i128::from(10i64.pow(u32::from(left))) != value {
            left -= 1;
        }
        left
    })
}

fn signed(to: &mut Vec<u8>, value: i128) {
    unsigned(to, ((value << 1) ^ (value >> 127)).cast_unsigned());
}

fn unsigned(to: &mut Vec<u8>, mut value: u128) {
    while value >= 0x80 {
        to.push(u8::try_from(value & 0x7f).expect("seven bits") | 0x80);
        value >>= 7;
    }
    to.push(u8::try_from(value).expect("seven bits"));
}

#[cfg(test)]
mod tests {
    use crate::feed;

    use super::*;

    /// Mean bytes of today's cell, of a lean one, and of an entry in a pack, over the bars of a
    /// workload.
    #[test]
    fn a_lean_cell_of_a_second_takes_a_sixth_of_todays_and_less_in_a_pack() {
        let bars: Vec<_> = feed::runs(200, 32).into_iter().flatten().collect();
        let mean = |length: &dyn Fn(&feed::Row) -> usize| {
            bars.iter().map(length).sum::<usize>() / bars.len()
        };
        let today = mean(&|row| first_form(&row.state).len());
        let lean = mean(&|row| cell(&row.state, row.start).len());
        let packed = mean(&|row| {
            let mut entry = Vec::new();
            second(&mut entry, 1, &row.state, row.start, &row.state);
            entry.len()
        });
        assert!((200..260).contains(&today), "{today}");
        assert!((25..45).contains(&lean), "{lean}");
        assert!((10..lean).contains(&packed), "{packed}");
    }

    #[test]
    fn bars_that_differ_have_cells_that_differ() {
        let rows: Vec<_> = feed::runs(50, 32).into_iter().flatten().collect();
        let distinct = |cell: &dyn Fn(&feed::Row) -> Vec<u8>| {
            let cells: std::collections::BTreeSet<_> = rows.iter().map(cell).collect();
            cells.len()
        };
        // Bars of the same odd lots are equal: those form no price, so no offset is kept.
        let lean = distinct(&|row| cell(&row.state, row.start));
        assert_eq!(lean, distinct(&|row| first_form(&row.state)));
    }

    #[test]
    fn numbers_are_written_seven_bits_a_byte() {
        let bytes = |value| {
            let mut to = Vec::new();
            signed(&mut to, value);
            to
        };
        assert_eq!(bytes(0), [0]);
        assert_eq!(bytes(-1), [1]);
        assert_eq!(bytes(63), [126]);
        assert_eq!(bytes(64), [0x80, 1]);
        assert_eq!(bytes(i128::MAX).len(), 19);
    }
}
