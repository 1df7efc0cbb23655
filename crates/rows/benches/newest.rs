//! Measures picking the newest rows of a batch, with many keys and with few.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tidegate_rows::catalog::{Catalog, RelationKind, TableName};
use tidegate_rows::mapping::shapes::Shapes;
use tidegate_rows::spec::{Decode, RowSpec, Shape, Table, UnknownFields, WriteMode};
use tidegate_rows::write_mode::MergeTarget;
use tidegate_rows::write_mode::newest::rows;

const ROWS: usize = 50_000;

fn row(key: u64) -> Vec<u8> {
    let mut row = 2_u16.to_be_bytes().to_vec();
    row.extend_from_slice(&8_u32.to_be_bytes());
    row.extend_from_slice(&key.to_be_bytes());
    row.extend_from_slice(&40_u32.to_be_bytes());
    row.extend_from_slice(&[b'x'; 40]);
    row
}

fn newest(c: &mut Criterion) {
    let name = TableName { schema: "public".to_owned(), name: "t".to_owned() };
    let mode = WriteMode::Upsert { key: vec!["id".to_owned()], newer_by: None, deletes: false };
    let table = Table {
        name: name.clone(),
        route: None,
        mode,
        create: false,
        after_create: Vec::new(),
        evolve: false,
        sort_by: Vec::new(),
        partition_by: None,
    };
    let spec = RowSpec {
        pipeline: "p",
        decode: &Decode::Json,
        shape: Shape::plain(),
        table: &table,
        columns: None,
        keep: None,
        unknown_fields: &UnknownFields::Ignore,
        max_bytes: 1,
    };
    let catalog = Catalog {
        table: name,
        oid: 1,
        kind: RelationKind::Table,
        row_security: false,
        columns: Vec::new(),
        unique: Vec::new(),
        may_conflict: false,
    };
    let shapes = Shapes::default();
    let target =
        MergeTarget { spec: &spec, catalog: &catalog, columns: &["id", "note"], shapes: &shapes, number: None };
    let merge = target.merge().expect("an upsert merges");
    let newest = merge.newest.expect("an upsert by key picks");
    let mut group = c.benchmark_group("newest");
    group.throughput(Throughput::Elements(ROWS as u64));
    for (name, keys) in [("all_keys_differ", u64::MAX), ("ten_thousand_keys", 10_000), ("a_hundred_keys", 100)] {
        let mut rng = fastrand::Rng::with_seed(1);
        let batch: Vec<u8> = (0..ROWS).flat_map(|_| row(rng.u64(..keys))).collect();
        group.bench_function(name, |b| b.iter(|| black_box(newest.pick(rows(black_box(&batch)))).len()));
    }
    group.finish();
}

criterion_group!(benches, newest);
criterion_main!(benches);
