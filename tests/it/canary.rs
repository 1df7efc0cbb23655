//! No secret leaves the process. Each secret that a configuration can contain has its own recognizable value here. None of these
//! values may occur in the output of the daemon and its commands, whatever fails.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use tidegate_harness::registry::Registry;
use tidegate_harness::{Daemon, Record, eventually_async, free_port, unique_name};

use crate::cli::tidegate;
use crate::support::{PATIENCE, World, spec};

/// The beginning of every secret in these tests. The rest tells the secrets apart.
const CANARY: &str = "canary-of-";

#[track_caller]
fn assert_clean(what: &str, text: &str) {
    if let Some(at) = text.find(CANARY) {
        let mut start = at.saturating_sub(400);
        while !text.is_char_boundary(start) {
            start += 1;
        }
        let shown: String = text[start..].chars().take(600).collect();
        panic!("{what} shows a secret: …{shown}…");
    }
}

fn file(folder: &Path, text: &str) -> String {
    let path = folder.join(unique_name("secret"));
    fs::write(&path, text).expect("the file is written");
    path.display().to_string()
}

fn script(folder: &Path, lines: &str) -> String {
    let path = PathBuf::from(file(folder, &format!("#!/bin/sh\n{lines}\n")));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it may be run");
    path.display().to_string()
}

struct Parts {
    bootstrap: String,
    kafka: String,
    postgres: String,
    rest: String,
}

impl Parts {
    fn of(world: &World) -> Self {
        Self {
            bootstrap: world.kafka.bootstrap_servers().to_owned(),
            kafka: String::new(),
            postgres: format!("url = \"{}\"", world.database.url),
            rest: String::new(),
        }
    }

    fn kafka(self, lines: &str) -> Self {
        Self { kafka: lines.to_owned(), ..self }
    }

    fn at(self, bootstrap: &str) -> Self {
        Self { bootstrap: bootstrap.to_owned(), ..self }
    }

    fn postgres(self, lines: &str) -> Self {
        Self { postgres: lines.to_owned(), ..self }
    }

    fn rest(self, lines: &str) -> Self {
        Self { rest: lines.to_owned(), ..self }
    }

    fn text(&self, world: &World) -> String {
        let Self { bootstrap, kafka, postgres, rest } = self;
        format!(
            "[kafka]\nbootstrap_servers = \"{bootstrap}\"\n{kafka}\n[postgres]\n{postgres}\nconnect_timeout = \"2s\"\n\
             [http]\nlisten = \"127.0.0.1:{}\"\n[log]\nlevel = \"trace\"\n[pipelines.{}]\ntopics = [\"{}\"]\n\
             table.name = \"rides\"\n{rest}\n",
            free_port().expect("a free port"),
            world.name,
            world.topic,
        )
    }
}

fn properties(lines: &[&str]) -> String {
    format!("[kafka.properties]\ndebug = \"all\"\n{}", lines.join("\n"))
}

