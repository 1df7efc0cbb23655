//! Records of Apicurio Registry's serializers. Their schema ids have eight bytes, and their headers have other names than
//! Confluent's.

use tidegate_harness::{Record, Registry};

use crate::cli::tidegate;
use crate::formats::{AVRO, PROTO, RIDE, RIDES, SHOWN, avro_ride, proto_ride};
use crate::formats_registry::{avro_pipeline, framed};
use crate::support::World;

#[tokio::test(flavor = "multi_thread")]
async fn apicurios_headers_name_the_schema_of_an_avro_value_and_its_key() {
    let world = World::new(1).await;
    world.sql(RIDES).await;
    world.sql("CREATE UNIQUE INDEX ON rides (id)").await;
    let registry = Registry::start().expect("the registry starts");
    let old = r#"{"type":"record","name":"Ride","fields":[{"name":"id","type":"int"}]}"#;
    let old = registry.add("ride", "AVRO", old, &[]);
    let new = registry.add("ride", "AVRO", AVRO, &[]);
    let key = r#"{"type":"record","name":"K","fields":[{"name":"id","type":"long"}]}"#;
    let key = registry.add("ride-key", "AVRO", key, &[]);
    let long = |id: u32| u64::from(id).to_be_bytes();
    let upsert = "table.mode = \"upsert\"\ntable.key = [\"id\"]\ntable.deletes = true\n[pipelines";
    let config = world.with_registry(&registry, "", &avro_pipeline().replace("[pipelines", upsert));
    let record = |value: Vec<u8>| Record::new(value).to(0);
    world.produce([
        record(avro_ride(1)).header("apicurio.value.globalId", long(new)),
        record(vec![4]).header("apicurio.value.contentId", long(old)),
        // If a record has both ids, only the content id is looked up.
        record(avro_ride(3))
            .header("apicurio.value.globalId", long(4711))
            .header("apicurio.value.contentId", long(new)),
        record(vec![8]).header("apicurio.value.contentId", long(old)),
        record(framed(new, &[], &avro_ride(5))),
        record(vec![8]).header("apicurio.value.contentId", u64::MAX.to_be_bytes()),
        record(vec![8]).header("apicurio.value.contentId", (1_u64 << 32).to_be_bytes()),
        Record::tombstone().to(0).key([8]).header("apicurio.key.contentId", long(key)),
    ]);
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.text(SHOWN).await, RIDE);
    assert_eq!(world.text("SELECT string_agg(id::text, ',' ORDER BY id) FROM rides").await, "1,2,3,5");
    let reasons = world.reasons().await;
    assert!(reasons.len() == 2 && reasons.iter().all(|(reason, _)| reason == "invalid_format"), "{reasons:?}");
}

/// Returns the type reference that Apicurio's Protobuf serializer writes before a message: the message's length-delimited name.
fn type_ref(name: &str) -> Vec<u8> {
    let length = u8::try_from(name.len()).expect("a short name");
    [&[length + 2, 0x0a, length], name.as_bytes()].concat()
}

