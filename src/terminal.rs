//! The live view of `tapeflow run`: a table on a terminal, one plain line a second elsewhere.
//!
//! It shows rows that the store has acknowledged, so nothing on it can be lost any more. It never holds the job up: the job's threads put
//! what they wrote on a small board, and a thread of its own draws from there.

mod board;
mod screen;
mod words;

use std::{
    io::{self, IsTerminal, Write},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use board::{Board, Line, Rates};
use tapeflow_dataflow::{Metrics, Observer};
use tapeflow_ingest::{Connection, Progress};
use tapeflow_schemas::{Symbol, WindowSize};
use tapeflow_sinks::EpochWrites;
use words::{glance, grouped};

/// How often a plain line is printed.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// Symbols on a plain line.
const SYMBOLS_ON_A_LINE: usize = 3;

/// What there is to see, filled by the job and the feed.
pub(crate) struct View {
    board: Mutex<Board>,
    rates: Mutex<Rates>,
    metrics: Arc<Metrics>,
    progress: Option<Progress>,
    feed: String,
    store: String,
    began: Instant,
}

/// One look at it.
#[derive(Clone, Debug)]
struct Look {
    feed: String,
    store: String,
    size: WindowSize,
    /// What was taken in, with its unit: trades where the feed is in this process, records of the log otherwise.
    taken: String,
    rows: u64,
    /// Of what was taken in, and of rows.
    per_second: [u64; 2],
    bound: u64,
    committed: u64,
    rejects: u64,
    connection: String,
    lines: Vec<(Symbol, Line)>,
    now_ms: i64,
    elapsed: Duration,
}

impl View {
    /// A view of a job with these sizes; of `feed` and `store` it shows the names.
    pub(crate) fn new(sizes: &[WindowSize], metrics: Arc<Metrics>, progress: Option<Progress>, feed: String, store: String) -> Arc<Self> {
        let (board, rates) = (Mutex::new(Board::new(sizes)), Mutex::default());
        Arc::new(Self { board, rates, metrics, progress, feed, store, began: Instant::now() })
    }

    fn look(&self, symbols: usize) -> Look {
        let elapsed = self.began.elapsed();
        let rows = self.metrics.rows_written.get();
        let (count, unit, connection) = match &self.progress {
            Some(progress) => {
                let now = progress.snapshot();
                (now.counts.trades, "trades", connection(now.connection, now.connections))
            }
            None => (self.metrics.records.get(), "records", String::new()),
        };
        let per_second = locked(&self.rates).per_second(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX), [count, rows]);
        let board = locked(&self.board);
        Look {
            feed: self.feed.clone(),
            store: self.store.clone(),
            size: board.size(),
            taken: format!("{} {unit}", grouped(count)),
            rows,
            per_second,
            bound: self.metrics.epoch_bound.get(),
            committed: self.metrics.epoch_committed.get(),
            rejects: board.rejects,
            connection,
            lines: board.busiest(symbols),
            now_ms: now_ms(),
            elapsed,
        }
    }
}

impl Observer for View {
    fn acknowledged(&self, _epoch: u64, writes: &EpochWrites) {
        locked(&self.board).take(writes);
    }
}

/// A board is whole whatever its holder died of: every change of it is one assignment.
fn locked<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
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
    if opened > 1 { format!("{word}, connection {opened}") } else { word.to_owned() }
}

/// Shows the view until `done`, then a last line. `on_quit` is called when a person, or the closed end of a pipe, wants the run to end.
pub(crate) fn paint(view: Arc<View>, done: Arc<AtomicBool>, colours: bool, on_quit: impl Fn() + Send) -> io::Result<()> {
    let painted = if io::stdout().is_terminal() { screen::run(&view, &done, colours, &on_quit) } else { print_lines(&view, &done) };
    let ended = painted.and_then(|()| writeln!(io::stdout(), "{}", plain(&view.look(SYMBOLS_ON_A_LINE))));
    if ended.is_err() {
        // Nobody watches any more.
        on_quit();
    }
    ended
}

/// Gives the terminal back before the process leaves without ending the view; harmless where nothing was taken.
pub(crate) fn give_back() {
    if io::stdout().is_terminal() {
        let _ = ratatui::try_restore();
    }
}

fn print_lines(view: &View, done: &AtomicBool) -> io::Result<()> {
    let mut next = view.began + LINE_EVERY;
    while !done.load(Ordering::Acquire) {
        if Instant::now() >= next {
            next += LINE_EVERY;
            writeln!(io::stdout(), "{}", plain(&view.look(SYMBOLS_ON_A_LINE)))?;
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// One line: what happened, then the busiest symbols.
fn plain(look: &Look) -> String {
    let mut text = format!(
        "{:.1}s  {} ({}/s)  {} rows ({}/s)  epoch {} bound, {} committed  {} dead letters",
        look.elapsed.as_secs_f64(),
        look.taken,
        grouped(look.per_second[0]),
        grouped(look.rows),
        grouped(look.per_second[1]),
        look.bound,
        look.committed,
        look.rejects
    );
    for (symbol, line) in &look.lines {
        let number = |e8: Option<i128>| e8.map_or_else(|| "-".to_owned(), glance);
        let last = line.last.map(|price| i128::from(price.e8()));
        text.push_str(&format!("  {symbol} {} vwap {} volume {}", number(last), number(line.vwap_e8), glance(line.volume_e8)));
    }
    text
}

#[cfg(test)]
mod tests {
    use tapeflow_schemas::{Conditions, EventTime, Position, Price, Size, Trade};
    use tapeflow_sinks::{RowKey, RowState, RowWrite, Totals};

    use super::*;

    /// A look at one symbol with one trade, half a second old.
    pub(super) fn look() -> Look {
        let view = View::new(&WindowSize::DEFAULTS, Arc::default(), None, "a feed".into(), "a store".into());
        let (price, size) = (Price::parse("164.0601").expect("price").value, Size::parse("5").expect("size").value);
        let trade = Trade::new(EventTime::from_ms(60_500).expect("time"), price, size, Conditions::NONE).expect("trade");
        let totals = Totals::of(&trade, Position { partition: 0, offset: 0, index: 0 }, false);
        let key = RowKey { symbol: Symbol::new("AAPL").expect("symbol"), size: WindowSize::DEFAULTS[1], start: 60_000 };
        let rows = vec![RowWrite { key, state: RowState { epoch: 7, totals }, stamp: 1 }];
        view.acknowledged(7, &EpochWrites { rows, ..EpochWrites::default() });
        let now = view.look(10);
        let taken = "1,234 trades".into();
        Look { taken, per_second: [56, 7], bound: 8, committed: 7, rejects: 2, now_ms: 61_000, elapsed: Duration::from_millis(2_040), ..now }
    }

    #[test]
    fn a_plain_line_says_what_happened_and_to_whom() {
        assert_eq!(
            plain(&look()),
            "2.0s  1,234 trades (56/s)  0 rows (7/s)  epoch 8 bound, 7 committed  2 dead letters  AAPL 164.0601 vwap 164.0601 volume 5"
        );
    }
}
