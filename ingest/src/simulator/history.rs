//! The history of the simulated market: the trades of the hours before it starts.
//!
//! The first screen of a fresh run would otherwise hold one candle. History comes from the same
//! generator as the live frames, so the live prices continue where history ends. It is thinned:
//! one trade of it stands for several live ones, with their volume and their price movement. A bar
//! of history is therefore as tall and as busy as a live one, at a fraction of the records.
//!
//! It comes in rounds, one for each minute of the clock. The frames are a function of the seed, the
//! symbols, the rate and the number of the round, except for their times. They are in time order,
//! and end at the moment at which the last one is generated. A history that was interrupted goes on
//! after its last frame, in the same minute, so the pause becomes a part of the history and leaves
//! no hole. History adds no faults of its own and is never late;
//! [`FrameFaults`](super::FrameFaults) of the generator apply to it as well.

use std::time::Duration;

use tapeflow_schemas::SessionId;

use super::generate::Generator;

/// The session of history, the same in every log. Its last sequences tell how much of the history
/// a log already holds.
pub const HISTORY_SESSION: SessionId = SessionId(*b"tapeflow history");

/// How far history goes back. The chart of the live page shows 240 minutes.
pub(crate) const SPAN: Duration = Duration::from_secs(4 * 60 * 60);
/// Each symbol trades once in a round. One round a minute fills every minute bar; more rounds
/// would add one record and one bar of a second for each symbol, and little to see.
const ROUND_MS: i64 = 60_000;
/// Rounds in [`SPAN`].
const ROUNDS: i64 = SPAN.as_millis() as i64 / ROUND_MS;
/// The most rounds since an interrupted history that are filled. A longer pause is filled for
/// [`SPAN`] only.
const MAX_PAUSE: i64 = 2 * ROUNDS;
/// The most rounds that one start appends: also those of the time that appending the others takes.
/// A log that is slower than the clock never catches up.
const MAX_ROUNDS: i64 = 3 * ROUNDS;
/// The most rounds that are generated again to find the prices of an interrupted history. A longer
/// one continues with other prices.
const MAX_REPEATED: i64 = 4 * ROUNDS;
/// Trades of a symbol in one round: enough for a candle with a body and wicks.
const TRADES_PER_ROUND: u32 = 6;
/// The distance between them.
const BETWEEN_TRADES_MS: i64 = 25;
/// The time from the first to the last of them.
const FRAME_MS: i64 = (TRADES_PER_ROUND as i64 - 1) * BETWEEN_TRADES_MS;
/// Only the most traded symbols have history, so that a market of 100,000 symbols starts as fast.
const MAX_SYMBOLS: usize = 250;
/// The most live trades that one trade of history stands for: bounds sizes and price steps.
const MAX_WEIGHT: u64 = 10_000;
/// The rate assumed for a market that sends as fast as it is read.
const UNPACED_RATE: f64 = 1_000.0;

/// The history that a log already holds, from a start that was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldHistory {
    /// The event time of its first trade, in milliseconds since 1970 UTC.
    pub first_ms: i64,
    /// The event time of its last trade.
    pub last_ms: i64,
}

/// The rounds that one start generates.
#[derive(Debug)]
pub(crate) struct Rounds {
    /// When the next round begins, in milliseconds since 1970 UTC.
    begin_ms: i64,
    /// The log holds the frames up to this time.
    held_ms: i64,
    left: i64,
    /// Rounds before the first, whose price steps are repeated.
    repeated: i64,
}

impl Rounds {
    /// The rounds up to now, after those that the log holds.
    pub(crate) fn new(now_ms: i64, held: Option<HeldHistory>) -> Self {
        let minute = |ms: i64| ms - ms.rem_euclid(ROUND_MS);
        let before_now = |rounds: i64| minute(now_ms) - rounds * ROUND_MS;
        let begin_ms = match held {
            Some(held) if minute(held.last_ms) >= before_now(MAX_PAUSE) => minute(held.last_ms),
            _ => before_now(ROUNDS),
        };
        let before = held.map_or(0, |held| (begin_ms - minute(held.first_ms)) / ROUND_MS);
        Self {
            begin_ms,
            held_ms: held.map_or(i64::MIN, |held| held.last_ms),
            left: MAX_ROUNDS,
            repeated: before.clamp(0, MAX_REPEATED),
        }
    }

