//! `tidegate dead-letters replay`: puts dead letters through the pipeline's current mapping, with the daemon's own writer.
//!
//! A page of dead letters is written as one batch, in which each dead letter is a segment of its own. Where the daemon
//! would advance the ledger, the transaction deletes the dead letters whose rows it wrote. Where the daemon would
//! insert a dead letter, the transaction changes the reason of the existing one. So no record is lost or written twice,
//! even after a crash. If a COMMIT was not answered, the stored dead letters show its outcome.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde::Serialize;
use sqlx::{PgConnection, Row};
use tidegate_protocol::batch::{Batch, Incoming, RejectedRecord, Span, Trigger};
use tidegate_protocol::dead_letter_budget::DeadLetterBudget;
use tidegate_protocol::position::{Claim, Offset, TopicPartition};
use tidegate_protocol::record::{Headers, Record, push_header};
use tidegate_protocol::retry::Stage;
use tidegate_protocol::stopped::Stopped;
use tidegate_protocol::store::{Cause, Ledger, LedgerRow, Planner, ReplanError, Transaction, WriteError};
use tidegate_protocol::writer::Writer;
use tidegate_rows::mapping::Encoder;

use super::{Filter, failed, matching};
use crate::cli::progress::Progress;
use crate::cli::rehearsal::boundless;
use crate::cli::replay::safe::needs_order;
use crate::cli::{Common, reach, show};
use crate::config::{Config, Pipeline, table_name};
use crate::error::FatalError;
use crate::metrics::WriterMetrics;
use crate::plan::{PlanSource, Planned, rejected_record};
use crate::postgres::PgStore;
use crate::postgres::dead_letters::storable;
use crate::registry;
use crate::report::Counts;
use crate::status::lock;

/// The most dead letters in one page. A page is replayed as one batch.
const PAGE: i64 = 1000;
/// The most bytes of keys and values in one page. A single dead letter may be larger.
const PAGE_BYTES: i64 = 8 << 20;

/// Arguments of `replay`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    filter: Filter,
    /// All dead letters of the selected pipelines. Required without --id, --reason, --topic, --since, --until and --older-than,
    /// and refused with any of them.
    #[arg(long)]
    all: bool,
    /// Replay also into a table in mode upsert without newer_by, or with deletes. There an old record can replace or delete a row
    /// that a later record wrote. Without this option such a replay is refused.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Default, Serialize)]
struct Report {
    pipeline: String,
    /// Dead letters that were deleted because the current mapping accepts their records. Records that the row filter leaves out
    /// count too.
    replayed: u64,
    /// Rows that were written. Rows that the table's mode skips, because their key exists already, are not counted.
    rows: u64,
    failed_again: u64,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), FatalError> {
    let Arguments { common, filter, all, yes } = arguments;
    filter.check(*all)?;
    let config = common.load()?;
    let mut connection = super::open(&config).await?;
    let pipelines = common.pipelines(&config)?;
    let keys = super::keys(&mut connection, &pipelines).await?;
    filter.find_ids(&mut connection, &keys, &pipelines).await?;
    let mut targets = Vec::new();
    for pipeline in pipelines {
        let keys = super::keys(&mut connection, &[pipeline]).await?;
        let none = keys.is_empty().then(|| pipeline.name.clone());
        for key in keys.into_iter().chain(none) {
            if !yes {
                refuse_disorder(&mut connection, pipeline, &key, filter).await?;
            }
            targets.push((target(&mut connection, pipeline, &key, filter).await?, key));
        }
    }
    let mut reports = Vec::new();
    for (target, key) in targets {
        reports.push(replay(&config, &target, &[key], filter).await?);
    }
    let failed_again: u64 = reports.iter().map(|report| report.failed_again).sum();
    if common.json {
        show::json(&std::collections::BTreeMap::from([("pipelines", &reports)]))?;
    } else {
        show::print(&text(&reports))?;
    }
    if failed_again == 0 {
        return Ok(());
    }
    Err(FatalError::Stopped(format!(
        "{} failed again: `tidegate dead-letters list` shows the reasons",
        show::counted(failed_again, "dead letter", "dead letters")
    )))
}

