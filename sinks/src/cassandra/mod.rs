//! Rows in Cassandra: the store of a job that runs on more than one machine.
//!
//! ```text
//!  config ──▶ session ──▶ findings (is this cluster what the guarantee needs?)
//!                │
//!     init: keyspace, migrations        store: checkpoint (LWT), rows, lists, directory, history, dead letters
//! ```
//!
//! What always holds here:
//! * One pair of consistency levels, LOCAL_QUORUM and LOCAL_SERIAL, for everything; nothing is ever
//!   written at ONE.
//! * The driver retries nothing and speculates nothing: a retry that hides a lost answer would turn
//!   "unknown" into "lost". Callers retry.
//! * `checkpoint` is touched by lightweight transactions alone; rows and lists are written whole, at
//!   their binding's write timestamp, and never deleted.
//!
//! The tables, and the question each one answers, stand in `cassandra/README.md`.

#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod checkpoint;
mod config;
mod directory;
mod display_columns;
mod errors;
mod findings;
mod init;
mod migrations;
mod records;
mod retry;
mod rows;
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
