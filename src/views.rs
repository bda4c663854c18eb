//! `tapeflow views`: views, with exact decimals.
//!
//! Without a range it prints the newest window. Of days there may be two: the date in New York and
//! the date in UTC that hold the newest trade.

use std::{
    collections::BTreeSet,
    io::{BufWriter, Write},
    ops::Range,
};

use tapeflow_console::format::text;
use tapeflow_dataflow::{baskets_of, sizes_of};
use tapeflow_protocol::{BarReader, Checkpoint};
use tapeflow_schemas::{
    AssetClass, EventTime, Price, StoredView, View, ViewEntry, WindowSize,
    decimal::{SCALE, divide_half_even, format_fixed},
    view::{SMALLEST_VIEW_MS, has_views},
    window::format_utc,
};

use crate::{
    args::read::{Format, ViewsSettings},
    exit::{Exit, other_rules, output_failed},
    nearest::{EARLIEST_START_MS, Nearest, Place},
    stores,
};

/// The columns, in every format but the table.
const COLUMNS: [&str; 15] = [
    "view",
    "size",
    "start",
    "quote",
    "rank",
    "name",
    "symbols",
    "trades",
    "volume",
    "notional",
    "vwap",
    "open",
    "close",
    "change_pct",
    "epoch",
];
/// The columns of a table of symbols; the line above it has what all lines share. `change` is
/// `change_pct` rounded to two places.
const OF_SYMBOLS: [&str; 10] = [
    "quote", "rank", "name", "notional", "volume", "trades", "vwap", "open", "close", "change",
];
/// The columns of a table of baskets, which have no prices.
const OF_BASKETS: [&str; 8] = [
    "quote", "rank", "name", "symbols", "notional", "volume", "trades", "vwap",
];
/// The columns of a table of the market, which has no volume either.
const OF_MARKET: [&str; 6] = ["quote", "rank", "name", "symbols", "notional", "trades"];

pub(crate) fn run(settings: ViewsSettings) -> Result<(), Exit> {
    let ViewsSettings {
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
            Some(range) => in_range(&*store, view, size, range, &checkpoint).await?,
            None => newest(&*store, view, size, &checkpoint).await?,
        };
        Ok::<_, Exit>((lists, checkpoint))
    })?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let printed = match format {
        Format::Table if lists.is_empty() => {
            writeln!(
                out,
                "no {view} view of {size} yet{}",
                why_none(view, &checkpoint)
            )
        }
        Format::Table => tables(&mut out, view, size, &lists),
        Format::Csv => csv(&mut out, view, size, &lists),
        Format::Json => lines(view, size, &lists)
            .try_for_each(|values| text::json_line(&mut out, &COLUMNS, &values)),
    };
    printed
        .and_then(|()| out.flush())
        .map_err(|error| output_failed(&error))
}

fn check_size(size: WindowSize, checkpoint: &Checkpoint) -> Result<(), Exit> {
    let kept = sizes_of(&checkpoint.fingerprint).ok_or_else(|| other_rules(checkpoint))?;
    let listed: Vec<WindowSize> = kept.into_iter().filter(|size| has_views(*size)).collect();
    if listed.contains(&size) {
        return Ok(());
    }
    let has = if listed.is_empty() {
        "none: run the job with --sizes of one minute or longer".to_owned()
    } else {
        text::sizes(&listed)
    };
    let why = if size.ms() < SMALLEST_VIEW_MS {
        ", as of no size below one minute"
    } else if size.is_session() {
        ", because stocks and crypto do not share their sessions"
    } else {
        ""
    };
    Err(Exit::Input(format!(
        "--size: the store has no views of {size}{why}; it has {has}"
    )))
}

/// Whether it is a view of a job without baskets, which has none of any window.
fn is_of_no_baskets(view: View, checkpoint: &Checkpoint) -> bool {
    view == View::Baskets && baskets_of(&checkpoint.fingerprint) == Some("none")
}

fn why_none(view: View, checkpoint: &Checkpoint) -> &'static str {
    if is_of_no_baskets(view, checkpoint) {
        ": the job runs without --baskets; start a new store with tapeflow run --baskets FILE"
    } else {
        ": choose another --view or --size"
    }
}

