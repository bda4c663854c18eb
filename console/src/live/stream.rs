//! `GET /events`: server-sent events with all live bars, then with each change.
//!
//! ```text
//!  start     {"size":"1m","sizes":["1s","1m"],"process":0,"processes":1,"now":ms}
//!            the browser forgets what it has; everything follows
//!  bars      {"now":ms,"bars":[BAR,...]}
//!            BAR is [symbol,last,vwap,volume,trades,event,start,acknowledged,carried,closes?];
//!            at most 500 bars
//!  complete  {"symbols":n}                    the browser has every bar
//!  status    the body of GET /status, and "now"            once a second
//! ```
//!
//! `carried` is 1 if the window has no close and `last` is that of an older window, else 0. Prices,
//! VWAP and volume are exact decimals, as strings. Times are milliseconds since 1970 UTC.
//! `closes` is a list that replaces the closes that the browser has, or one close to add if the
//! window is newer than that of the browser. It is absent if the browser has all closes.
//!
//! All streams share one ticker: at each tick they advance to the same version of the table, so an
//! event that one stream has encoded serves the others. A stream encodes its next event only when
//! the connection has taken the one before. So nothing is buffered for a slow client, which gets
//! fewer events.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt::Write,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use futures::{Stream, stream};
use serde_json::{Value, json};
use tapeflow_schemas::decimal::{SCALE, format_fixed};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    PageState,
    table::{Change, Closes},
};
use crate::{
    clock::now_ms,
    http::{state::ServerState, status::status_json},
};

/// Browsers at once.
const STREAMS: u64 = 64;
/// Bars in one event.
const BARS: usize = 500;
/// The shortest time between two ticks.
const TICK: Duration = Duration::from_millis(250);
/// Over all streams, at most about this many bytes per [`TICK`]: above it, ticks are further apart.
const BYTES_PER_TICK: u64 = 2 << 20;
/// The longest time between two ticks.
const LONGEST_TICK: Duration = Duration::from_secs(2);
/// How often a stream gets the status. A browser that receives nothing for longer has lost its
/// connection.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// One of the [`STREAMS`] slots, freed on drop.
struct Slot(Arc<AtomicU64>);

impl Slot {
    fn acquire(streams: &Arc<AtomicU64>) -> Option<Self> {
        let acquired = streams.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |streams| {
            (streams < STREAMS).then_some(streams + 1)
        });
        acquired.ok().map(|_| Self(Arc::clone(streams)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Up to where all streams advance.
#[derive(Clone, Debug, Default)]
struct Tick {
    number: u64,
    /// The version of the table.
    version: u64,
    /// The evictions of the table.
    evictions: u64,
    /// The symbols of the table.
    symbols: usize,
    /// The number of the newest status, and its event.
    status: (u64, Bytes),
}

/// An encoded `bars` event, and the version it reaches if more bars follow.
type BarsEvent = (Bytes, Option<u64>);

/// What all streams share.
pub(super) struct Ticker {
    ticks: watch::Sender<Tick>,
    /// Notified when a stream opens.
    opened: Notify,
    streams: Arc<AtomicU64>,
    /// The encoded events of this tick, by its number and the base and the version of the stream.
    encoded: Mutex<HashMap<(u64, u64, u64), BarsEvent>>,
    /// Bytes sent at this tick.
    bytes: AtomicU64,
}

impl Ticker {
    pub(super) fn new(state: &ServerState) -> Self {
        let (ticks, _) = watch::channel(Tick::default());
        Self {
            ticks,
            opened: Notify::new(),
            streams: Arc::clone(&state.page_streams),
            encoded: Mutex::default(),
            bytes: AtomicU64::new(0),
        }
    }

    /// The time to the next tick, by the bytes sent at this one.
    fn pause(&self) -> Duration {
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        let times = u32::try_from(bytes.div_ceil(BYTES_PER_TICK))
            .unwrap_or(u32::MAX)
            .max(1);
        TICK.saturating_mul(times).min(LONGEST_TICK)
    }

    /// Each event is inserted complete, so a poisoned lock still guards valid events.
    fn encoded(&self) -> MutexGuard<'_, HashMap<(u64, u64, u64), BarsEvent>> {
        self.encoded.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ticks while there are streams. Ends with the runtime.
pub(super) async fn tick(state: Arc<PageState>) {
    let ticker = &state.ticker;
    let (mut number, mut status, mut status_due) = (0, (0, Bytes::new()), Instant::now());
    loop {
        if ticker.streams.load(Ordering::Relaxed) == 0 {
            ticker.encoded().clear();
            // The next stream must not start with an old tick.
            ticker.ticks.send_replace(Tick::default());
            ticker.opened.notified().await;
        }
        if Instant::now() >= status_due {
            status_due = Instant::now() + STATUS_INTERVAL;
            let mut body = status_json(&state.server);
            body["now"] = now_ms().into();
            status = (status.0 + 1, event("status", &body.to_string()));
        }
        number += 1;
        let (version, evictions, symbols) = {
            let table = state.bars.table();
            (table.version(), table.evictions(), table.symbols())
        };
        ticker.encoded().clear();
        ticker.ticks.send_replace(Tick {
            number,
            version,
            evictions,
            symbols,
            status: status.clone(),
        });
        // The first stream need not wait for a tick; later ones start with the newest.
        tokio::time::sleep(ticker.pause()).await;
    }
}

fn event(name: &str, data: &str) -> Bytes {
    format!("event: {name}\ndata: {data}\n\n").into()
}

/// Answers with the stream, or with 503 if all slots are taken.
pub(super) async fn events(State(state): State<Arc<PageState>>) -> Response {
    let Some(slot) = Slot::acquire(&state.server.page_streams) else {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            [(header::RETRY_AFTER, "5")],
            format!("{STREAMS} browsers follow this page already; try again later\n"),
        )
            .into_response();
    };
    let stream = EventStream::new(state, slot);
    stream.state.ticker.opened.notify_one();
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, Body::from_stream(stream.events())).into_response()
}

/// The stream of one browser.
struct EventStream {
    state: Arc<PageState>,
    _slot: Slot,
    ticks: watch::Receiver<Tick>,
    /// The evictions of the table at the last `start` event.
    evictions: Option<u64>,
    /// The browser has everything up to this version.
    base: u64,
    /// The version it has read on the way to that of the tick.
    read: u64,
    /// Whether more bars of this tick follow.
    behind: bool,
    complete: bool,
    /// The number of the last status it got.
    status: u64,
}

impl EventStream {
    fn new(state: Arc<PageState>, slot: Slot) -> Self {
        let ticks = state.ticker.ticks.subscribe();
        Self {
            state,
            _slot: slot,
            ticks,
            evictions: None,
            base: 0,
            read: 0,
            behind: false,
            complete: false,
            status: 0,
        }
    }

    fn events(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
        stream::unfold(self, |mut stream| async move {
            stream.next().await.map(|event| (Ok(event), stream))
        })
    }

    /// Waits for the next event; none when the ticker has ended.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let tick = self.ticks.borrow_and_update().clone();
            if let Some(event) = (tick.number > 0).then(|| self.next_at(&tick)).flatten() {
                return Some(event);
            }
            self.ticks.changed().await.ok()?;
        }
    }

