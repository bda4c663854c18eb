//! Where a bar differs from its recomputation.

use tapeflow_oracle::OracleBar;
use tapeflow_schemas::{
    Policy, Price, Totals,
    decimal::{SCALE, format_fixed},
    window::format_utc,
};

use super::count;

/// The number of trades in a bar, of any condition.
pub(super) fn trades(totals: &Totals) -> u64 {
    totals.of_policy(Policy::All).trades
}

/// A phrase for each value that differs; empty if none does.
pub(crate) fn differences(stored: &Totals, expected: &OracleBar) -> Vec<String> {
    let mut found = Vec::new();
    for (policy, expected) in [
        (Policy::All, expected.all),
        (Policy::Sip, expected.sip),
        (Policy::Strict, expected.strict),
    ] {
        let stored = stored.of_policy(policy);
        for (value, stored, expected) in [
            ("volume_e8", stored.volume_e8, expected.volume_e8),
            ("notional_e16", stored.notional_e16, expected.notional_e16),
            ("trades", stored.trades.into(), expected.trades.into()),
        ] {
            if stored != expected {
                found.push(format!(
                    "{value} ({}) is {stored}, recomputed {expected}",
                    policy.name()
                ));
            }
        }
    }
    let prices = [
        ("open", stored.open(), expected.open),
        ("high", stored.high, expected.high),
        ("low", stored.low, expected.low),
        ("close", stored.close(), expected.close),
    ];
    for (value, stored, expected) in prices {
        let text = |e8: Option<i64>| {
            e8.map_or_else(|| "none".to_owned(), |e8| format_fixed(e8.into(), SCALE))
        };
        let stored = stored.map(Price::e8);
        if stored != expected {
            found.push(format!(
                "{value} is {}, recomputed {}",
                text(stored),
                text(expected)
            ));
        }
    }
    for (value, stored, expected) in [
        (
            "first trade",
            stored.first_trade_ms,
            expected.first_trade_ms,
        ),
        ("last trade", stored.last_trade_ms, expected.last_trade_ms),
    ] {
        let text = |ms: Option<i64>| ms.map_or_else(|| "none".to_owned(), format_utc);
        if stored != expected {
            found.push(format!(
                "{value} is of {}, recomputed {}",
                text(stored),
                text(expected)
            ));
        }
    }
    if stored.priced != expected.priced {
        found.push(format!(
            "priced trades are {}, recomputed {}",
            stored.priced, expected.priced
        ));
    }
    found
}

/// The values of a bar under policy `all`, on one line.
pub(crate) fn describe(totals: &Totals) -> String {
    let sums = totals.of_policy(Policy::All);
    let price =
        |price: Option<Price>| price.map_or_else(|| "none".to_owned(), |price| price.to_string());
    format!(
        "{}, volume {}, notional {}, open {}, high {}, low {}, close {}",
        count(sums.trades, "trade"),
        format_fixed(sums.volume_e8, SCALE),
        format_fixed(sums.notional_e16, 2 * SCALE),
        price(totals.open()),
        price(totals.high),
        price(totals.low),
        price(totals.close())
    )
}
