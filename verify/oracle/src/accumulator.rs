//! The values of one bar. It keeps the trades that may set open and close, and decides between them
//! when the bar is read, so the order of the trades does not matter.

use crate::conditions::{Sets, counts};

/// The sums of one policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct OracleSums {
    /// Units traded, in 1e-8.
    pub volume_e8: i128,
    /// Price times size, summed, in 1e-16.
    pub notional_e16: i128,
    /// Trades counted.
    pub trades: u64,
}

/// The values of a bar. Prices are in 1e-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct OracleBar {
    /// Policy `all`: every trade.
    pub all: OracleSums,
    /// Policy `sip`: the trades whose size the consolidated tape counts.
    pub sip: OracleSums,
    /// Policy `strict`: those of `sip` that form prices.
    pub strict: OracleSums,
    /// Trades that can set high and low.
    pub priced: u64,
    /// The first price.
    pub open: Option<i64>,
    /// The highest.
    pub high: Option<i64>,
    /// The lowest.
    pub low: Option<i64>,
    /// The last price.
    pub close: Option<i64>,
    /// The event time of the earliest trade of all, in milliseconds since 1970 UTC.
    pub first_trade_ms: Option<i64>,
    /// The event time of the latest one.
    pub last_trade_ms: Option<i64>,
}

/// An accepted trade with its position in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AcceptedTrade<'a> {
    pub(crate) event_ms: i64,
    pub(crate) partition: u32,
    pub(crate) offset: i64,
    pub(crate) index: u32,
    pub(crate) price_e8: i64,
    pub(crate) size_e8: i128,
    pub(crate) codes: &'a [u8],
    /// Whether the window had closed before the trade came.
    pub(crate) late: bool,
}

/// (event time, partition, offset, index, price). The order of these tuples is the order of trades.
type Candidate = (i64, u32, i64, u32, i64);

/// What the trades of one epoch add to one bar.
#[derive(Clone, Debug, Default)]
pub(crate) struct Accumulator {
    all: OracleSums,
    sip: OracleSums,
    strict: OracleSums,
    priced: u64,
    high: Option<i64>,
    low: Option<i64>,
    first_always: Option<Candidate>,
    last_always: Option<Candidate>,
    first_if_first: Option<Candidate>,
    /// The first one; it counts only if there are no others.
    if_sole: Option<Candidate>,
    if_sole_count: u64,
    /// The event times of the earliest and the latest trade.
    times: Option<(i64, i64)>,
    /// Trades that came after the window had closed.
    pub(crate) late: u64,
}

impl OracleSums {
    fn add(&mut self, other: Self) {
        let fits = "the sums of admitted trades fit into 128 bits";
        self.volume_e8 = self.volume_e8.checked_add(other.volume_e8).expect(fits);
        self.notional_e16 = self
            .notional_e16
            .checked_add(other.notional_e16)
            .expect(fits);
        self.trades += other.trades;
    }
}

impl Accumulator {
    pub(crate) fn add(&mut self, trade: AcceptedTrade<'_>) {
        let counts = counts(trade.codes);
        let one = OracleSums {
            volume_e8: trade.size_e8,
            notional_e16: i128::from(trade.price_e8) * trade.size_e8,
            trades: 1,
        };
        let mut single = Self {
            all: one,
            late: u64::from(trade.late),
            times: Some((trade.event_ms, trade.event_ms)),
            ..Self::default()
        };
        if counts.volume {
            single.sip = one;
        }
        if counts.volume && counts.high_low {
            single.strict = one;
        }
        if counts.high_low {
            single.priced = 1;
            single.high = Some(trade.price_e8);
            single.low = Some(trade.price_e8);
        }
        let candidate = Some((
            trade.event_ms,
            trade.partition,
            trade.offset,
            trade.index,
            trade.price_e8,
        ));
        match counts.sets {
            Sets::Always => (single.first_always, single.last_always) = (candidate, candidate),
            Sets::IfFirst => single.first_if_first = candidate,
            Sets::IfSole => (single.if_sole, single.if_sole_count) = (candidate, 1),
            Sets::Never => {}
        }
        self.merge(&single);
    }

