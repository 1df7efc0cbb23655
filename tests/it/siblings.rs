//! Inputs like those on which other programs had bugs. Each case has a small input, and the rows that INSERT would make of it.

use tidegate_harness::Record;

use crate::cli::tidegate;
use crate::support::World;

/// A table, records, and the settings of the pipeline. The expected result is the rows that `query` returns, and the dead letters
/// in the form `offset:code`.
pub(crate) struct Sibling {
    pub(crate) name: &'static str,
    pub(crate) table: &'static str,
    pub(crate) records: &'static [&'static str],
    pub(crate) pipeline: &'static str,
    pub(crate) query: &'static str,
    pub(crate) rows: &'static str,
    pub(crate) dead: &'static str,
}

pub(crate) const UPSERT: &str = "table.mode = \"upsert\"\ntable.key = [\"id\"]";

const SIBLINGS: &[Sibling] = &[
    Sibling {
        name: "a virtual generated column is computed, also in an upsert",
        table: "CREATE TABLE t (id int PRIMARY KEY, v int, twice int GENERATED ALWAYS AS (v * 2) VIRTUAL)",
        records: &[r#"{"id":1,"v":2}"#, r#"{"id":1,"v":3,"twice":9}"#],
        pipeline: UPSERT,
        query: "SELECT string_agg(concat_ws(':', id, v, twice), ',' ORDER BY id) FROM t",
        rows: "1:3:6",
        dead: "",
    },
    Sibling {
        name: "an exclusion constraint refuses a row",
        table: "CREATE TABLE t (id int, during int4range, EXCLUDE USING gist (during WITH &&))",
        records: &[r#"{"id":1,"during":"[1,5)"}"#, r#"{"id":2,"during":"[4,6)"}"#, r#"{"id":3,"during":"[5,6)"}"#],
        pipeline: "",
        query: "SELECT string_agg(id::text, ',' ORDER BY id) FROM t",
        rows: "1,3",
        dead: "1:23P01",
    },
    Sibling {
        name: "a deferred unique constraint refuses a row at COMMIT",
        table: "CREATE TABLE t (id int UNIQUE DEFERRABLE INITIALLY DEFERRED, v int)",
        records: &[r#"{"id":1,"v":1}"#, r#"{"id":1,"v":2}"#, r#"{"id":2,"v":3}"#],
        pipeline: "",
        query: "SELECT string_agg(id || ':' || v, ',' ORDER BY id) FROM t",
        rows: "1:1,2:3",
        dead: "1:23505",
    },
    Sibling {
        name: "NULL is a key of an upsert where the index takes it once",
        table: "CREATE TABLE t (id int UNIQUE NULLS NOT DISTINCT, v int)",
        records: &[r#"{"id":null,"v":1}"#, r#"{"id":null,"v":2}"#, r#"{"v":3}"#, r#"{"id":1,"v":4}"#],
        pipeline: UPSERT,
        query: "SELECT string_agg(coalesce(id::text, '-') || ':' || v, ',' ORDER BY id) FROM t",
        rows: "1:4,-:3",
        dead: "",
    },
    Sibling {
        name: "NULL is no key of an upsert where the index takes it twice",
        table: "CREATE TABLE t (id int UNIQUE, v int)",
        records: &[r#"{"id":null,"v":1}"#, r#"{"v":3}"#, r#"{"id":1,"v":4}"#],
        pipeline: UPSERT,
        query: "SELECT string_agg(coalesce(id::text, '-') || ':' || v, ',' ORDER BY id) FROM t",
        rows: "1:4",
        dead: "0:null_in_not_null,1:missing_field",
    },
    Sibling {
        name: "a domain's default, and a domain that refuses",
        table: "CREATE DOMAIN level AS int DEFAULT 7 CHECK (VALUE < 100); CREATE TABLE t (id int, l level)",
        records: &[r#"{"id":1}"#, r#"{"id":2,"l":null}"#, r#"{"id":3,"l":100}"#, r#"{"id":4,"l":5}"#],
        pipeline: "",
        query: "SELECT string_agg(id || ':' || coalesce(l::text, '-'), ',' ORDER BY id) FROM t",
        rows: "1:7,2:-,4:5",
        dead: "2:23514",
    },
    Sibling {
        name: "a trigger that drops rows",
        table: "CREATE TABLE t (id int PRIMARY KEY, v int);
            CREATE FUNCTION few() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN IF NEW.v < 0 THEN RETURN NULL; END IF; RETURN NEW; END$$;
            CREATE TRIGGER few BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION few()",
        records: &[r#"{"id":1,"v":1}"#, r#"{"id":2,"v":-1}"#, r#"{"id":3,"v":3}"#],
        pipeline: UPSERT,
        query: "SELECT string_agg(id::text, ',' ORDER BY id) FROM t",
        rows: "1,3",
        dead: "",
    },
    Sibling {
        name: "an upsert moves a row to another partition",
        table: "CREATE TABLE t (id int, region text, v int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
            CREATE TABLE t_a PARTITION OF t FOR VALUES IN ('a'); CREATE TABLE t_b PARTITION OF t FOR VALUES IN ('b')",
        records: &[
            r#"{"id":1,"region":"a","v":1}"#,
            r#"{"id":1,"region":"b","v":2}"#,
            r#"{"id":1,"region":"c","v":3}"#,
            r#"{"id":1,"region":"a","v":4}"#,
        ],
        pipeline: "table.mode = \"upsert\"\ntable.key = [\"id\", \"region\"]",
        query: "SELECT string_agg(region || ':' || v, ',' ORDER BY region) FROM t",
        rows: "a:4,b:2",
        dead: "2:23514",
    },
    Sibling {
        name: "bare NaN and infinities, nested and among what no column takes",
        table: "CREATE TABLE t (id int, f float8, n numeric, fs float8[], doc jsonb, extra jsonb)",
        records: &[
            r#"{"id":1,"f":NaN,"n":-Infinity,"fs":[1,NaN],"doc":{"x":[NaN,"NaN\\"]},"other":Infinity}"#,
            r#"{"id":NaN,"f":1}"#,
            r#"{"id":3,"f":-Infinite}"#,
            r#"{"id":4,"f":Nan}"#,
            r#"{"id":5,"f":-1.5}"#,
        ],
        pipeline: "unknown_fields = { column = \"extra\" }",
        query: "SELECT string_agg(concat_ws(':', id, f, n, fs, doc, extra), ' ' ORDER BY id) FROM t",
        rows: r#"1:NaN:-Infinity:{1,NaN}:{"x": ["NaN", "NaN\\"]}:{"other": "Infinity"} 5:-1.5"#,
        dead: "1:type_mismatch,2:invalid_json,3:invalid_json",
    },
    Sibling {
        name: "NaN in NDJSON, and in the field that a row filter asks",
        table: "CREATE TABLE t (id int, f float8)",
        records: &["{\"id\":1,\"f\":NaN}\n{\"id\":2,\"f\":3}\n{\"id\":3,\"f\":Infinity}\n"],
        pipeline: "decode.format = \"ndjson\"\nwhere = { field = \"f\", greater = 1 }",
        query: "SELECT string_agg(id::text, ',' ORDER BY id) FROM t",
        rows: "2,3",
        dead: "",
    },
    Sibling {
        name: "a field that appears as NaN becomes a column of numbers",
        table: "CREATE TABLE t (id int)",
        records: &[r#"{"id":1,"f":NaN}"#, r#"{"id":2,"f":1.5}"#],
        pipeline: "table.evolve = \"add\"",
        query: "SELECT string_agg(id || ':' || f, ',' ORDER BY id) FROM t",
        rows: "1:NaN,2:1.5",
        dead: "",
    },
    Sibling {
        name: "NaN in an array of rows, behind a byte order mark",
        table: "CREATE TABLE t (id int, f float8)",
        records: &["\u{feff}[{\"id\":1,\"f\":NaN},{\"id\":2,\"f\":-Infinity}]"],
        pipeline: "",
        query: "SELECT string_agg(id || ':' || f, ',' ORDER BY id) FROM t",
        rows: "1:NaN,2:-Infinity",
        dead: "",
    },
    Sibling {
        name: "arrays and maps that Debezium didn't read are kept",
        table: "CREATE TABLE t (id int PRIMARY KEY, words text[], numbers int[], tags jsonb, v int);
            INSERT INTO t VALUES (1, '{a,b}', '{1,2}', '{\"k\":\"v\"}', 1)",
        records: &[
            r#"{"id":1,"words":["__un"],"numbers":[95,95,117,110],"tags":{"__un":"__un"},"v":2}"#,
            r#"{"id":2,"words":["__un","x"],"numbers":[95,95,117],"tags":{"__un":1},"v":3}"#,
        ],
        pipeline: "table.mode = \"upsert\"\ntable.key = [\"id\"]\ncolumns.id = \"id\"\ncolumns.v = \"v\"\n\
            columns.words = { field = \"words\", keep = \"__un\" }\ncolumns.numbers = { field = \"numbers\", keep = \"__un\" }\n\
            columns.tags = { field = \"tags\", keep = \"__un\" }",
        query: "SELECT string_agg(concat_ws('|', id, words, numbers, tags, v), ' ' ORDER BY id) FROM t",
        rows: r#"1|{a,b}|{1,2}|{"k": "v"}|2 2|{__un,x}|{95,95,117}|{"__un": 1}|3"#,
        dead: "",
    },
    Sibling {
        name: "a statement trigger and a transition table see each batch",
        table: "CREATE TABLE t (id int); CREATE TABLE seen (n bigint);
            CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO seen SELECT count(*) FROM new; RETURN NULL; END$$;
            CREATE TRIGGER see AFTER INSERT ON t REFERENCING NEW TABLE AS new FOR EACH STATEMENT EXECUTE FUNCTION see()",
        records: &[r#"{"id":1}"#, r#"{"id":2}"#],
        pipeline: "",
        query: "SELECT sum(n)::text FROM seen",
        rows: "2",
        dead: "",
    },
    Sibling {
        name: "a key over time refuses what overlaps",
        table: "CREATE EXTENSION IF NOT EXISTS btree_gist; CREATE TABLE t (id int, during daterange, PRIMARY KEY (id, during WITHOUT OVERLAPS))",
        records: &[
            r#"{"id":1,"during":"[2026-01-01,2026-02-01)"}"#,
            r#"{"id":1,"during":"[2026-01-15,2026-03-01)"}"#,
            r#"{"id":2,"during":"[2026-01-15,2026-03-01)"}"#,
        ],
        pipeline: "",
        query: "SELECT string_agg(id::text, ',' ORDER BY id) FROM t",
        rows: "1,2",
        dead: "1:23P01",
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn each_sibling_has_the_rows_of_insert() {
    each_has_its_rows(SIBLINGS).await;
}

pub(crate) async fn each_has_its_rows(siblings: &[Sibling]) {
    let mut wrong = Vec::new();
    for Sibling { name, table, records, pipeline, query, rows, dead } in siblings {
        let world = World::new(1).await;
        world.sql(table).await;
        world.produce(records.iter().map(|value| Record::new(*value).to(0)));
        // In TOML, a table's own keys must come before its subtables such as `columns`.
        let (code, log) =
            world.drain(&world.config(&format!("table.name = \"t\"\ndead_letters.max_share = 1.0\n{pipeline}")));
        if code != Some(0) {
            wrong.push(format!("{name}: ended with {code:?}: {log}"));
            continue;
        }
        let found = world.text(&format!("SELECT coalesce(({query}), '')")).await;
        let letters = "SELECT coalesce(string_agg(record_offset || ':' || coalesce(sqlstate, reason), ',' ORDER BY record_offset), '') \
             FROM tidegate.dead_letter";
        let letters = world.text(letters).await;
        if (found.as_str(), letters.as_str()) != (*rows, *dead) {
            wrong.push(format!("{name}: {found:?} and {letters:?} instead of {rows:?} and {dead:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), siblings.len(), wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_default_that_changes_is_the_new_one_in_rows_of_several_shapes_too() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE t (id int PRIMARY KEY, v int DEFAULT 1)").await;
    let daemon = world.daemon(&world.config(&format!("table.name = \"t\"\n{UPSERT}")));
    let rows = async |count| {
        let there = async || world.number("SELECT count(*) FROM t").await == count;
        tidegate_harness::eventually_async("the rows come", crate::support::PATIENCE, there).await.expect("they come");
    };
    world.produce([r#"{"id":1}"#, r#"{"id":2,"v":5}"#].map(|value| Record::new(value).to(0)));
    rows(2).await;
    world.sql("ALTER TABLE t ALTER v SET DEFAULT 2").await;
    world.produce([r#"{"id":3}"#, r#"{"id":4,"v":6}"#].map(|value| Record::new(value).to(0)));
    rows(4).await;
    let found = world.text("SELECT string_agg(id || ':' || v, ',' ORDER BY id) FROM t").await;
    assert_eq!(found, "1:1,2:5,3:2,4:6", "{}", daemon.log_tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn check_shows_the_rows_of_bare_nan() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE t (id int, f float8)").await;
    world.produce([Record::new(r#"{"id":1,"f":NaN}"#).to(0)]);
    let ran = tidegate(&world.config("table.name = \"t\""), &["check"]).ok();
    assert!(ran.out.contains(r#""f":"NaN""#) || ran.out.contains(r#""f": "NaN""#), "{ran}");
}
