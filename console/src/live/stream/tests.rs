//! Tests of the event streams: which events each stream gets at which tick.

use tapeflow_dataflow::Observer;
use tapeflow_protocol::EpochWrites;
use tapeflow_schemas::{
    BarKey, BarState, BarWrite, Conditions, EventTime, Position, Price, Size, Symbol, Totals,
    Trade, WindowSize,
};
use tapeflow_sinks::memory::MemoryStore;
use tokio::sync::Semaphore;

use super::*;
use crate::live::{LiveBar, LiveBars};

fn page_state() -> Arc<PageState> {
    let server = Arc::new(ServerState::of_feed(tapeflow_ingest::Progress::default()));
    let ticker = Ticker::new(&server);
    Arc::new(PageState {
        bars: LiveBars::new(&WindowSize::DEFAULTS),
        server,
        store: Arc::new(MemoryStore::new()),
        store_requests: Semaphore::new(1),
        ticker,
    })
}

fn trade(state: &PageState, symbol: &str) {
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
        packed: tapeflow_schemas::PackedBars::default(),
        write_timestamp: 1,
    }];
    state.bars.acknowledged(
        1,
        &EpochWrites {
            bars,
            ..EpochWrites::default()
        },
    );
}

/// The tick of this number, at the current version of the table.
fn tick_at(state: &PageState, number: u64) -> Tick {
    let table = state.bars.table();
    Tick {
        number,
        version: table.version(),
        evictions: table.evictions(),
        symbols: table.symbols(),
        status: (1, event("status", "{}")),
    }
}

fn open_stream(state: &Arc<PageState>) -> EventStream {
    EventStream::new(
        Arc::clone(state),
        Slot::acquire(&state.server.page_streams).expect("a slot"),
    )
}

/// All events of a stream at a tick: the names of all, and the whole of those with bars.
fn events_at(stream: &mut EventStream, tick: &Tick) -> (Vec<String>, Vec<Bytes>) {
    let events: Vec<Bytes> = std::iter::from_fn(|| stream.next_at(tick)).collect();
    let name = |event: &Bytes| {
        String::from_utf8_lossy(event)
            .lines()
            .next()
            .expect("a name")
            .replace("event: ", "")
    };
    let names: Vec<String> = events.iter().map(name).collect();
    let bars = events
        .into_iter()
        .zip(&names)
        .filter(|(_, name)| *name == "bars")
        .map(|(event, _)| event)
        .collect();
    (names, bars)
}

#[test]
fn a_stream_gets_all_bars_and_then_changes_and_shares_encoded_events() {
    let state = page_state();
    (0..BARS + 1).for_each(|n| trade(&state, &format!("S{n}")));
    let first = tick_at(&state, 1);
    let (mut one, mut other, mut slow) = (
        open_stream(&state),
        open_stream(&state),
        open_stream(&state),
    );
    let (names, bars) = events_at(&mut one, &first);
    assert_eq!(names, ["start", "status", "bars", "bars", "complete"]);
    let same = |a: &[Bytes], b: &[Bytes]| {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.as_ptr() == b.as_ptr())
    };
    assert!(
        same(&events_at(&mut other, &first).1, &bars),
        "encoded once"
    );
    events_at(&mut slow, &first);

    let names_symbol = |event: &Bytes, symbol: &str| {
        let quoted = format!("\"{symbol}\"");
        event
            .windows(quoted.len())
            .any(|part| part == quoted.as_bytes())
    };
    trade(&state, "S7");
    let second = tick_at(&state, 2);
    // After the tick: sent now, with whatever else has changed, and again at the next tick.
    trade(&state, "S8");
    let (names, bars) = events_at(&mut one, &second);
    assert_eq!((names, bars.len()), (vec!["bars".to_owned()], 1));
    assert!(names_symbol(&bars[0], "S7") && !names_symbol(&bars[0], "S9"));
    assert!(same(&events_at(&mut other, &second).1, &bars));

    let third = tick_at(&state, 3);
    let (_, again) = events_at(&mut one, &third);
    assert!(names_symbol(&again[0], "S8") && !names_symbol(&again[0], "S7"));
    // A stream that missed a tick gets both changes at once.
    let (_, late) = events_at(&mut slow, &third);
    assert!(names_symbol(&late[0], "S7") && names_symbol(&late[0], "S8"));
    for stream in [&mut one, &mut slow] {
        assert_eq!(
            events_at(stream, &tick_at(&state, 4)).0,
            Vec::<String>::new(),
            "nothing has changed"
        );
    }
}

#[test]
fn bars_are_json_for_any_name_of_a_symbol() {
    let bar = LiveBar {
        start: 0,
        close: None,
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
        bar,
        closes: Closes::All(vec![close]),
    });
    let read: Value = serde_json::from_str(&bars_json(&changes)).expect("JSON");
    assert_eq!(
        read["bars"][0],
        json!(["A\"B\\", null, "0.00000001", "2.5", 3, 5, 0, null, 0, [0.1]])
    );
    assert_eq!(read["bars"][1][0], "C");
}

#[test]
fn slots_are_bounded_and_freed() {
    let streams = Arc::default();
    let mut slots: Vec<Slot> = (0..STREAMS)
        .map(|_| Slot::acquire(&streams).expect("a slot"))
        .collect();
    assert!(Slot::acquire(&streams).is_none());
    slots.pop();
    assert!(Slot::acquire(&streams).is_some());
    drop(slots);
    assert_eq!(streams.load(Ordering::Relaxed), 0);
}
