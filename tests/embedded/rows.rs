//! The rows of bars in a file: what is in their cells, and valid cells that the job did not write.
//!
//! A cell is bound to the start of its window, and the bars of a second are in the cell of their
//! minute, so SQL alone can neither count bars nor move one.

use rusqlite::{Connection, params};
use tapeflow_schemas::{BarRow, PackedBar, PackedBars, WindowStart};

/// A condition for the rows of a symbol and size.
pub(crate) fn of(symbol: &str, seconds: i64) -> String {
    format!(
        "symbol_id = (SELECT id FROM symbols WHERE symbol = '{symbol}') AND seconds = {seconds}"
    )
}

/// The rows that meet a condition, in the order of their sizes, starts and symbols.
pub(crate) fn rows(database: &Connection, condition: &str) -> Vec<(WindowStart, BarRow)> {
    let select = format!(
        "SELECT start, state FROM bars WHERE {condition} ORDER BY seconds, start, symbol_id"
    );
    let mut select = database.prepare(&select).expect("prepared");
    let found = select
        .query_map([], |row| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, Vec<u8>>(1)?))
        })
        .expect("queried");
    found
        .map(|found| {
            let (start, cell) = found.expect("a row");
            let row = BarRow::from_cell(&cell, start).expect("a cell of this start");
            (start, row)
        })
        .collect()
}

/// The bars in the rows that meet a condition, with those that are packed into a minute.
pub(crate) fn count_bars(database: &Connection, condition: &str) -> u64 {
    rows(database, condition)
        .iter()
        .map(|(start, row)| 1 + row.packed.iter(*start).count() as u64)
        .sum()
}

/// Changes the first of the rows that meet a condition, and gives it a valid cell.
pub(crate) fn change(
    database: &Connection,
    condition: &str,
    change: impl FnOnce(WindowStart, &mut BarRow),
) {
    let (start, was) = rows(database, condition).remove(0);
    let mut row = was.clone();
    change(start, &mut row);
    assert_ne!(row, was, "{condition}");
    let update = format!("UPDATE bars SET state = ?1 WHERE {condition} AND start = ?2");
    let changed = database
        .execute(&update, params![row.to_cell(start), start])
        .expect("changed");
    assert_eq!(changed, 1, "{condition}");
}

/// Counts the trades of a bar twice, and leaves the shorter bars within it.
pub(crate) fn double(database: &Connection, condition: &str) {
    change(database, condition, |_, row| {
        let again = row.state.totals;
        row.state.totals.merge(&again);
    });
}

/// Changes the first second in the first minute that meets a condition, and leaves the minute.
pub(crate) fn change_second<Seconds: IntoIterator<Item = PackedBar>>(
    database: &Connection,
    minutes: &str,
    changed: impl FnOnce(PackedBar) -> Seconds,
) {
    change(database, minutes, |minute, row| {
        let mut seconds: Vec<PackedBar> = row
            .packed
            .iter(minute)
            .map(|bar| bar.expect("a second"))
            .collect();
        assert!(seconds.iter().all(|bar| bar.size.ms() == 1_000));
        let first = changed(seconds.remove(0));
        seconds.extend(first);
        row.packed = PackedBars::of(minute, &mut seconds);
    });
}

/// Counts the trades of a second twice.
pub(crate) fn doubled(mut second: PackedBar) -> Option<PackedBar> {
    let again = second.totals;
    second.totals.merge(&again);
    Some(second)
}

/// Adds a valid row with the content of another one: of the first that meets a condition, as that
/// of a symbol's number and a start.
pub(crate) fn add(database: &Connection, condition: &str, symbol_id: i64, start: WindowStart) {
    let (from, row) = rows(database, condition).remove(0);
    let insert = format!(
        "INSERT INTO bars (seconds, start, symbol_id, write_timestamp, state)
        SELECT seconds, ?1, ?2, write_timestamp, ?3 FROM bars WHERE {condition} AND start = ?4"
    );
    let added = database
        .execute(&insert, params![start, symbol_id, row.to_cell(start), from])
        .expect("added");
    assert_eq!(added, 1, "{condition}");
}

/// The number of a symbol.
pub(crate) fn symbol_id(database: &Connection, symbol: &str) -> i64 {
    database
        .query_row(
            "SELECT id FROM symbols WHERE symbol = ?1",
            [symbol],
            |row| row.get(0),
        )
        .expect("a symbol")
}
