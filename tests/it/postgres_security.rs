//! PostgreSQL with TLS: `sslmode` from `require` to `verify-full`, client certificates and SCRAM. Servers that
//! aren't trusted are rejected.

use std::sync::{Arc, OnceLock};

use tidegate_harness::tls::Identity;
use tidegate_harness::{Authority, Daemon, Postgres, PostgresSpec, shared};
use tokio::sync::{Mutex, MutexGuard};

use crate::accounting::NUMBERED;
use crate::cli::tidegate;
use crate::support::{PATIENCE, World, spec};

const RECORDS: i32 = 200;
/// A user who authenticates with [`PASSWORD`], over TLS only.
const BY_PASSWORD: &str = "by_password";
const PASSWORD: &str = "kelp-forest-42";
/// A user who authenticates with a certificate. The certificate's common name is the user's name.
const BY_CERTIFICATE: &str = "by_certificate";

/// The server that the tests of this file share. Its certificate is valid for `localhost`, but not for 127.0.0.1.
struct Secured {
    postgres: Postgres,
    authority: Arc<Authority>,
    server: Identity,
    client: Identity,
}

async fn secured() -> (MutexGuard<'static, ()>, &'static Secured) {
    static SECURED: OnceLock<Secured> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::const_new(());
    let turn = TURN.lock().await;
    let secured = SECURED.get_or_init(|| {
        let authority = Arc::new(Authority::new().expect("an authority"));
        let server = authority.server("postgres", &["localhost"]).expect("a server's certificate");
        let client = authority.client(BY_CERTIFICATE).expect("a client's certificate");
        let spec = PostgresSpec::default()
            .tls(&authority, &server)
            .access(&format!("hostssl all {BY_PASSWORD} all scram-sha-256"))
            .access(&format!("hostssl all {BY_CERTIFICATE},by_other all cert"))
            .access("hostssl all ghost all trust")
            .access(&format!("hostnossl all {BY_PASSWORD},{BY_CERTIFICATE} all reject"));
        Secured { postgres: Postgres::start(&spec).expect("Postgres starts"), authority, server, client }
    });
    (turn, secured)
}

impl Secured {
    fn authority(&self) -> String {
        format!("sslrootcert={}", self.authority.certificate().display())
    }

    fn client(&self) -> String {
        format!("sslcert={}&sslkey={}", self.client.certificate.display(), self.client.key.display())
    }

    async fn world(&'static self) -> World {
        let world = World::on(shared::kafka().expect("Kafka starts"), &self.postgres, 2).await;
        let roles = "SELECT count(*) FROM pg_roles WHERE rolname = 'by_password'";
        if world.number(roles).await == 0 {
            world.sql(&format!("CREATE ROLE {BY_CERTIFICATE} LOGIN; CREATE ROLE {BY_PASSWORD} LOGIN PASSWORD '{PASSWORD}' IN ROLE {BY_CERTIFICATE}")).await;
        }
        world
            .sql(&format!(
                "{NUMBERED}; ALTER TABLE rides OWNER TO {BY_CERTIFICATE};
                 GRANT CREATE ON DATABASE {} TO {BY_CERTIFICATE}",
                world.database.name
            ))
            .await;
        world.produce_numbered(0..RECORDS, 2);
        world
    }

    /// Returns a configuration that connects as `user` to `host`. `parameters` is the query part of the URL.
    fn config(&self, world: &World, user: &str, host: &str, parameters: &str) -> String {
        let (_, port) =
            world.postgres.address().rsplit_once(':').map(|(h, p)| (h.to_owned(), p.to_owned())).expect("a port");
        let url = format!("postgres://{user}@{host}:{port}/{}?{parameters}", world.database.name);
        world.config_at(&url, "table.name = \"rides\"")
    }
}

fn with_password() -> String {
    format!("{BY_PASSWORD}:{PASSWORD}")
}

