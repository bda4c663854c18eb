//! Runs a feed into a log: the simulated server, a recording, or Finnhub.

use std::fs;

use tapeflow_ingest::{
    AcceptedReplay, Differing, FeedKind, HistoryConfig, IngestError, LiveConfig, Progress,
    ReplayConfig, Summary, Unlike, accept_replay,
    finnhub::FinnhubConfig,
    first_lines,
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

/// What a feed is. Only the simulated server is reached without TLS, on loopback.
pub(crate) fn kind(feed: &Feed) -> FeedKind {
    match feed {
        Feed::Simulated { .. } => FeedKind::Simulated,
        Feed::Replay { .. } => FeedKind::Recording,
        Feed::Live { url, .. } if url.starts_with("ws://") => FeedKind::Simulated,
        Feed::Live { .. } => FeedKind::Finnhub,
    }
}

/// Refuses a recording that cannot be read or that is none, before anything is written. The
/// recording itself is read later.
pub(crate) fn check(feed: &Feed) -> Result<(), Exit> {
    let Feed::Replay { path, .. } = feed else {
        return Ok(());
    };
    let unreadable = |error: std::io::Error| {
        Exit::Input(format!("--replay: cannot read {}: {error}", path.display()))
    };
    let checked = if is_standard_input(path) {
        first_lines::check_standard_input().map_err(unreadable)?
    } else {
        let metadata = fs::metadata(path).map_err(unreadable)?;
        if metadata.is_dir() {
            return Err(Exit::Input(format!(
                "--replay: {} is a directory",
                path.display()
            )));
        }
        if !metadata.is_file() {
            // A pipe is left alone: its writer would not survive a reader that comes and goes.
            return Ok(());
        }
        first_lines::check_file(path).map_err(unreadable)?
    };
    checked.map_err(|reason| {
        Exit::Input(format!(
            "--replay: {} is no recording: {reason}; give JSON lines, each a frame as Finnhub \
             sends it",
            path.display()
        ))
    })
}

/// How a feed ended.
pub(crate) struct Fed {
    pub(crate) summary: Summary,
    /// It was asked to stop within its simulated history.
    pub(crate) is_history_cut: bool,
}

/// A feed that nothing is refused of: its recording was read, its symbols can be subscribed to.
pub(crate) enum Accepted {
    Replay(AcceptedReplay),
    Live(LiveConfig),
    Simulated {
        config: SimulatorConfig,
        history: History,
    },
}

/// Refuses a feed that this log must not take, before anything is written.
pub(crate) async fn accept(feed: Feed, log: &mut dyn LogWriter) -> Result<Accepted, Exit> {
    Ok(match feed {
        Feed::Replay {
            path,
            speed,
            as_new,
            until_end: _,
        } => {
            let config = ReplayConfig {
                path,
                speed,
                source: "replay".into(),
                differing: if as_new {
                    Differing::TakeAsNew
                } else {
                    Differing::Refuse
                },
            };
            Accepted::Replay(accept_replay(config, log).await.map_err(failed)?)
        }
        Feed::Live {
            url,
            symbols,
            token,
            producer,
        } => {
            let finnhub = FinnhubConfig::new(&url, token, symbols)
                .map_err(|error| Exit::Input(error.to_string()))?;
            Accepted::Live(LiveConfig {
                finnhub,
                source: "finnhub".into(),
                producer,
            })
        }
        Feed::Simulated {
            seed,
            symbols,
            rate,
            history,
        } => Accepted::Simulated {
            config: SimulatorConfig {
                seed,
                symbols,
                trades_per_second: Some(per_second(rate)),
                ..SimulatorConfig::default()
            },
            history,
        },
    })
}

/// Publishes a feed until it ends or is asked to stop.
pub(crate) async fn feed(
    feed: Accepted,
    publisher: &mut dyn LogWriter,
    stop: CancellationToken,
    progress: &Progress,
) -> Result<Fed, Exit> {
    let ended = match feed {
        Accepted::Replay(replay) => run_replay(replay, publisher, stop, progress).await,
        Accepted::Live(config) => run_live(&config, publisher, stop, progress).await,
        Accepted::Simulated { config, history } => {
            let symbols = config.symbols.clone();
            let simulator = Simulator::start(config).await.map_err(|error| {
                Exit::Failed(format!("cannot start the simulated feed: {error}"))
            })?;
            match history {
                History::Off => {}
                History::Append(held) => {
                    let config = HistoryConfig {
                        source: SIMULATOR.into(),
                        held,
                    };
                    let summary =
                        run_history(&simulator, &config, publisher, stop.clone(), progress)
                            .await
                            .map_err(failed)?;
                    if stop.is_cancelled() {
                        return Ok(Fed {
                            is_history_cut: !summary.complete,
                            summary,
                        });
                    }
                }
                History::Skip => simulator.skip_history().await,
            }
            let finnhub = FinnhubConfig::new(&simulator.url(), simulator.token(), symbols)
                .map_err(|error| Exit::Failed(error.to_string()))?;
            let config = LiveConfig {
                finnhub,
                source: SIMULATOR.into(),
                producer: SIMULATOR.into(),
            };
            run_live(&config, publisher, stop, progress).await
        }
    };
    ended.map_err(failed).map(|summary| Fed {
        summary,
        is_history_cut: false,
    })
}

#[expect(clippy::cast_precision_loss, reason = "rates end at ten million")]
fn per_second(rate: u64) -> f64 {
    rate as f64
}

/// A file that cannot be read, a recording that differs, and a refused address, token or symbol are
/// errors of the input; the rest failed after work had begun.
fn failed(error: IngestError) -> Exit {
    match &error {
        IngestError::Unlike {
            unlike: Unlike::TooMany(_),
            ..
        } => Exit::Input(format!(
            "--replay: {error}; nothing was appended. Use another log"
        )),
        IngestError::Unlike { .. } => Exit::Input(format!(
            "--replay: {error}; nothing was appended. Replay it as it was, use another log, or \
             give --replay-as-new to count all of its trades beside those that the log has"
        )),
        IngestError::Replay(ReplayError::Unreadable { .. })
        | IngestError::NoRecording { .. }
        | IngestError::Finnhub(_) => Exit::Input(error.to_string()),
        _ => Exit::Failed(error.to_string()),
    }
}
