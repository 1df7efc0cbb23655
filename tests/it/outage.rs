//! The database is unavailable, refuses requests or doesn't answer. Nothing is dead-lettered, and the flow resumes without help.
//! These tests disturb connections, sessions and statements. Those in `servers.rs` break whole servers.

use std::time::Duration;

use sqlx::Executor;
use tidegate_harness::proxy::Armed;
use tidegate_harness::{Action, Daemon, Proxy, Trigger, unique_name};

use crate::accounting::{NUMBERED, SHORT_DEADLINES, await_metric, counted, with_postgres};
use crate::support::{PATIENCE, World, in_tests};

const RECORDS: i32 = 20_000;
/// The longest time from the end of an outage to the first commit after it.
const SOON: Duration = Duration::from_secs(2);

/// A daemon that writes numbered records to Postgres through a proxy. The proxy acts on one chosen message.
struct Line {
    world: World,
    proxy: Proxy,
    armed: Armed,
    daemon: Daemon,
}

async fn line(trigger: Trigger, action: Action) -> Line {
    let world = World::new(2).await;
    world.sql(NUMBERED).await;
    world.produce_numbered(0..RECORDS, 2);
    let proxy = Proxy::start_postgres(world.postgres.address()).expect("the proxy starts");
    // Arm the trigger only after the first COPY has begun, because the start has transactions too.
    let begun = proxy.arm(Trigger::CopyData(1), Action::Hold);
    let config = world.config_at(&world.database.url_at(proxy.addr()), "table.name = \"rides\"");
    let daemon = world.daemon(&with_postgres(&config, SHORT_DEADLINES));
    begun.fired(PATIENCE).await.expect("a COPY begins");
    let armed = proxy.arm(trigger, action);
    begun.release();
    if let Err(error) = armed.fired(PATIENCE).await {
        panic!("{error:#}; {}", daemon.log_tail());
    }
    Line { world, proxy, armed, daemon }
}

impl Line {
    /// Waits until each record is in the table exactly once. Returns how often the daemon didn't know a COMMIT's outcome.
    async fn ends_exact(&self) -> f64 {
        self.world.await_written(&self.daemon).await;
        self.world.assert_exact(RECORDS.into()).await;
        assert!(self.proxy.connections() > 0, "the daemon is still there");
        counted(&self.daemon, "tidegate_commit_unknown_total")
    }

    /// Calls a function of Postgres, such as `pg_cancel_backend`, with the pid of the backend that runs a COPY.
    async fn signal_copy(&self, function: &str) {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'COPY%'";
        let sql = format!("{sql} AND application_name = 'tidegate {}' AND {function}(pid)", self.world.name);
        assert_eq!(self.world.number(&sql).await, 1, "one backend is in a COPY");
    }
}

