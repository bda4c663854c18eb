//! Whether a file has the tables that its version says. Versions count releases; a build between
//! two releases may have had other tables under the same number, and would otherwise be met by an
//! error about a column in the middle of a run.

use std::collections::BTreeMap;

use rusqlite::Connection;

/// The first table of `wanted` that `found` lacks or has with other columns, in words. Further
/// tables are somebody's own and do not matter.
pub(super) fn difference(
    found: &Connection,
    wanted: &Connection,
) -> rusqlite::Result<Option<String>> {
    let found = tables(found)?;
    Ok(tables(wanted)?.into_iter().find_map(|(table, wanted)| {
        let Some(columns) = found.get(&table) else {
            return Some(format!("table {table} is missing"));
        };
        let only = |these: &[String], those: &[String]| {
            these.iter().find(|column| !those.contains(column)).cloned()
        };
        if let Some(column) = only(&wanted, columns) {
            return Some(format!("table {table} has no column {column}"));
        }
        only(columns, &wanted).map(|column| format!("table {table} has a column {column}"))
    }))
}

/// The columns of each table.
fn tables(of: &Connection) -> rusqlite::Result<BTreeMap<String, Vec<String>>> {
    const SELECT: &str = "SELECT made.name, has.name
        FROM sqlite_schema AS made, pragma_table_xinfo(made.name) AS has
        WHERE made.type = 'table'";
    let mut select = of.prepare(SELECT)?;
    let mut rows = select.query([])?;
    let mut tables = BTreeMap::<String, Vec<String>>::new();
    while let Some(row) = rows.next()? {
        tables.entry(row.get(0)?).or_default().push(row.get(1)?);
    }
    Ok(tables)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        let open = |statements: &str| {
            let database = Connection::open_in_memory().expect("a database");
            database.execute_batch(statements).expect("made");
            database
        };
        let wanted = open("CREATE TABLE a (x, y); CREATE TABLE b (z)");
        let difference = |statements: &str| difference(&open(statements), &wanted).expect("read");
        for (statements, want) in [
            (
                "CREATE TABLE a (y, x); CREATE TABLE b (z); CREATE TABLE c (z)",
                None,
            ),
            ("CREATE TABLE a (x, y)", Some("table b is missing")),
            (
                "CREATE TABLE a (x, y); CREATE TABLE b (w)",
                Some("table b has no column z"),
            ),
            (
                "CREATE TABLE a (x, y, w); CREATE TABLE b (z)",
                Some("table a has a column w"),
            ),
        ] {
            assert_eq!(difference(statements).as_deref(), want, "{statements}");
        }
    }
}
