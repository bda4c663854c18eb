//! The vocabulary every room of tapeflow shares: what a trade is, what a number is, what a window
//! is, and how a batch of trades looks as bytes.
//!
//! ```text
//!  frame text ──parse──▶ Price, Size, EventTime, Conditions ──▶ Trade ──encode──▶ Avro record (one symbol, many trades)
//!                                                                  ▲                     │
//!                                                                  └──────decode─────────┘
//! ```
//!
//! Everything here is pure: no clock, no socket, no file. All numbers are integers in fixed point,
//! so that sums do not depend on the order of their terms; division happens where a person reads
//! ([`decimal::divide_half_even`]).
//!
//! ```
//! use tapeflow_schemas::{Price, Size};
//! let price = Price::parse("164.0601")?.value;
//! let size = Size::parse("5")?.value;
//! assert_eq!(price.times(size).to_string(), "820.3005");
//! # Ok::<(), tapeflow_schemas::NumberFault>(())
//! ```

pub mod bar;
pub mod basket;
pub mod codec;
pub mod conditions;
pub mod decimal;
pub mod epoch;
pub mod identity;
pub mod metric;
pub mod secret;
pub mod symbol;
pub mod totals;
pub mod trade;
pub mod view;
pub mod window;

pub use bar::{RowKey, RowState, RowWrite, StoredRow};
pub use basket::{Baskets, Weight};
pub use conditions::{Conditions, Effect};
pub use decimal::{Notional, NumberFault, Price, Size};
pub use epoch::{Epoch, Stamp};
pub use identity::{Offset, Partition, Position, SessionId};
pub use metric::Metric;
pub use secret::Secret;
pub use symbol::{AssetClass, Symbol, SymbolFault, partition_for};
pub use totals::{Policy, Sums, Totals};
pub use trade::{EventTime, Trade};
pub use view::{StoredView, View, ViewEntry, ViewKey, ViewState, ViewWrite};
pub use window::{WindowSize, WindowStart};
