//! The live view of `tapeflow run`: a table on a terminal, one plain line a second elsewhere.
//!
//! It shows bars that the store has acknowledged, so nothing on it can be lost any more. It never
//! holds the job up: the job's threads put what they wrote on a small board, and a thread of its
//! own draws from there.

mod hold;
mod rates;
mod screen;
mod words;

use std::{
    io::{self, Write},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

pub(crate) use hold::give_back;
use hold::{Hold, can_be_drawn_on};
use rates::Rates;
use tapeflow_dataflow::Metrics;
use tapeflow_ingest::{Connection, Progress};
use tapeflow_schemas::{Symbol, WindowSize};
use words::{glance, grouped};

use crate::live::{Line, Live};

/// How often a plain line is printed.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// Symbols on a plain line.
const SYMBOLS_ON_A_LINE: usize = 3;

/// What there is to see, filled by the job and the feed.
pub(crate) struct View {
    live: Arc<Live>,
    rates: Mutex<Rates>,
    metrics: Arc<Metrics>,
    progress: Option<Progress>,
    feed: String,
    store: String,
    page: Option<String>,
    began: Instant,
}

/// One look at it.
#[derive(Clone, Debug)]
struct Look {
    feed: String,
    store: String,
    /// Where the live page is.
    page: Option<String>,
    size: WindowSize,
    /// What was taken in, with its unit: trades where the feed is in this process, records of the
    /// log otherwise.
    taken: String,
    bars: u64,
    /// Of what was taken in, and of bars.
    per_second: [u64; 2],
    bound: u64,
    committed: u64,
    dead_letters: u64,
    connection: String,
    /// Symbols on the board.
    symbols: usize,
    lines: Vec<(Symbol, Line)>,
    now_ms: i64,
    elapsed: Duration,
}

impl View {
    /// A view of what a job fills; of `feed` and `store` it shows the names.
    pub(crate) fn new(
        live: Arc<Live>,
        metrics: Arc<Metrics>,
        progress: Option<Progress>,
        feed: String,
        store: String,
        page: Option<String>,
    ) -> Arc<Self> {
        let rates = Mutex::default();
        Arc::new(Self {
            live,
            rates,
            metrics,
            progress,
            feed,
            store,
            page,
            began: Instant::now(),
        })
    }

    fn look(&self, symbols: usize) -> Look {
        let elapsed = self.began.elapsed();
        let bars = self.metrics.bars_written.get();
        let (count, unit, connection) = match &self.progress {
            Some(progress) => {
                let now = progress.snapshot();
                (
                    now.counts.trades,
                    "trades",
                    connection(now.connection, now.connections),
                )
            }
            None => (self.metrics.records.get(), "records", String::new()),
        };
        let per_second = locked(&self.rates).per_second(
            u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX),
            [count, bars],
        );
        let board = self.live.board();
        Look {
            feed: self.feed.clone(),
            store: self.store.clone(),
            page: self.page.clone(),
            size: board.size(),
            taken: format!("{} {unit}", grouped(count)),
            bars,
            per_second,
            bound: self.metrics.epoch_bound.get(),
            committed: self.metrics.epoch_committed.get(),
            dead_letters: board.dead_letters(),
            connection,
            symbols: board.symbols(),
            lines: board.busiest(symbols),
            now_ms: now_ms(),
            elapsed,
        }
    }
}

/// Rates are whole whatever their holder died of.
fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This machine's clock.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
}

/// The feed's connection in words; nothing of a recording's, which has none.
fn connection(state: Connection, opened: u64) -> String {
    let word = match state {
        Connection::None => return String::new(),
        Connection::Connecting => "connecting to the feed",
        Connection::Open => "connected to the feed",
        Connection::Waiting => "feed lost, waiting to connect again",
        Connection::Closed => "feed closed",
    };
    if opened > 1 {
        format!("{word}, connection {opened}")
    } else {
        word.to_owned()
    }
}

