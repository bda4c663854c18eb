//! The dashboard *Market* on real Cassandra, with the rows that the job makes of the recordings in
//! `tests/golden`.

use std::{collections::BTreeMap, path::Path, sync::OnceLock};

use libtest_mimic::Failed;
use scylla::{
    client::session::Session,
    cluster::metadata::NativeType,
    value::{CqlTimestamp, CqlValue},
};
use serde_json::Value;
use tapeflow_schemas::window::WindowSize;

use crate::{
    CQL_PORT, KAFKA_PORT,
    binary::tapeflow,
    files::{self, list, none, panels, word},
    fill::{self, Values},
    plugin::{self, Table},
};

const KEYSPACE: &str = "market";
/// 2021-01-01, and a minute after the newest trade of the recordings: the end of the range lies in
/// the partition of the newest list.
const FROM_MS: i64 = 1_609_459_200_000;
const TO_MS: i64 = 1_731_600_000_000;
/// The minute in which the made-up recording has more than ten symbols.
const CROWD_MS: i64 = 1_718_979_600_000;
/// Rows of several partitions, rows without a price, and late ones.
const SYMBOLS: [&str; 4] = ["AAPL", "BINANCE:BTCUSDT", "HALF", "S03"];

/// Runs a command of the binary to its end.
fn succeed(arguments: &[&str]) -> Result<String, String> {
    let output = tapeflow(arguments)
        .output()
        .map_err(|fault| fault.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!(
            "tapeflow {}: {}",
            arguments.join(" "),
            text(&output.stderr)
        ))
    }
}

fn store() -> String {
    format!("cassandra://127.0.0.1:{CQL_PORT}/{KEYSPACE}")
}

/// The recordings through Kafka and the job into Cassandra, once.
fn replay() -> Result<(), String> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    let run = || {
        let (brokers, store) = (format!("127.0.0.1:{KAFKA_PORT}"), store());
        let topic = ["--brokers", &brokers, "--topic", KEYSPACE];
        succeed(
            &[
                &[
                    "init",
                    "--store",
                    &store,
                    "--partitions",
                    "4",
                    "--replication",
                    "1",
                ],
                &topic[..],
            ]
            .concat(),
        )?;
        for recording in ["finnhub-recorded", "crowd"] {
            let file = Path::new(env!("CARGO_MANIFEST_DIR"))
                .join(format!("tests/golden/{recording}.jsonl"));
            let file = file.to_str().ok_or("a path in UTF-8")?;
            succeed(&[&["ingest", "--replay", file, "--exit-at-end"], &topic[..]].concat())?;
        }
        succeed(&[&["dataflow", "--store", &store, "--until-end"], &topic[..]].concat()).map(drop)
    };
    DONE.get_or_init(run).clone()
}

/// The dashboard as somebody looks at it.
struct Screen {
    dashboard: Value,
    session: Session,
    values: Values,
    from_ms: i64,
    to_ms: i64,
}

impl Screen {
    /// Chooses symbols, size and range, and lets the other variables follow, in their order.
    async fn open(
        symbols: &[&str],
        size: &str,
        (from_ms, to_ms): (i64, i64),
    ) -> Result<Self, Failed> {
        replay()?;
        let mut values = Values::from([
            (
                "symbol".to_owned(),
                symbols.iter().map(|&symbol| symbol.to_owned()).collect(),
            ),
            ("size".to_owned(), vec![size.to_owned()]),
            ("__from".to_owned(), vec![from_ms.to_string()]),
            ("__to".to_owned(), vec![to_ms.to_string()]),
        ]);
        let (dashboard, session) = (
            files::json("dashboards/market.json")?,
            plugin::session(KEYSPACE).await?,
        );
        for variable in
            list(&dashboard["templating"]["list"]).filter(|variable| variable["type"] == "query")
        {
            let (name, query) = (
                word(&variable["name"]),
                fill::variables(word(&variable["query"]["query"]), &values)?,
            );
            let found = plugin::variable(&session, &query).await?;
            match values.get(name) {
                Some(chosen) if chosen.iter().all(|value| found.contains(value)) => {}
                Some(chosen) => {
                    return Err(format!("{name} offers {found:?}, not all of {chosen:?}").into());
                }
                None => drop(values.insert(name.to_owned(), found)),
            }
        }
        Ok(Self {
            dashboard,
            session,
            values,
            from_ms,
            to_ms,
        })
    }

