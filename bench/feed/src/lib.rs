//! A made-up feed for benchmarks and tests: seeded trades in the proportions of a market, as
//! records that are ready to be appended to a log.
//!
//! ```
//! use tapeflow_feed::{Clock, Feed, Shape};
//! let shape = Shape { seed: 1, trades: 100, per_message: 20, symbols: 5, late: None };
//! let mut feed = Feed::new(shape, Clock::Tape, 4)?;
//! let mut messages = 0;
//! while let Some(message) = feed.next(0)? {
//!     assert!(!message.record.payload.is_empty());
//!     messages += 1;
//! }
//! assert_eq!(messages, shape.messages());
//! # Ok::<(), tapeflow_feed::FeedError>(())
//! ```

pub mod generator;
pub mod records;

pub use generator::{Clock, Feed, Late, Message, Shape};
pub use records::{Record, RecordGenerator, Written};

/// Why a feed cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FeedError {
    /// The shape asks for something that no feed has.
    #[error("{0}")]
    Shape(String),
    /// A value that the generator drew is out of range: a bug of the generator.
    #[error("{0}")]
    Value(String),
}
