//! `tapeflow bars`: prints bars with exact decimals.

mod columns;

use std::{
    io::{BufWriter, Write},
    ops::Range,
};

use jiff::{Timestamp, tz::TimeZone};
use tapeflow_console::{
    cumulative::{self, CumulativeError, cumulative},
    format::{
        bar::{covered, values},
        text::{counted, sizes},
    },
};
use tapeflow_dataflow::sizes_of;
use tapeflow_protocol::{BarReader, Checkpoint};
use tapeflow_schemas::{
    AssetClass, StoredBar, Stretch, Sums, Symbol, TradingSession, WindowSize, window::format_utc,
};

use self::columns::Columns;

use crate::{
    args::{
        read::{BarsSettings, Format},
        values::SizeChoice,
    },
    exit::{Exit, other_rules, output_failed},
    nearest::{EARLIEST_START_MS, Nearest, Place},
    stores, suggest,
};

pub(crate) fn run(settings: BarsSettings) -> Result<(), Exit> {
    let runtime = crate::small_runtime()?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let (printed, has_trades) = runtime.block_on(async {
        let store = stores::reader(&settings.store).await?;
        let checkpoint = stores::checkpoint(&*store).await?;
        let sizes = chosen_sizes(&settings.sizes, &checkpoint)?;
        let symbols = chosen_symbols(&*store, &settings.symbols).await?;
        known_years(&sizes, &symbols, &settings.range)?;
        let with_session = sizes.iter().any(|size| size.is_session());
        let columns = Columns::new(settings.format, with_session, settings.anchor.is_some());
        let mut printed = 0_usize;
        for symbol in &symbols {
            for size in &sizes {
                let bars = chosen_bars(&*store, symbol, *size, &settings, &checkpoint).await?;
                let sums = cumulative_sums(&*store, (symbol, *size), &bars, &settings, &checkpoint)
                    .await?;
                if printed == 0 && !bars.is_empty() {
                    columns
                        .heading(&mut out)
                        .map_err(|error| output_failed(&error))?;
                }
                printed += bars.len();
                let covered = covered(symbol, *size, &bars);
                let gaps = stores::answered(store.feed_gaps(covered).await)?;
                for (at, bar) in bars.iter().enumerate() {
                    let mut values =
                        values(symbol, *size, bar, settings.policy, &checkpoint, &gaps).to_vec();
                    values[2] = format_start(bar.start, &settings.zone);
                    if with_session {
                        let session = size.session_at(bar.start, symbol.class());
                        values.push(session.map(TradingSession::name).unwrap_or_default().into());
                    }
                    if let Some(sums) = &sums {
                        values.extend(cumulative::values(sums[at].as_ref()));
                    }
                    columns
                        .line(&mut out, &values)
                        .map_err(|error| output_failed(&error))?;
                }
            }
        }
        if printed == 0 {
            if settings.range != (i64::MIN..i64::MAX) {
                return Err(none_in_range(&*store, &symbols, &sizes, &settings, &checkpoint).await);
            }
            columns
                .heading(&mut out)
                .map_err(|error| output_failed(&error))?;
        }
        Ok::<_, Exit>((printed, checkpoint.watermark_ms().is_some()))
    })?;
    if printed == 0 && settings.format == Format::Table {
        let why = if has_trades {
            "no bars: the trades of these symbols made none of this size, or they are beyond their \
             horizon and have left"
        } else {
            "no bars yet: the job has counted no trade"
        };
        writeln!(out, "{why}").map_err(|error| output_failed(&error))?;
    }
    out.flush().map_err(|error| output_failed(&error))
}

/// The symbols to print, all of which the store has.
async fn chosen_symbols(store: &dyn BarReader, asked: &[Symbol]) -> Result<Vec<Symbol>, Exit> {
    let known: Vec<Symbol> = stores::answered(store.symbols().await)?
        .into_iter()
        .map(|(symbol, _)| symbol)
        .collect();
    if asked.is_empty() {
        return Ok(known);
    }
    let mut symbols = asked.to_vec();
    symbols.sort();
    symbols.dedup();
    match symbols.iter().find(|symbol| !known.contains(symbol)) {
        None => Ok(symbols),
        Some(unknown) => Err(Exit::Input(format!(
            "--symbol: the store has no bars of {unknown}{}",
            match suggest::nearest(unknown.as_str(), &known) {
                Some(meant) => format!("; did you mean {meant}?"),
                None => format!(
                    "; it has {}, which tapeflow bars lists without --symbol and with --last 1",
                    counted(known.len() as u64, "symbol", "symbols")
                ),
            }
        ))),
    }
}

/// Refuses session bars of stocks for a range of which the calendar knows nothing.
fn known_years(sizes: &[WindowSize], symbols: &[Symbol], range: &Range<i64>) -> Result<(), Exit> {
    let mut stocks = symbols.iter().map(Symbol::class);
    if !sizes.iter().any(|size| size.is_session()) || !stocks.any(|c| c == AssetClass::Stock) {
        return Ok(());
    }
    for (flag, bound) in [("--from", range.start), ("--to", range.end - 1)] {
        let given = bound != i64::MIN && bound != i64::MAX - 1;
        if given && let Err(error) = Stretch::at(bound, AssetClass::Stock).session() {
            return Err(Exit::Input(format!("{flag}: {error}")));
        }
    }
    Ok(())
}

/// Why a range has no bars. Of several symbols and sizes the first ones stand for all.
async fn none_in_range(
    store: &dyn BarReader,
    symbols: &[Symbol],
    sizes: &[WindowSize],
    settings: &BarsSettings,
    checkpoint: &Checkpoint,
) -> Exit {
    let (Some(symbol), Some(size)) = (symbols.first(), sizes.first()) else {
        return Exit::Input("--from, --to: the store has no bars yet".into());
    };
    let place = Place {
        range: settings.range.clone(),
        size_ms: size.ms(),
        newest_ms: checkpoint.watermark_ms().unwrap_or(EARLIEST_START_MS),
    };
    let found = Nearest::find(&place, async |range| {
        let bars = stores::answered(store.bars(symbol, *size, range).await)?;
        Ok(bars
            .first()
            .zip(bars.last())
            .map(|(first, last)| (first.start, last.start)))
    });
    match found.await {
        Ok(nearest) => Exit::Input(format!(
            "{}: no bar of {symbol} {size} starts in this range{}",
            place.flags(),
            nearest.hint()
        )),
        Err(error) => error,
    }
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

/// What each bar's symbol has traded since the anchor; `None` without one.
async fn cumulative_sums(
    store: &dyn BarReader,
    (symbol, size): (&Symbol, WindowSize),
    bars: &[StoredBar],
    settings: &BarsSettings,
    checkpoint: &Checkpoint,
) -> Result<Option<Vec<Option<Sums>>>, Exit> {
    let Some(anchor) = settings.anchor else {
        return Ok(None);
    };
    let kept = sizes_of(&checkpoint.fingerprint).ok_or_else(|| other_rules(checkpoint))?;
    let choice = (anchor, settings.policy);
    match cumulative(store, (symbol, size), bars, choice, &kept).await {
        Ok(sums) => Ok(Some(sums)),
        Err(CumulativeError::Store(error)) => Err(crate::exit::store_failed(&error)),
        Err(error) => Err(Exit::Input(format!("--anchor: {error}"))),
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
