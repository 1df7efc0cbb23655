//! Tests of files that override other files, and of variables that override files.

use tidegate_rows::spec::Source;

use super::{BASE, load, load_faults, with};
use crate::config::{Config, GroupProtocol, Topics};

fn right(files: &[&str], env: &[(&str, &str)]) -> Config {
    load(files, env).unwrap_or_else(|faults| panic!("{faults}"))
}

#[test]
fn tables_merge_by_name_and_arrays_are_replaced() {
    let over = r#"
        [pipelines.rides]
        topics = ["a", "b"]
        batch.max_rows = 7
        [pipelines.more]
        topics = ["c"]
        table.name = "more"
    "#;
    let config = right(&[&with("batch = { max_rows = 5, max_bytes = \"1MiB\" }"), over], &[]);
    assert_eq!(config.pipelines.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["more", "rides"]);
    let rides = &config.pipelines[1];
    assert_eq!(rides.topics, Topics::List(vec!["a".into(), "b".into()]));
    assert_eq!((rides.batch.max_rows.get(), rides.batch.max_bytes), (7, 1 << 20));
    assert_eq!(rides.table.name.to_string(), "public.rides");
}

#[test]
fn columns_keep_the_order_of_the_file() {
    let columns = "[pipelines.rides.columns]\nz = \"z\"\na = \"a\"\nm = \"m\"";
    let config = right(&[&with(columns), "[pipelines.rides.columns]\na = \"other\"\nb = \"b\""], &[]);
    let columns = config.pipelines[0].columns.as_ref().expect("a mapping");
    assert_eq!(columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>(), ["z", "a", "m", "b"]);
    assert_eq!(columns[1].source, Source::Field(vec!["other".into()]));
}

#[test]
fn variables_stand_over_files_and_find_names_in_any_case() {
    let file = with("consumers = 2").replace("pipelines.rides", "pipelines.Ride-History");
    let config = right(
        &[&file],
        &[
            ("HOME", "/root"),
            ("TIDEGATE_OTHER", "not ours"),
            ("TIDEGATE__PIPELINES__RIDE_HISTORY__CONSUMERS", "4"),
            ("TIDEGATE__PIPELINES__RIDE_HISTORY__BATCH__MAX_ROWS", "1_000"),
            ("TIDEGATE__PIPELINES__ride-history__GROUP_PROTOCOL", "consumer"),
            ("TIDEGATE__PIPELINES__RIDE_HISTORY__TOPICS", "a, b"),
            ("TIDEGATE__PIPELINES__RIDE_HISTORY__DEAD_LETTERS", "{ max_share = 0.5 }"),
            ("TIDEGATE__PIPELINES__RIDE_HISTORY__TABLE__CREATE", "false"),
            ("TIDEGATE__LIMITS__MEMORY", "1GiB"),
            ("TIDEGATE__KAFKA__PROPERTIES__security.protocol", "SSL"),
            ("TIDEGATE__KAFKA__PROPERTIES__SASL_MECHANISM", "PLAIN"),
            ("TIDEGATE__KAFKA__PROPERTIES__SOCKET_TIMEOUT_MS", "1000"),
            ("TIDEGATE__POSTGRES__SESSION__SYNCHRONOUS_COMMIT", "off"),
        ],
    );
    let rides = &config.pipelines[0];
    assert_eq!(rides.name, "Ride-History");
    assert_eq!((rides.consumers.get(), rides.batch.max_rows.get()), (4, 1000));
    assert_eq!(rides.group_protocol, GroupProtocol::Consumer);
    assert_eq!(rides.topics, Topics::List(vec!["a".into(), "b".into()]));
    assert!((rides.dead_letters.max_share - 0.5).abs() < f64::EPSILON);
    assert_eq!(config.limits.memory, 1 << 30);
    assert_eq!(config.kafka.properties["security.protocol"].expose(), "SSL");
    assert_eq!(config.kafka.properties["sasl.mechanism"].expose(), "PLAIN");
    assert_eq!(config.kafka.properties["socket.timeout.ms"].expose(), "1000");
    assert_eq!(config.postgres.session["synchronous_commit"], "off");
}

#[test]
fn a_variable_maps_a_column_and_sets_a_default_by_its_type() {
    let file = with("[pipelines.rides.columns]\nSpeed = \"speed\"");
    let config = right(
        &[&file],
        &[
            ("TIDEGATE__PIPELINES__RIDES__COLUMNS__EXTRA", "{ field = \"a.b\", default = 5 }"),
            ("TIDEGATE__PIPELINES__RIDES__COLUMNS__SPEED", "velocity"),
            ("TIDEGATE__PIPELINES__RIDES__COLUMNS__NOTE__FIELD", "note"),
            ("TIDEGATE__PIPELINES__RIDES__COLUMNS__NOTE__DEFAULT", "n/a"),
        ],
    );
    let columns = config.pipelines[0].columns.as_ref().expect("a mapping");
    let shown: Vec<_> = columns.iter().map(|c| (c.name.as_str(), c.source.clone(), c.default.as_deref())).collect();
    assert_eq!(
        shown,
        [
            ("Speed", Source::Field(vec!["velocity".into()]), None),
            ("extra", Source::Field(vec!["a".into(), "b".into()]), Some("5")),
            ("note", Source::Field(vec!["note".into()]), Some("\"n/a\"")),
        ]
    );
}

