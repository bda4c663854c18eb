//! The history of the simulated market: the trades of the hours before it starts.
//!
//! The first screen of a fresh run would otherwise hold one candle. History comes from the same
//! generator as the live frames, so the live prices continue where history ends. It is thinned:
//! one trade of it stands for several live ones, with their volume and their price movement. A bar
//! of history is therefore as tall and as busy as a live one, at a fraction of the records.
//!
//! The frames are a function of the seed, the symbols and the rate, except for their times, which
//! end at the moment of the call. They are in time order. History adds no faults of its own and is
//! never late; [`FrameFaults`](super::FrameFaults) of the generator apply to it as well.

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
pub(crate) const ROUNDS: i64 = SPAN.as_millis() as i64 / ROUND_MS;
/// Trades of a symbol in one round: enough for a candle with a body and wicks.
const TRADES_PER_ROUND: u32 = 6;
/// The distance between them.
const BETWEEN_TRADES_MS: i64 = 25;
/// Only the most traded symbols have history, so that a market of 100,000 symbols starts as fast.
const MAX_SYMBOLS: usize = 250;
/// The most live trades that one trade of history stands for: bounds sizes and price steps.
const MAX_WEIGHT: u64 = 10_000;
/// The rate assumed for a market that sends as fast as it is read.
const UNPACED_RATE: f64 = 1_000.0;

/// One round of history.
pub(crate) struct Round {
    /// From 0 for the oldest to [`ROUNDS`].
    pub(crate) number: i64,
    /// When history ends, in milliseconds since 1970 UTC.
    pub(crate) end_ms: i64,
}

impl Generator {
    /// The frames of one round, one for each symbol, in time order.
    pub(crate) fn history_round(&mut self, round: &Round, rate: Option<f64>) -> Vec<String> {
        let begin_ms = round.end_ms - (ROUNDS - round.number) * ROUND_MS;
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
            frames.push(frame);
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
        (0..ROUNDS)
            .flat_map(|number| {
                let round = Round {
                    number,
                    end_ms: END_MS,
                };
                generator.history_round(&round, Some(1_000.0))
            })
            .collect()
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
    fn a_large_market_has_history_of_its_most_traded_symbols_only() {
        let round = Round {
            number: 0,
            end_ms: END_MS,
        };
        let frames = generator(1_000).history_round(&round, Some(1e7));
        assert_eq!(frames.len(), MAX_SYMBOLS);
        assert!(!trades(&frames).is_empty());
    }
}