    /// Adds all trades of another accumulator of the same bar.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.all.add(other.all);
        self.sip.add(other.sip);
        self.strict.add(other.strict);
        self.priced += other.priced;
        self.high = [self.high, other.high].into_iter().flatten().max();
        self.low = [self.low, other.low].into_iter().flatten().min();
        self.first_always = [self.first_always, other.first_always]
            .into_iter()
            .flatten()
            .min();
        self.last_always = [self.last_always, other.last_always]
            .into_iter()
            .flatten()
            .max();
        self.first_if_first = [self.first_if_first, other.first_if_first]
            .into_iter()
            .flatten()
            .min();
        self.if_sole = self.if_sole.or(other.if_sole);
        self.if_sole_count += other.if_sole_count;
        self.late += other.late;
        self.times = match (self.times, other.times) {
            (Some((first, last)), Some((first_too, last_too))) => {
                Some((first.min(first_too), last.max(last_too)))
            }
            (mine, theirs) => mine.or(theirs),
        };
    }

    pub(crate) fn bar(&self) -> OracleBar {
        let sole = self.if_sole.filter(|_| self.if_sole_count == 1);
        let open = [self.first_always, self.first_if_first]
            .into_iter()
            .flatten()
            .min()
            .or(sole);
        let close = self.last_always.or(self.first_if_first).or(sole);
        let price = |candidate: Candidate| candidate.4;
        OracleBar {
            all: self.all,
            sip: self.sip,
            strict: self.strict,
            priced: self.priced,
            open: open.map(price),
            high: self.high,
            low: self.low,
            close: close.map(price),
            first_trade_ms: self.times.map(|(first, _)| first),
            last_trade_ms: self.times.map(|(_, last)| last),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adds trades of one unit, given as (event time, price, condition code), and compares open,
    /// high, low and close.
    fn check(trades: &[(i64, i64, u8)], want: [Option<i64>; 4]) {
        let codes: Vec<[u8; 1]> = trades.iter().map(|trade| [trade.2]).collect();
        let trade = |at: usize| {
            let (event_ms, price_e8, _) = trades[at];
            let offset = i64::try_from(at).expect("few");
            AcceptedTrade {
                event_ms,
                partition: 0,
                offset,
                index: 0,
                price_e8,
                size_e8: 1,
                codes: &codes[at],
                late: false,
            }
        };
        // In order, and backwards in two parts: the order of arrival must not matter.
        let (mut forwards, mut backwards, mut rest) = (
            Accumulator::default(),
            Accumulator::default(),
            Accumulator::default(),
        );
        for at in 0..trades.len() {
            forwards.add(trade(at));
        }
        for at in (0..trades.len()).rev() {
            if at % 2 == 0 {
                &mut backwards
            } else {
                &mut rest
            }
            .add(trade(at));
        }
        backwards.merge(&rest);
        assert_eq!(forwards.bar(), backwards.bar(), "{trades:?}");
        let bar = forwards.bar();
        assert_eq!([bar.open, bar.high, bar.low, bar.close], want, "{trades:?}");
    }

    #[test]
    fn open_and_close_follow_event_time_then_position() {
        check(
            &[(5, 50, 1), (3, 30, 1), (5, 55, 1), (4, 40, 1)],
            [Some(30), Some(55), Some(30), Some(55)],
        );
    }

    #[test]
    fn trades_that_set_open_and_close_only_if_first_or_sole_yield_to_others() {
        check(
            &[(1, 10, 15), (2, 20, 1), (3, 30, 15)],
            [Some(10), Some(30), Some(10), Some(20)],
        );
        check(
            &[(2, 20, 15), (1, 10, 18)],
            [Some(10), Some(20), Some(10), Some(10)],
        );
        check(&[(1, 10, 9)], [Some(10), Some(10), Some(10), Some(10)]);
        check(&[(1, 10, 9), (2, 20, 9)], [None, Some(20), Some(10), None]);
        check(
            &[(1, 10, 9), (2, 20, 15)],
            [Some(20), Some(20), Some(10), Some(20)],
        );
        check(
            &[(1, 10, 9), (2, 20, 12)],
            [Some(10), Some(10), Some(10), Some(10)],
        );
        check(&[(1, 10, 12)], [None; 4]);
    }
}
