//! Where a process serves HTTP: `--http`, on loopback by default.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use clap::Args;
use rustls::{
    ServerConfig,
    pki_types::{
        CertificateDer,
        pem::{self, PemObject},
    },
};
use tapeflow_console::HttpSettings;

use super::errors::Errors;
use crate::secret;

/// Where a process serves HTTP, and to whom.
#[derive(Args, Debug)]
#[command(next_help_heading = "HTTP")]
pub(crate) struct HttpArgs {
    /// Address of /metrics, /status, /livez and /readyz, or off
    #[arg(long, env = "TAPEFLOW_HTTP", value_name = "IP:PORT|off", value_parser = listen_address)]
    http: Option<Listen>,
    /// Serve over TLS: file of the certificate chain, the server's own first, PEM
    #[arg(long, env = "TAPEFLOW_HTTP_TLS_CERT", value_name = "FILE")]
    http_tls_cert: Option<PathBuf>,
    /// File of the certificate's key, PEM
    #[arg(long, env = "TAPEFLOW_HTTP_TLS_KEY", value_name = "FILE")]
    http_tls_key: Option<PathBuf>,
    /// File with the password of the user tapeflow; every path but /livez and /readyz requires it
    #[arg(long, env = "TAPEFLOW_HTTP_PASSWORD_FILE", value_name = "FILE")]
    http_password_file: Option<PathBuf>,
}

/// An address to listen on, or not to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listen {
    Off,
    At(SocketAddr),
}

fn listen_address(text: &str) -> Result<Listen, String> {
    if text == "off" {
        return Ok(Listen::Off);
    }
    text.parse().map(Listen::At).map_err(|_| {
        format!(
            "{text:?} is not an address: give IP:PORT, such as 127.0.0.1:8080 or [::1]:8080, or off"
        )
    })
}

impl HttpArgs {
    /// Reads the files; `default` is where to serve without `--http`.
    pub(crate) fn check(self, default: SocketAddr, errors: &mut Errors) -> Option<HttpSettings> {
        let required = self.http.is_some();
        let address = match self.http {
            None => Some(default),
            Some(Listen::Off) => None,
            Some(Listen::At(address)) => Some(address),
        };
        let tls = match (self.http_tls_cert, self.http_tls_key) {
            (None, None) => Some(None),
            (Some(certificates), Some(key)) => tls(&certificates, &key, errors).map(Some),
            (Some(_), None) => {
                errors.add("--http-tls-cert: its key is missing; see --http-tls-key");
                None
            }
            (None, Some(_)) => {
                errors.add("--http-tls-key: its certificate is missing; see --http-tls-cert");
                None
            }
        };
        let password = match self.http_password_file {
            None => Some(None),
            Some(file) => errors
                .keep("--http-password-file", secret::read(&file))
                .map(Some),
        };
        Some(HttpSettings {
            address,
            required,
            tls: tls?,
            password: password?,
        })
    }
}

fn tls(
    certificates: &std::path::Path,
    key: &std::path::Path,
    errors: &mut Errors,
) -> Option<Arc<ServerConfig>> {
    let chain = CertificateDer::pem_file_iter(certificates)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>);
    // Not the library's message: it may quote the file, and the file may be the key.
    let chain = chain
        .map_err(|error| {
            let file = certificates.display();
            errors.add(match error {
                pem::Error::Io(error) => format!("--http-tls-cert: cannot read {file}: {error}"),
                _ => format!("--http-tls-cert: {file} is damaged: it is no certificate in PEM"),
            });
        })
        .ok();
    let secret = errors.keep("--http-tls-key", secret::private_key(key));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let (chain, secret) = (chain?, secret?);
    let made = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder
                .with_no_client_auth()
                .with_single_cert(chain, secret)
        });
    match made {
        Ok(config) => Some(Arc::new(config)),
        Err(error) => {
            errors.add(format!(
                "--http-tls-cert: {} cannot be used with {}: {error}",
                certificates.display(),
                key.display()
            ));
            None
        }
    }
}