async fn drains(secured: &'static Secured, user: &str, host: &str, parameters: &str, environment: Option<&str>) {
    let world = secured.world().await;
    let mut spec = spec(&secured.config(&world, user, host, parameters)).arg("--until").arg("now");
    if let Some(authorities) = environment {
        spec = spec.env("SSL_CERT_FILE", authorities);
    }
    let daemon = Daemon::spawn(&spec).expect("the daemon starts");
    let status = daemon.wait_exit(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(0), "{parameters}: {}", daemon.log_tail());
    assert!(!daemon.log().join("\n").contains(PASSWORD), "{parameters}: the password is shown");
    world.assert_exact(RECORDS.into()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_of_tls_drains_with_a_password() {
    let (_turn, secured) = secured().await;
    let ca = secured.authority();
    drains(secured, &with_password(), "127.0.0.1", "sslmode=require", None).await;
    drains(secured, &with_password(), "localhost", &format!("sslmode=verify-ca&{ca}"), None).await;
    drains(secured, &with_password(), "localhost", &format!("sslmode=verify-full&{ca}"), None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_authorities_of_the_system_are_trusted_when_none_is_named() {
    let (_turn, secured) = secured().await;
    let file = secured.authority.certificate().display().to_string();
    drains(secured, &with_password(), "localhost", "sslmode=verify-full", Some(&file)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_certificate_drains() {
    let (_turn, secured) = secured().await;
    let parameters = format!("sslmode=verify-full&{}&{}", secured.authority(), secured.client());
    drains(secured, BY_CERTIFICATE, "localhost", &parameters, None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_trusted_is_refused_with_a_remedy() {
    let (_turn, secured) = secured().await;
    let world = secured.world().await;
    let full = format!("sslmode=verify-full&{}", secured.authority());
    let ca = format!("sslmode=verify-ca&{}", secured.authority());
    let right = with_password();
    let wrong = format!("{BY_PASSWORD}:driftwood");
    for (user, host, parameters, words) in [
        (&right, "localhost", "sslmode=verify-full", "an authority that is not trusted"),
        (&right, "localhost", "sslmode=verify-ca", "an authority that is not trusted"),
        (&right, "127.0.0.1", full.as_str(), "a host name that the server's certificate is for"),
        (&right, "127.0.0.1", ca.as_str(), "`sslmode=verify-ca` checks the name too"),
        (&right, "localhost", "sslmode=disable", "accepts this user only with TLS"),
        (&wrong, "localhost", "sslmode=require", "check the user and the password"),
        (&BY_CERTIFICATE.to_owned(), "localhost", "sslmode=require", "name a client certificate"),
    ] {
        let ran = tidegate(&secured.config(&world, user, host, parameters), &["check"]).fails(69, &[words]);
        assert!(!ran.to_string().contains(PASSWORD) && !ran.to_string().contains("driftwood"), "{parameters}: {ran}");
    }
    let (certificate, key) = (secured.client.certificate.display(), secured.server.key.display());
    let pair = format!("sslmode=require&sslcert={certificate}&sslkey={key}");
    tidegate(&secured.config(&world, BY_CERTIFICATE, "localhost", &pair), &["check"])
        .fails(69, &["`sslkey` of the URL doesn't belong"]);
    let alone = format!("sslmode=require&sslcert={certificate}");
    tidegate(&secured.config(&world, BY_CERTIFICATE, "localhost", &alone), &["check"])
        .fails(69, &["the URL needs both `sslcert` and `sslkey`"]);
    let own = format!("sslmode=require&{}", secured.client());
    for (user, words) in [("by_other", "the common name of the certificate"), ("ghost", "create the role")] {
        tidegate(&secured.config(&world, user, "localhost", &own), &["check"]).fails(69, &[words]);
    }
    let expired = secured.authority.expired("postgres-expired", &["localhost"]).expect("an expired certificate");
    let authority = secured.authority.server_as_authority("postgres-ca", &["localhost"]).expect("a certificate");
    for (certificate, words) in
        [(expired, "renew the server's certificate"), (authority, "the certificate of an authority (CA:TRUE)")]
    {
        secured.postgres.set_certificate(&secured.authority, &certificate).expect("the certificate is put in place");
        secured.postgres.restart().expect("Postgres restarts");
        let ran = tidegate(&secured.config(&world, &right, "localhost", &full), &["check"]);
        secured.postgres.set_certificate(&secured.authority, &secured.server).expect("the old one is put back");
        secured.postgres.restart().expect("Postgres restarts");
        ran.fails(69, &[words]);
    }
    let plain = shared::postgres().expect("Postgres starts");
    let url = format!("postgres://postgres@{}/postgres?sslmode=require", plain.address());
    tidegate(&world.config_at(&url, "table.name = \"rides\""), &["check"]).fails(69, &["set `ssl = on` at the server"]);
}
