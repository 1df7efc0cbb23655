//! What `[schema_registry]` means, checked. `read_decode` makes it.

use std::path::PathBuf;
use std::time::Duration;

use super::Secret;

/// Text that must not be seen, or the file that it is read from each time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// In the configuration or a variable.
    Inline(Secret),
    /// Read again for each question, so that a rotated one is picked up.
    File(PathBuf),
}

/// `[schema_registry]`: a registry that speaks Confluent's REST interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaRegistry {
    /// Without a slash at its end.
    pub url: String,
    /// For basic authentication.
    pub username: Option<String>,
    /// `password` or `password_file`
    pub password: Option<SecretSource>,
    /// `token` or `token_file`, for bearer authentication.
    pub token: Option<SecretSource>,
    /// `ca_file`: who may have signed its certificate, in PEM. `None`: whom the system trusts.
    pub ca_file: Option<PathBuf>,
    /// The longest that one answer may take. Default [`REGISTRY_TIMEOUT`](super::defaults::REGISTRY_TIMEOUT).
    pub timeout: Duration,
}
