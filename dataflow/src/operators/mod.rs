//! The operators of the dataflow: read and combine, exchange, keep bars, write.

pub(crate) mod bar_state;
pub mod combine;
pub(crate) mod exchange;
pub(crate) mod partition;
pub(crate) mod replay;
pub(crate) mod sink;
pub(crate) mod source;
