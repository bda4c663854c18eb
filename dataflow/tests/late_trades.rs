//! A late trade costs what it touches, however many symbols the market has.

mod support;

use std::sync::Arc;

use support::{
    check::check,
    feed::append_trade_at,
    job::{block_on, config, run_counted},
    memory_log::MemoryLog,
};
use tapeflow_dataflow::Metrics;
use tapeflow_sinks::memory::MemoryStore;

/// A minute of the market.
const MINUTE_MS: i64 = 60_000;
const START_MS: i64 = 1_699_999_980_000;

struct Market {
    log: MemoryLog,
    store: Arc<MemoryStore>,
    sequence: u64,
}

impl Market {
    fn new() -> Self {
        Self {
            log: MemoryLog::new(1),
            store: Arc::new(MemoryStore::new()),
            sequence: 0,
        }
    }

    fn trade(&mut self, symbol: usize, minute: i64, price: &str) {
        self.sequence += 1;
        let event_ms = START_MS + minute * MINUTE_MS;
        append_trade_at(
            &self.log,
            &format!("S{symbol}"),
            (self.sequence, event_ms),
            price,
        );
    }

    /// Runs to the end of the log, by another generation each time, and compares everything.
    fn run(&self, workers: usize, resident_bars: usize) -> Arc<Metrics> {
        let (config, metrics) = (config(workers, resident_bars), Arc::default());
        run_counted(&config, &self.log, self.store.clone(), &metrics).expect("runs to the end");
        let what = format!("{workers} workers, {resident_bars} resident");
        block_on(check(&config, &self.log, &*self.store, &what));
        assert_eq!(self.store.violations(), Vec::<String>::new());
        metrics
    }
}

#[test]
fn a_late_trade_reads_no_bar_of_another_symbol() {
    const SYMBOLS: usize = 400;
    let mut market = Market::new();
    for minute in 0..3 {
        for symbol in 0..SYMBOLS {
            market.trade(symbol, minute, "1");
            market.trade(symbol, minute, &format!("1.{}", 1 + symbol % 90));
        }
    }
    market.run(2, 100_000);
    // One symbol trades in each earlier minute, in a later run, which has nothing in memory.
    for minute in 0..3 {
        market.trade(7, minute, "3");
    }
    let metrics = market.run(2, 100_000);
    // The windows of a minute and a day have views: three minutes and a day, four views each.
    assert_eq!(metrics.views_read.get(), 4 * 4);
    assert_eq!(metrics.view_bars_read.get(), 0, "no bar is read for a view");
    assert_eq!(
        metrics.bars_read.get(),
        3 + 1,
        "three minutes, which hold their seconds, and a day: only those that change"
    );
}

#[test]
fn a_ranking_that_runs_out_of_reserve_is_made_from_the_bars_of_its_window() {
    // 80 symbols move by 1 to 80 percent. The cells of this test rank 12 of them.
    let mut market = Market::new();
    for symbol in 0..80 {
        market.trade(symbol, 0, "1.00");
        market.trade(symbol, 0, &format!("{}.{:02}", 1, 1 + symbol % 99));
    }
    market.run(1, 8);
    // The greatest movers come back one after the other, each in a generation of its own.
    let mut recounts = 0;
    for symbol in (60..80).rev() {
        market.trade(symbol, 0, "1.00");
        if symbol % 2 == 0 {
            let metrics = market.run(1 + symbol % 4 / 2, 8);
            recounts += metrics.view_recounts.get();
            assert!(
                metrics.view_bars_read.get() <= 2 * 80,
                "of the minute and the day"
            );
        }
    }
    assert!(
        (4..=12).contains(&recounts),
        "the reserve of two of the minute and of the day ran out, {recounts} times in ten runs"
    );
}

#[test]
fn bars_of_open_windows_that_do_not_fit_into_memory_are_counted_when_they_are_read_back() {
    let mut market = Market::new();
    for n in 0..8_000 {
        market.trade(n % 50, 0, "1.00");
    }
    let metrics = market.run(1, 100_000);
    assert_eq!(metrics.open_bars_read.get(), 0, "all fit");
    let again = Market {
        store: Arc::default(),
        ..market
    };
    let metrics = again.run(1, 4);
    assert!(
        metrics.open_bars_read.get() > 50,
        "{} of {} bars read",
        metrics.open_bars_read.get(),
        metrics.bars_read.get()
    );
}
