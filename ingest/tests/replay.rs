//! Replays into a log in memory: complete, interrupted and resumed, paced, and with invalid lines.

mod common;

use std::{collections::BTreeMap, io::Write, path::Path, time::Duration};

use common::{Decoded, MemoryLog, check_dense, reasons, run_replay, trades};
use tapeflow_ingest::{
    Counts, Differing, Frame, IngestError, Progress, ReplayConfig, Speed, Summary,
    admission::admit,
    sequencing::{Origin, Sequencer},
    simulator::{FeedFile, FrameFaults, Popularity, write_feed},
};
use tapeflow_schemas::{SessionId, decimal::format_fixed};
use tokio_util::sync::CancellationToken;

fn fixture() -> ReplayConfig {
    config(Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/fixtures/finnhub-recorded.jsonl"
    )))
}

fn config(path: &Path) -> ReplayConfig {
    ReplayConfig {
        path: path.to_owned(),
        speed: Speed::Max,
        source: "replay".into(),
        differing: Differing::Refuse,
    }
}

async fn replay(config: &ReplayConfig, log: &MemoryLog) -> Result<Summary, IngestError> {
    let stopped = CancellationToken::new();
    run_replay(config, &mut log.clone(), stopped, &Progress::default()).await
}

fn recording(content: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(content).expect("written");
    file
}

fn simulated(feed: &FeedFile) -> tempfile::NamedTempFile {
    let mut bytes = Vec::new();
    write_feed(&mut bytes, feed).expect("written");
    recording(&bytes)
}

fn decoded(log: &MemoryLog) -> Vec<(u32, Decoded)> {
    log.records()
        .iter()
        .map(|record| (record.partition, Decoded::of(record)))
        .collect()
}

#[tokio::test]
async fn the_recorded_frames_become_81_trades() {
    let log = MemoryLog::new(4);
    let summary = replay(&fixture(), &log).await.expect("replayed");
    assert!(summary.complete);
    assert_eq!(
        (
            summary.counts.frames,
            summary.counts.trades,
            summary.counts.invalid_frames()
        ),
        (14, 81, 0)
    );
    let records = log.records();
    check_dense(&records);
    assert_eq!(trades(&records), 81);
}

/// Trades, volume and notional, computed by hand from the file.
#[tokio::test]
async fn the_recorded_trades_have_exactly_these_sums() {
    let log = MemoryLog::new(4);
    replay(&fixture(), &log).await.expect("replayed");
    let mut sums: BTreeMap<String, (usize, i128, i128)> = BTreeMap::new();
    for (_, record) in decoded(&log) {
        let sum = sums.entry(record.key).or_default();
        for trade in record.trades {
            *sum = (
                sum.0 + 1,
                sum.1 + trade.size.e8(),
                sum.2 + trade.notional().0,
            );
        }
    }
    let texts: Vec<String> = sums
        .iter()
        .map(|(symbol, (count, volume, notional))| {
            format!(
                "{symbol} {count} {} {}",
                format_fixed(*volume, 8),
                format_fixed(*notional, 16)
            )
        })
        .collect();
    assert_eq!(
        texts,
        [
            "AAPL 66 4566 751119.9843",
            "BINANCE:BTCUSDT 12 0.074658 4911.77808104",
            "GOOG 1 51 5021.2356",
            "TSLA 2 3000 391049.4"
        ]
    );
}

#[tokio::test]
async fn a_second_run_over_a_finished_file_adds_nothing() {
    let log = MemoryLog::new(3);
    let first = replay(&fixture(), &log).await.expect("replayed");
    let second = replay(&fixture(), &log).await.expect("replayed");
    assert_eq!(second.session, first.session);
    assert_eq!(
        (second.counts.records, second.counts.records_resumed),
        (0, first.counts.records)
    );
    assert_eq!(trades(&log.records()), 81);
}

#[tokio::test]
async fn a_replay_interrupted_anywhere_resumes_where_it_stopped() {
    let faults = FrameFaults {
        bad_json: 0.1,
        unknown_type: 0.1,
        bad_value: 0.1,
        zero_size: 0.1,
        duplicate_frame: 0.1,
        ..FrameFaults::default()
    };
    let file = simulated(&FeedFile {
        trades: 300,
        symbols: 30,
        faults,
        ..FeedFile::default()
    });
    let whole = MemoryLog::new(4);
    replay(&config(file.path()), &whole)
        .await
        .expect("replayed");
    let want = decoded(&whole);
    assert!(reasons(&whole.records()).len() > 2);
    for stop_at in (0..want.len()).step_by(7) {
        let log = MemoryLog::new(4);
        let error = replay(&config(file.path()), &log.failing_after(stop_at))
            .await
            .expect_err("interrupted");
        assert!(matches!(error, IngestError::Append(_)));
        assert_eq!(log.records().len(), stop_at);
        replay(&config(file.path()), &log).await.expect("replayed");
        // Only the times of the records differ.
        assert_eq!(decoded(&log), want, "interrupted after {stop_at} records");
        check_dense(&log.records());
    }
}

