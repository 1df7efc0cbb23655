//! Mistakes that newcomers make. The message names the mistake and the server, file or key that it concerns. Most
//! messages also name a remedy.

use tidegate_harness::{Daemon, free_port, unique_name};

use crate::accounting::NUMBERED;
use crate::cli::tidegate;
use crate::support::{PATIENCE, World, spec};

const TO_RIDES: &str = "table.name = \"rides\"";

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_or_refusing_postgres_is_named_with_its_address() {
    let world = World::new(1).await;
    let address = format!("127.0.0.1:{}", free_port().expect("a port"));
    let config = world.config_at(&world.database.url_at(&address), TO_RIDES);
    tidegate(&config, &["offsets", "show"]).fails(69, &[&format!("{address}: "), "is it running"]);
    let url = world.database.url.replace("postgres@", "nobody_here@");
    let server = format!("the server is {}", world.postgres.address());
    tidegate(&world.config_at(&url, TO_RIDES), &["offsets", "show"]).fails(69, &["nobody_here", &server]);
    // The command didn't connect to any server, so the error must not ask whether the server is running.
    let config = world.config(TO_RIDES).replace("[postgres]", "[postgres]\npassword_file = \"/nowhere/password\"");
    let ran = tidegate(&config, &["offsets", "show"]).fails(69, &["`postgres.password_file` /nowhere/password"]);
    assert!(!ran.err.contains("is it running"), "{ran}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_with_a_scheme_and_a_missing_file_of_authorities_are_named() {
    let world = World::new(1).await;
    let servers = world.kafka.bootstrap_servers();
    let config = world.config(TO_RIDES).replace(servers, &format!("http://{servers}"));
    tidegate(&config, &["check", "--offline"]).fails(64, &["a broker has no scheme", "without http://"]);
    let tls = "[kafka.properties]\n\"security.protocol\" = \"ssl\"\n\"ssl.ca.location\" = \"/nowhere/ca.pem\"\n";
    let config = world.config(TO_RIDES).replace("[postgres]", &format!("{tls}[postgres]"));
    let words = "can't read \"/nowhere/ca.pem\", which \"ssl.ca.location\" in `kafka.properties` names";
    tidegate(&config, &["check"]).fails(64, &[words]);
    let (code, log) = world.drain(&config);
    assert!(code == Some(70) && log.contains(words), "{code:?} {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_variable_with_too_few_underscores_is_warned_of() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    let spec = spec(&world.config(TO_RIDES)).env("TIDEGATE_POSTGRES_URL", "postgres://elsewhere/x");
    let daemon = Daemon::spawn(&spec.arg("--until").arg("now")).expect("the daemon starts");
    let status = daemon.wait_exit(PATIENCE).expect("it ends");
    let log = daemon.log().join("\n");
    let words = "`TIDEGATE_POSTGRES_URL` in the environment is not used: if it is meant for a key, write TIDEGATE__POSTGRES__URL";
    assert!(status.code() == Some(0) && log.contains(words), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_revoked_and_a_ledger_that_is_dropped_stop_the_pipeline_with_a_remedy() {
    let world = World::new(1).await;
    let role = unique_name("clerk");
    world
        .sql(&format!(
            "{NUMBERED}; CREATE ROLE {role} LOGIN; CREATE SCHEMA tidegate AUTHORIZATION {role}; GRANT INSERT ON rides TO {role}"
        ))
        .await;
    let config = world.config_at(&world.database.url.replace("postgres@", &format!("{role}@")), TO_RIDES);
    for (broken, words) in [
        (format!("REVOKE INSERT ON rides FROM {role}"), "grant the right: `tidegate check` prints the statements"),
        ("DROP SCHEMA tidegate CASCADE".to_owned(), "restore the schema from a backup"),
    ] {
        let daemon = world.daemon(&config);
        world.produce_numbered(0..10, 1);
        world.await_written(&daemon).await;
        world.sql(&broken).await;
        world.produce_numbered(10..20, 1);
        let status = daemon.wait_exit(PATIENCE).expect("it ends");
        let log = daemon.log().join("\n");
        assert!(status.code() == Some(70) && log.contains(words), "{log}");
        world.sql(&format!("GRANT INSERT ON rides TO {role}")).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_names_every_choice_and_an_empty_topic_is_called_empty() {
    let world = World::new(1).await;
    tidegate(&world.config(TO_RIDES), &["migrate"]).fails(64, &["<--print|--apply>"]);
    let ran = tidegate(&world.config(TO_RIDES), &["schema", "--topic", &world.topic]);
    ran.fails(64, &[&format!("topic `{}` holds no record", world.topic)]);
}
