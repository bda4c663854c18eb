//! A line of the cluster handshake.

/// The bytes of a line, without its end.
pub(crate) fn check(bytes: &[u8]) {
    // The reader ends a line at the first line feed, and refuses longer ones.
    let line = bytes.split(|byte| *byte == b'\n').next();
    tapeflow_dataflow::fuzz::check_line(line.unwrap_or_default());
}
