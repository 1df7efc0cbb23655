//! Compares the texts of faults with the exact texts that are expected.

use super::{faults, parse};

#[track_caller]
fn fault_of(more: &str, expected: &str) {
    assert_eq!(faults(more), [expected], "{more}");
}

#[test]
fn an_unknown_key_is_named_with_what_was_meant() {
    fault_of(
        "batch.max_row = 5",
        "tidegate.toml:1:7  pipelines.rides.batch.max_row: unknown key, did you mean max_rows?",
    );
    fault_of(
        "batch = { max_rows = 5, max_age_ms = 5 }",
        "tidegate.toml:1:25  pipelines.rides.batch.max_age_ms: unknown key, did you mean max_age?",
    );
    fault_of(
        "[pipelines.rides.bach]\nmax_rows = 5",
        "tidegate.toml:1:18  pipelines.rides.bach: unknown key, did you mean batch?",
    );
    fault_of("max_rows = 5", "tidegate.toml:1:1  pipelines.rides.max_rows: unknown key, did you mean batch.max_rows?");
    fault_of("[log]\ncolour = true", "tidegate.toml:2:1  log.colour: unknown key; known here: format, level");
}

#[test]
fn a_wrong_type_is_named_with_what_to_write() {
    fault_of(
        "batch.max_bytes = 8_388_608",
        "tidegate.toml:1:7  pipelines.rides.batch.max_bytes: expected a size with its unit, found a whole number; write \"8MiB\"",
    );
    fault_of(
        "batch.max_age = 500",
        "tidegate.toml:1:7  pipelines.rides.batch.max_age: expected a duration with its unit, found a whole number; write \"500ms\" or \"500s\"",
    );
    fault_of(
        "consumers = \"2\"",
        "tidegate.toml:1:1  pipelines.rides.consumers: expected a whole number, found text; write it without quotes",
    );
    fault_of(
        "[pipelines.more]\ntopics = \"a\"\ntable.name = \"b\"",
        "tidegate.toml:2:1  pipelines.more.topics: expected an array of text, found text; write [\"a\"]",
    );
    fault_of("[[log]]\nlevel = 5", "tidegate.toml:1:3  log: expected a table, found an array");
    fault_of("decode = \"json\"", "tidegate.toml:1:1  pipelines.rides.decode: expected a table, found text");
    fault_of(
        "unknown_fields = 1",
        "tidegate.toml:1:1  pipelines.rides.unknown_fields: expected text or a table, found a whole number",
    );
}

#[test]
fn nothing_is_missing_below_a_table_of_the_wrong_type() {
    let faults = parse("kafka = 1\npostgres = 2\npipelines = 3").expect_err("all wrong").to_string();
    assert_eq!(
        faults,
        "tidegate.toml:1:1  kafka: expected a table, found a whole number\n\
         tidegate.toml:2:1  postgres: expected a table, found a whole number\n\
         tidegate.toml:3:1  pipelines: expected a table, found a whole number"
    );
}

#[test]
fn what_is_missing_is_named_with_its_remedy() {
    let faults =
        parse("[kafka]\n[pipelines.a]\n\n[pipelines.b.table]\nmode = \"append\"").expect_err("bare").to_string();
    assert_eq!(
        faults,
        "tidegate.toml  postgres.url: missing; set it, or url_file with the path of a file that holds it\n\
         tidegate.toml:1:2  kafka.bootstrap_servers: missing; name a broker, as in bootstrap_servers = \"127.0.0.1:9092\"\n\
         tidegate.toml:2:12  pipelines.a.table.name: missing; name the table to write, as in name = \"public.rides\"\n\
         tidegate.toml:2:12  pipelines.a.topics: missing; name the topics to read, as in topics = [\"telemetry\"], or set topic_pattern\n\
         tidegate.toml:4:12  pipelines.b.topics: missing; name the topics to read, as in topics = [\"telemetry\"], or set topic_pattern\n\
         tidegate.toml:4:14  pipelines.b.table.name: missing; name the table to write, as in name = \"public.rides\""
    );
}

