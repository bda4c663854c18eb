//! One replica of the store. Of two writes to a cell the one with the greater write timestamp wins,
//! in any order of arrival.

use std::collections::{BTreeMap, BTreeSet};

use tapeflow_protocol::{DeadLetter, DirectoryEntry};
use tapeflow_schemas::{
    BarKey, BarRow, BarState, BarWrite, Position, ViewKey, ViewState, ViewWrite, WriteTimestamp,
};

/// One write.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Directory(DirectoryEntry),
    Row(Box<BarWrite>),
    View(ViewWrite),
    DeadLetter(DeadLetter),
}

/// The content of a replica.
#[derive(Default)]
pub(crate) struct Replica {
    pub(crate) bars: BTreeMap<BarKey, (WriteTimestamp, BarRow)>,
    pub(crate) views: BTreeMap<ViewKey, (WriteTimestamp, ViewState)>,
    pub(crate) directory: BTreeSet<DirectoryEntry>,
    pub(crate) dead_letters: BTreeMap<Position, DeadLetter>,
}

/// A bar within its row.
pub(crate) fn bar_in(row: &BarRow, key: &BarKey) -> Option<BarState> {
    row.bar(key).expect("the job encodes them well")
}

impl Replica {
    /// A bar, packed or not.
    pub(crate) fn bar(&self, key: &BarKey) -> Option<BarState> {
        bar_in(&self.bars.get(&key.row())?.1, key)
    }

    /// The keys of all bars, packed ones too.
    pub(crate) fn keys(&self) -> Vec<BarKey> {
        let packed = self.bars.iter().flat_map(|(key, (_, row))| {
            row.packed.iter(key.start).map(|bar| {
                let bar = bar.expect("the job encodes them well");
                BarKey {
                    symbol: key.symbol.clone(),
                    size: bar.size,
                    start: bar.start,
                }
            })
        });
        self.bars.keys().cloned().chain(packed).collect()
    }

    pub(crate) fn apply(&mut self, item: Item) {
        match item {
            Item::Directory(entry) => {
                self.directory.insert(entry);
            }
            Item::Row(bar) => {
                let BarWrite {
                    key,
                    state,
                    packed,
                    write_timestamp,
                } = *bar;
                newest(
                    &mut self.bars,
                    key,
                    write_timestamp,
                    BarRow { state, packed },
                );
            }
            Item::View(ViewWrite {
                key,
                state,
                write_timestamp,
            }) => newest(&mut self.views, key, write_timestamp, state),
            Item::DeadLetter(dead_letter) => {
                self.dead_letters
                    .insert(dead_letter.position(), dead_letter);
            }
        }
    }
}

fn newest<K: Ord, V>(
    cells: &mut BTreeMap<K, (WriteTimestamp, V)>,
    key: K,
    write_timestamp: WriteTimestamp,
    value: V,
) {
    match cells.entry(key) {
        std::collections::btree_map::Entry::Vacant(free) => {
            free.insert((write_timestamp, value));
        }
        std::collections::btree_map::Entry::Occupied(mut held) => {
            if held.get().0 < write_timestamp {
                held.insert((write_timestamp, value));
            }
        }
    }
}
