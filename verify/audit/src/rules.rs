//! The rules by which the job made its bars and views, as the checkpoint names them.

use tapeflow_dataflow::{baskets_of, calendar_of, horizons_of, sizes_of};
use tapeflow_protocol::Checkpoint;
use tapeflow_schemas::{Baskets, Horizons, WindowSize, trading_session::Calendar};

use crate::error::AuditError;

/// Window sizes and baskets of a job.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The sizes of its windows.
    pub sizes: Vec<WindowSize>,
    /// How late a trade may be for their bars.
    pub horizons: Horizons,
    /// The baskets of the `baskets` view.
    pub baskets: Baskets,
}

impl Rules {
    /// The rules of a checkpoint. `baskets` are those that the caller gives; without them, the
    /// baskets that the checkpoint keeps. Too many for the checkpoint to keep must be given.
    ///
    /// # Errors
    /// [`AuditError::UnknownRules`], [`AuditError::OtherBaskets`].
    pub fn of(checkpoint: &Checkpoint, baskets: Option<&Baskets>) -> Result<Self, AuditError> {
        let fingerprint = &checkpoint.fingerprint;
        let (Some(sizes), Some(horizons), Some(job)) = (
            sizes_of(fingerprint),
            horizons_of(fingerprint),
            baskets_of(fingerprint),
        ) else {
            return Err(AuditError::UnknownRules {
                fingerprint: fingerprint.clone(),
            });
        };
        let calendar = Calendar::us_equities().digest();
        if calendar_of(fingerprint).is_some_and(|job| job != calendar) {
            return Err(AuditError::UnknownRules {
                fingerprint: fingerprint.clone(),
            });
        }
        let baskets = baskets
            .cloned()
            .or_else(|| Baskets::of_fingerprint(fingerprint))
            .unwrap_or_default();
        let given = baskets.digest();
        if job != given {
            return Err(AuditError::OtherBaskets {
                job: job.to_owned(),
                given,
            });
        }
        Ok(Self {
            sizes,
            horizons,
            baskets,
        })
    }
}