/// Formats the reports. Leaves out pipelines without a selected dead letter. If no pipeline has one, formats all reports.
fn text(reports: &[Report]) -> String {
    let has_some = |report: &Report| report.replayed + report.failed_again > 0;
    let any = reports.iter().any(has_some);
    let lines = reports.iter().filter(|report| !any || has_some(report)).map(|report| {
        let replayed = show::counted(report.replayed, "dead letter", "dead letters");
        let rows = show::counted(report.rows, "row", "rows");
        let done = format!("{}: {replayed} replayed ({rows})", report.pipeline);
        if report.failed_again == 0 {
            return done;
        }
        format!("{done}, {} failed again and kept with the new reason", show::count(report.failed_again))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Returns how many dead letters of `key` the filter selects.
async fn selected(connection: &mut PgConnection, key: &str, filter: &Filter) -> Result<u64, FatalError> {
    let count = filter.bind(matching!("SELECT count(*) FROM tidegate.dead_letter", ""), &[key.to_owned()]);
    let count: i64 = count.fetch_one(connection).await.and_then(|row| row.try_get(0)).map_err(failed)?;
    Ok(count.unsigned_abs())
}

/// Fails if the filter selects dead letters of `key` whose table depends on the order of records with the same Kafka key. Such a
/// table already has the rows of later records.
async fn refuse_disorder(
    connection: &mut PgConnection,
    pipeline: &Pipeline,
    key: &str,
    filter: &Filter,
) -> Result<(), FatalError> {
    let Some(why) = needs_order(&pipeline.table.mode) else { return Ok(()) };
    let count = selected(connection, key, filter).await?;
    if count == 0 {
        return Ok(());
    }
    Err(FatalError::Config(format!(
        "{} of `{key}` can damage its table in mode upsert: {why}; nothing was replayed. Look at them with `tidegate dead-letters \
         list` and `show`, and add --yes to replay them all the same",
        show::counted(count, "dead letter", "dead letters")
    )))
}

/// Returns the pipeline with the table that the dead letters of `key` were meant for. For a replay with `--into`, this is the
/// table of that option. Fails if `key` is a forgotten replay and `filter` selects dead letters of it.
async fn target(
    connection: &mut PgConnection,
    pipeline: &Pipeline,
    key: &str,
    filter: &Filter,
) -> Result<Pipeline, FatalError> {
    let mut pipeline = pipeline.clone();
    if key == pipeline.name {
        return Ok(pipeline);
    }
    let known = sqlx::query("SELECT target FROM tidegate.pipeline WHERE name = $1").bind(key);
    let known: Option<String> = known
        .fetch_optional(&mut *connection)
        .await
        .and_then(|row| row.map(|row| row.try_get(0)).transpose())
        .map_err(failed)?;
    let Some(table) = known else {
        return if selected(connection, key, filter).await? == 0 {
            Ok(pipeline)
        } else {
            Err(FatalError::Config(format!(
                "`{key}` was forgotten, and with it the table that its dead letters were meant for: run that replay again, or remove them by `tidegate dead-letters purge`"
            )))
        };
    };
    if table != pipeline.table.name.to_string() {
        let table = table_name(&table).map_err(|why| {
            FatalError::Stopped(format!("`{key}` went into `{table}`, which isn't a table's name: {why}"))
        })?;
        reach::redirect(connection, &mut pipeline, table).await?;
    }
    Ok(pipeline)
}

/// Replays the dead letters that are stored under `key`, the name of a pipeline or of one of its replays. Writes their rows to
/// the table of `pipeline`.
async fn replay(config: &Config, pipeline: &Pipeline, key: &[String], filter: &Filter) -> Result<Report, FatalError> {
    let connector = reach::connector(config);
    let mut connection = super::open(config).await?;
    // The table of dead letters may have been created by an older version, without the columns for failed replays. So migrate
    // first.
    reach::migrate(&connector).await?;
    let plans = Arc::new(PlanSource::look(pipeline, &mut connection).await.map_err(reach::unplanned)?);
    let planned = plans.current();
    let name: Arc<str> = pipeline.name.as_str().into();
    let metrics = WriterMetrics::new(&name);
    let counts = Arc::new(Counts::default());
    let page: Arc<Mutex<Page>> = Arc::default();
    let inner = PgStore::new(name, connector, plans, metrics);
    let store = ReplayStore { inner, page: Arc::clone(&page), rejected: BTreeSet::new(), settled: Vec::new() };
    let budget = DeadLetterBudget::new(boundless());
    let mut writer =
        Writer::new(store, budget, fastrand::Rng::new(), Arc::clone(&counts) as _).without_waiting().blaming_records();
    let mut report = Report { pipeline: key.join(", "), ..Report::default() };
    // Dead letters that are stored while this command runs are left for the next run.
    let newest = filter.bind(matching!("SELECT max(id) FROM tidegate.dead_letter", ""), key);
    let newest = newest.fetch_one(&mut connection).await.map_err(failed)?;
    let newest: Option<i64> = newest.try_get(0).map_err(failed)?;
    let (mut after, newest) = (0, newest.unwrap_or(0));
    let progress = Progress::start("dead-letters replay");
    loop {
        let ids = next_page(&mut connection, key, filter, after, newest).await.map_err(failed)?;
        let Some(last) = ids.last().copied() else { break };
        after = last;
        let mut batch = load(&mut connection, &ids, &planned).await.map_err(failed)?;
        let found = u64::from(batch.len());
        if let Err(stopped) = write(&mut writer, &page, &mut batch).await {
            let done = format!(
                "{}; {} replayed before that; the others are unchanged",
                stopped,
                show::counted(report.replayed - report.failed_again, "letter was", "letters were")
            );
            return Err(match stopped {
                Stopped::Outage(_) => FatalError::Unavailable(done),
                _ => FatalError::Stopped(done),
            });
        }
        progress.doing(format!("{} so far", show::counted(report.replayed + found, "dead letter", "dead letters")));
        report.failed_again = counts.dead_letters();
        report.rows = counts.rows();
        report.replayed += found;
    }
    report.replayed -= report.failed_again;
    Ok(report)
}

async fn write(writer: &mut Writer<ReplayStore>, page: &Mutex<Page>, batch: &mut Loaded) -> Result<(), Stopped> {
    {
        let mut page = lock(page);
        page.remaining = batch.ids.iter().copied().collect();
        page.ids = std::mem::take(&mut batch.ids);
    }
    writer.write(&mut batch.batch).await.map(drop)
}

/// The dead letters of a page. Record `n` is the only record of segment `n`, and comes from the dead letter with the id
/// `ids[n]`.
struct Loaded {
    batch: Batch,
    ids: Vec<i64>,
}

impl Loaded {
    fn len(&self) -> u32 {
        self.batch.len()
    }
}

async fn next_page(
    connection: &mut PgConnection,
    key: &[String],
    filter: &Filter,
    after: i64,
    newest: i64,
) -> Result<Vec<i64>, sqlx::Error> {
    let sql = matching!(
        "SELECT id, (coalesce(octet_length(key), 0) + coalesce(octet_length(value), 0))::int8 FROM tidegate.dead_letter",
        "AND id > $7 AND id <= $8 ORDER BY id LIMIT $9"
    );
    let rows = filter.bind(sql, key).bind(after).bind(newest).bind(PAGE).fetch_all(connection).await?;
    let (mut bytes, mut ids) = (0, Vec::new());
    for row in rows {
        bytes += row.try_get::<i64, _>(1)?;
        if bytes > PAGE_BYTES && !ids.is_empty() {
            break;
        }
        ids.push(row.try_get(0)?);
    }
    Ok(ids)
}

async fn load(connection: &mut PgConnection, ids: &[i64], planned: &Planned) -> Result<Loaded, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT id, topic, partition, record_offset, timestamp_ms, key, value, header_names, header_values
         FROM tidegate.dead_letter WHERE id = ANY ($1) ORDER BY id",
    );
    let rows = rows.bind(ids).fetch_all(connection).await?;
    let mut encoder = Encoder::new(Arc::clone(&planned.plan));
    let mut loaded = Loaded { batch: Batch::new(), ids: Vec::new() };
    loaded.batch.plan_version = planned.version;
    for row in &rows {
        let offset = Offset::new(row.try_get(3)?);
        let source = TopicPartition::new(row.try_get::<&str, _>(1)?, row.try_get(2)?);
        let (names, values): (Vec<Vec<u8>>, Vec<Option<Vec<u8>>>) = (row.try_get(7)?, row.try_get(8)?);
        let (key, value): (Option<&[u8]>, Option<&[u8]>) = (row.try_get(5)?, row.try_get(6)?);
        let incoming = Incoming { offset, timestamp_ms: row.try_get(4)?, key, value };
        let mut headers = Vec::new();
        for (name, value) in names.iter().zip(&values) {
            push_header(&mut headers, name, value.as_deref());
        }
        let asked_at = Instant::now();
        while let Some(id) = encoder.wants(key, value, Headers::from_arena(&headers)) {
            if asked_at.elapsed() > registry::PATIENCE {
                let why = format!("schema {id} was not read from the registry in time; nothing is lost, try again");
                return Err(sqlx::Error::Io(std::io::Error::other(why)));
            }
            tokio::time::sleep(registry::LOOK_AGAIN).await;
        }
        let headers = |arena: &mut Vec<u8>| arena.extend_from_slice(&headers);
        let segment = loaded.batch.open_segment(source, Claim::default(), offset);
        loaded.batch.push(segment, &incoming, Instant::now(), headers, |record, rows| {
            encoder.encode(record, rows).map_err(|rejection| rejected_record(&planned.plan, rejection))
        });
        loaded.ids.push(row.try_get(0)?);
    }
    loaded.batch.seal(Trigger::Rows);
    Ok(loaded)
}

/// The ids of the dead letters in the current batch. The command and its store share them.
#[derive(Debug, Default)]
struct Page {
    ids: Vec<i64>,
    /// The dead letters that are still to be handled: no committed transaction has deleted them or changed their reason.
    remaining: BTreeSet<i64>,
}

/// A store that writes rows as the daemon's store does. Instead of advancing ledger rows, its transactions delete the dead
/// letters whose rows they wrote. `rejected` and `settled` belong to the current transaction. `rejected` are the records that
/// fail again. `settled` has the ids of the handled dead letters, each with whether the dead letter is deleted.
#[derive(Debug)]
struct ReplayStore {
    inner: PgStore,
    page: Arc<Mutex<Page>>,
    rejected: BTreeSet<u32>,
    settled: Vec<(i64, bool)>,
}

impl ReplayStore {
    fn removed(&self) -> Vec<i64> {
        self.settled.iter().filter(|(_, removed)| *removed).map(|(id, _)| *id).collect()
    }

    fn settle_page(&mut self) {
        let mut page = lock(&self.page);
        for (id, _) in self.settled.drain(..) {
            page.remaining.remove(&id);
        }
    }
}

/// Returns the error that ends the command if another command has taken the dead letters. The user must run the command again.
fn taken(what: &str) -> WriteError {
    let what =
        format!("{what} by another command meanwhile; nothing of this transaction was written: run the command again");
    WriteError { stage: Stage::DeadLetters, cause: Cause::Conflict(what) }
}

impl Transaction for ReplayStore {
    /// Locks the dead letters, so that two commands never write the same one.
    async fn begin(&mut self) -> Result<(), WriteError> {
        self.rejected.clear();
        self.settled.clear();
        self.inner.begin().await?;
        let wanted: Vec<i64> = lock(&self.page).remaining.iter().copied().collect();
        let count = wanted.len();
        let held = sqlx::query("SELECT id FROM tidegate.dead_letter WHERE id = ANY ($1) ORDER BY id FOR UPDATE");
        let held = self.inner.rows(Stage::DeadLetters, held.bind(wanted)).await?.len();
        if held < count {
            return Err(taken(&format!("{} of {count} dead letters were claimed", count - held)));
        }
        Ok(())
    }

    async fn copy(&mut self, batch: &Batch, window: Range<u32>) -> Result<u64, WriteError> {
        self.inner.copy(batch, window).await
    }

    async fn savepoint(&mut self) -> Result<(), WriteError> {
        self.inner.savepoint().await
    }

    async fn rollback_to_savepoint(&mut self) -> Result<(), WriteError> {
        self.inner.rollback_to_savepoint().await
    }

    async fn check_at_once(&mut self) -> Result<(), WriteError> {
        self.inner.check_at_once().await
    }

    async fn probe(&mut self) -> Result<(), WriteError> {
        self.inner.probe().await
    }

    /// Stores the new reason of the records that failed again. Their dead letters exist already.
    async fn dead_letter(&mut self, _batch: &Batch, rejects: &[&RejectedRecord]) -> Result<(), WriteError> {
        let ids: Vec<i64> = {
            let page = lock(&self.page);
            rejects.iter().filter_map(|reject| page.ids.get(reject.record as usize).copied()).collect()
        };
        self.rejected = rejects.iter().map(|reject| reject.record).collect();
        let takes_all_characters = self.inner.takes_all_characters().await?;
        let update = sqlx::query(
            "UPDATE tidegate.dead_letter d SET reason = n.reason, sqlstate = n.sqlstate, column_name = n.column_name,
                 detail = n.detail, replays = d.replays + 1, replayed_at = now()
             FROM unnest($1::int8[], $2::text[], $3::text[], $4::text[], $5::text[])
                 AS n (id, reason, sqlstate, column_name, detail)
             WHERE d.id = n.id",
        );
        let update = update
            .bind(ids)
            .bind(rejects.iter().map(|reject| reject.reason).collect::<Vec<_>>())
            .bind(rejects.iter().map(|reject| reject.sqlstate.as_deref()).collect::<Vec<_>>())
            .bind(rejects.iter().map(|reject| reject.column.as_deref()).collect::<Vec<_>>())
            .bind(rejects.iter().map(|reject| storable(&reject.detail, takes_all_characters)).collect::<Vec<_>>());
        self.inner.rows(Stage::DeadLetters, update).await.map(drop)
    }

    async fn advance(&mut self, spans: &[Span]) -> Result<Vec<bool>, WriteError> {
        self.settled = {
            let page = lock(&self.page);
            let settled = spans.iter().filter_map(|span| {
                let fails = u32::try_from(span.segment).is_ok_and(|record| self.rejected.contains(&record));
                Some((page.ids.get(span.segment).copied()?, !fails))
            });
            settled.collect()
        };
        let gone = self.removed();
        let count = gone.len();
        let delete = sqlx::query("DELETE FROM tidegate.dead_letter WHERE id = ANY ($1) RETURNING id").bind(gone);
        if self.inner.rows(Stage::DeadLetters, delete).await?.len() < count {
            return Err(taken("dead letters were taken"));
        }
        Ok(vec![true; spans.len()])
    }

    async fn commit(&mut self) -> Result<(), WriteError> {
        self.inner.commit().await?;
        self.settle_page();
        Ok(())
    }

    async fn rollback(&mut self) {
        self.inner.rollback().await;
    }

    fn disconnect(&mut self) {
        self.inner.disconnect();
    }
}

impl Ledger for ReplayStore {
    /// Finds out whether a transaction in doubt was committed. Locks the dead letters that the transaction deletes, which waits
    /// until the transaction has ended. After a commit, they no longer exist. A transaction that deletes no dead letter counts as
    /// not committed. Repeating it does no harm, except that `replays` may count this replay twice.
    async fn settle(&mut self, spans: &[Span]) -> Result<Vec<LedgerRow>, WriteError> {
        self.inner.disconnect();
        self.inner.begin().await?;
        let removed = self.removed();
        let left = sqlx::query("SELECT id FROM tidegate.dead_letter WHERE id = ANY ($1) ORDER BY id FOR UPDATE");
        let left = self.inner.rows(Stage::DeadLetters, left.bind(&removed)).await?.len();
        self.inner.rollback().await;
        let done = left == 0 && !removed.is_empty();
        if done {
            self.settle_page();
        }
        let next = |span: &Span| if done { span.to } else { span.from };
        // A replay needs no claims, because the locks on the dead letters keep out other commands. So return the span's
        // own claim.
        let row =
            |span: &Span| LedgerRow::Found { claim: Some(span.claim.id), epoch: span.claim.epoch, next: next(span) };
        Ok(spans.iter().map(row).collect())
    }
}

impl Planner for ReplayStore {
    async fn prepare(&mut self, batch: &Batch) -> Result<(), ReplanError> {
        self.inner.prepare(batch).await
    }

    async fn replan(&mut self) -> Result<(), ReplanError> {
        self.inner.replan().await
    }

    fn newest_plan(&mut self) -> u64 {
        self.inner.newest_plan()
    }

    fn encode(&mut self, record: &Record<'_>, rows: &mut Vec<u8>) -> Result<u32, RejectedRecord> {
        self.inner.encode(record, rows)
    }
}
