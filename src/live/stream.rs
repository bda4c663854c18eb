//! `GET /events`: server-sent events that tell a browser all lines of the board, then what changes.
//!
//! ```text
//!  begin   {"size":"1m","sizes":["1s","1m"],"process":0,"processes":1,"now":ms}        forget everything, what follows is all there is
//!  lines   {"now":ms,"lines":[[symbol,last,vwap,volume,trades,event,start,acknowledged,closes?],...]}      at most 500 of them
//!  whole   {"symbols":n}                                      all lines have been told once
//!  status  what GET /status answers, and "now"                once a second
//! ```
//!
//! Prices, VWAP and volume are exact decimals, as strings; times are milliseconds since 1970. `closes` are a list that replaces what the
//! browser has of the windows before this one, or the one close to be added, and are missing where it knows them. Each stream asks the board what came after the version it has told: nothing is kept for a slow one.

use std::{
    convert::Infallible,
    fmt::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures::{Stream, stream};
use serde_json::{Value, json};
use tapeflow_schemas::decimal::{SCALE, format_fixed};
use tokio::time::Instant;

use super::{
    Shown,
    board::{Change, Closes, Told},
};
use crate::{http::look, terminal::now_ms};

/// Browsers at once.
const STREAMS: u64 = 64;
/// Lines in one event.
const LINES: usize = 500;
/// The shortest time between two looks at the board.
const EVERY: Duration = Duration::from_millis(250);
/// With more streams than this each looks more rarely, down to once in [`RARELY`].
const FREQUENT_STREAMS: u32 = 8;
/// The longest time between two looks.
const RARELY: Duration = Duration::from_secs(2);
/// How often the status is told.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// Through which no proxy gives a silent stream up.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A place among the streams, given back when the browser is gone.
struct Place(Arc<AtomicU64>);

impl Place {
    fn take(streams: &Arc<AtomicU64>) -> Option<Self> {
        let taken = streams.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |streams| (streams < STREAMS).then_some(streams + 1));
        taken.ok().map(|_| Self(Arc::clone(streams)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers with the stream, or 503 if too many browsers follow already.
pub(super) async fn events(State(shown): State<Arc<Shown>>) -> Response {
    let Some(place) = Place::take(&shown.told.streams) else {
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "5")], "too many browsers follow this page already\n").into_response();
    };
    let stream = follow(Follower::new(shown, place));
    ([(header::CACHE_CONTROL, "no-store")], Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))).into_response()
}

fn follow(follower: Follower) -> impl Stream<Item = Result<Event, Infallible>> + Send {
    stream::unfold(follower, |mut follower| async move {
        let (name, data) = follower.next().await;
        Some((Ok(Event::default().event(name).data(data)), follower))
    })
}

/// Where one browser stands.
struct Follower {
    shown: Arc<Shown>,
    place: Place,
    /// The clearing of the board under which it was told to begin.
    began: Option<u64>,
    told: Told,
    /// The board's version when the last look at it began.
    looked: u64,
    /// Within a look, which may take several events.
    looking: bool,
    whole: bool,
    look_at: Instant,
    status_at: Instant,
}

impl Follower {
    fn new(shown: Arc<Shown>, place: Place) -> Self {
        let now = Instant::now();
        Self { shown, place, began: None, told: Told::default(), looked: 0, looking: false, whole: false, look_at: now, status_at: now }
    }

    /// The next event: its name and its data. Waits until there is one.
    async fn next(&mut self) -> (&'static str, String) {
        loop {
            let (version, clearings, symbols) = {
                let board = self.shown.live.board();
                (board.version(), board.clearings(), board.symbols())
            };
            if self.began != Some(clearings) {
                (self.began, self.told, self.looked, self.looking, self.whole) = (Some(clearings), Told::default(), version, true, false);
                return ("begin", self.begin().to_string());
            }
            let now = Instant::now();
            if now >= self.status_at {
                self.status_at = now + STATUS_EVERY;
                return ("status", self.status().to_string());
            }
            if self.looking {
                let changes = self.shown.live.board().next(&mut self.told, LINES);
                match changes {
                    Some(changes) => return ("lines", lines(&changes)),
                    None => self.looking = false,
                }
            }
            if !self.whole {
                self.whole = true;
                return ("whole", json!({ "symbols": symbols }).to_string());
            }
            if now >= self.look_at {
                self.look_at = now + self.pace();
                self.looking = self.looked != version;
                self.looked = version;
                continue;
            }
            tokio::time::sleep_until(self.look_at.min(self.status_at)).await;
        }
    }

