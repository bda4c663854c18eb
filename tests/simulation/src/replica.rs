//! One replica of the store. Of two writes to a cell the one with the greater write timestamp wins,
//! in any order of arrival.

use std::collections::{BTreeMap, BTreeSet};

use tapeflow_protocol::{DeadLetter, DirectoryEntry};
use tapeflow_schemas::{
    BarKey, BarState, BarWrite, Position, ViewKey, ViewState, ViewWrite, WriteTimestamp,
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
    pub(crate) bars: BTreeMap<BarKey, (WriteTimestamp, BarState)>,
    pub(crate) views: BTreeMap<ViewKey, (WriteTimestamp, ViewState)>,
    pub(crate) directory: BTreeSet<DirectoryEntry>,
    pub(crate) dead_letters: BTreeMap<Position, DeadLetter>,
}

impl Replica {
    pub(crate) fn apply(&mut self, item: Item) {
        match item {
            Item::Directory(entry) => {
                self.directory.insert(entry);
            }
            Item::Row(bar) => newest(&mut self.bars, bar.key, bar.write_timestamp, bar.state),
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
