//! Changes of Debezium, and streams and tables of ksqlDB. `schema` makes a proposal, `check` accepts it and `run` drains with it,
//! without any edit.

use tidegate_harness::{Record, Registry};

use crate::cdc::{add_changes, long, text};
use crate::support::World;

/// Returns a change without Kafka Connect's envelope. `source` has those fields of the block `source` that depend on the
/// connector.
fn change(source: &str, before: &str, after: &str, op: &str) -> String {
    format!(
        r#"{{"before":{before},"after":{after},"source":{{"version":"3.0.0.Final","connector":"c","name":"shop","ts_ms":1769860800123,
        "snapshot":"false","db":"shop",{source}}},"op":"{op}","ts_ms":1769860800456,"transaction":null}}"#
    )
}

/// Returns a change in Kafka Connect's envelope. `fields` are the schemas of the row's fields.
fn enveloped(fields: &str, change: &str) -> String {
    let row = |name: &str| format!(r#"{{"type":"struct","fields":[{fields}],"optional":true,"field":"{name}"}}"#);
    format!(
        r#"{{"schema":{{"type":"struct","fields":[{},{},{{"type":"string","optional":false,"field":"op"}}],"optional":false,
        "name":"shop.public.t.Envelope"}},"payload":{change}}}"#,
        row("before"),
        row("after")
    )
}

