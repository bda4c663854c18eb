//! Where and how a process serves HTTP.

use std::{fmt, net::SocketAddr, sync::Arc};

use rustls::ServerConfig;
use tapeflow_schemas::Secret;

/// Where and how a process serves HTTP.
#[derive(Clone)]
pub struct HttpSettings {
    /// The address to bind; none turns the server off.
    pub address: Option<SocketAddr>,
    /// Whether the process must not run without the server. False for a default address, which
    /// another process may use already.
    pub required: bool,
    /// The certificate and its key; none serves plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
    /// The password of the user `tapeflow`, for everything but `/livez` and `/readyz`.
    pub password: Option<Secret>,
}

impl fmt::Debug for HttpSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpSettings")
            .field("address", &self.address)
            .field("required", &self.required)
            .field("tls", &self.tls.is_some())
            .field("password", &self.password.is_some())
            .finish()
    }
}
