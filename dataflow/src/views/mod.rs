//! The views compare or sum the bars of a window.
//!
//! ```text
//!  bar state ── changes ──▶ window changes (sums of this worker's changes, by window)
//!                           │ exchanged by window
//!                           ▼
//!                         view state ── reads views, and bars only in a recount ──▶ store
//!                           │ active, movers: the rankings and the changed bars
//!                           │ market, baskets: the sum and what was added
//!                           └──▶ sink
//! ```
//!
//! A view follows from what it was and from the changed bars, so a late trade costs what it
//! touches, in a market of any size. [`window_views`] says how, [`ranking`] what a ranking must
//! remember for it, and [`recount`] what happens when that is not enough. Notionals are ranked and
//! summed within a quote currency: [`active`] is a ranking for each. [`view_state`] guarantees that
//! a view is written at its epoch's write timestamp and acknowledged before the epoch is committed.

mod active;
#[cfg(feature = "bench")]
pub(crate) mod bench;
pub(crate) mod changes;
mod ranking;
mod recount;
mod sums;
pub(crate) mod view_state;
mod window_change;
mod window_views;
