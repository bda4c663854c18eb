//! One bar of the output: its key, and its state cell, which holds the label and the exact values
//! together.
//!
//! Label and values are **one cell** because Cassandra's read repair copies only the columns that a
//! query selects: were they two, a dashboard that reads the label alone could carry a write's label
//! to a replica that has not its values, and a bar read back there would claim records it does not
//! hold.

use xxhash_rust::xxh3::xxh3_64;

use crate::{
    Position, Price, Symbol, WindowSize, WindowStart,
    totals::{Mark, Sums, Totals},
};

/// Which bar: a symbol's window of a size.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BarKey {
    /// The symbol.
    pub symbol: Symbol,
    /// The window's size.
    pub size: WindowSize,
    /// The window's first millisecond.
    pub start: WindowStart,
}

impl std::fmt::Display for BarKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {} {}",
            self.symbol,
            self.size,
            crate::window::format_utc(self.start)
        )
    }
}

/// The content of a bar: the sums of all accepted records of epochs up to `epoch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BarState {
    /// The last epoch whose records the totals contain.
    pub epoch: u64,
    /// The totals as of that epoch.
    pub totals: Totals,
}

/// A bar on its way to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BarWrite {
    /// Which bar.
    pub key: BarKey,
    /// Its content.
    pub state: BarState,
    /// The binding's write timestamp, in microseconds: of two writes to a bar the greater one wins, whatever
    /// their order of arrival.
    pub write_timestamp: i64,
}

/// Why a state cell could not be read. Both mean that something other than this job wrote the bar,
/// or that storage is broken: the job stops rather than add to what it cannot trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CellError {
    /// A format this binary does not know.
    #[error("state cell of format {0}; this binary reads format {FORMAT}")]
    Format(u8),
    /// Cut short, too long, an impossible value or a wrong checksum.
    #[error("state cell is damaged")]
    Damaged,
}

/// The format byte of the cells this binary writes.
const FORMAT: u8 = 1;

impl BarState {
    /// The state cell: format byte, epoch, totals, all little-endian, and an XXH3 checksum over
    /// what stands before it.
    #[must_use]
    pub fn to_cell(&self) -> Vec<u8> {
        let mut cell = Vec::with_capacity(320);
        cell.push(FORMAT);
        cell.extend(self.epoch.to_le_bytes());
        let totals = &self.totals;
        for sums in &totals.sums {
            cell.extend(sums.volume_e8.to_le_bytes());
            cell.extend(sums.notional_e16.to_le_bytes());
            cell.extend(sums.trades.to_le_bytes());
        }
        for count in [totals.priced, totals.revision, totals.sole_trades] {
            cell.extend(count.to_le_bytes());
        }
        cell.extend(totals.sole_price_e8.to_le_bytes());
        for price in [totals.high, totals.low] {
            // Zero is no price.
            cell.extend(price.map_or(0, Price::e8).to_le_bytes());
        }
        for mark in [totals.first, totals.last] {
            cell.push(u8::from(mark.is_some()));
            if let Some(mark) = mark {
                cell.extend(mark.event_ms.to_le_bytes());
                cell.extend(mark.position.partition.to_le_bytes());
                cell.extend(mark.position.offset.to_le_bytes());
                cell.extend(mark.position.index.to_le_bytes());
                cell.extend(mark.price.e8().to_le_bytes());
            }
        }
        cell.extend(xxh3_64(&cell).to_le_bytes());
        cell
    }

    /// Reads a state cell back.
    ///
    /// # Errors
    /// [`CellError`], see there.
    pub fn from_cell(cell: &[u8]) -> Result<Self, CellError> {
        let (body, sum) = cell.split_last_chunk::<8>().ok_or(CellError::Damaged)?;
        match body.first() {
            Some(&FORMAT) => {}
            Some(&other) => return Err(CellError::Format(other)),
            None => return Err(CellError::Damaged),
        }
        if xxh3_64(body).to_le_bytes() != *sum {
            return Err(CellError::Damaged);
        }
        let mut reader = Reader(&body[1..]);
        let state = reader.state().ok_or(CellError::Damaged)?;
        if reader.0.is_empty() {
            Ok(state)
        } else {
            Err(CellError::Damaged)
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (checkpoint, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*checkpoint)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn i128(&mut self) -> Option<i128> {
        self.take().map(i128::from_le_bytes)
    }

    fn sums(&mut self) -> Option<Sums> {
        Some(Sums {
            volume_e8: self.i128()?,
            notional_e16: self.i128()?,
            trades: self.u64()?,
        })
    }

    fn price(&mut self) -> Option<Option<Price>> {
        match self.i64()? {
            0 => Some(None),
            e8 => Price::from_e8(e8).ok().map(Some),
        }
    }

    fn mark(&mut self) -> Option<Option<Mark>> {
        match self.take::<1>()? {
            [0] => Some(None),
            [1] => {
                let event_ms = self.i64()?;
                let position = Position {
                    partition: self.u32()?,
                    offset: self.i64()?,
                    index: self.u32()?,
                };
                Some(Some(Mark {
                    event_ms,
                    position,
                    price: Price::from_e8(self.i64()?).ok()?,
                }))
            }
            _ => None,
        }
    }

    fn state(&mut self) -> Option<BarState> {
        Some(BarState {
            epoch: self.u64()?,
            totals: Totals {
                sums: [self.sums()?, self.sums()?, self.sums()?],
                priced: self.u64()?,
                revision: self.u64()?,
                sole_trades: self.u64()?,
                sole_price_e8: self.i128()?,
                high: self.price()?,
                low: self.price()?,
                first: self.mark()?,
                last: self.mark()?,
            },
        })
    }
}

/// A bar as readers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBar {
    /// Its window.
    pub start: WindowStart,
    /// Its content.
    pub state: BarState,
}

#[cfg(test)]
mod tests {
    use crate::decimal::MAX_PRICE_E8;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    fn random_state(random: &mut StdRng) -> BarState {
        fn maybe<T>(random: &mut StdRng, make: impl FnOnce(&mut StdRng) -> T) -> Option<T> {
            random.random_bool(0.5).then(|| make(random))
        }
        fn price(random: &mut StdRng) -> Price {
            Price::from_e8(random.random_range(1..=MAX_PRICE_E8)).expect("in range")
        }
        fn mark(random: &mut StdRng) -> Mark {
            let position = Position {
                partition: random.random(),
                offset: random.random(),
                index: random.random(),
            };
            Mark {
                event_ms: random.random(),
                position,
                price: price(random),
            }
        }
        let mut sums = || Sums {
            volume_e8: random.random(),
            notional_e16: random.random(),
            trades: random.random(),
        };
        let sums = [sums(), sums(), sums()];
        let totals = Totals {
            sums,
            priced: random.random(),
            revision: random.random(),
            high: maybe(random, price),
            low: maybe(random, price),
            first: maybe(random, mark),
            last: maybe(random, mark),
            sole_trades: random.random(),
            sole_price_e8: random.random(),
        };
        BarState {
            epoch: random.random(),
            totals,
        }
    }

