//! What an audit found: where the store differs, what can be done about it, and how much was
//! compared.

use std::{collections::BTreeSet, fmt};

use tapeflow_oracle::OracleCounts;
use tapeflow_protocol::{FeedGap, Unlisted};
use tapeflow_schemas::{
    BarKey, Epoch, Offset, ViewKey,
    window::{bucket, format_utc},
};

/// A place in the store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A bar.
    Bar(BarKey),
    /// A view of one window.
    View(ViewKey),
    /// Bars that the symbol directory does not list, so that readers do not find them.
    Unlisted(Unlisted),
    /// A time in which trades may be missing.
    FeedGap(FeedGap),
    /// All of these times, if they cannot be read.
    FeedGaps,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bar(key) => key.fmt(f),
            Self::View(key) => key.fmt(f),
            Self::Unlisted(Unlisted { symbol, bucket }) => {
                let bucket = format_utc(*bucket);
                write!(f, "bars of {symbol:?} in the bucket of {bucket}")
            }
            Self::FeedGap(gap) => {
                let end = gap.to_ms.map_or_else(|| "open".to_owned(), format_utc);
                write!(
                    f,
                    "feed gap of {} from {} to {end} ({}, session {})",
                    gap.producer,
                    format_utc(gap.from_ms),
                    gap.cause,
                    gap.session
                )
            }
            Self::FeedGaps => f.write_str("feed gaps"),
        }
    }
}

/// What a repair can do about a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepairAction {
    /// Write the recomputation.
    Write,
    /// Nothing: no trade belongs there, and a repair never deletes.
    CannotDelete,
    /// Nothing: the place may contain trades from records that were not read, so its correct
    /// content is unknown.
    CannotRecompute,
}

/// One place where the store differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Where.
    pub place: Place,
    /// What a repair can do.
    pub action: RepairAction,
}

/// How many bars or views were compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Compared with the recomputation.
    pub compared: u64,
    /// Not compared, because they may contain trades from records that were not read.
    pub not_compared: u64,
    /// Those of them to which no record that was read belongs: they are older than what was read.
    pub beyond_reach: u64,
}

/// Which part of something was compared or read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// What it is a share of, for people.
    pub what: &'static str,
    /// How many were.
    pub part: u64,
    /// How many there are.
    pub of: u64,
}

impl Share {
    /// Whether this is at least so many percent. Nothing of nothing is 0 percent.
    #[must_use]
    pub fn is_at_least(&self, percent: u64) -> bool {
        let (part, of) = (u128::from(self.part), u128::from(self.of.max(1)));
        part * 100 >= of * u128::from(percent)
    }
}

/// The result of an audit.
#[derive(Clone, Debug, Default)]
pub struct Findings {
    /// The places that differ.
    pub differences: Vec<Difference>,
    /// The job's own counts differ from those of the recomputation.
    pub history_differs: bool,
    /// Bars compared.
    pub bars: Tally,
    /// Views compared.
    pub views: Tally,
    /// Feed gaps compared. They are those of all symbols and windows.
    pub feed_gaps: Tally,
    /// Bars and views not compared, because the end of their epoch is not known.
    pub unknown_epochs: u64,
    /// Views not compared, because the job wrote them at each of several readings.
    pub moving_views: u64,
    /// Bars and views that the store lacks because they are beyond their horizon.
    pub left: u64,
    /// All records that the job has read were recomputed, so everything was compared.
    pub complete: bool,
    /// What became of the records.
    pub counts: OracleCounts,
    /// Offsets that were passed to read these records. There are more than records if some offsets
    /// have none: a transaction of a foreign producer leaves its markers.
    pub offsets: u64,
    /// Selected symbols for which neither the store nor the log has anything.
    pub unknown_symbols: BTreeSet<String>,
    /// Records that are no longer in the log or were given up; 0 if no bar may contain them.
    pub missing_records: u64,
    /// Records that were left out because they are older than [`crate::Settings::since`].
    pub skipped_records: u64,
    /// The epoch up to which they were left out; 0 if none were.
    pub skipped_up_to: Epoch,
    /// The committed epoch when the audit began to read the store.
    pub committed: Epoch,
    /// The last epoch bound when it had read the store.
    pub bound: Epoch,
    /// For each pass that read all records: the first offset of each partition. A repair must start
    /// at the same offsets.
    pub(crate) first_offsets: Vec<Vec<Offset>>,
}

