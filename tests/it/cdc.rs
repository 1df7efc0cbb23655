//! Changes as Debezium writes them: in JSON with and without schemas, in Avro, and unwrapped. Also the types of their fields.

use tidegate_harness::{Record, Registry};

use crate::cli::tidegate;
use crate::support::World;

/// Returns a change as Debezium's connector for Postgres writes it in JSON, without a schema.
fn change(op: &str, before: &str, after: &str) -> String {
    format!(
        r#"{{"before":{before},"after":{after},"source":{{"version":"3.0.0.Final","connector":"postgresql","name":"shop",
        "ts_ms":1769860800123,"snapshot":"false","db":"shop","schema":"public","table":"orders","txId":571,"lsn":24023128,"xmin":null}},
        "transaction":null,"op":"{op}","ts_ms":1769860800456,"ts_us":1769860800456789,"ts_ns":1769860800456789123}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_debezium_are_applied_in_turn() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE orders (id int PRIMARY KEY, state text, lsn bigint, op text)").await;
    let key = |id: i32| format!(r#"{{"id":{id}}}"#);
    let row = |id: i32, state: &str| format!(r#"{{"id":{id},"state":"{state}"}}"#);
    let schema = r#"{"type":"struct","fields":[],"optional":false,"name":"shop.public.orders.Envelope"}"#;
    let wrapped = |change: String| format!(r#"{{"schema":{schema},"payload":{change}}}"#);
    world.produce([
        Record::new(change("r", "null", &row(1, "read"))).key(key(1)),
        Record::new(change("c", "null", &row(2, "new"))).key(key(2)),
        Record::new(wrapped(change("c", "null", &row(3, "new")))).key(key(3)),
        Record::new(change("u", "null", &row(2, "paid"))).key(key(2)),
        Record::new(change("d", &row(1, "read"), "null")).key(key(1)),
        Record::tombstone().key(key(1)),
        Record::new(wrapped(change("d", r#"{"id":3,"state":null}"#, "null"))).key(key(3)),
        Record::tombstone().key(format!(r#"{{"schema":{schema},"payload":{{"id":3}}}}"#)),
        Record::new(change("c", "null", &row(4, "new"))).key(key(4)),
        Record::new(change("d", "null", "null")).key(key(4)), // the key alone says which row is deleted
        Record::new(change("m", "null", "null")).key("{}"),
        Record::new(change("t", "null", "null")),
        Record::new(row(9, "unwrapped")).key(key(9)),
    ]);
    let pipeline = "table = { name = \"orders\", mode = \"upsert\", key = [\"id\"] }\n\
         decode = { format = \"json\", envelope = \"debezium\" }\ndead_letters.max_share = 1\n\
         columns.id = \"id\"\ncolumns.state = \"state\"\ncolumns.lsn = { meta = \"source.lsn\" }\ncolumns.op = { meta = \"op\" }";
    let config = world.config(pipeline);
    let report = tidegate(&config, &["check", "--json"]).ok().json();
    assert_eq!(report["pipelines"][0]["sample"]["deletes"], 5, "{report}");
    world.drained(&config);
    let rows = world.rows("SELECT * FROM orders ORDER BY id").await;
    assert_eq!(rows, r#"[{"id":2,"state":"paid","lsn":24023128,"op":"u"}]"#);
    let reasons = world.reasons().await;
    let codes: Vec<_> = reasons.iter().map(|(reason, _)| reason.as_str()).collect();
    assert_eq!(codes, ["unapplied_change", "invalid_format"], "{reasons:?}");
    assert!(reasons[1].1.contains("envelope"), "{reasons:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_keeps_the_history_where_a_column_says_what_happened() {
    for (columns, expected) in
        [("columns.op = { meta = \"op\" }\n", "1:c,1:u,1:d"), ("columns.op = { value = \"-\" }\n", "1:-,1:-")]
    {
        let world = World::new(1).await;
        world.sql("CREATE TABLE history (id int, op text, at bigint GENERATED ALWAYS AS IDENTITY)").await;
        world.produce([
            Record::new(change("c", "null", r#"{"id":1}"#)),
            Record::new(change("u", r#"{"id":1}"#, r#"{"id":1}"#)),
            Record::new(change("d", r#"{"id":1}"#, "null")).key(r#"{"id":1}"#),
            Record::tombstone().key(r#"{"id":1}"#),
        ]);
        let pipeline = format!(
            "table = {{ name = \"history\" }}\ndecode = {{ format = \"json\", envelope = \"debezium\" }}\n\
             columns.id = \"id\"\n{columns}"
        );
        world.drained(&world.config(&pipeline));
        let found = world.text("SELECT string_agg(id || ':' || op, ',' ORDER BY at) FROM history").await;
        assert_eq!(found, expected);
        assert_eq!(world.reasons().await, []);
    }
}

/// A schema as Kafka Connect writes it in JSON. It is a struct whose fields have types that Debezium's connectors for Postgres
/// and MySQL name.
const TYPES: &str = r#"{"type":"struct","fields":[
    {"type":"int32","field":"day","name":"io.debezium.time.Date"},
    {"type":"int32","field":"never","name":"io.debezium.time.Date"},
    {"type":"int64","field":"at","name":"io.debezium.time.MicroTimestamp"},
    {"type":"int64","field":"forever","name":"io.debezium.time.MicroTimestamp"},
    {"type":"string","field":"zoned","name":"io.debezium.time.ZonedTimestamp"},
    {"type":"string","field":"ides","name":"io.debezium.time.ZonedTimestamp"},
    {"type":"int64","field":"took","name":"io.debezium.time.MicroDuration"},
    {"type":"string","field":"span","name":"io.debezium.time.Interval"},
    {"type":"struct","field":"amount","name":"io.debezium.data.VariableScaleDecimal",
     "fields":[{"type":"int32","field":"scale"},{"type":"bytes","field":"value"}]},
    {"type":"bytes","field":"price","name":"org.apache.kafka.connect.data.Decimal","parameters":{"scale":"2"}},
    {"type":"string","field":"doc","name":"io.debezium.data.Json"},
    {"type":"string","field":"uid","name":"io.debezium.data.Uuid"},
    {"type":"string","field":"state","name":"io.debezium.data.Enum","parameters":{"allowed":"new,paid"}},
    {"type":"int32","field":"year","name":"io.debezium.time.Year"}]}"#;

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, day date, never date, at timestamp, forever timestamp, zoned timestamptz, \
     ides timestamptz, took interval, span interval, amount numeric, price numeric(10,2), doc jsonb, uid uuid, state text, year int)";

const EXPECTED: &str = "2026-01-31|infinity|2026-01-31 12:00:00.123456|infinity|2026-01-31 12:00:00|\
    0044-03-15 00:00:00 BC|00:00:05|1 year 2 mons 3 days 04:05:06|-123.4500|-123.45|{\"a\": 1}|\
    11111111-1111-1111-1111-111111111111|paid|2026";

const SHOWN: &str = "SELECT concat_ws('|', day, never, at, forever, zoned AT TIME ZONE 'UTC', ides AT TIME ZONE 'UTC', took, span, amount, price, doc, uid, state, year) FROM t";

#[tokio::test(flavor = "multi_thread")]
async fn logical_types_in_the_json_envelope_have_their_meaning() {
    let world = World::new(1).await;
    world.sql(TABLE).await;
    let row = r#"{"id":1,"day":20484,"never":2147483647,"at":1769860800123456,"forever":9223372036825200000,
        "zoned":"2026-01-31T12:00:00Z","ides":"-0043-03-15T00:00:00Z","took":5000000,"span":"P1Y2M3DT4H5M6S",
        "amount":{"scale":4,"value":"7Sm8"},"price":"z8c=","doc":"{\"a\":1}","uid":"11111111-1111-1111-1111-111111111111",
        "state":"paid","year":2026}"#;
    let fields = TYPES.replacen("{\"type\":\"struct\",", "{\"type\":\"struct\",\"field\":\"after\",", 1);
    let value =
        format!(r#"{{"schema":{{"type":"struct","fields":[{fields}]}},"payload":{}}}"#, change("c", "null", row));
    world.produce([Record::new(value).key(r#"{"id":1}"#)]);
    let pipeline = "table = { name = \"t\", mode = \"upsert\", key = [\"id\"] }\n\
         decode = { format = \"json\", envelope = \"debezium\" }\n";
    world.drained(&world.config(pipeline));
    assert_eq!(world.reasons().await, []);
    assert_eq!(world.text(SHOWN).await, EXPECTED);
}

pub(crate) fn long(number: i64) -> Vec<u8> {
    let mut rest = ((number << 1) ^ (number >> 63)).cast_unsigned();
    let mut bytes = Vec::new();
    while rest >= 0x80 {
        bytes.push((rest & 0x7f) as u8 | 0x80);
        rest >>= 7;
    }
    bytes.push(u8::try_from(rest).expect("seven bits"));
    bytes
}

pub(crate) fn text(text: impl AsRef<[u8]>) -> Vec<u8> {
    [long(text.as_ref().len() as i64), text.as_ref().to_vec()].concat()
}

/// Registers the schemas that Debezium would register for a table with these fields. Returns the ids of the value's schema and of
/// the key's schema.
pub(crate) fn add_changes(registry: &Registry, fields: &[String]) -> (u32, u32) {
    let row = format!(
        r#"{{"type":"record","name":"Value","fields":[{}],"connect.name":"shop.public.t.Value"}}"#,
        fields.join(",")
    );
    let envelope = format!(
        r#"{{"type":"record","name":"Envelope","namespace":"shop.public.t","fields":[
            {{"name":"before","type":["null",{row}],"default":null}},{{"name":"after","type":["null","Value"],"default":null}},
            {{"name":"op","type":"string"}},{{"name":"ts_ms","type":["null","long"],"default":null}}]}}"#
    );
    let value = registry.add("t-value", "AVRO", &envelope, &[]);
    let key = r#"{"type":"record","name":"Key","namespace":"shop.public.t","fields":[{"name":"id","type":"int"}]}"#;
    let key = registry.add("t-key", "AVRO", key, &[]);
    (value, key)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_types_by_avro_and_a_registry() {
    let world = World::new(1).await;
    world.sql(TABLE).await;
    let registry = Registry::start().expect("the registry starts");
    let named = |field: &str, kind: &str, name: &str| {
        format!(r#"{{"name":"{field}","type":{{"type":"{kind}","connect.version":1,"connect.name":"{name}"}}}}"#)
    };
    let fields = [
        r#"{"name":"id","type":"int"}"#.to_owned(),
        named("day", "int", "io.debezium.time.Date"),
        named("never", "int", "io.debezium.time.Date"),
        named("at", "long", "io.debezium.time.MicroTimestamp"),
        named("forever", "long", "io.debezium.time.MicroTimestamp"),
        named("zoned", "string", "io.debezium.time.ZonedTimestamp"),
        named("ides", "string", "io.debezium.time.ZonedTimestamp"),
        named("took", "long", "io.debezium.time.MicroDuration"),
        named("span", "string", "io.debezium.time.Interval"),
        r#"{"name":"amount","type":["null",{"type":"record","name":"VariableScaleDecimal","namespace":"io.debezium.data","fields":[
            {"name":"scale","type":"int"},{"name":"value","type":"bytes"}],"connect.name":"io.debezium.data.VariableScaleDecimal"}],"default":null}"#
            .to_owned(),
        r#"{"name":"price","type":{"type":"bytes","scale":2,"precision":10,"connect.name":"org.apache.kafka.connect.data.Decimal","logicalType":"decimal"}}"#
            .to_owned(),
        named("doc", "string", "io.debezium.data.Json"),
        named("uid", "string", "io.debezium.data.Uuid"),
        named("state", "string", "io.debezium.data.Enum"),
        named("year", "int", "io.debezium.time.Year"),
    ];
    let (value, key) = add_changes(&registry, &fields);
    let row = |id: i64| {
        [
            long(id),
            long(20484),
            long(2_147_483_647),
            long(1_769_860_800_123_456),
            long(9_223_372_036_825_200_000),
            text("2026-01-31T12:00:00Z"),
            text("-0043-03-15T00:00:00Z"),
            long(5_000_000),
            text("P1Y2M3DT4H5M6S"),
            [long(1), long(4), text([0xed, 0x29, 0xbc])].concat(),
            text([0xcf, 0xc7]),
            text(r#"{"a":1}"#),
            text("11111111-1111-1111-1111-111111111111"),
            text("paid"),
            long(2026),
        ]
        .concat()
    };
    let framed = |id: u32, bytes: &[u8]| [&[0][..], &id.to_be_bytes(), bytes].concat();
    let created = |id: i64| framed(value, &[long(0), long(1), row(id), text("c"), long(0)].concat());
    let deleted = |id: i64| framed(value, &[long(1), row(id), long(0), text("d"), long(0)].concat());
    let key = |id: i64| framed(key, &long(id));
    world.produce([
        Record::new(created(1)).key(key(1)),
        Record::new(created(2)).key(key(2)),
        Record::new(created(3)).key(key(3)),
        Record::new(deleted(2)).key(key(2)),
        Record::tombstone().key(key(2)),
        Record::tombstone().key(key(3)),
    ]);
    let pipeline = "table = { name = \"t\", mode = \"upsert\", key = [\"id\"] }\n\
         decode = { format = \"avro\", envelope = \"debezium\" }\n";
    let table = format!("[schema_registry]\nurl = \"{}\"\n[http]", registry.url());
    world.drained(&world.config(pipeline).replacen("[http]", &table, 1));
    assert_eq!(world.reasons().await, []);
    assert_eq!(world.text(SHOWN).await, EXPECTED);
    assert_eq!(world.number("SELECT count(*) FROM t").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn unwrapped_changes_delete_where_they_say_so() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t VALUES (1, 'old'), (2, 'old')").await;
    world.produce([
        Record::new(r#"{"id":1,"v":"a","__deleted":"true"}"#),
        Record::new(r#"{"id":2,"v":"b","__deleted":"false"}"#),
        Record::new(r#"{"id":3,"v":"c","__deleted":"true"}"#),
        Record::new(r#"{"id":3,"v":"d","__deleted":"false"}"#),
        Record::new(r#"{"v":"e","__deleted":"true"}"#),
    ]);
    let pipeline = "table = { name = \"t\", mode = \"upsert\", key = [\"id\"], delete_where = { field = \"__deleted\", equals = \"true\" } }\n\
         dead_letters.max_share = 1\ncolumns.id = \"id\"\ncolumns.v = \"v\"";
    world.drained(&world.config(pipeline));
    assert_eq!(world.text("SELECT string_agg(id || v, ',' ORDER BY id) FROM t").await, "2b,3d");
    assert_eq!(world.reasons().await.len(), 1);
}
