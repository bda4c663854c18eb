//! The coordinator decides when epochs are cut, bound and committed.

pub(crate) mod decisions;
pub(crate) mod driver;
pub(crate) mod messages;
mod pacing;
