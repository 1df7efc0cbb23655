//! Kafka with TLS and SASL. A topic is drained with client certificates and with each SASL mechanism of the shared broker.
//! `check` fails if the server can't be trusted, or if the client's credentials are missing or wrong.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tidegate_harness::kafka::{SASL_PASSWORD, SASL_USER};
use tidegate_harness::tls::Identity;
use tidegate_harness::{Authority, Daemon, DaemonSpec, Kafka, KafkaSpec, Listener, shared};

use crate::accounting::NUMBERED;
use crate::cli::tidegate;
use crate::kafka_health::{acl, leak};
use crate::support::{PATIENCE, World, program, spec};

const RECORDS: i32 = 200;

/// The broker that this file and `kafka_tokens.rs` share, and a client certificate that the broker trusts.
pub(crate) struct Secured {
    pub(crate) kafka: Kafka,
    authority: Arc<Authority>,
    client: Identity,
}

pub(crate) fn secured() -> &'static Secured {
    static SECURED: OnceLock<Secured> = OnceLock::new();
    SECURED.get_or_init(|| {
        let authority = Arc::new(Authority::new().expect("an authority"));
        let client = authority.client("tidegate").expect("a client's certificate");
        let kafka = Kafka::start(&KafkaSpec::single().secured(&authority)).expect("Kafka starts");
        kafka.set_scram_password(SASL_USER, SASL_PASSWORD).expect("the password is set");
        Secured { kafka, authority, client }
    })
}

/// Returns a world on the secured broker. The topic has [`RECORDS`] numbered records, and the table is empty.
pub(crate) async fn world() -> World {
    let world = World::on(&secured().kafka, shared::postgres().expect("Postgres starts"), 2).await;
    world.sql(NUMBERED).await;
    world.produce_numbered(0..RECORDS, 2);
    world
}

/// Returns a configuration that connects to one listener. `properties` are further properties of librdkafka.
pub(crate) fn config(world: &World, listener: Listener, properties: &[(&str, String)]) -> String {
    let address = secured().kafka.secure_address(listener).expect("the listener");
    let plain = format!("bootstrap_servers = \"{}\"", secured().kafka.bootstrap_servers());
    let protocol = if listener == Listener::Sasl { "SASL_SSL" } else { "SSL" };
    let mut table = format!("[kafka.properties]\n\"security.protocol\" = \"{protocol}\"\n");
    for (name, value) in properties {
        table += &format!("\"{name}\" = '''{value}'''\n");
    }
    let config = world.config("table.name = \"rides\"");
    let config = config.replacen(&plain, &format!("bootstrap_servers = \"{address}\""), 1);
    config.replacen("[postgres]", &format!("{table}[postgres]"), 1)
}

pub(crate) fn authority() -> (&'static str, String) {
    ("ssl.ca.location", secured().authority.certificate().display().to_string())
}

fn text(path: &PathBuf) -> String {
    std::fs::read_to_string(path).expect("the file is read")
}

fn sasl(mechanism: &str, password: &str) -> Vec<(&'static str, String)> {
    vec![
        authority(),
        ("sasl.mechanism", mechanism.to_owned()),
        ("sasl.username", SASL_USER.to_owned()),
        ("sasl.password", password.to_owned()),
    ]
}

