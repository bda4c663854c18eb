//! An auditor beside a supervised job on real servers: it reports nothing while all is well, finds
//! what was written by hand, and repairs it, while the job is fenced, waits, and goes on by itself.

use std::{
    fs,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use libtest_mimic::Failed;
use scylla::{client::session_builder::SessionBuilder, value::CqlTimestamp};
use tapeflow_ingest::simulator::{FeedFile, write_feed};
use tapeflow_protocol::{BarReader, EpochStore, EpochWrites};
use tapeflow_schemas::{BarKey, BarWrite, PackedBar, PackedBars, Symbol};
use tapeflow_sinks::cassandra::{CassandraConfig, CassandraStore};

use crate::{
    CQL_PORT,
    job::{Ends, Feed, Job, brokers, store, tapeflow},
    looks::look,
    supervised::{child_of, progress, signal, until},
};

/// How long the job may take to come to the third minute of its feed.
const PATIENCE: Duration = Duration::from_secs(90);
/// Looks beside the job before anything is wrong.
const LOOKS: usize = 3;

pub(crate) fn beside_a_job() -> Result<(), Failed> {
    let name = "repaired";
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("feed.jsonl");
    write_feed(
        &mut fs::File::create(&file)?,
        &FeedFile {
            seed: 23,
            trades: 80_000,
            symbols: 30,
            trades_per_second: 200,
            ..FeedFile::default()
        },
    )?;
    let feed = Feed { topic: name.into() };
    feed.init(name)?;
    let mut ingest = feed.ingest_paced(&file, "4x")?;
    let mut job = Job::start_supervised(&feed, name, 2, 2)?;
    progress(name, "after the start")?;
    let verify = [
        "verify",
        "--brokers",
        &brokers(),
        "--topic",
        name,
        "--store",
        &store(name),
    ];

    let (looks, ended) = look(name, "200ms", LOOKS)?;
    if ended.code() != Some(0)
        || looks.len() != LOOKS
        || looks
            .iter()
            .any(|line| !line.starts_with("0 differences; "))
    {
        return Err(format!("beside a job that does nothing wrong: {ended}, {looks:#?}").into());
    }

    break_tables(name)?;
    let found = tapeflow(&verify).output()?;
    let said = String::from_utf8_lossy(&found.stdout).into_owned();
    if found.status.code() != Some(1) || !said.contains("AAPL 1s ") {
        return Err(format!(
            "what was written by hand is not found: {}, {said}",
            found.status
        )
        .into());
    }
    let before = [
        child_of(job.processes[0].id())?,
        child_of(job.processes[1].id())?,
    ];
    let repaired = tapeflow(&[&verify[..], &["--repair", "--yes"]].concat()).output()?;
    let said = String::from_utf8_lossy(&repaired.stdout).into_owned();
    if !repaired.status.success() || !said.contains("; 0 places not repaired") {
        return Err(format!(
            "not repaired: {}, {said}{}",
            repaired.status,
            String::from_utf8_lossy(&repaired.stderr)
        )
        .into());
    }
    eprintln!("{name}: {}", said.lines().last().unwrap_or_default());
    until("both processes have been started again", || {
        let now = [
            child_of(job.processes[0].id())?,
            child_of(job.processes[1].id())?,
        ];
        Ok(now
            .iter()
            .zip(before)
            .all(|(now, before)| *now != 0 && *now != before))
    })?;
    progress(name, "after the repair")?;
    for process in &mut job.processes {
        if let Some(status) = process.try_wait()? {
            return Err(format!("a supervisor has ended with {status}").into());
        }
    }

    for process in &job.processes {
        signal("TERM", process.id())?;
    }
    job.left_by_themselves(Duration::from_secs(60))?;
    let _ = ingest.kill();
    ingest.wait()?;
    Job::start(&feed, name, 1, 1, Ends::WithTheLog)?.finish()?;
    eprintln!(
        "{name}: {}",
        feed.verify(name)?.lines().last().unwrap_or_default()
    );
    what_only_readers_see(name, &verify)
}

/// What no job reads, but dashboards do, is looked at too.
fn what_only_readers_see(keyspace: &str, verify: &[&str]) -> Result<(), Failed> {
    forge(keyspace)?;
    let look = |further: &[&str]| -> Result<String, Failed> {
        let found = tapeflow(&[verify, further].concat()).output()?;
        let said = String::from_utf8_lossy(&found.stdout).into_owned();
        if found.status.code() == Some(1) {
            Ok(said)
        } else {
            Err(format!("{}: {said}", found.status).into())
        }
    };
    let lasting = [
        "display columns without a cell",
        "the store has entries without a view",
        "bars of \"ZZZZ\" in the bucket of 1970-01-01T00:00:00Z: the symbol directory",
    ];
    let said = look(&[])?;
    let missing: Vec<_> = lasting
        .iter()
        .chain(&["it has entries of epoch 1000000"])
        .filter(|text| !said.contains(**text))
        .collect();
    if !missing.is_empty() || !said.contains("\n4 differences; ") {
        return Err(format!("not found: {missing:?}; {said}").into());
    }
    // Nothing is deleted; what trades call for is written again.
    let said = look(&["--repair", "--yes"])?;
    if !said.contains("; 3 places not repaired") {
        return Err(format!("not repaired: {said}").into());
    }
    let said = look(&[])?;
    if lasting.iter().any(|text| !said.contains(text)) || !said.contains("\n3 differences; ") {
        return Err(format!("after the repair: {said}").into());
    }
    Ok(())
}

/// Writes past the state cells: a line of a list of an epoch that never was, lines without a list,
/// a bar without a cell, and one that the directory does not lead to.
fn forge(keyspace: &str) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let session = SessionBuilder::new().known_node(format!("127.0.0.1:{CQL_PORT}")).use_keyspace(keyspace, false).build().await?;
        let listed = session
            .query_unpaged("SELECT bucket, start FROM view_entries WHERE view_name = 'active' AND \
            size = '1h' AND ranked_in = 'USD' LIMIT 1 ALLOW FILTERING", ())
            .await?;
        let place = listed.into_rows_result()?.single_row::<(CqlTimestamp, CqlTimestamp)>()?;
        let update =
            "UPDATE view_entries SET epoch = 1000000, vwap = 1 WHERE view_name = 'active' AND \
             size = '1h' AND bucket = ? AND ranked_in = 'USD' AND start = ? AND rank = 1";
        session.query_unpaged(update, place).await?;
        for insert in [
            "INSERT INTO view_entries (view_name, size, bucket, ranked_in, start, rank, epoch, \
             name) VALUES ('active', '1m', 0, 'USD', 0, 1, 1, 'UNKNOWN')",
            "INSERT INTO bars (symbol, size, bucket, start, trades, epoch) VALUES ('ZZZZ', '1m', \
             0, 0, 1, 1)",
        ] {
            session.query_unpaged(insert, ()).await?;
        }
        let found = session.query_unpaged("SELECT bucket, start FROM bars WHERE symbol = 'AAPL' \
        AND size = '1h' LIMIT 1 ALLOW FILTERING", ()).await?;
        let (bucket, start) = found.into_rows_result()?.single_row::<(CqlTimestamp, CqlTimestamp)>()?;
        let earlier = CqlTimestamp(start.0 - 60 * 60_000);
        let insert = "INSERT INTO bars (symbol, size, bucket, start, trades, vwap) VALUES \
        ('AAPL', '1h', ?, ?, 77, 999)";
        session.query_unpaged(insert, (bucket, earlier)).await?;
        Ok(())
    })
}

