//! A request to end: stop taking in, publish what was taken in, and return.

use tokio::sync::watch;

/// Whoever may ask for the end holds the sender (`watch::channel(false)`) and sends `true`. A
/// sender that is dropped asks for nothing.
pub type Stop = watch::Receiver<bool>;

/// Waits for the request; for ever if it never comes.
pub(crate) async fn requested(stop: &Stop) {
    let mut stop = stop.clone();
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}
