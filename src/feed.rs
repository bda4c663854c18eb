//! Runs a feed into a log: the simulated server, a recording, or Finnhub.

use tapeflow_ingest::{
    IngestError, LiveConfig, Progress, ReplayConfig, Summary,
    finnhub::FinnhubConfig,
    replay::ReplayError,
    run_history, run_live, run_replay,
    simulator::{Simulator, SimulatorConfig},
};
use tapeflow_log::LogWriter;
use tokio_util::sync::CancellationToken;

use crate::{
    args::feed::{Feed, History},
    end::End,
};

/// The source that records of the simulated market name.
const SIMULATOR: &str = "simulator";

/// Feeds until the feed ends, or until it is asked to stop.
pub(crate) async fn feed(
    feed: Feed,
    publisher: &mut dyn LogWriter,
    stop: CancellationToken,
    progress: &Progress,
) -> Result<Summary, End> {
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
                .map_err(|error| End::Input(error.to_string()))?;
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
                End::Failed(format!("the simulated feed does not start: {error}"))
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
                .map_err(|error| End::Failed(error.to_string()))?;
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

/// A file that cannot be read, and an address, a token or symbols that are refused, are the input's
/// error; the rest failed under way.
fn failed(error: IngestError) -> End {
    match &error {
        IngestError::Replay(ReplayError::Unreadable { .. }) | IngestError::Finnhub(_) => {
            End::Input(error.to_string())
        }
        _ => End::Failed(error.to_string()),
    }
}
