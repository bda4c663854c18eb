//! The columns of a bar, with exact decimals.
//!
//! `final` is computed when the bar is read: a window is final once the watermark of the committed
//! records is past its end plus the allowed lateness. A stored label would become wrong, because
//! nothing writes a bar again when its window closes.

use tapeflow_dataflow::watermark::ALLOWED_LATENESS_MS;
use tapeflow_protocol::Checkpoint;
use tapeflow_schemas::{
    AssetClass, Policy, Price, StoredBar, Symbol, WindowSize,
    decimal::{SCALE, format_fixed},
    window::format_utc,
};

/// The names of the columns, in every format.
pub const COLUMNS: [&str; 14] = [
    "symbol", "size", "start", "open", "high", "low", "close", "volume", "notional", "trades",
    "vwap", "epoch", "final", "revision",
];

/// The values of a bar in the order of [`COLUMNS`]; empty where there is none.
#[must_use]
pub fn values(
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

#[cfg(test)]
mod tests {
    use tapeflow_protocol::{SourceIdentity, decide};
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
        );
        csv_line(&mut out, &values).expect("written");
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
}
