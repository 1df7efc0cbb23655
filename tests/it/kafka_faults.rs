//! The messages of `tidegate check` if it can't connect to Kafka. Each cause has its own message, with the broker's
//! address and a remedy.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tidegate_harness::{Kafka, KafkaSpec, free_port, shared};

use crate::cli::tidegate;
use crate::kafka_health::{config, with_scram, world_behind};
use crate::support::in_tests;

/// The exit code for an unavailable service.
const UNAVAILABLE: i32 = 69;
/// The longest time that `check` may take to say why Kafka doesn't answer.
const SOON: Duration = Duration::from_secs(15);

fn keytool(arguments: &[&str], store: &Path) -> Vec<u8> {
    let store = store.display().to_string();
    let of_store = ["-keystore", &store, "-storetype", "PKCS12", "-storepass", "secret"];
    let run = Command::new("keytool").args(arguments).args(of_store).output().expect("keytool runs");
    assert!(run.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&run.stdout));
    run.stdout
}

/// Creates a key pair for `localhost` in `NAME.p12`, its certificate in `NAME.pem`, and a trust store with this certificate in
/// `NAME-trust.p12`.
fn key_pair(folder: &Path, name: &str) {
    let (store, pem) = (folder.join(format!("{name}.p12")), folder.join(format!("{name}.pem")));
    let subject = ["-dname", "CN=localhost", "-ext", "SAN=dns:localhost", "-validity", "30"];
    keytool(&[&["-genkeypair", "-keyalg", "RSA", "-alias", name], &subject[..]].concat(), &store);
    std::fs::write(&pem, keytool(&["-exportcert", "-rfc", "-alias", name], &store)).expect("it is written");
    let import = ["-importcert", "-noprompt", "-alias", name, "-file", &pem.display().to_string()];
    keytool(&import, &folder.join(format!("{name}-trust.p12")));
}

/// Starts a Kafka behind a proxy. The listener behind the proxy uses TLS, requires a client certificate, and trusts only
/// `broker.pem`.
fn with_tls(folder: &Path) -> (Kafka, tidegate_harness::Proxy) {
    let mut spec = KafkaSpec::single()
        .property("listener.security.protocol.map", "PLAINTEXT:PLAINTEXT,PROXIED:SSL,CONTROLLER:PLAINTEXT")
        .property("listener.name.proxied.ssl.client.auth", "required");
    for (of, file) in [("keystore", "broker.p12"), ("truststore", "broker-trust.p12")] {
        let store = folder.join(file).display().to_string();
        spec = spec.property(&format!("listener.name.proxied.ssl.{of}.location"), &store);
        spec = spec.property(&format!("listener.name.proxied.ssl.{of}.password"), "secret");
        spec = spec.property(&format!("listener.name.proxied.ssl.{of}.type"), "PKCS12");
    }
    spec = spec.property("listener.name.proxied.ssl.key.password", "secret");
    let (kafka, mut proxies) = Kafka::start_behind_proxies(&spec).expect("Kafka starts");
    (kafka, proxies.remove(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_cause_of_a_failed_connection_has_words_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    key_pair(folder.path(), "broker");
    key_pair(folder.path(), "other");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (secure, tls_proxy) = with_tls(folder.path());
    let (scram, scram_proxy) = with_scram("rides", "right");
    let world = world_behind(scram).await;

    let tls = tls_proxy.addr().to_string();
    let by_name = format!("localhost:{}", tls_proxy.addr().port());
    let sasl = scram_proxy.addr().to_string();
    let plain = secure.bootstrap_servers().to_owned();
    let postgres = shared::postgres().expect("Postgres starts").address();
    let nobody = format!("127.0.0.1:{}", free_port().expect("a free port"));
    let ssl = |ca: &str| format!("\"security.protocol\" = \"ssl\"\n\"ssl.ca.location\" = \"{}\"", file(ca));
    let as_user = |mechanism: &str, password: &str| {
        format!(
            "\"security.protocol\" = \"sasl_plaintext\"\n\"sasl.mechanism\" = \"{mechanism}\"\n\
             \"sasl.username\" = \"rides\"\n\"sasl.password\" = \"{password}\""
        )
    };
    let mut causes = BTreeSet::new();
    for (servers, properties, cause, remedy) in [
        (
            "no-such-host.invalid:9092",
            String::new(),
            "the host name has no address",
            "correct `kafka.bootstrap_servers`",
        ),
        (&nobody, String::new(), "the connection is refused", "start Kafka there"),
        (&postgres, String::new(), "Postgres listens there", "correct the port"),
        (&tls, String::new(), "as a TLS listener does", "security.protocol"),
        (&plain, ssl("broker.pem"), "the listener does not speak TLS", "the port of the TLS listener"),
        (&by_name, ssl("other.pem"), "not signed by a known CA", "ssl.ca.location"),
        (&tls, ssl("broker.pem"), "for another host name", "a host name that the certificate holds"),
        (&by_name, ssl("broker.pem"), "does not accept our client certificate", "ssl.certificate.location"),
        (&sasl, String::new(), "as a SASL listener does", "sasl_plaintext"),
        (&sasl, as_user("SCRAM-SHA-256", "CANARY"), "refuses the user or the password", "sasl.password"),
        (&sasl, as_user("PLAIN", "CANARY"), "does not offer this SASL mechanism", "sasl.mechanism"),
        (&plain, as_user("PLAIN", "CANARY"), "the listener does not use SASL", "the SASL listener"),
    ] {
        let started = Instant::now();
        let ran =
            tidegate(&config(&world, servers, &properties), &["check"]).fails(UNAVAILABLE, &[servers, cause, remedy]);
        println!("{:?}: {cause}", started.elapsed());
        assert!(started.elapsed() < in_tests(SOON), "{cause}: after {:?}", started.elapsed());
        assert!(!format!("{}{}", ran.out, ran.err).contains("CANARY"), "a password is printed: {ran}");
        causes.insert(cause);
    }
    assert_eq!(causes.len(), 12);
    tidegate(&config(&world, &sasl, &as_user("SCRAM-SHA-256", "right")), &["check"]).ok();
}
