//! One bar of the output: its key, and the row that a store keeps of it, whose state cell holds the
//! label and the exact values together.
//!
//! The row of a minute also holds the bars of shorter sizes within it ([`PackedBars`]).
//!
//! Label and values are **one cell** because Cassandra's read repair copies only the columns that a
//! query selects: were they two, a dashboard that reads the label alone could carry a write's label
//! to a replica that has not its values, and a bar read back there would claim records it does not
//! hold.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::{
    Symbol, WindowSize, WindowStart,
    cell::{Reader, put, put_totals},
    packed::PackedBars,
    totals::Totals,
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

impl BarKey {
    /// The bar whose row holds this one: itself, or its minute where its size is packed.
    #[must_use]
    pub fn row(&self) -> Self {
        let (size, start) = self.size.row_of(self.start);
        Self {
            symbol: self.symbol.clone(),
            size,
            start,
        }
    }
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

/// What the row of a bar holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BarRow {
    /// The bar.
    pub state: BarState,
    /// The shorter bars within it, as of the same epoch. Only a minute has some.
    pub packed: PackedBars,
}

/// A bar on its way to the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BarWrite {
    /// Which bar. Its size is not packed.
    pub key: BarKey,
    /// Its content.
    pub state: BarState,
    /// The shorter bars within it.
    pub packed: PackedBars,
    /// The binding's write timestamp, in microseconds: of two writes to a bar the greater one wins,
    /// whatever their order of arrival.
    pub write_timestamp: i64,
}

/// Why a state cell could not be read. Both mean that something other than this job wrote the bar,
/// or that storage is broken: the job stops rather than add to what it cannot trust.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CellError {
    /// A format this binary does not know.
    #[error("state cell of format {0}; this binary reads format {FORMAT}")]
    Format(u8),
    /// Cut short, too long, a wrong checksum, or a value that admitted trades cannot have
    /// ([`Totals::is_possible`]): adding to it could overflow.
    #[error("state cell is damaged")]
    Damaged,
}

/// The format byte of the cells this binary writes.
const FORMAT: u8 = 2;

/// Appends a cell: format byte, epoch, totals, packed bars, and an XXH3 checksum over all of them,
/// seeded with the window's start, so that the cell of one window is damaged in another.
fn put_cell(out: &mut Vec<u8>, start: WindowStart, state: &BarState, packed: &PackedBars) {
    let at = out.len();
    out.push(FORMAT);
    put(out, state.epoch.into());
    put_totals(out, &state.totals, start);
    out.extend(packed.as_bytes());
    out.extend(checksum(&out[at..], start).to_le_bytes());
}

fn checksum(body: &[u8], start: WindowStart) -> u64 {
    xxh3_64_with_seed(body, start.cast_unsigned())
}

impl BarWrite {
    /// Its state cell.
    #[must_use]
    pub fn to_cell(&self) -> Vec<u8> {
        let mut cell = Vec::with_capacity(96 + self.packed.as_bytes().len());
        put_cell(&mut cell, self.key.start, &self.state, &self.packed);
        cell
    }

    /// What its row holds once it is written.
    #[must_use]
    pub fn row(&self) -> BarRow {
        BarRow {
            state: self.state,
            packed: self.packed.clone(),
        }
    }
}

impl BarState {
    /// A row of this bar alone.
    #[must_use]
    pub fn into_row(self) -> BarRow {
        BarRow {
            state: self,
            packed: PackedBars::default(),
        }
    }
}

impl BarRow {
    /// The state cell of the window that starts at `start`.
    #[must_use]
    pub fn to_cell(&self, start: WindowStart) -> Vec<u8> {
        let mut cell = Vec::new();
        put_cell(&mut cell, start, &self.state, &self.packed);
        cell
    }

