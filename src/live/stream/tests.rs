//! The streams' own tests: what each is told at which beat, and in whose words.

use tapeflow_dataflow::Observer;
use tapeflow_protocol::EpochWrites;
use tapeflow_schemas::{
    BarKey, BarState, BarWrite, Conditions, EventTime, Position, Price, Size, Symbol, Totals,
    Trade, WindowSize,
};
use tapeflow_sinks::memory::MemoryStore;
use tokio::sync::Semaphore;

use super::*;
use crate::live::{Line, Live};

fn shown() -> Arc<Shown> {
    let (live, told) = (
        Live::new(&WindowSize::DEFAULTS),
        Arc::new(Told::feed(tapeflow_ingest::Progress::default())),
    );
    let beat = Beat::new(&told);
    Arc::new(Shown {
        live,
        told,
        store: Arc::new(MemoryStore::new()),
        questions: Semaphore::new(1),
        beat,
    })
}

fn trade(shown: &Shown, symbol: &str) {
    let (price, size) = (
        Price::parse("10").expect("price").value,
        Size::parse("1").expect("size").value,
    );
    let trade = Trade::new(
        EventTime::from_ms(1).expect("time"),
        price,
        size,
        Conditions::NONE,
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
    let key = BarKey {
        symbol: Symbol::new(symbol).expect("symbol"),
        size: WindowSize::DEFAULTS[1],
        start: 0,
    };
    let bars = vec![BarWrite {
        key,
        state: BarState { epoch: 1, totals },
        write_timestamp: 1,
    }];
    shown.live.acknowledged(
        1,
        &EpochWrites {
            bars,
            ..EpochWrites::default()
        },
    );
}

/// The next beat.
fn tick(shown: &Shown, number: u64) -> Tick {
    let board = shown.live.board();
    Tick {
        number,
        version: board.version(),
        clearings: board.clearings(),
        symbols: board.symbols(),
        status: (1, event("status", "{}")),
    }
}

fn follower(shown: &Arc<Shown>) -> Follower {
    Follower::new(
        Arc::clone(shown),
        Place::take(&shown.told.streams).expect("a place"),
    )
}

/// All that a stream tells at a beat: the names of the events, and of those with lines the whole.
fn told(follower: &mut Follower, tick: &Tick) -> (Vec<String>, Vec<Bytes>) {
    let events: Vec<Bytes> = std::iter::from_fn(|| follower.tell(tick)).collect();
    let name = |event: &Bytes| {
        String::from_utf8_lossy(event)
            .lines()
            .next()
            .expect("a name")
            .replace("event: ", "")
    };
    let names: Vec<String> = events.iter().map(name).collect();
    let lines = events
        .into_iter()
        .zip(&names)
        .filter(|(_, name)| *name == "lines")
        .map(|(event, _)| event)
        .collect();
    (names, lines)
}

#[test]
fn a_browser_is_told_all_and_then_what_changes_in_the_words_of_the_others() {
    let shown = shown();
    (0..LINES + 1).for_each(|n| trade(&shown, &format!("S{n}")));
    let first = tick(&shown, 1);
    let (mut one, mut other, mut slow) = (follower(&shown), follower(&shown), follower(&shown));
    let (names, lines) = told(&mut one, &first);
    assert_eq!(names, ["begin", "status", "lines", "lines", "whole"]);
    let same = |a: &[Bytes], b: &[Bytes]| {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.as_ptr() == b.as_ptr())
    };
    assert!(same(&told(&mut other, &first).1, &lines), "written once");
    told(&mut slow, &first);

    trade(&shown, "S7");
    let second = tick(&shown, 2);
    // After the beat: told now, as is whatever else has changed, and once more with the next.
    trade(&shown, "S8");
    let (names, lines) = told(&mut one, &second);
    assert_eq!((names, lines.len()), (vec!["lines".to_owned()], 1));
    assert!(
        lines[0].windows(4).any(|part| part == b"\"S7\"")
            && !lines[0].windows(4).any(|part| part == b"\"S9\"")
    );
    assert!(same(&told(&mut other, &second).1, &lines));

    let third = tick(&shown, 3);
    let (_, again) = told(&mut one, &third);
    assert!(
        again[0].windows(4).any(|part| part == b"\"S8\"")
            && !again[0].windows(4).any(|part| part == b"\"S7\"")
    );
    // Who missed a beat hears of both changes at once.
    let (_, late) = told(&mut slow, &third);
    assert!(
        [&b"\"S7\""[..], b"\"S8\""]
            .into_iter()
            .all(|name| late[0].windows(4).any(|part| part == name))
    );
    for follower in [&mut one, &mut slow] {
        assert_eq!(
            told(follower, &tick(&shown, 4)).0,
            Vec::<String>::new(),
            "silence where nothing has changed"
        );
    }
}

#[test]
fn lines_are_json_whatever_a_symbol_is_called() {
    let line = Line {
        start: 0,
        last: None,
        vwap_e8: Some(1),
        volume_e8: 250_000_000,
        trades: 3,
        event_ms: 5,
        acknowledged_ms: None,
    };
    let close = Price::parse("0.10").expect("price").value;
    let changes = ["A\"B\\", "C"].map(|name| Change {
        symbol: Symbol::new(name).expect("symbol"),
        line,
        closes: Closes::All(vec![close]),
    });
    let read: Value = serde_json::from_str(&lines(&changes)).expect("JSON");
    assert_eq!(
        read["lines"][0],
        json!(["A\"B\\", null, "0.00000001", "2.5", 3, 5, 0, null, [0.1]])
    );
    assert_eq!(read["lines"][1][0], "C");
}

#[test]
fn there_are_only_so_many_places_and_they_are_given_back() {
    let streams = Arc::default();
    let mut places: Vec<Place> = (0..STREAMS)
        .map(|_| Place::take(&streams).expect("a place"))
        .collect();
    assert!(Place::take(&streams).is_none());
    places.pop();
    assert!(Place::take(&streams).is_some());
    drop(places);
    assert_eq!(streams.load(Ordering::Relaxed), 0);
}
