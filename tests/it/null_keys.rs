//! Keys with NULL, if the unique index is NULLS NOT DISTINCT. The table must have the rows that INSERT … ON CONFLICT and DELETE …
//! IS NOT DISTINCT FROM would leave.

use std::collections::BTreeMap;

use tidegate_harness::Record;

use crate::support::World;

type Key = (Option<u8>, Option<u8>);

/// A record: its key and its value. The value `None` is a delete.
type Step = (Key, Option<u32>);

const TABLE: &str = "CREATE TABLE t (a int, b text, v int, note text DEFAULT 'none', UNIQUE NULLS NOT DISTINCT (a, b))";
const SHOWN: &str = "SELECT coalesce(string_agg(concat_ws('/', coalesce(a::text, '-'), coalesce(b, '-'), v), ',' ORDER BY a NULLS FIRST, b NULLS FIRST), '') FROM t";

/// Returns 300 steps over nine keys. If `deletes` is set, about a sixth of the steps are deletes.
fn steps(deletes: bool) -> Vec<Step> {
    let mut random = fastrand::Rng::with_seed(7);
    let mut part = move || Some(random.u8(0..3)).filter(|part| *part > 0);
    let mut other = fastrand::Rng::with_seed(8);
    (0..300).map(|n| ((part(), part()), Some(n).filter(|_| !deletes || other.u8(0..6) > 0))).collect()
}

fn json(part: Option<u8>, quoted: bool) -> String {
    match part {
        None => "null".to_owned(),
        Some(part) if quoted => format!("\"{part}\""),
        Some(part) => part.to_string(),
    }
}

