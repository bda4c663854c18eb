//! The newest bars of a symbol, however long ago it last traded.
//!
//! A larger window with a bar shows where smaller ones are. So a gap of years costs a few reads,
//! and no read returns many times more bars than the caller wants.

use tapeflow_protocol::{BarReader, StoreError};
use tapeflow_schemas::{AssetClass, StoredBar, Symbol, WindowSize, WindowStart};

/// How many windows of the largest size the search covers: half a century of days, two weeks of
/// minutes.
const LARGEST_WINDOWS: i64 = 20_000;
/// The smallest ratio between one size of the search and the next, if there is such a size: each
/// size costs one more read.
const RATIO: i64 = 24;

/// The newest bars of `size`, at most `limit`, ascending. `sizes` are the sizes in the store. `end`
/// is the end of the newest window, or little before it.
///
/// # Errors
/// The error of the store.
pub(super) async fn newest(
    store: &dyn BarReader,
    symbol: &Symbol,
    sizes: &[WindowSize],
    size: WindowSize,
    limit: usize,
    end: i64,
) -> Result<Vec<StoredBar>, StoreError> {
    // First try: most symbols have traded in each of the newest windows.
    let span = count(limit).saturating_mul(size.ms());
    let bars = store
        .bars(symbol, size, end.saturating_sub(span)..WindowStart::MAX)
        .await?;
    if bars.len() >= limit {
        return Ok(last(bars, limit));
    }
    let steps = ladder(sizes, size);
    let Some(largest) = steps.last().copied() else {
        return Ok(bars);
    };
    // How many bars of each size are needed to find enough bars of the next smaller one.
    let mut needed = vec![limit];
    for pair in steps.windows(2) {
        let below = needed.last().copied().unwrap_or(limit);
        needed.push(if divides(pair[0], pair[1], symbol.class()) {
            below
        } else {
            2 * below + 1
        });
    }
    let span = LARGEST_WINDOWS.saturating_mul(largest.ms());
    let mut bars = store
        .bars(symbol, largest, end.saturating_sub(span)..WindowStart::MAX)
        .await?;
    let mut parent = largest;
    for (smaller, needed) in steps.into_iter().zip(needed).rev() {
        if smaller < largest {
            bars = within(store, symbol, (parent, &bars), smaller, needed).await?;
        }
        bars = last(bars, needed);
        parent = smaller;
    }
    Ok(bars)
}

/// Whether each window of the larger size consists of whole windows of the smaller one. If not, two
/// larger windows may share a smaller one.
fn divides(smaller: WindowSize, larger: WindowSize, class: AssetClass) -> bool {
    const HOUR: i64 = 3_600_000;
    // Days of New York begin at whole hours of UTC.
    let unit = if larger.is_day() && class == AssetClass::Stock {
        HOUR
    } else {
        larger.ms()
    };
    unit % smaller.ms() == 0
}

/// The sizes of the search: `size` itself, up to the largest.
fn ladder(sizes: &[WindowSize], size: WindowSize) -> Vec<WindowSize> {
    let mut larger: Vec<WindowSize> = sizes
        .iter()
        .copied()
        // A symbol may trade outside of all sessions.
        .filter(|other| *other > size && !other.is_session())
        .collect();
    larger.sort_unstable();
    let mut steps = vec![size];
    while let Some(largest) = larger.last().copied() {
        let from = steps.last().map_or(size.ms(), |step| step.ms());
        let next = larger
            .iter()
            .copied()
            .find(|other| other.ms() >= from.saturating_mul(RATIO))
            .unwrap_or(largest);
        steps.push(next);
        larger.retain(|other| *other > next);
    }
    steps
}

/// The newest bars of `size` within the windows of a larger size, ascending.
async fn within(
    store: &dyn BarReader,
    symbol: &Symbol,
    (parent, mut parents): (WindowSize, &[StoredBar]),
    size: WindowSize,
    limit: usize,
) -> Result<Vec<StoredBar>, StoreError> {
    let each = (parent.ms() / size.ms()).max(1);
    // Read so many larger windows at once that a full set of bars is about four times `limit`.
    let most = usize::try_from(4 * count(limit) / each)
        .unwrap_or(usize::MAX)
        .max(1);
    let (mut found, mut group) = (Vec::<StoredBar>::new(), 1);
    while found.len() < limit && !parents.is_empty() {
        let (rest, now) = parents.split_at(parents.len().saturating_sub(group));
        let (Some(first), Some(newest)) = (now.first(), now.last()) else {
            break;
        };
        // If the smaller size does not divide the larger one, a window that began before the larger
        // window may reach into it.
        let from = first.start.saturating_sub(size.ms() - 1);
        let to = found
            .first()
            .map_or(parent.end_of(newest.start, symbol.class()), |bar| bar.start);
        let mut bars = store.bars(symbol, size, from..to).await?;
        bars.append(&mut found);
        found = bars;
        (parents, group) = (rest, most.min(group.saturating_mul(4)));
    }
    Ok(found)
}