/// The views of a range that has some, or none for want of baskets.
async fn in_range(
    store: &dyn BarReader,
    view: View,
    size: WindowSize,
    range: Range<i64>,
    checkpoint: &Checkpoint,
) -> Result<Vec<StoredView>, Exit> {
    let lists = stores::answered(store.views(view, size, range.clone()).await)?;
    if !lists.is_empty() || is_of_no_baskets(view, checkpoint) {
        return Ok(lists);
    }
    let place = Place {
        range,
        size_ms: size.ms(),
        newest_ms: checkpoint.watermark_ms().unwrap_or(EARLIEST_START_MS),
    };
    let nearest = Nearest::find(&place, async |range| {
        let lists = stores::answered(store.views(view, size, range).await)?;
        let ends = lists.first().zip(lists.last());
        Ok(ends.map(|(first, last)| (first.start, last.start)))
    });
    Err(Exit::Input(format!(
        "{}: no {view} view of {size} starts in this range{}",
        place.flags(),
        nearest.await?.hint()
    )))
}

/// The views of the windows that hold the newest trade. If no member of a basket has traded in
/// them, the newest view there is.
async fn newest(
    store: &dyn BarReader,
    view: View,
    size: WindowSize,
    checkpoint: &Checkpoint,
) -> Result<Vec<StoredView>, Exit> {
    let Some(newest) = checkpoint.watermark_ms().and_then(EventTime::from_ms) else {
        return Ok(Vec::new());
    };
    // One start, but for days.
    let starts: BTreeSet<i64> = [AssetClass::Stock, AssetClass::Crypto, AssetClass::Forex]
        .map(|class| size.start_of(newest, class))
        .into();
    let first = starts.first().copied().unwrap_or(newest.ms());
    // A running job may have written later ones by now.
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
    rank: u32,
    entry: &ViewEntry,
) -> [String; 15] {
    let price = |price: Option<Price>| price.map(|price| price.to_string()).unwrap_or_default();
    let decimal = |units: Option<i128>, places| {
        units
            .map(|units| format_fixed(units, places))
            .unwrap_or_default()
    };
    [
        view.to_string(),
        size.to_string(),
        format_utc(list.start),
        entry.quote.to_string(),
        rank.to_string(),
        entry.name.clone(),
        entry.symbols.to_string(),
        entry.trades.to_string(),
        decimal(entry.volume, view.volume_scale()),
        decimal(entry.notional, view.notional_scale()),
        decimal(entry.vwap_e8(), SCALE),
        price(entry.open),
        price(entry.close),
        decimal(entry.change_pct_e8(), SCALE),
        list.state.epoch.to_string(),
    ]
}