    /// The frames of the next round, without those that the log holds and those that are not yet
    /// over at `now_ms`; `None` when the history has caught up with that.
    pub(crate) fn next(
        &mut self,
        generator: &mut Generator,
        rate: Option<f64>,
        now_ms: i64,
    ) -> Option<Vec<String>> {
        if self.begin_ms >= now_ms || self.left == 0 {
            return None;
        }
        for _ in 0..std::mem::take(&mut self.repeated) {
            generator.history_round(0, rate);
        }
        let frames = generator.history_round(self.begin_ms, rate);
        self.left -= 1;
        self.begin_ms += ROUND_MS;
        let is_due = |at_ms: i64| at_ms > self.held_ms && at_ms + FRAME_MS < now_ms;
        Some(
            frames
                .into_iter()
                .filter(|(at_ms, _)| is_due(*at_ms))
                .map(|(_, frame)| frame)
                .collect(),
        )
    }
}

impl Generator {
    /// The frames of one round, one for each symbol, each with the time of its first trade.
    fn history_round(&mut self, begin_ms: i64, rate: Option<f64>) -> Vec<(i64, String)> {
        let shares = self.shares(MAX_SYMBOLS);
        let count = i64::try_from(shares.len()).unwrap_or(1);
        let mut frames = Vec::with_capacity(shares.len());
        for (place, share) in (0..count).zip(shares) {
            let weight = weight(share * rate.unwrap_or(UNPACED_RATE));
            let at_ms = begin_ms + place * ROUND_MS / count;
            let mut frame = String::with_capacity(512);
            frame.push_str(r#"{"data":["#);
            for n in 0..TRADES_PER_ROUND {
                if n > 0 {
                    frame.push(',');
                }
                let event_ms = at_ms + i64::from(n) * BETWEEN_TRADES_MS;
                let rank = usize::try_from(place).unwrap_or(usize::MAX);
                self.push_trade(rank, event_ms, weight, &mut frame);
            }
            frame.push_str(r#"],"type":"trade"}"#);
            frames.push((at_ms, frame));
        }
        frames
    }
}

/// How many live trades of a symbol one trade of its history stands for.
fn weight(trades_per_second: f64) -> u64 {
    let round_s = Duration::from_millis(ROUND_MS.unsigned_abs()).as_secs_f64();
    let stands_for = trades_per_second * round_s / f64::from(TRADES_PER_ROUND);
    // A float becomes the nearest integer in range; not a number becomes 0.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates, and the clamp bounds it"
    )]
    let stands_for = stands_for as u64;
    stands_for.clamp(1, MAX_WEIGHT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Counts, Frame,
        admission::admit,
        simulator::{Clock, FrameFaults, GeneratorConfig, Popularity, symbols},
    };

    const END_MS: i64 = 1_704_205_800_000;

    fn generator(count: usize) -> Generator {
        Generator::new(GeneratorConfig {
            seed: 1,
            symbols: symbols(count),
            popularity: Popularity::Zipf(1.0),
            clock: Clock::Wall,
            faults: FrameFaults::default(),
        })
    }

    fn history(generator: &mut Generator) -> Vec<String> {
        continued(generator, None, END_MS)
    }

    /// The rest of a history, up to a moment.
    fn continued(generator: &mut Generator, held: Option<HeldHistory>, now_ms: i64) -> Vec<String> {
        let mut rounds = Rounds::new(now_ms, held);
        std::iter::from_fn(|| rounds.next(generator, Some(1_000.0), now_ms))
            .flatten()
            .collect()
    }

    fn held(trades: &[(i64, String, f64)]) -> HeldHistory {
        HeldHistory {
            first_ms: trades.first().expect("a trade").0,
            last_ms: trades.last().expect("a trade").0,
        }
    }

