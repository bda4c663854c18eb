//! The processes of a job: how they connect, and how one detects the failure of another.

pub(crate) mod connect;
pub(crate) mod handshake;
pub(crate) mod heartbeat;
pub(crate) mod liveness;
