use super::*;
use crate::batch::LastRecord;
use crate::position::TopicPartition;
use crate::record::Headers;

fn refused(severity: Severity, sqlstate: &str) -> PostgresError {
    PostgresError { severity, ..PostgresError::new(sqlstate, "no") }
}

fn error(stage: Stage, sqlstate: &str) -> WriteError {
    WriteError { stage, cause: Cause::Postgres(refused(Severity::Error, sqlstate)) }
}

fn at(stage: Stage, cause: Cause) -> WriteError {
    WriteError { stage, cause }
}

fn lost(stage: Stage) -> WriteError {
    at(stage, Cause::Connection("broken pipe".to_owned()))
}

fn timed_out(stage: Stage) -> WriteError {
    at(stage, Cause::Deadline(Duration::from_secs(3), None))
}

fn slow_record() -> Record<'static> {
    let headers = Headers::from_arena(&[]);
    Record { topic: "t", partition: 3, offset: 7, timestamp_ms: None, key: None, value: None, headers }
}

#[test]
fn the_ledger_s_row_tells_the_outcome_of_a_span() {
    let ours = Claim { id: ClaimId::from_u128(1), epoch: 5 };
    let (from, to) = (Offset::new(10), Offset::new(20));
    let last = LastRecord { offset: Offset::new(19), timestamp_ms: None, digest: 0 };
    let span = Span { segment: 0, source: TopicPartition::new("t", 0), claim: ours, from, to, last };
    let row = |claim: u128, epoch, next| LedgerRow::Found {
        claim: Some(ClaimId::from_u128(claim)),
        epoch,
        next: Offset::new(next),
    };
    for (row, outcome) in [
        (row(1, 5, 20), SpanOutcome::Done),
        (row(1, 5, 10), SpanOutcome::Again),
        (row(1, 5, 15), SpanOutcome::Rewound),
        (row(1, 5, 25), SpanOutcome::Rewound),
        (row(2, 6, 20), SpanOutcome::Fenced),
        (row(2, 5, 10), SpanOutcome::Fenced),
        (row(2, 4, 20), SpanOutcome::Rewound),
        (LedgerRow::Missing, SpanOutcome::Rewound),
    ] {
        assert_eq!(row.outcome_of(&span), outcome, "{row:?}");
    }
}

#[test]
fn a_cause_and_its_stage_decide_what_an_error_means() {
    use Disposition::{Outage, Plan, Record, Stop, Suspect};
    let no_partition = |stage| at(stage, Cause::NoPartition(Box::new(refused(Severity::Error, "23514"))));
    let conflict = |stage| at(stage, Cause::Conflict("taken".to_owned()));
    let not_contacted = at(Stage::Connect, Cause::NotContacted("no file".to_owned()));
    for (error, running, at_start) in [
        (lost(Stage::Copy), Outage, Outage),
        (not_contacted, Outage, Outage),
        (timed_out(Stage::Ledger), Outage, Outage),
        (no_partition(Stage::Copy), Plan, Plan),
        (conflict(Stage::DeadLetters), Stop, Stop),
        (error(Stage::Copy, "22003"), Record, Record),
        (error(Stage::Ledger, "22003"), Stop, Stop),
        (error(Stage::Copy, "42501"), Suspect, Suspect),
        (at(Stage::Connect, Cause::Postgres(refused(Severity::Fatal, "3D000"))), Outage, Stop),
        (at(Stage::Connect, Cause::Postgres(refused(Severity::Fatal, "57P03"))), Outage, Outage),
    ] {
        assert_eq!((error.disposition(), error.disposition_at_start()), (running, at_start), "{error}");
    }
    // A refusal by a row-level security policy is the record's fault only at COPY and COMMIT.
    for (stage, disposition) in [(Stage::Copy, Record), (Stage::Commit, Record), (Stage::Ledger, Stop)] {
        let policy = PostgresError { policy: true, ..refused(Severity::Error, "42501") };
        assert_eq!(at(stage, Cause::Postgres(policy)).disposition(), disposition, "{stage:?}");
    }
}