/// Writes what someone may write by hand: over a bar that no trade will touch again, and over one
/// that the job adds to all the time.
fn break_tables(keyspace: &str) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let store = CassandraStore::connect(
            CassandraConfig::parse(&store(keyspace), "").map_err(|faults| faults.to_string())?,
        )
        .await?;
        let symbol = Symbol::new("AAPL")?;
        let mut bars = Vec::new();
        for (size, least) in [("1m", 3), ("1d", 1)] {
            let size = size.parse()?;
            let mut found = store.bars(&symbol, size, i64::MIN..i64::MAX).await?;
            // The first minute is over once there is a third one.
            let begun = Instant::now();
            while found.len() < least && begun.elapsed() < PATIENCE {
                tokio::time::sleep(Duration::from_millis(200)).await;
                found = store.bars(&symbol, size, i64::MIN..i64::MAX).await?;
            }
            let bar = found.first().ok_or("AAPL has traded")?;
            let key = BarKey {
                symbol: symbol.clone(),
                size,
                start: bar.start,
            };
            let row = store.read_bars(std::slice::from_ref(&key)).await?;
            let row = row.into_iter().next().flatten().ok_or("just read")?;
            let (mut state, mut packed) = (row.state, row.packed);
            if packed.is_empty() {
                let again = state.totals;
                state.totals.merge(&again);
            } else {
                // The minute is right, and one of its seconds is not.
                let mut first: Vec<PackedBar> =
                    packed.iter(bar.start).take(1).collect::<Result<_, _>>()?;
                let first = PackedBars::of(bar.start, &mut first);
                packed.merge(bar.start, &first, &mut Vec::new())?;
            }
            // Now, and not before the wait: the job has written the row meanwhile.
            let now_us = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros();
            bars.push(BarWrite {
                key,
                state,
                packed,
                write_timestamp: i64::try_from(now_us)?,
            });
        }
        store
            .write(&EpochWrites {
                bars,
                ..EpochWrites::default()
            })
            .await?;
        Ok(())
    })
}