    async fn ask(&self, target: &Value) -> Result<Table, String> {
        let filled = fill::variables(word(&target["target"]), &self.values)?;
        plugin::ask(
            &self.session,
            &fill::macros(&filled, self.from_ms, self.to_ms)?,
        )
        .await
    }

    /// One of the queries of the panel of this name.
    async fn panel(&self, title: &str, reference: &str) -> Result<Table, String> {
        let panel = panels(&self.dashboard)
            .into_iter()
            .find(|panel| panel["title"] == title)
            .ok_or_else(|| format!("no panel {title}"))?;
        let target = list(&panel["targets"])
            .find(|target| target["refId"] == reference)
            .ok_or_else(|| format!("{title}: no query {reference}"))?;
        self.ask(target).await
    }
}

/// Waits for the future of a test.
fn wait<T>(future: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future)
}

/// What a panel needs beyond what the plugin needs.
fn drawable(panel: &Value, table: &Table) -> Result<(), String> {
    if table.rows.is_empty() {
        return Err("no row".into());
    }
    let times: Vec<&str> = table
        .columns
        .iter()
        .filter(|(_, kind)| *kind == NativeType::Timestamp)
        .map(|(name, _)| name.as_str())
        .collect();
    if times != ["start"] {
        return Err(format!("one column of time, start: {times:?}"));
    }
    let is_number = |kind: &NativeType| {
        matches!(
            kind,
            NativeType::Double | NativeType::BigInt | NativeType::Int
        )
    };
    let numbers = table
        .columns
        .iter()
        .filter(|(_, kind)| is_number(kind))
        .count();
    match word(&panel["type"]) {
        // One alias names all numbers of a query, so a query of a graph or a figure has one.
        "timeseries" | "stat" if numbers != 1 => {
            Err(format!("{numbers} columns of numbers, not one"))
        }
        "candlestick"
            if ["open", "high", "low", "close", "volume"]
                .into_iter()
                .any(|name| table.at(name).is_err()) =>
        {
            Err("a part of a candle is missing".into())
        }
        _ => Ok(()),
    }
}

pub(crate) fn queries() -> Result<(), Failed> {
    let mut faults = Vec::new();
    // At the one end the partitions of two sizes begin at the same time, at the other those of all
    // differ.
    for (size, to_ms) in WindowSize::DEFAULTS
        .into_iter()
        .flat_map(|size| [(size, TO_MS), (size, CROWD_MS)])
    {
        wait(async {
            let screen = Screen::open(&SYMBOLS, &size.to_string(), (FROM_MS, to_ms)).await?;
            let empty: Vec<_> = screen
                .values
                .iter()
                .filter(|(_, values)| values.is_empty())
                .map(|(name, _)| format!("{size}: {name} is empty"))
                .collect();
            faults.extend(empty);
            for panel in panels(&screen.dashboard) {
                for target in list(&panel["targets"]) {
                    // There are no lists of seconds.
                    let has_rows = size.ms() >= 60_000
                        || !word(&target["target"]).contains("FROM view_entries");
                    let checked = screen.ask(target).await.and_then(|table| {
                        if has_rows {
                            drawable(panel, &table)
                        } else {
                            Ok(())
                        }
                    });
                    faults.extend(checked.err().map(|fault| {
                        format!("{size}: {} {}: {fault}", panel["title"], target["refId"])
                    }));
                }
            }
            Ok(())
        })?;
    }
    none("queries", &faults)
}

/// The lines of a csv by their columns.
fn csv(text: &str) -> Result<Vec<BTreeMap<&str, &str>>, String> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().ok_or("no line")?.split(',').collect();
    Ok(lines
        .map(|line| names.iter().copied().zip(line.split(',')).collect())
        .collect())
}

fn milliseconds(text: &str) -> Result<i64, String> {
    text.parse::<jiff::Timestamp>()
        .map(jiff::Timestamp::as_millisecond)
        .map_err(|fault| format!("{text}: {fault}"))
}

/// A printed number as the panel must have it: a double, or the whole number. Empty is NaN.
fn same(value: &CqlValue, printed: &str) -> bool {
    match value {
        CqlValue::Double(number) if printed.is_empty() => number.is_nan(),
        CqlValue::Double(number) => printed
            .parse::<f64>()
            .is_ok_and(|printed| (printed - number).abs() <= printed.abs() * 1e-12 + 5e-9),
        CqlValue::BigInt(number) => printed.parse() == Ok(*number),
        CqlValue::Int(number) => printed.parse() == Ok(*number),
        CqlValue::Text(text) => text == printed,
        CqlValue::Timestamp(CqlTimestamp(at)) => milliseconds(printed) == Ok(*at),
        _ => false,
    }
}

