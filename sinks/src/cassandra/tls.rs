//! TLS to the nodes: the trusted authorities and the client certificate.
//!
//! A node must present a certificate that a trusted authority signed. The certificate must name the
//! node's address or one of the configured hosts. No option weakens this check. Files are read when
//! a session is opened. An error names the path of a bad file and never shows its content.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{
        CertificateDer, PrivateKeyDer, ServerName, UnixTime,
        pem::{Error as PemError, PemObject},
    },
};
use tapeflow_protocol::StoreError;

use super::errors::broken;

/// The settings of TLS to the nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// The trusted authorities, in PEM. Without it, the public authorities of the web.
    pub ca_file: Option<PathBuf>,
    /// The client certificate, for nodes that demand one.
    pub client: Option<ClientCertificate>,
}

/// A client certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate and the intermediate certificates, in PEM.
    pub certificate_file: PathBuf,
    /// Its key, in PEM, not encrypted.
    pub key_file: PathBuf,
}

/// The TLS configuration for the driver. `hosts` are the configured hosts, with ports.
pub(super) fn client_config(
    tls: &TlsConfig,
    hosts: &[String],
) -> Result<Arc<ClientConfig>, StoreError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = NodeVerifier::new(roots(tls.ca_file.as_deref())?, hosts, &provider)?;
    let unusable = |error: Error| broken(format!("TLS cannot be set up: {error}"));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    // rustls calls every custom verifier "dangerous". This one asks rustls' own verifier, with
    // more names.
    let builder = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let config = match &tls.client {
        None => builder.with_no_client_auth(),
        Some(ClientCertificate {
            certificate_file,
            key_file,
        }) => {
            let chain = certificates("certificate", certificate_file)?;
            let key = PrivateKeyDer::from_pem_file(key_file).map_err(|error| {
                unreadable("key", key_file, &error, "private key that is not encrypted")
            })?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                broken(format!(
                    "the key in {} and the certificate in {} do not fit: {error}",
                    key_file.display(),
                    certificate_file.display()
                ))
            })?
        }
    };
    Ok(Arc::new(config))
}

fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, StoreError> {
    let mut roots = RootCertStore::empty();
    let Some(file) = ca_file else {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        return Ok(roots);
    };
    for certificate in certificates("CA", file)? {
        roots.add(certificate).map_err(|error| {
            broken(format!(
                "a certificate in CA file {} cannot be used: {error}",
                file.display()
            ))
        })?;
    }
    Ok(roots)
}

fn certificates(what: &str, file: &Path) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    let error = |error: PemError| unreadable(what, file, &error, "certificate");
    let found = CertificateDer::pem_file_iter(file)
        .map_err(error)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(error)?;
    if found.is_empty() {
        Err(error(PemError::NoItemsFound))
    } else {
        Ok(found)
    }
}

/// The library's message is not used: it may quote the file, and the file may be a key.
fn unreadable(what: &str, file: &Path, error: &PemError, wanted: &str) -> StoreError {
    let file = file.display();
    broken(match error {
        PemError::Io(error) => format!("{what} file {file} cannot be read: {error}"),
        PemError::NoItemsFound => format!("{what} file {file} holds no {wanted} in PEM"),
        _ => format!("{what} file {file} is not whole PEM"),
    })
}

/// Accepts a certificate for the node's address or for a configured host name.
///
/// The driver knows nodes only by address and asks for a certificate that names the address.
/// Certificates are often issued for host names instead.
#[derive(Debug)]
struct NodeVerifier {
    verifier: Arc<WebPkiServerVerifier>,
    /// The configured hosts that are DNS names.
    names: Vec<ServerName<'static>>,
}

