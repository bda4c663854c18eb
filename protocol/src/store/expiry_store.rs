//! Bars that leave a store.

use async_trait::async_trait;

use super::{StoreError, SymbolDirectory};
use crate::{Expired, Expiry, ExpiryMarks};

/// Hears how much has left so far, and says whether to go on.
pub type ExpiryProgress<'a> = &'a (dyn Fn(Expired) -> bool + Send + Sync);

/// Where bars that are beyond their horizon are removed, while a job may be writing.
#[async_trait]
pub trait ExpiryStore: SymbolDirectory {
    /// Up to which watermarks bars have left ([`Expiry::since`]).
    async fn expired_up_to(&self) -> Result<ExpiryMarks, StoreError>;

    /// Removes bars and views that may leave, a bounded number at a time. First it moves
    /// [`ExpiryMarks::begun`] forward. `progress` is called
    /// between two steps; if it says no, the rest stays. At the end it moves
    /// [`ExpiryMarks::done`] forward. After an error it may be repeated.
    async fn expire(
        &self,
        expiry: &Expiry,
        progress: ExpiryProgress<'_>,
    ) -> Result<Expired, StoreError>;
}
