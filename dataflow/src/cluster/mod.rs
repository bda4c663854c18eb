//! How the processes of a job find each other, and how one notices that another is gone.

pub(crate) mod handshake;
pub(crate) mod heartbeat;
