//! The ledger's statements on the real database, with sessions that compete for one row:
//!
//! - There is one row per partition.
//! - A session that waited for a row sees the row's current state.
//! - A claim skips a locked row.
//! - An update costs about the same, even if a snapshot keeps many old versions of the row.

use std::sync::Arc;

use sqlx::{Connection, Executor, PgConnection, Row};
use tidegate::config::Config;
use tidegate::metrics::WriterMetrics;
use tidegate::plan::PlanSource;
use tidegate::postgres::connect::Connector;
use tidegate::postgres::{PgStore, claims, register, schema};
use tidegate_harness::{Database, eventually_async, shared};
use tidegate_protocol::batch::{LastRecord, Span};
use tidegate_protocol::position::{Claim, Offset, TopicPartition};
use tidegate_protocol::store::{Ledger, LedgerRow, SpanOutcome, Transaction};
use tokio::task::JoinSet;

use crate::support::PATIENCE;

/// A database with the ledger's tables. The pipeline `rides` has no row in the ledger at first.
struct Fixture {
    database: Database,
}

impl Fixture {
    async fn new() -> Self {
        let postgres = shared::postgres().expect("Postgres starts");
        let database = postgres.create_database().await.expect("the database is made");
        let accounting = Self { database };
        let mut connection = accounting.connect().await;
        schema::migrate(&mut connection).await.expect("the tables are made");
        let pipeline = "CREATE TABLE public.rides (seq bigint);
            INSERT INTO tidegate.pipeline (name, cluster_id, group_id, target, target_oid, version)
            VALUES ('rides', '', '', '', 0, '')";
        connection.execute(pipeline).await.expect("the pipeline is there");
        accounting
    }

    /// Returns a fixture with `partitions` claimed partitions, and one span per partition.
    async fn claimed(partitions: i32) -> (Self, Vec<Span>) {
        let accounting = Self::new().await;
        let mut connection = accounting.connect().await;
        let sources: Vec<_> = (0..partitions).map(|n| TopicPartition::new("t", n)).collect();
        let starts: Vec<_> = sources.iter().map(|source| (source.clone(), Offset::ZERO)).collect();
        register::insert_lost_rows(&mut connection, "rides", &starts).await.expect("the rows are added");
        let claimed = claims::claim(&mut connection, "rides", "the test", &sources).await.expect("it answers");
        assert_eq!(claimed.len(), sources.len(), "all are claimed");
        let mut spans: Vec<Span> = claimed.iter().map(|c| span(c.source.clone(), c.claim, 0, 10)).collect();
        spans.sort_by(|a, b| a.source.cmp(&b.source));
        (accounting, spans)
    }

    async fn connect(&self) -> PgConnection {
        self.database.connect().await.expect("Postgres takes a connection")
    }

    /// Returns the offsets of all ledger rows for partition 0, in ascending order. There should be at most one.
    async fn positions(&self) -> Vec<i64> {
        let sql = "SELECT next_offset FROM tidegate.ledger WHERE partition = 0 ORDER BY next_offset";
        let rows = sqlx::query(sql).fetch_all(&mut self.connect().await).await.expect("the query runs");
        rows.iter().map(|row| row.get(0)).collect()
    }

    async fn store(&self) -> PgStore {
        let config = format!(
            "[kafka]\nbootstrap_servers = \"127.0.0.1:9\"\n[postgres]\nurl = \"{}\"\n\
             [pipelines.rides]\ntopics = [\"t\"]\ntable.name = \"rides\"\n",
            self.database.url
        );
        let config = Config::parse("ledger.toml", &config).unwrap_or_else(|faults| panic!("{faults}"));
        let plans = PlanSource::load(&config.pipelines[0], &mut self.connect().await).await.expect("it is planned");
        let connector = Connector::new(Arc::new(config.postgres.clone()), Some("rides"));
        PgStore::new("rides".into(), connector, Arc::new(plans), WriterMetrics::new(&"rides".into()))
    }

    async fn await_waiting(&self, count: i64) {
        let sql = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let waiting = async || {
            let row = sqlx::query(sql).fetch_one(&mut self.connect().await).await.expect("the query runs");
            row.get::<i64, _>(0) >= count
        };
        eventually_async("somebody waits for a lock", PATIENCE, waiting).await.expect("somebody waits for a lock");
    }
}

