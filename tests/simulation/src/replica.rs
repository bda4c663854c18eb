//! One replica of the store: of two writes to a cell the one with the greater stamp wins, in
//! whatever order they arrive.

use std::collections::{BTreeMap, BTreeSet};

use tapeflow_protocol::{DirectoryEntry, Reject};
use tapeflow_schemas::{
    Position, RowKey, RowState, RowWrite, Stamp, ViewKey, ViewState, ViewWrite,
};

/// One thing to be written.
#[derive(Clone, Debug)]
pub(crate) enum Item {
    Directory(DirectoryEntry),
    Row(Box<RowWrite>),
    View(ViewWrite),
    Reject(Reject),
}

/// What a replica holds.
#[derive(Default)]
pub(crate) struct Replica {
    pub(crate) rows: BTreeMap<RowKey, (Stamp, RowState)>,
    pub(crate) views: BTreeMap<ViewKey, (Stamp, ViewState)>,
    pub(crate) directory: BTreeSet<DirectoryEntry>,
    pub(crate) rejects: BTreeMap<Position, Reject>,
}

impl Replica {
    pub(crate) fn apply(&mut self, item: Item) {
        match item {
            Item::Directory(entry) => {
                self.directory.insert(entry);
            }
            Item::Row(row) => newest(&mut self.rows, row.key, row.stamp, row.state),
            Item::View(ViewWrite { key, state, stamp }) => {
                newest(&mut self.views, key, stamp, state)
            }
            Item::Reject(reject) => {
                self.rejects.insert(reject.position(), reject);
            }
        }
    }
}

fn newest<K: Ord, V>(cells: &mut BTreeMap<K, (Stamp, V)>, key: K, stamp: Stamp, value: V) {
    match cells.entry(key) {
        std::collections::btree_map::Entry::Vacant(free) => {
            free.insert((stamp, value));
        }
        std::collections::btree_map::Entry::Occupied(mut held) => {
            if held.get().0 < stamp {
                held.insert((stamp, value));
            }
        }
    }
}