/// Shows the view until `done`, then a last line. `on_quit` is called when a person, or the closed
/// end of a pipe, wants the run to end.
pub(crate) fn paint(
    view: Arc<View>,
    done: Arc<AtomicBool>,
    colours: bool,
    on_quit: impl Fn() + Send,
) -> io::Result<()> {
    let term = std::env::var("TERM").ok();
    let held = if can_be_drawn_on(term.as_deref()) {
        Hold::take().map(Some)
    } else {
        Ok(None)
    };
    let painted = match held {
        Ok(Some(held)) => screen::run(held, &view, &done, colours, &on_quit),
        Ok(None) => print_lines(&view, &done),
        Err(error) => {
            // A terminal without keys, as after setsid: no reason to end the run.
            tracing::warn!(%error, "cannot take the terminal; printing lines instead");
            print_lines(&view, &done)
        }
    };
    let ended =
        painted.and_then(|()| writeln!(io::stdout(), "{}", plain(&view.look(SYMBOLS_ON_A_LINE))));
    if ended.is_err() {
        // Nobody watches any more.
        on_quit();
    }
    ended
}

fn print_lines(view: &View, done: &AtomicBool) -> io::Result<()> {
    let mut pace = Pace::default();
    while !done.load(Ordering::Acquire) {
        if pace.is_due(view.began.elapsed(), view.live.board().symbols() > 0) {
            writeln!(io::stdout(), "{}", plain(&view.look(SYMBOLS_ON_A_LINE)))?;
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// When a plain line is due: with the first bar or after a second, whichever comes first, then each
/// second. A second that was missed, while the process was stopped or the pipe full, is not made up
/// for.
#[derive(Debug, Default)]
struct Pace {
    next: Option<Duration>,
}

impl Pace {
    fn is_due(&mut self, elapsed: Duration, any_bar: bool) -> bool {
        let due = self
            .next
            .map_or(any_bar || elapsed >= LINE_EVERY, |next| elapsed >= next);
        if due {
            let on_time = self.next.unwrap_or(elapsed) + LINE_EVERY;
            self.next = Some(if on_time > elapsed {
                on_time
            } else {
                elapsed + LINE_EVERY
            });
        }
        due
    }
}

/// One line: what happened, then the busiest symbols.
fn plain(look: &Look) -> String {
    let mut text = format!(
        "{:.1}s  {} ({}/s)  {} bars ({}/s)  epoch {} bound, {} committed  {} dead letters",
        look.elapsed.as_secs_f64(),
        look.taken,
        grouped(look.per_second[0]),
        grouped(look.bars),
        grouped(look.per_second[1]),
        look.bound,
        look.committed,
        look.dead_letters
    );
    for (symbol, line) in &look.lines {
        let number = |e8: Option<i128>| e8.map_or_else(|| "-".to_owned(), glance);
        let last = line.last.map(|price| i128::from(price.e8()));
        text.push_str(&format!(
            "  {symbol} {} vwap {} volume {}",
            number(last),
            number(line.vwap_e8),
            glance(line.volume_e8)
        ));
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

    /// A look at one symbol with one trade, half a second old.
    pub(super) fn look() -> Look {
        let view = View::new(
            Live::new(&WindowSize::DEFAULTS),
            Arc::default(),
            None,
            "a feed".into(),
            "a store".into(),
            Some("http://127.0.0.1:8080".into()),
        );
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
            write_timestamp: 1,
        }];
        view.live.acknowledged(
            7,
            &EpochWrites {
                bars,
                ..EpochWrites::default()
            },
        );
        let mut now = view.look(10);
        now.lines[0].1.acknowledged_ms = Some(60_700);
        let taken = "1,234 trades".into();
        Look {
            taken,
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
    fn the_first_line_comes_with_the_first_bar_and_missed_ones_are_not_made_up_for() {
        let due = |ticks: &[(u64, bool)]| -> Vec<u64> {
            let mut pace = Pace::default();
            ticks
                .iter()
                .filter(|(ms, bar)| pace.is_due(Duration::from_millis(*ms), *bar))
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
            "nothing yet is worth a line too"
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
    fn a_plain_line_says_what_happened_and_to_whom() {
        assert_eq!(
            plain(&look()),
            "2.0s  1,234 trades (56/s)  0 bars (7/s)  epoch 8 bound, 7 committed  2 dead letters  AAPL 164.0601 vwap 164.0601 volume 5"
        );
    }
}