    /// Event time in milliseconds, symbol and price of each trade.
    fn trades(frames: &[String]) -> Vec<(i64, String, f64)> {
        let mut counts = Counts::default();
        let trades = frames
            .iter()
            .flat_map(|frame| {
                let frame = Frame {
                    line: 1,
                    bytes: frame.as_bytes().to_vec(),
                    taken_ms: None,
                };
                let admitted = admit(&frame, &mut counts);
                admitted
                    .groups
                    .iter()
                    .flat_map(|group| {
                        group.trades.iter().map(|trade| {
                            let price: f64 = trade.price.to_string().parse().expect("a number");
                            (trade.event_time.ms(), group.symbol.to_string(), price)
                        })
                    })
                    .collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(counts.invalid_frames(), 0, "{:?}", counts.invalid);
        trades
    }

    #[test]
    fn history_fills_every_minute_of_every_symbol_in_time_order() {
        let trades = trades(&history(&mut generator(200)));
        let mut minutes = std::collections::HashMap::<&str, std::collections::HashSet<i64>>::new();
        for (event_ms, symbol, _) in &trades {
            minutes
                .entry(symbol)
                .or_default()
                .insert(event_ms.div_euclid(60_000));
        }
        assert!(minutes.len() > 195, "{} symbols", minutes.len());
        // Currency pairs have price updates without a size, and so fewer trades.
        assert!(minutes.values().all(|minutes| minutes.len() >= 239));
        let span_ms = i64::try_from(SPAN.as_millis()).expect("small");
        assert!(trades[0].0 >= END_MS - span_ms);
        assert!(trades.iter().all(|(event_ms, ..)| *event_ms < END_MS));
        let late = trades.windows(2).filter(|pair| pair[1].0 < pair[0].0);
        // Neighbours overlap by less than the distance between symbols; bars allow 5 s.
        assert!(late.map(|pair| pair[0].0 - pair[1].0).max().unwrap_or(0) < 300);
    }

    #[test]
    fn live_prices_continue_where_history_ends() {
        let mut generator = generator(5);
        let (_, _, last) = trades(&history(&mut generator))
            .into_iter()
            .rev()
            .find(|(_, symbol, _)| symbol == "AAPL")
            .expect("AAPL trades");
        let next = loop {
            let mut frame = String::new();
            generator.next_frame(END_MS, 10, &mut frame);
            let found = trades(&[frame])
                .into_iter()
                .find(|(_, symbol, _)| symbol == "AAPL");
            if let Some((_, _, price)) = found {
                break price;
            }
        };
        assert!(
            (next / last - 1.0).abs() < 0.005,
            "{last} is followed by {next}"
        );
    }

    #[test]
    fn the_same_seed_gives_the_same_history() {
        assert_eq!(history(&mut generator(5)), history(&mut generator(5)));
    }

    #[test]
    fn an_interrupted_history_goes_on_where_it_was_without_a_hole_and_without_a_jump() {
        let whole = history(&mut generator(20));
        // In the middle of a minute, at its end, and at the end of the history.
        for (frames, pause_min) in [(1_007, 0), (1_007, 59), (1_000, 180), (whole.len(), 3)] {
            let mut all = trades(&whole[..frames]);
            let later_ms = END_MS + pause_min * ROUND_MS + 17_250;
            let rest = continued(&mut generator(20), Some(held(&all)), later_ms);
            let rest = trades(&rest);
            assert!(rest.iter().all(|(event_ms, ..)| *event_ms < later_ms));
            all.extend(rest);
            // A frame of price updates alone has no trade, so two distances are possible.
            let widest = 2 * ROUND_MS / 20 + FRAME_MS;
            for pair in all.windows(2) {
                let step = pair[1].0 - pair[0].0;
                assert!(
                    (0..=widest).contains(&step),
                    "{step} ms after {frames} frames and {pause_min} minutes: {pair:?}"
                );
            }
            let aapl: Vec<_> = all.iter().filter(|trade| trade.1 == "AAPL").collect();
            let minutes = aapl.iter().map(|trade| trade.0.div_euclid(ROUND_MS));
            let mut minutes: Vec<i64> = minutes.collect();
            minutes.dedup();
            assert!(minutes.windows(2).all(|pair| pair[1] == pair[0] + 1));
            let jump = aapl
                .windows(2)
                .map(|pair| (pair[1].2 / pair[0].2 - 1.0).abs())
                .fold(0.0, f64::max);
            assert!(jump < 0.03, "a jump by {jump}");
        }
    }

    #[test]
    fn a_long_pause_is_filled_for_four_hours() {
        let before = trades(&history(&mut generator(5))[..50]);
        let later_ms = END_MS + 100 * 24 * 60 * ROUND_MS;
        let rest = trades(&continued(&mut generator(5), Some(held(&before)), later_ms));
        let span_ms = i64::try_from(SPAN.as_millis()).expect("small");
        assert!(rest[0].0 >= later_ms - span_ms && rest[0].0 < later_ms - span_ms + ROUND_MS);
    }

    #[test]
    fn a_log_that_is_slower_than_the_clock_ends_the_history() {
        let (mut generator, mut now_ms) = (generator(1), END_MS);
        let mut rounds = Rounds::new(now_ms, None);
        let mut appended = 0;
        while rounds.next(&mut generator, None, now_ms).is_some() {
            appended += 1;
            now_ms += 2 * ROUND_MS;
        }
        assert_eq!(appended, MAX_ROUNDS);
    }

    #[test]
    fn a_large_market_has_history_of_its_most_traded_symbols_only() {
        let frames = generator(1_000).history_round(END_MS, Some(1e7));
        assert_eq!(frames.len(), MAX_SYMBOLS);
        let frames: Vec<String> = frames.into_iter().map(|(_, frame)| frame).collect();
        assert!(!trades(&frames).is_empty());
    }
}
