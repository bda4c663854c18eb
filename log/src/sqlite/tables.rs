//! The tables of the file, as any SQLite tool shows them, and the number that says which form they
//! have.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior};
use tapeflow_protocol::StoreError;

use super::broken;

/// The forms of the file, from 1: each adds to the one before, and none is edited once released. A
/// file of an earlier form is brought up to date when a job opens it; one of a later form was made
/// by a newer binary and is refused.
const FORMS: [&str; FORMAT as usize] = [TABLES, VIEWS];
/// The form this binary writes.
const FORMAT: i64 = 2;

/// Decimals are exact texts but for the four prices, which tools want to draw. `state` is what the
/// job reads back; the columns beside it are for readers, by the market rules' default policy. The
/// log keeps its records in the order of all appends, so that appending writes at the end of the
/// file whatever the partition.
const TABLES: &str = "
CREATE TABLE schema (format INTEGER NOT NULL) STRICT;
CREATE TABLE bars (
    symbol   TEXT NOT NULL,
    size     TEXT NOT NULL,
    start    INTEGER NOT NULL,
    epoch    INTEGER NOT NULL,
    write_timestamp    INTEGER NOT NULL,
    open     REAL,
    high     REAL,
    low      REAL,
    close    REAL,
    vwap     TEXT,
    volume   TEXT NOT NULL,
    notional TEXT NOT NULL,
    trades   INTEGER NOT NULL,
    state    BLOB NOT NULL,
    start_utc TEXT GENERATED ALWAYS AS (strftime('%Y-%m-%dT%H:%M:%SZ', start / 1000, 'unixepoch')) VIRTUAL,
    PRIMARY KEY (symbol, size, start)
) STRICT, WITHOUT ROWID;
CREATE TABLE checkpoint (
    only_one   INTEGER PRIMARY KEY CHECK (only_one = 1),
    job        TEXT NOT NULL,
    generation INTEGER NOT NULL,
    version    INTEGER NOT NULL,
    owner      TEXT NOT NULL,
    checkpoint       TEXT NOT NULL
) STRICT;
CREATE TABLE history (
    epoch         INTEGER PRIMARY KEY,
    write_timestamp         INTEGER NOT NULL,
    cuts          TEXT NOT NULL,
    records       INTEGER NOT NULL,
    accepted      INTEGER NOT NULL,
    dead_letters      INTEGER NOT NULL,
    duplicates    INTEGER NOT NULL,
    price_updates INTEGER NOT NULL,
    gaps          INTEGER NOT NULL,
    late          INTEGER NOT NULL
) STRICT;
CREATE TABLE symbols (
    symbol TEXT NOT NULL,
    size   TEXT NOT NULL,
    bucket INTEGER NOT NULL,
    class  TEXT NOT NULL,
    PRIMARY KEY (symbol, size, bucket)
) STRICT, WITHOUT ROWID;
CREATE TABLE dead_letters (
    partition     INTEGER NOT NULL,
    \"offset\"      INTEGER NOT NULL,
    trade_index   INTEGER NOT NULL,
    reason        TEXT NOT NULL,
    detail        TEXT NOT NULL,
    payload       BLOB NOT NULL,
    PRIMARY KEY (partition, \"offset\", trade_index)
) STRICT;
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
    PRIMARY KEY (session, partition)
) STRICT, WITHOUT ROWID;
";

