//! `tidegate migrate`: for databases in which the daemon's role has no right to change a schema.

use tidegate_harness::{Record, unique_name};

use crate::cli::tidegate;
use crate::support::{PATIENCE, World};

/// Creates a table, and a role that owns nothing and may create nothing. Returns the role's configuration, and its name.
async fn restricted(world: &World) -> (String, String) {
    let role = unique_name("daemon");
    world
        .sql(&format!(
            "CREATE ROLE {role} LOGIN; CREATE TABLE rides (id bigint); GRANT INSERT, SELECT ON rides TO {role}"
        ))
        .await;
    let url = world.database.url.replacen("postgres@", &format!("{role}@"), 1);
    assert!(url.contains(&role), "{url}");
    (world.config_at(&url, "table.name = \"rides\""), role)
}

fn records(from: i32) -> impl Iterator<Item = Record> {
    (from..from + 100).map(|n| Record::new(format!(r#"{{"id":{n}}}"#)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_ddl_drains_once_the_owner_has_migrated() {
    let world = World::new(1).await;
    let (config, role) = restricted(&world).await;
    world.produce(records(0));
    let daemon = world.daemon(&config);
    let remedy = "run `tidegate migrate --apply --role ROLE` as the owner";
    let status = daemon.wait_exit(PATIENCE).expect("it stops");
    assert_eq!(status.code(), Some(70), "{}", daemon.log_tail());
    assert!(daemon.log().iter().any(|line| line.contains(remedy)), "{}", daemon.log_tail());
    tidegate(&config, &["migrate", "--apply"]).fails(64, &["permission denied", "0004_routes", remedy]);

    let owner = world.config("table.name = \"rides\"");
    tidegate(&owner, &["migrate", "--apply", "--role", &role]).ok().says(&["applied 0001_ledger, ", "has the rights"]);
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 100);
    tidegate(&owner, &["migrate", "--apply"]).ok().says(&["nothing was missing"]);
    tidegate(&owner, &["migrate", "--print"]).ok().says(&["up to date"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_migrate_prints_is_what_it_would_run() {
    let (printed, applied) = (World::new(1).await, World::new(1).await);
    let (config, role) = restricted(&printed).await;
    let owner = printed.config("table.name = \"rides\"");
    let script = tidegate(&owner, &["migrate", "--print", "--role", &role]).ok().out;
    assert_eq!(printed.schemas().await, 0, "printing changes nothing");
    printed.sql(&script).await;
    tidegate(&owner, &["migrate", "--apply"]).ok().says(&["nothing was missing"]);
    printed.produce(records(0));
    let (code, log) = printed.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(printed.number("SELECT count(*) FROM rides").await, 100);

    tidegate(&applied.config("table.name = \"rides\""), &["migrate", "--apply"]).ok();
    let made = "SELECT string_agg(format('%s.%s %s %s', attrelid::regclass, attname, atttypid::regtype, attnotnull), E'\\n' ORDER BY attrelid::regclass::text, attnum)
                FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
                WHERE relnamespace = 'tidegate'::regnamespace AND attnum > 0";
    let sums = "SELECT string_agg(version || ' ' || description || ' ' || encode(checksum, 'hex'), E'\\n' ORDER BY version) FROM tidegate._sqlx_migrations";
    for what in [made, sums] {
        assert_eq!(printed.text(what).await, applied.text(what).await);
    }
}