impl Findings {
    /// The number of differences, the one between history and the log included.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.differences.len() as u64 + u64::from(self.history_differs)
    }

    /// How much of what the records that were read can show was compared: of the bars, and of the
    /// views. A store may hold bars that are older than the log: these do not count.
    #[must_use]
    pub fn shares(&self) -> [Share; 2] {
        let of = |tally: &Tally| tally.compared + tally.not_compared - tally.beyond_reach;
        [
            Share {
                what: "bars",
                part: self.bars.compared,
                of: of(&self.bars) + self.unknown_epochs,
            },
            Share {
                what: "views",
                part: self.views.compared,
                of: of(&self.views) + self.moving_views,
            },
        ]
    }

    /// The first share that is below so many percent. Without any bar that is the one of bars; a
    /// store may have no views, if all its windows are short.
    #[must_use]
    pub fn too_small_share(&self, percent: u64) -> Option<Share> {
        self.shares()
            .into_iter()
            .filter(|share| share.of > 0 || share.what == "bars")
            .find(|share| !share.is_at_least(percent))
    }

    /// The places with this action.
    pub fn places(&self, action: RepairAction) -> impl Iterator<Item = &Place> {
        self.differences
            .iter()
            .filter(move |difference| difference.action == action)
            .map(|difference| &difference.place)
    }

    /// Adds the findings of the next pass.
    pub(crate) fn add(&mut self, next: Self) {
        let before = std::mem::take(self);
        // What concerns the whole log is taken from the last pass, which read the most of it.
        *self = next;
        self.differences.splice(0..0, before.differences);
        self.first_offsets.splice(0..0, before.first_offsets);
        self.first_offsets.dedup();
        for (sum, before) in [
            (&mut self.bars, before.bars),
            (&mut self.views, before.views),
            (&mut self.feed_gaps, before.feed_gaps),
        ] {
            sum.compared += before.compared;
            sum.not_compared += before.not_compared;
            sum.beyond_reach += before.beyond_reach;
        }
        self.unknown_epochs += before.unknown_epochs;
        self.moving_views += before.moving_views;
        self.left += before.left;
        self.history_differs |= before.history_differs;
        // A slice of the windows may have none of a symbol that another one has.
        self.unknown_symbols
            .retain(|symbol| before.unknown_symbols.contains(symbol));
    }

    /// Whether a bar of this partition of the store was found missing. Then its partition differs
    /// already.
    pub(crate) fn contains_bar_of(&self, unlisted: &Unlisted) -> bool {
        self.differences
            .iter()
            .any(|difference| match &difference.place {
                Place::Bar(key) => {
                    key.symbol.as_str() == unlisted.symbol && bucket(key.start) == unlisted.bucket
                }
                Place::View(_) | Place::Unlisted(_) | Place::FeedGap(_) | Place::FeedGaps => false,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(compared: u64, not_compared: u64, beyond_reach: u64) -> Tally {
        Tally {
            compared,
            not_compared,
            beyond_reach,
        }
    }

    #[test]
    fn an_audit_that_compared_too_little_is_known_by_its_smallest_share() {
        let findings = |bars, views| Findings {
            bars,
            views,
            ..Findings::default()
        };
        let too_small = |findings: &Findings, percent| {
            findings
                .too_small_share(percent)
                .map(|share| (share.what, share.part, share.of))
        };
        let none = Findings::default();
        assert_eq!(too_small(&none, 1), Some(("bars", 0, 0)), "nothing at all");
        assert_eq!(too_small(&none, 0), None, "asked for");
        let old = findings(tally(60, 1_000, 990), tally(5, 0, 0));
        assert_eq!(
            too_small(&old, 50),
            None,
            "most bars are older than the log"
        );
        let straddling = findings(tally(4, 6, 0), tally(5, 0, 0));
        assert_eq!(too_small(&straddling, 50), Some(("bars", 4, 10)));
        let no_views = findings(tally(4, 0, 0), tally(0, 3, 0));
        assert_eq!(too_small(&no_views, 50), Some(("views", 0, 3)));
        let seconds = findings(tally(4, 0, 0), tally(0, 0, 0));
        assert_eq!(
            too_small(&seconds, 100),
            None,
            "windows of a second have no views"
        );
    }

    #[test]
    fn a_symbol_of_any_slice_is_known() {
        let of = |unknown: &[&str]| Findings {
            unknown_symbols: unknown.iter().map(|name| (*name).to_owned()).collect(),
            ..Findings::default()
        };
        let mut all = of(&["A", "B"]);
        all.add(of(&["A"]));
        assert_eq!(all.unknown_symbols, BTreeSet::from(["A".to_owned()]));
    }
}
