//! The checked form of `[schema_registry]`. `read_decode` creates it.

use std::path::PathBuf;
use std::time::Duration;

use super::{Content, Secret};

/// A secret text, or the file that contains it. The file is read again for each request, so that a rotated secret is picked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    Inline(Secret),
    File(PathBuf),
}

/// `[schema_registry]`: a registry that speaks Confluent's REST interface. `username` and `password` are for basic
/// authentication, `token` is for bearer authentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaRegistry {
    /// The base URL, without a slash at its end.
    pub url: String,
    pub username: Option<String>,
    pub password: Option<SecretSource>,
    pub token: Option<SecretSource>,
    /// `ca_file`: CA certificates (PEM) that verify the registry. `None`: the system trust store.
    pub ca_file: Option<PathBuf>,
    /// A digest of `ca_file`, by which a reload notices that the file was replaced. The registry's client
    /// reads the file only once.
    pub ca_content: Option<Content>,
    /// The longest wait for one answer. Default [`REGISTRY_TIMEOUT`](super::defaults::REGISTRY_TIMEOUT).
    pub timeout: Duration,
}
