//! The embedded form as a user runs it: the binary, its commands, one SQLite file, killed and
//! stopped at bad moments. Needs no server.

#[path = "embedded/audit.rs"]
mod audit;
#[path = "embedded/bench.rs"]
mod bench;
#[path = "shared/binary.rs"]
mod binary;
#[path = "embedded/command.rs"]
mod command;
#[path = "embedded/comparison.rs"]
mod comparison;
#[path = "embedded/endings.rs"]
mod endings;
#[path = "embedded/flags.rs"]
mod flags;
#[path = "embedded/http.rs"]
mod http;
#[path = "embedded/loss.rs"]
mod loss;
#[path = "embedded/repair.rs"]
mod repair;
#[path = "embedded/retention.rs"]
mod retention;
#[path = "shared/serving.rs"]
mod serving;
#[path = "embedded/values.rs"]
mod values;
#[path = "embedded/views.rs"]
mod views;
