//! The terminal of `tapeflow run`: a table on a terminal, one plain line a second in a pipe.
//!
//! It shows only bars that the store has acknowledged: they survive any failure. It never delays
//! the job: the threads of the job fill the live bars, and a thread of its own draws them.

mod fit;
mod guard;
mod numbers;
mod rates;
mod screen;
mod warnings;

use std::{
    io::{self, Write},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

pub use guard::restore;
use guard::{TerminalGuard, can_draw};
use numbers::short_decimal;
use rates::Rates;
use tapeflow_dataflow::Metrics;
use tapeflow_ingest::{Connection, FeedKind, Progress};
use tapeflow_schemas::{Symbol, WindowSize, decimal::grouped};
pub use warnings::Warnings;

use crate::{
    clock::now_ms,
    http::state::ServerState,
    live::{LiveBar, LiveBars},
    outages::outages,
    serve::Served,
};

/// The time between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(1);
/// Symbols on a plain line.
const SYMBOLS_ON_A_LINE: usize = 3;

/// What the terminal shows.
#[derive(Debug)]
pub struct RunSources {
    /// The bars that the job has acknowledged.
    pub bars: Arc<LiveBars>,
    /// The counts of the job.
    pub metrics: Arc<Metrics>,
    /// The progress of the feed; none if another process reads it.
    pub progress: Option<Progress>,
    /// A description of the feed.
    pub feed: String,
    /// A description of the store.
    pub store: String,
    /// What the process waits for.
    pub state: Arc<ServerState>,
    /// Where the live page is.
    pub page: Served,
    /// Warnings of the process that are not on standard error.
    pub warnings: Arc<Warnings>,
}

/// The display of one run.
#[derive(Debug)]
pub struct RunDisplay {
    sources: RunSources,
    rates: Mutex<Rates>,
    started: Instant,
}

/// What the display shows at one moment.
#[derive(Clone, Debug)]
struct Snapshot {
    feed: String,
    store: String,
    /// The URL of the live page.
    page: Option<String>,
    size: WindowSize,
    /// The input with its unit: trades if this process reads the feed, else records of the log.
    input: String,
    bars_written: u64,
    /// The rates of the input and of bars written.
    per_second: [u64; 2],
    bound: u64,
    committed: u64,
    dead_letters: u64,
    connection: String,
    /// What the process waits for, why there is no live page, that a recording adds nothing, and
    /// the last warning; empty if there is nothing to say.
    state: Vec<String>,
    /// The number of symbols with a bar.
    symbols: usize,
    bars: Vec<(Symbol, LiveBar)>,
    now_ms: i64,
    elapsed: Duration,
}

impl RunDisplay {
    /// A display of these sources; its clock starts now.
    #[must_use]
    pub fn new(sources: RunSources) -> Self {
        Self {
            sources,
            rates: Mutex::default(),
            started: Instant::now(),
        }
    }

    /// The current values, with at most `symbols` symbols.
    fn snapshot(&self, symbols: usize) -> Snapshot {
        let RunSources {
            bars,
            metrics,
            progress,
            feed,
            store,
            state,
            page,
            warnings,
        } = &self.sources;
        let elapsed = self.started.elapsed();
        let bars_written = metrics.bars_written.get();
        let (count, unit, connection) = match progress {
            Some(progress) => {
                let now = progress.snapshot();
                (
                    now.counts.trades,
                    "trades",
                    connection(progress.kind(), now.connection, now.connections),
                )
            }
            None => (metrics.records.get(), "records", String::new()),
        };
        let per_second = locked(&self.rates).per_second(
            u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            [count, bars_written],
        );
        let mut lines = state_lines(state, page);
        lines.extend(progress.as_ref().and_then(nothing_added));
        lines.extend(warnings.line());
        let table = bars.table();
        Snapshot {
            feed: feed.clone(),
            store: store.clone(),
            page: page.url().map(str::to_owned),
            state: lines,
            size: table.size(),
            input: format!("{} {unit}", grouped(count)),
            bars_written,
            per_second,
            bound: metrics.epoch_bound.get(),
            committed: metrics.epoch_committed.get(),
            dead_letters: table.dead_letters(),
            connection,
            symbols: table.symbols(),
            bars: table.busiest(symbols),
            now_ms: now_ms(),
            elapsed,
        }
    }
}

/// Rates are valid after each change, so a poisoned lock still guards valid rates.
fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the process waits for, and why there is no live page.
fn state_lines(state: &ServerState, page: &Served) -> Vec<String> {
    let mut lines: Vec<String> = outages(state)
        .iter()
        .map(|outage| format!("waiting: {outage}"))
        .collect();
    if let Served::Unbound { address, reason } = page {
        lines.push(format!(
            "no live page at {address}: {reason}; choose another address with --http"
        ));
    }
    lines
}

/// That a recording, as far as it was read, was replayed before.
fn nothing_added(progress: &Progress) -> Option<String> {
    let adds_nothing = progress.snapshot().counts.adds_nothing();
    adds_nothing.then(|| "already in the log: nothing was added".to_owned())
}

/// The state of the feed's connection; empty for a recording, which has none, and where the line of
/// the state says more.
fn connection(kind: FeedKind, state: Connection, opened: u64) -> String {
    let feed = match kind {
        FeedKind::Finnhub => "the feed",
        FeedKind::Simulated => "the simulated market",
        FeedKind::Recording => return String::new(),
    };
    match state {
        Connection::Open if opened > 1 => format!("connected to {feed}, connection {opened}"),
        Connection::Open => format!("connected to {feed}"),
        Connection::None | Connection::Connecting | Connection::Waiting | Connection::Closed => {
            String::new()
        }
    }
}

/// Shows the display until `done`, then prints a last line. `on_quit` is called when a key or a
/// closed pipe asks the run to end.
///
/// # Errors
/// Standard output cannot be written, or the terminal failed.
pub fn show(
    display: &RunDisplay,
    done: &AtomicBool,
    colours: bool,
    on_quit: impl Fn() + Send,
) -> io::Result<()> {
    let term = std::env::var("TERM").ok();
    let guard = if can_draw(term.as_deref()) {
        TerminalGuard::acquire().map(Some)
    } else {
        Ok(None)
    };
    let shown = match guard {
        Ok(Some(guard)) => screen::run(guard, display, done, colours, &on_quit),
        Ok(None) => print_lines(display, done),
        Err(error) => {
            // A terminal without a keyboard, as after setsid, is no reason to end the run.
            tracing::warn!(%error, "cannot draw on the terminal; printing lines instead");
            print_lines(display, done)
        }
    };
    let ended = shown.and_then(|()| print_line(display));
    if ended.is_err() {
        // The reader has closed the pipe.
        on_quit();
    }
    ended
}

fn print_lines(display: &RunDisplay, done: &AtomicBool) -> io::Result<()> {
    let mut schedule = LineSchedule::default();
    while !done.load(Ordering::Acquire) {
        let any_bar = display.sources.bars.table().symbols() > 0;
        if schedule.is_due(display.started.elapsed(), any_bar) {
            print_line(display)?;
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn print_line(display: &RunDisplay) -> io::Result<()> {
    let line = plain_line(&display.snapshot(SYMBOLS_ON_A_LINE));
    writeln!(io::stdout(), "{line}")
}

/// When a plain line is due: with the first bar or after a second, whichever is earlier, then every
/// second. Lines that were missed while the process was stopped or the pipe was full are not
/// repeated.
#[derive(Debug, Default)]
struct LineSchedule {
    next: Option<Duration>,
}

impl LineSchedule {
    fn is_due(&mut self, elapsed: Duration, any_bar: bool) -> bool {
        let due = self
            .next
            .map_or(any_bar || elapsed >= LINE_INTERVAL, |next| elapsed >= next);
        if due {
            let on_time = self.next.unwrap_or(elapsed) + LINE_INTERVAL;
            self.next = Some(if on_time > elapsed {
                on_time
            } else {
                elapsed + LINE_INTERVAL
            });
        }
        due
    }
}

/// One line: the counts, then the busiest symbols.
fn plain_line(now: &Snapshot) -> String {
    let mut text = format!(
        "{:.1}s  {} ({}/s)  {} bars ({}/s)  epoch {} bound, {} committed  {} dead letters",
        now.elapsed.as_secs_f64(),
        now.input,
        grouped(now.per_second[0]),
        grouped(now.bars_written),
        grouped(now.per_second[1]),
        now.bound,
        now.committed,
        now.dead_letters
    );
    for (symbol, bar) in &now.bars {
        let number = |e8: Option<i128>| e8.map_or_else(|| "-".to_owned(), short_decimal);
        // The close and the VWAP of one window.
        let close = bar.close.map(|price| i128::from(price.e8()));
        text.push_str(&format!(
            "  {symbol} {} vwap {} volume {}",
            number(close),
            number(bar.vwap_e8),
            short_decimal(bar.volume_e8)
        ));
    }
    for state in &now.state {
        text.push_str(&format!("  [{state}]"));
    }
    text
}

#[cfg(test)]
mod tests {
    use tapeflow_dataflow::Observer;
    use tapeflow_protocol::EpochWrites;
    use tapeflow_schemas::{BarKey, BarState, BarWrite, Totals};
    use tapeflow_schemas::{Conditions, EventTime, Position, Price, Size, Trade};

    use super::*;

    /// A snapshot with one symbol and one trade, half a second old.
    pub(super) fn snapshot() -> Snapshot {
        let display = RunDisplay::new(RunSources {
            bars: LiveBars::new(&WindowSize::DEFAULTS),
            metrics: Arc::default(),
            progress: None,
            feed: "a feed".into(),
            store: "a store".into(),
            state: Arc::new(ServerState::of_feed(Progress::new(FeedKind::Recording))),
            page: Served::At("http://127.0.0.1:8080".into()),
            warnings: Arc::default(),
        });
        let (price, size) = (
            Price::parse("164.0601").expect("price").value,
            Size::parse("5").expect("size").value,
        );
        let trade = Trade::new(
            EventTime::from_ms(60_500).expect("time"),
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
            symbol: Symbol::new("AAPL").expect("symbol"),
            size: WindowSize::DEFAULTS[1],
            start: 60_000,
        };
        let bars = vec![BarWrite {
            key,
            state: BarState { epoch: 7, totals },
            packed: tapeflow_schemas::PackedBars::default(),
            write_timestamp: 1,
        }];
        display.sources.bars.acknowledged(
            7,
            &EpochWrites {
                bars,
                ..EpochWrites::default()
            },
        );
        let mut now = display.snapshot(10);
        now.bars[0].1.acknowledged_ms = Some(60_700);
        Snapshot {
            input: "1,234 trades".into(),
            per_second: [56, 7],
            bound: 8,
            committed: 7,
            dead_letters: 2,
            now_ms: 61_000,
            elapsed: Duration::from_millis(2_040),
            ..now
        }
    }

    #[test]
    fn the_first_line_comes_with_the_first_bar_and_missed_lines_are_not_repeated() {
        let due = |ticks: &[(u64, bool)]| -> Vec<u64> {
            let mut schedule = LineSchedule::default();
            ticks
                .iter()
                .filter(|(ms, bar)| schedule.is_due(Duration::from_millis(*ms), *bar))
                .map(|(ms, _)| *ms)
                .collect()
        };
        assert_eq!(
            due(&[
                (20, false),
                (300, true),
                (320, true),
                (1_299, true),
                (1_300, true),
                (2_310, true),
                (3_300, true)
            ]),
            [300, 1_300, 2_310, 3_300]
        );
        assert_eq!(
            due(&[(999, false), (1_000, false), (1_500, true), (2_000, true)]),
            [1_000, 2_000],
            "without a bar, after a second"
        );
        assert_eq!(
            due(&[
                (100, true),
                (90_000, true),
                (90_020, true),
                (90_999, true),
                (91_000, true)
            ]),
            [100, 90_000, 91_000],
            "after a stop"
        );
    }

    #[test]
    fn a_line_says_what_is_waited_for_and_that_there_is_no_page() {
        let taken = Served::Unbound {
            address: ([127, 0, 0, 1], 8_080).into(),
            reason: "address in use".into(),
        };
        let state = ServerState::of_feed(Progress::new(FeedKind::Finnhub));
        let mut now = snapshot();
        now.state = state_lines(&state, &taken);
        let line = plain_line(&now);
        for part in [
            "[waiting: feed, for 0 s: not connected yet]",
            "[no live page at 127.0.0.1:8080: address in use; choose another address with --http]",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
    }

    #[test]
    fn a_window_without_a_close_shows_none_beside_its_vwap() {
        let mut now = snapshot();
        now.bars[0].1.close = None;
        assert!(plain_line(&now).ends_with("AAPL - vwap 164.0601 volume 5"));
    }

    #[test]
    fn a_plain_line_has_the_counts_and_the_busiest_symbols() {
        assert_eq!(
            plain_line(&snapshot()),
            "2.0s  1,234 trades (56/s)  0 bars (7/s)  epoch 8 bound, 7 committed  2 dead letters  \
             AAPL 164.0601 vwap 164.0601 volume 5"
        );
    }
}
