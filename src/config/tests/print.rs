//! Tests of the configuration as text, and of its JSON schema.

use std::io::Write as _;

use crate::config::{Config, json_schema, may_be_secret};

const SECRETS: &str = r#"
[kafka]
bootstrap_servers = "broker:9092"
token_command = ["token", "--key", "CANARY"]
properties = { "sasl.password" = "CANARY", "sasl.username" = "me", "ssl.key.pem" = "CANARY", "ssl.ca.location" = "probe" }
[postgres]
url = "postgres://u:CANARY@h/d"
[pipelines.rides]
topics = ["rides"]
consumers = 1
table.name = "rides"
kafka = { "ssl.key.password" = "CANARY" }
[pipelines.rides.columns]
at = { field = "a.b", type = "timestamptz" }
"#;

#[test]
fn what_is_printed_is_what_was_set_without_its_secrets() {
    let mut file = tempfile::NamedTempFile::new().expect("a file is made");
    file.write_all(SECRETS.replace("token_command = [\"token\", \"--key\", \"CANARY\"]\n", "").as_bytes())
        .expect("it is written");
    let env = [("TIDEGATE__PIPELINES__RIDES__CONSUMERS".to_owned(), "3".to_owned())];
    let printed =
        Config::merged(&[file.path().to_owned()], env.into_iter()).unwrap_or_else(|faults| panic!("{faults}"));
    assert!(!printed.contains("CANARY"), "{printed}");
    for part in [
        "bootstrap_servers = \"broker:9092\"",
        "\"sasl.username\" = \"me\"",
        "\"sasl.password\" = \"***\"",
        "\"ssl.ca.location\" = \"probe\"",
        "url = \"***\"",
        "consumers = 3",
        "field = \"a.b\"",
    ] {
        assert!(printed.contains(part), "no {part} in\n{printed}");
    }
    assert!(printed.parse::<toml_edit::DocumentMut>().is_ok(), "{printed}");
}

/// Only some builds of librdkafka accept each of these properties, so a configuration can't test them all.
#[test]
fn secrets_of_librdkafka_are_known_by_their_names() {
    for secret in [
        "sasl.oauthbearer.assertion.private.key.passphrase",
        "sasl.oauthbearer.assertion.private.key.pem",
        "sasl.oauthbearer.client.credentials.client.secret",
        "sasl.oauthbearer.client.secret",
        "sasl.oauthbearer.config",
        "sasl.password",
        "ssl.key.password",
        "ssl.key.pem",
        "ssl.keystore.password",
    ] {
        assert!(may_be_secret(secret), "{secret}");
    }
    for shown in ["sasl.username", "ssl.key.location", "sasl.oauthbearer.assertion.private.key.file"] {
        assert!(!may_be_secret(shown), "{shown}");
    }
}

#[test]
fn the_json_schema_knows_each_key_and_no_other() {
    let schema = json_schema();
    let pipeline = &schema["properties"]["pipelines"]["additionalProperties"];
    assert_eq!(pipeline["properties"]["batch"]["properties"]["max_rows"]["type"], "integer");
    assert_eq!(pipeline["additionalProperties"], false);
    assert_eq!(schema["properties"]["kafka"]["properties"]["properties"]["type"], "object");
    assert_eq!(pipeline["properties"]["columns"]["additionalProperties"]["anyOf"][0]["type"], "string");
}
