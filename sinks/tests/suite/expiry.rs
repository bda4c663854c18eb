//! Expiry: what is beyond its horizon leaves, everything else stays, and a job that writes at the
//! same time loses nothing.

use std::sync::Arc;

use tapeflow_protocol::{Cut, DirectoryEntry, EpochWrites, Expired, Expiry, Store};
use tapeflow_schemas::{
    BarKey, BarWrite, PackedBar, PackedBars, View, ViewKey, ViewState, ViewWrite, WindowStart,
    WriteTimestamp,
    window::{BUCKET_MS, bucket},
};

use super::{checkpoint::first, key, size, start, state, write_timestamp};

const HOUR_MS: i64 = 3_600_000;

/// What may leave when the only partition has this watermark.
fn expiry(horizons: &str, watermark_ms: i64) -> Expiry {
    let mut checkpoint = first(1);
    checkpoint.committed.cuts = vec![Cut {
        watermark_ms: Some(watermark_ms),
        ..Cut::default()
    }];
    checkpoint.last_write_timestamp = write_timestamp(160);
    Expiry::of(&checkpoint, horizons.parse().expect("horizons"))
}

/// A minute with bars of these sizes and starts in it.
fn minute(name: &str, at: WindowStart, packed: &[(&str, i64)], when: WriteTimestamp) -> BarWrite {
    let mut packed: Vec<PackedBar> = packed
        .iter()
        .map(|(of, start)| PackedBar {
            size: size(of),
            start: *start,
            totals: state(0, 5).totals,
        })
        .collect();
    BarWrite {
        key: key(name, "1m", at),
        state: state(7, 1),
        packed: PackedBars::of(at, &mut packed),
        write_timestamp: when,
    }
}

async fn write(store: &dyn Store, bars: Vec<BarWrite>, views: Vec<ViewWrite>) {
    let directory = bars
        .iter()
        .map(|bar| DirectoryEntry::of(&bar.key))
        .collect();
    let writes = EpochWrites {
        directory,
        bars,
        views,
        ..EpochWrites::default()
    };
    store.write(&writes).await.expect("rows are written");
}

async fn expire(store: &dyn Store, expiry: &Expiry) -> Expired {
    store.expire(expiry, &|_| true).await.expect("bars leave")
}

async fn marks(store: &dyn Store) -> (Option<i64>, Option<i64>) {
    let marks = store.expired_up_to().await.expect("marks are read");
    (marks.begun, marks.done)
}

/// The starts of a symbol's bars of a size.
async fn starts(store: &dyn Store, name: &str, of: &str) -> Vec<WindowStart> {
    let range = start(-BUCKET_MS)..start(2 * BUCKET_MS);
    let bars = store.bars(&super::symbol(name), size(of), range).await;
    bars.expect("bars are read")
        .iter()
        .map(|bar| bar.start)
        .collect()
}

pub(super) async fn packed_bars_leave_their_minute_and_the_minute_stays(store: Arc<dyn Store>) {
    let (old, young) = (start(0), start(2 * HOUR_MS));
    let packed = |at: i64| [("1s", at), ("1s", at + 9_000), ("30s", at + 30_000)];
    let bars: Vec<BarWrite> = ["AAPL", "MSFT"]
        .into_iter()
        .flat_map(|name| [old, young].map(|at| minute(name, at, &packed(at), write_timestamp(0))))
        .collect();
    write(&*store, bars.clone(), Vec::new()).await;
    assert_eq!(marks(&*store).await, (None, None));
    // A second before the old minute is beyond the horizon.
    let end = old + 60_000;
    let early = expire(&*store, &expiry("1s=1h,30s=3h", end + HOUR_MS - 1)).await;
    assert_eq!(early, Expired::default());
    let left = expire(&*store, &expiry("1s=1h,30s=3h", end + HOUR_MS)).await;
    assert_eq!(left.minutes, 2);
    for name in ["AAPL", "MSFT"] {
        assert_eq!(starts(&*store, name, "1s").await, [young, young + 9_000]);
        assert_eq!(
            starts(&*store, name, "30s").await,
            [old + 30_000, young + 30_000]
        );
        assert_eq!(starts(&*store, name, "1m").await, [old, young]);
    }
    let rows = store
        .read_bars(std::slice::from_ref(&bars[0].key))
        .await
        .expect("rows are read");
    let row = rows[0].as_ref().expect("the minute is there");
    assert_eq!(row.state, bars[0].state, "the minute is as it was");
    let mark = Some(end + HOUR_MS);
    assert_eq!(marks(&*store).await, (mark, mark));
    // The other size leaves when its own time has come, from where the last one ended.
    let later = expiry("1s=1h,30s=3h", end + 3 * HOUR_MS).since(mark);
    assert_eq!(expire(&*store, &later).await.minutes, 4);
    assert!(starts(&*store, "AAPL", "1s").await.is_empty());
    assert_eq!(starts(&*store, "AAPL", "30s").await, [young + 30_000]);
    assert_eq!(
        expire(&*store, &later).await,
        Expired::default(),
        "nothing is left to do"
    );
    // Each minute has an audit without mismatches.
    let range = start(-BUCKET_MS)..start(BUCKET_MS);
    let audited = store
        .audit_bars(&super::symbol("AAPL"), size("1m"), range)
        .await;
    for bar in audited.expect("bars are read") {
        assert_eq!(bar.mismatches, [""; 0]);
    }
}

