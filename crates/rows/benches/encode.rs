//! Measures what it costs per record to convert a value to a row of binary COPY. The values differ from record to record, as in
//! production. If one record were repeated, the branch predictor would learn its digits.

use std::fmt::Write;
use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidegate_protocol::record::{Headers, Record};
use tidegate_rows::catalog::{Catalog, CatalogColumn, RelationKind, TableName, TypeKind};
use tidegate_rows::mapping::{Encoder, Plan};
use tidegate_rows::schema;
use tidegate_rows::spec::{
    Column, CsvOptions, Decode, KeyFormat, NulPolicy, RowSpec, SchemaSource, Shape, Source, Table, UnknownFields,
    WriteMode,
};

const RECORDS: usize = 4096;

/// A column: its name, the path of its field, and the name and the oid of its type.
type Spec = (&'static str, &'static str, &'static str, u32);

const TELEMETRY: &[Spec] = &[
    ("vehicle_id", "vehicle_id", "int8", 20),
    ("ts", "ts", "timestamptz", 1184),
    ("lat", "lat", "float8", 701),
    ("lon", "lon", "float8", 701),
    ("speed_kmh", "speed_kmh", "float4", 700),
    ("state", "state", "text", 25),
    ("trip_id", "trip_id", "int8", 20),
];

/// Makes an encoder. With `defaults`, each column has a default in the table. A row then leaves out the columns whose fields the
/// record lacks.
fn encoder(specs: &[Spec], decode: &Decode, defaults: bool) -> Encoder {
    shaped_encoder(specs, decode, Shape::plain(), defaults)
}

/// Makes an encoder for records of this shape. A column with the path `$key` takes the record's key.
fn shaped_encoder(specs: &[Spec], decode: &Decode, shape: &Shape, defaults: bool) -> Encoder {
    let table = TableName { schema: "public".to_owned(), name: "ride_history".to_owned() };
    let mapped = specs.iter().map(|(name, path, ..)| Column {
        name: (*name).to_owned(),
        source: match *path {
            "$key" => Source::Key,
            path => Source::Field(path.split('.').map(str::to_owned).collect()),
        },
        type_name: None,
        unit: None,
        default: None,
        missing: None,
        keep: None,
        zone: None,
        nul: NulPolicy::default(),
        not_null: false,
        function: None,
        aggregate: None,
    });
    let mapped: Vec<Column> = mapped.collect();
    let target = Table {
        name: table.clone(),
        mode: WriteMode::Append,
        create: false,
        after_create: Vec::new(),
        evolve: false,
        route: None,
        sort_by: Vec::new(),
        partition_by: None,
    };
    let spec = RowSpec {
        pipeline: "ride_history",
        decode,
        shape,
        table: &target,
        columns: Some(&mapped),
        keep: None,
        unknown_fields: &UnknownFields::Ignore,
        max_bytes: 1,
    };
    let columns = specs.iter().map(|(name, _, type_name, oid)| CatalogColumn {
        name: (*name).to_owned(),
        type_oid: *oid,
        base_type: (*type_name).to_owned(),
        base_type_oid: *oid,
        type_text: (*type_name).to_owned(),
        kind: TypeKind::Scalar,
        typmod: -1,
        not_null: true,
        has_default: defaults,
        default_oid: None,
        generated: None,
        identity_always: false,
    });
    let catalog = Catalog {
        table,
        oid: 1,
        kind: RelationKind::Table,
        row_security: false,
        columns: columns.collect(),
        unique: Vec::new(),
        may_conflict: false,
    };
    Encoder::new(Arc::new(Plan::new(&spec, &catalog).expect("the plan fits the table")))
}

fn record<'a>((key, value): &'a (Vec<u8>, Vec<u8>)) -> Record<'a> {
    let (topic, partition, offset, timestamp_ms) = ("telemetry", 0, 1, Some(1_767_225_600_000));
    let key = Some(key.as_slice()).filter(|key| !key.is_empty());
    Record { topic, partition, offset, timestamp_ms, key, value: Some(value), headers: Headers::default() }
}

