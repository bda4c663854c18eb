//! The operators of the dataflow of trades, in the order in which a trade passes them.

pub(crate) mod acknowledged;
pub(crate) mod bar_state;
pub(crate) mod combine;
pub(crate) mod dead_letters;
pub(crate) mod directory_first;
pub(crate) mod exchange;
pub(crate) mod last_record;
pub(crate) mod partition;
pub(crate) mod replay;
mod replayed_steps;
pub(crate) mod sink;
pub(crate) mod source;