#[test]
fn properties_without_quotes_are_the_same_properties() {
    let nested = "[kafka.properties]\nsecurity.protocol = \"SSL\"\nssl.ca.location = \"a\"";
    let over = "[kafka.properties]\n\"security.protocol\" = \"SASL_SSL\"";
    let config = right(&[&with(nested), over], &[]);
    assert_eq!(config.kafka.properties["security.protocol"].expose(), "SASL_SSL");
    assert_eq!(config.kafka.properties["ssl.ca.location"].expose(), "a");
    assert_eq!(
        load_faults(&[BASE, "[kafka.properties]\n\nsasl.oauthbearer.skope = \"a\""], &[]),
        ["1.toml:3:18  kafka.properties.\"sasl.oauthbearer.skope\": librdkafka has no such property of a consumer, \
          did you mean sasl.oauthbearer.scope?"]
    );
}

#[test]
fn a_dot_in_a_key_at_the_top_is_no_path() {
    assert_eq!(
        load_faults(&[BASE, "\"limits.memory\" = \"1GiB\""], &[]),
        [
            "1.toml:1:1  \"limits.memory\": unknown key; known here: instance, kafka, postgres, schema_registry, http, log, limits, pipelines"
        ]
    );
}

#[test]
fn faults_of_variables_name_the_variable() {
    let faults = load_faults(
        &[BASE],
        &[
            ("TIDEGATE__PIPELINES__RIDES__CONSUMERS", "many"),
            ("TIDEGATE__PIPELINES__RIDES__BATCH__MAX_ROW", "5"),
            ("TIDEGATE__PIPELINES__RIDE__CONSUMERS", "4"),
            ("TIDEGATE__LIMITS__MEMORY", "12"),
            ("TIDEGATE__LIMITS", "12"),
            ("TIDEGATE__KAFKA__PROPERTIES__GROUP_ID", "x"),
            ("TIDEGATE__HTTP__LISTEN", "1"),
            ("TIDEGATE__http__listen", "2"),
        ],
    );
    assert_eq!(
        faults,
        [
            "TIDEGATE__HTTP__LISTEN  http.listen: not an address; write an IP and a port, as in \"127.0.0.1:9464\"",
            "TIDEGATE__KAFKA__PROPERTIES__GROUP_ID  kafka.properties.\"group.id\": not to be set: set pipelines.NAME.group",
            "TIDEGATE__LIMITS  limits: limits is a table; name one of its keys after another __",
            "TIDEGATE__LIMITS__MEMORY  limits.memory: \"12\" is not a size; write a whole number and a unit, as in \"8MiB\"",
            "TIDEGATE__PIPELINES__RIDES__BATCH__MAX_ROW  pipelines.rides.batch.MAX_ROW: unknown key, did you mean MAX_ROWS?",
            "TIDEGATE__PIPELINES__RIDES__CONSUMERS  pipelines.rides.consumers: \"many\" is not a whole number",
            "TIDEGATE__PIPELINES__RIDE__CONSUMERS  pipelines.RIDE: no file has this pipeline, did you mean RIDES?",
            "TIDEGATE__http__listen  http.listen: TIDEGATE__HTTP__LISTEN sets it too; keep one of the two",
        ]
    );
}

#[test]
fn a_variable_that_stands_for_two_pipelines_is_a_fault() {
    let file = with("[pipelines.RIDES]\ntopics = [\"b\"]\ntable.name = \"b\"");
    assert_eq!(
        load_faults(&[&file], &[("TIDEGATE__PIPELINES__Rides__CONSUMERS", "2")]),
        ["TIDEGATE__PIPELINES__Rides__CONSUMERS  pipelines.Rides: may mean \"rides\" or \"RIDES\"; write the \
          intended one exactly as it is in the file"]
    );
    let config = right(&[&file], &[("TIDEGATE__PIPELINES__RIDES__CONSUMERS", "2")]);
    assert_eq!(config.pipelines.iter().map(|p| p.consumers.get()).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn files_that_cant_be_read_are_all_named() {
    let faults =
        Config::load(&["/none/a.toml".into(), "/none/b.toml".into()], std::iter::empty()).expect_err("no files");
    assert_eq!(
        faults.to_string(),
        "/none/a.toml  can't be read: No such file or directory (os error 2)\n\
         /none/b.toml  can't be read: No such file or directory (os error 2)"
    );
    assert_eq!(
        Config::load(&[], std::iter::empty()).expect_err("nothing").to_string(),
        "configuration  kafka.bootstrap_servers: missing; name a broker, as in bootstrap_servers = \"127.0.0.1:9092\"\n\
         configuration  pipelines: missing; write a [pipelines.NAME]\n\
         configuration  postgres.url: missing; set it, or url_file with the path of a file that holds it"
    );
}
