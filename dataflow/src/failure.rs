//! Why a job ends without a request, and the flag through which the first failure of a process ends
//! all its workers.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tapeflow_log::LogError;
use tapeflow_protocol::{repair, workflow::WorkflowError};

/// The exit code of a process that another generation has fenced. A supervisor must not restart
/// this process.
pub const EXIT_FENCED: u8 = 3;

/// Why the job ended without a request.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The job must not start: the store belongs to another job, the log is another one, the
    /// fingerprint changed, the format is newer, or offsets are gone. Nothing was written. The text
    /// says what to do.
    #[error("{0}")]
    Refused(String),
    /// Another generation of this job has taken over. This one has stopped.
    #[error("fenced: {0}")]
    Fenced(String),
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The store failed permanently, or the processes could not connect. A restart may help.
    #[error("{0}")]
    Failed(String),
}

impl From<WorkflowError> for JobError {
    fn from(error: WorkflowError) -> Self {
        match error {
            WorkflowError::Refused(refusal) => Self::Refused(refusal.to_string()),
            // The error names the owner, so no further call to the store is needed, which might
            // fail.
            WorkflowError::Fenced { ref owner, .. } if repair::is_repairer(owner) => {
                Self::Failed(fenced_by_repair(&error.to_string()))
            }
            WorkflowError::Fenced { .. } => Self::Fenced(error.to_string()),
            WorkflowError::Store(reason) => Self::Failed(reason),
        }
    }
}

/// The first failure of a process, shared by its workers and tasks.
#[derive(Clone, Default)]
pub(crate) struct Failure(Arc<(AtomicBool, Mutex<Option<JobError>>)>);

impl Failure {
    /// Records a failure. Later failures are dropped: they are usually consequences of the first.
    pub(crate) fn set(&self, error: JobError) {
        self.first().get_or_insert(error);
        self.0.0.store(true, Ordering::Release);
    }

    pub(crate) fn happened(&self) -> bool {
        self.0.0.load(Ordering::Acquire)
    }

    pub(crate) fn is_fenced(&self) -> bool {
        matches!(*self.first(), Some(JobError::Fenced(_)))
    }

    /// Turns a fence into a failure that a restart resolves. A repairer fences the job and gives it
    /// back soon, so all processes must start again and wait for it.
    pub(crate) fn fenced_by_repair(&self) {
        if let Some(error) = &mut *self.first() {
            *error = JobError::Failed(fenced_by_repair(&error.to_string()));
        }
    }

    pub(crate) fn take(&self) -> Option<JobError> {
        self.first().take()
    }

    fn first(&self) -> MutexGuard<'_, Option<JobError>> {
        self.0.1.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn fenced_by_repair(error: &str) -> String {
    format!(
        "{error}; a `verify --repair` is running: restart this process, it continues when the \
         repair is done"
    )
}
