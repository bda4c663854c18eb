//! Ingest: turns Finnhub's frames into Avro records in the log.
//!
//! ```text
//!  finnhub::socket ────┐  frames    trades    records
//!  replay ─────────────┼─▶ queue ─▶ admit ─▶ sequence ─▶ LogWriter ─▶ Kafka or embedded log
//!  simulated history ──┘
//! ```
//!
//! - A **frame** is one message of the feed, byte for byte ([`Frame`]).
//! - **Admission** ([`admission::admit`]) turns a frame into trades, grouped by symbol, and invalid
//!   frames with a reason. All trades pass it. Numbers pass it as text and never as doubles.
//! - A **session** is one live run, one recording or the simulated history. A recording that has
//!   grown keeps its session ([`recognise`]). The **sequence**
//!   numbers its records in each partition, without gaps ([`sequencing::Sequencer`]). The job
//!   needs both to find repeated and missing records.
//! - A live run says in the log when its feed was away ([`presence`]). A recording says nothing of the
//!   kind: its records are a function of its frames.
//! - The **simulator** ([`simulator`]) is a server that speaks Finnhub's protocol, for a run
//!   without a token.
//!
//! [`run_live`], [`run_replay`] and [`run_history`] connect these parts.
//!
//! What always holds:
//! * Every entry of a trade frame becomes a trade, a price update or an invalid frame, and is
//!   counted.
//! * No input causes a panic.
//! * The records of a recording are a function of the file and the partition count alone.
//! * The token is in the request line of the handshake and nowhere else.
//!
//! ```
//! use tapeflow_ingest::{Counts, Frame, admission::admit};
//!
//! let text = br#"{"data":[
//!     {"c":["1"],"p":164.06,"s":"AAPL","t":1680286538064,"v":142},
//!     {"p":-1,"s":"AAPL","t":1680286538064,"v":1}
//! ],"type":"trade"}"#;
//! let frame = Frame { line: 1, bytes: text.to_vec(), taken_ms: None };
//! let mut counts = Counts::default();
//! let admitted = admit(&frame, &mut counts);
//! assert_eq!(admitted.groups[0].symbol, "AAPL");
//! assert_eq!(admitted.groups[0].trades[0].notional().to_string(), "23296.52");
//! let invalid = &admitted.invalid_frames[0];
//! assert_eq!(invalid.detail, r#"line 1, index 1: price is negative: "-1""#);
//! ```

pub mod frame;

pub mod finnhub;

pub mod admission;
pub mod presence;
pub mod sequencing;

pub mod counts;
pub mod progress;

pub mod first_lines;
pub mod pace;
pub mod prefixes;
pub mod queue;
pub mod recognise;
pub mod replay;
pub mod run;
pub mod spool;

pub mod simulator;

mod clock;

pub use counts::Counts;
pub use frame::Frame;
pub use pace::Speed;
pub use progress::{Connection, FeedKind, Progress, Snapshot};
pub use recognise::{Differing, Unlike};
pub use run::{
    AcceptedReplay, HistoryConfig, IngestError, LiveConfig, ReplayConfig, Summary, accept_replay,
    run_history, run_live, run_replay,
};
