//! `tapeflow bars`: prints bars with exact decimals.

use std::io::{BufWriter, Write};

use jiff::{Timestamp, tz::TimeZone};
use tapeflow_console::format::{
    bar::{COLUMNS, values},
    text::{csv_line, json_line, sizes},
};
use tapeflow_dataflow::sizes_of;
use tapeflow_protocol::{BarReader, Checkpoint};
use tapeflow_schemas::{StoredBar, Symbol, WindowSize, window::format_utc};

use crate::{
    args::{
        read::{BarsSettings, Format},
        values::SizeChoice,
    },
    exit::{Exit, other_rules, output_failed},
    stores,
};

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
                sizes(&kept)
            ))),
        },
    }
}

/// The bars in the range, or with `--last` the last of them.
async fn chosen_bars(
    store: &dyn BarReader,
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

/// RFC 3339, in UTC with a `Z` and elsewhere with the offset.
fn format_start(start: i64, zone: &TimeZone) -> String {
    match Timestamp::from_millisecond(start) {
        Ok(time) if *zone != TimeZone::UTC => {
            time.display_with_offset(zone.to_offset(time)).to_string()
        }
        _ => format_utc(start),
    }
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
        Format::Csv => csv_line(out, values),
        Format::Table => table_line(out, values),
        Format::Json => json_line(out, &COLUMNS, values),
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
    use super::*;

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