    /// The next event at this tick; none if the browser has everything.
    fn next_at(&mut self, tick: &Tick) -> Option<Bytes> {
        if self.evictions != Some(tick.evictions) {
            self.evictions = Some(tick.evictions);
            (self.base, self.read, self.behind, self.complete) = (0, 0, false, false);
            return Some(event("start", &self.start_json().to_string()));
        }
        if self.status < tick.status.0 {
            self.status = tick.status.0;
            return Some(tick.status.1.clone());
        }
        if self.behind || self.read < tick.version {
            let (event, reached) = self.bars_event(tick);
            self.behind = reached.is_some();
            self.read = reached.unwrap_or(tick.version);
            if !self.behind {
                self.base = self.read;
            }
            return Some(event);
        }
        if !self.complete {
            self.complete = true;
            let symbols = json!({ "symbols": tick.symbols });
            return Some(event("complete", &symbols.to_string()));
        }
        None
    }

    /// The bars that changed after the version it has read. Another stream may have encoded them.
    fn bars_event(&self, tick: &Tick) -> BarsEvent {
        let ticker = &self.state.ticker;
        let key = (tick.number, self.base, self.read);
        let known = ticker.encoded().get(&key).cloned();
        let encoded = known.unwrap_or_else(|| {
            let (changes, reached) = self.state.bars.table().since(self.base, self.read, BARS);
            // Changes after the tick are sent now and again at the next tick, so that all streams
            // reach the same version.
            let encoded = (
                event("bars", &bars_json(&changes)),
                (changes.len() >= BARS).then_some(reached),
            );
            ticker.encoded().insert(key, encoded.clone());
            encoded
        });
        ticker
            .bytes
            .fetch_add(encoded.0.len() as u64, Ordering::Relaxed);
        encoded
    }

    fn start_json(&self) -> Value {
        let bars = &self.state.bars;
        let sizes: Vec<String> = bars.sizes.iter().map(ToString::to_string).collect();
        let job = self.state.server.job.as_ref();
        let (process, processes) = job.map_or((0, 1), |job| (job.process, job.processes));
        json!({
            "size": bars.table().size().to_string(),
            "sizes": sizes,
            "process": process,
            "processes": processes,
            "now": now_ms(),
        })
    }
}

/// The bars as compact JSON. Written by hand: there may be many thousands a second.
fn bars_json(changes: &[Change]) -> String {
    let mut text = String::with_capacity(64 + changes.len() * 128);
    let null = || "null".to_owned();
    // Writing into a string cannot fail.
    let _ = write!(text, "{{\"now\":{},\"bars\":[", now_ms());
    for (at, change) in changes.iter().enumerate() {
        let (bar, comma) = (&change.bar, if at == 0 { "" } else { "," });
        let last = bar.last.map_or_else(null, |price| format!("\"{price}\""));
        let vwap = bar
            .vwap_e8
            .map_or_else(null, |vwap| format!("\"{}\"", format_fixed(vwap, SCALE)));
        let volume = format_fixed(bar.volume_e8, SCALE);
        let acknowledged = bar.acknowledged_ms.map_or_else(null, |ms| ms.to_string());
        let symbol = Value::from(change.symbol.as_str());
        let _ = write!(
            text,
            "{comma}[{symbol},{last},{vwap},\"{volume}\",{},{},{},{acknowledged},{}",
            bar.trades,
            bar.event_ms,
            bar.start,
            u8::from(bar.close != bar.last)
        );
        // A close is a JSON number: the sparkline needs no exact decimals.
        let _ = match &change.closes {
            Closes::Known => Ok(()),
            Closes::Previous(close) => write!(text, ",{close}"),
            Closes::All(closes) => {
                let closes: Vec<String> = closes.iter().map(ToString::to_string).collect();
                write!(text, ",[{}]", closes.join(","))
            }
        };
        text.push(']');
    }
    text.push_str("]}");
    text
}

#[cfg(test)]
mod tests;
