//! Generated columns and identities in a key, in `newer_by` and in `sort_by`. Supported uses give the rows of INSERT … ON
//! CONFLICT. `check` and `run` refuse unsupported uses with a remedy.

use tidegate_harness::{Record, eventually_async};

use crate::cli::tidegate;
use crate::support::{PATIENCE, World};

const TABLE: &str = "CREATE TABLE t (email text NOT NULL, mail text COLLATE \"C\" NOT NULL GENERATED ALWAYS AS (lower(email)) STORED UNIQUE, \
                     v int, note text DEFAULT 'none')";
const SHOWN: &str = "SELECT coalesce(string_agg(concat_ws('/', email, v, note), ',' ORDER BY mail), '') FROM t";
const UPSERT: &str = "table = { name = \"t\", mode = \"upsert\", key = [\"mail\"]";

impl World {
    /// Drains records (key, value) into a new table `t` in batches of three. An empty value becomes a tombstone. Returns the rows
    /// of `t`.
    async fn keyed(&self, sql: &str, records: &[(&str, &str)], pipeline: &str) -> String {
        self.sql(sql).await;
        self.produce(records.iter().map(|(key, value)| match *value {
            "" => Record::tombstone().key(*key).to(0),
            value => Record::new(value).key(*key).to(0),
        }));
        let config = self.config(&format!("batch.max_rows = 3\ndead_letters.max_share = 1.0\n{pipeline}"));
        let checked = tidegate(&config, &["check"]);
        assert_eq!(checked.code, 0, "{checked}");
        let (code, log) = self.drain(&config);
        assert_eq!(code, Some(0), "{log}");
        self.text(SHOWN).await
    }

    async fn until_shown(&self, rows: &str) {
        let shown = "SELECT coalesce(string_agg(email || v, ',' ORDER BY mail), '') FROM t";
        let seen = eventually_async("the rows", PATIENCE, async || self.text(shown).await == rows).await;
        seen.expect("the daemon writes them");
    }
}