async fn drains(config: impl FnOnce(&World) -> String) {
    let world = world().await;
    let (code, log) = world.drain(&config(&world));
    assert_eq!(code, Some(0), "{log}");
    world.assert_exact(RECORDS.into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_drains_with_an_authority_in_a_file_or_in_place() {
    drains(|world| config(world, Listener::Tls, &[authority()])).await;
    let pem = text(&secured().authority.certificate());
    drains(|world| config(world, Listener::Tls, &[("ssl.ca.pem", pem)])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_certificate_drains_from_files_or_in_place() {
    let client = &secured().client;
    let files = [
        authority(),
        ("ssl.certificate.location", client.certificate.display().to_string()),
        ("ssl.key.location", client.key.display().to_string()),
    ];
    drains(|world| config(world, Listener::MutualTls, &files)).await;
    let in_place =
        [authority(), ("ssl.certificate.pem", text(&client.certificate)), ("ssl.key.pem", text(&client.key))];
    drains(|world| config(world, Listener::MutualTls, &in_place)).await;
}

/// Replaces a file atomically, as tools that renew certificates do.
fn replace(file: &Path, by: &Path) {
    let new = file.with_extension("new");
    std::fs::copy(by, &new).expect("it is copied");
    std::fs::rename(new, file).expect("it is replaced");
}

/// After both files were replaced, the broker denies the topic to the first certificate. Only a client with the second one can
/// drain.
#[tokio::test(flavor = "multi_thread")]
async fn a_clients_certificate_that_is_replaced_is_used_after_sighup_and_half_a_replacement_changes_nothing() {
    let authority = Arc::new(Authority::new().expect("an authority"));
    let [first, second] = ["first", "second"].map(|name| authority.client(name).expect("a client's certificate"));
    let spec = KafkaSpec::single().secured(&authority).acls();
    let kafka = leak(Kafka::start(&spec).expect("Kafka starts"));
    let world = World::on(kafka, shared::postgres().expect("Postgres starts"), 2).await;
    world.sql(NUMBERED).await;
    let folder = tempfile::tempdir().expect("a folder");
    let [certificate, key] = ["client.crt", "client.key"].map(|name| folder.path().join(name));
    replace(&certificate, &first.certificate);
    replace(&key, &first.key);
    let address = kafka.secure_address(Listener::MutualTls).expect("the listener");
    let config = world.config("table.name = \"rides\"").replacen(kafka.bootstrap_servers(), &address, 1).replacen(
        "[postgres]",
        &format!(
            "[kafka.properties]\n\"security.protocol\" = \"SSL\"\n\"ssl.ca.location\" = \"{}\"\n\
             \"ssl.certificate.location\" = \"{}\"\n\"ssl.key.location\" = \"{}\"\n[postgres]",
            authority.certificate().display(),
            certificate.display(),
            key.display()
        ),
        1,
    );
    world.produce_numbered(0..RECORDS, 2);
    let daemon = world.daemon(&config);
    world.await_written(&daemon).await;

    replace(&certificate, &second.certificate);
    daemon.hang_up().expect("it gets the signal");
    let refused = daemon.await_log("the new configuration is refused", PATIENCE).expect("the key belongs to the first");
    assert!(refused.contains("no client for Kafka can be created"), "{refused}");
    world.produce_numbered(RECORDS..2 * RECORDS, 2);
    world.await_written(&daemon).await;

    replace(&key, &second.key);
    daemon.hang_up().expect("it gets the signal");
    daemon.await_log("a file that it names", PATIENCE).expect("it says why the pipeline restarts");
    let rules = ["--add", "--deny-principal", "User:CN=first", "--allow-principal", "User:*", "--operation", "All"];
    acl(kafka, &[&rules[..], &["--topic", &world.topic]].concat());
    world.produce_numbered(2 * RECORDS..3 * RECORDS, 2);
    world.await_written(&daemon).await;
    daemon.drain(PATIENCE).expect("it ends");
    world.assert_exact(i64::from(3 * RECORDS)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sasl_mechanism_drains() {
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        drains(|world| config(world, Listener::Sasl, &sasl(mechanism, SASL_PASSWORD))).await;
    }
    let unsigned = [
        authority(),
        ("sasl.mechanism", "OAUTHBEARER".to_owned()),
        ("enable.sasl.oauthbearer.unsecure.jwt", "true".to_owned()),
        ("sasl.oauthbearer.config", "principal=tidegate".to_owned()),
    ];
    drains(|world| config(world, Listener::Sasl, &unsigned)).await;
}

/// The daemon runs in its own mount namespace, in which another file replaces the system's CA file.
#[tokio::test(flavor = "multi_thread")]
async fn the_authorities_of_the_system_are_trusted_when_none_is_named() {
    let world = world().await;
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("tidegate");
    let lines = format!(
        "#!/bin/sh\nexec unshare --map-root-user --mount sh -c 'mount --bind \"$0\" \"$1\" && shift && exec \"$@\"' \
         '{}' /etc/ssl/certs/ca-certificates.crt '{}' \"$@\"\n",
        secured().authority.certificate().display(),
        program().display(),
    );
    std::fs::write(&script, lines).expect("the script is written");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it may be run");
    let config = config(&world, Listener::Tls, &[]);
    let spec = DaemonSpec::new(&script, config).arg("--until").arg("now");
    let daemon = Daemon::spawn(&spec).expect("the daemon starts");
    let status = daemon.wait_exit(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", daemon.log_tail());
    world.assert_exact(RECORDS.into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authorities_that_the_environment_names_are_trusted() {
    let world = world().await;
    let config = config(&world, Listener::Tls, &[]);
    let ca = secured().authority.certificate().display().to_string();
    let spec = spec(&config).env("SSL_CERT_FILE", ca).arg("--until").arg("now");
    let daemon = Daemon::spawn(&spec).expect("the daemon starts");
    let status = daemon.wait_exit(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", daemon.log_tail());
    world.assert_exact(RECORDS.into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_trusted_is_refused() {
    let world = world().await;
    let cases = [
        ("an unknown authority", config(&world, Listener::Tls, &[])),
        ("another host's certificate", config(&world, Listener::WrongName, &[authority()])),
        ("an expired certificate", config(&world, Listener::Expired, &[authority()])),
        ("no certificate of a client", config(&world, Listener::MutualTls, &[authority()])),
        ("a wrong password of PLAIN", config(&world, Listener::Sasl, &sasl("PLAIN", "driftwood"))),
        ("a wrong password of SCRAM", config(&world, Listener::Sasl, &sasl("SCRAM-SHA-512", "driftwood"))),
    ];
    // Each run waits for Kafka until a deadline, so run them at the same time.
    std::thread::scope(|scope| {
        for (case, config) in &cases {
            scope.spawn(move || {
                let ran = tidegate(config, &["check"]);
                assert_eq!(ran.code, 69, "{case}: {ran}");
                assert!(!ran.to_string().contains("driftwood"), "{case}: the password is shown");
            });
        }
    });
}