/// Each row of a panel, by symbol and start, against the line that `tapeflow bars` prints; no row
/// more and none fewer.
async fn against_bars(
    screen: &Screen,
    title: &str,
    reference: &str,
    columns: &[&str],
    bars: &[BTreeMap<&str, &str>],
) -> Result<(), String> {
    let table = screen.panel(title, reference).await?;
    let wanted: Vec<_> = bars
        .iter()
        .filter(|bar| SYMBOLS.contains(&bar["symbol"]))
        .collect();
    if table.rows.len() != wanted.len() || wanted.is_empty() {
        return Err(format!(
            "{title}: {} rows, and {} are printed",
            table.rows.len(),
            wanted.len()
        ));
    }
    let (symbol, start) = (table.at("symbol")?, table.at("start")?);
    for row in &table.rows {
        let line = wanted
            .iter()
            .find(|bar| same(&row[symbol], bar["symbol"]) && same(&row[start], bar["start"]));
        let line = line.ok_or_else(|| format!("{title}: {row:?} is not printed"))?;
        for column in columns {
            let value = &row[table.at(column)?];
            if !same(value, line[column]) {
                return Err(format!(
                    "{title}: {column} is {value:?} and printed as {:?}",
                    line[column]
                ));
            }
        }
    }
    Ok(())
}

/// The list that the panel's second query finds at the end of the range, without empty ranks,
/// against what `tapeflow top` prints.
async fn against_top(
    screen: &Screen,
    title: &str,
    columns: &[(&str, &str)],
    top: &[BTreeMap<&str, &str>],
) -> Result<(), String> {
    let table = screen.panel(title, "B").await?;
    let (rank, name) = (table.at("rank")?, table.at("name")?);
    let ranks: Vec<_> = table
        .rows
        .iter()
        .filter(|row| !same(&row[name], ""))
        .collect();
    if top.is_empty() || ranks.len() != top.len() || table.rows.len() != 10 {
        return Err(format!(
            "{title}: {} of {} ranks, and {} are printed",
            ranks.len(),
            table.rows.len(),
            top.len()
        ));
    }
    for (row, line) in ranks.into_iter().zip(top) {
        for (column, printed) in [("rank", "rank"), ("name", "name"), ("start", "start")]
            .iter()
            .chain(columns)
        {
            let value = &row[table.at(column)?];
            if !same(value, line[printed]) {
                return Err(format!(
                    "{title}: {column} of {:?} is {value:?} and printed as {:?}",
                    row[rank], line[printed]
                ));
            }
        }
    }
    Ok(())
}

pub(crate) fn numbers() -> Result<(), Failed> {
    for size in WindowSize::DEFAULTS.map(|size| size.to_string()) {
        wait(async {
            let screen = Screen::open(&SYMBOLS, &size, (FROM_MS, TO_MS)).await?;
            let printed = succeed(&[
                "bars",
                "--store",
                &store(),
                "--size",
                &size,
                "--format",
                "csv",
            ])?;
            let bars = csv(&printed)?;
            for (title, reference, columns) in [
                ("Last price", "A", &["close"][..]),
                ("Price", "A", &["close"]),
                ("Price", "B", &["vwap"]),
                ("Average price (VWAP)", "A", &["vwap"]),
                ("Volume", "A", &["volume"]),
                ("Number of trades", "A", &["trades"]),
                ("Late trades", "A", &["revision"]),
                (
                    "Revised rows",
                    "A",
                    &["revision", "trades", "volume", "vwap", "epoch"],
                ),
                (
                    "${symbol}",
                    "A",
                    &["open", "high", "low", "close", "volume", "vwap"],
                ),
            ] {
                against_bars(&screen, title, reference, columns, &bars).await?;
            }
            if !bars
                .iter()
                .any(|bar| SYMBOLS.contains(&bar["symbol"]) && bar["revision"] != "0")
            {
                return Err("no row was revised, so the panel of late ones shows nothing".into());
            }
            Ok(())
        })?;
    }
    // The newest list of all; and of movers that of the minute in which most symbols trade.
    wait(async {
        for (title, view, to_ms, columns) in [
            (
                "Most active",
                "active",
                TO_MS,
                &[
                    ("notional", "notional"),
                    ("volume", "volume"),
                    ("trades", "trades"),
                    ("vwap", "vwap"),
                ][..],
            ),
            (
                "Movers",
                "movers",
                CROWD_MS,
                &[
                    ("change_pct", "change"),
                    ("open", "open"),
                    ("close", "close"),
                    ("trades", "trades"),
                ],
            ),
        ] {
            let screen = Screen::open(&SYMBOLS, "1m", (FROM_MS, to_ms)).await?;
            let printed = succeed(&[
                "top",
                "--store",
                &store(),
                "--view",
                view,
                "--size",
                "1m",
                "--from",
                "2021-01-01",
                "--format",
                "csv",
            ])?;
            let mut lists = csv(&printed)?;
            let newest = lists
                .iter()
                .filter_map(|line| milliseconds(line["start"]).ok())
                .filter(|start| *start <= to_ms)
                .max();
            lists.retain(|line| milliseconds(line["start"]).ok() == newest);
            against_top(&screen, title, columns, &lists).await?;
        }
        Ok(())
    })
}

