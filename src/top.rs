//! `tapeflow top`: lists of views, with exact decimals.
//!
//! Asked for nothing in particular, it shows the newest list. Of days there may be two: one for the
//! date in New York and one for the date of UTC that hold the newest trade.

use std::{
    collections::BTreeSet,
    io::{BufWriter, Write},
};

use tapeflow_dataflow::{baskets_of, sizes_of};
use tapeflow_protocol::{BarReader, Checkpoint};
use tapeflow_schemas::{
    AssetClass, EventTime, Price, StoredView, View, ViewEntry, WindowSize,
    decimal::{SCALE, format_fixed},
    view::SMALLEST_VIEW_MS,
    window::format_utc,
};

use crate::{
    args::read::{Format, TopSettings},
    columns,
    end::{End, other_rules, output_failed},
    stores,
};

/// The columns, in every format but the table.
const COLUMNS: [&str; 14] = [
    "view", "size", "start", "rank", "name", "symbols", "trades", "volume", "notional", "vwap",
    "open", "close", "change", "epoch",
];
/// Those of a table of symbols; what is the same in all lines stands above it.
const OF_SYMBOLS: [&str; 9] = [
    "rank", "name", "notional", "volume", "trades", "vwap", "open", "close", "change",
];
/// Those of a table of sums, which have no prices of their own.
const OF_SUMS: [&str; 7] = [
    "rank", "name", "symbols", "notional", "volume", "trades", "vwap",
];
/// No window starts before this: event times begin in 1970, and its first day in New York some
/// hours before.
const EARLIEST_START_MS: i64 = -86_400_000;

pub(crate) fn run(settings: TopSettings) -> Result<(), End> {
    let TopSettings {
        store,
        view,
        size,
        range,
        format,
    } = settings;
    let (lists, checkpoint) = crate::small_runtime()?.block_on(async {
        let store = stores::reader(&store).await?;
        let checkpoint = stores::checkpoint(&*store).await?;
        check_size(size, &checkpoint)?;
        let lists = match range {
            Some(range) => stores::answered(store.views(view, size, range).await)?,
            None => newest(&*store, view, size, &checkpoint).await?,
        };
        Ok::<_, End>((lists, checkpoint))
    })?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let printed = match format {
        Format::Table if lists.is_empty() => {
            writeln!(
                out,
                "no list of {view} {size}{}",
                why_none(view, &checkpoint)
            )
        }
        Format::Table => tables(&mut out, view, size, &lists),
        Format::Csv => csv(&mut out, view, size, &lists),
        Format::Json => lines(view, size, &lists)
            .try_for_each(|values| columns::json_line(&mut out, &COLUMNS, &values)),
    };
    printed
        .and_then(|()| out.flush())
        .map_err(|error| output_failed(&error))
}

fn check_size(size: WindowSize, checkpoint: &Checkpoint) -> Result<(), End> {
    let kept = sizes_of(&checkpoint.fingerprint).ok_or_else(|| other_rules(checkpoint))?;
    let listed: Vec<WindowSize> = kept
        .into_iter()
        .filter(|size| size.ms() >= SMALLEST_VIEW_MS)
        .collect();
    if listed.contains(&size) {
        return Ok(());
    }
    let has = if listed.is_empty() {
        "none of any size".to_owned()
    } else {
        columns::sizes(&listed)
    };
    let why = if size.ms() < SMALLEST_VIEW_MS {
        ", as of no size below one minute"
    } else {
        ""
    };
    Err(End::Input(format!(
        "--size: the store has no lists of {size}{why}; it has {has}"
    )))
}

fn why_none(view: View, checkpoint: &Checkpoint) -> &'static str {
    if view == View::Baskets && baskets_of(&checkpoint.fingerprint) == Some("none") {
        ": the store was begun without --baskets"
    } else {
        ""
    }
}

