//! The processes of a job: how they connect, and how one detects the failure of another.

#[cfg(test)]
mod attacks;
pub(crate) mod connect;
mod fence;
pub(crate) mod handshake;
pub(crate) mod heartbeat;
pub(crate) mod keys;
mod link;
pub(crate) mod liveness;
