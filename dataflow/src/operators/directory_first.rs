//! Directory entries before bars: a write goes to the store only when every directory entry that
//! came before it, or with it, is acknowledged. Otherwise readers would not find its bars, and an
//! audit would report them as not listed.
//!
//! Entries are sent at once and side by side. When all symbols begin a new bucket together, their
//! bars wait for one round of writes and not for one after the other.

use std::collections::{BTreeSet, VecDeque};

use tapeflow_protocol::EpochWrites;

/// Writes that wait for directory entries. `C` is kept with each write, and copied for its entries.
pub(crate) struct DirectoryFirst<C> {
    /// Directory writes so far.
    sent: u64,
    /// Those that are not acknowledged, by number from 1.
    unacknowledged: BTreeSet<u64>,
    /// In order of arrival, each with the number of the last directory write that it waits for.
    waiting: VecDeque<(u64, C, EpochWrites)>,
}

/// What is to be sent to the store.
pub(crate) struct Ready<C> {
    /// What was kept with the write.
    pub(crate) kept: C,
    pub(crate) writes: EpochWrites,
    /// The number of the directory write; `None` for other writes.
    pub(crate) directory: Option<u64>,
}

impl<C> Default for DirectoryFirst<C> {
    fn default() -> Self {
        Self {
            sent: 0,
            unacknowledged: BTreeSet::new(),
            waiting: VecDeque::new(),
        }
    }
}

impl<C: Clone> DirectoryFirst<C> {
    /// A write arrives.
    pub(crate) fn arrive(&mut self, kept: C, mut writes: EpochWrites, ready: &mut Vec<Ready<C>>) {
        let entries = std::mem::take(&mut writes.directory);
        if !entries.is_empty() {
            self.sent += 1;
            self.unacknowledged.insert(self.sent);
            ready.push(Ready {
                kept: kept.clone(),
                writes: EpochWrites {
                    directory: entries,
                    ..EpochWrites::default()
                },
                directory: Some(self.sent),
            });
        }
        if !writes.is_empty() {
            self.waiting.push_back((self.sent, kept, writes));
        }
        self.release(ready);
    }

    /// A directory write is acknowledged.
    pub(crate) fn acknowledged(&mut self, directory: u64, ready: &mut Vec<Ready<C>>) {
        self.unacknowledged.remove(&directory);
        self.release(ready);
    }

    fn release(&mut self, ready: &mut Vec<Ready<C>>) {
        let first = self.unacknowledged.first().copied().unwrap_or(u64::MAX);
        while let Some((_, kept, writes)) = self.waiting.pop_front_if(|(after, ..)| *after < first)
        {
            ready.push(Ready {
                kept,
                writes,
                directory: None,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use tapeflow_protocol::{DeadLetter, DirectoryEntry};
    use tapeflow_schemas::Symbol;

    use super::*;

    fn write(entries: usize) -> EpochWrites {
        let entry = DirectoryEntry {
            symbol: Symbol::new("AAPL").expect("a symbol"),
            bucket: 0,
        };
        let letter = DeadLetter {
            partition: 0,
            offset: 0,
            index: 0,
            reason: "json".into(),
            detail: String::new(),
            payload: Vec::new(),
        };
        EpochWrites {
            directory: vec![entry; entries],
            dead_letters: vec![letter],
            ..EpochWrites::default()
        }
    }

    /// The writes that are ready, by what was kept with them; `d` marks a directory write.
    fn names(ready: &mut Vec<Ready<u32>>) -> Vec<String> {
        ready
            .drain(..)
            .map(|ready| {
                let mark = if ready.directory.is_some() { "d" } else { "" };
                assert_eq!(
                    ready.directory.is_some(),
                    !ready.writes.directory.is_empty()
                );
                format!("{mark}{}", ready.kept)
            })
            .collect()
    }

    #[test]
    fn a_write_waits_for_the_entries_before_it_and_entries_wait_for_nothing() {
        let (mut queue, mut ready) = (DirectoryFirst::default(), Vec::new());
        queue.arrive(1, write(0), &mut ready);
        queue.arrive(2, write(1), &mut ready);
        queue.arrive(3, write(0), &mut ready);
        queue.arrive(4, write(2), &mut ready);
        queue.arrive(5, write(0), &mut ready);
        assert_eq!(names(&mut ready), ["1", "d2", "d4"]);
        queue.acknowledged(2, &mut ready);
        assert_eq!(names(&mut ready), [""; 0], "the first is not acknowledged");
        queue.acknowledged(1, &mut ready);
        assert_eq!(names(&mut ready), ["2", "3", "4", "5"]);
        queue.arrive(6, write(0), &mut ready);
        assert_eq!(names(&mut ready), ["6"]);
    }
}