/// The lists of the windows that hold the newest trade; where there is none, because no member of a
/// basket has traded in it, the newest there is.
async fn newest(
    store: &dyn BarReader,
    view: View,
    size: WindowSize,
    checkpoint: &Checkpoint,
) -> Result<Vec<StoredView>, End> {
    let Some(newest) = checkpoint.watermark_ms().and_then(EventTime::from_ms) else {
        return Ok(Vec::new());
    };
    // One start, but for days.
    let starts: BTreeSet<i64> = [AssetClass::Stock, AssetClass::Crypto, AssetClass::Forex]
        .map(|class| size.start_of(newest, class))
        .into();
    let first = starts.first().copied().unwrap_or(newest.ms());
    // A job that goes on may have later ones by now.
    let mut lists = stores::answered(store.views(view, size, first..i64::MAX).await)?;
    if size.is_day() {
        lists.retain(|list| starts.contains(&list.start));
    } else {
        lists.drain(..lists.len().saturating_sub(1));
    }
    let (mut until, mut width_ms) = (first, size.ms());
    while lists.is_empty() && until > EARLIEST_START_MS {
        let from = until.saturating_sub(width_ms);
        lists.extend(stores::answered(store.views(view, size, from..until).await)?.pop());
        (until, width_ms) = (from, width_ms.saturating_mul(8));
    }
    Ok(lists)
}

/// One line's values, in the order of [`COLUMNS`]; empty where there is none.
fn values(
    view: View,
    size: WindowSize,
    list: &StoredView,
    rank: usize,
    entry: &ViewEntry,
) -> [String; 14] {
    let price = |price: Option<Price>| price.map(|price| price.to_string()).unwrap_or_default();
    [
        view.to_string(),
        size.to_string(),
        format_utc(list.start),
        rank.to_string(),
        entry.name.clone(),
        entry.symbols.to_string(),
        entry.trades.to_string(),
        format_fixed(entry.volume, view.volume_scale()),
        format_fixed(entry.notional, view.notional_scale()),
        entry
            .vwap_e8()
            .map(|vwap| format_fixed(vwap, SCALE))
            .unwrap_or_default(),
        price(entry.open),
        price(entry.close),
        entry
            .change_pct_e8()
            .map(|change| format_fixed(change, SCALE))
            .unwrap_or_default(),
        list.state.epoch.to_string(),
    ]
}

fn lines<'a>(
    view: View,
    size: WindowSize,
    lists: &'a [StoredView],
) -> impl Iterator<Item = [String; 14]> + 'a {
    let ranked = lists.iter().flat_map(|list| {
        (1..)
            .zip(&list.state.entries)
            .map(move |(rank, entry)| (list, rank, entry))
    });
    ranked.map(move |(list, rank, entry)| values(view, size, list, rank, entry))
}

fn csv(
    out: &mut impl Write,
    view: View,
    size: WindowSize,
    lists: &[StoredView],
) -> std::io::Result<()> {
    columns::csv_line(out, &COLUMNS)?;
    lines(view, size, lists).try_for_each(|values| columns::csv_line(out, &values))
}

/// Each list under a line that says of which window and epoch it is.
fn tables(
    out: &mut impl Write,
    view: View,
    size: WindowSize,
    lists: &[StoredView],
) -> std::io::Result<()> {
    let shown: &[&str] = match view {
        View::Active | View::Movers => &OF_SYMBOLS,
        View::Baskets | View::Market => &OF_SUMS,
    };
    for (at, list) in lists.iter().enumerate() {
        if at > 0 {
            writeln!(out)?;
        }
        writeln!(
            out,
            "{view} {size} {}, epoch {}",
            format_utc(list.start),
            list.state.epoch
        )?;
        if list.state.entries.is_empty() {
            writeln!(out, "no symbol moved")?;
            continue;
        }
        let mut table = vec![shown.iter().map(ToString::to_string).collect::<Vec<_>>()];
        table.extend(lines(view, size, std::slice::from_ref(list)).map(|values| {
            let value = |column: &&str| {
                COLUMNS
                    .iter()
                    .zip(&values)
                    .find(|(name, _)| *name == column)
                    .map(|(_, value)| value.clone())
            };
            let change = |text: String, column: &str| {
                if column == "change" && !text.is_empty() {
                    text + "%"
                } else {
                    text
                }
            };
            shown
                .iter()
                .map(|column| change(value(column).unwrap_or_default(), column))
                .collect()
        }));
        table_lines(out, &table)?;
    }
    Ok(())
}

