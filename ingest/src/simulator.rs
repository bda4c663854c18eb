//! A market that can be had without a token: a seeded feed in Finnhub's form, as text
//! ([`Generator`], [`write_feed`]) or from a WebSocket server on this machine ([`Simulator`]) with
//! the faults of the real one.
//!
//! The same seed gives the same frames. The client that speaks to it is the real one: nothing in
//! [`crate::finnhub`] knows of this module.

mod connection;
pub mod faults;
mod feed_file;
pub mod generate;
mod history;
pub mod market;
mod server;

pub use faults::{Fate, Faults, FrameFaults};
pub use feed_file::{FeedFile, FeedSummary, write_feed};
pub use generate::{Clock, Generator, GeneratorConfig, Popularity, Selection};
pub use history::HISTORY_SESSION;
pub use market::symbols;
pub use server::{Simulator, SimulatorConfig, SimulatorStats};