#[tokio::test]
async fn a_recording_interrupted_anywhere_goes_on_after_it_has_grown() {
    let grown = simulated(&FeedFile {
        trades: 260,
        symbols: 20,
        ..FeedFile::default()
    });
    let all = std::fs::read_to_string(grown.path()).expect("readable");
    let begins: Vec<&str> = all.lines().take(all.lines().count() * 3 / 4).collect();
    let file = recording(begins.join("\r\n").as_bytes());
    let whole = MemoryLog::new(4);
    replay(&config(grown.path()), &whole)
        .await
        .expect("replayed");
    let values = |log: &MemoryLog| {
        let without_session = |(partition, record): (u32, Decoded)| {
            (partition, record.sequence, record.key, record.trades)
        };
        decoded(log)
            .into_iter()
            .map(without_session)
            .collect::<Vec<_>>()
    };
    let want = values(&whole);
    for stop_at in (0..want.len()).step_by(5) {
        let log = MemoryLog::new(4);
        // The first interruption may come before or after the growth.
        let _ = replay(&config(file.path()), &log.failing_after(stop_at)).await;
        let _ = replay(&config(grown.path()), &log.failing_after(stop_at + 3)).await;
        let last = replay(&config(grown.path()), &log).await.expect("replayed");
        assert_eq!(values(&log), want, "interrupted after {stop_at} records");
        check_dense(&log.records());
        let resumed = u64::try_from(want.len().min(stop_at + 3)).expect("small");
        assert_eq!(last.counts.records_resumed, resumed);
    }
}

