//! The Cassandra store, for a job on more than one machine.
//!
//! ```text
//!  config ──▶ session ──▶ findings (is this cluster what the guarantee needs?)
//!                │
//!     init: keyspace, migrations        store: checkpoint (LWT), bars, views, directory, records
//! ```
//!
//! What always holds here:
//! * Every statement runs at `LOCAL_QUORUM` or `LOCAL_SERIAL`. Nothing is written at `ONE`.
//! * The driver neither retries nor speculates. A retry that hides a lost answer would turn
//!   "unknown" into "lost" for a compare-and-set. Callers retry.
//! * Only lightweight transactions write `checkpoint`. Bars and views are written whole, at the
//!   write timestamp of their binding, and never deleted.
//!
//! `cassandra/README.md` describes the tables.

mod bars;
#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod checkpoint;
mod committed;
mod config;
mod dead_letters;
mod directory;
mod display_columns;
mod errors;
mod expiry;
mod feed_gaps;
mod findings;
mod history;
mod init;
mod migrations;
mod retry;
mod session;
mod store;
mod tls;
mod views;

pub use config::{AddressError, AddressErrors, CassandraConfig, Credentials, DEFAULT_PORT};
pub use findings::Finding;
pub use init::{InitReport, drop_keyspace, init, init_with, nodes};
pub use migrations::{MIGRATIONS, Migration};
pub use store::CassandraStore;
pub use tls::{ClientCertificate, TlsConfig};