fn span(source: TopicPartition, claim: Claim, from: i64, to: i64) -> Span {
    let (from, to) = (Offset::new(from), Offset::new(to));
    let last = LastRecord { offset: from, timestamp_ms: None, digest: 7 };
    Span { segment: 0, source, claim, from, to, last }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_sessions_that_add_the_same_partition_at_once_leave_one_row() {
    let accounting = Fixture::new().await;
    let start = |offset| [(TopicPartition::new("t", 0), Offset::new(offset))];
    let (mut first, mut other) = (accounting.connect().await, accounting.connect().await);
    let mut transaction = first.begin().await.expect("it begins");
    register::insert_lost_rows(&mut transaction, "rides", &start(3)).await.expect("the first row is added");
    let mut second = JoinSet::new();
    second.spawn(async move { register::insert_lost_rows(&mut other, "rides", &start(5)).await });
    accounting.await_waiting(1).await;
    transaction.commit().await.expect("it commits");
    second.join_next().await.expect("it was spawned").expect("it ends").expect("it adds nothing, and that is no error");
    assert_eq!(accounting.positions().await, [3]);

    // The first session rolls back, so the row of the second one is inserted.
    let mut connection = accounting.connect().await;
    connection.execute("DELETE FROM tidegate.ledger").await.expect("the row goes");
    let mut transaction = first.begin().await.expect("it begins");
    register::insert_lost_rows(&mut transaction, "rides", &start(3)).await.expect("the first row is added");
    let mut second = JoinSet::new();
    second.spawn(async move { register::insert_lost_rows(&mut connection, "rides", &start(5)).await });
    accounting.await_waiting(1).await;
    transaction.rollback().await.expect("it rolls back");
    second.join_next().await.expect("it was spawned").expect("it ends").expect("it adds its row");
    assert_eq!(accounting.positions().await, [5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_makes_a_second_row_of_a_partition() {
    let (accounting, _) = Fixture::claimed(2).await;
    let mut connection = accounting.connect().await;
    let twice = "INSERT INTO tidegate.ledger (pipeline, topic, partition, next_offset)
        VALUES ('rides', 't', 0, 50), ('rides', 't', 2, 1), ('rides', 't', 2, 2)";
    let added = connection.execute(twice).await.expect("what is there is skipped").rows_affected();
    assert_eq!((added, accounting.positions().await), (1, vec![0]), "one of the new partition, none of the old one");
    let moved = "UPDATE tidegate.ledger SET partition = 0, next_offset = 50 WHERE partition = 1";
    let refused = connection.execute(moved).await.expect_err("the partition has a row");
    let refused = refused.as_database_error().expect("the server says so");
    assert_eq!(refused.code().as_deref(), Some("23505"), "{refused}");
    assert_eq!(accounting.positions().await, [0]);
    // A session with an old snapshot can't see whether a row exists by now, so the ledger refuses its row.
    let old = "BEGIN ISOLATION LEVEL REPEATABLE READ;
        INSERT INTO tidegate.ledger (pipeline, topic, partition, next_offset) VALUES ('rides', 't', 9, 1)";
    let refused = connection.execute(old).await.expect_err("only under READ COMMITTED");
    assert!(refused.to_string().contains("READ COMMITTED"), "{refused}");
}

/// Starts a task that settles a span. For that, the task reads the span's row from the ledger. Returns once the task waits for
/// the row's lock.
async fn settling(accounting: &Fixture, span: &Span) -> JoinSet<LedgerRow> {
    let (mut store, span) = (accounting.store().await, span.clone());
    let mut settling = JoinSet::new();
    settling.spawn(async move { store.settle(&[span]).await.expect("it is settled")[0] });
    accounting.await_waiting(1).await;
    settling
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_advanced_while_it_is_settled_is_found_at_its_current_offset() {
    let (accounting, spans) = Fixture::claimed(1).await;
    for (statement, end, verdict, why) in [
        ("UPDATE tidegate.ledger SET next_offset = 10", "ROLLBACK", SpanOutcome::Again, "it wasn't moved after all"),
        (
            "UPDATE tidegate.ledger SET next_offset = 10",
            "COMMIT",
            SpanOutcome::Done,
            "the transaction in doubt moved it",
        ),
        ("UPDATE tidegate.ledger SET next_offset = 4", "COMMIT", SpanOutcome::Rewound, "it was set back"),
        (
            "UPDATE tidegate.ledger SET next_offset = 5, claim_id = gen_random_uuid()",
            "COMMIT",
            SpanOutcome::Fenced,
            "it was moved by another claim",
        ),
    ] {
        let mut other = accounting.connect().await;
        sqlx::raw_sql(&format!("BEGIN; {statement}")).execute(&mut other).await.expect("it holds the row");
        let mut settling = settling(&accounting, &spans[0]).await;
        other.execute(end).await.expect("it ends");
        let row = settling.join_next().await.expect("it was spawned").expect("it ends");
        assert_eq!(row.outcome_of(&spans[0]), verdict, "{why}: {row:?}");
    }
    let mut other = accounting.connect().await;
    other.execute("BEGIN; DELETE FROM tidegate.ledger").await.expect("it holds the row");
    let mut settling = settling(&accounting, &spans[0]).await;
    other.execute("COMMIT").await.expect("it ends");
    assert_eq!(settling.join_next().await.expect("it was spawned").expect("it ends"), LedgerRow::Missing);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_reads_a_row_again_that_it_waited_for() {
    for (statement, moved) in [
        ("UPDATE tidegate.ledger SET claim_id = gen_random_uuid() WHERE partition = 1", [true, false, true]),
        ("UPDATE tidegate.ledger SET next_offset = 3 WHERE partition = 1", [true, false, true]),
        ("SELECT FROM tidegate.ledger WHERE partition = 1 FOR UPDATE", [true, true, true]),
    ] {
        let (accounting, spans) = Fixture::claimed(3).await;
        let mut other = accounting.connect().await;
        sqlx::raw_sql(&format!("BEGIN; {statement}")).execute(&mut other).await.expect("it holds the row");
        let mut store = accounting.store().await;
        let mut moving = JoinSet::new();
        moving.spawn(async move {
            store.begin().await.expect("it begins");
            let moved = store.advance(&spans).await.expect("it answers");
            store.commit().await.expect("it commits");
            moved
        });
        accounting.await_waiting(1).await;
        other.execute("COMMIT").await.expect("it ends");
        assert_eq!(moving.join_next().await.expect("it was spawned").expect("it ends"), moved, "{statement}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_skips_a_locked_row_and_takes_it_at_its_current_offset_once_unlocked() {
    let (accounting, spans) = Fixture::claimed(2).await;
    let sources: Vec<_> = spans.iter().map(|span| span.source.clone()).collect();
    let (mut other, mut claimer) = (accounting.connect().await, accounting.connect().await);
    let moved = "BEGIN; UPDATE tidegate.ledger SET next_offset = 10 WHERE partition = 0";
    other.execute(moved).await.expect("it holds the row");
    let first = claims::claim(&mut claimer, "rides", "the next owner", &sources).await.expect("it answers");
    assert_eq!(first.iter().map(|c| &c.source).collect::<Vec<_>>(), [&sources[1]], "without waiting");
    let waiting = claims::wait_at(&mut claimer, "rides", &sources[0]);
    let (_, waited) = tokio::join!(
        async {
            accounting.await_waiting(1).await;
            other.execute("COMMIT").await.expect("it ends");
        },
        waiting
    );
    waited.expect("it waits until the row is free");
    let claimed = claims::claim(&mut claimer, "rides", "the next owner", &sources[..1]).await.expect("it answers");
    assert_eq!(claimed.iter().map(|c| c.next).collect::<Vec<_>>(), [Offset::new(10)]);
    assert!(claimed[0].claim.epoch > first[0].claim.epoch, "later claims have higher numbers: {claimed:?}, {first:?}");
}

/// Returns how many pages a statement reads, including those that its functions read.
async fn pages(connection: &mut PgConnection, statement: &str) -> i64 {
    let sql = format!("EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, FORMAT YAML) {statement}");
    let plan: String = sqlx::query(&sql).fetch_one(connection).await.expect("it is explained").get(0);
    let of = |key: &str| -> i64 {
        let (_, value) = plan.split_once(key).expect("it counts them");
        value.lines().next().and_then(|value| value.trim().parse().ok()).expect("a number")
    };
    of("Shared Hit Blocks:") + of("Shared Read Blocks:")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_costs_the_same_however_many_row_versions_a_snapshot_keeps() {
    const MOVES: i64 = 2000;
    let (accounting, _) = Fixture::claimed(20).await;
    let mut report = accounting.connect().await;
    let snapshot = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM tidegate.ledger";
    report.execute(snapshot).await.expect("it holds a snapshot");
    let mut writer = accounting.connect().await;
    let advance = |from: i64| {
        format!(
            "SELECT tidegate.advance('rides', array_agg(topic), array_agg(partition), array_agg(claim_id),
                 array_fill({from}::int8, '{{20}}'), array_fill({}::int8, '{{20}}'), array_fill(0::int8, '{{20}}'),
                 array_fill(0::int8, '{{20}}'), array_fill(0::int8, '{{20}}')) FROM rows",
            from + 1
        )
    };
    // Prepare the parameters in a table. So the explained statement reads the ledger only in order to advance it.
    let rows = "CREATE TEMP TABLE rows AS SELECT topic, partition, claim_id FROM tidegate.ledger";
    writer.execute(rows).await.expect("it is made");
    let mut costs = Vec::new();
    for from in 0..MOVES {
        if from == 20 || from == MOVES - 1 {
            costs.push(pages(&mut writer, &advance(from)).await);
        } else {
            let moved: Vec<i64> = sqlx::query(&advance(from)).fetch_one(&mut writer).await.expect("it moves").get(0);
            assert_eq!(moved.len(), 20, "all stood at {from}");
        }
    }
    let kept = "SELECT pg_relation_size('tidegate.ledger') / (20 * $1)";
    let kept: i64 = sqlx::query(kept).bind(MOVES).fetch_one(&mut writer).await.expect("the query runs").get(0);
    assert!(kept > 80, "the snapshot keeps all versions: {kept} bytes for each");
    // The index may have grown by at most one level.
    assert!(costs[1] * 2 < costs[0] * 3, "pages of a move at first and at last: {costs:?}");
    report.execute("COMMIT").await.expect("it ends");
}
