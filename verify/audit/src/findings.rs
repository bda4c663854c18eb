//! What an audit found: where the store differs, what can be done about it, and how much was
//! compared.

use std::fmt;

use tapeflow_oracle::OracleCounts;
use tapeflow_protocol::Unlisted;
use tapeflow_schemas::{BarKey, Epoch, Offset, ViewKey};

/// A place in the store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A bar.
    Bar(BarKey),
    /// A view of one window.
    View(ViewKey),
    /// Bars that the symbol directory does not list, so that readers do not find them.
    Unlisted(Unlisted),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bar(key) => key.fmt(f),
            Self::View(key) => key.fmt(f),
            Self::Unlisted(Unlisted {
                symbol,
                size,
                bucket,
            }) => {
                write!(f, "bars of {symbol:?} {size:?}")?;
                bucket.map_or(Ok(()), |bucket| write!(f, " in the bucket of {bucket} ms"))
            }
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
    /// Bars and views not compared, because the end of their epoch is not known.
    pub unknown_epochs: u64,
    /// All records that the job has read were recomputed, so everything was compared.
    pub complete: bool,
    /// What became of the records.
    pub counts: OracleCounts,
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
        ] {
            sum.compared += before.compared;
            sum.not_compared += before.not_compared;
        }
        self.unknown_epochs += before.unknown_epochs;
        self.history_differs |= before.history_differs;
    }

    /// Whether a bar of this partition of the store was found missing. Then its partition differs
    /// already.
    pub(crate) fn contains_bar_of(&self, unlisted: &Unlisted) -> bool {
        self.differences
            .iter()
            .any(|difference| match &difference.place {
                Place::Bar(key) => {
                    let bucket = key.size.bucket(key.start);
                    key.symbol.as_str() == unlisted.symbol
                        && key.size.to_string() == unlisted.size
                        && unlisted.bucket.is_none_or(|unlisted| unlisted == bucket)
                }
                Place::View(_) | Place::Unlisted(_) => false,
            })
    }
}
