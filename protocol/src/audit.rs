//! What an audit finds beside the cells. Dashboards read the display columns, and the job reads
//! the cells alone, so an error in a column goes unnoticed without a comparison.

use std::fmt::Display;

use tapeflow_schemas::{BarState, Epoch, StoredBar, StoredView, ViewState, WindowStart};

/// A window as an audit reads it: the state cell, and the display columns that differ from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audited<T> {
    /// The start of the window.
    pub start: WindowStart,
    /// The content of the cell; `None` if there are columns or entries without a cell.
    pub state: Option<T>,
    /// A phrase for each column that differs, such as `volume shows 12, its cell says 13`.
    pub mismatches: Vec<String>,
    /// The latest epoch of the view's entries, if the cell is missing or the entries are ahead of it
    /// ([`entries_ahead`]). The entries were not compared then.
    pub ahead: Option<Epoch>,
}

impl<T> Audited<T> {
    /// A window whose columns were compared with its cell.
    pub fn new(start: WindowStart, state: T, mismatches: Vec<String>) -> Self {
        Self {
            start,
            state: Some(state),
            mismatches,
            ahead: None,
        }
    }

    /// A row that has display columns and no cell.
    pub fn without_cell(start: WindowStart) -> Self {
        Self {
            start,
            state: None,
            mismatches: vec!["display columns without a cell".into()],
            ahead: None,
        }
    }

    /// A view's entries without a cell; `latest` is the latest epoch among them.
    pub fn entries_without_cell(start: WindowStart, latest: Epoch) -> Self {
        Self {
            start,
            state: None,
            mismatches: Vec::new(),
            ahead: Some(latest),
        }
    }
}

impl From<StoredBar> for Audited<BarState> {
    fn from(bar: StoredBar) -> Self {
        Self::new(bar.start, bar.state, Vec::new())
    }
}

impl From<StoredView> for Audited<ViewState> {
    fn from(view: StoredView) -> Self {
        Self::new(view.start, view.state, Vec::new())
    }
}

/// The latest epoch of a view's entries, if they must not be compared with the view's cell, whose
/// epoch is `cell`, because the job may have written the view while it was read:
///
/// * The cell is read before the entries. A write of both in between leaves entries of a later
///   epoch.
/// * Entries are read in pages. A write between two pages leaves entries of two epochs. After an
///   epoch is committed (`committed` was read before), no page has an older entry.
#[must_use]
pub fn entries_ahead(
    cell: Epoch,
    entries: impl Iterator<Item = Epoch> + Clone,
    committed: Epoch,
) -> Option<Epoch> {
    let latest = entries.clone().max()?;
    let is_torn = latest > committed && entries.clone().any(|epoch| epoch != latest);
    (latest > cell || is_torn).then_some(latest)
}

/// A bucket of bars that the directory does not list. The symbol is as the store spells it: it may
/// be invalid.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unlisted {
    /// The symbol.
    pub symbol: String,
    /// The start of the bucket in ms since 1970 ([`tapeflow_schemas::window::bucket`]).
    pub bucket: i64,
}

/// Collects the columns that differ from what their cell implies.
#[derive(Default)]
pub struct Mismatches(pub Vec<String>);

impl Mismatches {
    /// Compares a column with the value its cell implies. `None` is no value.
    pub fn compare<T: PartialEq + Display>(
        &mut self,
        column: &str,
        found: Option<T>,
        expected: Option<T>,
    ) {
        if found != expected {
            self.push(column, found, expected);
        }
    }

    /// Compares doubles. They are equal if their bits are, or if both are NaN.
    pub fn compare_double(&mut self, column: &str, found: Option<f64>, expected: Option<f64>) {
        let equal = match (found, expected) {
            (Some(found), Some(expected)) => {
                found.to_bits() == expected.to_bits() || (found.is_nan() && expected.is_nan())
            }
            (None, None) => true,
            _ => false,
        };
        if !equal {
            self.push(column, found, expected);
        }
    }

    /// Adds a rank that a view of `ranks` ranks does not have.
    pub fn extra_rank(&mut self, rank: impl Display, ranks: usize) {
        self.0
            .push(format!("rank {rank} is extra, its view has {ranks}"));
    }

    fn push<T: Display>(&mut self, column: &str, found: Option<T>, expected: Option<T>) {
        let text = |value: Option<T>| {
            value.map_or_else(|| "nothing".to_owned(), |value| value.to_string())
        };
        self.0.push(format!(
            "{column} shows {}, its cell says {}",
            text(found),
            text(expected)
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_a_write_may_have_touched_while_they_were_read_are_not_compared() {
        let ahead = |cell, entries: &[Epoch]| entries_ahead(cell, entries.iter().copied(), 5);
        assert_eq!(ahead(7, &[7, 7]), None);
        assert_eq!(
            ahead(7, &[8, 8]),
            Some(8),
            "written between cell and entries"
        );
        assert_eq!(ahead(7, &[6, 7]), Some(7), "written between two pages");
        assert_eq!(ahead(5, &[4, 5]), None, "damage: epoch 5 is committed");
        assert_eq!(
            ahead(7, &[6, 6]),
            None,
            "the entries of epoch 7 are on their way"
        );
        assert_eq!(ahead(7, &[]), None);
    }

    #[test]
    fn columns_that_differ_are_named_and_equal_ones_are_not() {
        let mut mismatches = Mismatches::default();
        mismatches.compare("trades", Some(3), Some(3));
        mismatches.compare("name", Some("A"), Some("B"));
        mismatches.compare::<i64>("symbols", None, Some(1));
        mismatches.compare_double("vwap", Some(f64::NAN), Some(-f64::NAN));
        mismatches.compare_double("open", None, None);
        mismatches.compare_double("close", Some(0.1 + 0.2), Some(0.3));
        mismatches.compare_double("low", Some(f64::NAN), None);
        mismatches.extra_rank(3, 2);
        assert_eq!(
            mismatches.0,
            [
                "name shows A, its cell says B",
                "symbols shows nothing, its cell says 1",
                "close shows 0.30000000000000004, its cell says 0.3",
                "low shows NaN, its cell says nothing",
                "rank 3 is extra, its view has 2"
            ]
        );
    }
}
