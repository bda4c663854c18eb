//! No log line contains the token, not even those of libraries at trace level.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use tapeflow_ingest::{
    LiveConfig, Progress,
    finnhub::{FinnhubConfig, Timing},
    run_live,
    simulator::{ConnectionFault, Faults, Simulator, SimulatorConfig, symbols},
};
use tapeflow_log::{AppendError, LastSession, LogWriter, NewRecord};
use tapeflow_schemas::{Secret, SessionId};
use tokio_util::sync::CancellationToken;

const TOKEN: &str = "c0ffee-very-secret";

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl Captured {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("no panic")).into_owned()
    }
}

impl Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A log that discards its records.
struct Discard;

#[async_trait::async_trait]
impl LogWriter for Discard {
    fn partitions(&self) -> u32 {
        1
    }

    async fn last_sequences(&mut self, _session: SessionId) -> Result<Vec<u64>, AppendError> {
        Ok(vec![0])
    }

    async fn last_session(&mut self, _producer: &str) -> Result<Option<LastSession>, AppendError> {
        Ok(None)
    }

    async fn append(&mut self, _records: Vec<NewRecord>) -> Result<(), AppendError> {
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), AppendError> {
        Ok(())
    }
}

async fn run(connections: &[ConnectionFault], enough: impl Fn(&str) -> bool, captured: &Captured) {
    let faults = Faults {
        connections: connections.to_vec(),
        ..Faults::default()
    };
    let simulator = Simulator::start(SimulatorConfig {
        token: Secret::new(TOKEN),
        ping_every: Duration::from_millis(10),
        faults,
        ..SimulatorConfig::default()
    })
    .await
    .expect("the simulator listens");
    let mut finnhub = FinnhubConfig::new(&simulator.url(), simulator.token(), symbols(5))
        .expect("a configuration");
    finnhub.timing = Timing {
        first_delay: Duration::from_millis(1),
        longest_delay: Duration::from_millis(10),
        connect: Duration::from_millis(200),
        ..Timing::default()
    };
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let task = tokio::spawn(async move {
        run_live(
            &LiveConfig {
                finnhub,
                source: "simulator".into(),
                producer: "simulator".into(),
            },
            &mut Discard,
            stopped,
            &Progress::default(),
        )
        .await
    });
    let wait = async {
        while !enough(&captured.text()) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait)
        .await
        .expect("the log lines appear within 30 s");
    stop.cancel();
    let ended = task.await.expect("no panic");
    assert!(!format!("{ended:?}").contains(TOKEN));
}

#[tokio::test]
async fn the_token_is_in_no_line_of_any_crate_at_trace_level() {
    let captured = Captured::default();
    let writer = captured.clone();
    // Also captures lines of the `log` crate, which tungstenite uses.
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    run(
        &[
            ConnectionFault::Status(200),
            ConnectionFault::Unanswered,
            ConnectionFault::DropMidFrame { after_frames: 2 },
        ],
        |text| text.matches("feed connected").count() >= 2,
        &captured,
    )
    .await;
    run(
        &[ConnectionFault::Unauthorized],
        |text| text.contains("feed refused"),
        &captured,
    )
    .await;
    let text = captured.text();
    for said in [
        "feed connected",
        "feed not connected",
        "feed dropped",
        "feed connection closed",
        "feed refused",
        "tungstenite",
    ] {
        assert!(text.contains(said), "{said} was logged");
    }
    let shown = text.lines().find(|line| line.contains(TOKEN));
    assert_eq!(shown, None);
}
