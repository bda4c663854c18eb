//! `docs/reference.md` is generated: commands, flags and exit codes from the binary, metrics from
//! their registry, quote currencies from their tables, tables from the migrations and from a file
//! that the binary made.
//!
//! `TAPEFLOW_WRITE_REFERENCE=1 cargo test --test reference` writes it; without the variable the
//! test compares.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path};

use tapeflow_schemas::{Metric, QuoteCurrency, quote_currency::QUOTES_AT};
use tapeflow_support::command::{Place, golden, succeed};

/// HTTP paths and what they answer. The test finds the paths themselves in the code.
const PATHS: [(&str, &str); 7] = [
    ("/", "the live page, with its scripts and styles"),
    (
        "/bars",
        "the live page's history: bars of one symbol and size, as JSON",
    ),
    (
        "/events",
        "the live page's stream: changed bars as server-sent events",
    ),
    (
        "/livez",
        "200 while the process makes progress, otherwise 503 and the reason",
    ),
    ("/metrics", "the metrics below, in Prometheus' text format"),
    (
        "/readyz",
        "200 once the process counts new records, otherwise 503 and the reason",
    ),
    (
        "/status",
        "settings, progress and lag of the process, as JSON",
    ),
];

const HEAD: &str = "\
# Reference

Every command, flag, exit code, HTTP path, metric, quote currency and table. This page is generated
from the code: `TAPEFLOW_WRITE_REFERENCE=1 cargo test --test reference` writes it, and the same test
without the variable fails when it is stale.

A flag wins over its environment variable. Flags without a variable are meant for one run. All
commands that read or write bars take the same `--store`, and all that read a log the same `--log`,
`--brokers` and `--topic`. A password of Cassandra can also be in the variable
`TAPEFLOW_CASSANDRA_PASSWORD`.

";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_reference_is_what_the_code_says() {
    let text = [
        HEAD.to_owned(),
        succeed(&["reference"]),
        paths(),
        metrics(),
        quote_currencies(),
        cassandra(),
        sqlite(),
    ]
    .concat();
    let file = root().join("docs/reference.md");
    if std::env::var_os("TAPEFLOW_WRITE_REFERENCE").is_some() {
        fs::write(&file, &text).expect("written");
    }
    let found = fs::read_to_string(&file).unwrap_or_default();
    let differs = text
        .lines()
        .zip(found.lines())
        .find(|(want, found)| want != found);
    assert!(
        found == text,
        "docs/reference.md is stale, first at {differs:?}: run \
         TAPEFLOW_WRITE_REFERENCE=1 cargo test --test reference"
    );
}

#[test]
fn every_path_that_is_served_has_a_line() {
    let mut served = Vec::new();
    for folder in ["src", "console"] {
        sources(&root().join(folder), &mut |text| {
            for (_, rest) in text
                .match_indices(".route(\"")
                .map(|(at, _)| text.split_at(at + 8))
            {
                served.extend(rest.split('"').next().map(str::to_owned));
            }
        });
    }
    served.sort();
    served.dedup();
    assert!(served.contains(&"/metrics".to_owned()), "{served:?}");
    for path in served {
        assert!(
            PATHS.iter().any(|(known, _)| *known == path),
            "{path} has no line in PATHS"
        );
    }
}

/// Calls `each` with the text of every Rust file below a folder.
fn sources(folder: &Path, each: &mut impl FnMut(&str)) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("listed").path();
        if path.is_dir() {
            sources(&path, each);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            each(&fs::read_to_string(&path).expect("text"));
        }
    }
}

fn paths() -> String {
    let mut text = String::from(
        "\n## HTTP paths\n\nOn the address of `--http`. With `--http-password-file` every path but \
         `/livez` and `/readyz`\nrequires the user `tapeflow` and that password.\n\n\
         | path | answer |\n|---|---|\n",
    );
    for (path, answer) in PATHS {
        let _ = writeln!(text, "| `{path}` | {answer} |");
    }
    text
}

