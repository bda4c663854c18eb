//! How a command ends when it does not end well: what to say, and the exit code that says it to a
//! script.
//!
//! Code 2 means that nothing was begun: the command line, a file, a server or a store is not as it
//! must be, and the text says what to change. Code 1 means that something failed under way, or that
//! `verify` found differences. Code 3 means that another generation of the job has taken over:
//! nothing to mend here, and nothing to start again.

use std::process::ExitCode;

use tapeflow_dataflow::JobError;
use tapeflow_log::LogFault;
use tapeflow_protocol::{Head, StoreError};

/// The exit code of [`End::Input`].
pub(crate) const INPUT_AT_FAULT: u8 = 2;
/// The exit code of [`End::Fenced`].
pub(crate) const FENCED: u8 = tapeflow_dataflow::EXIT_FENCED;

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    /// The input or the configuration is at fault; nothing was written.
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
    /// The reader of our output has gone: `tapeflow bars | head`. Nobody is left to be told.
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
    fn from(fault: JobError) -> Self {
        match fault {
            JobError::Refused(_) => Self::Input(fault.to_string()),
            JobError::Fenced(_) => Self::Fenced(fault.to_string()),
            JobError::Log(_) | JobError::Failed(_) => Self::Failed(fault.to_string()),
        }
    }
}

/// For the first question a command asks of a log, when a fault means a wrong address and not a
/// failure under way.
pub(crate) fn unreachable_log(fault: &LogFault) -> End {
    End::Input(match fault {
        LogFault::Unavailable(reason) => format!(
            "the log cannot be reached: {reason}; check --brokers and that the brokers are up"
        ),
        LogFault::Broken(reason) => reason.clone(),
    })
}

/// For the first question a command asks of a store.
pub(crate) fn unreachable_store(name: &str, fault: &StoreError) -> End {
    End::Input(match fault {
        StoreError::Unavailable(reason) => {
            format!("the store {name} cannot be reached: {reason}; check --store and that it is up")
        }
        StoreError::Broken(reason) => format!("the store {name} cannot be used: {reason}"),
    })
}

/// For a store whose rules this binary cannot read.
pub(crate) fn other_rules(head: &Head) -> End {
    End::Input(format!(
        "the store's rules are not this binary's: {}",
        head.logic
    ))
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
    if fault.kind() == std::io::ErrorKind::BrokenPipe {
        End::OutputClosed
    } else {
        End::Failed(format!("cannot write the output: {fault}"))
    }
}
