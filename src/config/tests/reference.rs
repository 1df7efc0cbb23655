//! Checks that `config/tidegate.toml` agrees with the code.

use proptest::prelude::*;

use super::parse;
use crate::config::Config;
use crate::config::schema::{Kind, ROOT};

const REFERENCE: &str = include_str!("../../../config/tidegate.toml");

fn switched_on() -> String {
    let on = |line: &str| {
        let key = line
            .strip_prefix('#')
            .filter(|key| key.starts_with(|c: char| c.is_ascii_alphabetic() || "[\"".contains(c)));
        key.unwrap_or(line).to_owned()
    };
    REFERENCE.lines().map(on).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_default_in_the_reference_is_the_default_of_the_code() {
    let reference = Config::parse("config/tidegate.toml", REFERENCE).unwrap_or_else(|faults| panic!("{faults}"));
    let bare = parse(
        r#"
        kafka.bootstrap_servers = "127.0.0.1:9092"
        postgres.url = "postgres://tidegate@127.0.0.1:5432/telemetry"
        pipelines.ride_history.topics = ["telemetry"]
        pipelines.ride_history.table.name = "public.ride_history"
        "#,
    )
    .unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(format!("{reference:#?}"), format!("{bare:#?}"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A damaged reference file causes no panic, and every fault names the file, or a line that exists in it.
    #[test]
    fn a_damaged_file_gives_faults_with_places(
        start in 0..REFERENCE.len(),
        length in 1..60_usize,
        junk in "[\"\\[={}a5. ]{0,3}",
    ) {
        let tail: String = REFERENCE.chars().skip(start + length).collect();
        let text = REFERENCE.chars().take(start).collect::<String>() + &junk + &tail;
        let faults = Config::parse("t.toml", &text).err();
        for fault in faults.iter().flat_map(|faults| faults.iter()) {
            let shown = fault.to_string();
            let line = shown.split(':').nth(1).and_then(|line| line.parse::<usize>().ok());
            let exists = line.is_some_and(|line| line <= text.lines().count() + 1);
            prop_assert!(shown.starts_with("t.toml  ") || exists, "{}", shown);
        }
    }
}

#[test]
fn what_the_reference_has_switched_off_is_right_too() {
    let faults = parse(&switched_on()).expect_err("keys that exclude each other are all on");
    let messages: Vec<_> = faults.iter().map(|fault| format!("{}: {}", fault.key(), fault.message())).collect();
    assert_eq!(
        messages,
        [
            "kafka.token_command: sasl.oauthbearer.method = \"oidc\" and kafka.token_command need \"sasl.mechanism\" = \"OAUTHBEARER\"",
            "kafka.properties.\"sasl.password_file\": /run/secrets/kafka-password can't be read: No such file or directory (os error 2)",
            "postgres.url_file: url is set too; keep one of the two",
            "postgres.password_command: password_file is set too; keep one of the two",
            "schema_registry.username: a token is set too; keep one of the two",
            "schema_registry.password_file: password is set too; keep one of the two",
            "schema_registry.token_file: token is set too; keep one of the two",
            "schema_registry.ca_file: /etc/ssl/certs/registry-ca.pem can't be read: No such file or directory (os error 2)",
            "pipelines.ride_history.topic_pattern: topics is set too; keep one of the two",
            "pipelines.ride_history.decode.columns: belongs to format \"csv\", and this is \"json\"",
            "pipelines.ride_history.decode.delimiter: belongs to format \"csv\", and this is \"json\"",
            "pipelines.ride_history.decode.quote: belongs to format \"csv\", and this is \"json\"",
            "pipelines.ride_history.decode.null: belongs to format \"csv\", and this is \"json\"",
            "pipelines.ride_history.decode.schema_file: belongs to format \"avro\", \"protobuf\", and this is \"json\"",
            "pipelines.ride_history.decode.framing: belongs to format \"avro\", \"protobuf\", and this is \"json\"",
            "pipelines.ride_history.decode.message: belongs to format \"protobuf\", and this is \"json\"",
            "pipelines.ride_history.decode.include: belongs to format \"protobuf\", and this is \"json\"",
            "pipelines.ride_history.decode.key_schema_file: belongs to key_format = \"avro\" and \"protobuf\"",
            "pipelines.ride_history.table.key: of no use to mode = \"append\"; write mode = \"insert_new\" or leave it out",
            "pipelines.ride_history.table.newer_by: of no use to mode = \"append\"; it is for mode = \"upsert\"",
            "pipelines.ride_history.table.after_create: runs when Tidegate creates the table, which requires create = true",
            "pipelines.ride_history.table.max_tables: of no use to a single table; it is for a name with placeholders",
            "pipelines.ride_history.table.delete_where: of no use to mode = \"append\"; it is for mode = \"upsert\"",
            "pipelines.ride_history.columns.document.keep: of no use to mode = \"append\", which leaves no value of a row as it is; keeping is for mode = \"upsert\"",
            "pipelines.ride_history.columns.driver.hash_key_file: /run/secrets/hash-key: No such file or directory (os error 2)",
            "pipelines.ride_history.columns.distance.aggregate: of no use to mode = \"append\"; it is for mode = \"aggregate\"",
            "pipelines.ride_history.columns.pauses.aggregate: of no use to mode = \"append\"; it is for mode = \"aggregate\"",
            "pipelines.ride_history.columns.last_seen.aggregate: of no use to mode = \"append\"; it is for mode = \"aggregate\"",
            "pipelines.ride_history.columns.last_lat.aggregate: of no use to mode = \"append\"; it is for mode = \"aggregate\"",
        ]
    );
}

#[test]
fn the_reference_has_every_key() {
    fn paths(kind: Kind, path: &str, found: &mut Vec<String>) {
        match kind {
            Kind::Table(keys) => keys.iter().for_each(|key| paths(key.kind, &format!("{path}.{}", key.name), found)),
            Kind::Named(inner @ Kind::Table(_)) => paths(*inner, &format!("{path}.ride_history"), found),
            _ => found.push(path.trim_start_matches('.').to_owned()),
        }
    }
    let mut expected = Vec::new();
    paths(ROOT, "", &mut expected);
    assert!(expected.len() > 30, "{expected:?}");
    let text = switched_on();
    let document = toml_edit::Document::parse(text.as_str()).expect("valid TOML");
    for path in expected {
        let found = path.split('.').try_fold(document.as_item(), |item, key| item.get(key));
        assert!(found.is_some(), "{path} is not in the reference");
    }
    for key in
        ["field =", "meta =", "header =", "type =", "unit =", "zone =", "missing =", "default =", "nul =", "not_null ="]
    {
        assert!(text.contains(key), "{key}");
    }
}
