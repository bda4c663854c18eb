//! The real client against the simulated server, over real sockets, with each fault of the real
//! server.

mod common;

use std::time::Duration;

use common::{Decoded, MemoryLog, check_dense, feed_states, reasons, trades};
use tapeflow_ingest::{
    Connection, HistoryConfig, IngestError, LiveConfig, Progress, Snapshot, Summary,
    finnhub::{FinnhubConfig, FinnhubError, SessionError, Timing},
    run_history, run_live,
    simulator::{
        ConnectionFault, Faults, FrameFaults, HeldHistory, Simulator, SimulatorConfig,
        SimulatorStats, symbols,
    },
};
use tapeflow_log::NewRecord;
use tapeflow_schemas::{Secret, SessionId, codec::FeedState};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

const SYMBOLS: usize = 20;

fn now_ms() -> i64 {
    let since = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
    i64::try_from(since.as_millis()).expect("small")
}

/// As fast as the client reads: tests wait for events and not for time.
fn quick() -> SimulatorConfig {
    SimulatorConfig {
        symbols: symbols(SYMBOLS),
        trades_per_second: None,
        trades: Some(2_000),
        ping_every: Duration::from_millis(20),
        ..SimulatorConfig::default()
    }
}

fn timing() -> Timing {
    Timing {
        first_delay: Duration::from_millis(10),
        longest_delay: Duration::from_millis(40),
        ..Timing::default()
    }
}

struct Run {
    simulator: Simulator,
    log: MemoryLog,
    progress: Progress,
    stop: CancellationToken,
    task: JoinHandle<Result<Summary, IngestError>>,
}

impl Run {
    async fn start(simulator: SimulatorConfig) -> Self {
        Self::start_with(simulator, |_| {}).await
    }

    async fn start_with(
        simulator: SimulatorConfig,
        adjust: impl FnOnce(&mut FinnhubConfig),
    ) -> Self {
        Self::start_into(simulator, MemoryLog::new(4), adjust).await
    }

    async fn start_into(
        simulator: SimulatorConfig,
        log: MemoryLog,
        adjust: impl FnOnce(&mut FinnhubConfig),
    ) -> Self {
        let simulator = Simulator::start(simulator)
            .await
            .expect("the simulator listens");
        let mut finnhub = FinnhubConfig::new(&simulator.url(), simulator.token(), symbols(SYMBOLS))
            .expect("a configuration");
        finnhub.timing = timing();
        adjust(&mut finnhub);
        let progress = Progress::default();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let (mut publisher, watched) = (log.clone(), progress.clone());
        let config = LiveConfig {
            finnhub,
            source: "simulator".into(),
            producer: "simulator".into(),
        };
        let task =
            tokio::spawn(async move { run_live(&config, &mut publisher, stopped, &watched).await });
        Self {
            simulator,
            log,
            progress,
            stop,
            task,
        }
    }

    /// Waits until the log holds this many trades.
    async fn until_trades(&self, count: u64) {
        self.log.until(|records| trades(records) >= count).await;
    }

    /// Waits until the progress satisfies `enough`. The server's pings keep it changing.
    async fn until(&self, enough: impl Fn(&Snapshot) -> bool) {
        let wait = async {
            while !enough(&self.progress.snapshot()) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), wait)
            .await
            .expect("the progress is reached within a minute");
    }

    /// Stops the run and checks what always holds.
    async fn end(self) -> (Summary, MemoryLog, SimulatorStats) {
        self.stop.cancel();
        let summary = self.task.await.expect("no panic").expect("a good end");
        let records = self.log.records();
        check_dense(&records);
        assert_eq!(summary.counts.trades, trades(&records));
        assert_eq!(
            summary.counts.records,
            u64::try_from(records.len()).expect("small")
        );
        assert!(
            records
                .iter()
                .all(|record| Decoded::of(record).session == summary.session),
            "one session, however many connections"
        );
        assert_eq!(self.progress.snapshot().connection, Connection::Closed);
        (summary, self.log, self.simulator.stats())
    }

    /// Waits until the run fails by itself.
    async fn error(self) -> IngestError {
        let ended = tokio::time::timeout(Duration::from_secs(60), self.task)
            .await
            .expect("the run ends within a minute");
        ended.expect("no panic").expect_err("an error")
    }
}