/// Adds the framing of Apicurio's `Legacy8ByteIdHandler` to a value: a zero byte, and the schema id in eight bytes.
fn framed_long(id: u32, behind: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0][..], &u64::from(id).to_be_bytes(), behind, value].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_of_eight_bytes_in_front_of_a_value_are_read_in_every_format() {
    let registry = Registry::start().expect("the registry starts");
    let avro = registry.add("ride", "AVRO", AVRO, &[]);
    let world = World::new(1).await;
    world.sql(RIDES).await;
    let config = world.with_registry(&registry, "", &avro_pipeline());
    let values = vec![
        framed(avro, &[], &avro_ride(1)),
        framed_long(avro, &[], &avro_ride(2)),
        framed_long(4711, &[], &avro_ride(3)),
        framed_long(avro, &[], &avro_ride(4)),
    ];
    world.drain_values(&config, values);
    assert_eq!(world.text("SELECT string_agg(id::text, ',' ORDER BY id) FROM rides").await, "1,2,4");
    let reasons = world.reasons().await;
    assert!(reasons.len() == 1 && reasons[0].1.contains("schema 4711 is not in the registry"), "{reasons:?}");
    tidegate(&config, &["check"]).ok();

    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (id bigint, v int)").await;
    let config = world.with_registry(&registry, "", "table.name = \"rides\"");
    let values = vec![
        framed_long(avro, &[], br#"{"id":1,"v":2}"#),
        framed(avro, &[], br#"{"id":3,"v":4}"#),
        b"{\"id\":5}".to_vec(),
    ];
    world.drain_values(&config, values);
    assert_eq!(world.text("SELECT string_agg(id::text, ',' ORDER BY id) FROM rides").await, "1,3,5");
}

#[tokio::test(flavor = "multi_thread")]
async fn apicurios_type_references_and_headers_name_the_message_of_a_protobuf_value() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (id bigint, name text, lat float8)").await;
    let registry = Registry::start().expect("the registry starts");
    // `Ride` is the second message of the file. A decoder that ignores the name would decode as the first one, `Stop`.
    let several = PROTO.replacen("message Ride {", "message Stop { string lat = 1; }\nmessage Ride {", 1);
    let several = registry.add("ride", "PROTOBUF", &several, &[]);
    let only = "syntax = \"proto3\"; package rides; message Ride { int64 id = 1; string name = 2; }";
    let only = registry.add("ride", "PROTOBUF", only, &[]);
    let pipeline = "table.name = \"rides\"\ndead_letters.max_share = 1.0\ndecode.format = \"protobuf\"\n\
        [pipelines.NAME.columns]\nid = \"id\"\nname = \"name\"\nlat = \"position.lat\"\n";
    let config = world.with_registry(&registry, "", pipeline);
    let ride = type_ref("Ride");
    let headed = |id: u32, parts: &[&[u8]]| {
        let record = Record::new(parts.concat()).to(0);
        record.header("apicurio.value.contentId", u64::from(id).to_be_bytes())
    };
    world.produce([
        headed(only, &[&[8, 6, 0x12, 1, b'x']]),
        Record::new(framed(several, &ride, &proto_ride(1))).to(0),
        Record::new(framed_long(several, &ride, &proto_ride(2))).to(0),
        // Confluent's message indexes, after an id of four bytes and after one of eight bytes.
        Record::new(framed(several, &[2, 2], &proto_ride(3))).to(0),
        Record::new(framed_long(several, &[2, 2], &proto_ride(4))).to(0),
        headed(several, &[&ride, &proto_ride(5)]),
        // Nothing says which of several messages this is.
        headed(several, &[&proto_ride(7)]),
        Record::new(framed(several, &type_ref("Nobody"), &proto_ride(8))).to(0),
    ]);
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    let rows = "SELECT string_agg(id || ':' || name, ',' ORDER BY id) FROM rides";
    assert_eq!(world.text(rows).await, "1:vehicle 1,2:vehicle 2,3:vehicle 3,4:vehicle 4,5:vehicle 5,6:x");
    assert_eq!(world.number("SELECT count(*) FROM rides WHERE lat = 52.5").await, 5);
    let details: Vec<_> = world.reasons().await.into_iter().map(|(_, detail)| detail).collect();
    assert!(details.len() == 2 && details[0].contains("in the header apicurio.protobuf.type, or"), "{details:?}");
    let wrong = config.replace("position.lat", "position.latt");
    tidegate(&wrong, &["check"]).fails(64, &["message `rides.Position` has no field `latt`; did you mean `lat`?"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn apicurios_header_names_the_message_of_a_protobuf_value_or_key_without_a_type_reference() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (id bigint PRIMARY KEY, name text, lat float8)").await;
    let registry = Registry::start().expect("the registry starts");
    // In the schemas `several` and `keys`, the first message is the wrong one.
    let several = PROTO.replacen("message Ride {", "message Stop { string lat = 1; }\nmessage Ride {", 1);
    let several = registry.add("ride", "PROTOBUF", &several, &[]);
    let keys = "syntax = \"proto3\"; message Other { string id = 1; } message K { int64 id = 1; }";
    let keys = registry.add("ride-key", "PROTOBUF", keys, &[]);
    let nested = "syntax = \"proto3\"; message Ride { int64 id = 1; string name = 2; Position position = 4; \
        message Position { double lat = 1; } }";
    let nested = registry.add("ride", "PROTOBUF", nested, &[]);
    let pipeline = "table.name = \"rides\"\ntable.mode = \"upsert\"\ntable.key = [\"id\"]\ntable.deletes = true\n\
        dead_letters.max_share = 1.0\ndecode.format = \"protobuf\"\ndecode.key_format = \"protobuf\"\n\
        [pipelines.NAME.columns]\nid = \"id\"\nname = \"name\"\nlat = \"position.lat\"\n";
    let long = |id: u32| u64::from(id).to_be_bytes();
    let valued = |value: Vec<u8>| Record::new(value).to(0).header("apicurio.value.globalId", long(several));
    let named = |name: &str, value| valued(value).header("apicurio.protobuf.type", name);
    let deletes = |key: &[u8]| Record::tombstone().to(0).key(key).header("apicurio.key.globalId", long(keys));
    let ride = type_ref("Ride");
    world.produce([
        // A schema with a single outermost message needs no name.
        Record::new(proto_ride(5)).to(0).header("apicurio.value.globalId", long(nested)),
        named("Ride", proto_ride(1)),
        named("Ride", proto_ride(2)),
        named("Ride", proto_ride(3)),
        // Version 3 of the serializer writes the name both in the header and in front of the value.
        named("Ride", [&ride[..], &proto_ride(4)].concat()),
        named("Nobody", proto_ride(6)),
        // The header of a key doesn't name the message of a value.
        valued(proto_ride(7)).header("apicurio.protobuf.type.key", "Ride"),
        deletes(&[8, 2]).header("apicurio.protobuf.type.key", "K"),
        deletes(&[&type_ref("K")[..], &[8, 3]].concat()).header("apicurio.protobuf.type.key", "K"),
        deletes(&[8, 1]).header("apicurio.protobuf.type", "K"),
    ]);
    let config = world.with_registry(&registry, "", pipeline);
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    let rows = "SELECT string_agg(id || ':' || name || ':' || coalesce(lat, 0), ',' ORDER BY id) FROM rides";
    assert_eq!(world.text(rows).await, "1:vehicle 1:52.5,4:vehicle 4:52.5,5:vehicle 5:52.5");
    let details: Vec<_> = world.reasons().await.into_iter().map(|(_, detail)| detail).collect();
    assert_eq!(details.len(), 3, "{details:?}");
    let unknown = format!("its header names the message \"Nobody\", which schema {several} doesn't have");
    assert!(details[0].contains(&unknown), "{details:?}");
    assert!(
        details[1..].iter().all(|detail| detail.contains("in the header apicurio.protobuf.type, or")),
        "{details:?}"
    );
    // `check` compares the paths with the message that the header names.
    let wrong = config.replace("position.lat", "position.latt");
    tidegate(&wrong, &["check"]).fails(64, &["message `rides.Position` has no field `latt`; did you mean `lat`?"]);
}
