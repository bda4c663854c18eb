//! How a command ends when it does not end well: what to say, and the exit code that says it to a
//! script.
//!
//! Code 2 means that nothing was begun: the command line, a file, a server or a store is not as it
//! must be, and the text says what to change. Code 1 means that something failed under way, or that
//! `verify` found differences. Code 3 means that another generation of the job has taken over:
//! nothing to mend here, and nothing to start again.

use std::process::ExitCode;

use tapeflow_console::ServeError;
use tapeflow_dataflow::JobError;
use tapeflow_log::LogError;
use tapeflow_protocol::{Checkpoint, StoreError};

/// The exit code of [`End::Input`].
pub(crate) const INPUT_AT_FAULT: u8 = 2;
/// The exit code of [`End::Fenced`].
pub(crate) const FENCED: u8 = tapeflow_dataflow::EXIT_FENCED;

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    /// The input or the configuration is at error; nothing was written.
    #[error("{0}")]
    Input(String),
    /// Failed in the middle, after work had begun.
    #[error("{0}")]
    Failed(String),
    /// Another generation of the job has taken over.
    #[error("{0}")]
    Fenced(String),
    /// The process that was looked after ended for good with this code; it has said why.
    #[error("the process ended with code {0}")]
    Child(u8),
    /// `verify` found this many differences; they have been printed.
    #[error("the store differs from its log in {0} places")]
    Differs(u64),
    /// The reader of our output has gone: `tapeflow bars | checkpoint`. Nobody is left to be told.
    #[error("output closed")]
    OutputClosed,
}

impl End {
    /// The exit code.
    pub(crate) fn code(&self) -> ExitCode {
        match self {
            Self::Input(_) => ExitCode::from(INPUT_AT_FAULT),
            Self::Fenced(_) => ExitCode::from(FENCED),
            Self::Child(code) => ExitCode::from(*code),
            Self::Failed(_) | Self::Differs(_) => ExitCode::from(1),
            Self::OutputClosed => ExitCode::SUCCESS,
        }
    }
}

impl From<JobError> for End {
    fn from(error: JobError) -> Self {
        match error {
            JobError::Refused(_) => Self::Input(error.to_string()),
            JobError::Fenced(_) => Self::Fenced(error.to_string()),
            JobError::Log(_) | JobError::Failed(_) => Self::Failed(error.to_string()),
        }
    }
}

impl From<ServeError> for End {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::Listen { .. } => Self::Input(error.to_string()),
        }
    }
}

/// For the first question a command asks of a log, when an error means a wrong address and not a
/// failure under way.
pub(crate) fn unreachable_log(error: &LogError) -> End {
    End::Input(match error {
        LogError::Unavailable(reason) => format!(
            "the log cannot be reached: {reason}; check --brokers and that the brokers are up"
        ),
        LogError::Broken(reason) => reason.clone(),
    })
}

/// For the first question a command asks of a store.
pub(crate) fn unreachable_store(name: &str, error: &StoreError) -> End {
    End::Input(match error {
        StoreError::Unavailable(reason) => {
            format!("the store {name} cannot be reached: {reason}; check --store and that it is up")
        }
        StoreError::Broken(reason) => format!("the store {name} cannot be used: {reason}"),
    })
}

/// For a store whose rules this binary cannot read.
pub(crate) fn other_rules(checkpoint: &Checkpoint) -> End {
    End::Input(format!(
        "the store's rules are not this binary's: {}",
        checkpoint.fingerprint
    ))
}

/// For later questions.
pub(crate) fn store_failed(error: &StoreError) -> End {
    End::Failed(error.to_string())
}

/// Prints one line. `println!` would panic where the reader has gone.
pub(crate) fn say(line: &str) -> Result<(), End> {
    use std::io::Write;
    writeln!(std::io::stdout(), "{line}").map_err(|error| output_failed(&error))
}

/// What a failed write to standard output means.
pub(crate) fn output_failed(error: &std::io::Error) -> End {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        End::OutputClosed
    } else {
        End::Failed(format!("cannot write the output: {error}"))
    }
}
