//! Finnhub's protocol. No other module knows it.
//!
//! [`message`] parses one frame, [`session`] decides what the client does next, and [`endpoint`]
//! checks the address of the server; these are pure. `handshake` and [`socket`] use the network.

pub mod endpoint;
pub(crate) mod handshake;
pub mod message;
pub mod session;
pub mod socket;

pub use endpoint::{Endpoint, EndpointError};
pub use message::{Entries, Entry, Malformed, Message, RawTrade};
pub use session::{SessionError, Timing};
pub use socket::{FinnhubConfig, FinnhubError};
