//! A segment of the spool, and the body of one entry.

/// The bytes of a file, or of an entry whose checksum is right.
pub(crate) fn check(bytes: &[u8]) {
    tapeflow_ingest::spool::check_bytes(bytes);
}
