//! The frame generator: endless, and a pure function of its seed and the times it is given.

use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{
    faults::FrameFaults,
    market::{Decimal, Instrument},
};

/// The distribution of trades over symbols.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Popularity {
    /// The symbol of rank n gets a share proportional to n to the power of minus this. Real markets
    /// are near 1.
    Zipf(f64),
    /// The first symbol gets this share of all trades, and the others equal parts of the rest.
    OneHot(f64),
}

/// The event times of trades.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// The time of the call that generates the frame.
    Wall,
    /// The generator's own time, independent of the wall clock.
    Tape {
        /// The time of the first trade, in milliseconds since 1970 UTC.
        start_ms: i64,
        /// Trades in one second of this time; at least one.
        trades_per_second: u32,
    },
}

/// Settings of a generator.
#[derive(Clone, Debug)]
pub struct GeneratorConfig {
    /// The same seed gives the same frames.
    pub seed: u64,
    /// The symbols, the most traded first.
    pub symbols: Vec<String>,
    /// The symbols' shares of the trades.
    pub popularity: Popularity,
    /// The event times of the trades.
    pub clock: Clock,
    /// Injected faults.
    pub faults: FrameFaults,
}

/// A source of frames.
#[derive(Debug)]
pub struct Generator {
    random: SmallRng,
    clock: Clock,
    faults: FrameFaults,
    popularity: Popularity,
    instruments: Vec<Instrument>,
    all: Selection,
    /// Entries generated, trades and price updates: the time of [`Clock::Tape`].
    trades: u64,
    /// Price updates among all entries.
    price_updates: u64,
    previous: String,
}

/// Some of the generator's symbols with their shares: the subscriptions of one client.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Each symbol's rank, and the sum of the shares up to and including it.
    shares: Vec<(usize, f64)>,
}

/// The most trades in one frame.
pub const MAX_TRADES_PER_FRAME: u64 = 10;
/// The longest delay of an out-of-order trade.
const LATE_MS: i64 = 5_000;
/// How far the times of neighbouring trades go back in a normal feed.
const JITTER_MS: i64 = 30;

impl Generator {
    /// A generator at its first frame. Without symbols its frames have no trades.
    #[must_use]
    pub fn new(config: GeneratorConfig) -> Self {
        let mut random = SmallRng::seed_from_u64(config.seed);
        let instruments: Vec<Instrument> = config
            .symbols
            .iter()
            .map(|symbol| Instrument::new(symbol, &mut random))
            .collect();
        let all = Selection::new(config.popularity, instruments.len(), 0..instruments.len());
        Self {
            random,
            clock: config.clock,
            faults: config.faults,
            popularity: config.popularity,
            instruments,
            all,
            trades: 0,
            price_updates: 0,
            previous: String::new(),
        }
    }

    /// The symbols for which `chosen` is true.
    #[must_use]
    pub fn select(&self, chosen: impl Fn(&str) -> bool) -> Selection {
        let ranks = self
            .instruments
            .iter()
            .enumerate()
            .filter(|(_, instrument)| chosen(&instrument.symbol))
            .map(|(rank, _)| rank);
        Selection::new(self.popularity, self.instruments.len(), ranks)
    }

    /// Appends the next frame of all symbols; see [`Generator::next_frame_of`].
    pub fn next_frame(&mut self, now_ms: i64, limit: u64, out: &mut String) -> u64 {
        let all = std::mem::take(&mut self.all);
        let trades = self.next_frame_of(&all, now_ms, limit, out);
        self.all = all;
        trades
    }

