//! A schema registry (a stand-in) with TLS and a password. The certificate authority and the password are replaced while the
//! daemon runs.

use std::fs;

use tidegate_harness::{Daemon, Record, Registry, tls::Authority, unique_name};

use crate::formats_registry::framed;
use crate::reload::{hang_up, reloads};
use crate::support::{PATIENCE, World};

const RIDE: &str = r#"{"type":"record","name":"Ride","fields":[{"name":"id","type":"long"}]}"#;

/// The passwords of the user `reader`, each with its value of the `Authorization` header.
const PASSWORDS: [(&str, &str); 2] = [("one", "Basic cmVhZGVyOm9uZQ=="), ("two", "Basic cmVhZGVyOnR3bw==")];

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_whose_authority_and_password_are_replaced_is_an_outage_until_the_files_are() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (id bigint)").await;
    let folder = tempfile::tempdir().expect("a folder");
    let (ca, password) = (folder.path().join("ca.pem"), folder.path().join("password"));
    let authorities = [(); 2].map(|()| Authority::new().expect("an authority"));
    let registry = Registry::start().expect("the registry starts");
    let serve = |authority: &Authority, name: &str| {
        let identity = authority.server(&unique_name("registry"), &[name]).expect("a certificate");
        registry.set_certificate(&identity).expect("it is used");
    };
    let trust = |authority: &Authority| fs::copy(authority.certificate(), &ca).expect("the file is replaced");
    serve(&authorities[0], "127.0.0.1");
    trust(&authorities[0]);
    registry.require(Some(PASSWORDS[0].1));
    fs::write(&password, PASSWORDS[0].0).expect("the password is written");

    // Each schema is new, so each record needs a request.
    let produce = |id: u8| {
        let schema = registry.add("ride", "AVRO", &RIDE.replace("Ride", &format!("Ride{id}")), &[]);
        world.produce([Record::new(framed(schema, &[], &[id * 2])).to(0)]);
    };
    produce(1);
    let table = format!(
        "[schema_registry]\nurl = \"{}\"\nca_file = {ca:?}\nusername = \"reader\"\npassword_file = {password:?}\n[http]",
        registry.url()
    );
    let config = world.config("table.name = \"rides\"\ndecode.format = \"avro\"").replacen("[http]", &table, 1);
    let daemon = world.daemon(&config);
    world.await_written(&daemon).await;

    // A password is read again for each request.
    registry.require(Some(PASSWORDS[1].1));
    produce(2);
    await_unready(&daemon, "check `schema_registry.username` and its password");
    fs::write(&password, PASSWORDS[1].0).expect("the password is written");
    world.await_written(&daemon).await;

    // Authorities are read at the start of a pipeline and at SIGHUP.
    serve(&authorities[1], "127.0.0.1");
    produce(3);
    await_unready(&daemon, "name the file of the authority in `schema_registry.ca_file`");
    trust(&authorities[1]);
    hang_up(&daemon, &config);
    daemon.await_log("a file that it names", PATIENCE).expect("the pipeline restarts");
    world.await_written(&daemon).await;

    serve(&authorities[1], "registry.example");
    produce(4);
    await_unready(&daemon, "its certificate is for another host name");
    serve(&authorities[1], "127.0.0.1");
    world.await_written(&daemon).await;
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 4);
    assert_eq!(world.number("SELECT sum(id)::int8 FROM rides").await, 10);
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 0);
    daemon.drain(PATIENCE).expect("it ends");
}

fn await_unready(daemon: &Daemon, words: &str) {
    let unready = |daemon: &Daemon| daemon.get("/readyz").is_ok_and(|ready| ready.body.contains(words));
    daemon.await_until(words, PATIENCE, unready).expect("readiness says why");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_reads_the_key_of_hashed_columns_again() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (who bytea)").await;
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("key");
    fs::write(&key, "a key of sixteen bytes or more").expect("the key is written");
    let produce = || world.produce([Record::new(r#"{"who":"anna"}"#).to(0)]);
    produce();
    let config = world.config(&format!(
        "table.name = \"rides\"\ncolumns.who = {{ field = \"who\", hash = \"sha256\", hash_key_file = {key:?} }}"
    ));
    let daemon = world.daemon(&config);
    world.await_written(&daemon).await;
    // The file has the same content as before. So nothing restarts, and the digest stays the same.
    hang_up(&daemon, &config);
    reloads(&daemon, "success", 1.0);
    produce();
    world.await_written(&daemon).await;
    assert_eq!(world.number("SELECT count(DISTINCT who) FROM rides").await, 1);
    fs::write(&key, "another key of sixteen bytes or more").expect("the key is written");
    hang_up(&daemon, &config);
    daemon.await_log("a file that it names", PATIENCE).expect("the pipeline restarts");
    produce();
    world.await_written(&daemon).await;
    assert_eq!(world.number("SELECT count(DISTINCT who) FROM rides").await, 2);
    daemon.drain(PATIENCE).expect("it ends");
}
