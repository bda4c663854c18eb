//! Where bars go: three stores that pass one contract suite ([`tapeflow_protocol::Store`]).
//!
//! ```text
//!                       ┌──▶ memory      tests and simulations; checks the invariants
//!  EpochStore::write ───┼──▶ sqlite      one machine, one file, shared with the log
//!                       └──▶ cassandra   any number of machines
//! ```
//!
//! | word | meaning |
//! |---|---|
//! | state cell | the one value that the job reads back: epoch, exact values, checksum |
//! | display columns | values beside the cell for dashboards and other tools |
//! | directory | the symbols and buckets that have bars |
//! | write timestamp | of two writes to a bar, the one with the greater write timestamp wins |
//!
//! ```
//! # use futures::executor::block_on;
//! use tapeflow_protocol::{DirectoryEntry, BarReader, EpochStore, EpochWrites};
//! use tapeflow_schemas::{BarKey, BarState, BarWrite, PackedBars, Symbol, Totals, WindowSize};
//! use tapeflow_sinks::memory::MemoryStore;
//!
//! let store = MemoryStore::new();
//! let (symbol, size) = (Symbol::new("AAPL").expect("a symbol"), WindowSize::MINUTE);
//! let key = BarKey { symbol: symbol.clone(), size, start: 0 };
//! let state = BarState { epoch: 1, totals: Totals::default() };
//! let writes = EpochWrites {
//!     directory: vec![DirectoryEntry::of(&key)],
//!     bars: vec![BarWrite { key, state, packed: PackedBars::default(), write_timestamp: 1 }],
//!     ..EpochWrites::default()
//! };
//! block_on(store.write(&writes))?;
//! let bars = block_on(store.bars(&symbol, size, 0..1))?;
//! assert_eq!(bars[0].state, state);
//! # Ok::<(), tapeflow_protocol::StoreError>(())
//! ```

pub mod cassandra;
pub mod memory;
pub mod sqlite;
