//! How a command ends when it does not end well: what to say, and the exit code that says it to a script.
//!
//! Code 2 means that nothing was begun: the command line, a file, a server or a store is not as it must be, and the text says what to
//! change. Code 1 means that something failed under way, or that `verify` found differences.

use std::process::ExitCode;

use tapeflow_dataflow::{JobError, LogFault};
use tapeflow_sinks::StoreError;

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    /// The input or the configuration is at fault; nothing was written.
    #[error("{0}")]
    Input(String),
    /// Failed in the middle, after work had begun.
    #[error("{0}")]
    Failed(String),
    /// `verify` found this many differences; they have been printed.
    #[error("the store differs from its log in {0} places")]
    Differs(u64),
    /// The reader of our output has gone: `tapeflow bars | head`. Nobody is left to be told.
    #[error("output closed")]
    OutputClosed,
}

impl End {
    /// The exit code.
    pub(crate) fn code(&self) -> ExitCode {
        match self {
            Self::Input(_) => ExitCode::from(2),
            Self::Failed(_) | Self::Differs(_) => ExitCode::from(1),
            Self::OutputClosed => ExitCode::SUCCESS,
        }
    }
}

impl From<JobError> for End {
    fn from(fault: JobError) -> Self {
        match fault {
            JobError::Refused(_) => Self::Input(fault.to_string()),
            JobError::Fenced(_) | JobError::Log(_) | JobError::Failed(_) => Self::Failed(fault.to_string()),
        }
    }
}

/// For the first question a command asks of a log, when a fault means a wrong address and not a failure under way.
pub(crate) fn unreachable_log(fault: &LogFault) -> End {
    End::Input(match fault {
        LogFault::Unavailable(reason) => format!("the log cannot be reached: {reason}; check --brokers and that the brokers are up"),
        LogFault::Broken(reason) => reason.clone(),
    })
}

/// For the first question a command asks of a store.
pub(crate) fn unreachable_store(name: &str, fault: &StoreError) -> End {
    End::Input(match fault {
        StoreError::Unavailable(reason) => format!("the store {name} cannot be reached: {reason}; check --store and that it is up"),
        StoreError::Broken(reason) => format!("the store {name} cannot be used: {reason}"),
    })
}

/// For later questions.
pub(crate) fn store_failed(fault: &StoreError) -> End {
    End::Failed(fault.to_string())
}

/// Prints one line. `println!` would panic where the reader has gone.
pub(crate) fn say(line: &str) -> Result<(), End> {
    use std::io::Write;
    writeln!(std::io::stdout(), "{line}").map_err(|fault| output_failed(&fault))
}

/// What a failed write to standard output means.
pub(crate) fn output_failed(fault: &std::io::Error) -> End {
    if fault.kind() == std::io::ErrorKind::BrokenPipe { End::OutputClosed } else { End::Failed(format!("cannot write the output: {fault}")) }
}