fn with_faults(connections: &[ConnectionFault]) -> SimulatorConfig {
    SimulatorConfig {
        faults: Faults {
            connections: connections.to_vec(),
            ..Faults::default()
        },
        ..quick()
    }
}

/// Runs connections with these faults and then a healthy one: all trades that were sent whole
/// arrive.
async fn check_recovers(connections: &[ConnectionFault], timing: Timing) -> Summary {
    let run = Run::start_with(with_faults(connections), |finnhub| finnhub.timing = timing).await;
    run.until(|now| now.connections > 0 && now.counts.trades + now.counts.price_updates > 1_500)
        .await;
    let (summary, _, stats) = run.end().await;
    assert!(
        stats.connections > u64::try_from(connections.len()).expect("small"),
        "{stats:?}"
    );
    assert!(stats.subscriptions >= u64::try_from(SYMBOLS).expect("small"));
    summary
}

#[tokio::test]
async fn every_trade_sent_arrives_once() {
    let run = Run::start(quick()).await;
    run.until(|now| now.counts.trades + now.counts.price_updates == 2_000)
        .await;
    let (summary, log, stats) = run.end().await;
    assert_eq!((stats.connections, stats.subscriptions), (1, 20));
    assert_eq!(
        (stats.trades, stats.price_updates),
        (summary.counts.trades, summary.counts.price_updates)
    );
    assert_eq!(summary.counts.invalid_frames(), 0);
    assert!(
        log.records()
            .iter()
            .any(|record| record.key == "BINANCE:BTCUSDT")
    );
}

#[tokio::test]
async fn a_subscription_to_everything_is_one_to_all_symbols() {
    let run = Run::start_with(quick(), |finnhub| finnhub.symbols = vec!["*".into()]).await;
    run.until(|now| now.counts.trades + now.counts.price_updates == 2_000)
        .await;
    let (_, log, stats) = run.end().await;
    assert_eq!(stats.subscriptions, 1);
    assert_eq!(stats.trades + stats.price_updates, 2_000);
    assert!(
        ["AAPL", "BINANCE:BTCUSDT"]
            .iter()
            .all(|symbol| log.records().iter().any(|record| record.key == *symbol))
    );
}

#[tokio::test]
async fn a_feed_without_trades_stays_open_while_pings_arrive() {
    let run = Run::start(with_faults(&[ConnectionFault::PingOnly])).await;
    run.until(|now| now.counts.pings >= 5).await;
    let (summary, log, stats) = run.end().await;
    assert_eq!((summary.counts.trades, stats.connections), (0, 1));
    // An idle market is not a gap.
    let told = feed_states(&log.records(), 0);
    let words: Vec<_> = told.iter().map(|told| (told.state, &*told.cause)).collect();
    assert_eq!(
        words,
        [
            (FeedState::Begins, "start"),
            (FeedState::Back, "start"),
            (FeedState::Ends, "stopped")
        ]
    );
}

#[tokio::test]
async fn a_feed_says_in_every_partition_when_it_was_away_and_why() {
    let faults = [
        ConnectionFault::DropMidFrame { after_frames: 3 },
        ConnectionFault::Silent { after_frames: 5 },
        ConnectionFault::Close { after_frames: 5 },
    ];
    let begun = now_ms();
    let run = Run::start_with(with_faults(&faults), |finnhub| {
        finnhub.timing.silence = Duration::from_millis(200);
    })
    .await;
    run.until(|now| now.connections == 4 && now.counts.trades + now.counts.price_updates > 1_500)
        .await;
    let (summary, log, _) = run.end().await;
    let records = log.records();
    let told = feed_states(&records, 0);
    let words: Vec<_> = told.iter().map(|told| (told.state, &*told.cause)).collect();
    use FeedState::{Away, Back, Begins, Ends};
    assert_eq!(
        words,
        [
            (Begins, "start"),
            (Back, "start"),
            (Away, "disconnected"),
            (Back, "disconnected"),
            (Away, "silent"),
            (Back, "silent"),
            (Away, "disconnected"),
            (Back, "disconnected"),
            (Ends, "stopped")
        ]
    );
    assert_eq!(told[0].previous, None);
    let times: Vec<_> = told
        .iter()
        .flat_map(|told| [told.from_ms, told.to_ms])
        .collect();
    assert!(begun <= times[0] && times.iter().all(|time| *time <= now_ms()));
    for pair in told[..8].chunks(2) {
        assert_eq!(pair[0].from_ms, pair[1].from_ms, "{pair:?}");
        assert!(pair[1].from_ms <= pair[1].to_ms, "{pair:?}");
    }
    assert!(told[5].to_ms - told[5].from_ms >= 200, "silence counts too");
    for partition in 1..4 {
        assert_eq!(feed_states(&records, partition), told, "{partition}");
    }
    assert!(summary.session.is_of("simulator"));
}

