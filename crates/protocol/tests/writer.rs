//! Tests the writer with a scripted Postgres, in paused time: the statements that it sends, their order, and
//! its reaction to the answers.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fastrand::Rng;
use tidegate_protocol::batch::{Batch, Incoming, RejectedRecord, Span, Trigger};
use tidegate_protocol::dead_letter_budget::{DeadLetterBudget, DeadLetterLimits};
use tidegate_protocol::event::{Committed, Event, Listener};
use tidegate_protocol::partition::Outcome;
use tidegate_protocol::position::{Claim, ClaimId, Offset, TopicPartition};
use tidegate_protocol::record::Record;
use tidegate_protocol::retry::Stage;
use tidegate_protocol::stopped::Stopped;
use tidegate_protocol::store::{
    Cause, Ledger, LedgerRow, Planner, PostgresError, ReplanError, Transaction, WriteError,
};
use tidegate_protocol::writer::{WaitFlag, Writer};

/// How the fakes behave, and which statements and events they saw, in order.
#[derive(Default)]
struct Script {
    seen: Vec<String>,
    failures: Vec<(&'static str, WriteError)>,
    /// Records that Postgres refuses, by their offsets, with the SQLSTATE.
    bad: BTreeMap<i64, &'static str>,
    /// Whether the error of a refused COPY names the row that Postgres refuses.
    names_rows: bool,
    plan: u64,
    next_plans: VecDeque<u64>,
    /// If set: the version of the plan that another writer makes when the next COPY fails.
    plan_of_others: Option<u64>,
    /// For each of the next updates of the ledger, the partitions whose rows don't advance.
    not_advanced: VecDeque<Vec<i32>>,
    /// If set, the next COPY that begins at this record times out, and so does the COPY after it.
    late_from: Option<u32>,
    rows: VecDeque<Vec<LedgerRow>>,
    flag: Option<Arc<WaitFlag>>,
}

#[derive(Clone, Default)]
struct Fake(Arc<Mutex<Script>>);

impl Fake {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.0.lock().expect("no test panicked with it")
    }

    fn saw(&self, what: impl fmt::Display) {
        self.script().seen.push(what.to_string());
    }

    /// Notes the statement. Returns its next error, if one is scripted.
    fn executes(&self, name: &'static str, what: impl fmt::Display) -> Result<(), WriteError> {
        self.saw(what);
        let mut script = self.script();
        match script.failures.iter().position(|(of, _)| *of == name) {
            Some(at) => Err(script.failures.remove(at).1),
            None => Ok(()),
        }
    }

    fn fails(&self, name: &'static str, errors: impl IntoIterator<Item = WriteError>) {
        self.script().failures.extend(errors.into_iter().map(|error| (name, error)));
    }

    fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.script().seen)
    }
}

fn spans(spans: &[Span]) -> String {
    spans.iter().map(|span| format!(" {}:{}..{}", span.source.partition, span.from, span.to)).collect()
}

impl Transaction for Fake {
    async fn begin(&mut self) -> Result<(), WriteError> {
        let waits = self.script().flag.as_ref().is_some_and(|flag| flag.is_set());
        self.executes("begin", if waits { "begin after waiting" } else { "begin" })
    }

    async fn copy(&mut self, batch: &Batch, window: Range<u32>) -> Result<u64, WriteError> {
        let done = self.executes("copy", format_args!("copy {}..{}", window.start, window.end));
        if done.is_ok() && self.script().late_from == Some(window.start) {
            self.script().late_from = None;
            self.fails("copy", [late(Stage::Copy)]);
            return Err(late(Stage::Copy));
        }
        if done.is_err() {
            let mut script = self.script();
            script.plan = script.plan_of_others.take().unwrap_or(script.plan);
        }
        done?;
        let script = self.script();
        let mut row = 0;
        for index in window.clone() {
            if batch.records_in(index..index + 1) == 0 {
                continue;
            }
            if let Some(sqlstate) = script.bad.get(&batch.record(index).offset) {
                let row = script.names_rows.then_some(row);
                return Err(refused_row(Stage::Copy, sqlstate, row));
            }
            row += batch.rows_in(index..index + 1);
        }
        Ok(u64::from(batch.rows_in(window)))
    }

    async fn savepoint(&mut self) -> Result<(), WriteError> {
        self.executes("savepoint", "savepoint")
    }

    async fn rollback_to_savepoint(&mut self) -> Result<(), WriteError> {
        self.executes("rollback to", "rollback to savepoint")
    }

