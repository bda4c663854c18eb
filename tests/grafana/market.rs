//! The dashboard *Market* on real Cassandra, with the bars that the job writes for the recordings
//! in `tests/golden`.

use std::{collections::BTreeMap, path::Path, sync::OnceLock};

use libtest_mimic::Failed;
use scylla::{
    client::session::Session,
    cluster::metadata::NativeType,
    value::{CqlTimestamp, CqlValue},
};
use serde_json::Value;
use tapeflow_schemas::{QuoteCurrency, window::WindowSize};

use crate::{
    CQL_PORT, KAFKA_PORT,
    binary::tapeflow,
    files::{self, list, none, panels, word},
    fill::{self, Values},
    plugin::{self, Table},
};

const KEYSPACE: &str = "market";
/// 2021-01-01, and a minute after the newest trade of the recordings: the end of the range lies in
/// the bucket of the newest view.
const FROM_MS: i64 = 1_609_459_200_000;
const TO_MS: i64 = 1_731_600_000_000;
/// A minute in which the generated recording has more than ten symbols.
const CROWD_MS: i64 = 1_718_979_600_000;
/// The quote currency in which symbols traded at the end of both ranges.
const QUOTE: &str = "USD";
/// Symbols with bars in several partitions, without a price, and with late trades.
const SYMBOLS: [&str; 4] = ["AAPL", "BINANCE:BTCUSDT", "HALF", "S03"];

/// Runs a command of the binary until it exits, and returns its output.
fn succeed(arguments: &[&str]) -> Result<String, String> {
    let output = tapeflow(arguments)
        .output()
        .map_err(|error| error.to_string())?;
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

/// Sends the recordings through Kafka and the job into Cassandra, once per test run.
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
            succeed(&[&["ingest", "--replay", file, "--until-end"], &topic[..]].concat())?;
        }
        succeed(&[&["dataflow", "--store", &store, "--until-end"], &topic[..]].concat()).map(drop)
    };
    DONE.get_or_init(run).clone()
}

/// The dashboard with chosen variables and a time range.
struct Screen {
    dashboard: Value,
    session: Session,
    values: Values,
    from_ms: i64,
    to_ms: i64,
}

impl Screen {
    /// Chooses symbols, size and range, and queries the other variables in their order.
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
            ("quote".to_owned(), vec![QUOTE.to_owned()]),
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

    /// Runs one query of the panel with this title.
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

/// Runs the future of a test to its end.
fn wait<T>(future: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future)
}

/// Checks what a panel needs beyond what the plugin needs.
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
        // An alias names all numbers of a query, so a query of a graph or a figure has one.
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
    let mut errors = Vec::new();
    // Bars shorter than a minute are in no table.
    for (size, to_ms) in WindowSize::DEFAULTS
        .into_iter()
        .filter(|size| !size.is_packed())
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
            errors.extend(empty);
            let annotations = list(&screen.dashboard["annotations"]["list"])
                .filter(|annotation| annotation["target"].is_object());
            for annotation in annotations {
                // Recordings have no gaps. Grafana takes the fields of an annotation by name.
                let table = screen.ask(&annotation["target"]).await;
                let checked = table.and_then(|table| {
                    table.at("time")?;
                    table.at("timeEnd")
                });
                let name = &annotation["name"];
                errors.extend(
                    checked
                        .err()
                        .map(|error| format!("{size}: {name}: {error}")),
                );
            }
            for panel in panels(&screen.dashboard) {
                for target in list(&panel["targets"]) {
                    let checked = screen.ask(target).await;
                    let checked = checked.and_then(|table| drawable(panel, &table));
                    errors.extend(checked.err().map(|error| {
                        format!("{size}: {} {}: {error}", panel["title"], target["refId"])
                    }));
                }
            }
            Ok(())
        })?;
    }
    none("queries", &errors)
}

/// The lines of a CSV text, by column name.
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
        .map_err(|error| format!("{text}: {error}"))
}

/// Whether the panel's value equals the printed one. An empty text equals NaN.
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

/// Compares each row of a panel, by symbol and start, with the line that `tapeflow bars` prints.
/// The two must have the same number of rows.
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

