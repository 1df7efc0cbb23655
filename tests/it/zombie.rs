//! A process that was suspended and resumes late. Meanwhile its partitions have got another owner. The process' write must be
//! refused, and its locks must not stop the new owner.

use tidegate_harness::{Action, Daemon, Proxy, Trigger};

use crate::accounting::{NUMBERED, await_metric, counted, with_postgres, with_short_sessions};
use crate::support::{PATIENCE, World};

const RECORDS: i32 = 20_000;

/// The table `rides`, the settings of a pipeline, and the message at which the pipeline's daemon is suspended.
struct Zombie {
    create: &'static str,
    pipeline: &'static str,
    at: Trigger,
}

/// Suspends a daemon at the message that `zombie` names. Lets another daemon take over and write everything. Then resumes the
/// first one. Returns the suspended daemon and the new owner.
async fn rise(world: &World, zombie: &Zombie) -> (Daemon, Daemon) {
    world.sql(zombie.create).await;
    world.produce_numbered(0..RECORDS, 2);
    let proxy = Proxy::start_postgres(world.postgres.address()).expect("the proxy starts");
    // `idle_in_transaction_timeout` is longer than the test's patience. So only the new owner can end the zombie's transaction in
    // time.
    let lines = "lock_timeout = \"2s\"\nidle_in_transaction_timeout = \"10m\"";
    let configure = |url: &str| with_short_sessions(&with_postgres(&world.config_at(url, zombie.pipeline), lines));
    // Arm the trigger only after the first COPY has begun, because the start has transactions too.
    let begun = proxy.arm(Trigger::CopyData(1), Action::Hold);
    let stopped = world.daemon(&configure(&world.database.url_at(proxy.addr())));
    begun.fired(PATIENCE).await.expect("a COPY begins");
    let held = proxy.arm(zombie.at.clone(), Action::Hold);
    begun.release();
    if let Err(error) = held.fired(PATIENCE).await {
        panic!("{error:#}; {}", stopped.log_tail());
    }
    stopped.pause().expect("it stops");

    let owner = world.daemon(&configure(&world.database.url));
    world.await_written(&owner).await;
    assert_eq!(world.number("SELECT count(*) FROM rides").await, i64::from(RECORDS));

    // Let the bytes arrive that the zombie sent before it was suspended. Then resume the zombie.
    held.release();
    stopped.resume().expect("it goes on");
    await_metric(&stopped, "tidegate_fenced_total", 1.0);
    // After the zombie was fenced, all partitions must still be written, whichever daemon owns them.
    world.produce_numbered(RECORDS..2 * RECORDS, 2);
    world.await_written(&owner).await;
    world.assert_exact(i64::from(2 * RECORDS)).await;
    (stopped, owner)
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_in_the_middle_of_a_copy_its_late_write_is_refused() {
    let world = World::new(2).await;
    let zombie = Zombie { create: NUMBERED, pipeline: "table.name = \"rides\"", at: Trigger::CopyData(2) };
    let (stopped, owner) = rise(&world, &zombie).await;
    assert_eq!(counted(&owner, "tidegate_fenced_total"), 0.0, "the owner lost nothing");
    assert!(counted(&stopped, "tidegate_fenced_total") <= 2.0, "a segment a partition");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_before_its_commit_its_lock_on_the_ledger_is_taken_from_it() {
    let world = World::new(2).await;
    let commit = Trigger::FrontendQueryContains("COMMIT".to_owned());
    let zombie = Zombie { create: NUMBERED, pipeline: "table.name = \"rides\"", at: commit };
    let (stopped, owner) = rise(&world, &zombie).await;
    assert_eq!(counted(&stopped, "tidegate_commit_unknown_total"), 1.0);
    owner
        .await_log("ending the transaction of a Tidegate process that no longer answers", PATIENCE)
        .expect("the owner says it");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_in_a_copy_into_a_unique_index_its_keys_are_taken_from_it() {
    let world = World::new(2).await;
    let create = "CREATE TABLE rides (seq bigint UNIQUE, name text)";
    // At this point of the COPY, rows are in the index already.
    let zombie = Zombie { create, pipeline: "table.name = \"rides\"", at: Trigger::CopyBytes(300_000) };
    let (_stopped, owner) = rise(&world, &zombie).await;
    owner
        .await_log("ending the transaction of a Tidegate process that no longer answers", PATIENCE)
        .expect("the owner says it");
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_after_merging_new_keys_its_keys_are_taken_from_it() {
    let world = World::new(2).await;
    let zombie = Zombie {
        create: "CREATE TABLE rides (seq bigint PRIMARY KEY, name text)",
        pipeline: "table = { name = \"rides\", mode = \"insert_new\", key = [\"seq\"] }",
        at: Trigger::FrontendQueryContains("SELECT tidegate.advance".to_owned()),
    };
    let (_stopped, owner) = rise(&world, &zombie).await;
    owner
        .await_log("ending the transaction of a Tidegate process that no longer answers", PATIENCE)
        .expect("the owner says it");
}
