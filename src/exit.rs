//! Why a command did not succeed: the message for a person and the exit code for a script.
//!
//! - Code 1: the command failed after work had begun, or `verify` found differences.
//! - Code 2: nothing was written. The command line, a file, a server or a store is not usable, and
//!   the message says what to change.
//! - Code 3: another generation of the job has taken over. A restart would only fence that one.
//! - Code 4: `verify` found no difference, but compared too little to say that there is none.

use std::process::ExitCode;

use tapeflow_dataflow::JobError;
use tapeflow_log::LogError;
use tapeflow_protocol::{Checkpoint, StoreError};

use tapeflow_console::{ServeError, format::text::counted};

use crate::args::values::abbreviated;

/// The exit code of [`Exit::Input`].
pub(crate) const BAD_INPUT: u8 = 2;
/// The exit code of [`Exit::Fenced`].
pub(crate) const FENCED: u8 = tapeflow_dataflow::EXIT_FENCED;

/// The exit code of [`Exit::NotCompared`].
pub(crate) const NOT_COMPARED: u8 = 4;

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Exit {
    /// The input or the configuration is not usable; nothing was written.
    #[error("{0}")]
    Input(String),
    /// Failed after work had begun.
    #[error("{0}")]
    Failed(String),
    /// Another generation of the job has taken over.
    #[error("{0}")]
    Fenced(String),
    /// The supervised process exited with this code and is not restarted; it has logged the reason.
    #[error("the supervised process exited with code {0}")]
    Child(u8),
    /// `verify` found this many differences; they have been printed.
    #[error("the store differs from its log in {}", counted(*.0, "place", "places"))]
    Differs(u64),
    /// `verify` found no difference, but compared too little.
    #[error("{0}")]
    NotCompared(String),
    /// The reader of the output has gone, as in `tapeflow bars | head`. Nothing is printed.
    #[error("output closed")]
    OutputClosed,
}

impl Exit {
    /// The exit code.
    pub(crate) fn code(&self) -> ExitCode {
        match self {
            Self::Input(_) => ExitCode::from(BAD_INPUT),
            Self::Fenced(_) => ExitCode::from(FENCED),
            Self::NotCompared(_) => ExitCode::from(NOT_COMPARED),
            Self::Child(code) => ExitCode::from(*code),
            Self::Failed(_) | Self::Differs(_) => ExitCode::from(1),
            Self::OutputClosed => ExitCode::SUCCESS,
        }
    }
}

impl From<ServeError> for Exit {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Listen { .. } => Self::Input(error.to_string()),
        }
    }
}

impl From<JobError> for Exit {
    fn from(error: JobError) -> Self {
        match error {
            JobError::Refused(_) => Self::Input(error.to_string()),
            JobError::Fenced(_) => Self::Fenced(error.to_string()),
            JobError::Log(_) | JobError::Failed(_) => Self::Failed(error.to_string()),
        }
    }
}

/// For the first call to a log: there an error means a wrong address, not a failure later on.
pub(crate) fn unreachable_log(error: &LogError) -> Exit {
    unreachable_brokers(error, ", or name an embedded log with --log sqlite:PATH")
}

/// As [`unreachable_log`], of a command that has no `--log`. `instead` says what else can be done;
/// it may be empty.
pub(crate) fn unreachable_brokers(error: &LogError, instead: &str) -> Exit {
    Exit::Input(match error {
        // The reason names the brokers and their flag.
        LogError::Unavailable(reason) => {
            format!("the log cannot be reached: {reason}; check that the brokers are up{instead}")
        }
        LogError::Broken(reason) => reason.clone(),
        LogError::Unreadable { .. } => error.to_string(),
    })
}

/// For the first call to a store.
pub(crate) fn unreachable_store(name: &str, error: &StoreError) -> Exit {
    Exit::Input(match error {
        StoreError::Unavailable(reason) => {
            format!("the store {name} cannot be reached: {reason}; check --store and that it is up")
        }
        StoreError::Broken(reason) => format!("the store {name} cannot be used: {reason}"),
    })
}

/// For a store whose fingerprint this binary cannot read.
pub(crate) fn other_rules(checkpoint: &Checkpoint) -> Exit {
    Exit::Input(format!(
        "the store's bars were computed under rules that this version does not know: {}; use the \
         version of tapeflow that wrote them",
        abbreviated(&checkpoint.fingerprint)
    ))
}

/// For later calls to a store.
pub(crate) fn store_failed(error: &StoreError) -> Exit {
    Exit::Failed(error.to_string())
}

/// Prints one line. `println!` would panic after the reader has gone.
pub(crate) fn say(line: &str) -> Result<(), Exit> {
    use std::io::Write;
    writeln!(std::io::stdout(), "{line}").map_err(|error| output_failed(&error))
}

/// What a failed write to standard output means.
pub(crate) fn output_failed(error: &std::io::Error) -> Exit {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        Exit::OutputClosed
    } else {
        Exit::Failed(format!("cannot write the output: {error}"))
    }
}
