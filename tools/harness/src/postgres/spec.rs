//! Specifies which Postgres to start.

use std::sync::Arc;

use crate::TunedFor;
use crate::tls::{Authority, Identity};

#[derive(Debug, Clone, Default)]
pub struct PostgresSpec {
    pub(super) settings: Vec<String>,
    pub(super) tuned_for: TunedFor,
    pub(super) without_fsync: bool,
    /// The authority, which signs the certificates of clients, and the server's certificate. `None` if the
    /// server doesn't use TLS.
    pub(super) tls: Option<(Arc<Authority>, Identity)>,
    pub(super) access: Vec<String>,
}

impl PostgresSpec {
    /// Adds a line to `postgresql.conf`. It takes precedence over the harness' own settings.
    #[must_use]
    pub fn setting(mut self, line: &str) -> Self {
        self.settings.push(line.to_owned());
        self
    }

    #[must_use]
    pub fn tuned_for(mut self, tuned_for: TunedFor) -> Self {
        self.tuned_for = tuned_for;
        self
    }

    /// Switches `fsync` off: Postgres answers before the data is on disk. That is faster, but data is lost if the machine
    /// fails.
    #[must_use]
    pub fn without_fsync(mut self) -> Self {
        self.without_fsync = true;
        self
    }

    /// Makes the server accept TLS connections, with the certificate `identity`. Clients may authenticate with certificates that
    /// `authority` has signed.
    #[must_use]
    pub fn tls(mut self, authority: &Arc<Authority>, identity: &Identity) -> Self {
        self.tls = Some((Arc::clone(authority), identity.clone()));
        self
    }

    /// Adds a line to `pg_hba.conf`, before the lines that trust every connection from this machine.
    #[must_use]
    pub fn access(mut self, line: &str) -> Self {
        self.access.push(line.to_owned());
        self
    }
}
