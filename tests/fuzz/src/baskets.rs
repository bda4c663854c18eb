//! The file of baskets, and the form in which a fingerprint keeps it.

use tapeflow_schemas::{
    Baskets,
    basket::{MAX_BASKETS, MAX_WEIGHT_E4, WEIGHT_SCALE},
    decimal::format_fixed,
};

/// A file, or the end of a fingerprint.
pub(crate) fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match Baskets::parse(text) {
        Ok(baskets) => check_baskets(&baskets),
        Err(errors) => {
            assert!(!errors.0.is_empty());
            assert!(errors.0.len() <= 21, "the list of errors is bounded");
        }
    }
    if let Some(kept) = Baskets::of_fingerprint(text) {
        check_baskets(&kept);
    }
}

fn check_baskets(baskets: &Baskets) {
    let mut lines = String::new();
    for (name, members) in baskets.iter() {
        assert!(!members.is_empty(), "a basket has members");
        for (symbol, weight) in members {
            assert!((1..=MAX_WEIGHT_E4).contains(&weight.e4()));
            let weight = format_fixed(weight.e4(), WEIGHT_SCALE);
            lines += &format!("{name},{symbol},{weight}\n");
        }
    }
    assert!(baskets.iter().count() <= MAX_BASKETS);
    let again = Baskets::parse(&format!("basket,symbol,weight\n{lines}"));
    assert_eq!(
        again.as_ref(),
        Ok(baskets),
        "the lines of baskets: {lines:?}"
    );
    let fingerprint = format!("rules 1; baskets {}", baskets.fingerprint());
    match Baskets::of_fingerprint(&fingerprint) {
        Some(kept) => assert_eq!(kept, *baskets, "what a fingerprint keeps"),
        None => assert_eq!(baskets.fingerprint(), baskets.digest()),
    }
}
