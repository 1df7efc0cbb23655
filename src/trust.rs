//! The certificate authorities that our HTTP clients trust.

use std::path::Path;
use std::sync::Arc;

use ureq::tls::{Certificate, PemItem, RootCerts, parse_pem};

pub(crate) fn system() -> RootCerts {
    let native = rustls_native_certs::load_native_certs();
    let certificates = native.certs.iter().map(|certificate| Certificate::from_der(certificate).to_owned());
    RootCerts::Specific(Arc::new(certificates.collect()))
}

/// Returns the CA certificates of a PEM file, which the configuration names under `key`.
///
/// # Errors
/// If the file can't be read or has no certificate; the text names key and file.
pub(crate) fn file(key: &str, file: &Path) -> Result<RootCerts, String> {
    let said = |why: String| format!("`{key}` {}: {why}", file.display());
    let pem = std::fs::read(file).map_err(|error| said(error.to_string()))?;
    these(&pem).map_err(said)
}

/// Returns the CA certificates of a PEM text.
///
/// # Errors
/// If the text can't be read or has no certificate.
pub(crate) fn these(pem: &[u8]) -> Result<RootCerts, String> {
    let items = parse_pem(pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(Ok(certificate)),
        Ok(_) => None,
        Err(error) => Some(Err(error.to_string())),
    });
    let certificates: Vec<Certificate<'static>> = items.collect::<Result<_, _>>()?;
    if certificates.is_empty() {
        return Err("contains no certificate in PEM".to_owned());
    }
    Ok(RootCerts::Specific(Arc::new(certificates)))
}

/// Returns the text of an HTTP client's error. If the server's certificate is expired, for another host name, or of an unknown
/// authority, the text also says what to do. `key` is the configuration's key for the file of certificate authorities.
pub(crate) fn explained(error: &ureq::Error, key: &str) -> String {
    // Compare with the texts of rustls 0.23, because ureq doesn't export the errors of rustls.
    let text = error.to_string();
    let Some((_, why)) = text.split_once("invalid peer certificate: ") else { return text };
    let remedy = if why.starts_with("UnknownIssuer") || why.starts_with("BadSignature") {
        format!(
            "no authority that we trust has signed its certificate; name the file of the authority in `{key}`; if that file was \
             replaced, send SIGHUP"
        )
    } else if why.starts_with("certificate not valid for name") {
        "its certificate is for another host name; use one that the certificate contains".to_owned()
    } else if why.starts_with("certificate expired") {
        "its certificate has expired, or this machine's clock is wrong".to_owned()
    } else {
        return text;
    };
    format!("{remedy} ({text})")
}