    /// The more browsers follow, the rarer each is told: together they cost the same.
    fn pace(&self) -> Duration {
        let streams = u32::try_from(self.place.0.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        (EVERY * streams.max(FREQUENT_STREAMS) / FREQUENT_STREAMS).min(RARELY)
    }

    fn begin(&self) -> Value {
        let live = &self.shown.live;
        let sizes: Vec<String> = live.sizes.iter().map(ToString::to_string).collect();
        let (process, processes) = self.shown.told.job.as_ref().map_or((0, 1), |job| (job.process, job.processes));
        json!({ "size": live.board().size().to_string(), "sizes": sizes, "process": process, "processes": processes, "now": now_ms() })
    }

    fn status(&self) -> Value {
        let mut status = look(&self.shown.told);
        status["now"] = now_ms().into();
        status
    }
}

/// The lines as compact JSON; written by hand, for there may be many thousands a second.
fn lines(changes: &[Change]) -> String {
    let mut text = String::with_capacity(64 + changes.len() * 128);
    let _ = write!(text, "{{\"now\":{},\"lines\":[", now_ms());
    for (at, Change { symbol, line, closes }) in changes.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        let last = line.last.map_or_else(|| "null".to_owned(), |price| format!("\"{price}\""));
        let vwap = line.vwap_e8.map_or_else(|| "null".to_owned(), |vwap| format!("\"{}\"", format_fixed(vwap, SCALE)));
        let volume = format_fixed(line.volume_e8, SCALE);
        let acknowledged = line.acknowledged_ms.map_or_else(|| "null".to_owned(), |ms| ms.to_string());
        let name = Value::from(symbol.as_str());
        let _ = write!(text, "{comma}[{name},{last},{vwap},\"{volume}\",{},{},{},{acknowledged}", line.trades, line.event_ms, line.start);
        // A decimal is a JSON number as well: of closes only a line is drawn.
        let _ = match closes {
            Closes::Known => Ok(()),
            Closes::Previous(close) => write!(text, ",{close}"),
            Closes::All(closes) => write!(text, ",[{}]", closes.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
        };
        text.push(']');
    }
    text.push_str("]}");
    text
}

#[cfg(test)]
mod tests {
    use tapeflow_schemas::{Price, Symbol};

    use super::{super::board::Line, *};

    #[test]
    fn lines_are_json_whatever_a_symbol_is_called() {
        let line = Line { start: 0, last: None, vwap_e8: Some(1), volume_e8: 250_000_000, trades: 3, event_ms: 5, acknowledged_ms: None };
        let close = Price::parse("0.10").expect("price").value;
        let changes = ["A\"B\\", "C"].map(|name| Change { symbol: Symbol::new(name).expect("symbol"), line, closes: Closes::All(vec![close]) });
        let read: Value = serde_json::from_str(&lines(&changes)).expect("JSON");
        assert_eq!(read["lines"][0], json!(["A\"B\\", null, "0.00000001", "2.5", 3, 5, 0, null, [0.1]]));
        assert_eq!(read["lines"][1][0], "C");
    }

    #[test]
    fn there_are_only_so_many_places_and_they_are_given_back() {
        let streams = Arc::default();
        let mut places: Vec<Place> = (0..STREAMS).map(|_| Place::take(&streams).expect("a place")).collect();
        assert!(Place::take(&streams).is_none());
        places.pop();
        assert!(Place::take(&streams).is_some());
        drop(places);
        assert_eq!(streams.load(Ordering::Relaxed), 0);
    }
}
