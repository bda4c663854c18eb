//! The live page as a person sees it: a headless browser reads the numbers off the page, and they
//! are those of the store.
//!
//! Where there is no Chromium the tests say so and pass; with `TAPEFLOW_REQUIRE_BROWSER=1` they
//! fail instead.

mod browser;

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::TcpStream,
    time::{Duration, Instant},
};

use browser::{Browser, browser};
use serde_json::Value;
use tapeflow_support::{
    command::{Place, golden, succeed},
    serving::{Running, serving, serving_at},
};

fn get(running: &Running, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(running.address).expect("a connection");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    )
    .expect("sent");
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer);
    let code = answer
        .split_ascii_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or_else(|| panic!("{path}: {answer:?}"));
    (code, answer)
}

fn status(running: &Running) -> Value {
    let (_, answer) = get(running, "/status");
    serde_json::from_str(answer.split_once("\r\n\r\n").expect("a body").1).expect("JSON")
}

/// A recording taken in to its end, and the job at rest.
fn at_rest(place: &Place) -> Running {
    let running = serving(&[
        "run",
        "--replay",
        &golden("finnhub-recorded.jsonl"),
        "--store",
        &place.store,
    ]);
    let deadline = Instant::now() + Duration::from_secs(90);
    loop {
        let status = status(&running);
        let job = &status["job"];
        if job["trades_accepted"].as_u64() >= Some(81)
            && job["epoch_bound"] == job["epoch_committed"]
            && job["partitions"][3]["lag"] == 0
        {
            return running;
        }
        assert!(
            Instant::now() < deadline,
            "the recording is not taken in: {status}"
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A number as it is shown, as the command prints it: no grouping, no zeros that only fill.
fn plain(shown: &str) -> String {
    let text = shown.trim().replace(',', "").replace('−', "-");
    match text.as_str() {
        "–" => String::new(),
        "yes" => "true".to_owned(),
        "not yet" => "false".to_owned(),
        text if text.contains('.') => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        text => text.to_owned(),
    }
}

/// `tapeflow bars` as csv, by symbol: each window's values by the name of their column.
fn bars(place: &Place, size: &str) -> BTreeMap<String, Vec<BTreeMap<String, String>>> {
    let csv = succeed(&[
        "bars",
        "--store",
        &place.store,
        "--size",
        size,
        "--format",
        "csv",
    ]);
    let mut lines = csv.lines();
    let columns: Vec<&str> = lines.next().expect("a heading").split(',').collect();
    let mut found = BTreeMap::<_, Vec<_>>::new();
    for line in lines {
        let row: BTreeMap<String, String> = columns
            .iter()
            .map(|name| (*name).to_owned())
            .zip(line.split(',').map(str::to_owned))
            .collect();
        found.entry(row["symbol"].clone()).or_default().push(row);
    }
    found
}

fn address(running: &Running, rest: &str) -> String {
    format!("http://{}/{rest}", running.address)
}

/// The texts of elements, one list an element.
fn texts(browser: &mut Browser, expression: &str) -> Vec<Vec<String>> {
    serde_json::from_value(browser.eval(expression))
        .unwrap_or_else(|error| panic!("{expression}: {error}"))
}

#[test]
fn every_number_on_the_page_is_that_of_the_store() {
    let Some(mut browser) = browser() else { return };
    let place = Place::new();
    let running = at_rest(&place);
    browser.open(&address(&running, ""), 1440, 900);
    let stored = bars(&place, "1m");
    browser.until(&format!(
        "document.querySelectorAll('#rows .row:not([hidden])').length === {}",
        stored.len()
    ));
    browser.until("document.getElementById('link').textContent.trim() === 'recording'");

    // The table: the newest window of each symbol.
    let rows = "[...document.querySelectorAll('#rows .row:not([hidden])')].map(row => \
                [row.dataset.symbol, ...['last', 'vwap', 'volume', 'trades'].map(name => row.querySelector('.' + name).textContent)])";
    let shown: BTreeMap<String, Vec<String>> = texts(&mut browser, rows)
        .into_iter()
        .map(|row| {
            (
                row[0].clone(),
                row[1..].iter().map(|text| plain(text)).collect(),
            )
        })
        .collect();
    // A window of odd lots alone has no close: the last one that there was stays in sight.
    let last = |rows: &[BTreeMap<String, String>]| {
        rows.iter()
            .rev()
            .map(|row| row["close"].clone())
            .find(|close| !close.is_empty())
            .unwrap_or_default()
    };
    let newest = |rows: &[BTreeMap<String, String>], name: &str| rows[rows.len() - 1][name].clone();
    let wanted: BTreeMap<String, Vec<String>> = stored
        .iter()
        .map(|(symbol, rows)| {
            (
                symbol.clone(),
                vec![
                    last(rows),
                    newest(rows, "vwap"),
                    newest(rows, "volume"),
                    newest(rows, "trades"),
                ],
            )
        })
        .collect();
    assert!(wanted.len() > 2, "{wanted:?}");
    assert_eq!(shown, wanted);

    // The candles: every window that the table beneath them tells, and every one that the crosshair
    // reads.
    const COLUMNS: [&str; 11] = [
        "open", "high", "low", "close", "vwap", "volume", "trades", "notional", "revision",
        "epoch", "final",
    ];
    for (symbol, rows) in &stored {
        let coded: String = symbol.bytes().map(|byte| format!("%{byte:02X}")).collect();
        browser.eval(&format!("location.hash = '#/symbol/{coded}'"));
        let count = rows.len().min(12);
        browser.until(&format!(
            "document.getElementById('name').textContent === {symbol:?} && document.querySelectorAll('#windows tbody tr').length === {count}"
        ));
        let told = texts(
            &mut browser,
            "[...document.querySelectorAll('#windows tbody tr')].map(row => [...row.querySelectorAll('td')].map(cell => cell.textContent))",
        );
        for (shown, row) in told.iter().zip(rows.iter().rev()) {
            let shown: Vec<String> = shown.iter().map(|text| plain(text)).collect();
            assert_eq!(shown, COLUMNS.map(|name| row[name].clone()), "{symbol}");
        }
        browser.eval("document.getElementById('chart').focus()");
        browser.press("End");
        for row in rows.iter().rev() {
            let shown = texts(
                &mut browser,
                "[[...document.querySelectorAll('#readout dd')].map(cell => cell.textContent)]",
            )
            .remove(0);
            assert_eq!(
                format!("{}Z", shown[0].replace(' ', "T")),
                row["start"],
                "{symbol}"
            );
            let shown: Vec<String> = shown[1..].iter().map(|text| plain(text)).collect();
            assert_eq!(shown, COLUMNS.map(|name| row[name].clone()), "{symbol}");
            browser.press("ArrowLeft");
        }
    }

    // The pipeline.
    browser.eval("location.hash = '#/pipeline'");
    browser.until("document.querySelectorAll('#partitions tbody tr').length === 4");
    let stored: Value = serde_json::from_str(&succeed(&[
        "status",
        "--format",
        "json",
        "--store",
        &place.store,
        "--log",
        &place.store,
    ]))
    .expect("JSON");
    let text = |value: &Value| {
        value
            .as_i64()
            .map(|number| number.to_string())
            .unwrap_or_default()
    };
    let committed = &stored["checkpoint"]["committed"];
    let wanted: Vec<Vec<String>> = stored["lag"]
        .as_array()
        .expect("partitions")
        .iter()
        .map(|lag| {
            [
                &lag["partition"],
                &lag["end"],
                &lag["end"],
                &lag["end"],
                &lag["uncommitted"],
            ]
            .map(text)
            .to_vec()
        })
        .collect();
    let shown = texts(
        &mut browser,
        "[...document.querySelectorAll('#partitions tbody tr')].map(row => [...row.cells].map(cell => cell.textContent))",
    );
    let shown: Vec<Vec<String>> = shown
        .iter()
        .map(|row| row.iter().map(|text| plain(text)).collect())
        .collect();
    assert_eq!(
        shown, wanted,
        "all is committed: bound, committed and end are one"
    );
    let told = &status(&running)["job"];
    assert!(told["trades_late"].as_u64() > Some(0), "{told}");
    for (place, wanted) in [
        ("epoch_committed", text(&committed["epoch"])),
        ("ready", "true".into()),
        ("generation", text(&stored["checkpoint"]["generation"])),
        ("workers", text(&told["workers"])),
        ("trades_accepted", text(&told["trades_accepted"])),
        ("trades_late", text(&told["trades_late"])),
        ("sequence_gaps", text(&told["sequence_gaps"])),
    ] {
        let shown = browser.eval(&format!(
            "document.getElementById('pipe-{place}').textContent"
        ));
        assert_eq!(plain(shown.as_str().expect("a text")), wanted, "{place}");
    }
    assert_eq!(browser.errors, Vec::<String>::new());
}

#[test]
fn thousands_of_symbols_are_few_elements_and_a_phone_needs_no_scrolling_sideways() {
    let Some(mut browser) = browser() else { return };
    let place = Place::new();
    let running = serving(&[
        "run",
        "--market-symbols",
        "5000",
        "--rate",
        "20000",
        "--store",
        &place.store,
    ]);
    browser.open(&address(&running, ""), 1440, 900);
    // The rarest of them may take a while to trade.
    browser.until("document.getElementById('grid').ariaRowCount > 4000");
    let few = "document.querySelectorAll('#rows .row').length < 100 && document.querySelectorAll('#rows .row:not([hidden])').length > 10";
    assert_eq!(browser.eval(few), true);
    // From the last to the first with the keyboard, each in sight.
    for (key, index) in [("End", "> 3900"), ("Home", "=== 2"), ("PageDown", "> 10")] {
        let in_sight = format!(
            "(row => row && Number(row.ariaRowIndex) {index} && row.getBoundingClientRect().bottom <= innerHeight)\
             (document.querySelector('#rows .row.current:not([hidden])'))"
        );
        // Symbols that trade for the first time move the others down, so one key may be too few.
        for attempt in 1.. {
            browser.eval("document.getElementById('rows').focus()");
            browser.press(key);
            std::thread::sleep(std::time::Duration::from_millis(200));
            if browser.eval(&in_sight) == true {
                break;
            }
            assert!(attempt < 200, "{key}: {in_sight}");
        }
        assert_eq!(browser.eval(few), true);
    }
    // A filter, and an order.
    browser.eval("(box => { box.value = 'zzzz'; box.dispatchEvent(new Event('input')) })(document.getElementById('filter'))");
    browser.until("!document.getElementById('empty').hidden");
    browser.eval("(box => { box.value = ''; box.dispatchEvent(new Event('input')) })(document.getElementById('filter'))");
    browser.eval("document.querySelector('#head .volume button').click()");
    browser.until("document.querySelector('#head .volume').ariaSort === 'descending'");

    for rest in ["", "#/pipeline", "#/symbol"] {
        browser.open(&address(&running, rest), 390, 844);
        if rest == "#/symbol" {
            browser.until("document.querySelector('#rows .row:not([hidden])')");
            browser.eval("document.querySelector('#rows .row:not([hidden])').click()");
            browser.until("document.querySelectorAll('#windows tbody tr').length > 0");
        }
        browser.until("document.documentElement.scrollWidth <= 390 && innerWidth === 390");
        // A chart is drawn again a moment after the window has changed.
        browser.until(
            "[...document.querySelectorAll('body *')].every(e => e.closest('.windows, .wide') \
             || e.getBoundingClientRect().right <= 390.5 \
             || !e.checkVisibility({ visibilityProperty: true }))",
        );
    }
    assert_eq!(browser.errors, Vec::<String>::new());
}

/// A recording of long and short numbers.
fn numbers(place: &Place) -> String {
    let mut lines = String::new();
    let start_ms = 1_700_000_000_000_i64;
    for (at, (symbol, price, size)) in (0..).zip([
        ("A", "0.00001234", "9876543210.12345678"),
        ("BINANCE:BTCUSDT", "123456.12345678", "0.00000001"),
        ("BRK.A", "888888.88", "8888.5"),
        ("C", "1.5", "100"),
    ]) {
        for (index, factor) in ["", "9"].iter().enumerate() {
            let time = start_ms + at + i64::try_from(index).expect("small") * 60_000;
            lines.push_str(&format!(
                "{{\"type\":\"trade\",\"data\":[{{\"s\":\"{symbol}\",\"p\":{price}{},\"v\":{size},\"t\":{time}}}]}}\n",
                if price.contains('.') && price.len() < 8 { factor } else { "" }
            ));
        }
    }
    place.file("numbers.jsonl", &lines)
}

#[test]
fn no_number_is_clipped_in_any_window_and_any_font() {
    let Some(mut browser) = browser() else { return };
    let place = Place::new();
    let file = numbers(&place);
    let running = serving(&["run", "--replay", &file, "--store", &place.store]);
    let clipped = "[...document.querySelectorAll('#rows .row:not([hidden]) .c:not(.symbol, .trend), #rows .row:not([hidden]) .p, #readout dd')]\
        .filter(cell => cell.checkVisibility() && cell.scrollWidth > Math.ceil(cell.getBoundingClientRect().width) + 1)\
        .map(cell => cell.className + ' ' + cell.textContent + ' ' + cell.scrollWidth + ' in ' + cell.getBoundingClientRect().width)";
    let beyond = "[...document.querySelectorAll('#rows .row:not([hidden]) .c, #readout dd, #summary dd')]\
        .filter(cell => cell.checkVisibility() && cell.getBoundingClientRect().right > innerWidth + 0.5).map(cell => cell.textContent)";
    let scrolls = "(box => box.scrollWidth > box.clientWidth)(document.querySelector('.windows'))";
    let values = "[...document.querySelectorAll('#windows thead th')].filter(cell => cell.checkVisibility()).length";
    let shown =
        "[...document.querySelectorAll('#head .c')].filter(cell => cell.checkVisibility()).length";
    let fonts = [
        "",
        "body { font-family: monospace !important; }",
        "body { font-size: 17px !important; font-family: serif !important; }",
    ];
    for font in fonts {
        let mut columns = Vec::new();
        for width in [1_440, 1_280, 1_000, 800, 390] {
            for rest in ["", "#/symbol/BINANCE%3ABTCUSDT"] {
                browser.open(&address(&running, rest), width, 900);
                if !font.is_empty() {
                    let add = format!(
                        "document.styleSheets[0].insertRule({font:?}, document.styleSheets[0].cssRules.length)"
                    );
                    browser.eval(&add);
                    // The page measures again when its rows change their size.
                    browser.eval("dispatchEvent(new Event('resize'))");
                }
                let rows = "document.querySelectorAll('#rows .row:not([hidden])').length === 4";
                browser.until(rows);
                if !rest.is_empty() {
                    browser.until("document.querySelectorAll('#windows tbody tr').length > 0");
                }
                if !rest.is_empty() && width > 759 {
                    browser.until(&format!("!{scrolls}"));
                    let values = browser.eval(values).as_u64();
                    assert!(values >= Some(4), "{font} {width}: {values:?}");
                }
                browser.until(&format!("{clipped}.length === 0"));
                assert_eq!(
                    browser.eval(beyond),
                    serde_json::json!([]),
                    "{font} {width} {rest}"
                );
                if rest.is_empty() && width > 759 {
                    columns.push(browser.eval(shown).as_u64().expect("a number"));
                }
            }
        }
        assert!(
            columns.is_sorted_by(|wide, narrow| wide >= narrow),
            "{columns:?}"
        );
        assert!(
            columns.last() < columns.first(),
            "columns are left out: {columns:?}"
        );
    }
    assert_eq!(browser.errors, Vec::<String>::new());
}

#[test]
fn the_page_says_that_a_market_is_simulated_and_what_the_process_waits_for() {
    let Some(mut browser) = browser() else { return };
    let place = Place::new();
    let running = serving(&["run", "--store", &place.store]);
    browser.open(&address(&running, ""), 1440, 900);
    browser.until("document.getElementById('link').textContent.trim() === 'simulated'");
    // A connection to the page is no live data: the store is locked by another process.
    let lock = rusqlite::Connection::open(place.path("t.db")).expect("opened");
    lock.execute_batch("BEGIN IMMEDIATE").expect("locked");
    browser.until("document.getElementById('link').dataset.state === 'waiting'");
    browser.until(
        "/Waiting: (log|store), for \\d+ s: /.test(document.getElementById('note').textContent)",
    );
    drop(lock);
    browser.until("document.getElementById('link').dataset.state === 'simulated' && document.getElementById('note').hidden");
    assert_eq!(browser.errors, Vec::<String>::new());
}

#[test]
fn a_page_whose_process_was_started_again_says_so_meanwhile_and_is_not_empty_after() {
    let Some(mut browser) = browser() else { return };
    let place = Place::new();
    let running = at_rest(&place);
    let at = running.address.to_string();
    let symbols = bars(&place, "1m").len();
    browser.open(&address(&running, ""), 1440, 900);
    browser.until(&format!(
        "document.querySelectorAll('#rows .row:not([hidden])').length === {symbols}"
    ));
    drop(running);
    browser.until("document.getElementById('link').textContent.includes('disconnected') && !document.getElementById('note').hidden");
    assert_eq!(
        browser.eval("document.querySelectorAll('#rows .row:not([hidden])').length"),
        symbols,
        "what was known stays in sight"
    );
    let silent = place.file("silent.jsonl", "");
    let _again = serving_at(&at, &["run", "--replay", &silent, "--store", &place.store]);
    browser.until("document.getElementById('link').textContent.trim() === 'recording' && document.getElementById('note').hidden");
    browser.until(&format!(
        "document.querySelectorAll('#rows .row:not([hidden])').length === {symbols}"
    ));
}

#[test]
fn the_page_has_security_headers_and_bad_queries_get_an_error() {
    let place = Place::new();
    let running = at_rest(&place);
    for path in [
        "/",
        "/app.js",
        "/table.js",
        "/candles.js",
        "/pipeline.js",
        "/words.js",
        "/style.css",
        "/icon.svg",
    ] {
        let (code, answer) = get(&running, path);
        assert_eq!(code, 200, "{path}");
        let checkpoint = answer.split_once("\r\n\r\n").expect("a checkpoint").0;
        for header in [
            "content-security-policy: default-src 'self'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-cache",
        ] {
            assert!(
                checkpoint.contains(header),
                "{path}: {header} is missing in {checkpoint}"
            );
        }
    }
    for (query, code) in [
        ("", 400),
        ("?symbol=AAPL", 400),
        ("?symbol=AAPL&size=7s", 400),
        ("?symbol=AAPL&size=1m&limit=1001", 400),
        ("?symbol=AAPL&size=1m&policy=strict", 400),
        ("?symbol=AAPL&size=10m", 404),
        ("?symbol=UNKNOWN&size=1m", 404),
    ] {
        let (found, answer) = get(&running, &format!("/bars{query}"));
        assert_eq!(found, code, "{query}: {answer}");
        assert!(
            answer.contains("\r\n\r\n{\"error\":\""),
            "{query}: {answer}"
        );
    }
    // 64 browsers, and not one more.
    let follow = || {
        let mut stream = TcpStream::connect(running.address).expect("a connection");
        write!(stream, "GET /events HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("sent");
        let mut code = [0; 12];
        stream.read_exact(&mut code).expect("an answer");
        (stream, String::from_utf8_lossy(&code[9..]).into_owned())
    };
    let streams: Vec<(TcpStream, String)> = (0..64).map(|_| follow()).collect();
    assert!(streams.iter().all(|(_, code)| code == "200"));
    assert_eq!(follow().1, "503");
    drop(streams);
    let deadline = Instant::now() + Duration::from_secs(60);
    while follow().1 != "200" {
        assert!(Instant::now() < deadline, "places are given back");
        std::thread::sleep(Duration::from_millis(100));
    }
}
