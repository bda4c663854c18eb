//! What a log keeps of a recording beside its session, so that a replay recognises the recording
//! after it has grown.
//!
//! Ingest computes these values and compares them. A log only keeps them, and finds those with the
//! same beginning.

use serde::{Deserialize, Serialize};
use tapeflow_schemas::SessionId;

/// The frames that a session stands for. Its records are a function of these frames alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingNote {
    /// A hash of the first frame with a trade, in hexadecimal. A recording that has grown has the
    /// same one.
    pub beginning: String,
    /// How many frames the recording has.
    pub frames: u64,
    /// A hash of all of them, in hexadecimal.
    pub content: String,
    /// Hashes of some shorter prefixes, from the shortest to the longest. They tell where another
    /// recording of the same beginning differs.
    pub prefixes: Vec<u64>,
}

/// A recording that a log has noted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownRecording {
    /// The session of its records.
    pub session: SessionId,
    /// Its frames.
    pub note: RecordingNote,
}