/// Compares the view that the panel's second query returns for the end of the range, without empty
/// ranks, with what `tapeflow views` prints.
async fn against_view(
    screen: &Screen,
    title: &str,
    columns: &[(&str, &str)],
    view: &[BTreeMap<&str, &str>],
) -> Result<(), String> {
    let table = screen.panel(title, "B").await?;
    let (rank, name) = (table.at("rank")?, table.at("name")?);
    let ranks: Vec<_> = table
        .rows
        .iter()
        .filter(|row| !same(&row[name], ""))
        .collect();
    if view.is_empty() || ranks.len() != view.len() || table.rows.len() != 10 {
        return Err(format!(
            "{title}: {} of {} ranks, and {} are printed",
            ranks.len(),
            table.rows.len(),
            view.len()
        ));
    }
    for (row, line) in ranks.into_iter().zip(view) {
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
    let in_tables = WindowSize::DEFAULTS
        .into_iter()
        .filter(|size| !size.is_packed());
    for size in in_tables.map(|size| size.to_string()) {
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
                    "Revised bars",
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
                return Err("no bar was revised, so the panel of late trades is empty".into());
            }
            Ok(())
        })?;
    }
    // The newest view of all; for movers, that of the minute in which most symbols trade.
    wait(async {
        for (title, view, to_ms, columns) in [
            (
                "Most active in ${quote}",
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
                    ("change_pct", "change_pct"),
                    ("open", "open"),
                    ("close", "close"),
                    ("trades", "trades"),
                ],
            ),
        ] {
            let screen = Screen::open(&SYMBOLS, "1m", (FROM_MS, to_ms)).await?;
            let printed = succeed(&[
                "views",
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
            let mut views = csv(&printed)?;
            if view == "active" {
                views.retain(|line| line["quote"] == QUOTE);
            }
            let newest = views
                .iter()
                .filter_map(|line| milliseconds(line["start"]).ok())
                .filter(|start| *start <= to_ms)
                .max();
            views.retain(|line| milliseconds(line["start"]).ok() == newest);
            against_view(&screen, title, columns, &views).await?;
        }
        Ok(())
    })
}

pub(crate) fn ranges() -> Result<(), Failed> {
    wait(async {
        // Years of minutes touch many buckets. An hour in the middle of a bucket touches that one,
        // although the bucket starts before the range.
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
        // Before the first trade: no bucket, and an empty panel without an error.
        let before = Screen::open(&["AAPL"], "1m", (1_000_000_000_000, 1_000_003_600_000)).await?;
        if !before.values["bucket"].is_empty() {
            return Err(format!(
                "buckets before the first trade: {:?}",
                before.values["bucket"]
            )
            .into());
        }
        for panel in panels(&before.dashboard) {
            for target in list(&panel["targets"]) {
                if !before.ask(target).await?.rows.is_empty() {
                    return Err(format!("{}: rows before the first trade", panel["title"]).into());
                }
            }
        }
        Ok(())
    })
}

/// Each of these queries fails in Grafana or draws a wrong value. Without this test, a check that
/// finds nothing would pass.
pub(crate) fn unreadable() -> Result<(), Failed> {
    wait(async {
        let screen = Screen::open(&SYMBOLS, "1m", (FROM_MS, TO_MS)).await?;
        let panel = panels(&screen.dashboard)
            .into_iter()
            .find(|panel| panel["type"] == "timeseries")
            .ok_or("no graph")?;
        let valid = word(&panel["targets"][0]["target"]);
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
                serde_json::json!({ "target": valid.replacen("symbol, close, start", columns, 1) });
            let outcome = screen
                .ask(&target)
                .await
                .and_then(|table| drawable(panel, &table));
            if word(&target["target"]) == valid || outcome.is_ok() {
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
    let job: Vec<String> = WindowSize::DEFAULTS
        .iter()
        .filter(|size| !size.is_packed())
        .map(ToString::to_string)
        .collect();
    let offered: Vec<&str> = list(&variable["options"])
        .map(|option| word(&option["value"]))
        .collect();
    if offered == job && word(&variable["query"]) == job.join(",") {
        Ok(())
    } else {
        Err(format!("{offered:?}, and the job has {job:?}").into())
    }
}

pub(crate) fn quotes() -> Result<(), Failed> {
    let dashboard = files::json("dashboards/market.json")?;
    let variable = list(&dashboard["templating"]["list"])
        .find(|variable| variable["name"] == "quote")
        .ok_or("no variable quote")?;
    let offered: Vec<&str> = list(&variable["options"])
        .map(|option| word(&option["value"]))
        .collect();
    let mut errors: Vec<String> = offered
        .iter()
        .filter(|name| !QuoteCurrency::from_name(name).is_some_and(QuoteCurrency::is_known))
        .map(|name| format!("{name} is no known quote currency"))
        .collect();
    if word(&variable["query"]) != offered.join(",") {
        errors.push(format!(
            "{} are offered, {}",
            variable["query"],
            offered.join(",")
        ));
    }
    none("quotes", &errors)
}
