//! One layout in SQLite: a table in a file of its own, written epoch by epoch with the settings of
//! the job, and what that costs.

use std::{fs, path::Path};

use rusqlite::{Connection, ToSql, params};
use tapeflow_schemas::{Policy, Price, decimal::format_fixed};

use crate::{
    cell,
    cost::{self, Cpu},
    feed::{Row, Statement},
};

/// A table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Today's: 14 columns, keyed (symbol, size, start), symbol and size as text.
    Today,
    /// Write timestamp and lean cell, keyed (symbol number, size, start).
    BySymbol,
    /// The same, keyed (size, start, symbol number).
    ByTime,
    /// The same key, with what dashboards read as nine columns.
    ByTimeWithColumns,
}

/// What a workload costs in one table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Costs {
    /// To write it, checkpoints included.
    pub(crate) written: Cpu,
    /// Into the write-ahead log and the file.
    pub(crate) bytes_written: u64,
    /// The file at the end.
    pub(crate) bytes_on_disk: u64,
    /// To read the rows of every fourth statement back.
    pub(crate) read: Cpu,
}

/// Every so many statements one is read back.
pub(crate) const READ_ONE_OF: usize = 4;

impl Layout {
    fn create(self) -> &'static str {
        match self {
            Self::Today => {
                "CREATE TABLE bars (symbol TEXT NOT NULL, size TEXT NOT NULL, \
                 start INTEGER NOT NULL, epoch INTEGER NOT NULL, write_timestamp INTEGER NOT NULL, \
                 open REAL, high REAL, low REAL, close REAL, vwap TEXT, volume TEXT NOT NULL, \
                 notional TEXT NOT NULL, trades INTEGER NOT NULL, state BLOB NOT NULL, \
                 PRIMARY KEY (symbol, size, start)) STRICT, WITHOUT ROWID"
            }
            Self::BySymbol => {
                "CREATE TABLE bars (symbol INTEGER NOT NULL, size INTEGER NOT NULL, \
                 start INTEGER NOT NULL, write_timestamp INTEGER NOT NULL, state BLOB NOT NULL, \
                 PRIMARY KEY (symbol, size, start)) STRICT, WITHOUT ROWID"
            }
            Self::ByTime => {
                "CREATE TABLE bars (size INTEGER NOT NULL, start INTEGER NOT NULL, \
                 symbol INTEGER NOT NULL, write_timestamp INTEGER NOT NULL, state BLOB NOT NULL, \
                 PRIMARY KEY (size, start, symbol)) STRICT, WITHOUT ROWID"
            }
            Self::ByTimeWithColumns => {
                "CREATE TABLE bars (size INTEGER NOT NULL, start INTEGER NOT NULL, \
                 symbol INTEGER NOT NULL, write_timestamp INTEGER NOT NULL, open REAL, high REAL, \
                 low REAL, close REAL, vwap REAL, volume REAL NOT NULL, notional REAL NOT NULL, \
                 trades INTEGER NOT NULL, revision INTEGER NOT NULL, state BLOB NOT NULL, \
                 PRIMARY KEY (size, start, symbol)) STRICT, WITHOUT ROWID"
            }
        }
    }

    fn columns(self) -> &'static [&'static str] {
        const TODAY: [&str; 11] = [
            "epoch",
            "write_timestamp",
            "open",
            "high",
            "low",
            "close",
            "vwap",
            "volume",
            "notional",
            "trades",
            "state",
        ];
        const WITH_COLUMNS: [&str; 11] = [
            "write_timestamp",
            "open",
            "high",
            "low",
            "close",
            "vwap",
            "volume",
            "notional",
            "trades",
            "revision",
            "state",
        ];
        match self {
            Self::Today => &TODAY,
            Self::BySymbol | Self::ByTime => &["write_timestamp", "state"],
            Self::ByTimeWithColumns => &WITH_COLUMNS,
        }
    }

    /// As the sink does it: of two writes the greater timestamp wins.
    fn upsert(self) -> String {
        let columns = self.columns();
        let values = vec!["?"; columns.len() + 3].join(", ");
        let set: Vec<String> = columns
            .iter()
            .map(|column| format!("{column} = excluded.{column}"))
            .collect();
        format!(
            "INSERT INTO bars (symbol, size, start, {}) VALUES ({values}) \
             ON CONFLICT (symbol, size, start) DO UPDATE SET {} \
             WHERE excluded.write_timestamp > bars.write_timestamp",
            columns.join(", "),
            set.join(", ")
        )
    }

    /// Makes the row's columns and hands them to `then` as parameters, key first.
    fn with_values<T>(
        self,
        row: &Row,
        write_timestamp: i64,
        then: impl FnOnce(&[&dyn ToSql]) -> T,
    ) -> T {
        let totals = &row.state.totals;
        let sums = totals.of_policy(Policy::Sip);
        let trades = i64::try_from(sums.trades).unwrap_or(i64::MAX);
        let prices = [totals.open(), totals.high, totals.low, totals.close()];
        let (number, start) = (row.number, row.start);
        match self {
            Self::Today => {
                let size = row.size.to_string();
                let epoch = i64::try_from(row.state.epoch).unwrap_or(i64::MAX);
                let [open, high, low, close] =
                    prices.map(|price| price.as_ref().map(Price::to_string));
                let vwap = sums.vwap_e8().map(|e8| format_fixed(e8, 8));
                let volume = format_fixed(sums.volume_e8, 8);
                let notional = format_fixed(sums.notional_e16, 16);
                let cell = cell::first_form(&row.state);
                then(params![
                    row.symbol,
                    size,
                    start,
                    epoch,
                    write_timestamp,
                    open,
                    high,
                    low,
                    close,
                    vwap,
                    volume,
                    notional,
                    trades,
                    cell
                ])
            }
            Self::BySymbol | Self::ByTime => then(params![
                number,
                row.size.ms(),
                start,
                write_timestamp,
                row.cell()
            ]),
            Self::ByTimeWithColumns => {
                let [open, high, low, close] =
                    prices.map(|price| price.map(|price| price.e8() as f64 / 1e8));
                let vwap = sums.vwap_e8().map(|e8| e8 as f64 / 1e8);
                let volume = sums.volume_e8 as f64 / 1e8;
                let notional = sums.notional_e16 as f64 / 1e16;
                let revision = i64::try_from(totals.revision).unwrap_or(i64::MAX);
                then(params![
                    number,
                    row.size.ms(),
                    start,
                    write_timestamp,
                    open,
                    high,
                    low,
                    close,
                    vwap,
                    volume,
                    notional,
                    trades,
                    revision,
                    row.cell()
                ])
            }
        }
    }

    /// Writes epochs into a new file at `path`, one transaction each, and reads a part of it.
    ///
    /// # Errors
    /// SQLite refuses, or a row that was written is not there.
    pub(crate) fn measure(self, path: &Path, epochs: &[Vec<Statement>]) -> Result<Costs, String> {
        let mut connection = self.open(path).map_err(|error| error.to_string())?;
        let (before, bytes_before) = (Cpu::now(&[])?, cost::bytes_written()?);
        self.write(&mut connection, epochs)
            .map_err(|error| error.to_string())?;
        let (after, bytes_after) = (Cpu::now(&[])?, cost::bytes_written()?);
        let read = self.read(&connection, epochs)?;
        let found = fs::metadata(path).map_err(|error| error.to_string())?;
        Ok(Costs {
            written: after.since(before),
            bytes_written: bytes_after - bytes_before,
            bytes_on_disk: found.len(),
            read,
        })
    }

    fn open(self, path: &Path) -> rusqlite::Result<Connection> {
        let connection = Connection::open(path)?;
        let mode = |row: &rusqlite::Row<'_>| row.get::<_, String>(0);
        connection.pragma_update_and_check(None, "journal_mode", "wal", mode)?;
        connection.pragma_update(None, "synchronous", "full")?;
        connection.pragma_update(None, "journal_size_limit", 64 << 20)?;
        connection.execute_batch(self.create())?;
        Ok(connection)
    }

    fn write(self, connection: &mut Connection, epochs: &[Vec<Statement>]) -> rusqlite::Result<()> {
        let upsert = self.upsert();
        for (epoch, write_timestamp) in epochs.iter().zip(1..) {
            let transaction = connection.transaction()?;
            let mut statement = transaction.prepare_cached(&upsert)?;
            for row in epoch.iter().flatten() {
                self.with_values(row, write_timestamp, |values| statement.execute(values))?;
            }
            drop(statement);
            transaction.commit()?;
        }
        // What the last epochs left in the write-ahead log is written to the file sooner or later.
        connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
    }

    fn read(self, connection: &Connection, epochs: &[Vec<Statement>]) -> Result<Cpu, String> {
        let mut select = connection
            .prepare("SELECT state FROM bars WHERE symbol = ? AND size = ? AND start = ?")
            .map_err(|error| error.to_string())?;
        let before = Cpu::now(&[])?;
        for row in epochs.iter().flatten().step_by(READ_ONE_OF).flatten() {
            let length = |found: &rusqlite::Row<'_>| Ok(found.get_ref(0)?.as_blob()?.len());
            let found = if self == Self::Today {
                let key = params![row.symbol, row.size.to_string(), row.start];
                select.query_row(key, length)
            } else {
                let key = params![row.number, row.size.ms(), row.start];
                select.query_row(key, length)
            };
            let found = found.map_err(|error| format!("{} {}: {error}", row.symbol, row.start))?;
            if found == 0 {
                return Err(format!("{} {}: an empty cell", row.symbol, row.start));
            }
        }
        Ok(Cpu::now(&[])?.since(before))
    }
}

#[cfg(test)]
mod tests {
    use tapeflow_schemas::WindowSize;

    use super::*;
    use crate::feed;

    #[test]
    fn every_layout_has_all_bars_and_a_lean_row_by_time_writes_the_least() {
        let epochs = feed::epochs(&feed::Epochs {
            epochs: 8,
            step_ms: 1_000,
            trades: 60,
            sizes: WindowSize::DEFAULTS.to_vec(),
        });
        let packed = feed::packed(&epochs);
        let folder = tempfile::tempdir().expect("a folder");
        let bytes = |name: &str, layout: Layout, epochs: &[Vec<Statement>]| {
            let costs = layout.measure(&folder.path().join(name), epochs);
            costs.expect("SQLite").bytes_on_disk
        };
        let today = bytes("today", Layout::Today, &epochs);
        let by_symbol = bytes("by symbol", Layout::BySymbol, &epochs);
        let by_time = bytes("by time", Layout::ByTime, &epochs);
        let columns = bytes("columns", Layout::ByTimeWithColumns, &epochs);
        let packed = bytes("packed", Layout::ByTime, &packed);
        assert!(packed <= by_time && by_time < columns && columns < today);
        assert!(by_symbol < today);
    }
}
