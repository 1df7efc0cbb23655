//! Decides what an error means, and when the next attempt is made. No I/O.
//!
//! The stage, severity and SQLSTATE of an error decide its [`Disposition`]: whether a record is at fault, the plan is outdated,
//! the pipeline waits for the end of an outage, or the pipeline stops. The SQLSTATEs are those of PostgreSQL's appendix A.

use std::time::Duration;

/// The step in which an error occurred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Connecting, logging in, setting up the session.
    Connect,
    /// `BEGIN`, savepoints, `SET CONSTRAINTS`, `ROLLBACK`, the check whether the table accepts rows at all, and statements
    /// outside of the transaction, such as those that read the catalog or change the table.
    Begin,
    /// COPY into the table; or COPY into the staging table, and the merge.
    Copy,
    /// Evaluating the table's default values, without a row.
    Defaults,
    DeadLetters,
    Ledger,
    /// `COMMIT`: its outcome may be unknown.
    Commit,
}

/// PostgreSQL's severity of an error, from the field that is never translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed, but the session continues.
    Error,
    Fatal,
    Panic,
}

/// How to react to an error, by its cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// One record's own fault: find the record and dead-letter it; the others are written.
    Record,
    /// Possibly one record's own fault, for example because a trigger raised an error of its own. The error is
    /// treated as [`Self::Record`] if Postgres accepts other records, otherwise as [`Self::Stop`].
    Suspect,
    /// The plan that encoded the rows doesn't fit the catalog, or the table lacks a partition: read the catalog again, make a
    /// new plan, and encode the rows again.
    Plan,
    /// Not the data's fault: wait, and retry the whole transaction without limit.
    Outage,
    /// Any other fault. The pipeline stops, and its message names the error.
    Stop,
}

/// Classifies an error from the server.
///
/// A record can only be at fault while Postgres checks its rows: at [`Stage::Copy`], or at [`Stage::Commit`] if deferred
/// constraints are checked then. An error of another statement never dead-letters records, whatever its SQLSTATE. For example,
/// the dead-letter table may refuse a value.
pub fn classify(stage: Stage, severity: Severity, sqlstate: &str) -> Disposition {
    // FATAL and PANIC end the session. A refused login is an outage too: a wrong password may be rotated, and a missing
    // database restored.
    if severity != Severity::Error {
        return Disposition::Outage;
    }
    let class = sqlstate.get(..2).unwrap_or_default();
    match (class, sqlstate) {
        // The server can't read the binary COPY data: it was encoded for another catalog.
        (_, "22P03" | "22P04" | "08P01") => Disposition::Plan,
        // Undefined column or table, wrong type, ON CONFLICT without its index, a cached plan that is no longer valid.
        (_, "42703" | "42P01" | "42804" | "42P10" | "0A000") => Disposition::Plan,
        // A lock was not available in time, the transaction is read-only, or another session uses the object.
        (_, "55P03" | "25006" | "55006") => Disposition::Outage,
        // Serialisation failures (40), resources and connection limits (53), operator intervention and cancelled
        // statements (57), system errors (58), lost connections (08), internal errors (XX), refused logins (28), a
        // missing database (3D).
        ("40" | "53" | "57" | "58" | "08" | "XX" | "28" | "3D", _) => Disposition::Outage,
        // 25P02 only repeats that an earlier statement of the same transaction failed, with an error that a trigger or a pooler
        // may have hidden.
        ("25", _) => Disposition::Outage,
        // An exhausted sequence, and any error in evaluating the defaults: neither depends on a row.
        (_, "2200H") => Disposition::Outage,
        _ if stage == Stage::Defaults => Disposition::Outage,
        // Data exceptions, integrity constraints, an index row too large, WITH CHECK OPTION, RAISE in a user's trigger.
        ("22" | "23" | "44" | "P0", _) | (_, "54000") if matches!(stage, Stage::Copy | Stage::Commit) => {
            Disposition::Record
        }
        // Either a trigger raised an error of its own for this record, or something refuses all rows, such as a missing right.
        // Whether Postgres accepts other records tells the two apart.
        _ if matches!(stage, Stage::Copy | Stage::Commit) => Disposition::Suspect,
        // Any other fault must stop the pipeline instead of being retried: missing rights (42501), and errors of later
        // versions.
        _ => Disposition::Stop,
    }
}

/// Classifies an error from the server at a start, when nothing has worked yet.
///
/// At a start, a missing database or a role without the right to connect is a mistake, so the pipeline stops. A running pipeline
/// waits after these errors, because it has worked before. After a refused password, the pipeline waits in both cases: the
/// password may be about to change.
pub fn classify_at_start(stage: Stage, severity: Severity, sqlstate: &str) -> Disposition {
    match (stage, sqlstate) {
        (Stage::Connect, "3D000" | "42501") => Disposition::Stop,
        _ => classify(stage, severity, sqlstate),
    }
}

/// Exponential backoff without a limit on attempts. Each wait is shortened at random, at most by half.
#[derive(Clone, Debug)]
pub struct Backoff {
    attempt: u32,
}

/// The first wait, before jitter shortens it. It is short, because a new connection often succeeds at once.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// The longest wait. It is so short that the first commit can follow within 2 s after an outage, even if the database was
/// restored, and partitions must first be claimed again.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1);

impl Backoff {
    pub fn new() -> Self {
        Self { attempt: 0 }
    }

    /// Returns the number of failures since the last [`Self::reset`].
    pub fn attempts(&self) -> u32 {
        self.attempt
    }

