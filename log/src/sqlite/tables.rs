//! The tables of the file, and the number that says which form they have.
//!
//! A form is a batch of statements that turns the form before it into itself. A job brings a file
//! of an earlier form up to date when it opens the file. A file of a later form was made by a newer
//! binary and is refused; so is a file whose tables are not those of its form ([`super::shape`]).
//! Messages call the form the version of the tables.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use tapeflow_protocol::StoreError;

use super::{broken, shape};

/// All forms, from form 1. A released form is never edited: a change of the tables is a new form.
const FORMS: [&str; 1] = [FORM_1];

/// Decimals are exact texts. Prices and `change_pct` are doubles, because tools draw them.
///
/// * `bars.state` is all of a bar, with the shorter bars of its minute: the commands and the page
///   read it. `seconds` is the size, 86,400 for a day and 0 for a trading session. What an epoch
///   writes has few sizes and starts and many symbols, so a key that begins with size and start
///   puts it side by side, and the pages that it changes are few.
/// * `views.state` is a view's window as the job wrote it. `view_entries` has its entries as
///   display columns and is replaced together with it. `rank` is within `quote`, the quote
///   currency; for movers it is within all. An entry without a price, a volume or a notional has
///   NULL in the columns that need one. `change_pct_exact` is the distance of close from open as a
///   percentage of open, rounded half-even to eight places.
/// * `feed_gaps` has what each record of ingest says about its feed. One that has no end yet
///   (`is_open`) has `to_ms` = `from_ms`; a later row of its producer ends it.
/// * `expired` has the watermarks by which bars beyond their horizon may have been removed (`begun_ms`),
///   and by which all of them have (`done_ms`).
/// * `log_recordings.note` says, as JSON, which frames the session of a replay stands for.
/// * `log_sessions.last_ms` is the timestamp of a session's last record in a partition.
/// * `log` keeps records in the order of all appends, so that an append writes at the end of the
///   file, whatever its partition.
const FORM_1: &str = "
CREATE TABLE schema (format INTEGER NOT NULL) STRICT;
CREATE TABLE symbols (
    id     INTEGER PRIMARY KEY,
    symbol TEXT NOT NULL UNIQUE,
    class  TEXT NOT NULL
) STRICT;
CREATE TABLE symbol_buckets (
    symbol_id INTEGER NOT NULL,
    bucket    INTEGER NOT NULL,
    PRIMARY KEY (symbol_id, bucket)
) STRICT, WITHOUT ROWID;
CREATE TABLE bars (
    seconds   INTEGER NOT NULL,
    start     INTEGER NOT NULL,
    symbol_id INTEGER NOT NULL,
    write_timestamp INTEGER NOT NULL,
    state     BLOB NOT NULL,
    PRIMARY KEY (seconds, start, symbol_id)
) STRICT, WITHOUT ROWID;
CREATE TABLE checkpoint (
    only_one   INTEGER PRIMARY KEY CHECK (only_one = 1),
    job        TEXT NOT NULL,
    generation INTEGER NOT NULL,
    version    INTEGER NOT NULL,
    owner      TEXT NOT NULL,
    checkpoint TEXT NOT NULL
) STRICT;
CREATE TABLE history (
    epoch         INTEGER PRIMARY KEY,
    write_timestamp INTEGER NOT NULL,
    cuts          TEXT NOT NULL,
    records       INTEGER NOT NULL,
    accepted      INTEGER NOT NULL,
    dead_letters  INTEGER NOT NULL,
    duplicates    INTEGER NOT NULL,
    price_updates INTEGER NOT NULL,
    gaps          INTEGER NOT NULL,
    late          INTEGER NOT NULL
) STRICT;
CREATE TABLE dead_letters (
    partition   INTEGER NOT NULL,
    \"offset\"    INTEGER NOT NULL,
    trade_index INTEGER NOT NULL,
    reason      TEXT NOT NULL,
    detail      TEXT NOT NULL,
    payload     BLOB NOT NULL,
    PRIMARY KEY (partition, \"offset\", trade_index)
) STRICT;
CREATE TABLE feed_gaps (
    from_ms   INTEGER NOT NULL,
    session   TEXT NOT NULL,
    to_ms     INTEGER NOT NULL,
    is_open   INTEGER NOT NULL,
    producer  TEXT NOT NULL,
    cause     TEXT NOT NULL,
    from_utc  TEXT GENERATED ALWAYS AS
        (strftime('%Y-%m-%dT%H:%M:%SZ', from_ms / 1000, 'unixepoch')) VIRTUAL,
    PRIMARY KEY (from_ms, session, to_ms, is_open)
) STRICT, WITHOUT ROWID;
CREATE TABLE expired (
    only_one     INTEGER PRIMARY KEY CHECK (only_one = 1),
    begun_ms     INTEGER NOT NULL,
    done_ms      INTEGER
) STRICT;
CREATE TABLE views (
    view_name TEXT NOT NULL,
    size      TEXT NOT NULL,
    start     INTEGER NOT NULL,
    epoch     INTEGER NOT NULL,
    write_timestamp INTEGER NOT NULL,
    state     BLOB NOT NULL,
    start_utc TEXT GENERATED ALWAYS AS
        (strftime('%Y-%m-%dT%H:%M:%SZ', start / 1000, 'unixepoch')) VIRTUAL,
    PRIMARY KEY (view_name, size, start)
) STRICT, WITHOUT ROWID;
CREATE TABLE view_entries (
    view_name TEXT NOT NULL,
    size      TEXT NOT NULL,
    start     INTEGER NOT NULL,
    quote     TEXT NOT NULL,
    rank      INTEGER NOT NULL,
    name      TEXT NOT NULL,
    symbols   INTEGER NOT NULL,
    trades    INTEGER NOT NULL,
    volume    TEXT,
    notional  TEXT,
    vwap      TEXT,
    open      REAL,
    close     REAL,
    change_pct REAL,
    change_pct_exact TEXT,
    start_utc TEXT GENERATED ALWAYS AS
        (strftime('%Y-%m-%dT%H:%M:%SZ', start / 1000, 'unixepoch')) VIRTUAL,
    PRIMARY KEY (view_name, size, start, quote, rank)
) STRICT, WITHOUT ROWID;
CREATE TABLE log_meta (
    only_one   INTEGER PRIMARY KEY CHECK (only_one = 1),
    cluster    TEXT NOT NULL,
    topic      TEXT NOT NULL,
    topic_id   TEXT NOT NULL,
    partitions INTEGER NOT NULL
) STRICT;
CREATE TABLE log_partitions (
    partition    INTEGER PRIMARY KEY,
    first_offset INTEGER NOT NULL,
    next_offset  INTEGER NOT NULL
) STRICT;
CREATE TABLE log (
    appended     INTEGER PRIMARY KEY,
    partition    INTEGER NOT NULL,
    \"offset\"     INTEGER NOT NULL,
    timestamp_ms INTEGER NOT NULL,
    key          TEXT NOT NULL,
    payload      BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX log_by_offset ON log (partition, \"offset\");
CREATE TABLE log_sessions (
    session   TEXT NOT NULL,
    partition INTEGER NOT NULL,
    sequence  INTEGER NOT NULL,
    last_ms   INTEGER NOT NULL,
    PRIMARY KEY (session, partition)
) STRICT, WITHOUT ROWID;
CREATE TABLE log_recordings (
    beginning TEXT NOT NULL,
    session   TEXT NOT NULL,
    note      TEXT NOT NULL,
    PRIMARY KEY (beginning, session)
) STRICT, WITHOUT ROWID;
";

/// Makes the tables that the file lacks and sets the file up for writing. A file that is not ours
/// is refused and left as it is.
pub(super) fn prepare(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let sqlite_error = |error: rusqlite::Error| broken(path, &error);
    match format(connection, path)? {
        Some(found) => refuse_other(connection, found, path)?,
        None if has_tables(connection).map_err(sqlite_error)? => {
            return Err(broken(
                path,
                &"this SQLite file belongs to something else: name one of tapeflow's with --store",
            ));
        }
        None => {}
    }
    // The journal mode changes the file, so it is set only after the check.
    let mode: String = connection
        .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))
        .map_err(sqlite_error)?;
    if mode != "wal" {
        return Err(broken(
            path,
            &format!(
                "its journal mode stays {mode}, because the file system does not support \
                 SQLite's write-ahead log: use a local disk"
            ),
        ));
    }
    connection
        .pragma_update(None, "synchronous", "full")
        .map_err(sqlite_error)?;
    // After a burst, SQLite's next checkpoint shrinks the write-ahead log to this size.
    connection
        .pragma_update(None, "journal_size_limit", 64 << 20)
        .map_err(sqlite_error)?;
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(sqlite_error)?;
    let found = format(&transaction, path)?.unwrap_or(0);
    apply(&transaction, found, &FORMS).map_err(sqlite_error)?;
    transaction.commit().map_err(sqlite_error)
}

/// Applies the forms after form `found`, in order, and records the last one.
fn apply(connection: &Connection, found: i64, forms: &[&str]) -> rusqlite::Result<()> {
    let missing = forms.iter().zip(1i64..).filter(|(_, form)| *form > found);
    for (statements, form) in missing {
        connection.execute_batch(statements)?;
        connection.execute("DELETE FROM schema", [])?;
        connection.execute("INSERT INTO schema (format) VALUES (?1)", [form])?;
    }
    Ok(())
}

/// Checks that this binary understands the file.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let known = FORMS.len();
    match format(connection, path)? {
        Some(found) if usize::try_from(found).is_ok_and(|found| (1..known).contains(&found)) => {
            Err(broken(
                path,
                &version_text(found, "run its job once, which brings them up to date"),
            ))
        }
        Some(found) => refuse_other(connection, found, path),
        None => Err(broken(
            path,
            &"it holds no tapeflow store: start the job that makes it first, or name another one \
              with --store",
        )),
    }
}