#[tokio::test]
async fn a_run_says_since_when_its_feed_was_away_by_the_log_of_the_run_before() {
    let log = MemoryLog::new(4);
    let mut before: Option<(SessionId, Vec<NewRecord>)> = None;
    for _ in 0..3 {
        let run = Run::start_into(quick(), log.clone(), |_| {}).await;
        let held = before.as_ref().map_or(0, |(_, records)| records.len());
        log.until(|records| records.len() > held + 100).await;
        run.stop.cancel();
        let summary = run.task.await.expect("no panic").expect("a good end");
        let records = log.records();
        let own: Vec<NewRecord> = records[held..].to_vec();
        for partition in 0..4 {
            let told = feed_states(&own, partition);
            let Some((session, records)) = &before else {
                continue;
            };
            let last = records.iter().rfind(|record| record.partition == partition);
            let last = Decoded::of(last.expect("a record"));
            assert_eq!(
                (told[0].previous, told[0].previous_sequence, &*told[0].cause),
                (Some(*session), last.sequence, "restart")
            );
            // The end of the run before is its last record.
            let newest = records.iter().map(|record| record.timestamp_ms).max();
            assert_eq!(
                (Some(told[0].from_ms), told[1].from_ms),
                (newest, told[0].from_ms)
            );
        }
        before = Some((summary.session, records));
    }
}

#[tokio::test]
async fn a_drop_within_a_frame_is_survived() {
    let summary = check_recovers(
        &[
            ConnectionFault::DropMidFrame { after_frames: 3 },
            ConnectionFault::DropMidFrame { after_frames: 0 },
        ],
        timing(),
    )
    .await;
    assert_eq!(
        summary.counts.invalid_frames(),
        0,
        "half a frame is not a frame"
    );
}

#[tokio::test]
async fn a_close_by_the_server_is_survived() {
    check_recovers(&[ConnectionFault::Close { after_frames: 5 }], timing()).await;
}

#[tokio::test]
async fn a_silent_connection_is_replaced() {
    let timing = Timing {
        silence: Duration::from_millis(200),
        ..timing()
    };
    check_recovers(&[ConnectionFault::Silent { after_frames: 5 }], timing).await;
}

#[tokio::test]
async fn a_handshake_without_an_answer_times_out() {
    let timing = Timing {
        connect: Duration::from_millis(100),
        ..timing()
    };
    check_recovers(&[ConnectionFault::Unanswered], timing).await;
}

#[tokio::test]
async fn an_answer_of_200_instead_of_101_is_retried() {
    check_recovers(
        &[ConnectionFault::Status(200), ConnectionFault::Status(503)],
        timing(),
    )
    .await;
}

#[tokio::test]
async fn a_flood_is_read_completely() {
    let config = SimulatorConfig {
        trades: Some(60_000),
        trades_per_second: Some(50.0),
        ..with_faults(&[ConnectionFault::Flood { frames: 5_000 }])
    };
    let run = Run::start(config).await;
    run.until(|now| now.counts.frames > 5_000).await;
    let (_, _, stats) = run.end().await;
    assert_eq!(stats.connections, 1);
}

#[tokio::test]
async fn a_refused_token_ends_the_run_with_a_clear_error() {
    let error = Run::start(with_faults(&[ConnectionFault::Unauthorized]))
        .await
        .error()
        .await;
    assert!(matches!(
        &error,
        IngestError::Finnhub(FinnhubError::Session(SessionError::TokenRefused))
    ));
    assert_eq!(
        error.to_string(),
        "the server refuses the token (HTTP 401): check the token file"
    );
}

