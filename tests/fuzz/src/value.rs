//! Short texts of the command line, of files and of columns: each is read as it is written.

use tapeflow_ingest::{Speed, finnhub::Endpoint};
use tapeflow_schemas::{
    AssetClass, Conditions, EventTime, SessionId, Symbol, WindowSize,
    conditions::UNKNOWN_CODE,
    partition_for,
    window::{bucket, format_utc, parse_utc},
};

/// A text of any of them.
pub(crate) fn check(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(size) = text.parse::<WindowSize>() {
        assert_eq!(size.to_string().parse(), Ok(size));
        assert!(size.is_session() || WindowSize::from_ms(size.ms()) == Some(size));
    }
    if let Ok(session) = text.parse::<SessionId>() {
        assert_eq!(session.to_string(), text.to_ascii_lowercase());
    }
    if let Ok(speed) = text.parse::<Speed>() {
        assert_eq!(speed.to_string().parse(), Ok(speed));
    }
    if let Ok(endpoint) = text.parse::<Endpoint>() {
        assert_eq!(endpoint.to_string().parse(), Ok(endpoint));
    }
    check_symbol(text);
    check_code(text);
    check_time(text);
}

fn check_symbol(text: &str) {
    let symbol = Symbol::new(text);
    assert_eq!(
        symbol.as_ref().map(|_| ()),
        Symbol::check(text).as_ref().copied(),
        "both ways to check a symbol agree"
    );
    let Ok(symbol) = symbol else {
        return;
    };
    assert_eq!(
        (symbol.as_str(), symbol.class()),
        (text, AssetClass::of(text))
    );
    assert!(partition_for(text, 7) < 7);
    let json = serde_json::to_string(&symbol).expect("a text");
    let read: Symbol = serde_json::from_str(&json).expect("its own text");
    assert_eq!(read, symbol);
}

/// A sale condition is a number from 1 to 254 with digits alone, or unknown.
fn check_code(text: &str) {
    let code = Conditions::code_of(text);
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse::<u8>().ok();
    let want = number.filter(|code| digits && (1..=254).contains(code));
    assert_eq!(code, want.unwrap_or(UNKNOWN_CODE), "{text:?}");
    let set = Conditions::NONE.with(code);
    let again = set.codes().fold(Conditions::NONE, Conditions::with);
    assert_eq!(again, set);
    let _ = set.effect();
}

fn check_time(text: &str) {
    let Ok(ms) = parse_utc(text) else {
        return;
    };
    assert_eq!(parse_utc(&format_utc(ms)), Ok(ms), "{text:?}");
    let Some(time) = EventTime::from_ms(ms) else {
        return;
    };
    for size in WindowSize::DEFAULTS {
        for class in AssetClass::EVERY {
            let start = size.start_of(time, class);
            assert!(start <= ms && ms < size.end_of(start, class), "{text:?}");
            assert!(size.is_start(start, class), "{text:?}");
            assert!(bucket(start) <= start);
        }
    }
    for class in AssetClass::EVERY {
        for code in [0, 24, 25, 35, 36] {
            let conditions = Conditions::NONE.with(code);
            if let Some(start) = WindowSize::SESSION.window_of(time, conditions, class) {
                assert!(start <= ms, "{text:?}");
                assert!(WindowSize::SESSION.is_start(start, class), "{text:?}");
            }
        }
    }
}
