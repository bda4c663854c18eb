//! Where a process serves HTTP: `--http` and its flags. The default is loopback.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use clap::Args;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tapeflow_console::HttpSettings;

use super::errors::Errors;
use crate::secret;

/// The flags of the HTTP server.
#[derive(Args, Debug)]
#[command(next_help_heading = "HTTP")]
pub(crate) struct HttpArgs {
    /// Address of the live page, /metrics, /status, /livez and /readyz, or off [default:
    /// 127.0.0.1:8080 for run; 127.0.0.1:8080 plus --process for dataflow; 127.0.0.1:8070 for
    /// ingest]
    #[arg(long, env = "TAPEFLOW_HTTP", value_name = "IP:PORT|off")]
    http: Option<String>,
    /// Serve over TLS with this PEM file of certificates, the certificate of the server first
    #[arg(long, env = "TAPEFLOW_HTTP_TLS_CERT", value_name = "FILE")]
    http_tls_cert: Option<PathBuf>,
    /// PEM file with the key of the certificate
    #[arg(long, env = "TAPEFLOW_HTTP_TLS_KEY", value_name = "FILE")]
    http_tls_key: Option<PathBuf>,
    /// File with the password of the user tapeflow, required for all but /livez and /readyz
    #[arg(long, env = "TAPEFLOW_HTTP_PASSWORD_FILE", value_name = "FILE")]
    http_password_file: Option<PathBuf>,
}

impl HttpArgs {
    /// Checks the flags and reads the files; `default` is the address without `--http`.
    pub(crate) fn check(self, default: SocketAddr, errors: &mut Errors) -> Option<HttpSettings> {
        let required = self.http.is_some();
        let address = match self.http.as_deref() {
            None => Some(Some(default)),
            Some("off") => Some(None),
            Some(text) => errors.read("--http", text, |text| {
                text.parse().map(Some).map_err(|_| {
                    format!(
                        "{text:?} is not an address: give IP:PORT, such as 127.0.0.1:8080 or \
                         [::1]:8080, or off"
                    )
                })
            }),
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
            Some(file) => secret::from("--http-password-file", Some(&file), &[], errors).map(Some),
        };
        Some(HttpSettings {
            address: address?,
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
    let chain = chain
        .map_err(|error| {
            errors.add(format!(
                "--http-tls-cert: {}: {error}",
                certificates.display()
            ))
        })
        .ok();
    let secret = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| errors.add(format!("--http-tls-key: {}: {error}", key.display())))
        .ok();
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
                "--http-tls-cert: {} does not fit the key {}: {error}",
                certificates.display(),
                key.display()
            ));
            None
        }
    }
}
