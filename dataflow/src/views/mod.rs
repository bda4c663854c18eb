//! The views compare or sum the bars of a window. They use differential dataflow.
//!
//! ```text
//!  bar state ── changes ──▶ window loader (loads a window's bars when it is first touched)
//!                          │ bars of loaded windows, as a collection
//!                          ├─▶ active, movers: best of each shard, then of all  ┐
//!                          ├─▶ market: sums by asset class                      ├─▶ view writes
//!                          └─▶ baskets: weighted sums of the members' bars      ┘
//! ```
//!
//! [`definitions`] defines each view. Late trades need no special case: a changed bar enters as the
//! retraction of its old value and its new value. [`window_loader`] guarantees that all bars of a
//! window are loaded before its first view is computed. [`view_writes`] guarantees that a view is
//! written at its epoch's write timestamp and acknowledged before the epoch is committed.

pub(crate) mod changes;
pub(crate) mod definitions;
mod ranking;
mod sums;
pub(crate) mod view_writes;
pub(crate) mod window_loader;
