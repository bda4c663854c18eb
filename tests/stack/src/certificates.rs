//! Certificates for servers that `deploy/dev/stack up --secure` starts, and for those who talk to
//! them; made anew by every run.
//!
//! Included like `stack.rs`. The servers' certificate is for the name `localhost` and not for
//! 127.0.0.1, so that who looks at the name of a server can be told from who does not.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;

/// What the servers show is put where the script looks for it; what clients show and trust lies in
/// a folder that is deleted at the end.
pub struct Certificates {
    folder: TempDir,
    /// The servers' key and certificate.
    server_pem: String,
    ca_pem: String,
}

impl Certificates {
    /// Makes an authority, certificates of a server and a client, and another authority that has
    /// nothing to do with them.
    pub fn make() -> std::io::Result<Self> {
        let (authority, ca_pem) = make_authority("tapeflow test authority")?;
        let (_, unknown_peer_pem) = make_authority("an authority without trust")?;
        let (server_certificate, server_key) =
            issue(&authority, "localhost", ExtendedKeyUsagePurpose::ServerAuth)?;
        let (client_certificate, client_key) =
            issue(&authority, "tapeflow", ExtendedKeyUsagePurpose::ClientAuth)?;
        let folder = tempfile::tempdir()?;
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text);
        write("ca.pem", &ca_pem)?;
        write("unknown_peer.pem", &unknown_peer_pem)?;
        write("client.pem", &client_certificate)?;
        write("client.key", &client_key)?;
        Ok(Self {
            server_pem: format!("{server_key}{server_certificate}"),
            ca_pem,
            folder,
        })
    }

    /// For the script: `prepare` of a stack's `up_with`.
    pub fn install(&self, stack: &Path) -> std::io::Result<()> {
        let folder = stack.join("certificates");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("server.pem"), &self.server_pem)?;
        fs::write(folder.join("ca.pem"), &self.ca_pem)
    }

    /// `ca.pem` vouches for the servers, `unknown_peer.pem` for no server; `client.pem` and
    /// `client.key` are a client's.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn make_authority(name: &str) -> std::io::Result<(Issuer<'static, KeyPair>, String)> {
    let mut params = CertificateParams::new(Vec::new()).map_err(std::io::Error::other)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let key = KeyPair::generate().map_err(std::io::Error::other)?;
    let pem = params
        .self_signed(&key)
        .map_err(std::io::Error::other)?
        .pem();
    Ok((Issuer::new(params, key), pem))
}

/// A certificate for a name, and its key, both PEM.
fn issue(
    authority: &Issuer<'static, KeyPair>,
    name: &str,
    purpose: ExtendedKeyUsagePurpose,
) -> std::io::Result<(String, String)> {
    let mut params =
        CertificateParams::new(vec![name.to_owned()]).map_err(std::io::Error::other)?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.extended_key_usages = vec![purpose];
    let key = KeyPair::generate().map_err(std::io::Error::other)?;
    let certificate = params
        .signed_by(&key, authority)
        .map_err(std::io::Error::other)?;
    Ok((certificate.pem(), key.serialize_pem()))
}
