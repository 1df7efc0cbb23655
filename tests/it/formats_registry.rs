//! Schemas from a registry (a stand-in; see the harness). A registry that fails is an outage. If the registry doesn't have a
//! schema, the record is at fault.

use tidegate_harness::{Daemon, Record, Registry, eventually_async};

use crate::accounting::await_metric;
use crate::cli::tidegate;
use crate::formats::{AVRO, PROTO, RIDE, RIDES, RIDES_COLUMNS, SHOWN, avro_ride, proto_ride};
use crate::support::{PATIENCE, World};

/// Adds the framing of Confluent's serializers to a value: a zero byte, the schema id, and the indexes of a Protobuf message.
pub(crate) fn framed(id: u32, indexes: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0][..], &id.to_be_bytes(), indexes, value].concat()
}

impl World {
    pub(crate) fn with_registry(&self, registry: &Registry, lines: &str, pipeline: &str) -> String {
        let table = format!("[schema_registry]\nurl = \"{}\"\n{lines}\n[http]", registry.url());
        self.config(&pipeline.replace("NAME", &self.name)).replacen("[http]", &table, 1)
    }
}

pub(crate) fn avro_pipeline() -> String {
    format!(
        "table.name = \"rides\"\ndead_letters.max_share = 1.0\ndecode.format = \"avro\"\n[pipelines.NAME.columns]\n{RIDES_COLUMNS}"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn each_record_is_read_by_the_schema_that_it_names() {
    let world = World::new(1).await;
    world.sql(RIDES).await;
    let registry = Registry::start().expect("the registry starts");
    let old =
        registry.add("ride", "AVRO", r#"{"type":"record","name":"Ride","fields":[{"name":"id","type":"int"}]}"#, &[]);
    let position = r#"{"type":"record","name":"Position","fields":[{"name":"lat","type":"double"},{"name":"lon","type":"float"}]}"#;
    registry.add("position", "AVRO", position, &[]);
    let refers = AVRO.replace(
        r#"{"type":"record","name":"Position","fields":[
        {"name":"lat","type":"double"},{"name":"lon","type":"float"}]}"#,
        "\"Position\"",
    );
    let new = registry.add("ride", "AVRO", &refers, &[("Position", "position", 1)]);
    let broken = registry.add("ride", "AVRO", r#"{"type":"record","name":"Ride"}"#, &[]);
    let json = registry.add("ride", "JSON", "{}", &[]);
    let config = world.with_registry(&registry, "", &avro_pipeline());
    let values = vec![
        framed(new, &[], &avro_ride(1)),
        framed(old, &[], &[4]),
        framed(new, &[], &avro_ride(3)),
        framed(broken, &[], &[4]),
        framed(json, &[], b"{}"),
        framed(4711, &[], &[4]),
        avro_ride(5),
        framed(new, &[], &[4]),
        framed(old, &[], &[12]),
    ];
    world.drain_values(&config, values);
    assert_eq!(world.text(SHOWN).await, RIDE);
    assert_eq!(world.text("SELECT string_agg(id::text, ',' ORDER BY id) FROM rides").await, "1,2,3,6");
    let reasons = world.reasons().await;
    let (codes, details): (Vec<_>, Vec<_>) =
        reasons.iter().map(|(reason, detail)| (reason.as_str(), detail.as_str())).unzip();
    assert_eq!(codes, ["unknown_schema", "unknown_schema", "unknown_schema", "invalid_format", "invalid_format"]);
    for (detail, words) in details.iter().zip([
        "no `fields`",
        "is JSON, and the pipeline decodes avro",
        "schema 4711 is not in the registry: Schema 4711 not found (40403)",
        "not with a zero byte",
        "it ends too early",
    ]) {
        assert!(detail.contains(words), "no {words:?} in {detail:?}");
    }
    let asked = registry.asked();
    let times = |path: &str| asked.iter().filter(|asked| *asked == path).count();
    assert_eq!(times(&format!("/schemas/ids/{new}")), 1, "a schema is asked for once: {asked:?}");
    assert_eq!(times("/schemas/ids/4711"), 2, "what isn't there is asked for again: {asked:?}");
    let report = tidegate(&config, &["check", "--json"]).ok().json();
    assert_eq!(report["pipelines"][0]["sample"]["rows"], 4, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_registry_is_an_outage_and_no_record_is_dead_lettered() {
    let world = World::new(2).await;
    world.sql(RIDES).await;
    let registry = Registry::start().expect("the registry starts");
    let id = registry.add("ride", "AVRO", AVRO, &[]);
    let later = registry.add("ride", "AVRO", &AVRO.replace("\"Ride\"", "\"Ride2\""), &[]);
    // `max.poll.interval.ms` is short. So the member leaves the group if the poll thread waits for the registry.
    let poll = "[pipelines.NAME.kafka]\n\"max.poll.interval.ms\" = 30_000\n\"session.timeout.ms\" = 6_000\n";
    let config = world.with_registry(&registry, "timeout = \"2s\"", &format!("{}{poll}", avro_pipeline()));
    world.produce([Record::new(framed(id, &[], &avro_ride(1))).to(0)]);
    let daemon: Daemon = world.daemon(&config);
    let rows = |count: i64| {
        let world = &world;
        eventually_async("the rows are there", PATIENCE, async move || {
            world.number("SELECT count(*) FROM rides").await == count
        })
    };
    rows(1).await.expect("the first record is written");

    registry.fail_with(Some(503));
    world.produce((2..6).map(|n| Record::new(framed(later, &[], &avro_ride(n))).to(0)));
    world.produce([Record::new(framed(id, &[], &avro_ride(6))).to(1)]);
    daemon
        .await_until("readiness says that the registry is away", PATIENCE, |daemon| {
            daemon.get("/readyz").is_ok_and(|ready| ready.status == 503 && ready.body.contains("schema registry"))
        })
        .expect("it isn't ready");
    let rebalances = daemon.metric("tidegate_rebalances_total", &[]);
    registry.fail_with(Some(401));
    daemon
        .await_until("the refusal is named", PATIENCE, |daemon| {
            daemon.get("/readyz").is_ok_and(|ready| ready.body.contains("it refuses access (401)"))
        })
        .expect("it says why");
    registry.fail_with(None);
    rows(6).await.expect("the flow goes on by itself");
    daemon.await_ready(PATIENCE).expect("it is ready again");
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 0);
    assert_eq!(daemon.metric("tidegate_rebalances_total", &[]), rebalances, "the group was kept");
    assert_eq!(world.text("SELECT string_agg(id::text, ',' ORDER BY id) FROM rides").await, "1,2,3,4,5,6");
}

#[tokio::test(flavor = "multi_thread")]
async fn protobuf_names_its_message_and_imports_and_the_registry_wants_a_password() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (id bigint, name text, lat float8)").await;
    let registry = Registry::start().expect("the registry starts");
    registry.add(
        "position",
        "PROTOBUF",
        "syntax = \"proto3\"; package rides; message Position { double lat = 1; float lon = 2; }",
        &[],
    );
    let main = PROTO
        .replace("message Position { double lat = 1; float lon = 2; }", "")
        .replace("package rides;", "package rides; import \"position.proto\";");
    let id = registry.add("ride", "PROTOBUF", &main, &[("position.proto", "position", 1)]);
    let two = registry.add(
        "ride",
        "PROTOBUF",
        "syntax = \"proto3\"; message A { message B { int64 id = 3; } } message C {}",
        &[],
    );
    registry.require(Some("Basic cmVhZGVyOnNlY3JldA=="));
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("password");
    std::fs::write(&file, "secret\n").expect("the password is written");
    let pipeline = "table.name = \"rides\"\ndead_letters.max_share = 1.0\ndecode.format = \"protobuf\"\n\
        [pipelines.NAME.columns]\nid = \"id\"\nname = \"name\"\nlat = \"position.lat\"";
    let lines = format!("username = \"reader\"\npassword_file = {:?}", file.display().to_string());
    let config = world.with_registry(&registry, &lines, pipeline);
    let values = vec![
        framed(id, &[0], &proto_ride(1)),
        // The framing names the message A.B by two indexes, 0 and 0.
        framed(two, &[4, 0, 0], &[0x18, 2]),
        framed(two, &[2, 6], &[]),
    ];
    world.drain_values(&config, values);
    let rows = world.text("SELECT string_agg(concat_ws('|', id, name, lat), ' / ' ORDER BY id) FROM rides").await;
    assert_eq!(rows, "1|vehicle 1|52.5 / 2");
    let reasons = world.reasons().await;
    assert_eq!(reasons.len(), 1);
    assert!(reasons[0].1.contains("its frame names the message"), "{reasons:?}");
    let bearer = config.replace(&lines, "token = \"t0ken\"");
    registry.require(Some("Bearer t0ken"));
    let report = tidegate(&bearer, &["check", "--json"]).ok().json();
    assert_eq!(report["pipelines"][0]["sample"]["rows"], 2, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_move_while_their_records_wait_lose_and_double_nothing() {
    let world = World::new(2).await;
    world.sql(RIDES).await;
    let registry = Registry::start().expect("the registry starts");
    let id = registry.add("ride", "AVRO", AVRO, &[]);
    registry.fail_with(Some(500));
    let config = || world.with_registry(&registry, "", &avro_pipeline());
    world.produce((0..40).map(|n| Record::new(framed(id, &[], &avro_ride(n.into()))).to(n % 2)));
    let owns = |daemon: &Daemon, wanted: usize| {
        daemon
            .await_until("partitions are owned", PATIENCE, |daemon| {
                let status = daemon.status_json().ok();
                let consumers = status.as_ref().and_then(|status| status["pipelines"][0]["consumers"].as_array());
                let owned = consumers.into_iter().flatten().filter_map(|consumer| consumer["partitions"].as_array());
                owned.flatten().filter(|partition| partition["state"] == "owned").count() == wanted
            })
            .expect("the group settles");
    };
    let first = world.daemon(&config());
    owns(&first, 2);
    first
        .await_until("its records wait", PATIENCE, |daemon| {
            daemon.get("/readyz").is_ok_and(|ready| ready.body.contains("schema registry"))
        })
        .expect("it isn't ready");
    let second = world.daemon(&config());
    owns(&second, 1);
    owns(&first, 1);
    world.produce((40..60).map(|n| Record::new(framed(id, &[], &avro_ride(n.into()))).to(n % 2)));
    registry.fail_with(None);
    eventually_async("every record is there", PATIENCE, async || {
        world.number("SELECT count(DISTINCT id) FROM rides").await == 60
    })
    .await
    .expect("nothing is lost");
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 60);
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 0);
}

fn headed(header: impl Into<Vec<u8>>, value: Vec<u8>) -> Record {
    Record::new(value).header("__value_schema_id", header).to(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_names_the_schema_by_guid_or_id_and_records_with_a_frame_lie_beside() {
    let world = World::new(1).await;
    world.sql(RIDES).await;
    let registry = Registry::start().expect("the registry starts");
    let old =
        registry.add("ride", "AVRO", r#"{"type":"record","name":"Ride","fields":[{"name":"id","type":"int"}]}"#, &[]);
    let new = registry.add("ride", "AVRO", AVRO, &[]);
    let key = r#"{"type":"record","name":"K","fields":[{"name":"id","type":"long"}]}"#;
    let key = registry.add("ride-key", "AVRO", key, &[]);
    let keyed = |record: Record| record.key([8]).header("__key_schema_id", Registry::guid_header(key));
    let config = world.with_registry(
        &registry,
        "",
        &avro_pipeline()
            .replace("[pipelines", "table.mode = \"upsert\"\ntable.key = [\"id\"]\ntable.deletes = true\n[pipelines"),
    );
    world.sql("CREATE UNIQUE INDEX ON rides (id)").await;
    world.produce([
        headed(Registry::guid_header(new), avro_ride(1)),
        headed([&[0][..], &old.to_be_bytes()].concat(), vec![4]),
        Record::new(framed(new, &[], &avro_ride(3))).to(0),
        // The tombstone below deletes this row. A header of the tombstone names the schema of the key.
        headed(Registry::guid_header(old), vec![8]),
        // If a header occurs twice, the last one counts.
        headed(Registry::guid_header(new), vec![12]).header("__value_schema_id", Registry::guid_header(old)),
        headed(Registry::guid_header(4711), vec![4]),
        headed(*b"ride-value", avro_ride(5)),
        keyed(Record::tombstone().to(0)),
    ]);
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.text(SHOWN).await, RIDE);
    assert_eq!(world.text("SELECT string_agg(id::text, ',' ORDER BY id) FROM rides").await, "1,2,3,6");
    let reasons = world.reasons().await;
    let codes: Vec<_> = reasons.iter().map(|(reason, _)| reason.as_str()).collect();
    assert_eq!(codes, ["unknown_schema", "invalid_format"], "{reasons:?}");
    assert!(reasons[0].1.contains("f00dbabe-0123-4567-89ab-cdef00001267 is not in the registry"), "{reasons:?}");
    assert!(reasons[1].1.contains("the header that names its schema has 10 bytes"), "{reasons:?}");
    let report = tidegate(&config, &["check", "--json"]).ok().json();
    assert_eq!(report["pipelines"][0]["sample"]["dead_letters"], 2, "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_says_which_message_of_a_protobuf_file_it_is() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (id bigint, name text)").await;
    let registry = Registry::start().expect("the registry starts");
    let one = registry.add("ride", "PROTOBUF", PROTO, &[]);
    let text = "syntax = \"proto3\"; message A { message B { int64 id = 3; } } message C { int64 id = 1; }";
    let two = registry.add("ride", "PROTOBUF", text, &[]);
    let pipeline = "table.name = \"rides\"\ndead_letters.max_share = 1.0\ndecode.format = \"protobuf\"\n\
        [pipelines.NAME.columns]\nid = \"id\"\nname = \"name\"";
    let named = |id: u32, indexes: &[u8]| [&Registry::guid_header(id)[..], indexes].concat();
    world.produce([
        headed(named(one, &[0]), proto_ride(1)),
        headed(named(two, &[4, 0, 0]), vec![0x18, 2]),
        headed(named(two, &[2, 2]), vec![8, 3]),
        headed(named(one, &[]), proto_ride(4)),
        headed(named(two, &[2, 6]), vec![]),
    ]);
    let (code, log) = world.drain(&world.with_registry(&registry, "", pipeline));
    assert_eq!(code, Some(0), "{log}");
    let rows = world.text("SELECT string_agg(concat_ws('|', id, name), ' / ' ORDER BY id) FROM rides").await;
    assert_eq!(rows, "1|vehicle 1 / 2 / 3 / 4|vehicle 4");
    let reasons = world.reasons().await;
    assert!(reasons.len() == 1 && reasons[0].1.contains("names the message [3]"), "{reasons:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_needs_no_header_and_a_registry_without_guids_is_waited_for_by_name() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (id bigint)").await;
    let registry = Registry::start().expect("the registry starts");
    let id = registry.add("ride", "JSON", "{}", &[]);
    world.produce([headed(Registry::guid_header(id), br#"{"id":1}"#.to_vec())]);
    let (code, log) = world.drain(&world.config("table.name = \"rides\""));
    assert_eq!((code, world.number("SELECT count(*) FROM rides").await), (Some(0), 1), "{log}");

    let world = World::new(1).await;
    world.sql(RIDES).await;
    let id = registry.add("ride", "AVRO", AVRO, &[]);
    registry.without_guids(true);
    world.produce([headed(Registry::guid_header(id), avro_ride(1))]);
    let daemon = world.daemon(&world.with_registry(&registry, "", &avro_pipeline()));
    daemon.await_log("has no lookup by GUID", PATIENCE).expect("it is named");
    registry.without_guids(false);
    eventually_async("the row comes", PATIENCE, async || world.number("SELECT count(*) FROM rides").await == 1)
        .await
        .expect("it comes by itself");
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_compares_paths_with_the_schemas_of_the_records_and_a_later_version_may_have_the_field() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (id bigint, name text, lat float8, speed float8)").await;
    let registry = Registry::start().expect("the registry starts");
    let old = PROTO.replace("optional double speed = 8;", "");
    let old = registry.add("ride", "PROTOBUF", &old, &[]);
    let pipeline = "table.name = \"rides\"\ndecode.format = \"protobuf\"\n[pipelines.NAME.columns]\n\
        id = \"id\"\nname = \"name\"\nlat = \"position.lat\"\nspeed = \"speed\"\n";
    let config = world.with_registry(&registry, "", pipeline);
    let is_absent = format!(
        "none of the 1 newest records has field `speed`; schema {old}: message `rides.Ride` has no field `speed`"
    );
    world.produce([Record::new(framed(old, &[0], &proto_ride(1)))]);
    tidegate(&config, &["check"]).fails(64, &[&is_absent]);
    // Another version of the schema has the field, so its name is not misspelt.
    let new = registry.add("ride", "PROTOBUF", PROTO, &[]);
    // These versions don't say anything about the field: one has other messages, and one isn't Protobuf.
    registry.add("ride", "PROTOBUF", "syntax = \"proto3\"; package rides; message Stop { int64 id = 1; }", &[]);
    registry.add("ride", "JSON", "{}", &[]);
    let elsewhere = format!("has field `speed`, because their schemas don't have it; schema {new} does");
    tidegate(&config, &["check"]).ok().says(&[&elsewhere, "ready"]);
    let both = config.replace("position.lat", "position.latt");
    let misspelt = format!("has field `position.latt`; schema {old}: message `rides.Position` has no field `latt`");
    tidegate(&both, &["check"]).fails(64, &[&elsewhere, &misspelt]);
    // In the schema of this record, the field exists. The record itself doesn't set it.
    world.produce([Record::new(framed(new, &[0], &proto_ride(2)))]);
    tidegate(&config, &["check"]).ok().says(&["none of the 2 newest records has field `speed`", "ready"]);
    let wrong = config.replace("position.lat", "position.latt");
    let said = format!(
        "has field `position.latt`; schema {new}: message `rides.Position` has no field `latt`; did you mean `lat`?"
    );
    tidegate(&wrong, &["check"]).fails(64, &[&said]);
    // The framing of this record names the file's second message.
    let wrong = config.replace("\"name\"", "\"nam\"").replace("\"speed\"", "\"lon\"");
    world.produce([Record::new(framed(new, &[2, 2], &[9, 0, 0, 0, 0, 0, 0, 0, 0]))]);
    let said = ["field `nam`; schema"];
    tidegate(&wrong, &["check"]).fails(64, &said);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_ends_its_search_at_the_first_version_that_it_can_not_read_and_says_so() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (id bigint, speed float8)").await;
    let registry = Registry::start().expect("the registry starts");
    let old = registry.add("ride", "PROTOBUF", &PROTO.replace("optional double speed = 8;", ""), &[]);
    let new = registry.add("ride", "PROTOBUF", PROTO, &[]);
    let newest = registry.add("ride", "PROTOBUF", &PROTO.replace("speed = 8", "speed = 9"), &[]);
    let pipeline = "table.name = \"rides\"\ndecode.format = \"protobuf\"\n[pipelines.NAME.columns]\n\
        id = \"id\"\nspeed = \"speed\"\n";
    let config = world.with_registry(&registry, "", pipeline);
    world.produce([Record::new(framed(old, &[0], &proto_ride(1)))]);
    let absent = format!("has field `speed`; schema {old}: message `rides.Ride` has no field `speed`");
    for denied in ["/subjects/".to_owned(), format!("/schemas/ids/{newest}")] {
        registry.deny(Some(&denied));
        let unread = format!(
            "; not all other versions of the schema could be read: the schema registry at {}: it refuses access",
            registry.url()
        );
        tidegate(&config, &["check"]).fails(64, &[&absent, &unread]);
    }
    // `check` requested the newest version first. The request was denied, so `check` requested no other version.
    assert!(!registry.asked().contains(&format!("/schemas/ids/{new}")), "{:?}", registry.asked());
    registry.deny(None);
    tidegate(&config, &["check"]).ok().says(&["which is another version of them"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_no_schema_has_is_counted_and_shown_unless_the_mapping_says_that_null_is_meant() {
    let registry = Registry::start().expect("the registry starts");
    let id = registry.add("ride", "AVRO", AVRO, &[]);
    let says = "no record so far has had the field `nam`, so its column is NULL. Is the name misspelled?";
    for (name, is_said) in [("\"nam\"", true), ("{ field = \"nam\", missing = \"null\" }", false)] {
        let world = World::new(1).await;
        world.sql("CREATE TABLE rides (id bigint, name text, note text)").await;
        let pipeline = format!(
            "table.name = \"rides\"\ndecode.format = \"avro\"\n[pipelines.NAME.columns]\nid = \"id\"\nname = {name}\n\
             note = {{ field = \"note\", missing = \"null\" }}\n"
        );
        world.produce((0..1_200).map(|n| Record::new(framed(id, &[], &avro_ride(n)))));
        let config = world.with_registry(&registry, "", &pipeline);
        let daemon = world.daemon(&config);
        let missing = || daemon.metric("tidegate_fields_missing_total", &[("column", "name")]);
        let counted = eventually_async("the rows are counted", PATIENCE, async || missing() == Some(1_200.0)).await;
        counted.unwrap_or_else(|error| panic!("{error:#}: {:?}", missing()));
        await_metric(&daemon, "tidegate_rows_written_total", 1_200.0);
        let status = daemon.get("/api/status").expect("it answers").body;
        assert_eq!(status.contains(says), is_said, "{status}");
        // The log names only fields whose absence the mapping doesn't explain.
        let logged = "no record so far has these fields";
        if is_said {
            let line = daemon.await_log(logged, PATIENCE).expect("the log names the field");
            assert!(line.contains("`nam` (column `name`)") && !line.contains("`note`"), "{line}");
        }
        daemon.drain(PATIENCE).expect("it ends");
        let lines = daemon.log().iter().filter(|line| line.contains(logged)).count();
        assert_eq!(lines, usize::from(is_said), "{:?}", daemon.log());
        assert_eq!(world.number("SELECT count(*) FROM rides WHERE name IS NULL").await, 1_200);
        // Whether `check` fails or succeeds, it names the nearest field.
        let nearest = ["record `Ride` has no field `nam`; did you mean `name`?"];
        let ran = tidegate(&config, &["check"]);
        if is_said {
            ran.fails(64, &nearest)
        } else {
            ran.ok().says(&nearest)
        };
    }
}
