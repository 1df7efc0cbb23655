//! Which Postgres to start.

use crate::TunedFor;

/// The server to start.
#[derive(Debug, Clone, Default)]
pub struct PostgresSpec {
    pub(super) settings: Vec<String>,
    pub(super) tuned_for: TunedFor,
    pub(super) without_fsync: bool,
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
}
