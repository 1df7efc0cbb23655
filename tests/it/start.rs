//! The start of a pipeline. During an outage, the start waits. A fault that doesn't go away stops the pipeline with a reason.

use tidegate_harness::{Proxy, unique_name};

use crate::accounting::NUMBERED;
use crate::cli::tidegate;
use crate::support::{PATIENCE, World};

const TO_RIDES: &str = "table.name = \"rides\"";

fn stops(world: &World, config: &str, said: &[&str]) {
    let daemon = world.daemon(config);
    let status = daemon.wait_exit(PATIENCE).expect("it stops");
    assert_eq!(status.code(), Some(70), "{}", daemon.log_tail());
    let log = daemon.log().join("\n");
    for words in said {
        assert!(log.contains(words), "no {words:?}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_right_stops_the_start_and_names_itself() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    let role = unique_name("gate");
    world.sql(&format!("CREATE ROLE {role} LOGIN; GRANT INSERT, SELECT ON rides TO {role}")).await;
    let url = world.database.url.replacen("//postgres@", &format!("//{role}@"), 1);
    let config = world.config_at(&url, TO_RIDES);
    let said = ["can't bring the tables of schema `tidegate` up to date", "42501", "permission denied for database"];
    stops(&world, &config, &said);
    let replay = ["replay", "--from", "earliest", "--into", "copies"];
    tidegate(&config, &replay).fails(64, &said);
    world.sql(&format!("GRANT CREATE ON DATABASE {} TO {role}", world.database.name)).await;
    world.produce_numbered(0..10, 1);
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    world.assert_exact(10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_database_stops_the_start_and_a_command() {
    let world = World::new(1).await;
    let missing = unique_name("nowhere");
    let url = world.database.url.replacen(&world.database.name, &missing, 1);
    let config = world.config_at(&url, TO_RIDES);
    stops(&world, &config, &["3D000", &missing]);
    tidegate(&config, &["offsets", "show"]).fails(69, &["3D000", &missing, "create the database"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_another_program_made_stop_the_start() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    let (code, log) = world.drain(&world.config(TO_RIDES));
    assert_eq!(code, Some(0), "{log}");
    world.sql("UPDATE tidegate._sqlx_migrations SET checksum = 'x' WHERE version = 1").await;
    stops(&world, &world.config(TO_RIDES), &["the tables of schema `tidegate` are not those of this version"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_at_the_start_is_waited_for() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    world.produce_numbered(0..10, 1);
    let proxy = Proxy::start_postgres(world.postgres.address()).expect("the proxy starts");
    proxy.refuse(true);
    let daemon = world.daemon(&world.config_at(&world.database.url_at(proxy.addr()), TO_RIDES));
    daemon.await_log("can't start yet", PATIENCE).expect("it waits");
    let ready = daemon.get("/readyz").expect("it answers");
    assert_eq!(ready.status, 503, "{}", ready.body);
    proxy.refuse(false);
    world.await_written(&daemon).await;
    world.assert_exact(10).await;
}
