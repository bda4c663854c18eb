//! `tapeflow simulate`: the simulated Finnhub server by itself, or a recording of it.

use std::{fs::File, io::BufWriter};

use tapeflow_ingest::simulator::{
    FeedFile, Popularity, Simulator, SimulatorConfig, symbols, write_feed,
};
use tokio_util::sync::CancellationToken;

use crate::{
    args::feed::SimulateSettings,
    exit::{Exit, say},
    signals,
};
use tapeflow_console::format::text::counted;

/// Trades of a recording without --trades.
const RECORDED_TRADES: u64 = 100_000;

pub(crate) fn run(settings: SimulateSettings) -> Result<(), Exit> {
    let popularity = settings
        .one_symbol_share
        .map_or(Popularity::Zipf(1.0), Popularity::OneHot);
    if let Some(path) = &settings.out {
        let cannot = |error: std::io::Error| {
            Exit::Input(format!("--out: cannot write {}: {error}", path.display()))
        };
        let mut file = BufWriter::new(File::create(path).map_err(cannot)?);
        let feed = FeedFile {
            seed: settings.seed,
            trades: settings.trades.unwrap_or(RECORDED_TRADES),
            symbols: settings.symbols,
            popularity,
            trades_per_second: settings.rate,
            ..FeedFile::default()
        };
        let written = write_feed(&mut file, &feed).map_err(cannot)?;
        say(&format!(
            "{}: {} and {} in {}",
            path.display(),
            counted(written.trades, "trade", "trades"),
            counted(written.price_updates, "price update", "price updates"),
            counted(written.frames, "frame", "frames")
        ))?;
        return Ok(());
    }
    let runtime = crate::small_runtime()?;
    let stop = CancellationToken::new();
    let asked = stop.clone();
    signals::on_end(runtime.handle(), move || asked.cancel());
    runtime.block_on(async {
        let config = SimulatorConfig {
            bind: settings.bind,
            token: settings.token,
            seed: settings.seed,
            symbols: symbols(settings.symbols),
            popularity,
            trades_per_second: Some(f64::from(settings.rate)),
            trades: settings.trades,
            ..SimulatorConfig::default()
        };
        let simulator = Simulator::start(config).await.map_err(|error| {
            Exit::Input(format!(
                "--bind: cannot listen on {}: {error}",
                settings.bind
            ))
        })?;
        say(&format!("ws://{}", simulator.address()))?;
        stop.cancelled().await;
        let stats = simulator.stats();
        say(&format!(
            "{}, {} and {} sent",
            counted(stats.connections, "connection", "connections"),
            counted(stats.trades, "trade", "trades"),
            counted(stats.price_updates, "price update", "price updates")
        ))?;
        Ok(())
    })
}
