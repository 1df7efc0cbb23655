//! Credentials that change while the daemon runs: tokens for Kafka, by OIDC and from a program, and passwords from a file or a
//! program. None of them may be shown.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidegate_harness::{Daemon, Listener, TokenServer, eventually, unique_name};

use crate::accounting::with_postgres;
use crate::cli::tidegate;
use crate::kafka_security::{authority, config, secured, world};
use crate::support::{PATIENCE, World};

const SECRET: &str = "sandbank-canary-7";

fn script(folder: &Path, lines: &str) -> PathBuf {
    let path = folder.join(unique_name("script"));
    fs::write(&path, format!("#!/bin/sh\n{lines}\n")).expect("the script is written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it may be run");
    path
}

fn write(path: &Path, text: &str) {
    // Write a new file and rename it over the old one. This replacement is atomic, like that of a mounted secret in Kubernetes.
    let beside = path.with_extension("new");
    fs::write(&beside, text).expect("the file is written");
    fs::rename(beside, path).expect("the file is put in place");
}

fn bearer(world: &World, properties: &[(&str, String)]) -> String {
    let mut all = vec![authority(), ("sasl.mechanism", "OAUTHBEARER".to_owned())];
    all.extend_from_slice(properties);
    config(world, Listener::Sasl, &all)
}

fn oidc(world: &World, server: &TokenServer, secret: &Path) -> String {
    bearer(
        world,
        &[
            ("sasl.oauthbearer.method", "oidc".to_owned()),
            ("sasl.oauthbearer.token.endpoint.url", server.url()),
            ("sasl.oauthbearer.client.id", "gate".to_owned()),
            ("sasl.oauthbearer.client.secret_file", secret.display().to_string()),
            ("sasl.oauthbearer.scope", "kafka".to_owned()),
            ("sasl.oauthbearer.extensions", "logicalCluster=lkc-1".to_owned()),
        ],
    )
}

