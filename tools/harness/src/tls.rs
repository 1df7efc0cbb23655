//! A certificate authority that is created for one test run, and certificates that it signs.
//!
//! Keys are P-256 in PKCS#8, which Kafka, PostgreSQL, OpenSSL and rustls can all read. Nothing here needs to stay secret.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

#[derive(Debug)]
pub struct Authority {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM files. Only the owner may read the key. `both` has the key and the certificate in one file,
/// in the form of Kafka's PEM keystores.
#[derive(Debug, Clone)]
pub struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub both: PathBuf,
}

impl Authority {
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("tidegate-tls-")
            // Postgres may run as another user, so other users may enter the folder.
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir()?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = named("tidegate harness authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?;
        fs::write(folder.path().join("ca.pem"), certificate.pem())?;
        Ok(Self { folder, issuer: Issuer::new(params, key) })
    }

    /// Returns the path of the authority's own certificate (PEM), which clients must trust.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Returns a server's certificate for the host names and addresses `names`, valid until 2060. `file` is the name of the files
    /// without their extension, and also the certificate's common name.
    pub fn server(&self, file: &str, names: &[&str]) -> Result<Identity> {
        self.sign(file, names, |_| {})
    }

    pub fn expired(&self, file: &str, names: &[&str]) -> Result<Identity> {
        self.sign(file, names, |params| params.not_after = date_time_ymd(2021, 1, 1))
    }

    /// Returns a server's certificate that is marked as an authority's certificate, like those of `openssl req -x509`.
    pub fn server_as_authority(&self, file: &str, names: &[&str]) -> Result<Identity> {
        self.sign(file, names, |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained))
    }

    /// Returns a client's certificate, whose common name is `name`.
    pub fn client(&self, name: &str) -> Result<Identity> {
        self.sign(name, &[], |_| {})
    }

    /// Signs a certificate. `file` is the name of the files without their extension, and also the certificate's common name.
    /// `change` may change the certificate's parameters before it is signed.
    fn sign(&self, file: &str, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Result<Identity> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())?;
        params.distinguished_name = named(file);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2060, 1, 1);
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer)?;
        let at = |ending: &str| self.folder.path().join(format!("{file}.{ending}"));
        let identity = Identity { certificate: at("crt"), key: at("key"), both: at("pem") };
        fs::write(&identity.certificate, certificate.pem())?;
        write_private(&identity.key, &key.serialize_pem())?;
        write_private(&identity.both, &format!("{}{}", key.serialize_pem(), certificate.pem()))?;
        Ok(identity)
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn write_private(path: &Path, text: &str) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, text).with_context(|| format!("could not write `{}`", path.display()))?;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o600))?)
}