/// 1. A job has read a minute with its packed bars.
/// 2. The packed bars leave.
/// 3. The job repeats an earlier write: nothing changes.
/// 4. It writes the minute anew, with them: they are there again, and leave the next time.
pub(super) async fn a_write_of_the_job_wins_over_an_expiry_and_a_repeat_does_not(
    store: Arc<dyn Store>,
) {
    let at = start(0);
    let before = minute("AAPL", at, &[("1s", at)], write_timestamp(16));
    write(&*store, vec![before.clone()], Vec::new()).await;
    let old = expiry("1s=1h", at + 2 * HOUR_MS);
    assert_eq!(expire(&*store, &old).await.minutes, 1);
    write(&*store, vec![before.clone()], Vec::new()).await;
    assert!(starts(&*store, "AAPL", "1s").await.is_empty());
    let after = BarWrite {
        state: state(8, 2),
        write_timestamp: write_timestamp(32),
        ..before
    };
    write(&*store, vec![after.clone()], Vec::new()).await;
    assert_eq!(starts(&*store, "AAPL", "1s").await, [at]);
    assert_eq!(expire(&*store, &old).await.minutes, 1);
    let rows = store
        .read_bars(std::slice::from_ref(&after.key))
        .await
        .expect("rows are read");
    let row = rows[0].as_ref().expect("the minute is there");
    assert_eq!((row.state, row.packed.is_empty()), (after.state, true));
}

pub(super) async fn bars_with_rows_of_their_own_and_views_leave_before_a_time(
    store: Arc<dyn Store>,
) {
    // Views may leave by buckets.
    let old = bucket(start(0));
    let young = old + 2 * BUCKET_MS;
    let bar = |name: &str, of: &str, at| BarWrite {
        key: key(name, of, at),
        state: state(7, 1),
        packed: PackedBars::default(),
        write_timestamp: write_timestamp(0),
    };
    let mut bars = Vec::new();
    for name in ["AAPL", "BINANCE:BTCUSDT"] {
        for at in [old, old + 600_000, young] {
            bars.extend([bar(name, "5m", at), bar(name, "1h", at - at % HOUR_MS)]);
        }
    }
    let view = |of: &str, at| ViewWrite {
        key: ViewKey {
            view: View::Market,
            size: size(of),
            start: at,
        },
        state: ViewState::new(7, Vec::new()),
        write_timestamp: write_timestamp(0),
    };
    let views = vec![view("5m", old), view("5m", young), view("1h", old)];
    write(&*store, bars, views).await;
    let watermark = old + 300_000 + BUCKET_MS + HOUR_MS;
    let left = expire(&*store, &expiry("5m=1h", watermark)).await;
    assert!(
        left.bars > 0 && left.views > 0 && left.minutes == 0,
        "{left:?}"
    );
    for name in ["AAPL", "BINANCE:BTCUSDT"] {
        assert_eq!(starts_until(&*store, name, "5m", young).await, [young]);
        assert_eq!(starts_until(&*store, name, "1h", young).await.len(), 2);
    }
    for (of, want) in [("5m", vec![young]), ("1h", vec![old])] {
        let found = store.views(View::Market, size(of), old..young + 1).await;
        let found: Vec<_> = found
            .expect("views are read")
            .iter()
            .map(|view| view.start)
            .collect();
        assert_eq!(found, want, "{of}");
    }
}

async fn starts_until(
    store: &dyn Store,
    name: &str,
    of: &str,
    until: WindowStart,
) -> Vec<WindowStart> {
    let range = until - 2 * BUCKET_MS..until + 1;
    let bars = store.bars(&super::symbol(name), size(of), range).await;
    bars.expect("bars are read")
        .iter()
        .map(|bar| bar.start)
        .collect()
}

pub(super) async fn an_expiry_that_is_stopped_keeps_no_mark_and_goes_on_later(
    store: Arc<dyn Store>,
) {
    let bars: Vec<BarWrite> = (0..700)
        .map(|n| {
            minute(
                "AAPL",
                start(n * 60_000),
                &[("1s", start(n * 60_000))],
                write_timestamp(0),
            )
        })
        .collect();
    let keys: Vec<BarKey> = bars.iter().map(|bar| bar.key.clone()).collect();
    write(&*store, bars, Vec::new()).await;
    let old = expiry("1s=1h", start(700 * 60_000) + HOUR_MS);
    store.expire(&old, &|_| false).await.expect("bars leave");
    assert!(matches!(marks(&*store).await, (Some(_), None)));
    expire(&*store, &old).await;
    let rows = store.read_bars(&keys).await.expect("rows are read");
    assert!(rows.iter().flatten().all(|row| row.packed.is_empty()) && rows.len() == 700);
    let (begun, done) = marks(&*store).await;
    assert!(begun.is_some() && begun == done);
    // A lower watermark moves no mark back.
    expire(&*store, &expiry("1s=1h", 0)).await;
    assert_eq!(marks(&*store).await, (begun, done));
}
