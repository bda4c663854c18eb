//! What the processes of a job prove to each other: that they know the job's secret.
//!
//! Both sides derive the same Ed25519 key from the secret. A connection is TLS 1.3 with raw public
//! keys (RFC 7250): each side shows that one public key, and signs the transcript of the handshake,
//! which holds fresh random values of both. So a recorded handshake is worth nothing, and no
//! certificate authority, name or clock is involved. What TLS adds: keys of its own for each
//! connection and direction, and every frame encrypted, authenticated and in order.
//!
//! Every caller sees the public key, so a secret that can be guessed can be searched for.
//! That is why [`MIN_SECRET_CHARS`] exists.

use std::sync::Arc;

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
    client::{
        AlwaysResolvesClientRawPublicKeys, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, cipher_suite::TLS13_AES_128_GCM_SHA256, sign::any_eddsa_type},
        verify_tls13_signature_with_raw_key,
    },
    pki_types::{
        CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
    },
    server::{
        AlwaysResolvesServerRawPublicKeys, NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::CertifiedKey,
    version::TLS13,
};
use tapeflow_schemas::Secret;
use zeroize::Zeroizing;

/// The fewest characters of a secret: 128 bits as hexadecimal digits.
pub const MIN_SECRET_CHARS: usize = 32;
/// What the derived key is for. Another version of the handshake gets another key.
const PURPOSE: &[u8] = b"tapeflow cluster handshake 2";
/// The head of an Ed25519 private key in PKCS #8 (RFC 8410): the seed of 32 bytes follows.
const PKCS8_ED25519: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// The settings of TLS for both ends of a connection.
#[derive(Clone)]
pub(crate) struct Keys {
    pub(crate) caller: Arc<ClientConfig>,
    pub(crate) listener: Arc<ServerConfig>,
}

impl Keys {
    /// Derives the keys of a job.
    ///
    /// # Errors
    /// The provider of cryptography refuses, which is a fault of the build.
    pub(crate) fn derive(secret: &Secret) -> Result<Self, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let suite = TLS13_AES_128_GCM_SHA256
            .tls13()
            .ok_or_else(|| Error::General("no cipher suite of TLS 1.3".into()))?;
        let seed = suite
            .hkdf_provider
            .extract_from_secret(None, secret.expose().as_bytes())
            .expand_block(&[PURPOSE]);
        let pkcs8 = Zeroizing::new([&PKCS8_ED25519[..], seed.as_ref()].concat());
        let private = any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8.as_slice()))?;
        let public = private
            .public_key()
            .ok_or_else(|| Error::General("the key has no public half".into()))?
            .into_owned();
        let shown = CertificateDer::from(public.to_vec());
        let key = Arc::new(CertifiedKey::new(vec![shown], private));
        let only = Arc::new(OnlyThisKey {
            public,
            provider: Arc::clone(&provider),
        });
        let mut caller = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::clone(&only) as Arc<dyn ServerCertVerifier>)
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                Arc::clone(&key),
            )));
        // Every connection proves the secret anew.
        caller.resumption = Resumption::disabled();
        caller.enable_sni = false;
        let mut listener = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])?
            .with_client_cert_verifier(only)
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(key)));
        listener.session_storage = Arc::new(NoServerSessionStorage {});
        listener.send_tls13_tickets = 0;
        Ok(Self {
            caller: Arc::new(caller),
            listener: Arc::new(listener),
        })
    }
}

/// The one public key that both sides accept.
#[derive(Debug)]
struct OnlyThisKey {
    public: SubjectPublicKeyInfoDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl OnlyThisKey {
    fn check(&self, shown: &CertificateDer<'_>) -> Result<(), Error> {
        if shown.as_ref() == self.public.as_ref() {
            Ok(())
        } else {
            Err(CertificateError::UnknownIssuer.into())
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check(shown)?;
        verify_tls13_signature_with_raw_key(
            message,
            &self.public,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }
}

/// TLS 1.2 is not offered, so rustls never asks.
fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.2 is not offered".into()))
}

impl ServerCertVerifier for OnlyThisKey {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check(end_entity)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for OnlyThisKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check(end_entity)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}
