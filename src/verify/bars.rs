//! Where a bar differs from its recomputation.

use tapeflow_oracle::OracleBar;
use tapeflow_schemas::{
    Policy, Price, Totals,
    decimal::{SCALE, format_fixed},
};

/// Trades of a bar, whatever their conditions.
pub(super) fn trades(totals: &Totals) -> u64 {
    totals.of_policy(Policy::All).trades
}

/// Which values differ, for a person.
pub(super) fn differences(have: &Totals, want: &OracleBar) -> Vec<String> {
    let mut found = Vec::new();
    for (policy, want) in [
        (Policy::All, want.all),
        (Policy::Sip, want.sip),
        (Policy::Strict, want.strict),
    ] {
        let have = have.of_policy(policy);
        for (what, have, want) in [
            ("volume_e8", have.volume_e8, want.volume_e8),
            ("notional_e16", have.notional_e16, want.notional_e16),
            ("trades", i128::from(have.trades), i128::from(want.trades)),
        ] {
            if have != want {
                found.push(format!(
                    "{what} ({}) is {have}, recomputed {want}",
                    policy.name()
                ));
            }
        }
    }
    let prices = [
        ("open", have.open(), want.open),
        ("high", have.high, want.high),
        ("low", have.low, want.low),
        ("close", have.close(), want.close),
    ];
    for (what, have, want) in prices {
        let have = have.map(Price::e8);
        if have != want {
            found.push(format!("{what} in 1e-8 is {have:?}, recomputed {want:?}"));
        }
    }
    if have.priced != want.priced {
        found.push(format!(
            "priced is {}, recomputed {}",
            have.priced, want.priced
        ));
    }
    found
}

/// A bar in short, for a person.
pub(super) fn describe(totals: &Totals) -> String {
    let sums = totals.of_policy(Policy::All);
    let price =
        |price: Option<Price>| price.map_or_else(|| "none".to_owned(), |price| price.to_string());
    format!(
        "{} trades, volume {}, notional {}, open {}, high {}, low {}, close {}",
        sums.trades,
        format_fixed(sums.volume_e8, SCALE),
        format_fixed(sums.notional_e16, 2 * SCALE),
        price(totals.open()),
        price(totals.high),
        price(totals.low),
        price(totals.close())
    )
}
