//! Bars shorter than a minute, packed into the row of their minute.
//!
//! A row for each second costs a store more than all that is in it: most trades of most symbols
//! open a second of their own. So a second has no row: its totals are in the cell of its minute,
//! encoded, and the epoch of that cell is the epoch of all of them. Whatever changes a second
//! changes its minute, so both are always written together.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::{
    CellError, EncodedPackedBars, Totals, WindowSize, WindowStart,
    cell::{Reader, put, put_totals},
};

/// Packed bars of one minute, in the order of their sizes and starts. Each is
///
/// ```text
///  seconds of its size │ its number within the minute │ length of its totals │ totals
///  one byte            │ one byte                     │ varint               │
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackedBars(Vec<u8>);

/// One of them: its size, its start in milliseconds since 1970 UTC, and its totals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackedBar {
    /// Its size: [`WindowSize::is_packed`].
    pub size: WindowSize,
    /// Its first millisecond.
    pub start: WindowStart,
    /// Its totals as of the epoch of its minute.
    pub totals: Totals,
}

/// Where an entry stands: seconds of its size, and its number.
type Place = (u8, u8);

/// An entry that is not decoded.
struct Entry<'a> {
    place: Place,
    /// All its bytes.
    bytes: &'a [u8],
    totals: &'a [u8],
}

impl PackedBars {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bytes that they take in memory.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// Their encoded form.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Adds other bars of the minute that starts at `minute`. A bar that only one side has is copied
    /// and not decoded. `scratch` is space that the caller keeps.
    ///
    /// # Errors
    /// [`CellError::Damaged`] if the bars are not encoded as this type does it.
    pub fn merge(
        &mut self,
        minute: WindowStart,
        other: &Self,
        scratch: &mut Vec<u8>,
    ) -> Result<(), CellError> {
        self.merge_encoded(minute, EncodedPackedBars(&other.0), scratch)
    }

    /// As [`PackedBars::merge`].
    ///
    /// # Errors
    /// As there.
    pub fn merge_encoded(
        &mut self,
        minute: WindowStart,
        other: EncodedPackedBars<'_>,
        scratch: &mut Vec<u8>,
    ) -> Result<(), CellError> {
        if other.is_empty() {
            return Ok(());
        }
        scratch.clear();
        let (mut mine, mut theirs) = (Entries(Reader(&self.0)), Entries(Reader(other.0)));
        let (mut one, mut two) = (mine.next().transpose()?, theirs.next().transpose()?);
        loop {
            let order = match (&one, &two) {
                (None, None) => break,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(one), Some(two)) => one.place.cmp(&two.place),
            };
            match (&one, &two, order) {
                (Some(one), _, Ordering::Less) => scratch.extend(one.bytes),
                (_, Some(two), Ordering::Greater) => scratch.extend(two.bytes),
                (Some(one), Some(two), Ordering::Equal) => {
                    let mut bar = one.decode(minute)?;
                    bar.totals.merge(&two.decode(minute)?.totals);
                    put_entry(scratch, one.place, bar.start, &bar.totals);
                }
                _ => break,
            }
            if order != Ordering::Greater {
                one = mine.next().transpose()?;
            }
            if order != Ordering::Less {
                two = theirs.next().transpose()?;
            }
        }
        self.0.clear();
        self.0.extend(&*scratch);
        Ok(())
    }

    /// These without the bars of some sizes. What stays is copied and not decoded.
    ///
    /// # Errors
    /// [`CellError::Damaged`] if the bars are not encoded as this type does it.
    pub fn without(&self, sizes: &[WindowSize]) -> Result<Self, CellError> {
        let mut left = Vec::with_capacity(self.0.len());
        for entry in Entries(Reader(&self.0)) {
            let entry = entry?;
            let ms = i64::from(entry.place.0) * 1_000;
            if sizes.iter().all(|size| size.ms() != ms) {
                left.extend(entry.bytes);
            }
        }
        left.shrink_to_fit();
        Ok(Self(left))
    }

    /// The sizes that these have and the others have not. Nothing where they cannot be decoded.
    pub(crate) fn sizes_not_in(&self, others: &Self) -> Vec<WindowSize> {
        let seconds = |of: &Self| -> std::collections::BTreeSet<u8> {
            let entries = Entries(Reader(&of.0));
            entries
                .filter_map(|entry| Some(entry.ok()?.place.0))
                .collect()
        };
        seconds(self)
            .difference(&seconds(others))
            .filter_map(|seconds| WindowSize::from_ms(i64::from(*seconds) * 1_000))
            .collect()
    }

    /// Encodes bars of the minute that starts at `minute`, in any order. Equal windows are added up.
    ///
    /// # Panics
    /// If a bar is none of this minute, or its size is not packed.
    #[must_use]
    pub fn of(minute: WindowStart, bars: &mut [PackedBar]) -> Self {
        let mut packed = Vec::with_capacity(bars.len() * 32);
        Self::put(&mut packed, minute, bars);
        packed.shrink_to_fit();
        Self(packed)
    }

    /// Appends the encoded form of bars, as [`PackedBars::of`] makes it.
    pub(crate) fn put(out: &mut Vec<u8>, minute: WindowStart, bars: &mut [PackedBar]) {
        bars.sort_by_key(|bar| place_of(bar, minute));
        for same in bars.chunk_by(|a, b| (a.size, a.start) == (b.size, b.start)) {
            let (first, rest) = same.split_first().expect("a chunk is not empty");
            let mut totals = first.totals;
            rest.iter().for_each(|bar| totals.merge(&bar.totals));
            put_entry(out, place_of(first, minute), first.start, &totals);
        }
    }

    /// The bars of the minute that starts at `minute`, decoded one by one.
    ///
    /// # Errors
    /// [`CellError::Damaged`] if they are not encoded as this type does it.
    pub fn iter(
        &self,
        minute: WindowStart,
    ) -> impl Iterator<Item = Result<PackedBar, CellError>> + use<'_> {
        Entries(Reader(&self.0)).map(move |entry| entry?.decode(minute))
    }

    /// Reads what is left of a cell.
    pub(crate) fn from_cell(bytes: &[u8], minute: WindowStart) -> Result<Self, CellError> {
        let packed = Self(bytes.to_vec());
        let mut last = None;
        for bar in packed.iter(minute) {
            let bar = bar?;
            let place = place_of(&bar, minute);
            if last.is_some_and(|last| last >= place) || !bar.totals.is_possible() {
                return Err(CellError::Damaged);
            }
            last = Some(place);
        }
        Ok(packed)
    }
}