fn metrics() -> String {
    let mut text = String::from(
        "\n## Metrics\n\nScope: Process is every process, Job every process of a job, Coordinator \
         process 0 of a job, Feed a\nprocess that reads a feed.\n\n\
         | metric | type | label | scope | meaning |\n|---|---|---|---|---|\n",
    );
    for metric in Metric::ALL {
        let label = metric
            .label()
            .map(|label| format!("`{label}`"))
            .unwrap_or_default();
        let _ = writeln!(
            text,
            "| `{}` | {} | {label} | {:?} | {} |",
            metric.name(),
            metric.kind().word(),
            metric.scope(),
            metric.help()
        );
    }
    text
}

fn quote_currencies() -> String {
    let known = |names: &mut dyn Iterator<Item = &str>| {
        names
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut codes = QuoteCurrency::every()
        .filter(|quote| quote.is_known())
        .map(QuoteCurrency::name);
    let mut text = format!(
        "\n## Quote currencies\n\n[The guide](guide.md#quote-currencies) says how the quote \
         currency follows from a symbol.\n\n\
         | symbols | known quote currencies |\n|---|---|\n\
         | all | {} |\n",
        known(&mut codes)
    );
    for (venue, quotes) in QUOTES_AT {
        let _ = writeln!(
            text,
            "| {venue}, without a separator | {} |",
            known(&mut quotes.iter().copied())
        );
    }
    text
}

/// Tables by name, each with its columns and types.
type Tables = BTreeMap<String, Vec<(String, String)>>;

fn tables(tables: &Tables) -> String {
    let mut text = String::new();
    for (table, columns) in tables {
        let _ = writeln!(text, "\n### `{table}`\n\n| column | type |\n|---|---|");
        for (column, kind) in columns {
            let _ = writeln!(text, "| `{column}` | {kind} |");
        }
    }
    text
}

fn cassandra() -> String {
    let folder = root().join("cassandra/migrations");
    let mut files: Vec<_> = fs::read_dir(&folder)
        .expect("migrations")
        .map(|entry| entry.expect("listed").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "cql"))
        .collect();
    files.sort();
    let mut found = Tables::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("text");
        // What follows CREATE TABLE up to the line of a closing parenthesis.
        for statement in text.split("CREATE TABLE IF NOT EXISTS ").skip(1) {
            let (name, rest) = statement.split_once(" (").expect("columns");
            let columns = rest
                .lines()
                .skip(1)
                .map(str::trim)
                .take_while(|l| !l.starts_with(')'));
            let columns = columns.filter_map(|line| {
                let (column, kind) = line.trim_end_matches(',').split_once(' ')?;
                let is_column = !column.is_empty() && column != "PRIMARY" && column != "--";
                is_column.then(|| (column.to_owned(), kind.to_owned()))
            });
            let mut columns: Vec<_> = columns.collect();
            let key = rest
                .lines()
                .map(str::trim)
                .find_map(|line| line.strip_prefix("PRIMARY KEY "));
            if let Some(key) = key {
                columns.push((
                    "primary key".into(),
                    format!("`{}`", key.trim_end_matches(',')),
                ));
            }
            found.insert(name.to_owned(), columns);
        }
    }
    assert!(found.len() >= 8, "{:?}", found.keys());
    format!(
        "\n## Tables in Cassandra\n\n`cassandra/README.md` explains how to read them.\n{}",
        tables(&found)
    )
}

fn sqlite() -> String {
    let place = Place::new();
    place.replay(&golden("finnhub-recorded.jsonl"), &[]);
    let database = rusqlite::Connection::open(place.path("t.db")).expect("opened");
    let all = |sql: &str| -> Vec<(String, String)> {
        let mut statement = database.prepare(sql).expect("a statement");
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
        rows.expect("rows").collect::<Result<_, _>>().expect("text")
    };
    let names = all(
        "SELECT name, type FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
    );
    let columns = |table: &str| {
        all(&format!(
            "SELECT name, lower(type) FROM pragma_table_info('{table}') ORDER BY cid"
        ))
    };
    let found: Tables = names
        .into_iter()
        .map(|(table, _)| (table.clone(), columns(&table)))
        .collect();
    assert!(found.len() >= 8, "{:?}", found.keys());
    format!(
        "\n## Tables in SQLite\n\nThe file of `tapeflow run` holds the log and the store.\n{}",
        tables(&found)
    )
}