const RECORDS: &[(&str, &str)] = &[
    ("1", r#"{"email":"A@x","v":1,"note":"one"}"#),
    ("2", r#"{"email":"a@X","v":2}"#),
    ("3", r#"{"email":"b@x","v":3}"#),
    ("4", r#"{"email":"B@x","v":4,"note":"four"}"#),
    ("5", r#"{"email":"a@x","v":5,"mail":"given, and ignored"}"#),
    ("6", r#"{"email":"c@x","v":6}"#),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_generated_column_is_a_key_in_every_mode() {
    let world = World::new(1).await;
    let rows = world.keyed(TABLE, RECORDS, &format!("{UPSERT} }}")).await;
    assert_eq!(rows, "a@x/5/one,B@x/4/four,c@x/6/none", "upsert, with a column that some records leave out");

    let world = World::new(1).await;
    let named = format!("{UPSERT}, newer_by = \"v\" }}\ncolumns = {{ email = \"email\", v = \"v\" }}");
    let late = [RECORDS, &[("7", r#"{"email":"C@X","v":1}"#)]].concat();
    let rows = world.keyed(TABLE, &late, &named).await;
    assert_eq!(rows, "a@x/5/none,B@x/4/none,c@x/6/none", "upsert by newer_by, with a mapping");

    let world = World::new(1).await;
    let insert_new = "table = { name = \"t\", mode = \"insert_new\", key = [\"mail\"] }";
    let rows = world.keyed(TABLE, RECORDS, insert_new).await;
    assert_eq!(rows, "A@x/1/one,b@x/3/none,c@x/6/none", "insert_new");

    let world = World::new(1).await;
    let aggregate = format!(
        "table = {{ name = \"t\", mode = \"aggregate\", key = [\"mail\"] }}\n[pipelines.{}.columns]\n\
         email = {{ field = \"email\", aggregate = \"min\" }}\nv = {{ field = \"v\", aggregate = \"sum\" }}",
        world.name
    );
    let table = TABLE.replace("email text", "email text COLLATE \"C\"");
    let rows = world.keyed(&table, RECORDS, &aggregate).await;
    assert_eq!(rows, "A@x/8/none,B@x/7/none,c@x/6/none", "aggregate");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_gives_the_columns_from_which_its_key_is_computed() {
    let world = World::new(1).await;
    let records = [
        RECORDS,
        &[
            (r#"{"email":"B@X"}"#, ""),
            (r#"{"mail":"c@x"}"#, ""),
            ("8", r#"{"email":"A@X","v":8,"gone":true}"#),
            ("9", r#"{"email":"A@X","v":9}"#),
        ],
    ]
    .concat();
    let pipeline = format!("{UPSERT}, deletes = true, delete_where = {{ field = \"gone\", equals = true }} }}");
    let rows = world.keyed(TABLE, &records, &pipeline).await;
    assert_eq!(rows, "A@X/9/none,c@x/6/none");
    let reasons: Vec<_> = world.reasons().await.into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(reasons, ["tombstone"], "its key has only the computed column");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_computed_key_that_is_null_is_one_key_or_a_dead_letter() {
    let records = [
        ("1", r#"{"email":"A@x","v":1}"#),
        ("2", r#"{"email":null,"v":2}"#),
        ("3", r#"{"v":3}"#),
        ("4", r#"{"email":"a@x","v":4}"#),
    ];
    let world = World::new(1).await;
    let nullable =
        "CREATE TABLE t (email text, mail text GENERATED ALWAYS AS (lower(email)) STORED, v int, note text);";
    let index = "CREATE UNIQUE INDEX ON t (mail) NULLS NOT DISTINCT";
    let rows = world.keyed(&format!("{nullable}{index}"), &records, &format!("{UPSERT} }}")).await;
    assert_eq!(rows, "a@x/4,3");
    assert_eq!(world.reasons().await, []);

    let world = World::new(1).await;
    let never = "ALTER TABLE t ALTER mail SET NOT NULL; CREATE UNIQUE INDEX ON t (mail)";
    let rows = world.keyed(&format!("{nullable}{never}"), &records, &format!("{UPSERT} }}")).await;
    assert_eq!(rows, "a@x/4");
    let codes =
        "SELECT string_agg(record_offset || ':' || sqlstate, ',' ORDER BY record_offset) FROM tidegate.dead_letter";
    assert_eq!(world.text(codes).await, "1:23502,2:23502");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expression_that_changes_while_the_daemon_writes_changes_the_key() {
    let world = World::new(1).await;
    world.sql(TABLE).await;
    let daemon = world.daemon(&world.config(&format!("{UPSERT} }}\nbatch.max_age = \"50ms\"")));
    world.produce([Record::new(r#"{"email":"A@x","v":1}"#).to(0)]);
    world.until_shown("A@x1").await;
    world
        .sql(
            "ALTER TABLE t DROP COLUMN mail, \
             ADD mail text COLLATE \"C\" NOT NULL GENERATED ALWAYS AS (email) STORED UNIQUE",
        )
        .await;
    world.produce([r#"{"email":"a@x","v":2}"#, r#"{"email":"A@x","v":3}"#].map(|value| Record::new(value).to(0)));
    world.until_shown("A@x3,a@x2").await;
    drop(daemon);
    assert_eq!(world.reasons().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn newer_by_and_sort_by_may_be_computed() {
    let world = World::new(1).await;
    let table = "CREATE TABLE t (id int PRIMARY KEY, email text, v int, age int GENERATED ALWAYS AS (-v) STORED, \
                 mail text GENERATED ALWAYS AS (email) STORED, note text)";
    let records = [
        ("1", r#"{"id":1,"email":"a","v":3}"#),
        ("2", r#"{"id":1,"email":"a","v":1}"#),
        ("3", r#"{"id":1,"email":"a","v":2}"#),
        ("4", r#"{"id":1,"email":"a","v":4}"#),
    ];
    let newer = "table = { name = \"t\", mode = \"upsert\", key = [\"id\"], newer_by = \"age\" }";
    assert_eq!(world.keyed(table, &records, newer).await, "a/1");
    let world = World::new(1).await;
    let table =
        "CREATE TABLE t (email text, v int, mail text GENERATED ALWAYS AS (lower(email)) STORED, note text, n serial)";
    let sorted = "table = { name = \"t\", sort_by = [\"mail\"] }\ncolumns = { email = \"email\", v = \"v\" }";
    let records = [("1", r#"{"email":"C","v":1}"#), ("2", r#"{"email":"b","v":2}"#), ("3", r#"{"email":"A","v":3}"#)];
    world.keyed(table, &records, sorted).await;
    assert_eq!(world.text("SELECT string_agg(email, ',' ORDER BY n) FROM t").await, "A,b,C");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_that_is_always_generated_is_a_key_in_every_mode() {
    let table =
        "CREATE TABLE t (id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text, v int, note text, mail text)";
    let records = [
        (r#"{"id":7}"#, r#"{"id":7,"email":"a","v":1}"#),
        (r#"{"id":8}"#, r#"{"id":8,"email":"b","v":2}"#),
        (r#"{"id":7}"#, r#"{"id":7,"email":"c","v":3}"#),
        (r#"{"id":8}"#, ""),
    ];
    let shown = "SELECT string_agg(concat_ws('/', id, email, v), ',' ORDER BY id) FROM t";
    let given = |world: &World| format!("[pipelines.{}.columns]\nid = \"id\"\n", world.name);
    for (mode, columns, rows) in [
        ("upsert\", deletes = true, key = [\"id\"", "email = \"email\"\nv = \"v\"", "7/c/3"),
        ("aggregate\", key = [\"id\"", "v = { field = \"v\", aggregate = \"sum\" }", "7/4,8/2"),
    ] {
        let world = World::new(1).await;
        let pipeline = format!("table = {{ name = \"t\", mode = \"{mode}] }}\n{}{columns}", given(&world));
        world.keyed(table, &records, &pipeline).await;
        assert_eq!(world.text(shown).await, rows, "{mode}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_rows_cannot_have_is_refused_by_name_by_check_and_run() {
    let upsert = "mode = \"upsert\", key = [\"mail\"]";
    let aggregate = "mode = \"aggregate\", key = [\"mail\"]";
    let cases = [
        (
            "CREATE TABLE t (email text NOT NULL, v int, mail text GENERATED ALWAYS AS (lower(email)) VIRTUAL)",
            upsert,
            "email = \"email\"",
            "`mail` is a VIRTUAL generated column",
        ),
        (TABLE, upsert, "v = \"v\"", "Postgres computes `mail` from `email`, which is not a column of the mapping"),
        (
            "CREATE TABLE t (email text, v int, mail text GENERATED ALWAYS AS (lower(email)) STORED UNIQUE)",
            upsert,
            "email = \"email\"",
            "ALTER COLUMN \"mail\" SET NOT NULL",
        ),
        (TABLE, upsert, "email = \"email\"\nmail = \"mail\"", "Postgres generates `mail` itself"),
        (
            TABLE,
            upsert,
            "email = { field = \"email\", missing = \"keep\" }",
            "is computed from this column and decides which row is written",
        ),
        (
            TABLE,
            aggregate,
            "email = { field = \"email\", aggregate = \"last\", by = \"v\" }\nv = { field = \"v\", aggregate = \"max\" }",
            "set aggregate = \"min\" or \"max\"",
        ),
        (
            "CREATE TABLE t (mail int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email text)",
            upsert,
            "email = \"email\"",
            "gives each new row another number",
        ),
        (
            "CREATE TABLE t (mail int PRIMARY KEY DEFAULT 1, email text)",
            upsert,
            "email = \"email\"",
            "`mail` is not a column of the mapping; map a field to it",
        ),
    ];
    for (table, mode, columns, says) in cases {
        let world = World::new(1).await;
        world.sql(table).await;
        world.produce([Record::new(r#"{"email":"a","v":1}"#)]);
        let pipeline = format!("table = {{ name = \"t\", {mode} }}\n[pipelines.{}.columns]\n{columns}", world.name);
        let config = world.config(&pipeline);
        let checked = tidegate(&config, &["check"]);
        assert!(checked.code == 64 && checked.to_string().contains(says), "{says}: {checked}");
        let (code, log) = world.drain(&config);
        assert!(code != Some(0) && log.contains(says), "{says}: {log}");
    }
}