    async fn probe(&mut self) -> Result<(), WriteError> {
        self.executes("probe", "probe")
    }

    async fn check_at_once(&mut self) -> Result<(), WriteError> {
        self.executes("check", "check at once")
    }

    async fn dead_letter(&mut self, batch: &Batch, rejects: &[&RejectedRecord]) -> Result<(), WriteError> {
        let which = |reject: &&RejectedRecord| format!(" {} {}", batch.record(reject.record).offset, reject.reason);
        let which: String = rejects.iter().map(which).collect();
        self.executes("dead letters", format_args!("dead letters{which}"))
    }

    async fn advance(&mut self, moves: &[Span]) -> Result<Vec<bool>, WriteError> {
        self.executes("advance", format_args!("advance{}", spans(moves)))?;
        let stay = self.script().not_advanced.pop_front().unwrap_or_default();
        Ok(moves.iter().map(|span| !stay.contains(&span.source.partition)).collect())
    }

    async fn commit(&mut self) -> Result<(), WriteError> {
        self.executes("commit", "commit")
    }

    async fn rollback(&mut self) {
        self.saw("rollback");
    }

    fn disconnect(&mut self) {
        self.saw("disconnect");
    }
}

impl Ledger for Fake {
    async fn settle(&mut self, of: &[Span]) -> Result<Vec<LedgerRow>, WriteError> {
        self.executes("settle", format_args!("settle{}", spans(of)))?;
        Ok(self.script().rows.pop_front().expect("the test says what the ledger has"))
    }
}

impl Planner for Fake {
    async fn prepare(&mut self, _batch: &Batch) -> Result<(), ReplanError> {
        self.executes("prepare", "prepare").map_err(ReplanError::Write)
    }

    async fn replan(&mut self) -> Result<(), ReplanError> {
        self.executes("replan", "replan").map_err(ReplanError::Write)?;
        let mut script = self.script();
        if let Some(plan) = script.next_plans.pop_front() {
            script.plan = plan;
        }
        Ok(())
    }

    fn newest_plan(&mut self) -> u64 {
        self.script().plan
    }

    fn encode(&mut self, record: &Record<'_>, rows: &mut Vec<u8>) -> Result<u32, RejectedRecord> {
        self.saw(format_args!("encode {}", record.offset));
        rows.push(b'r');
        Ok(1)
    }
}

impl Listener for Fake {
    fn on(&self, event: &Event<'_>) {
        match event {
            Event::Committed(Committed { window, rows, dead_letters, .. }) => self.saw(format_args!(
                "→ committed {}..{}: {rows} rows, {} dead letters",
                window.start,
                window.end,
                dead_letters.len()
            )),
            Event::CommitUnknown(_) => self.saw("→ unknown"),
            Event::CatalogChanged(_) => self.saw("→ catalog changed"),
            Event::WindowHalved { records } => self.saw(format_args!("→ halved to {records}")),
            Event::PoisonFound { copies, records } => self.saw(format_args!("→ {records} refused, {copies} copies")),
            Event::WriterWaits { error, attempt, .. } => self.saw(format_args!("→ wait {attempt}: {error}")),
            Event::Fenced { source, from } => self.saw(format_args!("→ fenced {} at {from:?}", source.partition)),
            Event::Rewound { source, from } => self.saw(format_args!("→ rewound {} at {from:?}", source.partition)),
            _ => {}
        }
    }
}

fn refused_row(stage: Stage, sqlstate: &str, row: Option<u32>) -> WriteError {
    WriteError { stage, cause: Cause::Postgres(PostgresError { row, ..PostgresError::new(sqlstate, "no") }) }
}

fn refused(stage: Stage, sqlstate: &str) -> WriteError {
    refused_row(stage, sqlstate, None)
}

fn lost(stage: Stage) -> WriteError {
    WriteError { stage, cause: Cause::Connection("broken".to_owned()) }
}

fn late(stage: Stage) -> WriteError {
    WriteError { stage, cause: Cause::Deadline(Duration::from_secs(3), None) }
}

fn claim() -> Claim {
    Claim { id: ClaimId::from_u128(1), epoch: 5 }
}

fn ours(next: i64) -> LedgerRow {
    LedgerRow::Found { claim: Some(claim().id), epoch: 5, next: Offset::new(next) }
}

fn theirs() -> LedgerRow {
    LedgerRow::Found { claim: Some(ClaimId::from_u128(2)), epoch: 6, next: Offset::new(0) }
}

