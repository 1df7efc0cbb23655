//! Checks that the servers start, serve, crash and start again.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use sqlx::{Connection, Row};
use tidegate_harness::{Postgres, PostgresSpec, Record, shared, unique_name, usage};

#[tokio::test]
async fn records_sent_to_a_topic_are_counted_by_its_end_offsets() {
    let kafka = shared::kafka().unwrap();
    let topic = unique_name("numbers");
    kafka.create_topic(&topic, 2, &[("retention.ms", "-1")]).unwrap();
    let records = (0..1_000_i32).map(|number| Record::new(number.to_string()).to(number % 2).header("kind", "number"));
    assert_eq!(kafka.produce(&topic, records).unwrap(), 1_000);
    assert_eq!(kafka.end_offsets(&topic).unwrap(), [500, 500]);

    kafka.delete_records(&topic, 1, 200).unwrap();
    assert_eq!(kafka.start_offsets(&topic).unwrap(), [0, 200]);
    kafka.add_partitions(&topic, 3).unwrap();
    assert_eq!(kafka.end_offsets(&topic).unwrap(), [500, 500, 0]);
    kafka.delete_topic(&topic).unwrap();
}

#[tokio::test]
async fn postgres_keeps_what_was_committed_before_a_kill() {
    let postgres = Postgres::start(&PostgresSpec::default()).unwrap();
    let database = postgres.create_database().await.unwrap();
    let mut connection = database.connect().await.unwrap();
    sqlx::query("CREATE TABLE kept AS SELECT 42 AS answer").execute(&mut connection).await.unwrap();
    postgres.kill().unwrap();
    assert!(connection.ping().await.is_err());

    postgres.start_again().unwrap();
    let mut connection = database.connect().await.unwrap();
    let row = sqlx::query("SELECT answer FROM kept").fetch_one(&mut connection).await.unwrap();
    assert_eq!(row.get::<i32, _>("answer"), 42);
}

#[tokio::test]
async fn a_database_goes_back_to_an_older_backup() {
    let postgres = Postgres::start(&PostgresSpec::default().without_fsync().setting("work_mem = '7MB'")).unwrap();
    let mut connection = postgres.connect("postgres").await.unwrap();
    let row = sqlx::query("SHOW work_mem").fetch_one(&mut connection).await.unwrap();
    assert_eq!(row.get::<String, _>(0), "7MB");
    let backups = tempfile::tempdir().unwrap();
    let backup = backups.path().join("before");
    assert!(postgres.copy_data_dir_to(&backup).unwrap_err().to_string().contains("stop it first"));

    postgres.stop().unwrap();
    postgres.copy_data_dir_to(&backup).unwrap();
    postgres.start_again().unwrap();
    let mut connection = postgres.connect("postgres").await.unwrap();
    sqlx::query("CREATE TABLE later (n int)").execute(&mut connection).await.unwrap();

    postgres.stop().unwrap();
    postgres.restore_data_dir_from(&backup).unwrap();
    postgres.start_again().unwrap();
    let mut connection = postgres.connect("postgres").await.unwrap();
    assert!(sqlx::query("SELECT * FROM later").execute(&mut connection).await.is_err());
    assert!(usage::cpu_time(postgres.pid().unwrap(), true).unwrap() > std::time::Duration::ZERO);
    assert!(usage::peak_rss_bytes(postgres.pid().unwrap()).unwrap() > 1 << 20);
}
