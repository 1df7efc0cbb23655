//! Whole servers are killed, stopped, filled up or restored to an earlier state. The tests use one Postgres, one test after
//! another. The broker's test doesn't need it.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use tidegate_harness::{Kafka, KafkaSpec, Postgres, PostgresSpec, shared, unique_name};
use tokio::sync::{Mutex, MutexGuard};

use crate::accounting::{NUMBERED, SHORT_DEADLINES, await_metric, counted, with_limits, with_postgres};
use crate::support::{PATIENCE, World, in_tests};

/// The longest time from the database's return to the first commit after it.
const SOON: Duration = Duration::from_secs(2);

/// Returns the Postgres that these tests may break, and makes sure that it runs. Other tests wait until the guard is dropped.
async fn own_postgres() -> (MutexGuard<'static, ()>, &'static Postgres) {
    static POSTGRES: OnceLock<Postgres> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::const_new(());
    let turn = TURN.lock().await;
    let postgres = POSTGRES.get_or_init(|| Postgres::start(&PostgresSpec::default()).expect("Postgres starts"));
    if postgres.pid().is_err() {
        // An earlier test may have failed while the server was down.
        postgres.start_again().expect("Postgres starts again");
    }
    (turn, postgres)
}

fn shared_kafka() -> &'static Kafka {
    shared::kafka().expect("Kafka starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_killed_in_the_middle_of_a_drain_loses_nothing_and_is_written_to_soon_after() {
    let (_turn, postgres) = own_postgres().await;
    let world = World::on(shared_kafka(), postgres, 2).await;
    world.sql(NUMBERED).await;
    world.produce_numbered(0..300_000, 2);
    let pipeline = "table.name = \"rides\"\nconsumers = 2\nbatch.max_rows = 4000\nflow.max_rows_per_second = 100_000";
    let daemon = world.daemon(&with_postgres(&world.config(pipeline), SHORT_DEADLINES));
    for kill in 1..=2 {
        let at = world.ledger().await;
        await_metric(&daemon, "tidegate_rows_written_total", (at + 10_000) as f64);
        postgres.kill().expect("it dies");
        daemon
            .await_until("it isn't ready", PATIENCE, |d| d.get("/readyz").is_ok_and(|r| r.status == 503))
            .expect("503");
        postgres.start_again().expect("it starts again");
        let took = world.await_next_commit(&daemon, in_tests(SOON)).await;
        println!("kill {kill}: first commit {took:?} after the database was back");
    }
    world.await_written(&daemon).await;
    world.assert_exact(300_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_database_rewinds_the_daemon_and_kafka_fills_the_gap() {
    let (_turn, postgres) = own_postgres().await;
    let world = World::on(shared_kafka(), postgres, 2).await;
    world.sql(NUMBERED).await;
    let daemon = world.daemon(&with_postgres(&world.config("table.name = \"rides\""), SHORT_DEADLINES));
    world.produce_numbered(0..20_000, 2);
    world.await_written(&daemon).await;

    let folder = tempfile::tempdir().expect("a folder");
    let backup = folder.path().join("backup");
    postgres.stop().expect("it stops");
    postgres.copy_data_dir_to(&backup).expect("the backup is made");
    postgres.start_again().expect("it starts again");
    world.produce_numbered(20_000..50_000, 2);
    world.await_written(&daemon).await;

    postgres.stop().expect("it stops");
    postgres.restore_data_dir_from(&backup).expect("the backup is put back");
    postgres.start_again().expect("it starts again");
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 20_000, "the database went back");
    // No new record arrives, so the daemon has to notice the restored database by itself.
    world.await_written(&daemon).await;
    world.assert_exact(50_000).await;
    world.produce_numbered(50_000..60_000, 2);
    world.await_written(&daemon).await;
    world.assert_exact(60_000).await;
    assert!(counted(&daemon, "tidegate_ledger_rewinds_total") >= 1.0, "it is counted");
}

/// The backup is older than our claim. Its ledger names an owner that no longer exists. Nobody must wait for this owner.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_restored_to_an_older_claim_is_claimed_at_once() {
    let (_turn, postgres) = own_postgres().await;
    let world = World::on(shared_kafka(), postgres, 1).await;
    world.sql(NUMBERED).await;
    let config = with_postgres(&world.config("table.name = \"rides\""), SHORT_DEADLINES);
    // If the daemon waited for another owner, it would wait longer than this test allows.
    let config = with_limits(&config, "claim_grace = \"10m\"");
    world.produce_numbered(0..10_000, 1);
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    let folder = tempfile::tempdir().expect("a folder");
    let backup = folder.path().join("backup");
    postgres.stop().expect("it stops");
    postgres.copy_data_dir_to(&backup).expect("the backup is made");
    postgres.start_again().expect("it starts again");
    let daemon = world.daemon(&config);
    world.produce_numbered(10_000..20_000, 1);
    world.await_written(&daemon).await;

    postgres.stop().expect("it stops");
    postgres.restore_data_dir_from(&backup).expect("the backup is put back");
    postgres.start_again().expect("it starts again");
    let started = std::time::Instant::now();
    world.await_written(&daemon).await;
    println!("refilled {:?} after the database was back", started.elapsed());
    world.assert_exact(20_000).await;
    assert!(counted(&daemon, "tidegate_ledger_rewinds_total") >= 1.0, "it is counted");
    daemon.await_ready(PATIENCE).expect("it is ready");
}