/// Returns configurations that contain secrets and make the daemon fail, at various steps.
fn failing(world: &World, folder: &Path) -> Vec<Parts> {
    let of = || Parts::of(world);
    let dead = format!("127.0.0.1:{}", free_port().expect("a port"));
    let postgres = world.database.url_at("127.0.0.1:1");
    let user = |url: &str| url.replacen("postgres@", "clerk:canary-of-url@", 1);
    let sasl = "\"security.protocol\" = \"sasl_plaintext\"\n\"sasl.username\" = \"u\"";
    let scram = "\"sasl.mechanism\" = \"SCRAM-SHA-256\"\n\"sasl.password\" = \"canary-of-sasl\"";
    let scram_file = format!("\"sasl.password_file\" = {:?}", file(folder, "canary-of-sasl-file\n"));
    let oidc = "\"sasl.mechanism\" = \"OAUTHBEARER\"\n\"sasl.oauthbearer.method\" = \"oidc\"\n\
                \"sasl.oauthbearer.client.id\" = \"c\"\n\"sasl.oauthbearer.client.secret\" = \"canary-of-oidc\"\n\
                \"sasl.oauthbearer.token.endpoint.url\" = \"http://127.0.0.1:1/token\"";
    let keys = "\"security.protocol\" = \"ssl\"\n\"ssl.key.password\" = \"canary-of-key\"\n\
                \"ssl.key.pem\" = \"-----BEGIN PRIVATE KEY-----canary-of-pem-----END PRIVATE KEY-----\"";
    let keystore = format!(
        "\"security.protocol\" = \"ssl\"\n\"ssl.keystore.password\" = \"canary-of-keystore\"\n\"ssl.keystore.location\" = {:?}",
        file(folder, "canary-of-keystore-file")
    );
    let tell = script(folder, "echo canary-of-stdout; echo canary-of-stderr >&2; exit 3");
    let junk = script(folder, "echo '{\"password\": 7, \"token\": 8, \"x\": \"canary-of-json\"}'");
    let urls = [
        user(&world.database.url) + "?pasword=canary-of-unknown&sslpassword=canary-of-sslpassword",
        user(&world.database.url) + "?passfile=canary-of-passfile&options=canary-of-options",
        user(&world.database.url).replace("postgres://", "jdbc:postgres://"),
        "postgres://clerk:canary-of-hash#1@127.0.0.1/db".to_owned(),
        "postgres://clerk:canary-of-slash/1@127.0.0.1/db".to_owned(),
        "postgres://clerk:canary-of-percent%zz@127.0.0.1/db".to_owned(),
        "host=127.0.0.1 password=canary-of-pairs".to_owned(),
        user(&postgres),
        user(&world.database.url).replace(&world.database.name, "nowhere"),
        user(&world.database.url) + "?sslmode=require",
        user(&world.database.url) + "?sslmode=verify-full&sslrootcert=/nonexistent/ca.pem",
        user(&world.database.url).replacen("postgres@", "nobody@", 1),
    ];
    let mut cases: Vec<Parts> = urls.iter().map(|url| of().postgres(&format!("url = {url:?}"))).collect();
    for url in &urls[..7] {
        cases.push(of().postgres(&format!("url_file = {:?}", file(folder, url))));
    }
    let plain = format!("url = {:?}", world.database.url);
    let away = format!("url = {postgres:?}");
    let password = |url: &str, lines: &str| of().postgres(&format!("{url}\n{lines}"));
    cases.extend([
        of().kafka(&properties(&[sasl, scram])),
        of().at(&dead).kafka(&properties(&[sasl, scram])),
        of().at("no.such.host.invalid:9092").kafka(&properties(&[sasl, &scram_file, "\"sasl.mechanism\" = \"PLAIN\""])),
        of().kafka(&properties(&[sasl, oidc])),
        of().kafka(&properties(&[keys])),
        of().kafka(&properties(&[&keystore])),
        of().kafka(&format!(
            "token_command = [{tell:?}]\n{}",
            properties(&[sasl, "\"sasl.mechanism\" = \"OAUTHBEARER\""])
        )),
        of().kafka(&format!(
            "token_command = [{junk:?}]\n{}",
            properties(&[sasl, "\"sasl.mechanism\" = \"OAUTHBEARER\""])
        )),
        // Faults in a secret, or in a key beside a secret.
        of().kafka(&properties(&["\"sasl.pasword\" = \"canary-of-typo\""])),
        of().kafka(&properties(&["\"sasl.password\" = [\"canary-of-list\"]"])),
        of().kafka(&properties(&["\"sasl.jaas.config\" = \"password='canary-of-jaas'\""])),
        of().kafka(&properties(&["\"ssl.truststore.password\" = \"canary-of-truststore\""])),
        of().kafka(&properties(&["\"sasl.password\" = \"canary-of-unterminated"])),
        password(&plain, "pasword = \"canary-of-typo2\""),
        password(&away, &format!("password_file = {:?}", file(folder, "canary-of-password-file"))),
        password(&away, "password_file = \"/nonexistent/file\""),
        password(&plain, &format!("password_command = [{tell:?}]")),
        password(&plain, &format!("password_command = [{junk:?}]")),
        of().rest(
            "columns.id = { field = \"id\", type = \"text\", hash = \"sha256\", hash_key_file = \"/nonexistent\" }",
        ),
        of().rest(&format!(
            "columns.id = {{ field = \"id\", type = \"text\", hash = \"sha256\", hash_key_file = {:?} }}",
            file(folder, "canary-of-1")
        )),
    ]);
    for lines in [
        "username = \"u\"\npassword = \"canary-of-registry\"".to_owned(),
        "token = \"canary-of-registry-token\"".to_owned(),
        "token = \"canary-of-newline\\n\"".to_owned(),
        format!("username = \"u\"\npassword_file = {:?}", file(folder, "canary-of-registry-file")),
        format!("token_file = {:?}", file(folder, "canary-of-registry-token-file")),
    ] {
        for url in ["http://127.0.0.1:1", "http://user:canary-of-registry-url@127.0.0.1:1"] {
            let registry = format!("decode.format = \"avro\"\n[schema_registry]\nurl = \"{url}\"\n{lines}");
            cases.push(of().rest(&registry));
        }
    }
    cases
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_failure_shows_a_secret() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (id text)").await;
    world.produce([Record::new(r#"{"id":"1"}"#), Record::new([0, 0, 0, 0, 1, 2, 2])]);
    let folder = tempfile::tempdir().expect("a folder");
    let cases = failing(&world, folder.path());
    let next = std::sync::atomic::AtomicUsize::new(0);
    let work = || {
        while let Some(parts) = cases.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
            let config = parts.text(&world);
            for arguments in [
                &["check"][..],
                &["config", "print"],
                &["lag"],
                &["verify"],
                &["run", "--until", "now", "--give-up-after", "3s"],
            ] {
                let ran = tidegate(&config, arguments);
                assert_clean(&format!("{arguments:?} of\n{config}\n"), &format!("{}{}", ran.out, ran.err));
            }
        }
    };
    tokio::task::block_in_place(|| std::thread::scope(|scope| (0..3).for_each(|_| drop(scope.spawn(work)))));
}

/// Returns the daemon's log and the bodies of its HTTP responses.
fn shown(daemon: &Daemon) -> String {
    let mut shown = daemon.log().join("\n");
    for path in ["/metrics", "/readyz", "/healthz", "/api/status", "/api/history", "/"] {
        shown += &daemon.get(path).expect("it answers").body;
    }
    shown
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_runs_with_every_secret_shows_none() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (id text, name int)").await;
    let registry = Registry::start().expect("the registry starts");
    let schema =
        r#"{"type":"record","name":"R","fields":[{"name":"id","type":"string"},{"name":"name","type":"string"}]}"#;
    let id = registry.add("ride", "AVRO", schema, &[]);
    registry.require(Some("Bearer canary-of-token"));
    let folder = tempfile::tempdir().expect("a folder");
    let key = file(folder.path(), "canary-of-hash-key");
    let told = script(folder.path(), "echo '{\"password\": \"canary-of-command\", \"lifetime_seconds\": 1}'");
    let rest = format!(
        "decode.format = \"avro\"\ndead_letters.max_share = 1.0\n\
         columns = {{ id = {{ field = \"id\", type = \"text\", hash = \"sha256\", hash_key_file = {key:?} }}, name = {{ field = \"name\", type = \"int4\" }} }}\n\
         [schema_registry]\nurl = \"{}\"\ntoken_file = {:?}",
        registry.url(),
        file(folder.path(), "canary-of-token")
    );
    let unused = properties(&[
        "\"sasl.password\" = \"canary-of-sasl\"",
        "\"sasl.username\" = \"u\"",
        "\"ssl.key.password\" = \"canary-of-key\"",
        "\"ssl.keystore.password\" = \"canary-of-keystore\"",
    ]);
    let url = world.database.url.replacen("postgres@", "postgres:canary-of-url@", 1);
    let parts =
        Parts::of(&world).kafka(&unused).postgres(&format!("url = {url:?}\npassword_command = [{told:?}]")).rest(&rest);
    let config = parts.text(&world);
    let mut value = vec![0];
    value.extend(id.to_be_bytes());
    value.extend([2, b'1', 2, b'x']);
    world.produce([Record::new(value), Record::new("{")]);
    let by_environment = spec(&config).env("TIDEGATE__KAFKA__PROPERTIES__SASL_PASSWORD", "canary-of-environment");
    let daemon = Daemon::spawn(&by_environment).expect("the daemon starts");
    let letters = "SELECT count(*) FROM tidegate.dead_letter";
    daemon.await_ready(PATIENCE).expect("it flows");
    eventually_async("two dead letters", PATIENCE, async || world.number(letters).await == 2)
        .await
        .unwrap_or_else(|error| panic!("{error}: {}", daemon.log_tail()));
    let refusals = "tidegate_config_reloads_total";
    for (nth, bad) in (1..).zip([
        config.replace("token_file", "token_fil"),
        config.replace("\"canary-of-keystore\"", "[\"canary-of-list\"]"),
        config.replace(&url, "postgres://u:canary-of-bad/url@h/db?pasword=canary-of-unknown"),
        config.replace("canary-of-key\"", "canary-of-key"),
    ]) {
        daemon.write_config(&bad).expect("it is written");
        daemon.hang_up().expect("it is told");
        // Don't wait for a log line: at this log level, searching all lines takes long.
        let refused = |daemon: &Daemon| daemon.metric(refusals, &[("result", "failure")]) == Some(f64::from(nth));
        daemon.await_until("the configuration is refused", PATIENCE, refused).expect("a counter says so");
    }
    let letters = world.text("SELECT string_agg(l::text, ' ') FROM tidegate.dead_letter l").await;
    let status = tidegate(&config, &["status"]);
    for (what, text) in [
        ("the daemon", shown(&daemon)),
        ("a dead letter", letters),
        ("status", status.to_string()),
        ("check", tidegate(&config, &["check"]).to_string()),
        ("the list", tidegate(&config, &["dead-letters", "list", "--json"]).to_string()),
        ("config print", tidegate(&config, &["config", "print"]).to_string()),
        ("the ledger", world.text("SELECT string_agg(p::text, ' ') FROM tidegate.pipeline p").await),
    ] {
        assert_clean(what, &text);
    }
}