/// The lists of views. `state` is the list as the job wrote it; `view_entries` are its lines for
/// readers, replaced together with it. An entry without a price or volume has null where they would
/// stand; `change_bp` is in hundredths of a percent of open.
const VIEWS: &str = "
CREATE TABLE views (
    view_name TEXT NOT NULL,
    size      TEXT NOT NULL,
    start     INTEGER NOT NULL,
    epoch     INTEGER NOT NULL,
    write_timestamp     INTEGER NOT NULL,
    state     BLOB NOT NULL,
    start_utc TEXT GENERATED ALWAYS AS (strftime('%Y-%m-%dT%H:%M:%SZ', start / 1000, 'unixepoch')) VIRTUAL,
    PRIMARY KEY (view_name, size, start)
) STRICT, WITHOUT ROWID;
CREATE TABLE view_entries (
    view_name TEXT NOT NULL,
    size      TEXT NOT NULL,
    start     INTEGER NOT NULL,
    rank      INTEGER NOT NULL,
    name      TEXT NOT NULL,
    symbols   INTEGER NOT NULL,
    trades    INTEGER NOT NULL,
    volume    TEXT NOT NULL,
    notional  TEXT NOT NULL,
    vwap      TEXT,
    open      REAL,
    close     REAL,
    change_bp INTEGER,
    start_utc TEXT GENERATED ALWAYS AS (strftime('%Y-%m-%dT%H:%M:%SZ', start / 1000, 'unixepoch')) VIRTUAL,
    PRIMARY KEY (view_name, size, start, rank)
) STRICT, WITHOUT ROWID;
";

/// Makes the tables that the file lacks, after checking that it is ours, and sets it up for
/// writing.
pub(super) fn prepare(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let sqlite_error = |error: rusqlite::Error| broken(path, &error);
    match format(connection, path)? {
        Some(found) => refuse_newer(found, path)?,
        None if has_tables(connection).map_err(sqlite_error)? => {
            return Err(broken(
                path,
                &"an SQLite file of something else: name a file of tapeflow's own with --store",
            ));
        }
        None => {}
    }
    // Only now: a file that is not ours is left as it is.
    let mode: String = connection
        .pragma_update_and_check(None, "journal_mode", "wal", |row| row.get(0))
        .map_err(sqlite_error)?;
    if mode != "wal" {
        return Err(broken(
            path,
            &format!(
                "its journal mode stays {mode}: the file system cannot do SQLite's write-ahead log; use a local disk"
            ),
        ));
    }
    connection
        .pragma_update(None, "synchronous", "full")
        .map_err(sqlite_error)?;
    // What a burst leaves behind is given back at the next checkpoint.
    connection
        .pragma_update(None, "journal_size_limit", 64 << 20)
        .map_err(sqlite_error)?;
    let transaction = connection
        .transaction_with_behavior(TransactionBehavior::Immediate)
        .map_err(sqlite_error)?;
    let found = format(&transaction, path)?;
    let made = usize::try_from(found.unwrap_or(0)).map_err(|_| {
        broken(
            path,
            &format!("its tables have format {}", found.unwrap_or(0)),
        )
    })?;
    for form in FORMS.iter().skip(made) {
        transaction.execute_batch(form).map_err(sqlite_error)?;
    }
    if found != Some(FORMAT) {
        transaction
            .execute("DELETE FROM schema", [])
            .map_err(sqlite_error)?;
        transaction
            .execute("INSERT INTO schema (format) VALUES (?1)", [FORMAT])
            .map_err(sqlite_error)?;
    }
    transaction.commit().map_err(sqlite_error)
}

/// Whether the file has the tables of views: one that no job has opened since they exist has not,
/// and so has no lists.
pub fn has_views(connection: &Connection) -> Result<bool, StoreError> {
    let select = connection.prepare_cached("SELECT max(format) >= 2 FROM schema");
    select
        .and_then(|mut select| select.query_row([], |row| row.get(0)))
        .map_err(super::sqlite_error)
}

/// Checks that a reader will understand the file.
pub(super) fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    match format(connection, path)? {
        Some(found) => refuse_newer(found, path),
        None => Err(broken(
            path,
            &"it holds no tapeflow store: start the job that makes it first, or name another one with --store",
        )),
    }
}

fn refuse_newer(found: i64, path: &Path) -> Result<(), StoreError> {
    if found > FORMAT {
        return Err(broken(
            path,
            &format!(
                "its tables have format {found}, this binary knows {FORMAT}: use the newer tapeflow that made it, or another file with --store"
            ),
        ));
    }
    Ok(())
}

/// The format of the tables; `None` if there are none of ours.
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