/// Returns a batch with these records, each a partition and an offset. A negative partition -p means a record of partition p that
/// the mapping rejects. Each partition begins at the offset of its first record.
fn batch(records: &[(i32, i64)]) -> Batch {
    let mut batch = Batch::new();
    let mut segments = BTreeMap::new();
    for (partition, offset) in records {
        let offset = Offset::new(*offset);
        let source = TopicPartition::new("t", partition.abs());
        let segment = *segments.entry(partition.abs()).or_insert_with(|| batch.open_segment(source, claim(), offset));
        let incoming = Incoming { offset, timestamp_ms: None, key: None, value: Some(b"v") };
        let rejected = || RejectedRecord {
            record: 0,
            reason: "invalid_json",
            sqlstate: None,
            column: None,
            detail: "no JSON".into(),
        };
        batch.push(
            segment,
            &incoming,
            now(),
            |_| {},
            |_, rows| {
                rows.push(b'r');
                if *partition < 0 { Err(rejected()) } else { Ok(1) }
            },
        );
    }
    batch.plan_version = 1;
    batch.seal(Trigger::Rows);
    batch
}

fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

/// Limits with which the pipeline never stops because of dead letters.
fn boundless() -> DeadLetterLimits {
    DeadLetterLimits { max_share: 1.0, window: Duration::from_secs(300), min_count: 1 }
}

/// Limits with which one dead letter among fewer than 100 records stops the pipeline.
fn strict() -> DeadLetterLimits {
    DeadLetterLimits { max_share: 0.01, ..boundless() }
}

fn setup(limits: DeadLetterLimits) -> (Fake, Writer<Fake>) {
    let fake = Fake::default();
    fake.script().plan = 1;
    let writer =
        Writer::new(fake.clone(), DeadLetterBudget::new(limits), Rng::with_seed(1), Arc::new(fake.clone()) as _);
    fake.script().flag = Some(writer.wait_flag());
    (fake, writer)
}

