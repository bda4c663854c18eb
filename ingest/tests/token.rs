//! The token is in no log line, not even in what libraries say at their most talkative.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
    time::Duration,
};

use tapeflow_ingest::{
    LiveConfig, Progress,
    finnhub::{FinnhubConfig, Timing},
    run_live,
    simulator::{Fate, Faults, Simulator, SimulatorConfig, symbols},
};
use tapeflow_log::{OutRecord, Publish, PublishError};
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

/// A log that forgets.
struct Nowhere;

#[async_trait::async_trait]
impl Publish for Nowhere {
    fn partitions(&self) -> u32 {
        1
    }

    async fn last_sequences(&mut self, _session: SessionId) -> Result<Vec<u64>, PublishError> {
        Ok(vec![0])
    }

    async fn publish(&mut self, _records: Vec<OutRecord>) -> Result<(), PublishError> {
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), PublishError> {
        Ok(())
    }
}

async fn run(fates: &[Fate], enough: impl Fn(&str) -> bool, captured: &Captured) {
    let faults = Faults {
        fates: fates.to_vec(),
        ..Faults::default()
    };
    let simulator = Simulator::start(SimulatorConfig {
        token: Secret::new(TOKEN),
        ping_every: Duration::from_millis(10),
        faults,
        ..SimulatorConfig::default()
    })
    .await
    .expect("it listens");
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
            },
            &mut Nowhere,
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
        .expect("it comes about");
    stop.cancel();
    let ended = task.await.expect("no panic");
    assert!(!format!("{ended:?}").contains(TOKEN));
}

#[tokio::test]
async fn the_token_is_in_no_line_of_any_crate_at_trace_level() {
    let captured = Captured::default();
    let writer = captured.clone();
    // Also takes what crates say through `log`, as tungstenite does.
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .init();
    run(
        &[
            Fate::Status(200),
            Fate::Unanswered,
            Fate::DropMidFrame { after_frames: 2 },
        ],
        |text| text.matches("feed connected").count() >= 2,
        &captured,
    )
    .await;
    run(
        &[Fate::Unauthorized],
        |text| text.contains("feed turned us away"),
        &captured,
    )
    .await;
    let text = captured.text();
    for said in [
        "feed connected",
        "feed not connected",
        "feed dropped",
        "feed given up",
        "feed turned us away",
        "tungstenite",
    ] {
        assert!(text.contains(said), "{said} was heard");
    }
    let shown = text.lines().find(|line| line.contains(TOKEN));
    assert_eq!(shown, None);
}
