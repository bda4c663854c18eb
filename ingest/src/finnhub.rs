//! Finnhub: the only place that knows its protocol.
//!
//! [`message`] reads one frame, [`session`] decides what the client does next, [`endpoint`] says
//! where the server is: these are pure. `handshake` and [`socket`] do the talking.

pub mod endpoint;
pub(crate) mod handshake;
pub mod message;
pub mod session;
pub mod socket;

pub use endpoint::{Endpoint, EndpointError};
pub use message::{Malformed, Message, RawTrade};
pub use session::{SessionError, Timing};
pub use socket::{FinnhubConfig, FinnhubError};