fn place_of(bar: &PackedBar, minute: WindowStart) -> Place {
    let number = (bar.start - minute) / bar.size.ms();
    let of_minute = bar.size.is_packed()
        && (0..WindowSize::MINUTE.ms()).contains(&(bar.start - minute))
        && (bar.start - minute) % bar.size.ms() == 0;
    assert!(
        of_minute,
        "a bar of {} at {} in minute {minute}",
        bar.size, bar.start
    );
    let byte = |number: i64| u8::try_from(number).expect("below 60");
    (byte(bar.size.ms() / 1_000), byte(number))
}

fn put_entry(out: &mut Vec<u8>, (seconds, number): Place, start: WindowStart, totals: &Totals) {
    out.extend([seconds, number]);
    // The length is one byte for most totals: room for it is made, and two are inserted where it
    // has two.
    let at = out.len();
    out.push(0);
    put_totals(out, totals, start);
    let length = out.len() - at - 1;
    if let Some(byte) = u8::try_from(length).ok().filter(|length| *length < 0x80) {
        out[at] = byte;
    } else {
        let mut varint = Vec::new();
        put(&mut varint, length as u128);
        out.splice(at..=at, varint);
    }
}

/// The entries, not decoded. Ends after an error.
struct Entries<'a>(Reader<'a>);

impl<'a> Iterator for Entries<'a> {
    type Item = Result<Entry<'a>, CellError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let entry = self.read();
        if entry.is_none() {
            self.0 = Reader(&[]);
        }
        Some(entry.ok_or(CellError::Damaged))
    }
}

impl<'a> Entries<'a> {
    fn read(&mut self) -> Option<Entry<'a>> {
        let reader = &mut self.0;
        let all = reader.0;
        let place = (reader.byte()?, reader.byte()?);
        let length = usize::try_from(reader.u64()?).ok()?;
        let totals = reader.bytes(length)?;
        Some(Entry {
            place,
            bytes: &all[..all.len() - reader.0.len()],
            totals,
        })
    }
}

