//! From Finnhub's frames to Avro records in the log.
//!
//! ```text
//!  finnhub::socket ──┐  (obeys finnhub::session, a machine without sockets)
//!                    ├─▶ queue ─▶ admit ─▶ sequence ─▶ Publish ─▶ Kafka, or the embedded log
//!  replay ───────────┘  frames    trades   records
//! ```
//!
//! A [`Frame`] is what the feed sent, byte for byte. [`admit`](admission::admit) makes of it trades,
//! grouped by symbol, and dead letters that say why; it is the only gate, and numbers pass it as text,
//! never as doubles. A [`Sequencer`](sequence::Sequencer) makes of these records with a session and
//! a dense sequence per partition: from them the reader of the log knows what it has seen and what
//! is missing. [`run_live`] and [`run_replay`] wire it up, and [`simulator`] stands in for Finnhub
//! where there is no token.
//!
//! What always holds: every entry of a trade frame becomes a trade, a price update or a reject, and
//! is counted; no input panics; the records of a recording are a function of the file and the
//! partition count alone; the token is in the request of the handshake and nowhere else.
//!
//! ```
//! use tapeflow_ingest::{Counts, Frame, admission::admit};
//!
//! let text = br#"{"data":[{"c":["1"],"p":164.06,"s":"AAPL","t":1680286538064,"v":142},{"p":-1,"s":"AAPL","t":1680286538064,"v":1}],"type":"trade"}"#;
//! let frame = Frame { line: 1, bytes: text.to_vec(), taken_ms: None };
//! let mut counts = Counts::default();
//! let admitted = admit(&frame, &mut counts);
//! assert_eq!(admitted.groups[0].symbol, "AAPL");
//! assert_eq!(admitted.groups[0].trades[0].notional().to_string(), "23296.52");
//! assert_eq!(admitted.dead_letters[0].detail, r#"line 1, index 1: price is negative: "-1""#);
//! ```

pub mod frame;

pub mod finnhub;

pub mod admission;
pub mod sequencing;

pub mod counts;
pub mod progress;

pub mod pace;
pub mod queue;
pub mod replay;
pub mod run;

pub mod simulator;

mod clock;

pub use counts::Counts;
pub use frame::Frame;
pub use pace::Speed;
pub use progress::{Connection, Progress, Snapshot};
pub use run::{IngestError, LiveConfig, ReplayConfig, Summary, run_history, run_live, run_replay};