fn statement(text: &str) -> Trigger {
    Trigger::FrontendQueryContains(text.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_reply_is_lost_is_settled_by_the_ledger() {
    let line = line(Trigger::BackendCommandComplete("COMMIT".to_owned()), Action::DropReplyAndCut).await;
    assert_eq!(line.ends_exact().await, 1.0, "{}", line.daemon.log_tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_lost_before_it_reaches_postgres_is_written_again() {
    let line = line(statement("COMMIT"), Action::Cut).await;
    assert_eq!(line.ends_exact().await, 1.0, "{}", line.daemon.log_tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_is_never_answered_is_settled_over_the_silent_transaction() {
    let line = line(statement("COMMIT"), Action::Hold).await;
    assert_eq!(line.ends_exact().await, 1.0, "{}", line.daemon.log_tail());
    let ended = "ending the transaction of a Tidegate process that no longer answers";
    line.daemon.await_log(ended, PATIENCE).expect("the transaction that holds the ledger's row is ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_falls_silent_in_a_copy_is_closed_at_its_deadline() {
    let line = line(Trigger::CopyData(2), Action::Hold).await;
    assert_eq!(line.ends_exact().await, 0.0, "no COMMIT was under way");
    assert!(line.daemon.metric("tidegate_retries_total", &[("sqlstate_class", "deadline")]).unwrap_or(0.0) >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_in_a_copy_is_reopened() {
    let line = line(Trigger::CopyData(2), Action::CutAfterForward).await;
    assert_eq!(line.ends_exact().await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_ended_in_a_copy_is_an_outage_and_no_dead_letter() {
    let line = line(Trigger::CopyData(2), Action::Hold).await;
    line.signal_copy("pg_terminate_backend").await;
    line.armed.release();
    assert_eq!(line.ends_exact().await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_cancelled_is_an_outage_and_no_dead_letter() {
    let line = line(Trigger::CopyData(2), Action::Hold).await;
    line.signal_copy("pg_cancel_backend").await;
    line.armed.release();
    assert_eq!(line.ends_exact().await, 0.0);
    let cancelled = line.daemon.metric("tidegate_retries_total", &[("sqlstate_class", "57")]);
    assert_eq!(cancelled, Some(1.0), "{}", line.daemon.log_tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_with_any_sqlstate_is_waited_out_and_nothing_is_dead_lettered() {
    let world = World::new(2).await;
    world.sql(NUMBERED).await;
    // A sequence counts the attempts, because a rollback doesn't reset a sequence.
    world
        .sql(
            "CREATE SEQUENCE tries;
             CREATE FUNCTION trouble() RETURNS trigger LANGUAGE plpgsql AS $$
             DECLARE
                codes text[] := ARRAY['40001', '40P01', '53100', '53200', '57014', '55P03', '25006', '58030'];
                code text := codes[nextval('tries')];
             BEGIN
                IF code IS NOT NULL THEN RAISE 'trouble %', code USING ERRCODE = code; END IF;
                RETURN NULL;
             END $$;
             CREATE TRIGGER trouble BEFORE INSERT ON rides FOR EACH STATEMENT EXECUTE FUNCTION trouble()",
        )
        .await;
    world.produce_numbered(0..RECORDS, 2);
    let (code, log) = world.drain(&world.config("table.name = \"rides\""));
    assert_eq!(code, Some(0), "{log}");
    world.assert_exact(RECORDS.into()).await;
    assert!(world.number("SELECT last_value FROM tries").await >= 9, "each was met");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_timeout_is_an_outage_however_often_it_comes() {
    let world = World::new(2).await;
    world.sql(NUMBERED).await;
    world
        .sql(
            "CREATE TABLE slow (seconds float8); INSERT INTO slow VALUES (30);
             CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN PERFORM pg_sleep((SELECT max(seconds) FROM slow)); RETURN NULL; END $$;
             CREATE TRIGGER slow BEFORE INSERT ON rides FOR EACH STATEMENT EXECUTE FUNCTION slow()",
        )
        .await;
    world.produce_numbered(0..RECORDS, 2);
    let deadlines = "lock_timeout = \"200ms\"\nstatement_timeout = \"300ms\"";
    let daemon = world.daemon(&with_postgres(&world.config("table.name = \"rides\""), deadlines));
    let timeouts = |daemon: &Daemon| daemon.metric("tidegate_retries_total", &[("sqlstate_class", "57")]);
    daemon.await_until("three timeouts", PATIENCE, |d| timeouts(d).unwrap_or(0.0) >= 3.0).expect("it times out");
    assert_eq!(daemon.get("/readyz").expect("it answers").status, 503);
    world.sql("TRUNCATE slow").await;
    world.await_written(&daemon).await;
    world.assert_exact(RECORDS.into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_too_large_for_the_timeout_is_halved_until_it_is_written() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    // Each row takes a little more than a millisecond. So only a quarter of the 1000 rows can be written before the deadline.
    world
        .sql(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.001); RETURN NEW; END $$;
             CREATE TRIGGER slow BEFORE INSERT ON rides FOR EACH ROW EXECUTE FUNCTION slow()",
        )
        .await;
    world.produce_numbered(0..1_000, 1);
    let deadlines = "lock_timeout = \"200ms\"\nstatement_timeout = \"400ms\"";
    let config = world.config("table.name = \"rides\"\nbatch.max_age = \"2s\"");
    let daemon = world.daemon(&with_postgres(&config, deadlines));
    daemon
        .await_until("all rows", PATIENCE, |d| d.metric("tidegate_rows_written_total", &[]).unwrap_or(0.0) >= 1_000.0)
        .expect("they go in");
    assert!(daemon.log().iter().any(|line| line.contains("half of it at a time")), "{}", daemon.log_tail());
    world.assert_exact(1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_table_is_waited_for_and_its_holder_named_and_the_group_kept() {
    let world = World::new(2).await;
    world.sql(NUMBERED).await;
    let daemon = world.daemon(&with_postgres(&world.config("table.name = \"rides\""), SHORT_DEADLINES));
    daemon.await_ready(PATIENCE).expect("it is ready");
    let rebalances = counted(&daemon, "tidegate_rebalances_total");
    let mut holder = world.connect().await;
    holder.execute("SET application_name = 'a nightly report'; BEGIN; LOCK TABLE rides").await.expect("it locks");
    world.produce_numbered(0..RECORDS, 2);
    let refused = |daemon: &Daemon| daemon.metric("tidegate_retries_total", &[("sqlstate_class", "55")]);
    daemon.await_until("two lock timeouts", PATIENCE, |d| refused(d).unwrap_or(0.0) >= 2.0).expect("it waits");
    let ready = daemon.get("/readyz").expect("it answers");
    assert_eq!(ready.status, 503, "{}", ready.body);
    assert!(ready.body.contains("55P03") && ready.body.contains("a nightly report"), "{}", ready.body);
    holder.execute("COMMIT").await.expect("it lets go");
    let took = world.await_next_commit(&daemon, in_tests(SOON)).await;
    println!("first commit {took:?} after the lock was gone");
    world.await_written(&daemon).await;
    world.assert_exact(RECORDS.into()).await;
    assert_eq!(counted(&daemon, "tidegate_rebalances_total"), rebalances, "it never left its group");
}

/// Makes something unavailable by the statement `hurt`, and waits until `/readyz` names `sqlstate`. Then repairs it by the
/// statement `mend`, and checks that a commit follows soon.
async fn away_and_back(world: &World, daemon: &Daemon, sqlstate: &str, hurt: &str, mend: &str) {
    world.produce_numbered(0..RECORDS / 2, 2);
    world.await_written(daemon).await;
    let mut admin = world.postgres.connect("postgres").await.expect("Postgres takes a connection");
    admin.execute(hurt).await.expect("it can be hurt");
    let terminate = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = '{}' AND application_name LIKE 'tidegate%'",
        world.database.name
    );
    admin.execute(terminate.as_str()).await.expect("the sessions end");
    world.produce_numbered(RECORDS / 2..RECORDS, 2);
    let names_it = |daemon: &Daemon| daemon.get("/readyz").is_ok_and(|ready| ready.body.contains(sqlstate));
    daemon.await_until(&format!("`/readyz` names {sqlstate}"), PATIENCE, names_it).expect("it says what it waits for");
    // Wait until the delays between two attempts have grown.
    await_metric(daemon, "tidegate_retries_total", 6.0);
    admin.execute(mend).await.expect("it can be mended");
    let took = world.await_next_commit(daemon, in_tests(SOON)).await;
    println!("first commit {took:?} after {sqlstate} was over");
    world.await_written(daemon).await;
    world.assert_exact(RECORDS.into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_free_connection_it_waits_and_resumes() {
    let world = World::new(2).await;
    world.sql(NUMBERED).await;
    let role = unique_name("gate");
    let (limit, database) = (format!("ALTER ROLE {role} CONNECTION LIMIT"), &world.database.name);
    world
        .sql(&format!(
            "CREATE ROLE {role} LOGIN; ALTER DATABASE {database} OWNER TO {role}; ALTER TABLE rides OWNER TO {role}"
        ))
        .await;
    let url = world.database.url.replacen("//postgres@", &format!("//{role}@"), 1);
    let daemon = world.daemon(&world.config_at(&url, "table.name = \"rides\""));
    away_and_back(&world, &daemon, "53300", &format!("{limit} 0"), &format!("{limit} -1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_read_only_is_waited_for() {
    let world = World::new(2).await;
    world.sql(NUMBERED).await;
    let daemon = world.daemon(&world.config("table.name = \"rides\""));
    let set = format!("ALTER DATABASE {} SET default_transaction_read_only = ", world.database.name);
    away_and_back(&world, &daemon, "25006", &format!("{set} on"), &format!("{set} off")).await;
}