/// Returns a vehicle's telemetry record, 139 bytes on average.
fn telemetry(rng: &mut fastrand::Rng) -> String {
    let state = ["driving", "stopped", "paused", "charging"][rng.usize(..4)];
    format!(
        r#"{{"vehicle_id":{},"ts":"2026-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z","lat":{:.6},"lon":{:.6},"speed_kmh":{:.1},"state":"{state}","trip_id":{}}}"#,
        rng.u32(1..1_000_000),
        rng.u32(1..13),
        rng.u32(1..29),
        rng.u32(..24),
        rng.u32(..60),
        rng.u32(..60),
        rng.u32(..1000),
        45.0 + rng.f64() * 10.0,
        5.0 + rng.f64() * 10.0,
        rng.f64() * 130.0,
        rng.u32(1..1_000_000_000),
    )
}

fn bench(c: &mut Criterion, name: &str, specs: &[Spec], make: impl Fn(&mut fastrand::Rng) -> String) {
    bench_format(c, name, specs, &Decode::Json, |rng| make(rng).into_bytes());
}

/// Measures records with `shapes` different sets of fields, which take turns. All columns of the table have defaults, so a row
/// leaves out the columns of the missing fields.
fn bench_shapes(c: &mut Criterion, name: &str, shapes: usize) {
    let mut turn = 0;
    bench_records(c, name, encoder(TELEMETRY, &Decode::Json, true), |rng| {
        turn = (turn + 1) % shapes;
        let text = telemetry(rng);
        // Set n lacks the last n % 5 fields. From set 5 on, the sets lack the first field, too.
        let members: Vec<&str> = text[1..text.len() - 1].split(',').collect();
        let kept = &members[usize::from(turn >= 5)..members.len() - turn % 5];
        format!("{{{}}}", kept.join(",")).into_bytes()
    });
}

fn bench_format(
    c: &mut Criterion,
    name: &str,
    specs: &[Spec],
    decode: &Decode,
    make: impl Fn(&mut fastrand::Rng) -> Vec<u8>,
) {
    bench_records(c, name, encoder(specs, decode, false), make);
}

fn bench_records(c: &mut Criterion, name: &str, encoder: Encoder, mut make: impl FnMut(&mut fastrand::Rng) -> Vec<u8>) {
    bench_keyed(c, name, encoder, |rng| (Vec::new(), make(rng)));
}

/// Measures records with the given keys and values. An empty key means that the record has no key.
fn bench_keyed(
    c: &mut Criterion,
    name: &str,
    mut encoder: Encoder,
    mut make: impl FnMut(&mut fastrand::Rng) -> (Vec<u8>, Vec<u8>),
) {
    let mut rng = fastrand::Rng::with_seed(1);
    let payloads: Vec<_> = (0..RECORDS).map(|_| make(&mut rng)).collect();
    let mut rows = Vec::with_capacity(payloads.iter().map(|(_, value)| value.len()).sum::<usize>() * 4);
    let mut group = c.benchmark_group("encode");
    group.throughput(Throughput::Elements(RECORDS as u64));
    group.bench_function(name, |b| {
        b.iter(|| {
            rows.clear();
            for payload in &payloads {
                encoder.encode(&record(black_box(payload)), &mut rows).expect("a good record");
            }
            black_box(&rows);
        });
    });
    group.finish();
}

/// Parses `text` as a local schema. `kind` is the schema language as a registry spells it: `AVRO` or `PROTOBUF`.
fn local(kind: &str, text: &str) -> SchemaSource {
    let schema = schema::of_text(Some(kind), text, &[]).unwrap_or_else(|why| panic!("{why}"));
    SchemaSource::Local { file: PathBuf::from("bench"), schema: Arc::new(schema), framed: false, message: None }
}

const AVRO: &str = r#"{"type":"record","name":"Ride","fields":[
    {"name":"vehicle_id","type":"long"},
    {"name":"ts","type":{"type":"long","logicalType":"timestamp-millis"}},
    {"name":"lat","type":"double"},{"name":"lon","type":"double"},
    {"name":"speed_kmh","type":["null","float"]},
    {"name":"state","type":"string"},
    {"name":"trip_id","type":["null","long"]}]}"#;

const PROTO: &str = r#"syntax = "proto3";
import "google/protobuf/timestamp.proto";
message Ride {
  int64 vehicle_id = 1; google.protobuf.Timestamp ts = 2; double lat = 3; double lon = 4; optional float speed_kmh = 5;
  string state = 6; optional int64 trip_id = 7;
}"#;