impl NodeVerifier {
    fn new(
        roots: RootCertStore,
        hosts: &[String],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, StoreError> {
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
        let verifier =
            verifier.map_err(|error| broken(format!("TLS cannot be set up: {error}")))?;
        let named = hosts
            .iter()
            .filter_map(|host| host.rsplit_once(':'))
            .filter_map(|(host, _)| ServerName::try_from(host.to_owned()).ok());
        Ok(Self {
            verifier,
            names: named
                .filter(|name| matches!(name, ServerName::DnsName(_)))
                .collect(),
        })
    }
}

impl ServerCertVerifier for NodeVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        address: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verify = |name: &ServerName<'_>| {
            self.verifier
                .verify_server_cert(end_entity, intermediates, name, ocsp_response, now)
        };
        match verify(address) {
            Err(
                error @ Error::InvalidCertificate(
                    CertificateError::NotValidForName
                    | CertificateError::NotValidForNameContext { .. },
                ),
            ) => self
                .names
                .iter()
                .find_map(|name| verify(name).ok())
                .ok_or(error),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    use super::*;

    /// An authority, and its certificate.
    fn authority(name: &str) -> (Issuer<'static, KeyPair>, String) {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("a certificate").pem();
        (Issuer::new(params, key), pem)
    }

    /// A certificate for these names, and its key.
    fn issued(
        authority: &Issuer<'static, KeyPair>,
        names: &[&str],
    ) -> (CertificateDer<'static>, String, String) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(
            names
                .iter()
                .map(|name| (*name).to_owned())
                .collect::<Vec<_>>(),
        )
        .expect("names");
        let certificate = params.signed_by(&key, authority).expect("a certificate");
        (
            certificate.der().clone(),
            certificate.pem(),
            key.serialize_pem(),
        )
    }

    fn file(folder: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path
    }

    fn refusal(tls: &TlsConfig) -> String {
        client_config(tls, &[]).expect_err("refused").to_string()
    }

    #[test]
    fn a_certificate_must_name_the_nodes_address_or_a_configured_host() {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let (ours, pem) = authority("ours");
        let (unknown, _) = authority("unknown");
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM"))
            .expect("an authority");
        let hosts = ["db-1.market.example:9042", "10.0.0.9:9042", "[::1]:9042"].map(str::to_owned);
        let verifier = NodeVerifier::new(roots, &hosts, &provider).expect("a verifier");
        let check = |authority, names: &[&str]| {
            let address = ServerName::try_from("10.0.0.1").expect("an address");
            verifier
                .verify_server_cert(
                    &issued(authority, names).0,
                    &[],
                    &address,
                    &[],
                    UnixTime::now(),
                )
                .map(drop)
        };
        assert_eq!(check(&ours, &["10.0.0.1"]), Ok(()), "the address");
        assert_eq!(
            check(&ours, &["db-1.market.example"]),
            Ok(()),
            "a host of the configuration"
        );
        assert_eq!(
            check(&ours, &["*.market.example"]),
            Ok(()),
            "a wildcard for such a host"
        );
        for others in [&["db-2.market.example"][..], &["10.0.0.9"], &[]] {
            let error = check(&ours, others).expect_err("names nothing of ours");
            assert!(
                matches!(
                    error,
                    Error::InvalidCertificate(CertificateError::NotValidForNameContext { .. })
                ),
                "{others:?}: {error}"
            );
        }
        let error = check(&unknown, &["10.0.0.1", "db-1.market.example"])
            .expect_err("of an unknown authority");
        assert!(
            matches!(
                error,
                Error::InvalidCertificate(CertificateError::UnknownIssuer)
            ),
            "{error}"
        );
    }

    #[test]
    fn good_files_are_accepted_and_without_a_ca_file_the_public_authorities_are_trusted() {
        let folder = tempfile::tempdir().expect("a folder");
        let (ours, ca) = authority("ours");
        let (_, certificate, key) = issued(&ours, &["job"]);
        let client = ClientCertificate {
            certificate_file: file(&folder, "c.pem", &certificate),
            key_file: file(&folder, "k.pem", &key),
        };
        let config = client_config(
            &TlsConfig {
                ca_file: Some(file(&folder, "ca.pem", &ca)),
                client: Some(client),
            },
            &[],
        )
        .expect("good files");
        assert!(config.client_auth_cert_resolver.has_certs());
        assert!(
            !client_config(&TlsConfig::default(), &[])
                .expect("no files")
                .client_auth_cert_resolver
                .has_certs()
        );
    }

    #[test]
    fn an_error_about_a_bad_file_has_its_path_and_a_reason_and_no_content() {
        let folder = tempfile::tempdir().expect("a folder");
        let (ours, ca) = authority("ours");
        let (_, certificate, key) = issued(&ours, &["job"]);
        let (_, _, other_key) = issued(&ours, &["job"]);
        let ca_only = |path: &Path| TlsConfig {
            ca_file: Some(path.into()),
            client: None,
        };
        let missing = refusal(&ca_only(&folder.path().join("missing.pem")));
        assert!(
            missing.contains("CA file")
                && missing.contains("missing.pem")
                && missing.contains("No such file"),
            "{missing}"
        );
        let empty = refusal(&ca_only(&file(&folder, "empty.pem", "hunter2")));
        assert!(
            empty.ends_with("empty.pem holds no certificate in PEM"),
            "{empty}"
        );
        let broken = refusal(&ca_only(&file(&folder, "half.pem", &ca[..ca.len() / 2])));
        assert!(broken.ends_with("half.pem is not whole PEM"), "{broken}");
        let no_certificate = refusal(&ca_only(&file(
            &folder,
            "junk.pem",
            "-----BEGIN CERTIFICATE-----\naHVudGVyMg==\n-----END CERTIFICATE-----\n",
        )));
        assert!(
            no_certificate.contains("junk.pem cannot be used"),
            "{no_certificate}"
        );

        let certificate_file = file(&folder, "certificate.pem", &certificate);
        let with_key = |name: &str, text: &str| {
            let client = ClientCertificate {
                certificate_file: certificate_file.clone(),
                key_file: file(&folder, name, text),
            };
            refusal(&TlsConfig {
                ca_file: None,
                client: Some(client),
            })
        };
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\naHVudGVyMg==\n\
                         -----END ENCRYPTED PRIVATE KEY-----\n";
        let texts = [
            (with_key("other.pem", &other_key), "do not fit"),
            (
                with_key("locked.pem", encrypted),
                "holds no private key that is not encrypted",
            ),
            (
                with_key("cut.pem", &key[..key.len() / 2]),
                "is not whole PEM",
            ),
            (
                with_key("line.pem", "-----BEGIN hunter2\nhunter2\n"),
                "is not whole PEM",
            ),
        ];
        for (text, part) in texts {
            assert!(text.contains(part) && text.contains(".pem"), "{text}");
            assert!(
                !text.contains("hunter2") && !text.contains("aHVudGVyMg"),
                "{text}"
            );
        }
    }
}
