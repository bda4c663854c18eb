//! The bounds of a job's work in progress. They decide cost and never values: a test or a
//! simulation may shrink all of them, and every bar stays the same.
//!
//! The bounds that decide values, such as those of the duplicate filter, are constants where they
//! are used, because every generation and the recomputation must agree on them.

/// How much is read, kept and sent at once. Each field is at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Records of one poll of the log. Between polls the worker does everything else.
    pub records_per_poll: usize,
    /// Windows in the open maps of a job together; with more, its sources stop reading until the
    /// next seal. A window takes about 350 bytes there, so this bounds the memory of a job, and with
    /// it the length of a replay. It is large, because a window whose trades lie in two epochs is
    /// written twice: an epoch of a backlog holds minutes of a market, and writes most of their
    /// windows once.
    pub open_windows: usize,
    /// The windows that each open map may hold however many workers there are. It is also the limit
    /// until the first seal, so that the first bars of a backlog appear soon.
    pub open_windows_at_least: usize,
    /// Windows of an open map that are ready to be added to. With more, all are encoded, which only
    /// records with thousands of windows reach: it is larger than `open_windows`, because a window
    /// that is encoded twice costs twice.
    pub windows_in_full: usize,
    /// Dead letters and feed gaps of an open map, with the same effect as windows.
    pub open_dead_letters: usize,
    /// Epochs that are bound and not yet committed, at least 2. A loss is bound at once, beyond it.
    pub epochs_ahead: u64,
    /// No further epoch is bound while those that are bound and not committed write so many rows of
    /// bars together. After a crash, the next generation reads and writes all of them before it
    /// processes new records, so this bounds the time of a restart (`bench/results/restart.md`).
    /// One full epoch may exceed it: it is written while the next one is read, which keeps the
    /// store busy.
    pub rows_ahead: u64,
    /// Bars or views of one read call.
    pub keys_per_read: usize,
    /// Rows that a worker adds together: an epoch is processed in pieces of about so many.
    pub rows_at_once: usize,
    /// A worker adds no further rows while so many of its bars are under way to the store.
    pub bars_unacknowledged: usize,
    /// Concurrent read calls of a process, and as many write calls. A store spreads each call over
    /// its own connections; more calls only overload it.
    pub calls_at_once: usize,
    /// Bars of one batch to the sink, which is one write to the store.
    pub bars_per_write: usize,
    /// Views of one batch to the sink.
    pub views_per_write: usize,
    /// Windows whose views are read and changed together: a time is processed in pieces of so many.
    pub windows_at_once: usize,
    /// A worker makes no further views while so many of its views are under way to the store.
    pub views_unacknowledged: usize,
    /// Bars of a recount in memory at once, about 200 bytes each.
    pub bars_per_recount: usize,
    /// Directory entries remembered as written. Beyond so many they are forgotten and written
    /// again, which is harmless.
    pub directory_entries: usize,
    /// Symbols that stay interned after a seal. With more, all are forgotten, which bounds memory
    /// if a feed sends ever new names.
    pub interned_symbols: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            records_per_poll: 1_024,
            open_windows: 24_576,
            open_windows_at_least: 4_096,
            windows_in_full: 32_000,
            open_dead_letters: 4_096,
            epochs_ahead: 4,
            rows_ahead: 12_288,
            keys_per_read: 512,
            rows_at_once: 4_096,
            bars_unacknowledged: 4_096,
            calls_at_once: 4,
            bars_per_write: 256,
            views_per_write: 64,
            windows_at_once: 1_024,
            views_unacknowledged: 1_024,
            bars_per_recount: 2_048,
            directory_entries: 100_000,
            interned_symbols: 200_000,
        }
    }
}
