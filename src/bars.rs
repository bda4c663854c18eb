//! `tapeflow bars`: bars, with exact decimals.
//!
//! `final` is worked out here, at the time of reading: a window is final once its end and a allowed lateness
//! have passed, by the watermark of the committed records. A label stored with the bar
//! would grow stale, for nobody touches a bar again when its window closes.

use std::io::{BufWriter, Write};

use tapeflow_dataflow::{sizes_of, watermark::ALLOWED_LATENESS_MS};
use tapeflow_protocol::Checkpoint;
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
    end::{End, other_rules, output_failed},
    stores,
};

/// The columns, in every format.
pub(crate) const COLUMNS: [&str; 14] = [
    "symbol", "size", "start", "open", "high", "low", "close", "volume", "notional", "trades",
    "vwap", "epoch", "final", "revision",
];
/// Widths of the table's columns.
const WIDTHS: [usize; 14] = [16, 4, 24, 12, 12, 12, 12, 16, 20, 8, 16, 7, 5, 8];

pub(crate) fn run(settings: BarsSettings) -> Result<(), End> {
    let runtime = crate::small_runtime()?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    runtime.block_on(async {
        let store = stores::reader(&settings.store).await?;
        let checkpoint = stores::checkpoint(&*store).await?;
        let kept = sizes_of(&checkpoint.fingerprint).ok_or_else(|| other_rules(&checkpoint))?;
        let sizes = match &settings.sizes {
            SizeChoice::All => kept,
            SizeChoice::These(wanted) => {
                if let Some(missing) = wanted.iter().find(|size| !kept.contains(size)) {
                    return Err(End::Input(format!(
                        "--size: the store has no bars of {missing}; it has {}",
                        columns::sizes(&kept)
                    )));
                }
                wanted.clone()
            }
        };
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
        for symbol in symbols {
            for size in &sizes {
                for bar in
                    stores::answered(store.bars(&symbol, *size, settings.range.clone()).await)?
                {
                    let values = values(&symbol, *size, &bar, settings.policy, &checkpoint);
                    line(&mut out, &values, settings.format)
                        .map_err(|error| output_failed(&error))?;
                }
            }
        }
        Ok(())
    })?;
    out.flush().map_err(|error| output_failed(&error))
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
            "AAPL,1m,1970-01-01T00:01:00Z,164.0601,164.0601,164.0601,164.0601,5,820.3005,1,164.0601,7,false,0\n"
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
}