const OF_POSTGRES: &str = r#""schema":"public","table":"t","txId":571,"lsn":24023128,"xmin":null"#;
const OF_MYSQL: &str =
    r#""table":"t","server_id":223344,"gtid":null,"file":"mysql-bin.000003","pos":154,"row":0,"thread":7"#;

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_debezium_for_postgres() {
    let fields = r#"{"type":"int64","optional":false,"default":0,"field":"id"},{"type":"string","optional":true,"field":"name"},
        {"type":"int16","optional":true,"field":"small"},{"type":"float","optional":true,"field":"real"},
        {"type":"boolean","optional":true,"field":"ok"},{"type":"bytes","optional":true,"field":"raw"},
        {"type":"bytes","optional":true,"name":"org.apache.kafka.connect.data.Decimal","version":1,"parameters":{"scale":"2"},"field":"price"},
        {"type":"int32","optional":true,"name":"io.debezium.time.Date","version":1,"field":"day"},
        {"type":"int64","optional":true,"name":"io.debezium.time.MicroTimestamp","version":1,"field":"at"},
        {"type":"string","optional":true,"name":"io.debezium.time.ZonedTimestamp","version":1,"field":"zoned"},
        {"type":"int64","optional":true,"name":"io.debezium.time.MicroTime","version":1,"field":"clock"},
        {"type":"string","optional":true,"name":"io.debezium.time.ZonedTime","version":1,"field":"zoned_clock"},
        {"type":"int64","optional":true,"name":"io.debezium.time.MicroDuration","version":1,"field":"took"},
        {"type":"string","optional":true,"name":"io.debezium.data.Json","version":1,"field":"doc"},
        {"type":"string","optional":true,"name":"io.debezium.data.Uuid","version":1,"field":"uid"},
        {"type":"string","optional":true,"name":"io.debezium.data.Enum","version":1,"parameters":{"allowed":"a,b"},"field":"mood"},
        {"type":"array","items":{"type":"int32","optional":true},"optional":true,"field":"counts"}"#;
    let row = |id: i32| {
        format!(
            r#"{{"id":{id},"name":"Ada","small":7,"real":1.5,"ok":true,"raw":"AAE=","price":"A94=","day":20484,"at":1769860800123456,
            "zoned":"2026-01-31T12:00:00.000000Z","clock":45296000000,"zoned_clock":"12:34:56Z","took":1500000,"doc":"{{\"a\": 1}}",
            "uid":"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11","mood":"a","counts":[1,2]}}"#
        )
    };
    let key = |id: i32| {
        format!(
            r#"{{"schema":{{"type":"struct","fields":[{{"type":"int64","optional":false,"field":"id"}}],"optional":false,
            "name":"shop.public.t.Key"}},"payload":{{"id":{id}}}}}"#
        )
    };
    let of = |id: i32, before: &str, after: &str, op: &str| {
        Record::new(enveloped(fields, &change(OF_POSTGRES, before, after, op))).key(key(id))
    };
    let world = World::new(1).await;
    let gone = r#"{"id":2,"name":null,"small":null,"real":null,"ok":null,"raw":null,"price":null,"day":null,"at":null,"zoned":null,
        "clock":null,"zoned_clock":null,"took":null,"doc":null,"uid":null,"mood":null,"counts":null}"#;
    world.produce([
        of(1, "null", &row(1), "r"),
        of(2, "null", &row(2), "c"),
        of(1, "null", &row(1).replace("Ada", "Bea"), "u"),
        of(2, gone, "null", "d"),
        Record::tombstone().key(key(2)),
    ]);
    world.by_its_proposal(&[], &["mode = \"upsert\"", "key = [\"id\"]", "envelope = \"debezium\""]).await;
    assert_eq!(
        world.columns().await,
        "id int8, name text, small int2, real real, ok bool, raw bytea, price numeric, day date, at timestamp, zoned timestamptz, \
         clock time, zoned_clock timetz, took interval, doc jsonb, uid uuid, mood text, counts int4[]"
    );
    assert_eq!(
        world.text("SELECT string_agg(concat_ws('|', id, name, small, real, encode(raw, 'hex'), price, day, at, zoned AT TIME ZONE 'UTC', clock, zoned_clock, took, doc->>'a', counts), ' ') FROM t").await,
        "1|Bea|7|1.5|0001|9.90|2026-01-31|2026-01-31 12:00:00.123456|2026-01-31 12:00:00|12:34:56|12:34:56+00|00:00:01.5|1|{1,2}"
    );

    // Without schemas, the types are inferred from the values alone.
    let world = World::new(1).await;
    let plain = |id: i32, before: &str, after: &str, op: &str| {
        Record::new(change(OF_POSTGRES, before, after, op)).key(format!(r#"{{"id":{id}}}"#))
    };
    let row = |id: i32, name: &str| {
        format!(
            r#"{{"id":{id},"name":"{name}","price":"9.90","created_at":1769860800123456,"updated":"2026-01-31T12:00:00Z","doc":"{{}}"}}"#
        )
    };
    world.produce([
        plain(1, "null", &row(1, "Ada"), "c"),
        plain(2, "null", &row(2, "Bea"), "c"),
        plain(1, "null", &row(1, "Eve"), "u"),
        plain(2, &row(2, "Bea"), "null", "d"),
        Record::tombstone().key(r#"{"id":2}"#),
    ]);
    world.by_its_proposal(&[], &["price = { field = \"price\", type = \"numeric\" }"]).await;
    assert_eq!(
        world.columns().await,
        "id int8, name text, price numeric, created_at timestamptz, updated timestamptz, doc text"
    );
    assert_eq!(
        world
            .text("SELECT string_agg(concat_ws('|', id, name, price, created_at AT TIME ZONE 'UTC'), ' ') FROM t")
            .await,
        "1|Eve|9.90|2026-01-31 12:00:00.123456"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_debezium_for_mysql() {
    let fields = r#"{"type":"int32","optional":false,"field":"order_id"},{"type":"string","optional":false,"field":"region"},
        {"type":"int16","optional":true,"field":"flag"},
        {"type":"int64","optional":true,"name":"io.debezium.time.Timestamp","version":1,"field":"placed"},
        {"type":"string","optional":true,"name":"io.debezium.time.ZonedTimestamp","version":1,"field":"updated"},
        {"type":"int64","optional":true,"name":"io.debezium.time.MicroTime","version":1,"field":"slot"},
        {"type":"int32","optional":true,"name":"io.debezium.time.Year","version":1,"field":"year"},
        {"type":"bytes","optional":true,"name":"org.apache.kafka.connect.data.Decimal","version":1,"parameters":{"scale":"3","connect.decimal.precision":"10"},"field":"weight"},
        {"type":"string","optional":true,"name":"io.debezium.data.EnumSet","version":1,"parameters":{"allowed":"a,b"},"field":"flags"},
        {"type":"string","optional":true,"name":"io.debezium.data.Json","version":1,"field":"doc"},
        {"type":"bytes","optional":true,"name":"io.debezium.data.Bits","version":1,"parameters":{"length":"9"},"field":"bits"}"#;
    let row = |id: i32| {
        format!(
            r#"{{"order_id":{id},"region":"n","flag":1,"placed":1769860800123,"updated":"2026-01-31T12:00:00Z","slot":45296000000,
            "year":2026,"weight":"A94=","flags":"a,b","doc":"[1]","bits":"/wE="}}"#
        )
    };
    let key = |id: i32| {
        format!(
            r#"{{"schema":{{"type":"struct","fields":[{{"type":"int32","optional":false,"field":"order_id"}},
            {{"type":"string","optional":false,"field":"region"}}],"optional":false}},"payload":{{"order_id":{id},"region":"n"}}}}"#
        )
    };
    let of = |id: i32, before: &str, after: &str, op: &str| {
        Record::new(enveloped(fields, &change(OF_MYSQL, before, after, op))).key(key(id))
    };
    let world = World::new(1).await;
    world.produce([
        of(1, "null", &row(1), "c"),
        of(2, "null", &row(2), "c"),
        of(2, &row(2), "null", "d"),
        Record::tombstone().key(key(2)),
    ]);
    world.by_its_proposal(&[], &["key = [\"order_id\", \"region\"]"]).await;
    assert_eq!(
        world.columns().await,
        "order_id int4, region text, flag int2, placed timestamp, updated timestamptz, slot time, year int4, weight numeric, flags text, \
         doc jsonb, bits bytea"
    );
    assert_eq!(
        world.text("SELECT string_agg(concat_ws('|', order_id, flag, placed, updated AT TIME ZONE 'UTC', slot, year, weight, flags, doc, encode(bits, 'hex')), ' ') FROM t").await,
        "1|1|2026-01-31 12:00:00.123|2026-01-31 12:00:00|12:34:56|2026|0.990|a,b|[1]|ff01"
    );

    // The changes were unwrapped by Debezium's transform, and have no schemas.
    let world = World::new(1).await;
    let row = |id: i32, deleted: bool| {
        Record::new(format!(r#"{{"order_id":{id},"flag":1,"__deleted":"{deleted}"}}"#))
            .key(format!(r#"{{"order_id":{id}}}"#))
    };
    world.produce([row(1, false), row(2, false), row(2, true)]);
    world.by_its_proposal(&[], &["delete_where = { field = \"__deleted\", equals = \"true\" }"]).await;
    assert_eq!(world.text("SELECT string_agg(order_id::text, ',') FROM t").await, "1");

    // The table has no primary key, so its changes have no key. Each change becomes a row.
    let world = World::new(1).await;
    world.produce([
        Record::new(change(OF_MYSQL, "null", r#"{"v":1}"#, "c")),
        Record::new(change(OF_MYSQL, r#"{"v":1}"#, r#"{"v":2}"#, "u")),
        Record::new(change(OF_MYSQL, r#"{"v":2}"#, "null", "d")),
    ]);
    world.by_its_proposal(&[], &["op = { meta = \"op\", type = \"text\" }"]).await;
    assert_eq!(world.text("SELECT string_agg(op || v, ',' ORDER BY kafka_offset) FROM t").await, "c1,u2,d2");
}

fn framed(id: u32, bytes: &[u8]) -> Vec<u8> {
    [&[0][..], &id.to_be_bytes(), bytes].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_debezium_in_avro() {
    let world = World::new(1).await;
    let registry = Registry::start().expect("the registry starts");
    let named = |field: &str, kind: &str, name: &str| {
        format!(
            r#"{{"name":"{field}","type":["null",{{"type":"{kind}","connect.version":1,"connect.name":"{name}"}}],"default":null}}"#
        )
    };
    let fields = [
        r#"{"name":"id","type":"int"}"#.to_owned(),
        r#"{"name":"name","type":["null","string"],"default":null}"#.to_owned(),
        named("day", "int", "io.debezium.time.Date"),
        named("at", "long", "io.debezium.time.MicroTimestamp"),
        named("zoned", "string", "io.debezium.time.ZonedTimestamp"),
        named("doc", "string", "io.debezium.data.Json"),
        r#"{"name":"price","type":["null",{"type":"bytes","scale":2,"precision":10,"connect.name":"org.apache.kafka.connect.data.Decimal","logicalType":"decimal"}],"default":null}"#.to_owned(),
        r#"{"name":"tags","type":["null",{"type":"array","items":["null","string"]}],"default":null}"#.to_owned(),
    ];
    let (value, key) = add_changes(&registry, &fields);
    let some = |bytes: Vec<u8>| [long(1), bytes].concat();
    let row = |id: i64, name: &str| {
        let tags = [long(1), some(text("x")), long(0)].concat();
        let fields = [
            some(text(name)),
            some(long(20484)),
            some(long(1_769_860_800_123_456)),
            some(text("2026-01-31T12:00:00Z")),
            some(text(r#"{"a":1}"#)),
            some(text([0x03, 0xde])),
            some(tags),
        ];
        [long(id), fields.concat()].concat()
    };
    let written = |id: i64, name: &str| framed(value, &[long(0), some(row(id, name)), text("c"), long(0)].concat());
    let deleted = |id: i64| framed(value, &[some(row(id, "")), long(0), text("d"), long(0)].concat());
    let key = |id: i64| framed(key, &long(id));
    world.produce([
        Record::new(written(1, "Ada")).key(key(1)),
        Record::new(written(2, "Bea")).key(key(2)),
        Record::new(written(1, "Eve")).key(key(1)),
        Record::new(deleted(2)).key(key(2)),
        Record::tombstone().key(key(2)),
    ]);
    let url = registry.url();
    let check = world
        .by_its_proposal(
            &["--schema-registry", &url],
            &["format = \"avro\"", "envelope = \"debezium\"", "key = [\"id\"]"],
        )
        .await;
    check.says(&["column name: 3 of 3 records have name"]);
    assert_eq!(
        world.columns().await,
        "id int4, name text, day date, at timestamp, zoned timestamptz, doc jsonb, price numeric, tags text[]"
    );
    assert_eq!(
        world.text("SELECT string_agg(concat_ws('|', id, name, day, at, zoned AT TIME ZONE 'UTC', doc, price, tags), ' ') FROM t").await,
        "1|Eve|2026-01-31|2026-01-31 12:00:00.123456|2026-01-31 12:00:00|{\"a\": 1}|9.90|{x}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_tables_of_ksqldb_in_json() {
    // The stream has KEY_FORMAT = 'KAFKA' with a BIGINT. The value doesn't repeat the key.
    let world = World::new(1).await;
    let key = |id: i64| id.to_be_bytes().to_vec();
    world.produce([
        Record::new(r#"{"REGION":"n","TOTAL":12.50}"#).key(key(7)),
        Record::new(r#"{"REGION":"s","TOTAL":null}"#).key(key(1 << 40)),
    ]);
    world.by_its_proposal(&[], &["key_format = \"int64\"", "kafka_key = { meta = \"key\", type = \"int8\" }"]).await;
    assert_eq!(world.columns().await, "REGION text, TOTAL float8, kafka_key int8");
    assert_eq!(
        world
            .text("SELECT string_agg(concat_ws(':', kafka_key, \"REGION\", \"TOTAL\"), ' ' ORDER BY kafka_key) FROM t")
            .await,
        "7:n:12.5 1099511627776:s"
    );

    // A table of ksqlDB: the last value of a key counts, and a record without a value deletes the key's row.
    let row = |n: u32| Record::new(format!(r#"{{"COUNT":{n}}}"#));
    type Key = fn(u32) -> Vec<u8>;
    let keys: [(&str, Key, &str, &str); 5] = [
        ("text", |n| format!("device-{n}").into_bytes(), "device-1:3", "text"),
        ("an INT", |n| n.to_be_bytes().to_vec(), "1:3", "int4"),
        ("a DOUBLE", |n| (f64::from(n) + 0.5).to_be_bytes().to_vec(), "1.5:3", "float8"),
        ("JSON", |n| format!(r#""device-{n}""#).into_bytes(), "device-1:3", "text"),
        (
            "a struct in JSON",
            |n| format!(r#"{{"REGION":"n","ID":{n}}}"#).into_bytes(),
            "{\"ID\": 1, \"REGION\": \"n\"}:3",
            "jsonb",
        ),
    ];
    for (what, key, expected, of) in keys {
        let world = World::new(1).await;
        world.produce([row(1).key(key(1)), row(2).key(key(2)), row(3).key(key(1)), Record::tombstone().key(key(2))]);
        world.by_its_proposal(&[], &["key = [\"kafka_key\"]", "deletes = true"]).await;
        assert_eq!(world.columns().await, format!("COUNT int8, kafka_key {of}"), "{what}");
        let rows = "SELECT string_agg(concat_ws(':', kafka_key, \"COUNT\"), ' ') FROM t";
        assert_eq!(world.text(rows).await, expected, "{what}");
    }

    // The rows of this ksqlDB table contain the key.
    let world = World::new(1).await;
    let row = |n: u32| Record::new(format!(r#"{{"ID":{n},"V":1}}"#)).key(n.to_string());
    world.produce([row(1), row(2), Record::tombstone().key("2")]);
    world.by_its_proposal(&[], &["key = [\"ID\"]"]).await;
    assert_eq!(world.columns().await, "ID int8, V int8");
    assert_eq!(world.text("SELECT string_agg(\"ID\"::text, ',') FROM t").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_and_tables_of_ksqldb_in_avro_and_protobuf() {
    let registry = Registry::start().expect("the registry starts");
    let url = registry.url();
    let schema = r#"{"type":"record","name":"KsqlDataSourceSchema","namespace":"io.confluent.ksql.avro_schemas","fields":[
        {"name":"REGION","type":["null","string"],"default":null},{"name":"TOTAL","type":["null","double"],"default":null},
        {"name":"AT","type":["null",{"type":"long","connect.version":1,"connect.name":"org.apache.kafka.connect.data.Timestamp","logicalType":"timestamp-millis"}],"default":null}]}"#;
    let value = registry.add("t-value", "AVRO", schema, &[]);
    let scalar = registry.add("t-key", "AVRO", r#""long""#, &[]);
    let some = |bytes: Vec<u8>| [long(1), bytes].concat();
    let row = |region: &str, total: f64| {
        let total = some(total.to_le_bytes().to_vec());
        framed(value, &[some(text(region)), total, some(long(1_769_860_800_123))].concat())
    };
    // The first pair of keys has KEY_FORMAT = 'AVRO'. The second pair has KEY_FORMAT = 'KAFKA' with a VARCHAR.
    let keys: [(Vec<u8>, Vec<u8>, &str); 2] =
        [(framed(scalar, &long(7)), framed(scalar, &long(8)), "7"), (b"d-7".to_vec(), b"d-8".to_vec(), "d-7")];
    for (first, second, expected) in keys {
        let world = World::new(1).await;
        world.produce([
            Record::new(row("n", 1.5)).key(first.clone()),
            Record::new(row("s", 2.5)).key(second.clone()),
            Record::new(row("e", 3.5)).key(first),
            Record::tombstone().key(second),
        ]);
        world.by_its_proposal(&["--schema-registry", &url], &["format = \"avro\"", "key = [\"kafka_key\"]"]).await;
        let of = if expected == "7" { "int8" } else { "text" };
        assert_eq!(world.columns().await, format!("REGION text, TOTAL float8, AT timestamptz, kafka_key {of}"));
        assert_eq!(
            world.text("SELECT string_agg(concat_ws('|', kafka_key, \"REGION\", \"TOTAL\", \"AT\" AT TIME ZONE 'UTC'), ' ') FROM t").await,
            format!("{expected}|e|3.5|2026-01-31 12:00:00.123")
        );
    }

    let schema = r#"syntax = "proto3"; import "google/protobuf/timestamp.proto";
        message ConnectDefault1 { string REGION = 1; double TOTAL = 2; google.protobuf.Timestamp AT = 3; repeated string TAGS = 4; }"#;
    let value = registry.add("p-value", "PROTOBUF", schema, &[]);
    let body = [
        &[0x0a, 1, b'n', 0x11][..],
        &1.5_f64.to_le_bytes(),
        &[0x1a, 6, 0x08, 0xc0, 0xdd, 0xf7, 0xcb, 0x06, 0x22, 1, b'x'],
    ];
    let world = World::new(1).await;
    world.produce([Record::new(framed(value, &[&[0][..], &body.concat()].concat())).key("d")]);
    world.by_its_proposal(&["--schema-registry", &url], &["format = \"protobuf\""]).await;
    assert_eq!(world.columns().await, "REGION text, TOTAL float8, AT timestamptz, TAGS text[], kafka_key text");
    assert_eq!(
        world
            .text("SELECT concat_ws('|', kafka_key, \"REGION\", \"TOTAL\", \"AT\" AT TIME ZONE 'UTC', \"TAGS\") FROM t")
            .await,
        "d|n|1.5|2026-01-31 12:00:00|{x}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_a_registry_need_its_address() {
    let world = World::new(1).await;
    world.produce([Record::new(framed(1, &long(7)))]);
    crate::cli_schema::schema(&world, &[]).fails(64, &["1 value begins with the id of a schema", "--schema-registry"]);
}