fn last(mut bars: Vec<StoredBar>, limit: usize) -> Vec<StoredBar> {
    bars.drain(..bars.len().saturating_sub(limit));
    bars
}

fn count(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use tapeflow_log::sqlite::{Access, Database};
    use tapeflow_protocol::{DirectoryEntry, EpochStore, EpochWrites};
    use tapeflow_schemas::{BarKey, BarState, BarWrite, EventTime, PackedBar, PackedBars, Totals};
    use tapeflow_sinks::sqlite::SqliteStore;

    use super::*;

    const DAY: i64 = 86_400_000;

    /// Fills a store with bars of all `sizes` for trades at these times. Returns the starts of the
    /// bars of `size` that the search finds, and those that it must find.
    async fn found(
        sizes: &[&str],
        size: &str,
        limit: usize,
        times: &[i64],
    ) -> (Vec<i64>, Vec<i64>) {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore::new(
            Database::open(&folder.path().join("t.db"), Access::Job).expect("a store"),
        );
        let sizes: Vec<WindowSize> = sizes
            .iter()
            .map(|size| size.parse().expect("a size"))
            .collect();
        let (symbol, size): (_, WindowSize) = (
            Symbol::new("AAPL").expect("a symbol"),
            size.parse().expect("a size"),
        );
        let keys: BTreeSet<BarKey> = sizes
            .iter()
            .flat_map(|size| times.iter().map(|ms| (*size, *ms)))
            .map(|(size, ms)| BarKey {
                symbol: symbol.clone(),
                size,
                start: size.start_of(EventTime::from_ms(ms).expect("a time"), symbol.class()),
            })
            .collect();
        let mut wanted: Vec<i64> = keys
            .iter()
            .filter(|key| key.size == size)
            .map(|key| key.start)
            .collect();
        let mut rows: BTreeMap<BarKey, Vec<PackedBar>> = BTreeMap::new();
        for key in &keys {
            let packed = rows.entry(key.row()).or_default();
            if key.size.is_packed() {
                packed.push(PackedBar {
                    size: key.size,
                    start: key.start,
                    totals: Totals::default(),
                });
            }
        }
        let row = |(key, mut packed): (BarKey, Vec<PackedBar>)| BarWrite {
            packed: PackedBars::of(key.start, &mut packed),
            key,
            state: BarState {
                epoch: 1,
                totals: Totals::default(),
            },
            write_timestamp: 1,
        };
        store
            .write(&EpochWrites {
                directory: rows.keys().map(DirectoryEntry::of).collect(),
                bars: rows.into_iter().map(row).collect(),
                ..EpochWrites::default()
            })
            .await
            .expect("written");
        wanted.drain(..wanted.len().saturating_sub(limit));
        let end = times.iter().max().map_or(0, |newest| newest + size.ms());
        let bars = newest(&store, &symbol, &sizes, size, limit, end)
            .await
            .expect("read");
        (bars.iter().map(|bar| bar.start).collect(), wanted)
    }

    #[tokio::test]
    async fn bars_are_found_after_any_gap() {
        let now = 20_000 * DAY + 15 * 3_600_000;
        let busy: Vec<i64> = (0..2_000).map(|n| now - n * 700).collect();
        let sparse: Vec<i64> = (0..40).map(|n| now - n * n * n * 3_600_000).collect();
        let years = [
            now,
            now - 3_000 * DAY,
            now - 3_001 * DAY - 1_000,
            now - 6_000 * DAY,
        ];
        for times in [&busy[..], &sparse, &years, &[now], &[]] {
            for (sizes, size) in [
                (&["1s", "1m", "5m", "1h", "1d"][..], "1s"),
                (&["1s", "1m", "5m", "1h", "1d"], "1m"),
                (&["1s", "1m", "5m", "1h", "1d"], "1d"),
                (&["1m", "48m", "1h", "8h", "1d"], "48m"),
                (&["1m", "48m", "1h", "8h", "1d"], "1m"),
            ] {
                for limit in [1, 7, 60, 1_000] {
                    let (found, wanted) = found(sizes, size, limit, times).await;
                    assert_eq!(found, wanted, "{limit} of {size} of {sizes:?}");
                }
            }
        }
    }

    #[test]
    fn the_search_skips_sizes_that_are_close() {
        let ladder = |size: &str| {
            ladder(&WindowSize::DEFAULTS, size.parse().expect("a size"))
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(ladder("1s"), ["1s", "1m", "1h", "1d"]);
        assert_eq!(ladder("1m"), ["1m", "1h", "1d"]);
        assert_eq!(ladder("1h"), ["1h", "1d"]);
        assert_eq!(ladder("1d"), ["1d"]);
    }
}