fn lines<'a>(
    view: View,
    size: WindowSize,
    lists: &'a [StoredView],
) -> impl Iterator<Item = [String; 15]> + 'a {
    let ranked = lists.iter().flat_map(move |list| {
        view.ranked(&list.state.entries)
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
    text::csv_line(out, &COLUMNS)?;
    lines(view, size, lists).try_for_each(|values| text::csv_line(out, &values))
}

/// Each view under a line with its window and epoch.
fn tables(
    out: &mut impl Write,
    view: View,
    size: WindowSize,
    lists: &[StoredView],
) -> std::io::Result<()> {
    let heading: &[&str] = match view {
        View::Active | View::Movers => &OF_SYMBOLS,
        View::Baskets => &OF_BASKETS,
        View::Market => &OF_MARKET,
    };
    let empty = match view {
        View::Movers => "no symbol moved",
        View::Active | View::Baskets | View::Market => "no symbol has a known quote currency",
    };
    for (at, list) in lists.iter().enumerate() {
        if at > 0 {
            writeln!(out)?;
        }
        let start = format_utc(list.start);
        writeln!(out, "{view} {size} {start}, epoch {}", list.state.epoch)?;
        if list.state.entries.is_empty() {
            writeln!(out, "{empty}")?;
            continue;
        }
        let mut table = vec![heading.iter().map(ToString::to_string).collect::<Vec<_>>()];
        for (rank, entry) in view.ranked(&list.state.entries) {
            let values = values(view, size, list, rank, entry);
            let cell = |column: &&str| match COLUMNS.iter().position(|name| name == column) {
                Some(at) => values[at].clone(),
                None => entry.change_pct_e8().map(percent).unwrap_or_default(),
            };
            table.push(heading.iter().map(cell).collect());
        }
        text::table(out, &table, &["quote", "name"])?;
    }
    Ok(())
}

/// A change in percent, from eight decimal places to the two that a table shows.
fn percent(e8: i128) -> String {
    let hundredths = divide_half_even(e8, 1_000_000).unwrap_or_default();
    let sign = if hundredths < 0 { "-" } else { "" };
    let shown = hundredths.unsigned_abs();
    format!("{sign}{}.{:02}%", shown / 100, shown % 100)
}

#[cfg(test)]
mod tests {
    use tapeflow_schemas::{QuoteCurrency, ViewState};

    use super::*;

    fn list(entries: Vec<ViewEntry>) -> [StoredView; 1] {
        [StoredView {
            start: 60_000,
            state: ViewState::new(7, entries),
        }]
    }

    fn entry(name: &str, open: Option<&str>, close: Option<&str>) -> ViewEntry {
        let price = |text: &str| Price::parse(text).expect("a price").value;
        let (open, close) = (open.map(price), close.map(price));
        ViewEntry {
            quote: QuoteCurrency::USD,
            name: name.into(),
            symbols: 1,
            trades: 2,
            volume: Some(150_000_000),
            notional: Some(310_0000_0000_0000_0000),
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
                format!("{start},USD,1,UP,1,2,1.5,310,206.66666667,200,220,10,7"),
                format!("{start},USD,2,\"A,B\",1,2,1.5,310,206.66666667,,,,7")
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
            weighed.ends_with(",USD,1,b,1,2,0.00015,0.031,206.66666667,,,,7\n"),
            "{weighed}"
        );
    }

    #[test]
    fn a_change_is_exact_to_eight_places() {
        let change = |open, close| {
            let change = entry("X", Some(open), Some(close)).change_pct_e8();
            change.map(|change| format_fixed(change, SCALE))
        };
        assert_eq!(change("200", "220").as_deref(), Some("10"));
        assert_eq!(change("3", "2").as_deref(), Some("-33.33333333"));
        assert_eq!(change("164.06", "164.07").as_deref(), Some("0.00609533"));
        assert_eq!(entry("X", None, None).change_pct_e8(), None);
    }

    #[test]
    fn a_change_has_a_sign_and_two_places() {
        assert_eq!(
            [-5_000, -93, -5, 0, 7, 1_000_001].map(|hundredths| percent(hundredths * 1_000_000)),
            ["-50.00%", "-0.93%", "-0.05%", "0.00%", "0.07%", "10000.01%"]
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
                "quote  rank  name    notional  volume  trades          vwap  open  close  change",
                "USD       1  UP           310     1.5       2  206.66666667   200    220  10.00%",
                "USD       2  LONGER       310     1.5       2  206.66666667    10    9.5  -5.00%",
            ]
        );
        assert_eq!(
            written(|out| tables(out, View::Movers, size(), &list(Vec::new())))
                .lines()
                .last(),
            Some("no symbol moved")
        );
        let sums = |view| {
            let lists = list(vec![entry("b", None, None)]);
            written(|out| tables(out, view, size(), &lists))
        };
        let baskets = sums(View::Baskets);
        assert!(
            !baskets.contains("open") && baskets.contains("symbols"),
            "{baskets}"
        );
        let market = sums(View::Market);
        assert!(
            !market.contains("volume") && !market.contains("vwap"),
            "{market}"
        );
    }

    #[test]
    fn ranks_are_within_the_quote_currency_and_what_does_not_add_up_is_empty() {
        let market = |quote, notional| ViewEntry {
            quote,
            volume: None,
            notional,
            ..entry("crypto", None, None)
        };
        let lists = list(vec![
            market(QuoteCurrency::USD, Some(15 * 10i128.pow(15))),
            market(QuoteCurrency::UNKNOWN, None),
        ]);
        let printed = written(|out| csv(out, View::Market, size(), &lists));
        let start = "market,1m,1970-01-01T00:01:00Z";
        assert_eq!(
            printed.lines().skip(1).collect::<Vec<_>>(),
            [
                format!("{start},USD,1,crypto,1,2,,1.5,,,,,7"),
                format!("{start},unknown,1,crypto,1,2,,,,,,,7")
            ]
        );
        let none = written(|out| tables(out, View::Active, size(), &list(Vec::new())));
        assert!(
            none.ends_with("no symbol has a known quote currency\n"),
            "{none}"
        );
    }
}
