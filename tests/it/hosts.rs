//! Several servers in one URL, one of which accepts writes; Unix sockets; a failover between two real servers.

use std::time::{Duration, Instant};

use tidegate_harness::{
    Daemon, Database, Kafka, Postgres, PostgresSpec, eventually_async, free_port, shared, unique_name,
};

use crate::accounting::{NUMBERED, SHORT_DEADLINES, await_metric, counted, with_postgres};
use crate::cli::tidegate;
use crate::support::{PATIENCE, World, in_tests};

/// The longest time from the promotion of the replica to the first commit on it.
const SOON: Duration = Duration::from_secs(3);
const PIPELINE: &str =
    "table.name = \"rides\"\nconsumers = 2\nbatch.max_rows = 2000\nflow.max_rows_per_second = 20_000";

fn kafka() -> &'static Kafka {
    shared::kafka().expect("Kafka starts")
}

/// A primary and its streaming replica. The world uses one of the two servers to look at the tables.
struct Pair {
    primary: &'static Postgres,
    replica: Postgres,
    world: World,
    config: String,
}

impl Pair {
    async fn start() -> Self {
        let primary: &'static Postgres = Box::leak(Box::new(
            Postgres::start(&PostgresSpec::default().setting("wal_keep_size = 1GB")).expect("the primary starts"),
        ));
        let world = World::on(kafka(), primary, 2).await;
        world.sql(NUMBERED).await;
        let replica = primary.start_replica(&PostgresSpec::default()).expect("the replica starts");
        let url = format!(
            "postgres://postgres@{},{}/{}?target_session_attrs=read-write",
            replica.address(),
            primary.address(),
            world.database.name
        );
        let config = with_postgres(&world.config_at(&url, PIPELINE), SHORT_DEADLINES);
        Self { primary, replica, world, config }
    }

    /// Promotes the replica to primary. From then on, the world looks at the tables there.
    async fn promote(&mut self) -> Instant {
        self.replica.promote().await.expect("the replica is promoted");
        let promoted = Instant::now();
        let name = self.world.database.name.clone();
        self.world.database = Database { url: self.replica.url(&name), name };
        promoted
    }

    async fn cut_replication(&self) {
        let mut replica = self.replica.connect("postgres").await.expect("the replica answers");
        sqlx::raw_sql("ALTER SYSTEM SET primary_conninfo = ''").execute(&mut replica).await.expect("it is told");
        sqlx::raw_sql("SELECT pg_reload_conf()").execute(&mut replica).await.expect("it is told");
        eventually_async("the receiver ends", PATIENCE, async || {
            let mut replica = self.replica.connect("postgres").await.expect("the replica answers");
            let receivers = sqlx::query_scalar::<_, i64>("SELECT count(*) FROM pg_stat_wal_receiver");
            receivers.fetch_one(&mut replica).await.is_ok_and(|receivers| receivers == 0)
        })
        .await
        .expect("the receiver ends");
    }

    /// Waits for the first commit on the new primary, which must come within [`SOON`]. Then waits until each record is in the
    /// table once.
    async fn ends_exact(&self, daemon: &Daemon, promoted: Instant, records: i64) {
        self.world.await_next_commit(daemon, in_tests(SOON)).await;
        let took = promoted.elapsed();
        assert!(took <= in_tests(SOON), "the first commit came {took:?} after the promotion; {}", daemon.log_tail());
        println!("first commit {took:?} after the promotion");
        self.world.await_written(daemon).await;
        self.world.assert_exact(records).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failover_the_promoted_replica_is_written_to_and_nothing_is_lost_or_twice() {
    let mut pair = Pair::start().await;
    pair.world.produce_numbered(0..200_000, 2);
    let daemon = pair.world.daemon(&pair.config);
    await_metric(&daemon, "tidegate_rows_written_total", 20_000.0);
    pair.primary.kill().expect("the primary dies");
    let promoted = pair.promote().await;
    pair.ends_exact(&daemon, promoted, 200_000).await;
}

/// The promotion loses commits that the replica hasn't received. Rows and the ledger's advance are lost together, so their
/// records are read again.
#[tokio::test(flavor = "multi_thread")]
async fn commits_that_the_replica_never_received_are_read_again_from_kafka() {
    let mut pair = Pair::start().await;
    pair.world.produce_numbered(0..100_000, 2);
    let daemon = pair.world.daemon(&pair.config);
    await_metric(&daemon, "tidegate_rows_written_total", 10_000.0);
    pair.cut_replication().await;
    let at = counted(&daemon, "tidegate_rows_written_total");
    await_metric(&daemon, "tidegate_rows_written_total", at + 20_000.0);
    pair.primary.kill().expect("the primary dies");
    let acknowledged = counted(&daemon, "tidegate_rows_written_total");
    let promoted = pair.promote().await;
    let rows = pair.world.number("SELECT count(*) FROM rides").await;
    #[expect(clippy::cast_precision_loss, reason = "thousands of rows")]
    let missing = acknowledged - rows as f64;
    assert!(missing > 0.0, "the replica has all {acknowledged} rows, so the test shows nothing");
    println!("{missing} acknowledged rows were not on the replica");
    pair.ends_exact(&daemon, promoted, 100_000).await;
    assert!(counted(&daemon, "tidegate_ledger_rewinds_total") >= 1.0, "{}", daemon.log_tail());
}

/// The old primary still runs and answers, but refuses writes. The daemon must close all its connections to that server, even
/// those for reading.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_became_read_only_is_abandoned() {
    let mut pair = Pair::start().await;
    pair.world.produce_numbered(0..50_000, 2);
    let daemon = pair.world.daemon(&pair.config);
    pair.world.await_written(&daemon).await;
    pair.world.sql("ALTER SYSTEM SET default_transaction_read_only = on").await;
    pair.world.number("SELECT pg_reload_conf()::int::int8").await;
    let ends: i64 = pair.world.kafka.end_offsets(&pair.world.topic).expect("the ends").into_iter().sum();
    let name = pair.world.database.name.clone();
    let received = eventually_async("the replica has all", PATIENCE, async || {
        let mut replica = pair.replica.connect(&name).await.expect("the replica answers");
        let sum = sqlx::query_scalar::<_, i64>("SELECT sum(next_offset)::int8 FROM tidegate.ledger");
        sum.fetch_one(&mut replica).await.is_ok_and(|sum| sum == ends)
    });
    received.await.expect("the replica follows");
    let promoted = pair.promote().await;
    pair.world.produce_numbered(50_000..100_000, 2);
    pair.ends_exact(&daemon, promoted, 100_000).await;
    let lag_on_new = |daemon: &Daemon| daemon.metric("tidegate_lag_records", &[]) == Some(0.0);
    daemon.await_until("the lag is read from the new primary", PATIENCE, lag_on_new).expect("the lag goes");
    assert_eq!(counted(&daemon, "tidegate_ledger_rewinds_total"), 0.0, "{}", daemon.log_tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_of_several_servers_may_be_away_or_never_answer() {
    let world = World::new(2).await;
    world.sql(NUMBERED).await;
    world.produce_numbered(0..1_000, 2);
    // This server accepts connections and never answers.
    let silent = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let silent_port = silent.local_addr().expect("its address").port();
    let url = format!(
        "postgres://postgres@127.0.0.1:{},127.0.0.1:{silent_port},{}/{}",
        free_port().expect("a free port"),
        world.postgres.address(),
        world.database.name
    );
    let (code, log) = world.drain(&world.config_at(&url, "table.name = \"rides\""));
    assert_eq!(code, Some(0), "{log}");
    world.assert_exact(1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_server_that_cannot_be_used_is_named_with_its_reason() {
    let mut pair = Pair::start().await;
    pair.primary.stop().expect("the primary stops");
    let (down, standby) = (format!("{}: ", pair.primary.address()), format!("{}: ", pair.replica.address()));
    tidegate(&pair.config, &["check"]).fails(69, &[&down, "refused", &standby, "accepts no writes: it is a standby"]);
    pair.promote().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_drains() {
    let world = World::new(2).await;
    world.sql(NUMBERED).await;
    world.produce_numbered(0..1_000, 2);
    let folder = world.postgres.socket_dir().expect("the socket's folder").display().to_string();
    let port = world.postgres.address().rsplit_once(':').expect("a port").1.to_owned();
    let name = &world.database.name;
    for (at, url) in [
        format!("postgres://postgres@/{name}?host={folder}&port={port}&sslmode=require"),
        format!("postgres://postgres@{}:{port}/{name}", folder.replace('/', "%2F")),
    ]
    .iter()
    .enumerate()
    {
        let end = 1_000 * (i32::try_from(at).expect("a small number") + 1);
        world.produce_numbered(end - 1_000 * i32::from(at > 0)..end, 2);
        let (code, log) = world.drain(&world.config_at(url, "table.name = \"rides\""));
        assert_eq!(code, Some(0), "{log}");
        world.assert_exact(end.into()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_forms_of_connection_strings_are_named() {
    let world = World::new(1).await;
    let name = unique_name("db");
    for (url, words) in [
        (format!("jdbc:postgresql://127.0.0.1:5432/{name}"), "a JDBC URL; write postgres://user@host:5432/database"),
        (format!("host=127.0.0.1 dbname={name}"), "a list of key=value pairs; write postgres://"),
    ] {
        tidegate(&world.config_at(&url, "table.name = \"rides\""), &["check"]).fails(64, &["postgres.url", words]);
    }
}