impl Entry<'_> {
    fn decode(&self, minute: WindowStart) -> Result<PackedBar, CellError> {
        self.read(minute).ok_or(CellError::Damaged)
    }

    fn read(&self, minute: WindowStart) -> Option<PackedBar> {
        let (seconds, number) = (i64::from(self.place.0), i64::from(self.place.1));
        let size = WindowSize::from_ms(seconds * 1_000).filter(|size| size.is_packed())?;
        if number * size.ms() >= WindowSize::MINUTE.ms() {
            return None;
        }
        let start = minute.checked_add(number * size.ms())?;
        let mut reader = Reader(self.totals);
        let totals = reader.totals(start)?;
        reader.is_empty().then_some(PackedBar {
            size,
            start,
            totals,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::{Conditions, EventTime, Position, Price, Size, Trade};

    const MINUTE: WindowStart = 1_680_286_500_000;

    fn size(text: &str) -> WindowSize {
        text.parse().expect("a size")
    }

    fn random_bar(random: &mut StdRng) -> PackedBar {
        let size = [size("1s"), size("5s"), size("30s")][random.random_range(0..3)];
        let windows = 60_000 / size.ms();
        let start = MINUTE + size.ms() * random.random_range(0..windows);
        let trade = Trade::new(
            EventTime::from_ms(start + random.random_range(0..size.ms())).expect("a time"),
            Price::from_e8(random.random_range(1..1_000_000_000_000)).expect("a price"),
            Size::parse("3").expect("a size").value,
            Conditions::NONE.with(random.random_range(1..=43)),
        )
        .expect("a trade");
        let position = Position {
            partition: random.random_range(0..4),
            offset: random.random_range(0..1_000_000),
            index: 0,
        };
        PackedBar {
            size,
            start,
            totals: Totals::of(&trade, position, random.random_bool(0.2)),
        }
    }

    #[test]
    fn added_in_any_grouping_they_are_the_sums_of_what_was_added() {
        for seed in 0..200 {
            println!("seed {seed}");
            let mut random = StdRng::seed_from_u64(seed);
            let (mut packed, mut want) = (PackedBars::default(), BTreeMap::new());
            let mut scratch = Vec::new();
            let mut all = Vec::new();
            for _ in 0..random.random_range(1..8) {
                let mut some: Vec<_> = (0..random.random_range(0..20))
                    .map(|_| random_bar(&mut random))
                    .collect();
                for bar in &some {
                    want.entry((bar.size, bar.start))
                        .or_insert_with(Totals::default)
                        .merge(&bar.totals);
                }
                all.extend(some.clone());
                let some = PackedBars::of(MINUTE, &mut some);
                packed
                    .merge(MINUTE, &some, &mut scratch)
                    .expect("well formed");
            }
            let found: Vec<_> = packed
                .iter(MINUTE)
                .map(|bar| bar.expect("well formed"))
                .map(|bar| ((bar.size, bar.start), bar.totals))
                .collect();
            assert_eq!(found, want.into_iter().collect::<Vec<_>>());
            assert_eq!(PackedBars::of(MINUTE, &mut all), packed, "one form");
            assert_eq!(
                PackedBars::from_cell(packed.as_bytes(), MINUTE).as_ref(),
                Ok(&packed)
            );
        }
    }

    #[test]
    fn bars_of_some_sizes_can_be_left_out_and_the_others_stay_as_they_were() {
        let mut random = StdRng::seed_from_u64(3);
        let mut bars: Vec<_> = (0..30).map(|_| random_bar(&mut random)).collect();
        let mut left: Vec<_> = bars
            .iter()
            .copied()
            .filter(|bar| bar.size != size("1s") && bar.size != size("30s"))
            .collect();
        let packed = PackedBars::of(MINUTE, &mut bars);
        assert!(!left.is_empty() && left.len() < bars.len());
        assert_eq!(
            packed.without(&[size("1s"), size("30s")]),
            Ok(PackedBars::of(MINUTE, &mut left))
        );
        assert_eq!(packed.without(&[]).as_ref(), Ok(&packed));
        assert!(PackedBars(vec![1]).without(&[]).is_err());
    }

    #[test]
    fn what_was_not_written_so_is_refused() {
        let mut random = StdRng::seed_from_u64(1);
        let mut bars: Vec<_> = (0..8).map(|_| random_bar(&mut random)).collect();
        let packed = PackedBars::of(MINUTE, &mut bars);
        let bytes = packed.as_bytes();
        let first = &bytes[..3 + usize::from(bytes[2])];
        let twice = [first, first].concat();
        let unpacked_size = [&[60][..], &first[1..]].concat();
        let beyond = [&[first[0], 60][..], &first[2..]].concat();
        for bytes in [
            &bytes[..bytes.len() - 1],
            &twice,
            &unpacked_size,
            &beyond,
            &[1],
        ] {
            assert_eq!(
                PackedBars::from_cell(bytes, MINUTE),
                Err(CellError::Damaged),
                "{bytes:?}"
            );
        }
    }

    /// Sixty seconds of one trade each are less than a row of the first form for one of them.
    #[test]
    fn a_second_of_one_trade_takes_about_thirty_bytes() {
        let trade = |second: i64| {
            let ms = MINUTE + second * 1_000 + 953;
            let trade = Trade::new(
                EventTime::from_ms(ms).expect("a time"),
                Price::parse("164.06").expect("a price").value,
                Size::parse("100").expect("a size").value,
                Conditions::NONE,
            );
            let position = Position {
                partition: 3,
                offset: 123_456_789 + second,
                index: 0,
            };
            PackedBar {
                size: size("1s"),
                start: MINUTE + second * 1_000,
                totals: Totals::of(&trade.expect("a trade"), position, false),
            }
        };
        let mut bars: Vec<_> = (0..60).map(trade).collect();
        let bytes = PackedBars::of(MINUTE, &mut bars).as_bytes().len();
        assert!((60 * 20..60 * 34).contains(&bytes), "{bytes} bytes");
    }
}
