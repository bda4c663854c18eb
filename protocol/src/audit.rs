//! The columns beside a state cell, held against the cell: dashboards show the columns, and the job
//! reads the cell alone.

use std::fmt::Display;

use tapeflow_schemas::{BarState, Epoch, StoredBar, StoredView, ViewState, WindowStart};

/// A window as readers see it: the state cell, and in what the columns beside it say something
/// else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audited<T> {
    /// Where the window starts.
    pub start: WindowStart,
    /// What the cell says; none where columns or lines stand without one.
    pub state: Option<T>,
    /// A phrase for each column that shows something else, such as `volume shows 12, its cell says
    /// 13`; empty if none does.
    pub mismatches: Vec<String>,
    /// The latest epoch of the lines beside the cell, if the cell is of an earlier one or not
    /// there: then they were not compared. A list and its lines are not written in one step.
    pub ahead: Option<Epoch>,
}

impl<T> Audited<T> {
    pub fn new(start: WindowStart, state: T, mismatches: Vec<String>) -> Self {
        Self {
            start,
            state: Some(state),
            mismatches,
            ahead: None,
        }
    }

    pub fn without_cell(start: WindowStart) -> Self {
        Self {
            start,
            state: None,
            mismatches: vec!["columns stand there without a cell".into()],
            ahead: None,
        }
    }
}

impl From<StoredBar> for Audited<BarState> {
    fn from(bar: StoredBar) -> Self {
        Self::new(bar.start, bar.state, Vec::new())
    }
}

impl From<StoredView> for Audited<ViewState> {
    fn from(list: StoredView) -> Self {
        Self::new(list.start, list.state, Vec::new())
    }
}

/// Bars that readers see and the directory does not lead to, as the store spells their place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unlisted {
    /// The symbol; it may be none that a symbol can be.
    pub symbol: String,
    /// Likewise.
    pub size: String,
    /// The bucket: the first window of the partition, in ms since 1970
    /// ([`tapeflow_schemas::WindowSize::bucket`]); none where a store has no partitions.
    pub bucket: Option<i64>,
}

/// Collects what columns show beside what they should.
#[derive(Default)]
pub struct Mismatches(pub Vec<String>);

impl Mismatches {
    /// Holds a column against its cell; `None` is no value.
    pub fn hold<T: PartialEq + Display>(
        &mut self,
        column: &str,
        shown: Option<T>,
        wanted: Option<T>,
    ) {
        if shown != wanted {
            self.push(column, shown, wanted);
        }
    }

    /// The same for doubles, which are equal if their bits are, or if both are not a number.
    pub fn hold_double(&mut self, column: &str, shown: Option<f64>, wanted: Option<f64>) {
        let same = match (shown, wanted) {
            (Some(shown), Some(wanted)) => {
                shown.to_bits() == wanted.to_bits() || (shown.is_nan() && wanted.is_nan())
            }
            (None, None) => true,
            _ => false,
        };
        if !same {
            self.push(column, shown, wanted);
        }
    }

    fn push<T: Display>(&mut self, column: &str, shown: Option<T>, wanted: Option<T>) {
        let text = |value: Option<T>| {
            value.map_or_else(|| "nothing".to_owned(), |value| value.to_string())
        };
        self.0.push(format!(
            "{column} shows {}, its cell says {}",
            text(shown),
            text(wanted)
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_is_named_and_what_does_not_is_not() {
        let mut mismatches = Mismatches::default();
        mismatches.hold("trades", Some(3), Some(3));
        mismatches.hold("name", Some("A"), Some("B"));
        mismatches.hold::<i64>("symbols", None, Some(1));
        mismatches.hold_double("vwap", Some(f64::NAN), Some(-f64::NAN));
        mismatches.hold_double("open", None, None);
        mismatches.hold_double("close", Some(0.1 + 0.2), Some(0.3));
        mismatches.hold_double("low", Some(f64::NAN), None);
        assert_eq!(
            mismatches.0,
            [
                "name shows A, its cell says B",
                "symbols shows nothing, its cell says 1",
                "close shows 0.30000000000000004, its cell says 0.3",
                "low shows NaN, its cell says nothing"
            ]
        );
    }
}
