//! The vocabulary that all crates of tapeflow share: trades, exact numbers, symbols, windows, and
//! the Avro form of a batch of trades.
//!
//! ```text
//!  frame ──parse──▶ Price, Size, EventTime, Conditions ──▶ Trade ──encode──▶ Avro record
//!                                                            ▲             (one symbol,
//!                                                            │              many trades)
//!                                                            └──────decode──────┘
//! ```
//!
//! This crate is pure: it uses no clock, socket or file. All numbers are integers in fixed point,
//! so a sum does not depend on the order of its terms. Division happens only for display
//! ([`decimal::divide_half_even`]).
//!
//! ```
//! use tapeflow_schemas::{Price, Size};
//! let price = Price::parse("164.0601")?.value;
//! let size = Size::parse("5")?.value;
//! assert_eq!(price.times(size).to_string(), "820.3005");
//! # Ok::<(), tapeflow_schemas::NumberError>(())
//! ```

pub mod bar;
pub mod basket;
mod cell;
pub mod codec;
pub mod conditions;
pub mod decimal;
pub mod epoch;
pub mod horizon;
pub mod identity;
pub mod metric;
pub mod packed;
pub mod partial_rows;
pub mod quote_currency;
pub mod secret;
pub mod symbol;
pub mod totals;
pub mod trade;
pub mod trading_session;
pub mod view;
pub mod window;

pub use bar::{BarKey, BarRow, BarState, BarWrite, CellError, StoredBar};
pub use basket::{Baskets, Weight};
pub use conditions::{Conditions, Effect};
pub use decimal::{Notional, NumberError, Price, Size};
pub use epoch::{Epoch, WriteTimestamp};
pub use horizon::Horizons;
pub use identity::{Offset, Partition, Position, SessionId};
pub use metric::Metric;
pub use packed::{PackedBar, PackedBars};
pub use partial_rows::{EncodedPackedBars, PartialRow, PartialRows};
pub use quote_currency::QuoteCurrency;
pub use secret::Secret;
pub use symbol::{AssetClass, Symbol, SymbolError, partition_for};
pub use totals::{Policy, Sums, Totals};
pub use trade::{EventTime, Trade};
pub use trading_session::{Stretch, TradingSession};
pub use view::{StoredView, View, ViewEntry, ViewKey, ViewState, ViewWrite};
pub use window::{WindowSize, WindowStart};