#[tokio::test]
async fn the_token_is_in_no_error_and_no_debug_text() {
    const TOKEN: &str = "c0ffee-very-secret";
    let mut debug = String::new();
    let run = Run::start_with(quick(), |finnhub| {
        finnhub.token = Secret::new(TOKEN);
        debug = format!("{finnhub:?} {finnhub:#?} {}", finnhub.endpoint);
    })
    .await;
    let stats = format!("{:?}", run.simulator);
    let error = run.error().await;
    for text in [
        debug,
        stats,
        error.to_string(),
        format!("{error:?} {error:#?}"),
    ] {
        assert!(!text.contains(TOKEN) && !text.is_empty(), "{text}");
    }
    for bad in ["with space", "line\r\nInjected: header", "amp&er"] {
        let error = FinnhubConfig::new("wss://ws.finnhub.io", Secret::new(bad), symbols(1))
            .expect_err("refused");
        assert_eq!(error, FinnhubError::Token);
        assert!(!format!("{error} {error:?}").contains(bad));
    }
}

#[tokio::test]
async fn an_invalid_symbol_is_left_out_and_the_rest_trade() {
    let faults = Faults {
        invalid_symbols: vec!["MSFT".into()],
        ..Faults::default()
    };
    let run = Run::start(SimulatorConfig { faults, ..quick() }).await;
    run.until(|now| now.counts.trades + now.counts.price_updates == 2_000)
        .await;
    let (summary, log, _) = run.end().await;
    assert_eq!(summary.counts.provider_errors, 1);
    assert!(log.records().iter().all(|record| record.key != "MSFT"));
}

#[tokio::test]
async fn a_feed_that_knows_none_of_the_symbols_ends_the_run() {
    let run = Run::start_with(quick(), |finnhub| finnhub.symbols = vec!["NOPE".into()]).await;
    let error = run.error().await.to_string();
    assert!(error.contains("\"NOPE\""), "{error}");
}

#[tokio::test]
async fn the_symbol_limit_leaves_the_allowed_ones_trading() {
    let faults = Faults {
        symbol_limit: Some(3),
        ..Faults::default()
    };
    let run = Run::start(SimulatorConfig { faults, ..quick() }).await;
    run.until(|now| now.counts.trades + now.counts.price_updates == 2_000)
        .await;
    let (summary, log, stats) = run.end().await;
    assert!(summary.counts.provider_errors >= 1);
    assert_eq!(stats.subscriptions, 3);
    let allowed = symbols(3);
    assert!(
        log.records()
            .iter()
            .all(|record| record.key.is_empty() || allowed.contains(&record.key))
    );
}

#[tokio::test]
async fn invalid_frames_and_values_are_recorded_with_their_reason_and_the_feed_continues() {
    let frames = FrameFaults {
        zero_size: 0.05,
        bare_conditions: 0.2,
        bad_value: 0.05,
        bad_json: 0.05,
        unknown_type: 0.05,
        duplicate_frame: 0.05,
        out_of_order: 0.05,
    };
    let run = Run::start(SimulatorConfig {
        faults: Faults {
            frames,
            ..Faults::default()
        },
        ..quick()
    })
    .await;
    run.until(|now| {
        now.counts.trades + now.counts.price_updates + now.counts.invalid_frames() > 2_000
    })
    .await;
    let (summary, log, stats) = run.end().await;
    let reasons = reasons(&log.records());
    assert_eq!(
        reasons.keys().collect::<Vec<_>>(),
        ["frame_type", "json", "price"]
    );
    let refused: usize = reasons.values().sum();
    assert_eq!(
        summary.counts.invalid_frames(),
        u64::try_from(refused).expect("small")
    );
    assert_eq!(stats.connections, 1);
}