/// Postgres is killed after it has acknowledged a COMMIT that isn't on disk yet. The last rows and the ledger's last advances are
/// lost together.
#[tokio::test(flavor = "multi_thread")]
async fn a_crash_under_synchronous_commit_off_loses_no_record() {
    let (_turn, postgres) = own_postgres().await;
    let world = World::on(shared_kafka(), postgres, 2).await;
    world.sql(NUMBERED).await;
    // Make Postgres keep commits in memory for several seconds.
    world.sql("ALTER SYSTEM SET wal_writer_delay = '10s'").await;
    world.number("SELECT pg_reload_conf()::int::int8").await;
    world.produce_numbered(0..60_000, 2);
    let pipeline = "table.name = \"rides\"\nbatch.max_rows = 500\nflow.max_rows_per_second = 20_000";
    let lines = format!("{SHORT_DEADLINES}\nsession = {{ synchronous_commit = \"off\" }}");
    let daemon = world.daemon(&with_postgres(&world.config(pipeline), &lines));
    for _ in 0..3 {
        let at = world.ledger().await;
        await_metric(&daemon, "tidegate_rows_written_total", (at + 5_000) as f64);
        let acked = counted(&daemon, "tidegate_rows_written_total");
        postgres.kill().expect("it dies");
        postgres.start_again().expect("it starts again");
        println!("{acked} rows were acknowledged, {} are there", world.number("SELECT count(*) FROM rides").await);
    }
    world.await_written(&daemon).await;
    world.assert_exact(60_000).await;
    world.sql("ALTER SYSTEM RESET wal_writer_delay").await;
    println!("the ledger went back {} times", counted(&daemon, "tidegate_ledger_rewinds_total"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_down_at_the_start_is_waited_for() {
    let (_turn, postgres) = own_postgres().await;
    let world = World::on(shared_kafka(), postgres, 2).await;
    world.sql(NUMBERED).await;
    world.produce_numbered(0..10_000, 2);
    postgres.stop().expect("it stops");
    let daemon = world.daemon(&with_postgres(&world.config("table.name = \"rides\""), SHORT_DEADLINES));
    daemon.await_log("can't start yet", PATIENCE).expect("it says what it waits for");
    assert_eq!(daemon.get("/healthz").expect("it answers").status, 200, "the process lives");
    assert_eq!(daemon.get("/readyz").expect("it answers").status, 503, "and is not ready");
    postgres.start_again().expect("it starts again");
    world.await_written(&daemon).await;
    world.assert_exact(10_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_reported_and_a_new_one_in_the_file_is_used() {
    let (_turn, postgres) = own_postgres().await;
    let world = World::on(shared_kafka(), postgres, 2).await;
    world.sql(NUMBERED).await;
    world.produce_numbered(0..10_000, 2);
    let role = unique_name("gate");
    world
        .sql(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'mangrove'; ALTER TABLE rides OWNER TO {role};
             ALTER DATABASE {} OWNER TO {role}",
            world.database.name
        ))
        .await;
    let rules = postgres.data_dir().expect("its data").join("pg_hba.conf");
    let others = fs::read_to_string(&rules).expect("the rules");
    fs::write(&rules, format!("host all {role} 127.0.0.1/32 scram-sha-256\n{others}")).expect("the rules are written");
    world.number("SELECT pg_reload_conf()::int::int8").await;

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("url");
    let url = |password: &str| world.database.url.replacen("//postgres@", &format!("//{role}:{password}@"), 1);
    fs::write(&file, url("barnacle")).expect("the file is written");
    let config = world.config("table.name = \"rides\"");
    let in_place = format!("url = \"{}\"", world.database.url);
    let config = config.replacen(&in_place, &format!("url_file = \"{}\"", file.display()), 1);
    let daemon = world.daemon(&with_postgres(&config, SHORT_DEADLINES));
    let line = daemon.await_log("28P01", PATIENCE).expect("it says what is wrong");
    assert!(line.contains("password authentication failed"), "{line}");
    let ready = daemon.get("/readyz").expect("it answers");
    assert_eq!(ready.status, 503);
    fs::write(&file, url("mangrove")).expect("the file is written");
    world.await_written(&daemon).await;
    world.assert_exact(10_000).await;
    let shown = daemon.log().join("\n") + &ready.body + &daemon.get("/metrics").expect("it answers").body;
    assert!(!shown.contains("barnacle") && !shown.contains("mangrove"), "a password is shown");
}

/// A small disk (tmpfs), which is unmounted when this value is dropped.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    /// Creates a disk that belongs to the owner of the path `owner`. Returns `None` if mounting isn't possible, because the
    /// process isn't root or a container forbids it.
    fn of(owner: &Path, mebibytes: u32) -> Option<Self> {
        use std::os::unix::fs::MetadataExt;
        let owner = fs::metadata(owner).expect("the owner of the data");
        let folder = tempfile::tempdir().expect("a folder");
        let options = format!("size={mebibytes}m,mode=0700,uid={},gid={}", owner.uid(), owner.gid());
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder.path()).status();
        status.is_ok_and(|status| status.success()).then_some(Self { folder })
    }

    fn grow(&self, mebibytes: u32) {
        let options = format!("remount,size={mebibytes}m");
        let status = Command::new("mount").args(["-o", &options]).arg(self.folder.path()).status();
        assert!(status.expect("mount runs").success(), "the disk grows");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Postgres may still have its files open, so unmount lazily.
        drop(Command::new("umount").arg("-l").arg(self.folder.path()).status());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_waited_for_until_there_is_room() {
    let (_turn, postgres) = own_postgres().await;
    let Some(disk) = SmallDisk::of(postgres.data_dir().expect("its data"), 4) else {
        println!("left out: no small disk can be mounted here");
        return;
    };
    let world = World::on(shared_kafka(), postgres, 2).await;
    let space = unique_name("small");
    world.sql(&format!("CREATE TABLESPACE {space} LOCATION '{}'", disk.folder.path().display())).await;
    world.sql(&format!("{NUMBERED} TABLESPACE {space}")).await;
    let daemon = world.daemon(&with_postgres(&world.config("table.name = \"rides\""), SHORT_DEADLINES));
    // Together these records take more than 5 MiB, so they fill the disk.
    world.produce_numbered(0..150_000, 2);
    let names_it = |d: &tidegate_harness::Daemon| d.get("/readyz").is_ok_and(|ready| ready.body.contains("53100"));
    daemon.await_until("`/readyz` names 53100", PATIENCE, names_it).expect("it says what it waits for");
    await_metric(&daemon, "tidegate_retries_total", 4.0);
    disk.grow(64);
    let took = world.await_next_commit(&daemon, in_tests(SOON)).await;
    println!("first commit {took:?} after there was room");
    world.await_written(&daemon).await;
    world.assert_exact(150_000).await;
    drop(daemon);
    world.sql("DROP TABLE rides").await;
    world.sql(&format!("DROP TABLESPACE {space}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_killed_in_the_middle_of_a_drain_loses_nothing() {
    let kafka: &'static Kafka = Box::leak(Box::new(Kafka::start(&KafkaSpec::single()).expect("Kafka starts")));
    let world = World::on(kafka, shared::postgres().expect("Postgres starts"), 2).await;
    world.sql(NUMBERED).await;
    world.produce_numbered(0..100_000, 2);
    let pipeline = "table.name = \"rides\"\nbatch.max_rows = 2000\nflow.max_rows_per_second = 20_000";
    let daemon = world.daemon(&world.config(pipeline));
    await_metric(&daemon, "tidegate_rows_written_total", 10_000.0);
    kafka.kill(0).expect("it dies");
    assert!(world.ledger().await < 100_000, "it was in the middle");
    kafka.start_again(0).expect("it starts again");
    world.produce_numbered(100_000..120_000, 2);
    world.await_written(&daemon).await;
    kafka.restart(0).expect("it restarts in order");
    world.produce_numbered(120_000..130_000, 2);
    world.await_written(&daemon).await;
    world.assert_exact(130_000).await;
    assert_eq!(counted(&daemon, "tidegate_records_lost_total"), 0.0);
}