fn key_json((a, b): Key) -> String {
    format!(r#"{{"a":{},"b":{}}}"#, json(a, false), json(b, true))
}

fn record((key, v): Step) -> Record {
    let fields = key_json(key);
    let fields = fields.trim_end_matches('}');
    match v {
        None => Record::tombstone().key(key_json(key)),
        // A field that is missing means NULL here, because the column has no default.
        Some(v) if v % 5 == 0 && key.0.is_none() => {
            Record::new(format!(r#"{{"b":{},"v":{v},"note":"n"}}"#, json(key.1, true))).key(key_json(key))
        }
        // Some records leave out `note`. In a new row, Postgres then fills in the default.
        Some(v) if v % 3 == 0 => Record::new(format!(r#"{fields},"v":{v},"note":"n{v}"}}"#)).key(key_json(key)),
        Some(v) => Record::new(format!(r#"{fields},"v":{v}}}"#)).key(key_json(key)),
    }
}

fn shown(rows: &BTreeMap<Key, u32>) -> String {
    let part = |part: Option<u8>| part.map_or("-".to_owned(), |part| part.to_string());
    rows.iter().map(|((a, b), v)| format!("{}/{}/{v}", part(*a), part(*b))).collect::<Vec<_>>().join(",")
}

impl World {
    /// Writes the steps in batches of at most 40 rows. Returns the rows of the table.
    async fn written(&self, steps: &[Step], lines: &str) -> String {
        self.sql(TABLE).await;
        self.produce(steps.iter().map(|step| record(*step).to(0)));
        let config = self.config(&format!("table.name = \"t\"\nbatch.max_rows = 40\n{lines}"));
        let (code, log) = self.drain(&config);
        assert_eq!(code, Some(0), "{log}");
        assert_eq!(self.reasons().await, []);
        self.text(SHOWN).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn upserts_and_deletes_find_the_row_that_has_null() {
    let steps = steps(true);
    let mut rows = BTreeMap::new();
    for (key, v) in &steps {
        match v {
            Some(v) => drop(rows.insert(*key, *v)),
            None => drop(rows.remove(key)),
        }
    }
    assert!(rows.keys().any(|(a, b)| a.is_none() || b.is_none()), "some keys have NULL");
    let upsert = "table.mode = \"upsert\"\ntable.key = [\"a\", \"b\"]\ntable.deletes = true";
    let world = World::new(1).await;
    assert_eq!(world.written(&steps, upsert).await, shown(&rows));
    // `v` is higher in each later step, so `newer_by` doesn't change the rows.
    let columns = format!("{upsert}\ntable.newer_by = \"v\"");
    let world = World::new(1).await;
    assert_eq!(world.written(&steps, &columns).await, shown(&rows));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_is_kept_is_the_last_one_given_for_a_key_with_null_too() {
    let steps = steps(false);
    let (mut rows, mut notes) = (BTreeMap::new(), BTreeMap::new());
    for (key, v) in &steps {
        let v = v.expect("no deletes");
        rows.insert(*key, v);
        let note = match v {
            v if v % 5 == 0 && key.0.is_none() => Some("n".to_owned()),
            v if v % 3 == 0 => Some(format!("n{v}")),
            _ => None,
        };
        match note {
            Some(note) => drop(notes.insert(*key, note)),
            None => drop(notes.entry(*key).or_insert_with(|| "none".to_owned())),
        }
    }
    let world = World::new(1).await;
    let table = world.written(&steps, "table.mode = \"upsert\"\ntable.key = [\"a\", \"b\"]").await;
    assert_eq!(table, shown(&rows));
    let kept = world.text("SELECT string_agg(note, ',' ORDER BY a NULLS FIRST, b NULLS FIRST) FROM t").await;
    assert_eq!(kept, notes.into_values().collect::<Vec<_>>().join(","));
}

#[tokio::test(flavor = "multi_thread")]
async fn insert_new_keeps_the_first_and_sort_by_takes_null_as_any_value() {
    let steps = steps(false);
    let mut rows = BTreeMap::new();
    for (key, v) in &steps {
        rows.entry(*key).or_insert(v.expect("no deletes"));
    }
    let insert_new = "table.mode = \"insert_new\"\ntable.key = [\"a\", \"b\"]";
    let world = World::new(1).await;
    assert_eq!(world.written(&steps, insert_new).await, shown(&rows));
    // Mode append writes the first row of each key, sorted by the key. NULL has a place in this order too.
    let world = World::new(1).await;
    world.sql(TABLE).await;
    world.produce(rows.iter().map(|(key, v)| record((*key, Some(*v)))));
    let sorted = world.config("table.name = \"t\"\ntable.sort_by = [\"a\", \"b\"]");
    let (code, log) = world.drain(&sorted);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.text(SHOWN).await, shown(&rows));
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregates_of_a_key_with_null_are_of_all_its_records() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE sums (a int, b text, v int, last int[], at int, UNIQUE NULLS NOT DISTINCT (a, b))").await;
    let steps = steps(false);
    let mut rows: BTreeMap<Key, (u32, u32)> = BTreeMap::new();
    for (key, v) in &steps {
        let v = v.expect("no deletes");
        let (sum, last) = rows.entry(*key).or_default();
        (*sum, *last) = (*sum + v, v);
    }
    world.produce(steps.iter().map(|(key, v)| {
        let (fields, v) = (key_json(*key), v.expect("no deletes"));
        Record::new(format!(r#"{},"v":{v},"list":[{v}],"at":{v}}}"#, fields.trim_end_matches('}')))
    }));
    let config = world.config(&format!(
        "table = {{ name = \"sums\", mode = \"aggregate\", key = [\"a\", \"b\"] }}\nbatch.max_rows = 40\n[pipelines.{}.columns]\n\
         a = \"a\"\nb = \"b\"\nv = {{ field = \"v\", aggregate = \"sum\" }}\n\
         last = {{ field = \"list\", aggregate = \"last\", by = \"at\" }}\nat = {{ field = \"at\", aggregate = \"max\" }}",
        world.name
    ));
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.reasons().await, []);
    let sums = "SELECT string_agg(v || ':' || last[1], ',' ORDER BY a NULLS FIRST, b NULLS FIRST) FROM sums";
    let expected: Vec<_> = rows.values().map(|(sum, last)| format!("{sum}:{last}")).collect();
    assert_eq!(world.text(sums).await, expected.join(","));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_by_its_value_takes_a_missing_field_for_null_and_a_records_key_must_say_so() {
    let world = World::new(1).await;
    world.sql(TABLE).await;
    let rows = [(None, None), (Some(1), None), (None, Some(1)), (Some(2), None), (Some(2), Some(2))];
    world
        .sql(&rows.map(|(a, b)| format!("INSERT INTO t VALUES ({}, {});", json(a, false), json(b, false))).concat())
        .await;
    world.produce([
        Record::new(r#"{"a":1,"gone":true}"#),
        Record::new(r#"{"a":null,"b":null,"gone":true}"#),
        Record::tombstone().key(r#"{"A":2,"b":"1"}"#),
        Record::tombstone().key(r#"{"a":null,"b":"1"}"#),
        Record::tombstone().key(r#"{"a":2}"#),
    ]);
    let config = world.config(
        "table = { name = \"t\", mode = \"upsert\", key = [\"a\", \"b\"], deletes = true, delete_where = { field = \"gone\", equals = true } }\n\
         dead_letters.max_share = 1.0",
    );
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    let left = "SELECT string_agg(concat_ws('/', coalesce(a::text, '-'), coalesce(b, '-')), ',' ORDER BY a, b) FROM t";
    assert_eq!(world.text(left).await, "2/2,2/-");
    let codes: Vec<_> = world.reasons().await.into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(codes, ["tombstone", "tombstone"], "keys that lack a column");
}

const SIX: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

#[tokio::test(flavor = "multi_thread")]
async fn a_key_may_have_any_number_of_columns_with_null() {
    let mut random = fastrand::Rng::with_seed(9);
    // The key is six digits of base 3, where 0 is NULL; the value is `None` for a delete.
    let steps: Vec<([u8; 6], Option<u32>)> = (0..400)
        .map(|n| {
            let mut key = [0; 6];
            // At most two columns of a key aren't NULL, so there are few keys, and many occur several times.
            key[random.usize(0..6)] = random.u8(0..3);
            key[random.usize(0..6)] = random.u8(0..3);
            (key, Some(n).filter(|_| random.u8(0..5) > 0))
        })
        .collect();
    let mut rows = BTreeMap::new();
    for (key, v) in &steps {
        match v {
            Some(v) => drop(rows.insert(*key, *v)),
            None => drop(rows.remove(key)),
        }
    }
    assert!(rows.keys().any(|key| key.iter().filter(|part| **part == 0).count() > 4), "more than four are NULL");
    let expected: Vec<_> =
        rows.iter().map(|(key, v)| format!("{}/{v}", key.map(|part| part.to_string()).concat())).collect();
    let columns = SIX.join(", ");
    let shown = SIX.map(|name| format!("coalesce({name}, 0)::text")).join(" || ");
    for newer_by in ["", ", newer_by = \"v\""] {
        let world = World::new(1).await;
        let types = SIX.map(|name| format!("{name} int")).join(", ");
        world.sql(&format!("CREATE TABLE t ({types}, v int, UNIQUE NULLS NOT DISTINCT ({columns}))")).await;
        world.produce(steps.iter().map(|(key, v)| {
            let fields: Vec<_> = SIX
                .iter()
                .zip(key)
                .map(|(name, part)| match part {
                    0 => format!("\"{name}\":null"),
                    part => format!("\"{name}\":{part}"),
                })
                .collect();
            let key = format!("{{{}}}", fields.join(","));
            match v {
                None => Record::tombstone().key(key),
                Some(v) => Record::new(format!("{{{},\"v\":{v}}}", fields.join(","))).key(key),
            }
            .to(0)
        }));
        let key = SIX.map(|name| format!("{name:?}")).join(", ");
        let config = world.config(&format!(
            "table = {{ name = \"t\", mode = \"upsert\", key = [{key}], deletes = true{newer_by} }}\nbatch.max_rows = 40"
        ));
        let (code, log) = world.drain(&config);
        assert_eq!(code, Some(0), "{log}");
        assert_eq!(world.reasons().await, []);
        let table = format!("SELECT string_agg({shown} || '/' || v, ',' ORDER BY {shown}) FROM t");
        assert_eq!(world.text(&table).await, expected.join(","));
    }
}