    /// Appends the next frame to `out`: at most `limit` trades, and never more than ten. Returns
    /// the number of its trades: 0 for a faulty frame or without symbols. [`Clock::Wall`] uses
    /// `now_ms`;
    /// [`Clock::Tape`] ignores it.
    pub fn next_frame_of(
        &mut self,
        selection: &Selection,
        now_ms: i64,
        limit: u64,
        out: &mut String,
    ) -> u64 {
        if self.faults.any_whole_frame() {
            if self.random.random_bool(self.faults.bad_json) {
                out.push_str(r#"{"data":[{"c":["1"],"p":164.06,"s":"AAP"#);
                return 0;
            }
            if self.random.random_bool(self.faults.unknown_type) {
                out.push_str(r#"{"data":[{"category":"company","id":1}],"type":"news"}"#);
                return 0;
            }
            if self.random.random_bool(self.faults.duplicate_frame) && !self.previous.is_empty() {
                out.push_str(&self.previous);
                return 0;
            }
        }
        let begin = out.len();
        let trades = if selection.shares.is_empty() {
            0
        } else {
            self.trades_in_frame().min(limit)
        };
        out.push_str(r#"{"data":["#);
        for n in 0..trades {
            if n > 0 {
                out.push(',');
            }
            let event_ms = self.event_ms(now_ms);
            let rank = selection.pick(&mut self.random);
            self.push_trade(rank, event_ms, 1, out);
            self.trades += 1;
        }
        out.push_str(r#"],"type":"trade"}"#);
        if self.faults.duplicate_frame > 0.0 {
            self.previous.clear();
            self.previous.push_str(&out[begin..]);
        }
        trades
    }

    /// Price updates so far, entries of size zero. They are among the trades that the frames count.
    #[must_use]
    pub fn price_updates(&self) -> u64 {
        self.price_updates
    }

    /// True in this share of the calls. The server draws its own chances from the same seed.
    pub(super) fn chance(&mut self, share: f64) -> bool {
        self.random.random_bool(share.clamp(0.0, 1.0))
    }

    /// Small frames are common, and so are full ones: Finnhub splits a busy moment into frames of
    /// ten.
    fn trades_in_frame(&mut self) -> u64 {
        if self.random.random_bool(0.3) {
            MAX_TRADES_PER_FRAME
        } else {
            self.random.random_range(1..=MAX_TRADES_PER_FRAME)
        }
    }

    /// The shares of the first symbols, at most `count`, the most traded first.
    pub(super) fn shares(&self, count: usize) -> Vec<f64> {
        let sums = self.all.shares.iter().map(|(_, sum)| *sum);
        let total = sums.clone().next_back().unwrap_or(1.0);
        let before = std::iter::once(0.0).chain(sums.clone());
        sums.zip(before)
            .take(count)
            .map(|(sum, before)| (sum - before) / total)
            .collect()
    }

    /// Appends the next trade of the symbol of a rank. It moves the price as much as `weight` live
    /// trades do, and has their size; live trades have a weight of 1.
    pub(super) fn push_trade(&mut self, rank: usize, event_ms: i64, weight: u64, out: &mut String) {
        let (random, faults) = (&mut self.random, &self.faults);
        let Some(instrument) = self.instruments.get_mut(rank) else {
            return;
        };
        let price = instrument.walk(weight.isqrt(), random);
        let mut size = instrument.size(random);
        size.units *= weight;
        let mut conditions = instrument.conditions(size, random);
        if faults.any_trade() {
            if random.random_bool(faults.zero_size) {
                size = Decimal {
                    units: 0,
                    places: 0,
                };
            }
            if random.random_bool(faults.bare_conditions) {
                conditions = ["null", "[]", ""][random.random_range(0..3)];
            }
        }
        self.price_updates += u64::from(size.units == 0);
        out.push('{');
        if !conditions.is_empty() {
            out.push_str(r#""c":"#);
            out.push_str(conditions);
            out.push(',');
        }
        out.push_str(r#""p":"#);
        if faults.bad_value > 0.0 && random.random_bool(faults.bad_value) {
            out.push_str(["-1.5", "0", "1e30", "\"NaN\"", "null"][random.random_range(0..5)]);
        } else {
            push_decimal(out, price);
        }
        out.push_str(r#","s":""#);
        // Symbols of the simulated market need no escapes.
        out.push_str(&instrument.symbol);
        out.push_str(r#"","t":"#);
        push_integer(out, u64::try_from(event_ms).unwrap_or(0), 1);
        out.push_str(r#","v":"#);
        push_decimal(out, size);
        out.push('}');
    }

    fn event_ms(&mut self, now_ms: i64) -> i64 {
        let on_time_ms = match self.clock {
            Clock::Wall => now_ms,
            Clock::Tape {
                start_ms,
                trades_per_second,
            } => {
                start_ms
                    + i64::try_from(
                        self.trades.saturating_mul(1000) / u64::from(trades_per_second.max(1)),
                    )
                    .unwrap_or(0)
            }
        };
        let back_ms = match self.random.random::<f64>() {
            share if share < self.faults.out_of_order => self.random.random_range(0..=LATE_MS),
            share if share < self.faults.out_of_order + 0.1 => {
                self.random.random_range(0..=JITTER_MS)
            }
            _ => 0,
        };
        on_time_ms - back_ms
    }
}

impl Selection {
    fn new(popularity: Popularity, symbols: usize, ranks: impl Iterator<Item = usize>) -> Self {
        let real = |number: usize| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
        let share = |rank: usize| match popularity {
            Popularity::Zipf(exponent) => real(rank + 1).powf(-exponent),
            Popularity::OneHot(share) if rank == 0 => share,
            Popularity::OneHot(share) => (1.0 - share) / real(symbols - 1),
        };
        let mut sum = 0.0;
        let shares = ranks.map(|rank| {
            sum += share(rank);
            (rank, sum)
        });
        Self {
            shares: shares.collect(),
        }
    }

    fn pick(&self, random: &mut SmallRng) -> usize {
        let Some((last, sum)) = self.shares.last() else {
            return usize::MAX;
        };
        let at = random.random::<f64>() * sum;
        let found = self.shares.partition_point(|(_, share)| *share <= at);
        self.shares.get(found).map_or(*last, |(rank, _)| *rank)
    }
}

/// A decimal in JSON, without zeros at the end of the fraction.
fn push_decimal(out: &mut String, decimal: Decimal) {
    let Decimal {
        mut units,
        mut places,
    } = decimal;
    while places > 0 && units % 10 == 0 {
        units /= 10;
        places -= 1;
    }
    let one = 10u64.pow(places);
    push_integer(out, units / one, 1);
    if places > 0 {
        out.push('.');
        push_integer(out, units % one, usize::try_from(places).unwrap_or(1));
    }
}

/// An integer with at least `width` digits.
fn push_integer(out: &mut String, mut number: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    while number > 0 || digits.len() - at < width {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
    out.extend(digits[at..].iter().map(|digit| char::from(*digit)));
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::{Counts, Frame, admission::admit, simulator::symbols};

    fn config(seed: u64, popularity: Popularity, faults: FrameFaults) -> GeneratorConfig {
        GeneratorConfig {
            seed,
            symbols: symbols(200),
            popularity,
            clock: Clock::Tape {
                start_ms: 1_704_205_800_000,
                trades_per_second: 1_000,
            },
            faults,
        }
    }

    fn frames(config: GeneratorConfig, trades: u64) -> Vec<String> {
        let mut generator = Generator::new(config);
        let (mut frames, mut left) = (Vec::new(), trades);
        while left > 0 {
            let mut frame = String::new();
            left -= generator.next_frame(0, left, &mut frame);
            frames.push(frame);
        }
        frames
    }

    fn admit_all(frames: &[String]) -> (Counts, HashMap<String, usize>) {
        let (mut counts, mut of) = (Counts::default(), HashMap::new());
        for frame in frames {
            let frame = Frame {
                line: 1,
                bytes: frame.as_bytes().to_vec(),
                taken_ms: None,
            };
            for group in admit(&frame, &mut counts).groups {
                *of.entry(group.symbol.into_owned()).or_default() += group.trades.len();
            }
        }
        (counts, of)
    }

    #[test]
    fn the_same_seed_gives_the_same_frames_and_another_seed_others() {
        let make = |seed| {
            frames(
                config(seed, Popularity::Zipf(1.0), FrameFaults::NONE),
                1_000,
            )
        };
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
    }

    #[test]
    fn every_entry_of_a_feed_without_faults_is_admitted_and_the_first_symbol_has_most() {
        let (counts, of) = admit_all(&frames(
            config(3, Popularity::Zipf(1.0), FrameFaults::default()),
            20_000,
        ));
        assert_eq!(counts.invalid_frames(), 0, "{:?}", counts.invalid);
        assert_eq!(counts.trades + counts.price_updates, 20_000);
        assert_eq!(counts.rounded, 0);
        assert!(of.len() > 150, "{}", of.len());
        assert!(of["AAPL"] > of["MSFT"] && of["AAPL"] < 5_000);
    }

    #[test]
    fn one_symbol_can_hold_99_percent_of_the_trades() {
        let (_, of) = admit_all(&frames(
            config(3, Popularity::OneHot(0.99), FrameFaults::NONE),
            20_000,
        ));
        assert!((19_700..19_900).contains(&of["AAPL"]), "{}", of["AAPL"]);
    }

    #[test]
    fn one_trade_in_a_hundred_is_late_by_up_to_five_seconds() {
        let config = config(5, Popularity::Zipf(1.0), FrameFaults::default());
        let mut counts = Counts::default();
        let (mut latest_ms, mut late) = (0, 0);
        for frame in frames(config, 20_000) {
            let frame = Frame {
                line: 1,
                bytes: frame.into_bytes(),
                taken_ms: None,
            };
            for trade in admit(&frame, &mut counts)
                .groups
                .iter()
                .flat_map(|group| &group.trades)
            {
                let ms = trade.event_time.ms();
                assert!(latest_ms - ms <= LATE_MS + JITTER_MS);
                late += u32::from(ms < latest_ms - 2 * JITTER_MS);
                latest_ms = latest_ms.max(ms);
            }
        }
        assert!((120..260).contains(&late), "{late}");
    }

    #[test]
    fn faulty_frames_are_admitted_or_counted_as_invalid_and_never_lost() {
        let faults = FrameFaults {
            bad_json: 0.05,
            unknown_type: 0.05,
            duplicate_frame: 0.05,
            zero_size: 0.1,
            bare_conditions: 0.1,
            bad_value: 0.1,
            ..FrameFaults::NONE
        };
        let frames = frames(config(7, Popularity::Zipf(1.0), faults), 5_000);
        let (counts, _) = admit_all(&frames);
        let entries: usize = frames
            .iter()
            .map(|frame| frame.matches("\"t\":").count())
            .sum();
        let whole = counts.invalid[&crate::admission::Reason::Json]
            + counts.invalid[&crate::admission::Reason::FrameType];
        assert!(
            whole > 0
                && counts.price_updates > 0
                && counts.invalid[&crate::admission::Reason::Price] > 0
        );
        assert_eq!(
            counts.trades + counts.price_updates + counts.invalid_frames() - whole,
            u64::try_from(entries).expect("small")
        );
    }

    #[test]
    fn decimals_are_written_as_json_numbers() {
        for (units, places, want) in [
            (0, 0, "0"),
            (0, 6, "0"),
            (4, 6, "0.000004"),
            (1_640_601, 4, "164.0601"),
            (1_640_600, 4, "164.06"),
            (100, 2, "1"),
            (100, 0, "100"),
        ] {
            let mut out = String::new();
            push_decimal(&mut out, Decimal { units, places });
            assert_eq!(out, want);
        }
    }
}