/// Returns the log of a daemon, and the bodies of the pages that could show a secret.
fn shown(daemon: &Daemon) -> String {
    let pages = ["/metrics", "/readyz", "/api/status", "/"].map(|path| daemon.get(path).expect("it answers").body);
    daemon.log().join("\n") + &pages.concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_endpoint_is_asked_again_until_it_gives_a_token_and_before_that_expires() {
    let server = TokenServer::start("gate", SECRET, Duration::from_secs(5)).expect("the endpoint starts");
    let world = world().await;
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    write(&secret, "barnacle-canary\n");
    let daemon = world.daemon(&oidc(&world, &server, &secret));
    let line = daemon.await_log("can't get a token for Kafka", PATIENCE).expect("it says so");
    assert!(line.contains("invalid_client") && line.contains("sasl.oauthbearer.client.id"), "{line}");
    write(&secret, SECRET);
    world.await_written(&daemon).await;
    assert!(server.refused() >= 1, "the first secret was wrong");
    assert!(server.last_form().contains("scope=kafka"), "{}", server.last_form());
    // The broker ends a session when its token expires. So records keep flowing only if the daemon gets new tokens.
    let first = server.issued().len();
    daemon.await_until("three more tokens", PATIENCE, |_| server.issued().len() >= first + 3).expect("it asks again");
    world.produce_numbered(200..400, 2);
    world.await_written(&daemon).await;
    world.assert_exact(400).await;
    let shown = shown(&daemon);
    for canary in [SECRET, "barnacle-canary"].into_iter().map(str::to_owned).chain(server.issued()) {
        assert!(!shown.contains(&canary), "a secret is shown: {canary}");
    }
    // This daemon's clients share one token: the consumers, the observer, and the client that reads topic settings. `check` gets
    // its own token. On a busy machine, that token may expire after 5 s between two requests. So repeat the check.
    let config = oidc(&world, &server, &secret);
    eventually("check gets a token too", PATIENCE, || tidegate(&config, &["check"]).code == 0).expect("it is ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_prints_tokens_drains_and_what_it_prints_is_not_shown() {
    let world = world().await;
    let folder = tempfile::tempdir().expect("a folder");
    let token = tidegate_harness::token_server::unsigned_token("gate", Duration::from_secs(3600)).expect("a token");
    let with = |script: &Path| {
        let line = format!("token_command = [\"{}\", \"a b\"]\n[kafka.properties]", script.display());
        bearer(&world, &[]).replacen("[kafka.properties]", &line, 1)
    };
    let broken = script(folder.path(), "echo CANARY; echo CANARY >&2; exit 3");
    let ran = tidegate(&with(&broken), &["check"]).fails(69, &["`kafka.token_command`", "exit status: 3"]);
    assert!(!ran.to_string().contains("CANARY"), "{ran}");
    for lines in [
        format!("[ \"$1\" = 'a b' ] && echo '{token}'"),
        format!("echo '{{\"token\":\"{token}\",\"lifetime_seconds\":600}}'"),
    ] {
        let good = script(folder.path(), &lines);
        let (code, log) = world.drain(&with(&good));
        assert_eq!(code, Some(0), "{log}");
        assert!(!log.contains(&token), "the token is shown");
    }
    world.assert_exact(200).await;
}

/// A stand-in for the command-line tool of AWS's signer. Its tokens have AWS's form and are valid for 5 s. The harness's broker
/// can't validate them. The test shows that the daemon reads a token and its expiry, sends the token to the broker, and renews
/// it.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_of_an_aws_signer_is_renewed_before_the_expiry_in_its_url() {
    let world = world().await;
    let folder = tempfile::tempdir().expect("a folder");
    let runs = folder.path().join("runs");
    let signer = script(
        folder.path(),
        &format!(
            "url='https://kafka.eu-central-1.amazonaws.com/?Action=kafka-cluster%3AConnect&X-Amz-Algorithm=AWS4-HMAC-SHA256'
             url=\"$url&X-Amz-Credential=AKIDEXAMPLE%2Feu-central-1%2Fkafka-cluster%2Faws4_request\"
             url=\"$url&X-Amz-Date=$(date -u +%Y%m%dT%H%M%SZ)&X-Amz-Expires=5&X-Amz-SignedHeaders=host&X-Amz-Signature=canary\"
             token=$(printf %s \"$url&User-Agent=signer%2F1.0\" | base64 -w 0 | tr +/ -_ | tr -d =)
             echo \"$token\" >> {}
             echo \"('$token', $(date +%s)000)\"",
            runs.display()
        ),
    );
    let line = format!("token_command = [\"{}\"]\n[kafka.properties]", signer.display());
    let daemon = world.daemon(&bearer(&world, &[]).replacen("[kafka.properties]", &line, 1));
    daemon.await_log("SASL authentication error", PATIENCE).expect("the broker has received it");
    let tokens = || fs::read_to_string(&runs).unwrap_or_default();
    daemon
        .await_until("three tokens, one after the other", PATIENCE, |_| tokens().lines().count() >= 3)
        .expect("renewed");
    let shown = shown(&daemon);
    assert!(!shown.contains("can't get a token") && !shown.contains("refused the new credentials"), "{shown}");
    for token in tokens().lines() {
        assert!(!shown.contains(token), "a token is shown");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_for_kafka_is_read_again_when_its_file_changes() {
    let world = world().await;
    let user = unique_name("gate");
    secured().kafka.set_scram_password(&user, "driftwood-canary").expect("the password is set");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    write(&file, "driftwood-old\n");
    let properties = [
        authority(),
        ("sasl.mechanism", "SCRAM-SHA-512".to_owned()),
        ("sasl.username", user),
        ("sasl.password_file", file.display().to_string()),
    ];
    let daemon = world.daemon(&config(&world, Listener::Sasl, &properties));
    daemon.await_log("SASL authentication error", PATIENCE).expect("it says so");
    write(&file, "driftwood-canary\n");
    world.await_written(&daemon).await;
    world.assert_exact(200).await;
    assert!(!shown(&daemon).contains("driftwood"), "a password is shown");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_gives_the_password_for_postgres_and_its_stated_lifetime_holds() {
    let world = world().await;
    let role = unique_name("gate");
    world
        .sql(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'mangrove-canary'; ALTER TABLE rides OWNER TO {role};
             ALTER DATABASE {} OWNER TO {role}",
            world.database.name
        ))
        .await;
    let rules = world.postgres.data_dir().expect("its data").join("pg_hba.conf");
    let others = fs::read_to_string(&rules).expect("the rules");
    fs::write(&rules, format!("host all {role} 127.0.0.1/32 scram-sha-256\n{others}")).expect("the rules are written");
    world.number("SELECT pg_reload_conf()::int::int8").await;
    let folder = tempfile::tempdir().expect("a folder");
    let (password, runs) = (folder.path().join("password"), folder.path().join("runs"));
    write(&password, "barnacle-canary");
    let program = script(
        folder.path(),
        &format!(
            "echo run >> {}; printf '{{\"password\":\"%s\",\"lifetime_seconds\":3600}}' \"$(cat {})\"",
            runs.display(),
            password.display()
        ),
    );
    let url = world.database.url.replacen("//postgres@", &format!("//{role}@"), 1);
    let config = config(&world, Listener::Tls, &[authority()]).replacen(&world.database.url, &url, 1);
    let config = with_postgres(&config, &format!("password_command = [\"{}\"]", program.display()));
    let daemon = world.daemon(&config);
    daemon.await_log("28P01", PATIENCE).expect("it says what is wrong");
    let wrong = fs::read_to_string(&runs).expect("it ran").lines().count();
    daemon
        .await_until("the program is run again, since Postgres refused its password", PATIENCE, |_| {
            fs::read_to_string(&runs).is_ok_and(|runs| runs.lines().count() > wrong + 1)
        })
        .expect("it is run again");
    write(&password, "mangrove-canary");
    world.await_written(&daemon).await;
    let right = fs::read_to_string(&runs).expect("it ran").lines().count();
    // Each round needs a new connection, but the program must not run again.
    for range in [200..210, 210..220, 220..230] {
        let ends = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'tidegate %' AND usename = ";
        world.number(&format!("{ends}'{role}'")).await;
        world.produce_numbered(range, 2);
        world.await_written(&daemon).await;
    }
    world.assert_exact(230).await;
    let after = fs::read_to_string(&runs).expect("it ran").lines().count();
    assert!(after <= right + 1, "the password holds for an hour, and the program ran {right} times and then {after}");
    let shown = shown(&daemon);
    assert!(!shown.contains("mangrove") && !shown.contains("barnacle"), "a password is shown");
}
