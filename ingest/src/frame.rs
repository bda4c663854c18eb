//! One frame of the feed, as it was sent: bytes, and where it stood.

/// The longest frame that is parsed: 1 MiB. Finnhub's frames hold some ten trades; this leaves room
/// for a thousand times that.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// One text frame of the feed, or one line of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its number, from 1: the line of a recording, or the count of frames in a live session.
    pub line: u64,
    /// Its bytes, not yet known to be UTF-8 or JSON. A source may keep only the beginning of a
    /// frame above [`MAX_FRAME_BYTES`], as long as that is still above it.
    pub bytes: Vec<u8>,
    /// When it was taken in, in milliseconds since 1970 UTC; `None` for a recording, whose frames
    /// are taken in when they are published.
    pub taken_ms: Option<i64>,
}
