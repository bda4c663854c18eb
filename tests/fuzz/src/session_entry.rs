//! An entry of the index of sessions.

/// The payload of a record of the index.
pub(crate) fn check(bytes: &[u8]) {
    tapeflow_log::kafka::check_entry(bytes);
}
