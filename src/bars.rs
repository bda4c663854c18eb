//! `tapeflow bars`: bars, with exact decimals.
//!
//! `final` is computed when a bar is read: a window is final once the watermark of the committed
//! records has passed its end by the allowed lateness. A stored label would become wrong, because
//! no record touches a bar when its window closes.

use std::io::{BufWriter, Write};

use jiff::{Timestamp, tz::TimeZone};
use tapeflow_dataflow::{operators::combine::ALLOWED_LATENESS_MS, sizes_of};
use tapeflow_protocol::{Checkpoint, Store};
use tapeflow_schemas::{
    AssetClass, Policy, Price, StoredBar, Symbol, WindowSize,
    decimal::{SCALE, format_fixed},
    window::format_utc,
};

use crate::{
    args::{
        read::{BarsSettings, Format},
        values::SizeChoice,
    },
    columns,
    exit::{Exit, other_rules, output_failed},
    stores,
};

/// The columns, in every format.
pub(crate) const COLUMNS: [&str; 14] = [
    "symbol", "size", "start", "open", "high", "low", "close", "volume", "notional", "trades",
    "vwap", "epoch", "final", "revision",
];
/// Widths of the table's columns. They are fixed, because lines are printed as they are read.
const WIDTHS: [usize; 14] = [16, 4, 25, 12, 12, 12, 12, 16, 20, 8, 16, 7, 5, 8];
/// No window starts before this: event times begin in 1970, and its first day in New York some
/// hours before.
const EARLIEST_START_MS: i64 = -86_400_000;

pub(crate) fn run(settings: BarsSettings) -> Result<(), Exit> {
    let runtime = crate::small_runtime()?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let printed = runtime.block_on(async {
        let store = stores::reader(&settings.store).await?;
        let checkpoint = stores::checkpoint(&*store).await?;
        let sizes = chosen_sizes(&settings.sizes, &checkpoint)?;
        let symbols = if settings.symbols.is_empty() {
            stores::answered(store.symbols().await)?
                .into_iter()
                .map(|(symbol, _)| symbol)
                .collect()
        } else {
            let mut symbols = settings.symbols.clone();
            symbols.sort();
            symbols.dedup();
            symbols
        };
        heading(&mut out, settings.format).map_err(|error| output_failed(&error))?;
        let mut printed = 0_usize;
        for symbol in symbols {
            for size in &sizes {
                let bars = chosen_bars(&*store, &symbol, *size, &settings, &checkpoint).await?;
                printed += bars.len();
                for bar in bars {
                    let mut values = values(&symbol, *size, &bar, settings.policy, &checkpoint);
                    values[2] = format_start(bar.start, &settings.zone);
                    line(&mut out, &values, settings.format)
                        .map_err(|error| output_failed(&error))?;
                }
            }
        }
        Ok::<_, Exit>(printed)
    })?;
    if printed == 0 && settings.format == Format::Table {
        writeln!(
            out,
            "no bars match; tapeflow bars without --symbol, --from and --to prints all of a size"
        )
        .map_err(|error| output_failed(&error))?;
    }
    out.flush().map_err(|error| output_failed(&error))
}

fn chosen_sizes(choice: &SizeChoice, checkpoint: &Checkpoint) -> Result<Vec<WindowSize>, Exit> {
    let kept = sizes_of(&checkpoint.fingerprint).ok_or_else(|| other_rules(checkpoint))?;
    match choice {
        SizeChoice::All => Ok(kept),
        SizeChoice::These(wanted) => match wanted.iter().find(|size| !kept.contains(size)) {
            None => Ok(wanted.clone()),
            Some(missing) => Err(Exit::Input(format!(
                "--size: the store has no bars of {missing}; it has {}",
                columns::sizes(&kept)
            ))),
        },
    }
}

/// The bars in the range, or with `--last` the last of them.
async fn chosen_bars(
    store: &dyn Store,
    symbol: &Symbol,
    size: WindowSize,
    settings: &BarsSettings,
    checkpoint: &Checkpoint,
) -> Result<Vec<StoredBar>, Exit> {
    let BarsSettings { range, last, .. } = settings;
    let (Some(last), Some(newest)) = (*last, checkpoint.watermark_ms()) else {
        return stores::answered(store.bars(symbol, size, range.clone()).await);
    };
    // Read backwards in ranges that grow, so that a few bars do not cost the whole history. The
    // first range has no upper end: the job may have written newer bars since the checkpoint.
    let mut bars = Vec::new();
    let (mut until, mut width_ms) = (range.end, size.ms().saturating_mul(2));
    let mut from = newest.min(range.end);
    loop {
        from = from
            .saturating_sub(width_ms)
            .max(range.start)
            .max(EARLIEST_START_MS);
        let mut older = stores::answered(store.bars(symbol, size, from..until).await)?;
        older.append(&mut bars);
        bars = older;
        if bars.len() >= last || from <= range.start.max(EARLIEST_START_MS) {
            return Ok(bars.split_off(bars.len().saturating_sub(last)));
        }
        (until, width_ms) = (from, width_ms.saturating_mul(8));
    }
}