    /// Reads the state cell of the window that starts at `start`.
    ///
    /// # Errors
    /// [`CellError`], see there.
    pub fn from_cell(cell: &[u8], start: WindowStart) -> Result<Self, CellError> {
        let (body, sum) = cell.split_last_chunk::<8>().ok_or(CellError::Damaged)?;
        match body.first() {
            Some(&FORMAT) => {}
            Some(&other) => return Err(CellError::Format(other)),
            None => return Err(CellError::Damaged),
        }
        if checksum(body, start).to_le_bytes() != *sum {
            return Err(CellError::Damaged);
        }
        let mut reader = Reader(&body[1..]);
        let read = |reader: &mut Reader<'_>| {
            Some(BarState {
                epoch: reader.u64()?,
                totals: reader.totals(start)?,
            })
        };
        let state = read(&mut reader)
            .filter(|state| state.totals.is_possible())
            .ok_or(CellError::Damaged)?;
        let packed = PackedBars::from_cell(reader.0, start)?;
        Ok(Self { state, packed })
    }

    /// Whether this row is `other`, or what is left of it once an expiry has taken out all packed
    /// bars of some sizes.
    #[must_use]
    pub fn is_or_has_left(&self, other: &Self) -> bool {
        if self.state != other.state {
            return false;
        }
        let gone: Vec<WindowSize> = other.packed.sizes_not_in(&self.packed);
        other.packed.without(&gone).as_ref() == Ok(&self.packed)
    }

    /// One of its bars, if `key` names one: this row is that of [`BarKey::row`].
    ///
    /// # Errors
    /// As [`bars_of`](Self::bars_of).
    pub fn bar(&self, key: &BarKey) -> Result<Option<BarState>, CellError> {
        let bars = self.bars_of(key.row().start, key.size)?;
        Ok(bars
            .into_iter()
            .find(|bar| bar.start == key.start)
            .map(|bar| bar.state))
    }

    /// Its bars of a size: the bar itself, or the packed ones.
    ///
    /// # Errors
    /// [`CellError::Damaged`] if the packed bars were not read from a cell and cannot be decoded.
    pub fn bars_of(
        &self,
        start: WindowStart,
        size: WindowSize,
    ) -> Result<Vec<StoredBar>, CellError> {
        if !size.is_packed() {
            let state = self.state;
            return Ok(vec![StoredBar { start, state }]);
        }
        let bars = self
            .packed
            .iter(start)
            .filter(|bar| bar.as_ref().is_ok_and(|bar| bar.size == size) || bar.is_err());
        bars.map(|bar| {
            let bar = bar?;
            Ok(StoredBar {
                start: bar.start,
                state: BarState {
                    epoch: self.state.epoch,
                    totals: bar.totals,
                },
            })
        })
        .collect()
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
    use crate::{
        PackedBar, Position, Price,
        decimal::{MAX_NOTIONAL_E16, MAX_PRICE_E8, MAX_SIZE_E8},
        totals::{MAX_BAR_TRADES, Mark, Sums},
        trade::END_OF_TIME_MS,
    };
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
                offset: random.random_range(0..=i64::MAX),
                index: random.random(),
            };
            Mark {
                event_ms: random.random_range(0..END_OF_TIME_MS),
                position,
                price: price(random),
            }
        }
        let mut sums = || {
            let trades = random.random_range(0..=MAX_BAR_TRADES);
            Sums {
                volume_e8: random.random_range(0..=i128::from(trades) * MAX_SIZE_E8),
                notional_e16: random.random_range(0..=i128::from(trades) * MAX_NOTIONAL_E16),
                trades,
            }
        };
        let sums = [sums(), sums(), sums()];
        let sole_trades = random.random_range(0..=MAX_BAR_TRADES);
        let totals = Totals {
            sums,
            priced: random.random_range(0..=MAX_BAR_TRADES),
            revision: random.random_range(0..=MAX_BAR_TRADES),
            high: maybe(random, price),
            low: maybe(random, price),
            first: maybe(random, mark),
            last: maybe(random, mark),
            sole_trades,
            sole_price_e8: random
                .random_range(0..=i128::from(sole_trades) * i128::from(MAX_PRICE_E8)),
            first_trade_ms: maybe(random, |random| random.random_range(0..END_OF_TIME_MS)),
            last_trade_ms: maybe(random, |random| random.random_range(0..END_OF_TIME_MS)),
        };
        BarState {
            epoch: random.random(),
            totals,
        }
    }

    /// A row with up to three packed bars.
    fn random_row(random: &mut StdRng) -> BarRow {
        let state = random_state(random);
        let mut bars: Vec<PackedBar> = (0..random.random_range(0..4))
            .map(|second| PackedBar {
                size: WindowSize::from_ms(1_000).expect("a size"),
                start: START + 1_000 * second,
                totals: random_state(random).totals,
            })
            .collect();
        BarRow {
            state,
            packed: PackedBars::of(START, &mut bars),
        }
    }

    #[test]
    fn a_row_without_all_bars_of_a_size_is_what_is_left_of_it_and_no_other_row_is() {
        let mut random = StdRng::seed_from_u64(4);
        let state = random_state(&mut random);
        let bar = |ms: i64, number: i64| PackedBar {
            size: WindowSize::from_ms(ms).expect("a size"),
            start: START + ms * number,
            totals: state.totals,
        };
        let row = |bars: &[PackedBar]| BarRow {
            state,
            packed: PackedBars::of(START, &mut bars.to_vec()),
        };
        let all = [bar(1_000, 0), bar(1_000, 3), bar(5_000, 0)];
        let whole = row(&all);
        for left in [&all[..], &all[2..], &all[..2], &[]] {
            assert!(row(left).is_or_has_left(&whole), "{left:?}");
        }
        assert!(!row(&all[1..]).is_or_has_left(&whole), "one of two seconds");
        assert!(!whole.is_or_has_left(&row(&all[2..])), "one more");
        let mut other = row(&all);
        other.state.epoch ^= 1;
        assert!(!other.is_or_has_left(&whole));
    }

    const START: WindowStart = 1_680_286_500_000;

    fn cell(state: BarState) -> Vec<u8> {
        state.into_row().to_cell(START)
    }

    fn read(cell: &[u8]) -> Result<BarRow, CellError> {
        BarRow::from_cell(cell, START)
    }

    fn for_each_seed(check: impl Fn(BarRow)) {
        for seed in 0..40 {
            println!("seed {seed}");
            check(random_row(&mut StdRng::seed_from_u64(seed)));
        }
    }

    #[test]
    fn a_cell_is_read_back_as_it_was_written() {
        for_each_seed(|row| assert_eq!(read(&row.to_cell(START)).as_ref(), Ok(&row)));
        let empty = BarState {
            epoch: 0,
            totals: Totals::default(),
        };
        assert_eq!(read(&cell(empty)), Ok(empty.into_row()));
        let sums = Sums {
            volume_e8: i128::from(MAX_BAR_TRADES) * MAX_SIZE_E8,
            notional_e16: i128::from(MAX_BAR_TRADES) * MAX_NOTIONAL_E16,
            trades: MAX_BAR_TRADES,
        };
        let extreme = BarState {
            epoch: u64::MAX,
            totals: Totals {
                sums: [sums; 3],
                ..Totals::default()
            },
        };
        assert_eq!(read(&cell(extreme)), Ok(extreme.into_row()));
    }

    #[test]
    fn the_cell_of_one_window_is_damaged_in_another() {
        for_each_seed(|row| {
            let other = BarRow::from_cell(&row.to_cell(START), START + 60_000);
            assert_eq!(other, Err(CellError::Damaged));
        });
    }

    #[test]
    fn a_minute_of_many_trades_takes_about_sixty_bytes() {
        let mut totals = Totals::default();
        for number in 0..500 {
            let trade = crate::Trade::new(
                crate::EventTime::from_ms(START + 117 * number).expect("a time"),
                Price::from_e8(16_406_000_000 + 1_000_000 * (number % 37)).expect("a price"),
                crate::Size::parse("0.015").expect("a size").value,
                crate::Conditions::NONE,
            );
            let position = Position {
                partition: 3,
                offset: 123_456_789 + number,
                index: 0,
            };
            totals.add_trade(&trade.expect("a trade"), position, false);
        }
        let epoch = 1_000_000;
        let bytes = cell(BarState { epoch, totals }).len();
        assert!((40..=64).contains(&bytes), "{bytes} bytes");
    }

    #[test]
    fn equal_states_have_equal_cells() {
        for_each_seed(|row| assert_eq!(row.to_cell(START), row.to_cell(START)));
    }

    #[test]
    fn a_cell_cut_short_or_too_long_is_refused() {
        for_each_seed(|row| {
            let mut cell = row.to_cell(START);
            for length in 0..cell.len() {
                assert!(
                    read(&cell[..length]).is_err(),
                    "{length} of {} bytes",
                    cell.len()
                );
            }
            cell.push(0);
            assert_eq!(read(&cell), Err(CellError::Damaged));
        });
    }

    #[test]
    fn a_cell_with_any_bit_flipped_is_refused() {
        for_each_seed(|row| {
            let cell = row.to_cell(START);
            for at in 0..cell.len() {
                for bit in 0..8 {
                    let mut flipped = cell.clone();
                    flipped[at] ^= 1 << bit;
                    assert!(read(&flipped).is_err(), "bit {bit} of byte {at}");
                }
            }
        });
    }

    /// A body with the checksum that belongs to it: what only a binary, not a disk, can have
    /// written.
    fn sealed(mut body: Vec<u8>) -> Vec<u8> {
        body.extend(checksum(&body, START).to_le_bytes());
        body
    }

    fn body(state: BarState) -> Vec<u8> {
        let cell = cell(state);
        cell[..cell.len() - 8].to_vec()
    }

    #[test]
    fn another_format_is_named() {
        let mut other = body(BarState {
            epoch: 1,
            totals: Totals::default(),
        });
        other[0] = FORMAT + 1;
        assert_eq!(read(&sealed(other)), Err(CellError::Format(FORMAT + 1)));
    }

    #[test]
    fn a_sealed_body_of_impossible_values_is_refused() {
        let empty = body(BarState {
            epoch: 1,
            totals: Totals::default(),
        });
        // Format, epoch 1, no flags, then trades, volume and notional of `sip`.
        assert_eq!(empty, [FORMAT, 1, 0, 0, 0, 0]);
        let no_price = vec![FORMAT, 1, 1 << 2, 0, 0, 0, 0];
        let negative_price = vec![FORMAT, 1, 1 << 2, 1, 0, 0, 0];
        let equal_sums_twice = vec![FORMAT, 1, 1, 0, 0, 0, 0, 0, 0];
        let long_zero = vec![FORMAT, 1, 0, 0x80, 0, 0, 0];
        let longer = [&empty[..], &[0]].concat();
        for impossible in [
            no_price,
            negative_price,
            equal_sums_twice,
            long_zero,
            longer,
            empty[..empty.len() - 1].to_vec(),
            vec![FORMAT],
            vec![],
        ] {
            assert_eq!(
                read(&sealed(impossible.clone())),
                Err(CellError::Damaged),
                "{impossible:?}"
            );
        }
    }

    /// Such a cell has a right checksum. Added to, it would overflow and end the job at every start.
    #[test]
    fn a_cell_of_sums_that_no_trades_can_have_is_refused() {
        type Change = fn(&mut Totals);
        let impossible: [Change; 8] = [
            |totals| totals.sums[0].volume_e8 = i128::MAX - 1,
            |totals| totals.sums[0].notional_e16 = i128::MAX - 1,
            |totals| totals.sums[2].notional_e16 = -1,
            |totals| totals.sums[0].trades = u64::MAX,
            |totals| totals.priced = u64::MAX,
            |totals| totals.revision = u64::MAX,
            |totals| totals.sole_price_e8 = i128::MAX,
            |totals| {
                totals.first = Some(Mark {
                    event_ms: END_OF_TIME_MS,
                    position: Position {
                        partition: 0,
                        offset: 0,
                        index: 0,
                    },
                    price: Price::from_e8(1).expect("a price"),
                });
            },
        ];
        for (at, change) in impossible.iter().enumerate() {
            let mut state = random_state(&mut StdRng::seed_from_u64(1));
            assert!(state.totals.is_possible());
            change(&mut state.totals);
            assert_eq!(read(&cell(state)), Err(CellError::Damaged), "case {at}");
        }
    }
}