#[test]
fn only_an_answer_that_proves_a_rollback_makes_a_commit_s_outcome_known() {
    for (error, unknown) in [
        (lost(Stage::Commit), true),
        (timed_out(Stage::Commit), true),
        (error(Stage::Commit, "57014"), true),
        (at(Stage::Commit, Cause::Postgres(refused(Severity::Fatal, "40001"))), true),
        (error(Stage::Commit, "40001"), false),
        (error(Stage::Commit, "23503"), false),
        (lost(Stage::Copy), false),
        (error(Stage::Ledger, "57014"), false),
    ] {
        assert_eq!(error.outcome_unknown(), unknown, "{error}");
    }
}

#[test]
fn causes_are_told_apart() {
    let fatal = at(Stage::Copy, Cause::Postgres(refused(Severity::Fatal, "57P01")));
    let no_partition = at(Stage::Copy, Cause::NoPartition(Box::new(refused(Severity::Error, "23514"))));
    let conflict = at(Stage::DeadLetters, Cause::Conflict("taken".to_owned()));
    let not_contacted = at(Stage::Connect, Cause::NotContacted("no file".to_owned()));
    for (error, is_refusal, timed_out, sqlstate, class) in [
        (error(Stage::Copy, "22003"), true, false, Some("22003"), "22"),
        (error(Stage::Copy, "57014"), true, true, Some("57014"), "57"),
        (error(Stage::Copy, ""), true, false, Some(""), "unknown"),
        (fatal, false, false, Some("57P01"), "57"),
        (no_partition, false, false, Some("23514"), "partition"),
        (timed_out(Stage::Copy), false, true, None, "deadline"),
        (timed_out(Stage::Commit), false, true, None, "deadline"),
        (timed_out(Stage::Connect), false, false, None, "deadline"),
        (timed_out(Stage::Begin), false, false, None, "deadline"),
        (error(Stage::Connect, "57014"), true, false, Some("57014"), "57"),
        (lost(Stage::Copy), false, false, None, "connection"),
        (not_contacted, false, false, None, "connection"),
        (conflict, false, false, None, "conflict"),
    ] {
        let known = error.postgres().map(|error| error.sqlstate.as_str());
        assert_eq!((error.is_refusal(), error.timed_out(), known), (is_refusal, timed_out, sqlstate), "{error}");
        assert_eq!(error.sqlstate_class(), class, "{error}");
    }
}

#[test]
fn the_text_names_stage_cause_and_the_record_that_takes_too_long() {
    let slow = "the record at offset 7 of t/3 alone takes longer than that: raise `postgres.statement_timeout`, or look \
                for the trigger or lock that delays it";
    let said = |mut error: WriteError| {
        error.add_slow_record(&slow_record());
        error.to_string()
    };
    assert_eq!(lost(Stage::Begin).to_string(), "Postgres connection lost at begin: broken pipe");
    assert_eq!(lost(Stage::Connect).to_string(), "Postgres can't be reached: broken pipe");
    assert_eq!(said(lost(Stage::Begin)), "Postgres connection lost at begin: broken pipe");
    assert_eq!(timed_out(Stage::Ledger).to_string(), "Postgres gave no answer at ledger within 3s");
    assert_eq!(said(timed_out(Stage::Copy)), format!("Postgres gave no answer at copy within 3s; {slow}"));
    assert_eq!(said(error(Stage::Copy, "57014")), format!("Postgres 57014 no (at copy); {slow}"));
    let noted = PostgresError { note: Some("locked by 4711".to_owned()), ..refused(Severity::Error, "57014") };
    assert_eq!(
        said(at(Stage::Commit, Cause::Postgres(noted))),
        format!("Postgres 57014 no (at commit); locked by 4711; {slow}")
    );
    let no_partition = Cause::NoPartition(Box::new(refused(Severity::Error, "23514")));
    assert_eq!(at(Stage::Copy, no_partition).to_string(), "Postgres 23514 no (at copy)");
    assert_eq!(at(Stage::DeadLetters, Cause::Conflict("taken".to_owned())).to_string(), "taken");
}
