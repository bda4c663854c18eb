//! The columns of a bar, with exact decimals.
//!
//! `final` is computed when the bar is read: a window is final once the watermark of the symbol's
//! partition, as of the committed records, is past its end plus the allowed lateness. From then on
//! a trade counts as late. Another partition may be ahead, for a while or because of a wrong clock.
//! A stored label would become wrong, because nothing writes a bar again when its window closes.
//!
//! `complete` is computed when the bar is read too: whether no feed gap overlaps its window. That a
//! feed was away is often known only after the bars of that time were written.

use std::ops::Range;

use tapeflow_dataflow::watermark::ALLOWED_LATENESS_MS;
use tapeflow_protocol::{Checkpoint, FeedGap, store::feed_gap::is_complete};
use tapeflow_schemas::{
    Policy, Price, StoredBar, Symbol, WindowSize,
    decimal::{SCALE, format_fixed},
    partition_for,
    window::format_utc,
};

/// The names of the columns, in every format.
pub const COLUMNS: [&str; 17] = [
    "symbol",
    "size",
    "start",
    "open",
    "high",
    "low",
    "close",
    "volume",
    "notional",
    "trades",
    "vwap",
    "first_trade",
    "last_trade",
    "epoch",
    "final",
    "revision",
    "complete",
];

/// The time that the windows of some bars of a size cover, for [`tapeflow_protocol::BarReader`]'s
/// feed gaps; empty if there are no bars. The bars ascend.
#[must_use]
pub fn covered(symbol: &Symbol, size: WindowSize, bars: &[StoredBar]) -> Range<i64> {
    match (bars.first(), bars.last()) {
        (Some(first), Some(last)) => first.start..size.end_of(last.start, symbol.class()),
        _ => 0..0,
    }
}

/// The values of a bar in the order of [`COLUMNS`]; empty where there is none. `gaps` are those of
/// [`covered`].
#[must_use]
pub fn values(
    symbol: &Symbol,
    size: WindowSize,
    bar: &StoredBar,
    policy: Policy,
    checkpoint: &Checkpoint,
    gaps: &[FeedGap],
) -> [String; 17] {
    let totals = &bar.state.totals;
    let sums = totals.of_policy(policy);
    let price = |price: Option<Price>| price.map(|price| price.to_string()).unwrap_or_default();
    let time = |ms: Option<i64>| ms.map(format_utc).unwrap_or_default();
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
        time(totals.first_trade_ms),
        time(totals.last_trade_ms),
        bar.state.epoch.to_string(),
        is_final(symbol, size, bar.start, checkpoint).to_string(),
        totals.revision.to_string(),
        is_complete(gaps, bar.start, size.end_of(bar.start, symbol.class())).to_string(),
    ]
}

fn is_final(symbol: &Symbol, size: WindowSize, start: i64, checkpoint: &Checkpoint) -> bool {
    let cuts = &checkpoint.committed.cuts;
    let partitions = u32::try_from(cuts.len()).unwrap_or(u32::MAX);
    let partition = partition_for(symbol.as_str(), partitions.max(1));
    usize::try_from(partition)
        .ok()
        .and_then(|at| cuts.get(at)?.watermark_ms)
        .is_some_and(|watermark_ms| {
            size.end_of(start, symbol.class()) + ALLOWED_LATENESS_MS <= watermark_ms
        })
}

#[cfg(test)]
mod tests {
    use tapeflow_protocol::{Cut, SourceIdentity, decide};
    use tapeflow_schemas::{BarState, Totals};
    use tapeflow_schemas::{Conditions, EventTime, Position, Size, Trade};

    use super::*;
    use crate::format::text::csv_line;

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
            &[],
        );
        csv_line(&mut out, &values).expect("written");
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_bar_is_printed_exactly() {
        assert_eq!(
            csv(&bar(None), 124_999),
            "AAPL,1m,1970-01-01T00:01:00Z,164.0601,164.0601,164.0601,164.0601,5,820.3005,1,\
             164.0601,1970-01-01T00:01:00.5Z,1970-01-01T00:01:00.5Z,\
             7,false,0,true\n"
        );
    }

    #[test]
    fn a_window_is_final_by_the_watermark_of_its_own_partition() {
        let symbol = Symbol::new("AAPL").expect("symbol");
        let minute = "1m".parse().expect("size");
        let own = partition_for("AAPL", 4) as usize;
        let mut checkpoint = checkpoint(0);
        checkpoint.committed.cuts = vec![Cut::default(); 4];
        let label = |checkpoint: &Checkpoint| is_final(&symbol, minute, 60_000, checkpoint);
        checkpoint.committed.cuts[(own + 1) % 4].watermark_ms = Some(7_226_582_400_000);
        assert!(!label(&checkpoint), "another partition is ahead");
        checkpoint.committed.cuts[own].watermark_ms = Some(124_999);
        assert!(!label(&checkpoint));
        checkpoint.committed.cuts[own].watermark_ms = Some(125_000);
        assert!(label(&checkpoint));
    }

    #[test]
    fn a_window_without_price_or_volume_has_empty_fields_and_no_zero_price() {
        assert_eq!(
            csv(&bar(Some(12)), 125_000),
            "AAPL,1m,1970-01-01T00:01:00Z,,,,,5,820.3005,1,164.0601,1970-01-01T00:01:00.5Z,\
             1970-01-01T00:01:00.5Z,7,true,0,true\n",
            "an odd lot"
        );
        assert_eq!(
            csv(&bar(Some(16)), 125_000),
            "AAPL,1m,1970-01-01T00:01:00Z,,,,,0,0,0,,1970-01-01T00:01:00.5Z,\
             1970-01-01T00:01:00.5Z,7,true,0,true\n",
            "an official close"
        );
    }
}
