//! Reads the bars of a symbol from a SQLite store, beside the job that writes them or without one.
//!
//! ```sh
//! cargo run --release --example read_bars -- tapeflow-data/tapeflow.db AAPL 1m
//! ```
//!
//! Values are integers in fixed point; a division, as for VWAP, happens here, where a person reads.
//! A Cassandra store is read the same way: connect a `tapeflow_sinks::cassandra::CassandraStore`.

use std::{error::Error, path::Path};

use tapeflow_log::sqlite::{Access, Database};
use tapeflow_protocol::BarReader;
use tapeflow_schemas::{
    Policy, Symbol, WindowSize,
    decimal::{SCALE, format_fixed},
    window::format_utc,
};
use tapeflow_sinks::sqlite::SqliteStore;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, symbol, size] = &arguments[..] else {
        return Err("usage: read_bars FILE SYMBOL SIZE".into());
    };
    let symbol = Symbol::new(symbol)?;
    let size: WindowSize = size.parse()?;

    let store = SqliteStore::new(Database::open(Path::new(file), Access::Reader)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let bars = runtime.block_on(store.bars(&symbol, size, i64::MIN..i64::MAX))?;
    for bar in &bars {
        let totals = &bar.state.totals;
        // The sums over the trades that the consolidated tape counts; `strict` and `all` beside it.
        let sums = totals.of_policy(Policy::Sip);
        let close = totals.close().map(|price| price.to_string());
        let vwap = sums.vwap_e8().map(|vwap| format_fixed(vwap, SCALE));
        println!(
            "{} close {} vwap {} volume {} trades {}",
            format_utc(bar.start),
            close.as_deref().unwrap_or("-"),
            vwap.as_deref().unwrap_or("-"),
            format_fixed(sums.volume_e8, SCALE),
            sums.trades
        );
    }
    if bars.is_empty() {
        eprintln!("no bars of {symbol} of size {size} in {file}");
    }
    Ok(())
}