    fn for_each_seed(check: impl Fn(BarState)) {
        for seed in 0..40 {
            println!("seed {seed}");
            check(random_state(&mut StdRng::seed_from_u64(seed)));
        }
    }

    #[test]
    fn a_cell_is_read_back_as_it_was_written() {
        for_each_seed(|state| assert_eq!(BarState::from_cell(&state.to_cell()), Ok(state)));
        let empty = BarState {
            epoch: 0,
            totals: Totals::default(),
        };
        assert_eq!(BarState::from_cell(&empty.to_cell()), Ok(empty));
        let sums = Sums {
            volume_e8: i128::MIN,
            notional_e16: i128::MAX,
            trades: u64::MAX,
        };
        let extreme = BarState {
            epoch: u64::MAX,
            totals: Totals {
                sums: [sums; 3],
                sole_price_e8: i128::MIN,
                ..Totals::default()
            },
        };
        assert_eq!(BarState::from_cell(&extreme.to_cell()), Ok(extreme));
    }

    #[test]
    fn equal_states_have_equal_cells() {
        for_each_seed(|state| assert_eq!(state.to_cell(), state.to_cell()));
    }

    #[test]
    fn a_cell_cut_short_or_too_long_is_refused() {
        for_each_seed(|state| {
            let mut cell = state.to_cell();
            for length in 0..cell.len() {
                assert!(
                    BarState::from_cell(&cell[..length]).is_err(),
                    "{length} of {} bytes",
                    cell.len()
                );
            }
            cell.push(0);
            assert_eq!(BarState::from_cell(&cell), Err(CellError::Damaged));
        });
    }

    #[test]
    fn a_cell_with_any_bit_flipped_is_refused() {
        for_each_seed(|state| {
            let cell = state.to_cell();
            for at in 0..cell.len() {
                for bit in 0..8 {
                    let mut flipped = cell.clone();
                    flipped[at] ^= 1 << bit;
                    assert!(
                        BarState::from_cell(&flipped).is_err(),
                        "bit {bit} of byte {at}"
                    );
                }
            }
        });
    }

    /// A body with the checksum that belongs to it: what only a binary, not a disk, can have
    /// written.
    fn sealed(mut body: Vec<u8>) -> Vec<u8> {
        body.extend(xxh3_64(&body).to_le_bytes());
        body
    }

    fn body(state: BarState) -> Vec<u8> {
        let cell = state.to_cell();
        cell[..cell.len() - 8].to_vec()
    }

    #[test]
    fn another_format_is_named() {
        let mut other = body(BarState {
            epoch: 1,
            totals: Totals::default(),
        });
        other[0] = FORMAT + 1;
        assert_eq!(
            BarState::from_cell(&sealed(other)),
            Err(CellError::Format(FORMAT + 1))
        );
    }

    #[test]
    fn a_sealed_body_of_impossible_values_is_refused() {
        let empty = body(BarState {
            epoch: 1,
            totals: Totals::default(),
        });
        // The two bytes at the end say whether there are marks.
        let mut no_mark = empty.clone();
        *no_mark.last_mut().expect("not empty") = 2;
        let mut negative_price = empty.clone();
        let at = negative_price.len() - 3;
        negative_price[at] = 0x80;
        let longer = [&empty[..], &[0]].concat();
        for impossible in [
            no_mark,
            negative_price,
            longer,
            empty[..empty.len() - 1].to_vec(),
            vec![FORMAT],
            vec![],
        ] {
            assert_eq!(
                BarState::from_cell(&sealed(impossible.clone())),
                Err(CellError::Damaged),
                "{impossible:?}"
            );
        }
    }
}