#[test]
fn what_is_out_of_range_is_named_with_the_range() {
    fault_of("consumers = 0", "tidegate.toml:1:1  pipelines.rides.consumers: 0 is out of range; it goes from 1 to 256");
    fault_of(
        "consumers = -1",
        "tidegate.toml:1:1  pipelines.rides.consumers: -1 is out of range; it goes from 1 to 256",
    );
    fault_of(
        "batch.max_bytes = \"1KiB\"",
        "tidegate.toml:1:7  pipelines.rides.batch.max_bytes: 1KiB is out of range; it goes from 16KiB to 1GiB",
    );
    fault_of(
        "batch.max_age = \"2h\"",
        "tidegate.toml:1:7  pipelines.rides.batch.max_age: 2h is out of range; it goes from 1ms to 1h",
    );
    fault_of(
        "batch.max_age = \"5 s\"",
        "tidegate.toml:1:7  pipelines.rides.batch.max_age: \"5 s\" is not a duration; write a whole number and a unit, as in \"500ms\" or \"20s\"",
    );
    fault_of(
        "dead_letters.max_share = 0.0",
        "tidegate.toml:1:14  pipelines.rides.dead_letters.max_share: 0 is out of range; it must be above 0 and at most 1, and with 1 the pipeline never stops",
    );
}

#[test]
fn words_that_are_not_known_are_named_with_those_that_are() {
    fault_of(
        "group_protocol = \"cooperativ\"",
        "tidegate.toml:1:1  pipelines.rides.group_protocol: \"cooperativ\" is not known here, did you mean \"cooperative\"?",
    );
    fault_of(
        "decode.format = \"thrift\"",
        "tidegate.toml:1:8  pipelines.rides.decode.format: \"thrift\" is not known here; write one of \"json\", \"ndjson\", \"csv\", \"raw\", \"avro\", \"protobuf\"",
    );
    fault_of(
        "start = \"now\"",
        "tidegate.toml:1:1  pipelines.rides.start: \"now\" is not a start; write \"earliest\", \"latest\", \"committed\" or a time after 1970 such as \"2026-01-31T08:00:00Z\"",
    );
    fault_of(
        "[log]\nlevel = \"verbose\"",
        "tidegate.toml:2:1  log.level: \"verbose\" is not known here; write one of \"error\", \"warn\", \"info\", \"debug\", \"trace\"",
    );
}

#[test]
fn the_envelope_is_checked_for_each_format() {
    for (format, word, expected) in [
        ("json", "debezum", "\"debezum\" is not known here, did you mean \"debezium\"?"),
        ("avro", "debezum", "\"debezum\" is not known here, did you mean \"debezium\"?"),
        ("protobuf", "connect", "\"connect\" belongs to format \"json\""),
    ] {
        let faults = faults(&format!("[pipelines.rides.decode]\nformat = \"{format}\"\nenvelope = \"{word}\""));
        let said = |fault: &String| fault.contains(".envelope: ") && fault.contains(expected);
        assert!(faults.iter().any(said), "{format}: {faults:?}");
    }
    fault_of(
        "decode = { format = \"csv\", envelope = \"connect\" }",
        "tidegate.toml:1:28  pipelines.rides.decode.envelope: belongs to format \"json\", \"avro\", \"protobuf\", and this is \"csv\"",
    );
}

#[test]
fn keys_that_exclude_each_other_are_named() {
    fault_of(
        "topic_pattern = \"^t\"",
        "tidegate.toml:1:1  pipelines.rides.topic_pattern: topics is set too; keep one of the two",
    );
    fault_of(
        "[postgres.session]\n[pipelines.rides.columns]\na = { field = \"a\", meta = \"key\" }",
        "tidegate.toml:3:20  pipelines.rides.columns.a.meta: field is set too; keep one of the two",
    );
    fault_of(
        "table.key = [\"id\"]",
        "tidegate.toml:1:7  pipelines.rides.table.key: of no use to mode = \"append\"; write mode = \"insert_new\" or leave it out",
    );
}

#[test]
fn topics_and_groups_are_held_against_the_rules() {
    let base = "[pipelines.p]\ntable.name = \"p\"\n";
    fault_of(
        &format!("{base}topics = [\"^a\"]"),
        "tidegate.toml:3:1  pipelines.p.topics: \"^a\" is a pattern; write topic_pattern = \"^a\"",
    );
    fault_of(&format!("{base}topics = []"), "tidegate.toml:3:1  pipelines.p.topics: empty; name at least one");
    fault_of(&format!("{base}topics = [\"a\", \"a\"]"), "tidegate.toml:3:1  pipelines.p.topics: \"a\" is listed twice");
    fault_of(
        &format!("{base}topic_pattern = \"a.*\""),
        "tidegate.toml:3:1  pipelines.p.topic_pattern: a pattern begins with ^; write \"^a.*\"",
    );
    fault_of(
        &format!("{base}topics = [\"a\"]\ngroup = \"rides\""),
        "tidegate.toml:4:1  pipelines.p.group: \"rides\" is also the group of pipelines.rides, so each pipeline would get only a part of the records; give each pipeline its own group",
    );
    fault_of(
        "[pipelines.p]\ntopics = [\"telemetry\"]\ntable.name = \"public.rides\"",
        "tidegate.toml:3:7  pipelines.p.table.name: pipelines.rides writes topic telemetry into public.rides already, so the table would have each record twice",
    );
    fault_of(
        "[pipelines.\"a b\"]\ntopics = [\"a\"]\ntable.name = \"p\"",
        "tidegate.toml:1:12  pipelines.\"a b\": a pipeline's name has 1 to 63 of A-Z a-z 0-9 _ -",
    );
}