/// Measures the telemetry record in the other formats. The same fields, with about the same ranges, go into the same columns.
fn formats(c: &mut Criterion) {
    let state = |rng: &mut fastrand::Rng| ["driving", "stopped", "paused", "charging"][rng.usize(..4)];
    let columns = TELEMETRY.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let options = CsvOptions { columns: Some(columns), delimiter: b',', quote: b'"', null: String::new() };
    let csv = Decode::Csv(options);
    bench_format(c, "telemetry_csv", TELEMETRY, &csv, |rng| {
        // The fields of the JSON record, without its keys.
        let json: serde_json::Value = serde_json::from_str(&telemetry(rng)).expect("JSON");
        let value = |name: &str| json[name].as_str().map_or_else(|| json[name].to_string(), str::to_owned);
        TELEMETRY.iter().map(|(name, ..)| value(name)).collect::<Vec<_>>().join(",").into_bytes()
    });
    let avro = Decode::Avro(local("AVRO", AVRO));
    bench_format(c, "telemetry_avro", TELEMETRY, &avro, |rng| {
        let mut value = Vec::new();
        let long = |value: &mut Vec<u8>, number: u64| varint(number << 1, value);
        long(&mut value, rng.u64(1..1_000_000));
        long(&mut value, 1_767_225_600_000 + rng.u64(..31_536_000_000));
        value.extend_from_slice(&(45.0 + rng.f64() * 10.0).to_le_bytes());
        value.extend_from_slice(&(5.0 + rng.f64() * 10.0).to_le_bytes());
        long(&mut value, 1);
        value.extend_from_slice(&(rng.f32() * 130.0).to_le_bytes());
        let state = state(rng);
        long(&mut value, state.len() as u64);
        value.extend_from_slice(state.as_bytes());
        long(&mut value, 1);
        long(&mut value, rng.u64(1..1_000_000_000));
        value
    });
    let protobuf = Decode::Protobuf(local("PROTOBUF", PROTO));
    bench_format(c, "telemetry_protobuf", TELEMETRY, &protobuf, |rng| {
        let mut value = vec![8];
        varint(rng.u64(1..1_000_000), &mut value);
        let mut time = vec![8];
        varint(1_767_225_600 + rng.u64(..31_536_000), &mut time);
        time.push(16);
        varint(rng.u64(..1000) * 1_000_000, &mut time);
        value.extend_from_slice(&[0x12, u8::try_from(time.len()).expect("short")]);
        value.extend_from_slice(&time);
        value.push(0x19);
        value.extend_from_slice(&(45.0 + rng.f64() * 10.0).to_le_bytes());
        value.push(0x21);
        value.extend_from_slice(&(5.0 + rng.f64() * 10.0).to_le_bytes());
        value.push(0x2d);
        value.extend_from_slice(&(rng.f32() * 130.0).to_le_bytes());
        let state = state(rng);
        value.extend_from_slice(&[0x32, u8::try_from(state.len()).expect("short")]);
        value.extend_from_slice(state.as_bytes());
        value.push(0x38);
        varint(rng.u64(1..1_000_000_000), &mut value);
        value
    });
}

fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(u8::try_from(number & 0x7f).expect("seven bits") | 0x80);
        number >>= 7;
    }
    out.push(u8::try_from(number).expect("seven bits"));
}

fn encode(c: &mut Criterion) {
    bench(c, "telemetry", TELEMETRY, telemetry);
    bench_shapes(c, "telemetry_of_one_shape", 1);
    bench_shapes(c, "telemetry_of_two_shapes", 2);
    bench_shapes(c, "telemetry_of_ten_shapes", 10);
    bench(c, "telemetry_with_spaces", TELEMETRY, |rng| telemetry(rng).replace(",\"", ", \"").replace("\":", "\": "));
    bench(c, "telemetry_in_two_orders", TELEMETRY, |rng| {
        let text = telemetry(rng);
        if rng.bool() {
            return text;
        }
        let members: Vec<&str> = text[1..text.len() - 1].split(',').rev().collect();
        format!("{{{}}}", members.join(","))
    });
    bench(c, "telemetry_among_20_unknown_fields", TELEMETRY, |rng| {
        let mut text = telemetry(rng);
        text.truncate(text.len() - 1);
        for field in 0..20 {
            write!(text, ",\"extra_{field}\":{}", rng.u32(..)).expect("a string takes all");
        }
        text + "}"
    });
    let nothing: &[Spec] = &[("none", "none", "int8", 20)];
    let mut nullable = nothing.to_vec();
    nullable[0].1 = "vehicle_id";
    bench(c, "one_field_of_seven", &nullable, telemetry);
    let rich: &[Spec] = &[
        ("id", "id", "uuid", 2950),
        ("price", "price", "numeric", 1700),
        ("at", "at", "timestamptz", 1184),
        ("lat", "position.lat", "float8", 701),
        ("lon", "position.lon", "float8", 701),
        ("note", "note", "text", 25),
        ("tags", "tags", "jsonb", 3802),
    ];
    bench(c, "uuid_numeric_nested_jsonb_escapes", rich, |rng| {
        format!(
            r#"{{"id":"{:08x}-9c0b-4ef8-bb6d-{:012x}","price":"{}.{:02}","at":"2026-01-31T12:{:02}:00.123456+01:00","position":{{"lat":{:.6},"lon":{:.6}}},"note":"line\none \u00e9","tags":{{"a":[1,2,{}],"b":"c"}}}}"#,
            rng.u32(..),
            rng.u64(..1 << 48),
            rng.u32(..100_000),
            rng.u32(..100),
            rng.u32(..60),
            rng.f64() * 90.0,
            rng.f64() * 180.0,
            rng.u32(..),
        )
    });
}

