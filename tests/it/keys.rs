//! Keys in several forms: in envelopes, with a registry's framing, and as Java's serializers write integers. Also deletes by key.

use tidegate_harness::{Record, Registry};

use crate::cli::tidegate;
use crate::support::World;

const UPSERT: &str =
    "table = { name = \"t\", mode = \"upsert\", key = [\"id\"], deletes = true }\ndead_letters.max_share = 1\n";

impl World {
    /// Creates the table with rows 1 to 9, which the tombstones of a test may delete.
    async fn with_rows(&self) {
        self.sql("CREATE TABLE t (id bigint PRIMARY KEY, v text); INSERT INTO t SELECT n, 'old' FROM generate_series(1, 9) n")
            .await;
    }

    async fn left(&self) -> String {
        self.text("SELECT coalesce(string_agg(id::text, ',' ORDER BY id), '') FROM t").await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tombstones_in_all_spellings_find_the_row_of_a_key_in_all_spellings() {
    let world = World::new(1).await;
    world.with_rows().await;
    let schema = r#"{"type":"struct","optional":false,"fields":[{"type":"int64","optional":false,"field":"id"}]}"#;
    let framed = [&[0, 0, 0, 0, 7][..], br#"{"id":5}"#].concat();
    world.produce([
        Record::tombstone().key(format!(r#"{{"schema":{schema},"payload":{{"id":1}}}}"#)),
        Record::tombstone().key(r#"{"schema":{"type":"int64","optional":false},"payload":2}"#),
        Record::new("null").key("3"),
        Record::new(r#"{"schema": null, "payload": null}"#).key(r#"{"id":4}"#),
        Record::tombstone().key(framed),
        Record::tombstone().key("6"),
        Record::tombstone().key("77"),   // no such row
        Record::tombstone().key("nine"), // no such key
    ]);
    let config = world.config(UPSERT);
    let report = tidegate(&config, &["check", "--json"]).ok().json();
    let sample = &report["pipelines"][0]["sample"];
    assert_eq!((&sample["deletes"], &sample["dead_letters"]), (&7.into(), &1.into()), "{report}");
    assert!(sample["first_rows"][0].as_str().is_some_and(|row| row.contains("delete")), "{report}");
    world.drained(&config);
    assert_eq!(world.left().await, "7,8,9");
    let reasons = world.reasons().await;
    assert_eq!(reasons.len(), 1, "{reasons:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_that_finds_no_row_is_counted() {
    let world = World::new(1).await;
    world.with_rows().await;
    world.produce([
        Record::tombstone().key("1"),
        Record::tombstone().key("71"),
        Record::tombstone().key("72"),
        Record::new(r#"{"id":73,"v":"new"}"#).key("73"),
        Record::tombstone().key("73"),
    ]);
    let daemon = world.daemon(&world.config(UPSERT));
    daemon
        .await_until("the deletes are counted", crate::support::PATIENCE, |daemon| {
            daemon.metric("tidegate_deletes_without_row_total", &[]).is_some_and(|count| count >= 2.0)
        })
        .expect("two deletes find no row");
    assert_eq!(world.left().await, "2,3,4,5,6,7,8,9");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_registry_are_read_by_their_own_schema() {
    let world = World::new(1).await;
    world.with_rows().await;
    world.sql("ALTER TABLE t ADD k jsonb").await;
    let registry = Registry::start().expect("the registry starts");
    let value = registry.add(
        "t-value",
        "AVRO",
        r#"{"type":"record","name":"V","fields":[{"name":"id","type":"long"},{"name":"v","type":"string"}]}"#,
        &[],
    );
    let key =
        registry.add("t-key", "AVRO", r#"{"type":"record","name":"K","fields":[{"name":"id","type":"long"}]}"#, &[]);
    let scalar = registry.add("t-scalar", "AVRO", "\"long\"", &[]);
    let proto = "syntax = \"proto3\"; message K { int64 id = 1; }";
    let proto = registry.add("t-proto", "PROTOBUF", proto, &[]);
    let framed = |id: u32, bytes: &[u8]| [&[0][..], &id.to_be_bytes(), bytes].concat();
    world.produce([
        Record::tombstone().key(framed(key, &[2])),
        Record::tombstone().key(framed(scalar, &[4])),
        Record::tombstone().key(framed(proto, &[0, 8, 3])),
        Record::new(framed(value, &[20, 2, b'x'])).key(framed(key, &[20])),
        Record::new(framed(value, &[22, 2, b'y'])).key(framed(proto, &[0, 8, 11])),
        Record::tombstone().key("4"),
    ]);
    let pipeline = format!(
        "{UPSERT}decode.format = \"avro\"\n[pipelines.{}.columns]\nid = \"id\"\nv = \"v\"\nk = {{ meta = \"key\" }}",
        world.name
    );
    let registry_table = format!("[schema_registry]\nurl = \"{}\"\n[http]", registry.url());
    world.drained(&world.config(&pipeline).replacen("[http]", &registry_table, 1));
    assert_eq!(world.reasons().await, []);
    assert_eq!(world.left().await, "5,6,7,8,9,10,11");
    assert_eq!(world.text("SELECT string_agg(k::text, '' ORDER BY id) FROM t").await, r#"{"id": 10}{"id": 11}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stated_format_reads_integers_of_java_and_more() {
    for (format, keys) in [
        ("int64", vec![2_i64.to_be_bytes().to_vec(), 3_i64.to_be_bytes().to_vec()]),
        ("int32", vec![2_i32.to_be_bytes().to_vec(), 3_i32.to_be_bytes().to_vec()]),
        ("text", vec![b"2".to_vec(), b"3".to_vec()]),
        ("json", vec![b"2".to_vec(), br#"{"id":3}"#.to_vec()]),
    ] {
        let world = World::new(1).await;
        world.with_rows().await;
        world.produce(keys.iter().map(|key| Record::tombstone().key(key.clone())));
        world.produce([Record::tombstone().key("abc"), Record::new(r#"{"id":20,"v":"x"}"#).key(keys[0].clone())]);
        let pipeline = format!(
            "{UPSERT}decode = {{ format = \"json\", key_format = \"{format}\" }}\n\
             columns.id = \"id\"\ncolumns.v = {{ meta = \"key\" }}"
        );
        world.drained(&world.config(&pipeline));
        assert_eq!(world.left().await, "1,4,5,6,7,8,9,20", "{format}");
        assert_eq!(world.text("SELECT v FROM t WHERE id = 20").await, "2", "{format}");
        assert_eq!(world.reasons().await.len(), 1, "{format}");
    }
}
