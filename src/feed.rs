//! Runs a feed into a log: the simulated server, a recording, or Finnhub.

use std::fs::{self, File};

use tapeflow_ingest::{
    IngestError, LiveConfig, Progress, ReplayConfig, Summary,
    finnhub::FinnhubConfig,
    replay::{ReplayError, is_standard_input},
    run_history, run_live, run_replay,
    simulator::{Simulator, SimulatorConfig},
};
use tapeflow_log::LogWriter;
use tokio_util::sync::CancellationToken;

use crate::{
    args::feed::{Feed, History},
    exit::Exit,
};

/// The source that records of the simulated market name.
const SIMULATOR: &str = "simulator";

/// Refuses a recording that cannot be read, before anything is written. The recording itself is
/// read later.
pub(crate) fn check(feed: &Feed) -> Result<(), Exit> {
    let Feed::Replay { path, .. } = feed else {
        return Ok(());
    };
    if is_standard_input(path) {
        return Ok(());
    }
    let unreadable = |error: std::io::Error| {
        Exit::Input(format!("--replay: cannot read {}: {error}", path.display()))
    };
    let metadata = fs::metadata(path).map_err(unreadable)?;
    if metadata.is_file() {
        // A pipe is left alone: its writer would not survive a reader that comes and goes.
        File::open(path).map_err(unreadable)?;
    } else if metadata.is_dir() {
        return Err(Exit::Input(format!(
            "--replay: {} is a directory",
            path.display()
        )));
    }
    Ok(())
}

/// Publishes a feed until it ends or is asked to stop.
pub(crate) async fn feed(
    feed: Feed,
    publisher: &mut dyn LogWriter,
    stop: CancellationToken,
    progress: &Progress,
) -> Result<Summary, Exit> {
    let ended = match feed {
        Feed::Replay { path, speed, .. } => {
            run_replay(
                &ReplayConfig {
                    path,
                    speed,
                    source: "replay".into(),
                },
                publisher,
                stop,
                progress,
            )
            .await
        }
        Feed::Live {
            url,
            symbols,
            token,
        } => {
            let finnhub = FinnhubConfig::new(&url, token, symbols)
                .map_err(|error| Exit::Input(error.to_string()))?;
            run_live(
                &LiveConfig {
                    finnhub,
                    source: "finnhub".into(),
                },
                publisher,
                stop,
                progress,
            )
            .await
        }
        Feed::Simulated {
            seed,
            symbols,
            rate,
            history,
        } => {
            let config = SimulatorConfig {
                seed,
                symbols: symbols.clone(),
                trades_per_second: Some(per_second(rate)),
                ..SimulatorConfig::default()
            };
            let simulator = Simulator::start(config).await.map_err(|error| {
                Exit::Failed(format!("cannot start the simulated feed: {error}"))
            })?;
            match history {
                History::Off => {}
                History::Append => {
                    let appended =
                        run_history(&simulator, SIMULATOR, publisher, stop.clone(), progress)
                            .await
                            .map_err(failed)?;
                    if stop.is_cancelled() {
                        return Ok(appended);
                    }
                }
                History::Skip => simulator.skip_history().await,
            }
            let finnhub = FinnhubConfig::new(&simulator.url(), simulator.token(), symbols)
                .map_err(|error| Exit::Failed(error.to_string()))?;
            run_live(
                &LiveConfig {
                    finnhub,
                    source: SIMULATOR.into(),
                },
                publisher,
                stop,
                progress,
            )
            .await
        }
    };
    ended.map_err(failed)
}

#[expect(clippy::cast_precision_loss, reason = "rates end at ten million")]
fn per_second(rate: u64) -> f64 {
    rate as f64
}

/// A file that cannot be read and a refused address, token or symbol are errors of the input; the
/// rest failed after work had begun.
fn failed(error: IngestError) -> Exit {
    match &error {
        IngestError::Replay(ReplayError::Unreadable { .. }) | IngestError::Finnhub(_) => {
            Exit::Input(error.to_string())
        }
        _ => Exit::Failed(error.to_string()),
    }
}
