//! The state cell of a bar.

use tapeflow_schemas::{
    BarRow, BarState, Conditions, EventTime, PackedBar, PackedBars, Policy, Position, Price, Size,
    Totals, Trade, WindowSize, WindowStart,
    decimal::{MAX_NOTIONAL_E16, MAX_PRICE_E8},
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The minute whose cells these are.
const START: WindowStart = 1_680_286_500_000;

/// A cell, or all of one but its checksum.
pub(crate) fn check(bytes: &[u8]) {
    check_cell(bytes);
    let checksum = xxh3_64_with_seed(bytes, START.cast_unsigned());
    check_cell(&[bytes, &checksum.to_le_bytes()].concat());
}

fn check_cell(cell: &[u8]) {
    let Ok(row) = BarRow::from_cell(cell, START) else {
        return;
    };
    assert_eq!(row.to_cell(START), cell, "one cell for one content");
    let totals = &row.state.totals;
    for policy in Policy::EVERY {
        let _ = totals.of_policy(policy).vwap_e8();
    }
    let _ = (totals.open(), totals.close());
    // What the job does next: it adds trades, here the largest one.
    let mut grown = *totals;
    for at in 0..4 {
        grown.add_trade(&largest(at), position(at), at % 2 == 0);
    }
    grown.merge(&{
        let mut partial = Totals::default();
        partial.add_trade(&largest(9), position(9), true);
        partial
    });
    // And the same to the first of its packed bars, and to one that it may not have.
    let mut packed = row.packed.clone();
    let bars = packed.iter(START).map(|bar| bar.expect("checked"));
    let mut added: Vec<PackedBar> = bars.take(1).collect();
    added.push(PackedBar {
        size: WindowSize::from_ms(1_000).expect("a size"),
        start: START,
        totals: grown,
    });
    let sum: u64 = added.iter().map(|bar| trades(&bar.totals)).sum();
    let before: u64 = all_trades(&row.packed);
    packed
        .merge(START, &PackedBars::of(START, &mut added), &mut Vec::new())
        .expect("checked");
    assert_eq!(all_trades(&packed), before + sum, "nothing is lost");
    let epoch = row.state.epoch;
    let state = BarState {
        epoch,
        totals: grown,
    };
    let grown = BarRow { state, packed };
    let is_possible = |row: &BarRow| {
        row.state.totals.is_possible()
            && row
                .packed
                .iter(START)
                .all(|bar| bar.is_ok_and(|bar| bar.totals.is_possible()))
    };
    if is_possible(&grown) {
        assert_eq!(BarRow::from_cell(&grown.to_cell(START), START), Ok(grown));
    }
}

fn trades(totals: &Totals) -> u64 {
    totals.of_policy(Policy::All).trades
}

fn all_trades(packed: &PackedBars) -> u64 {
    let bars = packed.iter(START).map(|bar| bar.expect("checked"));
    bars.map(|bar| trades(&bar.totals)).sum()
}

fn position(index: u32) -> Position {
    Position {
        partition: 0,
        offset: i64::MAX,
        index,
    }
}

/// A trade of the largest notional; each in the same millisecond, with other conditions.
fn largest(at: u32) -> Trade {
    let price = Price::from_e8(MAX_PRICE_E8).expect("the largest price");
    let size = MAX_NOTIONAL_E16 / i128::from(MAX_PRICE_E8);
    let codes = [1, 15, 9, 16][usize::try_from(at % 4).expect("small")];
    Trade::new(
        EventTime::from_ms(1_700_000_000_000).expect("a time"),
        price,
        Size::from_e8(size).expect("a size"),
        Conditions::NONE.with(codes),
    )
    .expect("the largest trade")
}