/// As wide as they must be: names to the left, numbers to the right.
fn table_lines(out: &mut impl Write, table: &[Vec<String>]) -> std::io::Result<()> {
    let columns = table.first().map_or(0, Vec::len);
    let width = |at: usize| {
        table
            .iter()
            .map(|line| line[at].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let name = table
        .first()
        .and_then(|heading| heading.iter().position(|column| column == "name"));
    for line in table {
        let cell = |(at, (text, width)): (usize, (&String, &usize))| {
            if Some(at) == name {
                format!("{text:<width$}")
            } else {
                format!("{text:>width$}")
            }
        };
        let cells: Vec<String> = line.iter().zip(&widths).enumerate().map(cell).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tapeflow_schemas::ViewState;

    use super::*;

    fn list(entries: Vec<ViewEntry>) -> [StoredView; 1] {
        [StoredView {
            start: 60_000,
            state: ViewState { epoch: 7, entries },
        }]
    }

    fn entry(name: &str, open: Option<&str>, close: Option<&str>) -> ViewEntry {
        let price = |text: &str| Price::parse(text).expect("a price").value;
        let (open, close) = (open.map(price), close.map(price));
        ViewEntry {
            name: name.into(),
            symbols: 1,
            trades: 2,
            volume: 150_000_000,
            notional: 310_0000_0000_0000_0000,
            open,
            close,
        }
    }

    fn size() -> WindowSize {
        "1m".parse().expect("a size")
    }

    fn written(write: impl FnOnce(&mut Vec<u8>) -> std::io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).expect("written");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_list_is_printed_exactly_and_without_prices_that_are_not_there() {
        let lists = list(vec![
            entry("UP", Some("200"), Some("220")),
            entry("A,B", None, None),
        ]);
        let csv = written(|out| csv(out, View::Active, size(), &lists));
        let start = "active,1m,1970-01-01T00:01:00Z";
        assert_eq!(
            csv.lines().skip(1).collect::<Vec<_>>(),
            [
                format!("{start},1,UP,1,2,1.5,310,206.66666667,200,220,10,7"),
                format!("{start},2,\"A,B\",1,2,1.5,310,206.66666667,,,,7")
            ]
        );
        // A basket's sums have the places of its weights on top.
        let weighed = written(|out| {
            super::csv(
                out,
                View::Baskets,
                size(),
                &list(vec![entry("b", None, None)]),
            )
        });
        assert!(
            weighed.ends_with(",1,b,1,2,0.00015,0.031,206.66666667,,,,7\n"),
            "{weighed}"
        );
    }

    #[test]
    fn a_change_is_exact_to_eight_places_and_has_a_sign() {
        let change = |open: &str, close: &str| {
            let csv = written(|out| {
                let lists = list(vec![entry("A", Some(open), Some(close))]);
                super::csv(out, View::Movers, size(), &lists)
            });
            let fields: Vec<_> = csv.trim_end().rsplit(',').collect();
            fields[1].to_owned()
        };
        assert_eq!(
            [
                change("2", "1"),
                change("3", "2"),
                change("100", "99.93"),
                change("5", "5"),
                change("1", "101.0001")
            ],
            ["-50", "-33.33333333", "-0.07", "0", "10000.01"]
        );
    }

    #[test]
    fn a_table_says_of_what_it_is_and_aligns_numbers_to_the_right() {
        let lists = list(vec![
            entry("UP", Some("200"), Some("220")),
            entry("LONGER", Some("10"), Some("9.5")),
        ]);
        let table = written(|out| tables(out, View::Movers, size(), &lists));
        assert_eq!(
            table.lines().collect::<Vec<_>>(),
            [
                "movers 1m 1970-01-01T00:01:00Z, epoch 7",
                "rank  name    notional  volume  trades          vwap  open  close  change",
                "   1  UP           310     1.5       2  206.66666667   200    220     10%",
                "   2  LONGER       310     1.5       2  206.66666667    10    9.5     -5%",
            ]
        );
        assert_eq!(
            written(|out| tables(out, View::Movers, size(), &list(Vec::new())))
                .lines()
                .last(),
            Some("no symbol moved")
        );
        let sums = written(|out| {
            tables(
                out,
                View::Market,
                size(),
                &list(vec![entry("stock", None, None)]),
            )
        });
        assert!(!sums.contains("open") && sums.contains("symbols"), "{sums}");
    }
}
