//! Epochs and write timestamps: the two labels that every bar and view carries.

/// An epoch's number: 1 is the first, 0 means "none yet".
pub type Epoch = u64;

/// Microseconds since 1970 UTC, strictly increasing over the bindings and take-overs of a job: the
/// write timestamp of bars and views.
pub type WriteTimestamp = i64;