/// Refuses tables that no form of this binary describes.
fn refuse_other(connection: &Connection, found: i64, path: &Path) -> Result<(), StoreError> {
    let form = usize::try_from(found).ok().filter(|form| *form > 0);
    let Some(forms) = form.and_then(|form| FORMS.get(..form)) else {
        let what = if form.is_some() {
            "a newer tapeflow made it; use that one, or start a new file with --store"
        } else {
            "no release made it; start a new file with --store"
        };
        return Err(broken(path, &version_text(found, what)));
    };
    let sqlite_error = |error: rusqlite::Error| broken(path, &error);
    let wanted = Connection::open_in_memory().map_err(sqlite_error)?;
    apply(&wanted, 0, forms).map_err(sqlite_error)?;
    match shape::difference(connection, &wanted).map_err(sqlite_error)? {
        None => Ok(()),
        Some(difference) => Err(broken(
            path,
            &format!(
                "its tables are not those of their version {found}: {difference}; a build between \
                 two releases made it; use that one, or start a new file with --store"
            ),
        )),
    }
}

fn version_text(found: i64, what_to_do: &str) -> String {
    format!(
        "it has tables of version {found}, this tapeflow {} wants version {}: {what_to_do}",
        env!("CARGO_PKG_VERSION"),
        FORMS.len()
    )
}