#[test]
fn columns_are_held_against_the_rules() {
    let column = |more: &str| format!("[pipelines.rides.columns]\n{more}");
    let cases = [
        (
            "a = { type = \"text\" }",
            "2:1  pipelines.rides.columns.a: doesn't say what fills the column; set field, meta, header or value",
        ),
        ("a = \"b..c\"", "2:1  pipelines.rides.columns.a: \"b..c\" has an empty level; a dot in a name is written \\."),
        (
            "a = { meta = \"ofset\" }",
            "2:7  pipelines.rides.columns.a.meta: \"ofset\" is not known here, did you mean \"offset\"?",
        ),
        (
            "a = { field = \"a\", type = \"float9\" }",
            "2:20  pipelines.rides.columns.a.type: \"float9\" is not a type that Tidegate writes, did you mean \"float4\"?",
        ),
        (
            "a = { field = \"a\", type = \"text\", unit = \"ms\" }",
            "2:35  pipelines.rides.columns.a.unit: only a timestamptz or timestamp is made from an epoch",
        ),
        (
            "a = { meta = \"offset\", default = 5 }",
            "2:24  pipelines.rides.columns.a.default: Kafka's own metadata is never missing",
        ),
        (
            "a = { field = \"a\", default = [5] }",
            "2:20  pipelines.rides.columns.a.default: expected text, a number or a boolean, found an array",
        ),
        (
            "",
            "1:18  pipelines.rides.columns: empty; map a column, or leave the table out to map every top-level field by its name",
        ),
        ("a = \"a\"\na = \"b\"", "3:1  not valid TOML: duplicate key"),
    ];
    for (more, expected) in cases {
        fault_of(&column(more), &format!("tidegate.toml:{expected}"));
    }
    fault_of(
        "unknown_fields = { column = \"a\" }\n[pipelines.rides.columns]\na = \"a\"",
        "tidegate.toml:1:20  pipelines.rides.unknown_fields.column: column \"a\" is mapped already; a column has only one source",
    );
    fault_of(
        "table.create = true\n[pipelines.rides.columns]\na = \"a\"",
        "tidegate.toml:3:1  pipelines.rides.columns.a: create = true needs its type; write it as in { field = \"ts\", type = \"timestamptz\" }",
    );
    fault_of(
        "table.create = true",
        "tidegate.toml:1:7  pipelines.rides.table.create: needs the columns and their types; write a [pipelines.NAME.columns]",
    );
    fault_of(
        "table.mode = \"insert_new\"\ntable.key = [\"b\"]\ntable.create = true\n[pipelines.rides.columns]\na = { field = \"a\", type = \"int4\" }",
        "tidegate.toml:2:7  pipelines.rides.table.key: \"b\" is not a column of the mapping",
    );
}

#[test]
fn properties_that_would_break_a_promise_are_refused_with_the_reason() {
    let cases = [
        (
            "\"enable.auto.commit\" = true",
            "\"enable.auto.commit\": not to be set: Tidegate alone commits an offset, after its rows; otherwise the lag of the group would be wrong",
        ),
        ("\"group.id\" = \"x\"", "\"group.id\": not to be set: set pipelines.NAME.group"),
        (
            "\"fetch.max.bytes\" = 1",
            "\"fetch.max.bytes\": not to be set: follows from limits.memory, or the prefetch would not be bounded",
        ),
        ("\"rebalance_cb\" = 1", "rebalance_cb: not to be set: librdkafka takes it from a program only"),
        (
            "\"sesion.timeout.ms\" = 1",
            "\"sesion.timeout.ms\": librdkafka has no such property of a consumer, did you mean session.timeout.ms?",
        ),
        ("\"linger.ms\" = 1", "\"linger.ms\": librdkafka has no such property of a consumer"),
        (
            "\"socket.timeout.ms\" = \"soon\"",
            "\"socket.timeout.ms\": librdkafka doesn't take this value; see CONFIGURATION.md of librdkafka 2.12",
        ),
        ("\"fetch.wait.max.ms\" = 400000", "\"fetch.wait.max.ms\": librdkafka takes only values in 0..300000"),
        (
            "\"check.crcs\" = true",
            "\"check.crcs\": not to be set: librdkafka skips a batch whose checksum is wrong, and its records would be lost",
        ),
        ("\"socket.keepalive.enable\" = \"maybe\"", "\"socket.keepalive.enable\": librdkafka takes only true or false"),
        (
            "\"security.protocol\" = \"TLS\"",
            "\"security.protocol\": librdkafka doesn't take this value; it takes plaintext, ssl, sasl_plaintext, sasl_ssl",
        ),
        (
            "\"sasl.oauthbearer.assertion.file\" = \"a\"",
            "\"sasl.oauthbearer.assertion.file\": librdkafka is built without what this property needs",
        ),
        ("\"group.id_file\" = \"x\"", "\"group.id_file\": not to be set: set pipelines.NAME.group"),
        (
            "\"group.remote.assignor\" = \"range\"",
            "\"group.remote.assignor\": requires group_protocol = \"consumer\", which pipelines.rides does not have",
        ),
    ];
    for (property, expected) in cases {
        fault_of(
            &format!("[kafka.properties]\n{property}"),
            &format!("tidegate.toml:2:1  kafka.properties.{expected}"),
        );
    }
}