#[tokio::test]
async fn a_second_connection_with_the_token_drops_both_and_the_first_reconnects() {
    let run = Run::start(SimulatorConfig {
        trades: None,
        trades_per_second: Some(2_000.0),
        ..quick()
    })
    .await;
    run.until_trades(50).await;
    let (intruder_log, intruder_progress) = (MemoryLog::new(1), Progress::default());
    let mut finnhub = FinnhubConfig::new(&run.simulator.url(), run.simulator.token(), symbols(1))
        .expect("a configuration");
    // The intruder connects once.
    finnhub.timing = Timing {
        first_delay: Duration::from_secs(3_600),
        longest_delay: Duration::from_secs(3_600),
        ..Timing::default()
    };
    let stop_intruder = CancellationToken::new();
    let stopped = stop_intruder.clone();
    let intruder = tokio::spawn({
        let (mut log, progress) = (intruder_log.clone(), intruder_progress.clone());
        async move {
            run_live(
                &LiveConfig {
                    finnhub,
                    source: "simulator".into(),
                    producer: "simulator".into(),
                },
                &mut log,
                stopped,
                &progress,
            )
            .await
        }
    });
    run.until(|now| now.connections >= 2).await;
    let before = run.progress.snapshot().counts.trades;
    run.until_trades(before + 50).await;
    stop_intruder.cancel();
    intruder.await.expect("no panic").expect("a good end");
    assert!(intruder_progress.snapshot().connections <= 1);
    run.end().await;
}

#[tokio::test]
async fn a_log_that_fails_ends_the_run() {
    let simulator = Simulator::start(quick())
        .await
        .expect("the simulator listens");
    let finnhub = FinnhubConfig::new(&simulator.url(), simulator.token(), symbols(SYMBOLS))
        .expect("a configuration");
    let mut log = MemoryLog::new(4).failing_after(10);
    let stopped = CancellationToken::new();
    let error = run_live(
        &LiveConfig {
            finnhub,
            source: "simulator".into(),
            producer: "simulator".into(),
        },
        &mut log,
        stopped,
        &Progress::default(),
    )
    .await
    .expect_err("an error");
    assert_eq!(
        error.to_string(),
        "cannot append to the log: the disk is full"
    );
}

#[tokio::test]
async fn the_simulator_listens_on_this_machine_only() {
    let config = SimulatorConfig {
        bind: ([0, 0, 0, 0], 0).into(),
        ..quick()
    };
    let error = Simulator::start(config)
        .await
        .expect_err("refused")
        .to_string();
    assert!(error.contains("this machine only"), "{error}");
}

/// What a log holds of the history.
fn history_of(log: &MemoryLog) -> HistoryConfig {
    let times: Vec<i64> = log
        .records()
        .iter()
        .flat_map(|record| Decoded::of(record).trades)
        .map(|trade| trade.event_time.ms())
        .collect();
    let first_and_last = times.iter().min().zip(times.iter().max());
    HistoryConfig {
        source: "simulator".into(),
        held: first_and_last.map(|(first_ms, last_ms)| HeldHistory {
            first_ms: *first_ms,
            last_ms: *last_ms,
        }),
    }
}

#[tokio::test]
async fn history_is_appended_once_and_counted_with_the_live_feed_after_it() {
    let simulator = Simulator::start(quick())
        .await
        .expect("the simulator listens");
    let (mut log, progress) = (MemoryLog::new(4), Progress::default());
    let stop = CancellationToken::new();
    let config = history_of(&log);
    let first = run_history(&simulator, &config, &mut log, stop.clone(), &progress)
        .await
        .expect("appended");
    assert!(first.complete);
    let held = trades(&log.records());
    assert!(held > 240 * 15, "{held} trades of {SYMBOLS} symbols");
    assert_eq!(progress.snapshot().counts.trades, held);

    // As in a new process, which appends what the time since then holds and nothing again.
    let restarted = Simulator::start(quick())
        .await
        .expect("the simulator listens");
    let config = history_of(&log);
    run_history(
        &restarted,
        &config,
        &mut log,
        stop.clone(),
        &Progress::default(),
    )
    .await
    .expect("appended");
    let held = trades(&log.records()) - held;
    assert!(held < 2 * 6 * 20, "{held} trades again");
    let held = trades(&log.records());
    check_dense(&log.records());

    let before = progress.snapshot().counts.trades;
    let finnhub = FinnhubConfig::new(&simulator.url(), simulator.token(), symbols(SYMBOLS))
        .expect("a configuration");
    let task = tokio::spawn({
        let (mut writer, progress, stop) = (log.clone(), progress.clone(), stop.clone());
        async move {
            let config = LiveConfig {
                finnhub,
                source: "simulator".into(),
                producer: "simulator".into(),
            };
            run_live(&config, &mut writer, stop, &progress).await
        }
    });
    log.until(|records| trades(records) > held).await;
    stop.cancel();
    let summary = task.await.expect("no panic").expect("a good end");
    assert_eq!(
        summary.counts.trades - before,
        trades(&log.records()) - held
    );
}