pub(crate) fn ranges() -> Result<(), Failed> {
    wait(async {
        // Years of minutes: many partitions. An hour in the middle of one: that one, though it
        // began before the range.
        let years = Screen::open(&["AAPL"], "1m", (FROM_MS, TO_MS)).await?;
        let partitions = years.values["bucket"].len();
        let hour = Screen::open(&["AAPL"], "1m", (1_680_285_600_000, 1_680_289_200_000)).await?;
        let (in_years, in_hour) = (
            years.panel("Volume", "A").await?.rows.len(),
            hour.panel("Volume", "A").await?.rows.len(),
        );
        if (partitions, in_years, hour.values["bucket"].len(), in_hour) != (3, 3, 1, 1) {
            return Err(format!(
                "{partitions} partitions, {in_years} rows; {:?}, {in_hour} rows",
                hour.values["bucket"]
            )
            .into());
        }
        // Before there was anything: no partition, and an empty panel instead of a fault.
        let before = Screen::open(&["AAPL"], "1m", (1_000_000_000_000, 1_000_003_600_000)).await?;
        if !before.values["bucket"].is_empty() {
            return Err(
                format!("partitions before the first: {:?}", before.values["bucket"]).into(),
            );
        }
        for panel in panels(&before.dashboard) {
            for target in list(&panel["targets"]) {
                if !before.ask(target).await?.rows.is_empty() {
                    return Err(
                        format!("{}: rows before there was anything", panel["title"]).into(),
                    );
                }
            }
        }
        Ok(())
    })
}

/// Each of these fails in Grafana, or draws what is not so. Without this a check that finds nothing
/// would pass.
pub(crate) fn unreadable() -> Result<(), Failed> {
    wait(async {
        let screen = Screen::open(&SYMBOLS, "1m", (FROM_MS, TO_MS)).await?;
        let panel = panels(&screen.dashboard)
            .into_iter()
            .find(|panel| panel["type"] == "timeseries")
            .ok_or("no graph")?;
        let sound = word(&panel["targets"][0]["target"]);
        let mut passed = Vec::new();
        for (what, columns) in [
            ("a decimal", "symbol, CAST(volume AS decimal), start"),
            ("the state", "symbol, state, start"),
            (
                "a small integer as the name of a series",
                "CAST(revision AS smallint), volume, start",
            ),
            (
                "a time that is a number",
                "symbol, volume, toUnixTimestamp(start)",
            ),
            ("no time", "symbol, volume"),
            (
                "two numbers under one alias",
                "symbol, volume, notional, start",
            ),
            ("a column that is not there", "symbol, session_vwap, start"),
            (
                "a macro with parentheses",
                "symbol, volume, $__timeFilter(start)",
            ),
        ] {
            let target =
                serde_json::json!({ "target": sound.replacen("symbol, close, start", columns, 1) });
            let outcome = screen
                .ask(&target)
                .await
                .and_then(|table| drawable(panel, &table));
            if word(&target["target"]) == sound || outcome.is_ok() {
                passed.push(what.to_owned());
            }
        }
        none("not found", &passed)
    })
}

pub(crate) fn sizes() -> Result<(), Failed> {
    let dashboard = files::json("dashboards/market.json")?;
    let variable = list(&dashboard["templating"]["list"])
        .find(|variable| variable["name"] == "size")
        .ok_or("no variable size")?;
    let job = WindowSize::DEFAULTS.map(|size| size.to_string());
    let offered: Vec<&str> = list(&variable["options"])
        .map(|option| word(&option["value"]))
        .collect();
    if offered == job && word(&variable["query"]) == job.join(",") {
        Ok(())
    } else {
        Err(format!("{offered:?}, and the job has {job:?}").into())
    }
}
