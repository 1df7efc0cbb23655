//! Tests every key that names a file: either a reload notices that the file's content changed, or the file is read
//! whenever it is used.

use super::BASE;
use crate::config::Config;
use crate::config::property_names::NAMES;
use crate::config::schema::{Key, Kind, ROOT};

/// A key, lines that set it to `FILE`, and two contents of that file.
type Case = (&'static str, &'static str, [&'static str; 2]);

const SCHEMAS: [&str; 2] = [
    r#"{"type":"record","name":"Ride","fields":[{"name":"id","type":"int"}]}"#,
    r#"{"type":"record","name":"Ride","fields":[{"name":"id","type":"long"}]}"#,
];
const REGISTRY: &str = "decode.format = 'avro'\n[schema_registry]\nurl = \"https://127.0.0.1:8081\"\n";

/// Files that are read when the configuration is read, or when a client is created. So a
/// reload must notice that the content has changed.
const COMPARED: &[Case] = &[
    ("schema_registry.ca_file", "REGISTRY ca_file = 'FILE'", ["one", "two"]),
    ("pipelines.decode.schema_file", "decode = { format = 'avro', schema_file = 'FILE' }", SCHEMAS),
    (
        "pipelines.decode.key_schema_file",
        "decode = { format = 'json', key_format = 'avro', key_schema_file = 'FILE' }",
        SCHEMAS,
    ),
    (
        "pipelines.columns.hash_key_file",
        "columns.id = { field = 'id', hash = 'sha256', hash_key_file = 'FILE' }",
        ["sixteen bytes, or more", "sixteen other bytes, or more"],
    ),
    ("ssl.ca.location", "kafka.'ssl.ca.location' = 'FILE'", ["one", "two"]),
    ("ssl.certificate.location", "kafka.'ssl.certificate.location' = 'FILE'", ["one", "two"]),
    ("ssl.crl.location", "kafka.'ssl.crl.location' = 'FILE'", ["one", "two"]),
    ("ssl.key.location", "kafka.'ssl.key.location' = 'FILE'", ["one", "two"]),
    ("ssl.keystore.location", "kafka.'ssl.keystore.location' = 'FILE'", ["one", "two"]),
    // Any property of Kafka may have its value in a file.
    ("ssl.key.password_file", "kafka.'ssl.key.password_file' = 'FILE'", ["one", "two"]),
    ("of [kafka]: ssl.ca.location", "[kafka.properties]\n'ssl.ca.location' = 'FILE'", ["one", "two"]),
    ("of [kafka]: ssl.key.password_file", "[kafka.properties]\n'ssl.key.password_file' = 'FILE'", ["one", "two"]),
];

/// Files that are read for each connection, request or token. So a reload must not restart pipelines if the content has changed.
const READ_WHEN_USED: &[Case] = &[
    ("postgres.url_file", "URL_FILE", ["postgres://a@127.0.0.1/t", "postgres://b@127.0.0.1/t"]),
    ("postgres.password_file", "[postgres]\npassword_file = 'FILE'", ["one", "two"]),
    ("schema_registry.password_file", "REGISTRY username = 'gate'\npassword_file = 'FILE'", ["one", "two"]),
    ("schema_registry.token_file", "REGISTRY token_file = 'FILE'", ["one", "two"]),
];

/// Properties of Kafka that name files and need no comparison: `https.ca.location` is read for each token, and
/// `ssl.engine.location` is a library, which a process loads once.
const OTHER_LOCATIONS: &[&str] = &["https.ca.location", "ssl.engine.location"];

fn toml(lines: &str, file: &str) -> String {
    let lines = lines.replace("REGISTRY ", REGISTRY).replace("FILE'", &format!("{file}'"));
    let url = "url = \"postgres://tidegate@127.0.0.1:5432/telemetry\"";
    if lines == "URL_FILE" {
        return BASE.replace(url, &format!("url_file = '{file}'"));
    }
    if let Some(more) = lines.strip_prefix("[postgres]\n") {
        return BASE.replace(url, &format!("{url}\n{more}"));
    }
    format!("{BASE}{lines}\n")
}

/// Returns whether a reload finds a difference after the file's content was replaced.
fn notices(&(key, lines, [before, after]): &Case) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("content");
    let toml = toml(lines, file.to_str().expect("a path in UTF-8"));
    let read = |content: &str| {
        std::fs::write(&file, content).expect("the file is written");
        Config::parse("tidegate.toml", &toml).unwrap_or_else(|faults| panic!("{key}: {faults}\n{toml}"))
    };
    let equal = |one: &Config, other: &Config| {
        (&one.pipelines, &one.kafka, &one.postgres) == (&other.pipelines, &other.kafka, &other.postgres)
    };
    let first = read(before);
    assert!(equal(&first, &read(before)), "{key}: the same content is no difference");
    !equal(&first, &read(after))
}

#[test]
fn a_reload_notices_a_new_content_of_every_file_that_is_not_read_when_it_is_used() {
    for case in COMPARED {
        assert!(notices(case), "{}: its new content is not noticed", case.0);
    }
    for case in READ_WHEN_USED {
        assert!(!notices(case), "{}: restarts pipelines without need", case.0);
    }
}

/// This test fails for a new key that names a file, until the key is in one of the lists above.
#[test]
fn every_key_that_names_a_file_is_tried() {
    fn find(kind: Kind, path: &str, found: &mut Vec<String>) {
        let (Kind::Table(keys) | Kind::TextOr(keys)) = kind else {
            if let Kind::Named(inner) = kind {
                find(*inner, path, found);
            }
            return;
        };
        for Key { name, kind } in keys {
            let path = format!("{path}.{name}");
            if name.ends_with("_file") {
                found.push(path.trim_start_matches('.').to_owned());
            }
            find(*kind, &path, found);
        }
    }
    let mut found = Vec::new();
    find(ROOT, "", &mut found);
    assert!(found.len() > 6, "{found:?}");
    found.extend(NAMES.iter().filter(|name| name.ends_with(".location")).map(|name| (*name).to_owned()));
    for key in found {
        let tried = COMPARED.iter().chain(READ_WHEN_USED).any(|case| case.0 == key);
        assert!(tried || OTHER_LOCATIONS.contains(&key.as_str()), "{key} is in no list of this test");
    }
}
