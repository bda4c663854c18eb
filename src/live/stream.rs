//! `GET /events`: server-sent events that tell a browser all lines of the board, then what changes.
//!
//! ```text
//!  begin   {"size":"1m","sizes":["1s","1m"],"process":0,"processes":1,"now":ms}        forget everything, what follows is all there is
//!  lines   {"now":ms,"lines":[[symbol,last,vwap,volume,trades,event,start,acknowledged,closes?],...]}      at most 500 of them
//!  whole   {"symbols":n}                                      all lines have been told once
//!  status  what GET /status answers, and "now"                once a second
//! ```
//!
//! Prices, VWAP and volume are exact decimals, as strings; times are milliseconds since 1970.
//! `closes` are a list that replaces what the browser has of the windows before this one, or the
//! one close to be added if the window is newer than the one it has, and are missing where it knows
//! them.
//!
//! All streams tell at the same beat, up to the same version of the board, so what one of them puts
//! into words serves the others. A stream is asked for its next event only when the connection has
//! taken the one before: nothing is kept for a slow one, which is told less often.

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt::Write,
    sync::{
        Arc, Mutex, PoisonError,
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
    Shown,
    board::{Change, Closes},
};
use crate::{
    http::{Told, look},
    terminal::now_ms,
};

/// Browsers at once.
const STREAMS: u64 = 64;
/// Lines in one event.
const LINES: usize = 500;
/// The shortest time between two beats.
const EVERY: Duration = Duration::from_millis(250);
/// Beats are rarer the more there is to tell to the more browsers: so many bytes in [`EVERY`], over
/// all of them.
const BYTES_EVERY: u64 = 2 << 20;
/// The longest time between two beats.
const RARELY: Duration = Duration::from_secs(2);
/// How often the status is told; so a stream is never silent for long, and a browser that hears
/// nothing knows that it is cut off.
const STATUS_EVERY: Duration = Duration::from_secs(1);

/// A place among the streams, given back when the browser is gone.
struct Place(Arc<AtomicU64>);

impl Place {
    fn take(streams: &Arc<AtomicU64>) -> Option<Self> {
        let taken = streams.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |streams| {
            (streams < STREAMS).then_some(streams + 1)
        });
        taken.ok().map(|_| Self(Arc::clone(streams)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Up to where everybody is told.
#[derive(Clone, Debug, Default)]
struct Tick {
    number: u64,
    /// Of the board.
    version: u64,
    /// Of the board.
    clearings: u64,
    /// On the board.
    symbols: usize,
    /// How often the status was looked at, and what it was then.
    status: (u64, Bytes),
}

/// An event as it is sent, and how far it comes if there is more to tell.
type Page = (Bytes, Option<u64>);

/// What all streams share.
pub(super) struct Beat {
    ticks: watch::Sender<Tick>,
    /// Streams that have come since the last beat.
    come: Notify,
    streams: Arc<AtomicU64>,
    /// What was put into words, by the number of the beat and where the stream stood.
    pages: Mutex<HashMap<(u64, u64, u64), Page>>,
    /// Bytes told at this beat.
    bytes: AtomicU64,
}

impl Beat {
    pub(super) fn new(told: &Told) -> Self {
        let (ticks, _) = watch::channel(Tick::default());
        Self {
            ticks,
            come: Notify::new(),
            streams: Arc::clone(&told.streams),
            pages: Mutex::default(),
            bytes: AtomicU64::new(0),
        }
    }

    /// The time to the next beat, by what was told at this one.
    fn pause(&self) -> Duration {
        let told = self.bytes.swap(0, Ordering::Relaxed);
        let times = u32::try_from(told.div_ceil(BYTES_EVERY))
            .unwrap_or(u32::MAX)
            .max(1);
        EVERY.saturating_mul(times).min(RARELY)
    }
}

/// Beats as long as somebody listens. Ends with the runtime.
pub(super) async fn beat(shown: Arc<Shown>) {
    let beat = &shown.beat;
    let (mut number, mut status, mut status_at) = (0, (0, Bytes::new()), Instant::now());
    loop {
        if beat.streams.load(Ordering::Relaxed) == 0 {
            beat.pages
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clear();
            // Who comes is not to begin with what was then.
            beat.ticks.send_replace(Tick::default());
            beat.come.notified().await;
        }
        if Instant::now() >= status_at {
            status_at = Instant::now() + STATUS_EVERY;
            let mut told = look(&shown.told);
            told["now"] = now_ms().into();
            status = (status.0 + 1, event("status", &told.to_string()));
        }
        number += 1;
        let (version, clearings, symbols) = {
            let board = shown.live.board();
            (board.version(), board.clearings(), board.symbols())
        };
        beat.pages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        beat.ticks.send_replace(Tick {
            number,
            version,
            clearings,
            symbols,
            status: status.clone(),
        });
        // Who comes first need not wait; who comes later begins with the beat that was.
        tokio::time::sleep(beat.pause()).await;
    }
}

fn event(name: &str, data: &str) -> Bytes {
    format!("event: {name}\ndata: {data}\n\n").into()
}

/// Answers with the stream, or 503 if too many browsers follow already.
pub(super) async fn events(State(shown): State<Arc<Shown>>) -> Response {
    let Some(place) = Place::take(&shown.told.streams) else {
        return (
            StatusCode::SERVICE_UNAVAILABLE,
            [(header::RETRY_AFTER, "5")],
            "too many browsers follow this page already\n",
        )
            .into_response();
    };
    let follower = Follower::new(shown, place);
    follower.shown.beat.come.notify_one();
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (headers, Body::from_stream(follow(follower))).into_response()
}

fn follow(follower: Follower) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    stream::unfold(follower, |mut follower| async move {
        follower.next().await.map(|event| (Ok(event), follower))
    })
}

/// Where one browser stands.
struct Follower {
    shown: Arc<Shown>,
    _place: Place,
    ticks: watch::Receiver<Tick>,
    /// The clearing of the board under which it was told to begin.
    began: Option<u64>,
    /// All up to this version has been told.
    base: u64,
    /// How far it has come on its way to what is told at this beat.
    seen: u64,
    /// Whether it is on its way.
    behind: bool,
    whole: bool,
    /// The status it was told.
    status: u64,
}

impl Follower {
    fn new(shown: Arc<Shown>, place: Place) -> Self {
        let ticks = shown.beat.ticks.subscribe();
        Self {
            shown,
            _place: place,
            ticks,
            began: None,
            base: 0,
            seen: 0,
            behind: false,
            whole: false,
            status: 0,
        }
    }

    /// The next event. Waits until there is one; none if nothing beats any more.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let tick = self.ticks.borrow_and_update().clone();
            if let Some(event) = (tick.number > 0).then(|| self.tell(&tick)).flatten() {
                return Some(event);
            }
            self.ticks.changed().await.ok()?;
        }
    }