/// The form of the tables; `None` if the file has no tables of ours.
fn format(connection: &Connection, path: &Path) -> Result<Option<i64>, StoreError> {
    let named = connection
        .query_row(
            "SELECT count(*) FROM pragma_table_info('schema') WHERE name = 'format'",
            [],
            |row| row.get::<_, i64>(0),
        )
        .map_err(|error| {
            broken(
                path,
                &format!("{error}: name a file of tapeflow's own with --store"),
            )
        })?;
    if named == 0 {
        return Ok(None);
    }
    connection
        .query_row("SELECT max(format) FROM schema", [], |row| row.get(0))
        .optional()
        .map(Option::flatten)
        .map_err(|error| broken(path, &error))
}

fn has_tables(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*) > 0 FROM sqlite_schema", [], |row| {
        row.get(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tables of a file, and the form it records.
    fn tables(connection: &Connection) -> (String, i64) {
        connection
            .query_row(
                "SELECT (SELECT group_concat(sql, '; ') FROM
                    (SELECT sql FROM sqlite_schema ORDER BY name)), format FROM schema",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .expect("one form")
    }

    #[test]
    fn a_file_of_any_earlier_form_gets_the_later_forms_in_order() {
        let forms = [
            "CREATE TABLE schema (format INTEGER NOT NULL); CREATE TABLE a (x INTEGER)",
            "ALTER TABLE a ADD COLUMN y INTEGER",
            "CREATE TABLE b AS SELECT y FROM a",
        ];
        let open = || Connection::open_in_memory().expect("a database");
        let new = open();
        apply(&new, 0, &forms).expect("all forms");
        assert_eq!(tables(&new).1, 3);
        for made in 1..=3 {
            let old = open();
            apply(&old, 0, &forms[..made]).expect("the first forms");
            let found = tables(&old).1;
            assert_eq!(found, i64::try_from(made).expect("small"));
            apply(&old, found, &forms).expect("the rest");
            assert_eq!(tables(&old), tables(&new), "from form {made}");
        }
    }

    #[test]
    fn a_file_has_the_tables_and_the_form_of_this_binary() {
        let mut connection = Connection::open_in_memory().expect("a database");
        apply(&connection, 0, &FORMS).expect("all forms");
        let before = tables(&connection);
        assert_eq!(before.1, 1);
        let transaction = connection.transaction().expect("a transaction");
        apply(&transaction, 1, &FORMS).expect("nothing to do");
        transaction.commit().expect("committed");
        assert_eq!(tables(&connection), before);
    }
}