#[test]
fn what_kip_848_leaves_to_the_broker_is_refused_with_that_protocol_only() {
    let properties = "[pipelines.rides.kafka]\n\"session.timeout.ms\" = 6000";
    assert_eq!(faults(properties), [""; 0]);
    fault_of(
        &format!("group_protocol = \"consumer\"\n{properties}"),
        "tidegate.toml:3:1  pipelines.rides.kafka.\"session.timeout.ms\": can't be used with group_protocol = \"consumer\" of pipelines.rides, because the broker decides this (group.consumer.session.timeout.ms)",
    );
    fault_of(
        "group_protocol = \"consumer\"\n[kafka.properties]\n\"heartbeat.interval.ms\" = 1000",
        "tidegate.toml:3:1  kafka.properties.\"heartbeat.interval.ms\": can't be used with group_protocol = \"consumer\" of pipelines.rides, because the broker decides this (group.consumer.heartbeat.interval.ms)",
    );
}

#[test]
fn deadlines_keep_their_order() {
    assert_eq!(
        faults("[limits]\ndrain_timeout = \"10s\""),
        [
            "tidegate.toml:2:1  limits.drain_timeout: 10s must be above postgres.connect_timeout (10s by default), or a shutdown ends before Tidegate can reconnect and read whether the last batch was committed",
            "tidegate.toml:2:1  limits.drain_timeout: 10s must be above postgres.write_timeout (15s by default), or a shutdown ends before it is known whether the last batch was committed",
        ]
    );
    fault_of(
        "[kafka.properties]\n\"max.poll.interval.ms\" = 15000\n\"session.timeout.ms\" = 10000",
        "tidegate.toml:2:1  kafka.properties.\"max.poll.interval.ms\": 15s must be above limits.drain_timeout (20s by default), or Kafka removes the consumer from its group while the consumer drains",
    );
    fault_of(
        "[kafka.properties]\n\"max.poll.interval.ms\" = 30000\n\"session.timeout.ms\" = 45000",
        "tidegate.toml:3:1  kafka.properties.\"session.timeout.ms\": session.timeout.ms (45s) must not be above max.poll.interval.ms (30s); librdkafka refuses it",
    );
    fault_of(
        "[limits]\nclaim_grace = \"5s\"",
        "tidegate.toml:2:1  limits.claim_grace: 5s must be above postgres.lock_timeout (5s by default), or a claim is requested again while the first request still waits",
    );
}

#[test]
fn settings_that_exactly_once_stands_on_are_refused() {
    fault_of(
        "[postgres.session]\nSearch_Path = \"x\"",
        "tidegate.toml:2:1  postgres.session.Search_Path: not to be set here: name the schema in pipelines.NAME.table.name",
    );
    fault_of(
        "[postgres.session]\n\"a b\" = 1",
        "tidegate.toml:2:1  postgres.session.\"a b\": not the name of a setting of Postgres",
    );
}

#[test]
fn broken_toml_is_named_with_its_line() {
    let faults = parse("[kafka]\nbootstrap_servers = \n").expect_err("no value").to_string();
    assert_eq!(faults, "tidegate.toml:2:21  not valid TOML: string values must be quoted, expected literal string");
}

#[test]
fn everything_is_said_at_once() {
    let more = "consumers = 0\nstart = \"now\"\nbatch = { max_row = 1, max_bytes = 5 }\n[limits]\nmemory = \"x\"\n[log]\nlevel = 1";
    assert_eq!(faults(more).len(), 6, "{:#?}", faults(more));
}
