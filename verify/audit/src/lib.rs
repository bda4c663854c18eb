//! The audit behind `tapeflow verify`: it recomputes every bar and view from the log, compares
//! them with the store, and repairs what differs. It returns data and prints nothing.
//!
//! ```text
//!  store: checkpoint, history ──▶ coverage: where to start, what can be compared
//!                                    │ first offsets
//!  log ─────────▶ log_cursor ──▶ recompute (tapeflow-oracle)
//!                                    │ expected bars and views
//!  store: bars, views ─────────▶ comparison ──▶ Findings
//!                                                  │ places that differ
//!  log ─────────▶ log_cursor ──▶ repair_plan ◀─────┘
//!                                    │ correct bars and views
//!  store ◀───── write, read back ── repair
//! ```
//!
//! - *Label*: the epoch that a stored bar or view names. Its content must equal the recomputation
//!   up to the end of that epoch.
//! - *Coverage*: the part of the log that the audit reads, and what can be compared with it.
//! - *Selection*: the symbols and windows that an audit includes.
//! - *Finding*: a place where the store differs, with the repair action that is possible there.
//! - *Repair plan*: the correct content of the places that differ. The oracle and the job's own
//!   code must agree on it.
//!
//! A job may write to the store while an audit runs (see `audit_run.rs`).
//!
//! ```
//! use tapeflow_audit::{Audit, AuditError, CancellationToken, Event, Rules, Settings};
//! use tapeflow_log::Log;
//! use tapeflow_protocol::Store;
//! use tokio::runtime::Handle;
//!
//! /// The number of places where a store differs from its log.
//! fn differences(
//!     store: &dyn Store,
//!     log: &dyn Log,
//!     runtime: &Handle,
//! ) -> Result<u64, AuditError> {
//!     let checkpoint = tapeflow_audit::checkpoint_of(store, runtime)?;
//!     let rules = Rules::of(&checkpoint, None)?;
//!     let stop = CancellationToken::new();
//!     let audit = Audit { store, log, rules: &rules, runtime, stop: &stop };
//!     let findings = audit.run(&Settings::default(), &mut |event| {
//!         if let Event::Difference { description, .. } = event {
//!             eprintln!("{description}");
//!         }
//!     })?;
//!     Ok(findings.count())
//! }
//! ```

mod audit_run;
mod comparison;
mod coverage;
mod error;
mod event;
mod findings;
mod log_cursor;
mod read_ranges;
mod recompute;
mod repair;
mod repair_plan;
mod rules;
mod selection;
mod store_reads;

pub use audit_run::{Audit, Settings};
pub use coverage::HistoryDifference;
pub use error::AuditError;
pub use event::{Event, Observer};
pub use findings::{Difference, Findings, Place, RepairAction, Share, Tally};
pub use repair::{Repair, RepairReport};
pub use rules::Rules;
pub use selection::Selection;
pub use store_reads::checkpoint_of;
pub use tapeflow_oracle::OracleCounts;
pub use tokio_util::sync::CancellationToken;