#[tokio::test]
async fn an_interrupted_history_goes_on_where_the_log_ends() {
    let log = MemoryLog::new(4);
    let run = async |writer: &mut MemoryLog| {
        // As in a new process.
        let simulator = Simulator::start(quick())
            .await
            .expect("the simulator listens");
        let (stop, progress) = (CancellationToken::new(), Progress::default());
        run_history(&simulator, &history_of(&log), writer, stop, &progress).await
    };
    let error = run(&mut log.failing_after(1_000)).await;
    assert!(matches!(error, Err(IngestError::Append(_))));
    let summary = run(&mut log.clone()).await.expect("resumed");
    assert!(summary.complete);
    check_dense(&log.records());
    // Nothing is appended twice, and no symbol misses a minute.
    let mut minutes = std::collections::BTreeMap::<(String, i64), usize>::new();
    for record in log.records() {
        let decoded = Decoded::of(&record);
        let minute = decoded.trades[0].event_time.ms().div_euclid(60_000);
        *minutes.entry((decoded.key, minute)).or_default() += 1;
    }
    assert!(minutes.values().all(|records| *records == 1));
    let aapl = minutes.keys().filter(|(symbol, _)| symbol == "AAPL");
    let minutes: Vec<i64> = aapl.map(|(_, minute)| *minute).collect();
    assert!(minutes.len() >= 240, "{} minutes", minutes.len());
    assert!(minutes.windows(2).all(|pair| pair[1] == pair[0] + 1));
}

/// Why the feed at an address is not connected.
async fn outage_of(url: &str) -> String {
    let mut finnhub = FinnhubConfig::new(url, Secret::new("sesame"), symbols(1)).expect("settings");
    finnhub.timing = timing();
    let (progress, stop) = (Progress::default(), CancellationToken::new());
    let (watched, stopped) = (progress.clone(), stop.clone());
    let task = tokio::spawn(async move {
        let config = LiveConfig {
            finnhub,
            source: "finnhub".into(),
            producer: "finnhub".into(),
        };
        run_live(&config, &mut MemoryLog::new(1), stopped, &watched).await
    });
    let why = async {
        loop {
            let known = progress
                .outage()
                .filter(|outage| outage.reason != "connecting");
            if let Some(outage) = known {
                return outage.reason;
            }
            tokio::task::yield_now().await;
        }
    };
    let reason = tokio::time::timeout(Duration::from_secs(60), why)
        .await
        .expect("it says why within a minute");
    stop.cancel();
    task.await.expect("no panic").expect("a good end");
    reason
}

#[tokio::test]
async fn a_feed_that_is_not_connected_says_why() {
    let answering = async |answer: &'static str| {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 1_024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        format!("ws://127.0.0.1:{port}")
    };
    let not_found = answering("HTTP/1.1 404 Not Found\r\n\r\n").await;
    let no_server = answering("SSH-2.0-server\r\n\r\n").await;
    let closed = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        listener.local_addr().expect("an address").port()
    };
    for (url, reason) in [
        (not_found, "HTTP 404 instead of 101"),
        (no_server, "no WebSocket handshake"),
        (format!("ws://127.0.0.1:{closed}"), "cannot connect"),
        (
            "wss://feed.invalid".into(),
            "cannot connect: failed to lookup",
        ),
    ] {
        let found = outage_of(&url).await;
        assert!(found.contains(reason), "{url}: {found}");
        assert!(!found.contains("sesame"), "{found}");
    }
}

#[tokio::test]
async fn a_connected_feed_has_no_outage_and_a_dropped_one_has() {
    let run = Run::start(with_faults(&[ConnectionFault::DropMidFrame {
        after_frames: 2,
    }]))
    .await;
    run.until(|now| now.connections >= 2 && now.connection == Connection::Open)
        .await;
    assert_eq!(run.progress.outage(), None);
    let progress = run.progress.clone();
    run.end().await;
    assert_eq!(
        progress.outage().map(|outage| outage.reason).as_deref(),
        Some("the feed is closed")
    );
}
