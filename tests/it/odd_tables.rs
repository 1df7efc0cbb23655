//! Tables and records that are rare. The rows must be those that INSERT of each record's own fields would make.

use crate::siblings::{Sibling, UPSERT, each_has_its_rows};

const ODD: &[Sibling] = &[
    Sibling {
        name: "an empty object takes every default",
        table: "CREATE TABLE t (id bigserial PRIMARY KEY, at date DEFAULT '2026-01-31')",
        records: &["{}", r#"{"id":7}"#, "{}"],
        pipeline: "",
        query: "SELECT string_agg(concat_ws(':', id, at), ',' ORDER BY id) FROM t",
        rows: "1:2026-01-31,2:2026-01-31,7:2026-01-31",
        dead: "",
    },
    Sibling {
        name: "1600 columns that all have defaults",
        table: "DO $$ BEGIN EXECUTE (SELECT 'CREATE TABLE t (' || string_agg(format('c%s int DEFAULT %s', n, n), ',') || ')' \
                FROM generate_series(1, 1600) n); END $$",
        records: &[r#"{"c2":0}"#, r#"{"c1600":0,"c1":5}"#, r#"{"c1601":1}"#],
        pipeline: "",
        query: "SELECT string_agg(concat_ws(':', c1, c2, c1599, c1600), ',' ORDER BY c1, c2) FROM t",
        rows: "1:0:1599:1600,1:2:1599:1600,5:2:1599:0",
        dead: "",
    },
    Sibling {
        name: "a collation for which keys of different letters are equal",
        table: "CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false); \
                CREATE TABLE t (id text COLLATE folded PRIMARY KEY, v int)",
        records: &[r#"{"id":"A","v":1}"#, r#"{"id":"b","v":2}"#, r#"{"id":"a","v":3}"#, r#"{"id":"B","v":4}"#],
        pipeline: UPSERT,
        query: "SELECT string_agg(lower(id) || ':' || v, ',' ORDER BY id) FROM t",
        rows: "a:3,b:4",
        dead: "",
    },
    Sibling {
        name: "numbers of different scale are one key, and so are both zeros",
        table: "CREATE TABLE t (id numeric, f float8, v int, UNIQUE (id, f))",
        records: &[
            r#"{"id":1.0,"f":0.0,"v":1}"#,
            r#"{"id":1.00,"f":-0.0,"v":2}"#,
            r#"{"id":"1e0","f":"NaN","v":3}"#,
            r#"{"id":1,"f":"nan","v":4}"#,
        ],
        pipeline: "table.mode = \"upsert\"\ntable.key = [\"id\", \"f\"]",
        query: "SELECT string_agg(concat_ws(':', trim_scale(id), abs(f), v), ',' ORDER BY f) FROM t",
        rows: "1:0:2,1:NaN:4",
        dead: "",
    },
    Sibling {
        name: "a child may come before its parent in one batch",
        table: "CREATE TABLE t (id int PRIMARY KEY, parent int REFERENCES t)",
        records: &[r#"{"id":2,"parent":1}"#, r#"{"id":1}"#],
        pipeline: "",
        query: "SELECT string_agg(id::text, ',' ORDER BY id) FROM t",
        rows: "1,2",
        dead: "",
    },
    Sibling {
        name: "names that need quotes, in every mode that names them",
        table: r#"CREATE TABLE t ("select" int PRIMARY KEY, "Größe €" text DEFAULT 'x', "a""b" int, " " int, "$1" int)"#,
        records: &[
            r#"{"select":1,"Gr\u00f6\u00dfe €":"m","a\"b":2," ":3,"$1":4}"#,
            r#"{"select":1,"a\"b":5}"#,
            r#"{"select":2,"$1":6}"#,
        ],
        pipeline: "table.mode = \"upsert\"\ntable.key = [\"select\"]",
        query: r#"SELECT string_agg(concat_ws(':', "select", "Größe €", "a""b", " ", "$1"), ',' ORDER BY 1) FROM t"#,
        rows: "1:m:5,2:x:6",
        dead: "",
    },
    Sibling {
        name: "a column that was dropped, and one that was added to rows that exist",
        table: "CREATE TABLE t (gone int NOT NULL, id int PRIMARY KEY, v int); ALTER TABLE t DROP COLUMN gone; \
                INSERT INTO t VALUES (1, 1); ALTER TABLE t ADD COLUMN late text NOT NULL DEFAULT 'x'",
        records: &[r#"{"id":1,"v":2,"gone":5}"#, r#"{"id":2,"late":"y"}"#, r#"{"id":3,"late":null}"#],
        pipeline: UPSERT,
        query: "SELECT string_agg(concat_ws(':', id, v, late), ',' ORDER BY id) FROM t",
        rows: "1:2:x,2:y",
        dead: "2:null_in_not_null",
    },
    Sibling {
        name: "the last of two members with one name counts, and text that no database holds costs its record",
        table: "CREATE TABLE t (id int, v int, note text, doc jsonb)",
        records: &[
            r#"{"id":1,"v":1,"v":2,"doc":{"a":1,"a":2}}"#,
            r#"{"id":2,"note":"\ud800"}"#,
            r#"{"id":3,"doc":{"a\u0000b":1}}"#,
            r#"{"id":4,"doc":1e200000}"#,
            r#"{"id":5,"doc":"\ud83d\ude00"}"#,
        ],
        pipeline: "",
        query: "SELECT string_agg(concat_ws(':', id, v, doc), ',' ORDER BY id) FROM t",
        rows: "1:2:{\"a\": 2},5:\"😀\"",
        dead: "1:invalid_json,2:nul_in_text,3:22003",
    },
    Sibling {
        name: "whole numbers in other spellings, and those beyond their types",
        table: "CREATE TABLE t (id int, i int8, f float4)",
        records: &[
            r#"{"id":1,"i":1e3,"f":1e-50}"#,
            r#"{"id":2,"i":9223372036854775808}"#,
            r#"{"id":3,"i":-9223372036854775808}"#,
            r#"{"id":4,"f":1e39}"#,
            r#"{"id":5,"i":10.00}"#,
        ],
        pipeline: "",
        query: "SELECT string_agg(concat_ws(':', id, i, f), ',' ORDER BY id) FROM t",
        rows: "3:-9223372036854775808,5:10",
        dead: "0:out_of_range,1:out_of_range,3:out_of_range",
    },
    Sibling {
        name: "an index of another operator class, descending, with included columns",
        table: "CREATE TABLE t (id text, v int); CREATE UNIQUE INDEX ON t (id text_pattern_ops DESC) INCLUDE (v)",
        records: &[r#"{"id":"a","v":1}"#, r#"{"id":"a","v":2}"#, r#"{"id":"b","v":3}"#],
        pipeline: UPSERT,
        query: "SELECT string_agg(id || ':' || v, ',' ORDER BY id) FROM t",
        rows: "a:2,b:3",
        dead: "",
    },
    Sibling {
        name: "a constraint that isn't validated refuses new rows, and a hash partition takes its own",
        table: "CREATE TABLE t (id int PRIMARY KEY, v int) PARTITION BY HASH (id); \
                CREATE TABLE t0 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 0); \
                CREATE TABLE t1 PARTITION OF t FOR VALUES WITH (MODULUS 2, REMAINDER 1); \
                INSERT INTO t VALUES (0, -1); ALTER TABLE t ADD CHECK (v > 0) NOT VALID",
        records: &[r#"{"id":1,"v":1}"#, r#"{"id":2,"v":-1}"#, r#"{"id":3,"v":3}"#, r#"{"id":1,"v":4}"#],
        pipeline: UPSERT,
        query: "SELECT string_agg(id || ':' || v, ',' ORDER BY id) FROM t",
        rows: "0:-1,1:4,3:3",
        dead: "1:23514",
    },
    Sibling {
        name: "a parent of tables that inherit, and columns that it shares with them",
        table: "CREATE TABLE t (id int, v int DEFAULT 3); CREATE TABLE child (w int) INHERITS (t)",
        records: &[r#"{"id":1}"#, r#"{"id":2,"w":5}"#],
        pipeline: "",
        query: "SELECT string_agg(id || ':' || v, ',' ORDER BY id) FROM ONLY t",
        rows: "1:3,2:3",
        dead: "",
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn each_odd_table_has_the_rows_of_insert() {
    each_has_its_rows(ODD).await;
}