/// One bar's values, in the order of [`COLUMNS`]; empty where there is none.
pub(crate) fn values(
    symbol: &Symbol,
    size: WindowSize,
    bar: &StoredBar,
    policy: Policy,
    checkpoint: &Checkpoint,
) -> [String; 14] {
    let totals = &bar.state.totals;
    let sums = totals.of_policy(policy);
    let price = |price: Option<Price>| price.map(|price| price.to_string()).unwrap_or_default();
    [
        symbol.to_string(),
        size.to_string(),
        format_utc(bar.start),
        price(totals.open()),
        price(totals.high),
        price(totals.low),
        price(totals.close()),
        format_fixed(sums.volume_e8, SCALE),
        format_fixed(sums.notional_e16, 2 * SCALE),
        sums.trades.to_string(),
        sums.vwap_e8()
            .map(|vwap| format_fixed(vwap, SCALE))
            .unwrap_or_default(),
        bar.state.epoch.to_string(),
        is_final(size, bar.start, symbol.class(), checkpoint).to_string(),
        totals.revision.to_string(),
    ]
}

/// RFC 3339, in UTC with a `Z` and elsewhere with the offset.
fn format_start(start: i64, zone: &TimeZone) -> String {
    match Timestamp::from_millisecond(start) {
        Ok(time) if *zone != TimeZone::UTC => {
            time.display_with_offset(zone.to_offset(time)).to_string()
        }
        _ => format_utc(start),
    }
}

fn is_final(size: WindowSize, start: i64, class: AssetClass, checkpoint: &Checkpoint) -> bool {
    checkpoint
        .committed
        .watermark_ms()
        .is_some_and(|max| size.end_of(start, class) + ALLOWED_LATENESS_MS <= max)
}

fn heading(out: &mut impl Write, format: Format) -> std::io::Result<()> {
    match format {
        Format::Csv => writeln!(out, "{}", COLUMNS.join(",")),
        Format::Table => table_line(out, &COLUMNS),
        Format::Json => Ok(()),
    }
}

fn line(out: &mut impl Write, values: &[String; 14], format: Format) -> std::io::Result<()> {
    match format {
        Format::Csv => columns::csv_line(out, values),
        Format::Table => table_line(out, values),
        Format::Json => columns::json_line(out, &COLUMNS, values),
    }
}

fn table_line(out: &mut impl Write, values: &[impl AsRef<str>; 14]) -> std::io::Result<()> {
    let mut text = String::new();
    for (at, (value, width)) in values.iter().zip(WIDTHS).enumerate() {
        let value = value.as_ref();
        // Names to the left, numbers to the right.
        text.push_str(&if at < 3 {
            format!("{value:<width$} ")
        } else {
            format!("{value:>width$} ")
        });
    }
    writeln!(out, "{}", text.trim_end())
}

#[cfg(test)]
mod tests {
    use tapeflow_protocol::{SourceIdentity, decide};
    use tapeflow_schemas::{BarState, Totals};
    use tapeflow_schemas::{Conditions, EventTime, Position, Size, Trade};

    use super::*;

    fn checkpoint(watermark_ms: i64) -> Checkpoint {
        let source = SourceIdentity {
            cluster: "c".into(),
            topic: "t".into(),
            topic_id: None,
        };
        let opening = decide::Opening {
            job: "j".into(),
            fingerprint: "l".into(),
            source,
            earliest: vec![0],
            owner: "o".into(),
        };
        let mut checkpoint = decide::take_over(None, &opening, 1).expect("a fresh store");
        checkpoint.committed.cuts[0].watermark_ms = Some(watermark_ms);
        checkpoint
    }

    fn bar(condition: Option<u8>) -> StoredBar {
        let conditions = condition.map_or(Conditions::NONE, |code| Conditions::NONE.with(code));
        let (price, size) = (
            Price::parse("164.0601").expect("price").value,
            Size::parse("5").expect("size").value,
        );
        let trade = Trade::new(
            EventTime::from_ms(60_500).expect("time"),
            price,
            size,
            conditions,
        )
        .expect("trade");
        let totals = Totals::of(
            &trade,
            Position {
                partition: 0,
                offset: 0,
                index: 0,
            },
            false,
        );
        StoredBar {
            start: 60_000,
            state: BarState { epoch: 7, totals },
        }
    }

    fn csv(bar: &StoredBar, watermark_ms: i64) -> String {
        let mut out = Vec::new();
        let symbol = Symbol::new("AAPL").expect("symbol");
        let values = values(
            &symbol,
            "1m".parse().expect("size"),
            bar,
            Policy::Sip,
            &checkpoint(watermark_ms),
        );
        line(&mut out, &values, Format::Csv).expect("written");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_bar_is_printed_exactly() {
        assert_eq!(
            csv(&bar(None), 124_999),
            "AAPL,1m,1970-01-01T00:01:00Z,164.0601,164.0601,164.0601,164.0601,5,820.3005,1,\
             164.0601,7,false,0\n"
        );
    }

    #[test]
    fn a_window_without_price_or_volume_has_empty_fields_and_no_zero_price() {
        assert_eq!(
            csv(&bar(Some(12)), 125_000),
            "AAPL,1m,1970-01-01T00:01:00Z,,,,,5,820.3005,1,164.0601,7,true,0\n",
            "an odd lot"
        );
        assert_eq!(
            csv(&bar(Some(16)), 125_000),
            "AAPL,1m,1970-01-01T00:01:00Z,,,,,0,0,0,,7,true,0\n",
            "an official close"
        );
    }

    #[test]
    fn a_start_is_printed_in_the_zone_that_was_asked_for() {
        let new_york = TimeZone::get("America/New_York").expect("built in");
        assert_eq!(
            format_start(1_680_286_537_000, &new_york),
            "2023-03-31T14:15:37-04:00"
        );
        assert_eq!(
            format_start(1_680_286_537_000, &TimeZone::UTC),
            "2023-03-31T18:15:37Z"
        );
    }
}
