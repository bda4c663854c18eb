//! The report: Markdown, a table for each store.

use std::fmt::Write;

use crate::{
    Settings,
    run::{CassandraCase, Results, SqliteCase},
};

/// Writes the report to the file of the settings, if they name one.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write(settings: &Settings, results: &Results) -> Result<(), String> {
    settings.report.as_ref().map_or(Ok(()), |path| {
        std::fs::write(path, text(settings, results))
            .map_err(|error| format!("{}: {error}", path.display()))
    })
}

/// The report.
pub(crate) fn text(settings: &Settings, results: &Results) -> String {
    let mut text = format!(
        "# What one bar costs in each layout\n\n```sh bench\ncargo run --release -p \
         tapeflow-store-bench -- --rounds {} --nodes {} --bars {} \\\n  --epochs {} --report \
         bench/results/store.md\n```\n\n`bench/store/README.md` says what is measured. Medians of {} \
         rounds, least and most in parentheses,\nafter a round that is not counted. CPU time in \
         microseconds a bar.\n",
        settings.rounds,
        settings
            .nodes
            .iter()
            .map(u8::to_string)
            .collect::<Vec<_>>()
            .join(","),
        settings.bars,
        settings.epochs,
        settings.rounds,
    );
    for (nodes, cases) in &results.cassandra {
        cassandra(&mut text, *nodes, cases);
    }
    if !results.sqlite.is_empty() {
        sqlite(&mut text, &results.sqlite);
    }
    text
}

fn cassandra(text: &mut String, nodes: u8, cases: &[CassandraCase]) {
    let title = match nodes {
        1 => "Cassandra, one node".to_owned(),
        nodes => format!("Cassandra, {nodes} nodes with a replica each"),
    };
    let _ = write!(
        text,
        "\n## {title}\n\nCassandra's CPU time is that of all nodes together.\n\n| layout | client, us | Cassandra, us | flush, us | cell, bytes | on disk, \
         bytes | read: client, us | read: Cassandra, us |\n|---|---:|---:|---:|---:|---:|---:|---:|\n"
    );
    for case in cases {
        let figures = &case.figures;
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {} | {} | {} |",
            case.name,
            figures.client_us.with_spread(),
            figures.server_us.with_spread(),
            figures.flush_us,
            figures.cell_bytes,
            figures.disk_bytes,
            figures.read_client_us,
            figures.read_server_us.with_spread(),
        );
    }
}

fn sqlite(text: &mut String, cases: &[SqliteCase]) {
    text.push_str(
        "\n## SQLite\n\nBytes written are those of the write-ahead log and of the file, an epoch \
         a transaction.\n\n| layout | CPU, us | written, bytes | file, bytes | read, us \
         |\n|---|---:|---:|---:|---:|\n",
    );
    for case in cases {
        let figures = &case.figures;
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            case.name,
            figures.cpu_us.with_spread(),
            figures.written_bytes.with_spread(),
            figures.disk_bytes,
            figures.read_us,
        );
    }
}
