//! One frame of the feed as it was sent.

/// The longest frame that is parsed: 1 MiB. Finnhub's frames hold about ten trades; this is room
/// for a thousand times as many.
pub const MAX_FRAME_BYTES: usize = 1 << 20;

/// One text frame of the feed, or one line of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its number, from 1: the line of a recording, or the frame of a live session.
    pub line: u64,
    /// Its bytes, which need not be UTF-8 or JSON. A source may shorten a frame above
    /// [`MAX_FRAME_BYTES`], but not below that.
    pub bytes: Vec<u8>,
    /// When it was taken in, in milliseconds since 1970 UTC. `None` for frames of a recording or a
    /// history, which are taken in when they are appended.
    pub taken_ms: Option<i64>,
}