    /// Counts a failure and returns how long to wait. `jitter` is random in `0.0..1.0`. Half of the wait depends on `jitter`, so
    /// that several daemons don't retry at the same instant.
    pub fn next(&mut self, jitter: f64) -> Duration {
        let exponent = self.attempt.min(16);
        self.attempt = self.attempt.saturating_add(1);
        let full = BACKOFF_FIRST.saturating_mul(1 << exponent).min(BACKOFF_MAX);
        full.mul_f64(0.5 + 0.5 * jitter.clamp(0.0, 1.0))
    }

    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_row_of_the_table_is_kept() {
        use Disposition::*;
        let rows = [
            (Stage::Copy, Severity::Error, "22003", Record),
            (Stage::Copy, Severity::Error, "22P02", Record),
            (Stage::Copy, Severity::Error, "22021", Record),
            (Stage::Copy, Severity::Error, "23505", Record),
            (Stage::Copy, Severity::Error, "23514", Record),
            (Stage::Copy, Severity::Error, "54000", Record),
            (Stage::Copy, Severity::Error, "44000", Record),
            (Stage::Copy, Severity::Error, "P0001", Record),
            (Stage::Copy, Severity::Error, "P0004", Record),
            (Stage::Commit, Severity::Error, "23503", Record),
            (Stage::Copy, Severity::Error, "22P03", Plan),
            (Stage::Copy, Severity::Error, "22P04", Plan),
            (Stage::Copy, Severity::Error, "08P01", Plan),
            (Stage::Copy, Severity::Error, "42703", Plan),
            (Stage::Copy, Severity::Error, "42P01", Plan),
            (Stage::Copy, Severity::Error, "42804", Plan),
            (Stage::Copy, Severity::Error, "42P10", Plan),
            (Stage::Copy, Severity::Error, "0A000", Plan),
            (Stage::Copy, Severity::Error, "57014", Outage),
            (Stage::Copy, Severity::Error, "53100", Outage),
            (Stage::Copy, Severity::Error, "53200", Outage),
            (Stage::Connect, Severity::Fatal, "53300", Outage),
            (Stage::Connect, Severity::Fatal, "57P03", Outage),
            (Stage::Connect, Severity::Fatal, "28P01", Outage),
            (Stage::Connect, Severity::Fatal, "3D000", Outage),
            (Stage::Copy, Severity::Fatal, "57P01", Outage),
            (Stage::Copy, Severity::Panic, "XX000", Outage),
            (Stage::Ledger, Severity::Error, "40001", Outage),
            (Stage::Copy, Severity::Error, "40P01", Outage),
            (Stage::Copy, Severity::Error, "55P03", Outage),
            (Stage::Copy, Severity::Error, "25006", Outage),
            (Stage::Copy, Severity::Error, "25P02", Outage),
            (Stage::Copy, Severity::Error, "58030", Outage),
            (Stage::Copy, Severity::Error, "08006", Outage),
            (Stage::Begin, Severity::Error, "55006", Outage),
            (Stage::Connect, Severity::Error, "28000", Outage),
            (Stage::DeadLetters, Severity::Error, "22021", Stop),
            (Stage::Ledger, Severity::Error, "54000", Stop),
            (Stage::Copy, Severity::Error, "2200H", Outage),
            (Stage::Defaults, Severity::Error, "22003", Outage),
            (Stage::Copy, Severity::Error, "42501", Suspect),
            (Stage::Copy, Severity::Error, "42601", Suspect),
            (Stage::Commit, Severity::Error, "TG001", Suspect),
            (Stage::Copy, Severity::Error, "", Suspect),
            (Stage::Begin, Severity::Error, "42501", Stop),
        ];
        for (stage, severity, code, expected) in rows {
            assert_eq!(classify(stage, severity, code), expected, "{stage:?} {severity:?} {code}");
        }
    }

    #[test]
    fn at_a_start_a_missing_database_is_a_mistake_and_later_it_is_waited_for() {
        let at_start = |sqlstate| classify_at_start(Stage::Connect, Severity::Fatal, sqlstate);
        assert_eq!((at_start("3D000"), at_start("42501")), (Disposition::Stop, Disposition::Stop));
        for waited in ["28P01", "28000", "53300", "57P03"] {
            assert_eq!(at_start(waited), Disposition::Outage, "{waited}");
        }
        assert_eq!(classify(Stage::Connect, Severity::Fatal, "3D000"), Disposition::Outage);
    }

    #[test]
    fn a_data_error_from_our_own_statements_sets_no_record_aside() {
        for stage in [Stage::Connect, Stage::Begin, Stage::Defaults, Stage::DeadLetters, Stage::Ledger] {
            assert_ne!(classify(stage, Severity::Error, "22021"), Disposition::Record, "{stage:?}");
        }
    }

    #[test]
    fn waits_double_up_to_the_longest_and_begin_again_after_a_success() {
        let mut backoff = Backoff::new();
        let full = [(); 6].map(|()| backoff.next(1.0).as_millis());
        assert_eq!(full, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.next(0.0).as_millis(), 500, "the jitter has the upper half");
        backoff.reset();
        assert_eq!((backoff.attempts(), backoff.next(0.5).as_millis()), (0, 75));
    }

    proptest! {
        #[test]
        fn waits_grow_stay_bounded_and_are_never_zero(jitter in 0.0f64..1.0, failures in 1u32..200) {
            let mut backoff = Backoff::new();
            for _ in 0..failures {
                let wait = backoff.next(jitter);
                prop_assert!(wait >= BACKOFF_FIRST / 2 && wait <= BACKOFF_MAX);
            }
            prop_assert_eq!(backoff.attempts(), failures);
        }
    }
}