fn committed(next: i64) -> Option<Outcome> {
    Some(Outcome::Committed(Offset::new(next)))
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_one_transaction() {
    let (fake, mut writer) = setup(boundless());
    let outcomes = writer.write(&mut batch(&[(0, 10), (1, 5), (0, 12), (-1, 6)])).await.expect("it is written");
    assert_eq!(outcomes, [committed(13), committed(7)]);
    assert_eq!(
        fake.seen(),
        [
            "prepare",
            "begin",
            "copy 0..4",
            "dead letters 6 invalid_json",
            "advance 0:10..13 1:5..7",
            "commit",
            "→ committed 0..4: 3 rows, 1 dead letters"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_waited_for_unless_a_command_asked_not_to() {
    let (fake, mut writer) = setup(boundless());
    fake.fails("begin", [lost(Stage::Connect), lost(Stage::Connect)]);
    writer.write(&mut batch(&[(0, 10)])).await.expect("it is written");
    let wait = |n: u32| format!("→ wait {n}: Postgres can't be reached: broken");
    let (first, second) = (wait(1), wait(2));
    assert_eq!(
        fake.seen(),
        [
            "prepare",
            "begin",
            "disconnect",
            &first,
            "begin after waiting",
            "disconnect",
            &second,
            "begin after waiting",
            "copy 0..1",
            "advance 0:10..11",
            "commit",
            "→ committed 0..1: 1 rows, 0 dead letters"
        ]
    );
    assert!(!fake.script().flag.as_ref().is_some_and(|flag| flag.is_set()), "the batch is written");
    // A success resets the count of attempts.
    fake.fails("begin", [lost(Stage::Connect)]);
    writer.write(&mut batch(&[(0, 11)])).await.expect("it is written");
    assert!(fake.seen().contains(&first));

    let mut writer = writer.without_waiting();
    fake.fails("begin", [lost(Stage::Connect)]);
    let stopped = writer.write(&mut batch(&[(0, 12)])).await.expect_err("a command doesn't wait");
    assert!(matches!(stopped, Stopped::Outage(_)), "{stopped:?}");
    assert_eq!(fake.seen(), ["prepare", "begin", "disconnect"]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_of_an_older_plan_is_encoded_and_prepared_again() {
    let (fake, mut writer) = setup(boundless());
    fake.script().plan = 2;
    let mut batch = batch(&[(0, 10), (0, 11)]);
    writer.write(&mut batch).await.expect("it is written");
    assert_eq!(batch.plan_version, 2);
    assert_eq!(
        fake.seen(),
        [
            "encode 10",
            "encode 11",
            "prepare",
            "begin",
            "copy 0..2",
            "advance 0:10..12",
            "commit",
            "→ committed 0..2: 2 rows, 0 dead letters"
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_changed_catalog_is_read_once_and_by_one_writer() {
    for (stage, name, undo) in [
        (Stage::Copy, "copy", "rollback"),
        (Stage::Ledger, "advance", "disconnect"),
        (Stage::Begin, "begin", "disconnect"),
    ] {
        let (fake, mut writer) = setup(boundless());
        fake.fails(name, [refused(stage, "42703")]);
        fake.script().next_plans.push_back(2);
        writer.write(&mut batch(&[(0, 10)])).await.expect("it is written");
        let seen = fake.seen();
        let at = seen.iter().position(|seen| seen == undo).expect("the transaction is undone");
        assert_eq!(seen[at..at + 5], [undo, "→ catalog changed", "replan", "encode 10", "prepare"], "{seen:?}");
    }
    // Another writer of the pipeline has made the plan meanwhile.
    let (fake, mut writer) = setup(boundless());
    fake.fails("copy", [refused(Stage::Copy, "42703")]);
    fake.script().plan_of_others = Some(2);
    writer.write(&mut batch(&[(0, 10)])).await.expect("it is written");
    assert_eq!(fake.seen()[..6], ["prepare", "begin", "copy 0..1", "rollback", "encode 10", "prepare"]);
}

#[tokio::test(start_paused = true)]
async fn the_same_error_after_a_replan_is_a_records_fault_or_stops_the_pipeline() {
    // A trigger may raise any error, also one that usually means an outdated plan.
    let (fake, mut writer) = setup(boundless());
    fake.script().bad.insert(11, "42703");
    let outcomes = writer.write(&mut batch(&[(0, 10), (0, 11), (0, 12)])).await.expect("it is written");
    assert_eq!(outcomes, [committed(13)]);
    let seen = fake.seen();
    assert_eq!(seen.iter().filter(|seen| *seen == "replan").count(), 1, "{seen:?}");
    assert!(seen.contains(&"dead letters 11 refused_by_postgres".to_owned()), "{seen:?}");
    // At COMMIT, a deferred trigger may raise any error too.
    let (fake, mut writer) = setup(boundless());
    fake.fails("commit", [refused(Stage::Commit, "42703"), refused(Stage::Commit, "42703")]);
    fake.script().rows.extend([vec![ours(10)], vec![ours(10)]]);
    writer.write(&mut batch(&[(0, 10)])).await.expect("it is written");
    let seen = fake.seen();
    assert_eq!(seen.iter().filter(|seen| *seen == "replan").count(), 1, "{seen:?}");
    assert!(seen.contains(&"check at once".to_owned()), "{seen:?}");
    // An error of one of our own statements is no record's fault.
    let (fake, mut writer) = setup(boundless());
    fake.fails("advance", [refused(Stage::Ledger, "42703"), refused(Stage::Ledger, "42703")]);
    let stopped = writer.write(&mut batch(&[(0, 10)])).await.expect_err("a replan doesn't help");
    assert!(matches!(stopped, Stopped::ReplanDidNotHelp(_)), "{stopped:?}");
    // If the error after a replan is a different one, the catalog is read again.
    let (fake, mut writer) = setup(boundless());
    fake.fails("copy", ["42703", "42804", "42703"].map(|sqlstate| refused(Stage::Copy, sqlstate)));
    writer.write(&mut batch(&[(0, 10)])).await.expect("it is written");
    assert_eq!(fake.seen().iter().filter(|seen| *seen == "replan").count(), 3);
}

#[tokio::test(start_paused = true)]
async fn each_missing_partition_is_a_reason_to_replan() {
    let (fake, mut writer) = setup(boundless());
    let missing = || {
        let Cause::Postgres(error) = refused(Stage::Copy, "23514").cause else { unreachable!() };
        WriteError { stage: Stage::Copy, cause: Cause::NoPartition(Box::new(error)) }
    };
    fake.fails("copy", [missing(), missing(), missing()]);
    writer.write(&mut batch(&[(0, 10)])).await.expect("it is written");
    let seen = fake.seen();
    assert_eq!(seen.iter().filter(|seen| *seen == "replan").count(), 3, "{seen:?}");
    assert!(!seen.contains(&"check at once".to_owned()), "no record is at fault: {seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_record_is_found_and_the_others_are_written() {
    let records: Vec<_> = (10..18).map(|offset| (0, offset)).collect();
    for (names_rows, expected) in [
        (true, &["copy 0..8", "copy 0..6", "copy 6..7", "copy 7..8"][..]),
        (false, &["copy 0..8", "copy 0..4", "copy 4..8", "copy 4..6", "copy 6..8", "copy 6..7", "copy 7..8"][..]),
    ] {
        let (fake, mut writer) = setup(boundless());
        fake.script().names_rows = names_rows;
        fake.script().bad.insert(16, "22003");
        assert_eq!(writer.write(&mut batch(&records)).await.expect("it is written"), [committed(18)]);
        let seen = fake.seen();
        let copies: Vec<_> = seen.iter().filter(|seen| seen.starts_with("copy")).map(String::as_str).collect();
        assert_eq!(copies, expected, "{seen:?}");
        let end = seen.len() - 5;
        assert_eq!(
            seen[end..],
            [
                &format!("→ 1 refused, {} copies", copies.len() - 1),
                "dead letters 16 refused_by_postgres",
                "advance 0:10..18",
                "commit",
                "→ committed 0..8: 7 rows, 1 dead letters"
            ]
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_cause_that_may_affect_every_record_needs_an_accepted_one() {
    let all_bad = || (10..13).map(|offset| (offset, "42501")).collect::<BTreeMap<_, _>>();
    let records = [(0, 10), (0, 11), (0, 12)];
    let (fake, mut writer) = setup(boundless());
    fake.script().bad = all_bad();
    let stopped = writer.write(&mut batch(&records)).await.expect_err("a right is missing");
    assert!(matches!(stopped, Stopped::Refused(_)), "{stopped:?}");
    assert_eq!(fake.seen().last().map(String::as_str), Some("disconnect"));
    // A command dead-letters the records, because a person checks them.
    let mut writer = writer.blaming_records();
    writer.write(&mut batch(&records)).await.expect("all are dead letters");
    assert!(fake.seen().contains(&"→ committed 0..3: 0 rows, 3 dead letters".to_owned()));
    // Another record of the window is accepted.
    let (fake, mut writer) = setup(boundless());
    fake.script().bad = BTreeMap::from([(11, "42501")]);
    writer.write(&mut batch(&records)).await.expect("one is a dead letter");
    assert!(fake.seen().contains(&"→ committed 0..3: 2 rows, 1 dead letters".to_owned()));
    // If the window has only one record, an earlier transaction that accepted rows is enough. It no longer is after a dead letter
    // with a cause of this kind.
    fake.script().bad = BTreeMap::from([(13, "42501"), (14, "42501")]);
    writer.write(&mut batch(&[(0, 13)])).await.expect("it is a dead letter");
    let stopped = writer.write(&mut batch(&[(0, 14)])).await.expect_err("two in a row");
    assert!(matches!(stopped, Stopped::Refused(_)), "{stopped:?}");
    // If the mapping rejects all records of a batch, the batch has no rows, so its commit doesn't show that
    // Postgres accepts rows.
    let (fake, mut writer) = setup(boundless());
    writer.write(&mut batch(&[(-1, 5)])).await.expect("it is a dead letter");
    fake.script().bad = BTreeMap::from([(10, "42501"), (12, "42501")]);
    writer.write(&mut batch(&[(0, 10)])).await.expect_err("no row was accepted");
    writer.write(&mut batch(&[(0, 11)])).await.expect("it is written");
    writer.write(&mut batch(&[(0, 12)])).await.expect("it is a dead letter");
    let (fake, mut writer) = setup(boundless());
    writer.write(&mut batch(&[(0, 10)])).await.expect("it is written");
    fake.script().bad = BTreeMap::from([(11, "42703")]);
    writer.write(&mut batch(&[(0, 11)])).await.expect_err("the table may have changed");
}

#[tokio::test(start_paused = true)]
async fn an_error_at_commit_that_no_record_causes_alone_stops_the_pipeline() {
    let (fake, mut writer) = setup(boundless());
    fake.fails("commit", [refused(Stage::Commit, "23505"), refused(Stage::Commit, "23505")]);
    let stopped = writer.write(&mut batch(&[(0, 10), (0, 11)])).await.expect_err("no record is at fault");
    assert!(matches!(stopped, Stopped::NoRecordAlone(_)), "{stopped:?}");
    let seen = fake.seen();
    assert_eq!(seen.iter().filter(|seen| *seen == "check at once").count(), 1, "{seen:?}");
    assert_eq!(seen.last().map(String::as_str), Some("disconnect"));

    let (fake, mut writer) = setup(boundless());
    fake.fails("commit", [refused(Stage::Commit, "42501"), refused(Stage::Commit, "42501")]);
    fake.script().rows.extend([vec![ours(10)], vec![ours(10)]]);
    let stopped = writer.write(&mut batch(&[(0, 10)])).await.expect_err("something refuses the COMMIT");
    assert!(matches!(stopped, Stopped::Refused(_)), "{stopped:?}");
    assert_eq!(fake.seen().last().map(String::as_str), Some("disconnect"));
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_times_out_twice_is_halved_and_grows_again() {
    let (fake, mut writer) = setup(boundless());
    let records: Vec<_> = (10..22).map(|offset| (0, offset)).collect();
    fake.fails("copy", [late(Stage::Copy), late(Stage::Copy), late(Stage::Copy), late(Stage::Copy)]);
    writer.write(&mut batch(&records)).await.expect("it is written");
    let seen: Vec<_> =
        fake.seen().into_iter().filter(|seen| seen.starts_with("copy") || seen.starts_with("→ halved")).collect();
    assert_eq!(
        seen,
        [
            "copy 0..12",
            "copy 0..12",
            "→ halved to 6",
            "copy 0..6",
            "copy 0..6",
            "→ halved to 3",
            "copy 0..3",
            "copy 3..9",
            "copy 9..12"
        ]
    );
    // The second transaction of a batch is halved too.
    fake.fails("copy", [late(Stage::Copy), late(Stage::Copy)]);
    fake.script().late_from = Some(3);
    writer.write(&mut batch(&records[..6])).await.expect("it is written");
    let halved: Vec<_> = fake.seen().into_iter().filter(|seen| seen.starts_with("→ halved")).collect();
    assert_eq!(halved, ["→ halved to 3", "→ halved to 1"]);
    // An outage isn't the batch's fault.
    fake.fails("copy", [lost(Stage::Copy), lost(Stage::Copy), lost(Stage::Copy)]);
    fake.fails("begin", [late(Stage::Connect), late(Stage::Connect), late(Stage::Begin)]);
    writer.write(&mut batch(&records)).await.expect("it is written");
    assert!(!fake.seen().iter().any(|seen| seen.starts_with("→ halved")));
}

#[tokio::test(start_paused = true)]
async fn a_record_that_alone_takes_too_long_is_named() {
    let (fake, mut writer) = setup(boundless());
    fake.fails("copy", [late(Stage::Copy), late(Stage::Copy), late(Stage::Copy)]);
    writer.write(&mut batch(&[(3, 10)])).await.expect("it is written");
    let seen = fake.seen();
    let named = seen.iter().filter(|seen| seen.contains("the record at offset 10 of t/3 alone takes longer"));
    assert_eq!(named.count(), 3, "{seen:?}");
    assert!(!seen.iter().any(|seen| seen.starts_with("→ halved")), "one record can't be halved: {seen:?}");
    // The slow record is the last one of its batch, and alone in its transaction.
    fake.fails("copy", [late(Stage::Copy), late(Stage::Copy)]);
    fake.script().late_from = Some(1);
    writer.write(&mut batch(&[(3, 20), (3, 21)])).await.expect("it is written");
    let seen = fake.seen();
    let named = seen.iter().filter(|seen| seen.contains("the record at offset 21 of t/3 alone takes longer"));
    assert_eq!(named.count(), 2, "{seen:?}");
    assert_eq!(seen.iter().filter(|seen| seen.starts_with("→ halved")).count(), 1, "{seen:?}");
    // No record is named if the window has more than one record, or if the error isn't a timeout.
    fake.fails("copy", [late(Stage::Copy), lost(Stage::Copy)]);
    writer.write(&mut batch(&[(3, 11), (3, 12)])).await.expect("it is written");
    fake.fails("copy", [lost(Stage::Copy)]);
    writer.write(&mut batch(&[(3, 13)])).await.expect("it is written");
    let seen = fake.seen();
    assert!(!seen.iter().any(|seen| seen.contains("the record at")), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn the_ledger_tells_the_outcome_of_a_commit() {
    // Without a reply, the outcome is unknown. The ledger shows that the batch was committed.
    let (fake, mut writer) = setup(boundless());
    fake.fails("commit", [lost(Stage::Commit)]);
    fake.script().rows.push_back(vec![ours(11)]);
    assert_eq!(writer.write(&mut batch(&[(0, 10)])).await.expect("it is written"), [committed(11)]);
    assert_eq!(
        fake.seen()[4..],
        ["commit", "→ unknown", "disconnect", "settle 0:10..11", "→ committed 0..1: 1 rows, 0 dead letters"]
    );
    // The ledger shows that the batch wasn't committed, so it is written again.
    fake.fails("commit", [lost(Stage::Commit)]);
    fake.script().rows.push_back(vec![ours(11)]);
    assert_eq!(writer.write(&mut batch(&[(0, 11)])).await.expect("it is written"), [committed(12)]);
    let seen = fake.seen();
    assert_eq!(seen[4..8], ["commit", "→ unknown", "disconnect", "settle 0:11..12"]);
    assert_eq!(seen[8..10], ["begin", "copy 0..1"]);
    // A refused COMMIT has a reply, but not every reply proves a rollback.
    fake.fails("commit", [refused(Stage::Commit, "57014")]);
    fake.script().rows.push_back(vec![ours(12)]);
    writer.write(&mut batch(&[(0, 12)])).await.expect("it is written");
    let seen = fake.seen();
    assert_eq!(seen[4..7], ["commit", "disconnect", "settle 0:12..13"]);
    assert!(seen[8].starts_with("→ wait 1: "), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_ledger_that_does_not_advance_tells_why() {
    // Another claim has partition 1. The rest of the batch is written.
    let (fake, mut writer) = setup(boundless());
    let records = [(0, 10), (1, 5), (0, 11)];
    fake.script().not_advanced.push_back(vec![1]);
    fake.script().rows.push_back(vec![theirs()]);
    let outcomes = writer.write(&mut batch(&records)).await.expect("it is written");
    assert_eq!(outcomes, [committed(12), Some(Outcome::Fenced)]);
    assert_eq!(
        fake.seen()[3..],
        [
            "advance 0:10..12 1:5..6",
            "rollback",
            "settle 1:5..6",
            "→ fenced 1 at Some(5)",
            "begin",
            "copy 0..3",
            "advance 0:10..12",
            "commit",
            "→ committed 0..3: 2 rows, 0 dead letters"
        ]
    );
    // The ledger is behind: the database was restored.
    fake.script().not_advanced.push_back(vec![0]);
    fake.script().rows.push_back(vec![ours(7)]);
    assert_eq!(writer.write(&mut batch(&[(0, 12)])).await.expect("it is written"), [Some(Outcome::Rewound)]);
    assert!(fake.seen().contains(&"→ rewound 0 at Some(12)".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_span_that_somebody_else_advanced_is_done_only_at_the_end_of_the_batch() {
    let (fake, mut writer) = setup(boundless());
    fake.script().not_advanced.push_back(vec![0]);
    fake.script().rows.push_back(vec![ours(12)]);
    assert_eq!(writer.write(&mut batch(&[(0, 10), (0, 11)])).await.expect("it is done"), [committed(12)]);
    // The window ends before the batch does.
    fake.fails("copy", [late(Stage::Copy), late(Stage::Copy)]);
    fake.script().not_advanced.push_back(vec![0]);
    fake.script().rows.push_back(vec![ours(14)]);
    let outcomes = writer.write(&mut batch(&[(0, 12), (0, 13), (0, 14), (0, 15)])).await.expect("it is written");
    assert_eq!(outcomes, [Some(Outcome::Rewound)]);
    // The same happens after a COMMIT with an unknown outcome, if only one of its two partitions advanced.
    let (fake, mut writer) = setup(boundless());
    fake.fails("copy", [late(Stage::Copy), late(Stage::Copy)]);
    fake.fails("commit", [lost(Stage::Commit)]);
    fake.script().rows.push_back(vec![ours(11), ours(20)]);
    let records = [(0, 10), (1, 20), (0, 11), (1, 21)];
    let outcomes = writer.write(&mut batch(&records)).await.expect("it is written");
    assert_eq!(outcomes, [Some(Outcome::Rewound), committed(22)]);
}

#[tokio::test(start_paused = true)]
async fn the_budget_stops_the_pipeline_only_while_it_owns_what_it_writes() {
    let records = [(0, 10), (-1, 5), (-1, 6)];
    let (fake, mut writer) = setup(strict());
    fake.script().rows.push_back(vec![ours(10), ours(5)]);
    let stopped = writer.write(&mut batch(&records)).await.expect_err("the budget is used up");
    assert!(matches!(&stopped, Stopped::DeadLetterBudget(why) if why.contains("2 of 3 records")), "{stopped:?}");
    assert_eq!(fake.seen()[2..], ["copy 0..3", "rollback", "settle 0:10..11 1:5..7"]);
    // Another claim has the partition of the bad records.
    fake.script().rows.push_back(vec![ours(10), theirs()]);
    let outcomes = writer.write(&mut batch(&records)).await.expect("the good record is written");
    assert_eq!(outcomes, [committed(11), Some(Outcome::Fenced)]);
    // The ledger says that somebody else has written the rest of the batch.
    fake.script().rows.push_back(vec![ours(8)]);
    assert_eq!(writer.write(&mut batch(&[(-3, 7)])).await.expect("it is written"), [committed(8)]);
}

#[tokio::test(start_paused = true)]
async fn a_permanent_error_stops_the_pipeline_at_once() {
    for (name, error) in [
        ("prepare", refused(Stage::Begin, "42501")),
        ("begin", refused(Stage::Begin, "42501")),
        ("dead letters", refused(Stage::DeadLetters, "22021")),
        ("advance", refused(Stage::Ledger, "42501")),
    ] {
        let (fake, mut writer) = setup(boundless());
        fake.fails(name, [error]);
        let stopped = writer.write(&mut batch(&[(0, 10), (0, 11), (-1, 3)])).await.expect_err("it can't be written");
        assert!(matches!(stopped, Stopped::Refused(_)), "{name}: {stopped:?}");
        assert_eq!(fake.seen().last().map(String::as_str), Some("disconnect"), "{name}");
    }
    let (fake, mut writer) = setup(boundless());
    fake.script().not_advanced.push_back(vec![0]);
    fake.fails("settle", [lost(Stage::Ledger), refused(Stage::Ledger, "42501")]);
    let stopped = writer.write(&mut batch(&[(0, 10)])).await.expect_err("the ledger can't be read");
    assert!(matches!(stopped, Stopped::Refused(_)), "{stopped:?}");
    assert_eq!(fake.seen().iter().filter(|seen| seen.starts_with("settle")).count(), 2, "an outage is waited for");
}

#[tokio::test(start_paused = true)]
async fn a_search_concerns_only_its_window_and_asks_the_table_once() {
    let copies =
        |seen: &[String]| -> Vec<String> { seen.iter().filter(|seen| seen.starts_with("copy")).cloned().collect() };
    let records: Vec<_> = (10..18).map(|offset| (0, offset)).collect();
    let (fake, mut writer) = setup(boundless());
    fake.script().names_rows = true;
    fake.fails("copy", [late(Stage::Copy), late(Stage::Copy)]);
    fake.script().bad = BTreeMap::from([(16, "22003"), (17, "22003")]);
    writer.write(&mut batch(&records)).await.expect("it is written");
    let seen = fake.seen();
    assert_eq!(copies(&seen)[2..], ["copy 0..4", "copy 4..8", "copy 4..6", "copy 6..7", "copy 7..8"], "{seen:?}");
    assert_eq!(seen.iter().filter(|seen| *seen == "probe").count(), 1, "{seen:?}");
    // An outage in the middle of a search is waited for.
    let (fake, mut writer) = setup(boundless());
    fake.script().bad.insert(16, "22003");
    fake.script().late_from = Some(4);
    writer.write(&mut batch(&records)).await.expect("it is written");
    let seen = fake.seen();
    assert_eq!(seen.iter().filter(|seen| seen.starts_with("→ wait")).count(), 2, "{seen:?}");
    assert!(seen.contains(&"→ committed 4..8: 3 rows, 1 dead letters".to_owned()), "{seen:?}");
    // A search ends as soon as the budget is used up.
    let (fake, mut writer) = setup(strict());
    fake.script().bad = (10..18).map(|offset| (offset, "22003")).collect();
    fake.script().rows.push_back(vec![ours(10)]);
    writer.write(&mut batch(&records)).await.expect_err("the budget is used up");
    assert_eq!(copies(&fake.seen()), ["copy 0..8", "copy 0..4", "copy 0..2", "copy 0..1"]);
    // An outdated plan is no record's fault.
    let (fake, mut writer) = setup(boundless());
    fake.script().bad = BTreeMap::from([(11, "22003"), (12, "42703")]);
    let stopped = writer.write(&mut batch(&records)).await.expect_err("a replan doesn't help");
    assert!(matches!(stopped, Stopped::ReplanDidNotHelp(_)), "{stopped:?}");
    assert_eq!(fake.seen().iter().filter(|seen| *seen == "replan").count(), 1);
}