    /// What it has not been told up to a beat; none if that is nothing.
    fn tell(&mut self, tick: &Tick) -> Option<Bytes> {
        if self.began != Some(tick.clearings) {
            (self.began, self.base, self.seen, self.behind, self.whole) =
                (Some(tick.clearings), 0, 0, false, false);
            return Some(event("begin", &self.begin().to_string()));
        }
        if self.status < tick.status.0 {
            self.status = tick.status.0;
            return Some(tick.status.1.clone());
        }
        if self.behind || self.seen < tick.version {
            let (event, reached) = self.page(tick);
            self.behind = reached.is_some();
            self.seen = reached.unwrap_or(tick.version);
            if !self.behind {
                self.base = self.seen;
            }
            return Some(event);
        }
        if !self.whole {
            self.whole = true;
            return Some(event(
                "whole",
                &json!({ "symbols": tick.symbols }).to_string(),
            ));
        }
        None
    }

    /// Lines that came after what it has seen, in words that may be another stream's.
    fn page(&self, tick: &Tick) -> Page {
        let beat = &self.shown.beat;
        let key = (tick.number, self.base, self.seen);
        let known = beat
            .pages
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(&key)
            .cloned();
        let page = known.unwrap_or_else(|| {
            let (changes, reached) = self.shown.live.board().since(self.base, self.seen, LINES);
            // What has changed since the beat is told now, and once more with the next: so all
            // stand at the same version again.
            let page = (
                event("lines", &lines(&changes)),
                (changes.len() >= LINES).then_some(reached),
            );
            beat.pages
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(key, page.clone());
            page
        });
        beat.bytes.fetch_add(page.0.len() as u64, Ordering::Relaxed);
        page
    }

    fn begin(&self) -> Value {
        let live = &self.shown.live;
        let sizes: Vec<String> = live.sizes.iter().map(ToString::to_string).collect();
        let (process, processes) = self
            .shown
            .told
            .job
            .as_ref()
            .map_or((0, 1), |job| (job.process, job.processes));
        json!({ "size": live.board().size().to_string(), "sizes": sizes, "process": process, "processes": processes, "now": now_ms() })
    }
}

/// The lines as compact JSON; written by hand, for there may be many thousands a second.
fn lines(changes: &[Change]) -> String {
    let mut text = String::with_capacity(64 + changes.len() * 128);
    let _ = write!(text, "{{\"now\":{},\"lines\":[", now_ms());
    for (
        at,
        Change {
            symbol,
            line,
            closes,
        },
    ) in changes.iter().enumerate()
    {
        let comma = if at == 0 { "" } else { "," };
        let last = line
            .last
            .map_or_else(|| "null".to_owned(), |price| format!("\"{price}\""));
        let vwap = line.vwap_e8.map_or_else(
            || "null".to_owned(),
            |vwap| format!("\"{}\"", format_fixed(vwap, SCALE)),
        );
        let volume = format_fixed(line.volume_e8, SCALE);
        let acknowledged = line
            .acknowledged_ms
            .map_or_else(|| "null".to_owned(), |ms| ms.to_string());
        let name = Value::from(symbol.as_str());
        let _ = write!(
            text,
            "{comma}[{name},{last},{vwap},\"{volume}\",{},{},{},{acknowledged}",
            line.trades, line.event_ms, line.start
        );
        // A decimal is a JSON number as well: of closes only a line is drawn.
        let _ = match closes {
            Closes::Known => Ok(()),
            Closes::Previous(close) => write!(text, ",{close}"),
            Closes::All(closes) => write!(
                text,
                ",[{}]",
                closes
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(",")
            ),
        };
        text.push(']');
    }
    text.push_str("]}");
    text
}

#[cfg(test)]
mod tests;
