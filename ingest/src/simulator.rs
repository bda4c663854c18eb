//! The simulated market, which needs no token. It generates frames in Finnhub's format from a seed:
//! as text ([`Generator`], [`write_feed`]), or from a WebSocket server on this machine
//! ([`Simulator`]) that can inject the faults of the real one.
//!
//! The same seed gives the same frames. [`crate::finnhub`] does not know this module: the real
//! client connects to the simulated server.

mod connection;
pub mod faults;
mod feed_file;
pub mod generate;
mod history;
pub mod market;
mod server;

pub use faults::{ConnectionFault, Faults, FrameFaults};
pub use feed_file::{FeedFile, FeedSummary, write_feed};
pub use generate::{Clock, Generator, GeneratorConfig, Popularity, Selection};
pub use history::{HISTORY_SESSION, HeldHistory};
pub use market::symbols;
pub use server::{Simulator, SimulatorConfig, SimulatorStats};