#[tokio::test]
async fn a_recording_that_differs_is_refused_before_anything_is_appended() {
    let log = MemoryLog::new(2);
    let frame =
        |ms: u32| format!(r#"{{"type":"trade","data":[{{"s":"A","p":1,"t":{ms},"v":1}}]}}"#);
    let file = |times: &[u32]| {
        let lines: Vec<String> = times.iter().map(|ms| frame(*ms)).collect();
        recording(lines.join("\n").as_bytes())
    };
    let (one, other) = (file(&[1, 2, 3]), file(&[1, 2, 4, 5]));
    replay(&config(one.path()), &log).await.expect("replayed");
    let refused = replay(&config(other.path()), &log).await;
    let error = refused.expect_err("it differs").to_string();
    assert!(error.ends_with("differs at line 3"), "{error}");
    assert_eq!(trades(&log.records()), 3);
    let as_new = ReplayConfig {
        differing: Differing::TakeAsNew,
        ..config(other.path())
    };
    replay(&as_new, &log).await.expect("replayed");
    replay(&as_new, &log).await.expect("replayed");
    assert_eq!(trades(&log.records()), 7);
    check_dense(&log.records());
}

#[tokio::test]
async fn one_symbol_with_99_percent_of_the_trades_keeps_its_order() {
    let file = simulated(&FeedFile {
        trades: 5_000,
        symbols: 50,
        popularity: Popularity::OneHot(0.99),
        ..FeedFile::default()
    });
    let log = MemoryLog::new(4);
    replay(&config(file.path()), &log).await.expect("replayed");
    let apple: usize = decoded(&log)
        .iter()
        .filter(|(_, record)| record.key == "AAPL")
        .map(|(_, record)| record.trades.len())
        .sum();
    assert!(apple > 4_800, "{apple}");
    check_dense(&log.records());
}

#[tokio::test]
async fn invalid_lines_are_recorded_with_their_place_and_the_rest_is_appended() {
    let mut content = b"{\"type\":\"ping\"}\n\xff\xfe\n{\"type\":\"news\"}\n".to_vec();
    content.extend(std::iter::repeat_n(b'x', 2 << 20));
    content.push(b'\n');
    content.extend_from_slice(br#"{"type":"trade","data":[{"s":"A","p":1,"t":1,"v":1},"#);
    content.extend_from_slice(br#"{"s":"A","p":-1,"t":1,"v":1}]}"#);
    let file = recording(&content);
    let log = MemoryLog::new(4);
    let summary = replay(&config(file.path()), &log).await.expect("replayed");
    let want = [
        ("frame_too_large", 1),
        ("frame_type", 1),
        ("json", 1),
        ("price", 1),
    ]
    .map(|(reason, count)| (reason.to_owned(), count));
    assert_eq!(reasons(&log.records()), want.into());
    assert_eq!((summary.counts.trades, summary.counts.pings), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_paced_replay_takes_as_long_as_its_trades_did() {
    let lines: Vec<String> = [0, 1_000, 500, 4_000]
        .iter()
        .map(|ms| format!(r#"{{"type":"trade","data":[{{"s":"A","p":1,"t":{ms},"v":1}}]}}"#))
        .collect();
    let file = recording(lines.join("\n").as_bytes());
    let begin = tokio::time::Instant::now();
    let summary = replay(
        &ReplayConfig {
            speed: Speed::Times(2.0),
            ..config(file.path())
        },
        &MemoryLog::new(1),
    )
    .await
    .expect("replayed");
    assert_eq!(summary.counts.trades, 4);
    assert_eq!(begin.elapsed().as_millis(), 2_000);
}

#[tokio::test]
async fn a_stop_ends_a_paced_replay_at_once_and_the_next_run_resumes() {
    let lines: Vec<String> = [0, 10, 50_000_000]
        .iter()
        .map(|ms| format!(r#"{{"type":"trade","data":[{{"s":"A","p":1,"t":{ms},"v":1}}]}}"#))
        .collect();
    let file = recording(lines.join("\n").as_bytes());
    let log = MemoryLog::new(1);
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let task = tokio::spawn({
        let (mut publisher, config) = (
            log.clone(),
            ReplayConfig {
                speed: Speed::Times(1.0),
                ..config(file.path())
            },
        );
        async move { run_replay(&config, &mut publisher, stopped, &Progress::default()).await }
    });
    log.until(|records| records.len() == 2).await;
    stop.cancel();
    let summary = tokio::time::timeout(Duration::from_secs(10), task)
        .await
        .expect("the replay ends at once")
        .expect("no panic")
        .expect("a good end");
    assert!(!summary.complete);
    let summary = replay(&config(file.path()), &log).await.expect("replayed");
    assert_eq!(
        (
            summary.complete,
            summary.counts.records,
            summary.counts.records_resumed
        ),
        (true, 1, 2)
    );
}

#[tokio::test]
async fn an_unreadable_file_is_named() {
    let error = replay(&config(Path::new("no/such/file.jsonl")), &MemoryLog::new(1))
        .await
        .expect_err("missing")
        .to_string();
    assert!(
        error.starts_with("cannot read no/such/file.jsonl: "),
        "{error}"
    );
}

/// A measurement to run by hand: `cargo test --release -p tapeflow-ingest --test replay --
/// --ignored --nocapture`. The goal is 300,000 trades a second on one core, from the file to
/// encoded records.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
#[ignore = "a measurement, not a check"]
async fn how_fast_is_a_replay() {
    let feed = FeedFile {
        trades: 2_000_000,
        ..FeedFile::default()
    };
    let begin = std::time::Instant::now();
    let file = simulated(&feed);
    println!("generated {} trades in {:?}", feed.trades, begin.elapsed());
    let begin = std::time::Instant::now();
    tapeflow_ingest::replay::Recording::open(file.path(), 4)
        .and_then(|recording| recording.hashed([].into()))
        .expect("readable");
    println!("hashed it in {:?}", begin.elapsed());
    let mut counts = Counts::default();
    let mut sequencer = Sequencer::new(SessionId([1; 16]), "replay", 4);
    let lines: Vec<Frame> = std::fs::read(file.path())
        .expect("readable")
        .split(|byte| *byte == b'\n')
        .map(|line| Frame {
            line: 1,
            bytes: line.to_vec(),
            taken_ms: None,
        })
        .collect();
    let begin = std::time::Instant::now();
    lines
        .iter()
        .for_each(|frame| drop(admit(frame, &mut counts)));
    println!("admitted alone in {:?}", begin.elapsed());
    let begin = std::time::Instant::now();
    for frame in &lines {
        let mut out = Vec::new();
        sequencer.take(
            &admit(frame, &mut counts),
            Origin {
                line: 1,
                taken_ms: 1,
            },
            &mut Counts::default(),
            &mut out,
        );
    }
    println!("admitted and encoded in {:?}", begin.elapsed());
    let begin = std::time::Instant::now();
    let log = MemoryLog::new(4);
    let summary = replay(&config(file.path()), &log).await.expect("replayed");
    let seconds = begin.elapsed().as_secs_f64();
    println!(
        "replayed {} trades in {seconds:.2} s: {:.0} a second",
        summary.counts.trades,
        f64::from(u32::try_from(summary.counts.trades).expect("small")) / seconds
    );
}
