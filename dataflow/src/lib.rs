//! From log records to exact rows: the timely dataflow.
//!
//! ```text
//!          log                                   leader (worker 0)
//!           │  records                     Seal │ ▲ cuts      │ Bound
//!           ▼                                   ▼ │           ▼
//!        source ──partition──▶ combine ──▶ sealed map ──────▶ release
//!        (decide: count,       (add up)                          │ partials, exchanged by symbol
//!         repeat, reject)                                        ▼
//!                              store ◀──read back──── state (fold, once an epoch is complete)
//!                                ▲                               │ rows, absolute, at the binding's stamp
//!                                └────────── write ───────── sink ──▶ frontier: the epoch can be committed
//! ```
//!
//! *Partial*: the combined trades of one window in one epoch. *Resident*: a row kept in memory.
//! *Replay*: the epochs bound and not committed when this generation took over, read again.

#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
pub mod clock;
pub mod combine;
mod control;
mod fresh;
mod hash;
pub mod job;
mod lead;
mod leader;
pub mod log;
pub mod log_kafka;
mod log_sqlite;
mod mesh;
pub mod metrics;
mod parcel;
mod partition;
pub mod refold;
mod replay;
mod sink;
mod source;
mod state;
pub mod stepped;
mod store_io;
mod views;
mod watch;
mod watched_store;
mod work;

pub use job::{
    EXIT_FENCED, JobConfig, JobError, Observer, Stop, Summary, baskets_of, may_run, run, sizes_of,
};
pub use log::{Log, LogFault, LogReader, LogRecord};
pub use log_kafka::{KafkaLog, KafkaLogConfig, TopicFinding};
pub use metrics::{Metrics, Observed};
pub use refold::Refold;