type MakeKey = fn(u32) -> Vec<u8>;

/// Measures the telemetry record with the vehicle's id in the record's key, for several key formats.
fn keys(c: &mut Criterion) {
    let mut specs = TELEMETRY.to_vec();
    specs[0].1 = "$key";
    let avro = KeyFormat::Avro(local("AVRO", "\"long\""));
    let formats: [(&str, KeyFormat, MakeKey); 5] = [
        ("telemetry_with_a_key_of_text", KeyFormat::Text, |id| id.to_string().into_bytes()),
        ("telemetry_with_a_key_of_json", KeyFormat::Json, |id| id.to_string().into_bytes()),
        ("telemetry_with_a_key_of_int64", KeyFormat::Int(8), |id| u64::from(id).to_be_bytes().to_vec()),
        ("telemetry_with_a_key_of_avro", avro, |id| {
            let mut key = Vec::new();
            varint(u64::from(id) << 1, &mut key);
            key
        }),
        ("telemetry_with_a_guessed_key", KeyFormat::Auto, |id| id.to_string().into_bytes()),
    ];
    for (name, keys, key) in formats {
        let shape = Shape { keys, ..Shape::PLAIN };
        let encoder = shaped_encoder(&specs, &Decode::Json, &shape, false);
        bench_keyed(c, name, encoder, |rng| (key(rng.u32(1..1_000_000)), telemetry(rng).into_bytes()));
    }
}

/// Measures ten readings of a gateway in one record: first in one array, then in two groups that each have an array.
fn nested_rows(c: &mut Criterion) {
    let reading =
        |rng: &mut fastrand::Rng| format!(r#"{{"sensor":{},"celsius":{:.2}}}"#, rng.u32(..100), rng.f64() * 40.0);
    let list = |rng: &mut fastrand::Rng, count: usize| (0..count).map(|_| reading(rng)).collect::<Vec<_>>().join(",");
    let path = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
    let specs: &[Spec] = &[
        ("gateway", "gateway", "int8", 20),
        ("sensor", "readings.sensor", "int8", 20),
        ("celsius", "readings.celsius", "float8", 701),
    ];
    let shape = Shape { rows: vec![path("readings")], ..Shape::PLAIN };
    let encoder = shaped_encoder(specs, &Decode::Json, &shape, false);
    bench_records(c, "ten_nested_rows", encoder, |rng| {
        format!(r#"{{"gateway":{},"readings":[{}]}}"#, rng.u32(..), list(rng, 10)).into_bytes()
    });
    let specs: &[Spec] = &[
        ("gateway", "gateway", "int8", 20),
        ("sensor", "groups.readings.sensor", "int8", 20),
        ("celsius", "groups.readings.celsius", "float8", 701),
    ];
    let shape = Shape { rows: vec![path("groups"), path("groups.readings")], ..Shape::PLAIN };
    let encoder = shaped_encoder(specs, &Decode::Json, &shape, false);
    bench_records(c, "ten_rows_of_two_levels", encoder, |rng| {
        let (a, b) = (list(rng, 5), list(rng, 5));
        format!(r#"{{"gateway":{},"groups":[{{"readings":[{a}]}},{{"readings":[{b}]}}]}}"#, rng.u32(..)).into_bytes()
    });
}

criterion_group!(benches, encode, formats, keys, nested_rows);
criterion_main!(benches);
