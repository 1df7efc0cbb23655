//! Which Postgres to start.

use std::sync::Arc;

use crate::TunedFor;
use crate::tls::{Authority, Identity};

/// The server to start.
#[derive(Debug, Clone, Default)]
pub struct PostgresSpec {
    pub(super) settings: Vec<String>,
    pub(super) tuned_for: TunedFor,
    pub(super) without_fsync: bool,
    /// Of the server's certificate, and of the clients that prove themselves by one.
    pub(super) tls: Option<(Arc<Authority>, Identity)>,
    pub(super) access: Vec<String>,
}

impl PostgresSpec {
    /// A line of `postgresql.conf`, over the harness's own.
    #[must_use]
    pub fn setting(mut self, line: &str) -> Self {
        self.settings.push(line.to_owned());
        self
    }

    /// The purpose of the settings; tests, unless set otherwise.
    #[must_use]
    pub fn tuned_for(mut self, tuned_for: TunedFor) -> Self {
        self.tuned_for = tuned_for;
        self
    }

    /// Lets Postgres answer before the disk has what it was told: quicker, and a lie when the machine fails.
    #[must_use]
    pub fn without_fsync(mut self) -> Self {
        self.without_fsync = true;
        self
    }

    /// Takes TLS connections with this certificate, and accepts clients' certificates of the same authority.
    #[must_use]
    pub fn tls(mut self, authority: &Arc<Authority>, identity: &Identity) -> Self {
        self.tls = Some((Arc::clone(authority), identity.clone()));
        self
    }

    /// A line of `pg_hba.conf`, before those that trust every connection from this machine.
    #[must_use]
    pub fn access(mut self, line: &str) -> Self {
        self.access.push(line.to_owned());
        self
    }
}
