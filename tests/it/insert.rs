//! In every mode, each row is the one that INSERT would make of the record's own fields. The tests cover defaults, identity
//! columns, and text that is a literal of another type.

use tidegate_harness::Record;

use crate::cli::tidegate;
use crate::support::World;

impl World {
    /// Creates table `t` by `sql`, and drains the records into it with the settings `pipeline`. Returns the daemon's log, and
    /// panics if the daemon fails.
    async fn inserted(&self, sql: &str, records: &[&str], pipeline: &str) -> String {
        self.sql(sql).await;
        self.produce(records.iter().map(|value| Record::new(*value).to(0)));
        let (code, log) = self.drain(&self.config(&format!("table.name = \"t\"\n{pipeline}")));
        assert_eq!(code, Some(0), "{log}");
        log
    }

    async fn in_order(&self, columns: &str, order: &str) -> String {
        self.text(&format!("SELECT coalesce(string_agg(concat_ws(':', {columns}), ',' ORDER BY {order}), '') FROM t"))
            .await
    }

    async fn refused(&self) -> String {
        let sql = "SELECT coalesce(string_agg(record_offset || ':' || coalesce(sqlstate, reason), ',' ORDER BY record_offset), '') \
                   FROM tidegate.dead_letter";
        self.text(sql).await
    }
}

const FIRST_TABLE: &str =
    "CREATE TABLE t (id bigserial PRIMARY KEY, v int, at timestamptz DEFAULT now(), lbl text DEFAULT 'none')";

#[tokio::test(flavor = "multi_thread")]
async fn a_first_table_gets_its_serial_and_its_defaults() {
    let world = World::new(1).await;
    world
        .inserted(FIRST_TABLE, &[r#"{"v":1}"#, r#"{"v":2,"lbl":null}"#, r#"{"v":3,"lbl":"x","id":70}"#, "{}"], "")
        .await;
    let rows = world.in_order("id, coalesce(v::text, '-'), at IS NOT NULL, coalesce(lbl, 'NULL')", "id").await;
    // One COPY writes all rows that leave out the same columns. So these rows get their serial numbers before the rows of the
    // next COPY.
    assert_eq!(rows, "1:1:t:none,2:-:t:none,3:2:t:NULL,70:3:t:x");
    assert_eq!(world.refused().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn identities_take_what_a_record_gives_and_count_where_it_gives_nothing() {
    for kind in ["ALWAYS", "BY DEFAULT"] {
        let world = World::new(1).await;
        let table = format!("CREATE TABLE t (id int8 GENERATED {kind} AS IDENTITY PRIMARY KEY, name text)");
        world.inserted(&table, &[r#"{"id":100,"name":"a"}"#, r#"{"name":"b"}"#], "").await;
        assert_eq!(world.in_order("id, name", "id").await, "1:b,100:a", "append, {kind}");
        for (mode, key) in [("upsert", "id"), ("insert_new", "id")] {
            let world = World::new(1).await;
            let records = [r#"{"id":100,"name":"a"}"#, r#"{"id":100,"name":"b"}"#];
            world.inserted(&table, &records, &format!("table.mode = \"{mode}\"\ntable.key = [\"{key}\"]")).await;
            let expected = if mode == "upsert" { "100:b" } else { "100:a" };
            assert_eq!(world.in_order("id, name", "id").await, expected, "{mode}, {kind}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upsert_by_another_key_leaves_an_identity_that_is_always_generated_alone() {
    let world = World::new(1).await;
    let table = "CREATE TABLE t (id int8 GENERATED ALWAYS AS IDENTITY, name text UNIQUE, v int)";
    let records = [r#"{"name":"a","v":1}"#, r#"{"name":"a","v":2,"id":9}"#, r#"{"name":"b","id":7,"v":3}"#];
    let pipeline = "table.mode = \"upsert\"\ntable.key = [\"name\"]\nbatch.max_rows = 1";
    world.inserted(table, &records, pipeline).await;
    assert_eq!(world.in_order("id, name, v", "name").await, "1:a:2,7:b:3");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_column_says_what_a_missing_field_means() {
    let world = World::new(1).await;
    let table = "CREATE TABLE t (a int DEFAULT 5, b int DEFAULT 6, c int DEFAULT 7, d int DEFAULT 8, e int, n int NOT NULL DEFAULT 9)";
    let pipeline = "dead_letters.max_share = 1.0\n[pipelines.NAME.columns]\na = \"a\"\nb = { field = \"b\", missing = \"null\" }\n\
        c = { field = \"c\", missing = \"dead_letter\" }\nd = { field = \"d\", default = 80 }\n\
        e = { field = \"e\", missing = \"default\" }\nn = { field = \"n\", missing = \"null\" }";
    let pipeline = pipeline.replace("NAME", &world.name);
    let records =
        [r#"{"c":1,"n":1}"#, r#"{"n":1}"#, r#"{"c":1}"#, r#"{"a":null,"b":null,"c":null,"d":null,"e":null,"n":2}"#];
    world.inserted(table, &records, &pipeline).await;
    let null = |name: &str| format!("coalesce({name}::text, '-')");
    let columns = ["a", "b", "c", "d", "e", "n"].map(null).join(", ");
    assert_eq!(world.in_order(&columns, "n").await, "5:-:1:80:-:1,-:-:-:-:-:2");
    assert_eq!(world.refused().await, "1:missing_field,2:missing_field");
    let ran = tidegate(&world.config(&format!("table.name = \"t\"\n{pipeline}")), &["check"]);
    for (column, says) in [
        ("a", "default of the table"),
        ("b", "NULL"),
        ("c", "dead letter"),
        ("d", "default of the mapping"),
        ("n", "dead letter"),
    ] {
        let line = ran.out.lines().find(|line| line.trim_start().starts_with(&format!("{column} ")));
        assert!(line.is_some_and(|line| line.trim_end().ends_with(says)), "{column}: {says} in {ran}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_ten_shapes_keep_their_order_of_delivery_and_a_bad_one_costs_itself_alone() {
    let world = World::new(1).await;
    let mut records = Vec::new();
    for n in 0..1_000 {
        let fields: Vec<String> =
            (0..4).filter(|bit| n >> bit & 1 == 1).map(|bit| format!(",\"c{bit}\":{n}")).collect();
        let v = if n == 500 { -1 } else { n };
        records.push(format!("{{\"v\":{v}{}}}", fields.concat()));
    }
    let records: Vec<&str> = records.iter().map(String::as_str).collect();
    let table = "CREATE TABLE t (v int CHECK (v >= 0), c0 int DEFAULT -1, c1 int DEFAULT -1, c2 int DEFAULT -1, c3 int DEFAULT -1)";
    world.inserted(table, &records, "").await;
    let wrong = "SELECT count(*) FROM t WHERE (c0, c1, c2, c3) IS DISTINCT FROM (CASE WHEN v & 1 > 0 THEN v ELSE -1 END, \
                 CASE WHEN v & 2 > 0 THEN v ELSE -1 END, CASE WHEN v & 4 > 0 THEN v ELSE -1 END, CASE WHEN v & 8 > 0 THEN v ELSE -1 END)";
    assert_eq!(world.number(wrong).await, 0);
    assert_eq!(world.number("SELECT count(*) FROM t").await, 999);
    assert_eq!(world.refused().await, "500:23514");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upsert_keeps_what_records_leave_out_however_they_fall_into_batches() {
    let table = "CREATE TABLE t (k int PRIMARY KEY, a int DEFAULT 1, b text, c int DEFAULT 3, u int DEFAULT 4, w text)";
    let records = [
        r#"{"k":1,"a":10,"b":"x"}"#,
        r#"{"k":2}"#,
        r#"{"k":1,"c":30,"w":"w"}"#,
        r#"{"k":1,"u":40}"#,
        r#"{"k":3,"b":"y","a":null}"#,
        r#"{"k":3}"#,
        r#"{"k":2,"b":"z","u":41}"#,
    ];
    for max_rows in [1, 2, 100] {
        let world = World::new(1).await;
        let pipeline = format!(
            "table.mode = \"upsert\"\ntable.key = [\"k\"]\nbatch.max_rows = {max_rows}\n[pipelines.{}.columns]\nk = \"k\"\na = \"a\"\n\
             b = {{ field = \"b\", missing = \"keep\" }}\nc = \"c\"\nu = {{ field = \"u\", missing = \"default\" }}\nw = \"w\"",
            world.name
        );
        world.inserted(table, &records, &pipeline).await;
        let columns = "k, coalesce(a::text, '-'), coalesce(b, '-'), c, u, coalesce(w, '-')";
        assert_eq!(
            world.in_order(columns, "k").await,
            "1:10:x:30:40:-,2:1:z:3:41:-,3:-:y:3:4:-",
            "{max_rows} rows per batch"
        );
        assert_eq!(world.refused().await, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_stands_for_an_unchanged_value_keeps_it() {
    let world = World::new(1).await;
    let pipeline = "table.mode = \"upsert\"\ntable.key = [\"id\"]\n[pipelines.NAME.columns]\nid = \"id\"\nv = \"v\"\n\
        doc = { field = \"doc\", keep = \"__unavailable\" }\nn = { field = \"n\", keep = \"__unavailable\" }";
    let pipeline = pipeline.replace("NAME", &world.name);
    let records = [
        r#"{"id":1,"v":1,"doc":"long","n":5}"#,
        r#"{"id":1,"v":2,"doc":"__unavailable","n":"__unavailable"}"#,
        r#"{"id":2,"v":1,"doc":"\u005f_unavailable","n":7}"#,
        r#"{"id":2,"v":2,"doc":"short","n":null}"#,
        r#"{"id":2,"v":3,"doc":"__unavailable"}"#,
        r#"{"id":3,"v":1,"doc":"x__unavailable","n":1}"#,
    ];
    world.inserted("CREATE TABLE t (id int PRIMARY KEY, v int, doc text, n int)", &records, &pipeline).await;
    let rows = world.in_order("id, v, coalesce(doc, '-'), coalesce(n::text, '-')", "id").await;
    assert_eq!(rows, "1:2:long:5,2:3:short:-,3:1:x__unavailable:1");
    assert_eq!(world.refused().await, "");
    let appends = pipeline.replace("upsert", "append").replace("table.key = [\"id\"]\n", "");
    let ran = tidegate(&world.config(&format!("table.name = \"t\"\n{appends}")), &["check"]);
    assert!(ran.code != 0 && ran.err.contains("columns.doc.keep"), "{ran}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upsert_by_time_keeps_only_what_records_gave_that_were_new_when_they_came() {
    let table = "CREATE TABLE t (k int PRIMARY KEY, ts int, a int DEFAULT 1, b int DEFAULT 2);
                 INSERT INTO t VALUES (9, 100, 90, 91)";
    let records = [
        r#"{"k":1,"ts":5,"a":10}"#,
        r#"{"k":1,"ts":3,"b":20}"#,
        r#"{"k":1,"ts":6,"b":21}"#,
        r#"{"k":1,"ts":4,"a":11}"#,
        r#"{"k":9,"ts":99,"a":1}"#,
        r#"{"k":9,"ts":101,"b":1}"#,
        r#"{"k":2,"ts":null,"a":7}"#,
        r#"{"k":2,"ts":1,"b":8}"#,
        r#"{"k":2,"ts":null,"a":9}"#,
    ];
    for max_rows in [1, 3, 100] {
        let world = World::new(1).await;
        let pipeline = format!(
            "table.mode = \"upsert\"\ntable.key = [\"k\"]\ntable.newer_by = \"ts\"\nbatch.max_rows = {max_rows}"
        );
        world.inserted(table, &records, &pipeline).await;
        assert_eq!(
            world.in_order("k, ts, a, b", "k").await,
            "1:6:10:21,2:1:7:8,9:101:90:1",
            "{max_rows} rows per batch"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upsert_with_tombstones_and_columns_left_out_is_as_if_records_came_one_by_one() {
    let table = "CREATE TABLE t (k int PRIMARY KEY, id bigserial, a int DEFAULT 1, b int DEFAULT 2);
                 INSERT INTO t (k, a) VALUES (1, 11), (2, 12), (3, 13)";
    for max_rows in [1, 2, 100] {
        let world = World::new(1).await;
        world.sql(table).await;
        let row = |value: &str| Record::new(value).to(0);
        let gone = |key: &str| Record::tombstone().key(format!("{{\"k\":{key}}}")).to(0);
        world.produce([
            row(r#"{"k":1,"b":20}"#),
            gone("2"),
            row(r#"{"k":2,"a":22}"#),
            row(r#"{"k":2,"b":23}"#),
            row(r#"{"k":4,"a":40}"#),
            gone("4"),
            row(r#"{"k":4}"#),
            gone("3"),
            gone("7"),
        ]);
        let pipeline = format!(
            "table = {{ name = \"t\", mode = \"upsert\", key = [\"k\"], deletes = true }}\nbatch.max_rows = {max_rows}"
        );
        let (code, log) = world.drain(&world.config(&pipeline));
        assert_eq!(code, Some(0), "{log}");
        assert_eq!(world.in_order("k, a, b", "k").await, "1:11:20,2:22:23,4:1:2", "{max_rows} rows per batch");
        assert_eq!(world.number("SELECT id FROM t WHERE k = 1").await, 1, "a row that exists keeps its serial");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_left_out_takes_its_default_and_meets_the_row_that_has_it() {
    let table = "CREATE TABLE t (tenant text DEFAULT 'main', id int, v int, PRIMARY KEY (tenant, id))";
    let records = [
        r#"{"id":1,"v":1}"#,
        r#"{"tenant":"main","id":1,"v":2}"#,
        r#"{"id":1,"v":3}"#,
        r#"{"tenant":"b","id":1,"v":4}"#,
    ];
    for (mode, rows) in [("upsert", "b:1:4,main:1:3"), ("insert_new", "b:1:4,main:1:1")] {
        for max_rows in [1, 100] {
            let world = World::new(1).await;
            let pipeline =
                format!("table.mode = \"{mode}\"\ntable.key = [\"tenant\", \"id\"]\nbatch.max_rows = {max_rows}");
            world.inserted(table, &records, &pipeline).await;
            assert_eq!(world.in_order("tenant, id, v", "tenant").await, rows, "{mode}, {max_rows} rows per batch");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn insert_new_without_a_key_keeps_the_first_delivered_of_rows_of_any_shape() {
    let world = World::new(1).await;
    let table = "CREATE TABLE t (id bigserial PRIMARY KEY, a int UNIQUE, b int DEFAULT 5)";
    let records = [r#"{"a":1,"b":1}"#, r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":2,"b":2}"#, r#"{"id":1000,"a":3}"#];
    world.inserted(table, &records, "table.mode = \"insert_new\"").await;
    assert_eq!(world.in_order("a, b", "a").await, "1:1,2:5,3:5");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aggregate_counts_by_a_key_that_takes_its_default() {
    let world = World::new(1).await;
    let table = "CREATE TABLE t (region text DEFAULT 'none' PRIMARY KEY, n int8, total int8 DEFAULT 0, made timestamptz DEFAULT now())";
    let pipeline = format!(
        "table.mode = \"aggregate\"\ntable.key = [\"region\"]\n[pipelines.{}.columns]\nregion = \"region\"\n\
         n = {{ aggregate = \"count\" }}\ntotal = {{ field = \"v\", aggregate = \"sum\" }}",
        world.name
    );
    let records = [r#"{"v":1}"#, r#"{"region":"n","v":2}"#, r#"{"v":3}"#, r#"{"region":"none"}"#];
    world.inserted(table, &records, &pipeline).await;
    assert_eq!(world.in_order("region, n, total, made IS NOT NULL", "region").await, "n:1:2:t,none:3:4:t");
}

#[tokio::test(flavor = "multi_thread")]
async fn routed_tables_have_defaults_of_their_own() {
    let world = World::new(1).await;
    world
        .sql(
            "CREATE TABLE t_n (id bigserial PRIMARY KEY, v int, lbl text DEFAULT 'north');
             CREATE TABLE t_s (id int8 GENERATED ALWAYS AS IDENTITY, v int, lbl text)",
        )
        .await;
    let row = |region: &str, rest: &str| Record::new(format!("{{\"r\":\"{region}\"{rest}}}")).to(0);
    world.produce([
        row("n", ",\"v\":1"),
        row("s", ",\"v\":2"),
        row("n", ",\"v\":3,\"lbl\":\"x\""),
        row("s", ",\"id\":9"),
    ]);
    let config = world.config(&format!(
        "table.name = \"t_{{r}}\"\n[pipelines.{}.columns]\nid = \"id\"\nv = \"v\"\nlbl = \"lbl\"",
        world.name
    ));
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    let rows = |table: &str| {
        format!(
            "SELECT string_agg(concat_ws(':', id, coalesce(v, 0), coalesce(lbl, '-')), ',' ORDER BY id) FROM {table}"
        )
    };
    assert_eq!(world.text(&rows("t_n")).await, "1:1:north,2:3:x");
    assert_eq!(world.text(&rows("t_s")).await, "1:2:-,9:0:-");
}

#[tokio::test(flavor = "multi_thread")]
async fn defaults_of_domains_generated_columns_and_more_than_eight_columns_left_out() {
    let world = World::new(1).await;
    let columns: Vec<String> = (0..20).map(|n| format!("c{n} int DEFAULT {n}")).collect();
    let table = format!(
        "CREATE DOMAIN word AS text NOT NULL DEFAULT 'word';
         CREATE TABLE t (v int, w word, twice int GENERATED ALWAYS AS (v * 2) STORED, {})",
        columns.join(", ")
    );
    for pipeline in ["", "table.mode = \"upsert\"\ntable.key = [\"v\"]"] {
        let world = if pipeline.is_empty() { &world } else { &World::new(1).await };
        let table = if pipeline.is_empty() { table.clone() } else { table.replace("(v int,", "(v int PRIMARY KEY,") };
        world
            .inserted(&table, &[r#"{"v":1,"c9":90}"#, r#"{"v":2,"w":"x","c19":0,"twice":7}"#, r#"{"v":3}"#], pipeline)
            .await;
        assert_eq!(
            world.in_order("v, w, twice, c0, c8, c9, c19", "v").await,
            "1:word:2:0:8:90:19,2:x:4:0:8:9:0,3:word:6:0:8:9:19"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_only_insert_gets_identities_and_defaults() {
    let world = World::new(1).await;
    let role = tidegate_harness::unique_name("writer");
    world
        .sql(&format!(
            "CREATE TABLE t (id int8 GENERATED BY DEFAULT AS IDENTITY, v int, lbl text DEFAULT 'none');
             CREATE ROLE {role} LOGIN; GRANT CREATE, TEMPORARY ON DATABASE \"{}\" TO {role}; GRANT INSERT, SELECT ON t TO {role}",
            world.database.name
        ))
        .await;
    world.produce([Record::new(r#"{"v":1}"#).to(0), Record::new(r#"{"v":2,"lbl":"x"}"#).to(0)]);
    let (_, rest) = world.database.url.split_once("//").expect("an url");
    let url = format!("postgres://{role}@{}", rest.split_once('@').map_or(rest, |(_, host)| host));
    let (code, log) = world.drain(&world.config_at(&url, "table.name = \"t\"\ntable.sort_by = [\"v\"]"));
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.in_order("id, v, lbl", "v").await, "1:1:none,2:2:x");
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_a_literal_of_its_type_is_that_value() {
    let world = World::new(1).await;
    let table = "CREATE TABLE t (i2 int2, i4 int4, i8 int8, o oid, f4 float4, f8 float8, n numeric, b bool, arr int8[], at timestamptz)";
    let columns =
        ["i2", "i4", "i8", "o", "f4", "f8", "n", "b", "arr"].map(|name| format!("{name} = \"{name}\"\n")).concat();
    let pipeline = format!(
        "dead_letters.max_share = 1.0\n[pipelines.{}.columns]\n{columns}at = {{ field = \"at.$numberLong\", unit = \"ms\" }}",
        world.name
    );
    let records = [
        r#"{"i2":" -7 ","i4":"12","i8":"9007199254740993","o":"5","f4":"1.5","f8":"1e300","n":"0.10","b":"true","arr":["1","2"],"at":{"$numberLong":"1700000000123"}}"#,
        r#"{"i4":"1.0"}"#,
        r#"{"i4":""}"#,
        r#"{"i4":"2147483648"}"#,
        r#"{"b":1}"#,
        r#"{"f8":"1.5x"}"#,
        r#"{"f8":"1e999"}"#,
    ];
    world.inserted(table, &records, &pipeline).await;
    let rows = world.in_order("i2, i4, i8, o, f4, f8, n, b, arr, at AT TIME ZONE 'UTC'", "i4").await;
    assert_eq!(rows, "-7:12:9007199254740993:5:1.5:1e+300:0.10:t:{1,2}:2023-11-14 22:13:20.123");
    let reasons = "1:type_mismatch,2:type_mismatch,3:out_of_range,4:type_mismatch,5:type_mismatch,6:out_of_range";
    assert_eq!(world.refused().await, reasons);
}

/// Returns SQL for a trigger on `t` that refuses negative values with this SQLSTATE.
fn guard(code: &str) -> String {
    format!(
        "CREATE FUNCTION guard() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
         IF NEW.v < 0 THEN RAISE EXCEPTION 'v is negative' USING ERRCODE = '{code}'; END IF; RETURN NEW; END $$;
         CREATE TRIGGER guard BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION guard()"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_refuses_a_row_by_any_sqlstate() {
    for code in ["TG001", "42501", "42703", "0A000", "22P04"] {
        let world = World::new(1).await;
        let table = format!("CREATE TABLE t (id serial, v int); {}", guard(code));
        let records = [r#"{"v":1}"#, r#"{"v":-1}"#, r#"{"v":3}"#];
        world.inserted(&table, &records, "dead_letters.max_share = 1.0").await;
        assert_eq!(world.in_order("v", "v").await, "1,3", "{code}");
        assert_eq!(world.refused().await, format!("1:{code}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_that_refuses_every_row_dead_letters_nothing() {
    let world = World::new(1).await;
    world.sql(&format!("CREATE TABLE t (v int); {}", guard("TG001"))).await;
    world.produce([-1, -2, -3].map(|v| Record::new(format!("{{\"v\":{v}}}")).to(0)));
    let (code, log) = world.drain(&world.config("table.name = \"t\"\ndead_letters.max_share = 1.0"));
    assert_eq!(code, Some(70), "{log}");
    assert!(log.contains("TG001"), "{log}");
    assert_eq!(world.refused().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sequence_at_its_end_is_an_outage_and_named() {
    // An int4 sequence at its end raises 2200H. A longer sequence makes the column raise 22003.
    for (sequence, says) in [("AS int4", "reached maximum value"), ("AS int8", "integer out of range")] {
        let world = World::new(1).await;
        world.sql(&format!("CREATE TABLE t (id serial, v int); ALTER SEQUENCE t_id_seq {sequence}; SELECT setval('t_id_seq', 2147483647)")).await;
        world.produce((0..60).map(|v| Record::new(format!("{{\"v\":{v}}}")).to(0)));
        let daemon = world.daemon(&world.config("table.name = \"t\""));
        daemon.await_log(says, crate::support::PATIENCE).expect("the outage is named");
        assert_eq!(world.refused().await, "", "{sequence}");
        world.sql("ALTER TABLE t ALTER id TYPE int8; ALTER SEQUENCE t_id_seq AS int8 MAXVALUE 9000000000000").await;
        let filled = async || world.number("SELECT count(*) FROM t").await == 60;
        tidegate_harness::eventually_async("rows are written", crate::support::PATIENCE, filled)
            .await
            .expect("it flows");
        assert_eq!(world.refused().await, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_create_runs_once_in_the_transaction_that_creates_the_table() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE made (at text)").await;
    let pipeline = |after: &str| {
        format!(
            "table = {{ name = \"t\", create = true, after_create = [\"INSERT INTO made VALUES (current_setting('tidegate.table'))\", \"{after}\"] }}\n\
             columns.v = {{ field = \"v\", type = \"int4\" }}"
        )
    };
    world.produce([Record::new(r#"{"v":1}"#).to(0)]);
    let (code, log) = world.drain(&world.config(&pipeline("CREATE INDEX ON nothing (v)")));
    assert_eq!(code, Some(70), "{log}");
    assert!(log.contains("after_create") && log.contains("nothing was created"), "{log}");
    assert_eq!(world.number("SELECT count(*) FROM made").await, 0);
    let config = world.config(&pipeline("CREATE INDEX by_v ON t (v);"));
    let ran = tidegate(&config, &["check"]);
    assert!(ran.out.contains("CREATE INDEX by_v ON t (v)"), "{ran}");
    for _ in 0..2 {
        let (code, log) = world.drain(&config);
        assert_eq!(code, Some(0), "{log}");
    }
    assert_eq!(world.text("SELECT string_agg(at, ',') FROM made").await, "\"public\".\"t\"");
    assert_eq!(world.number("SELECT count(*) FROM pg_indexes WHERE indexname = 'by_v'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn times_are_read_as_insert_reads_them_in_a_stated_zone() {
    let world = World::new(1).await;
    let texts = [
        ("2015-04-16T10:45:47.000", "Europe/Berlin"),
        ("2024-03-31 02:30:00", "Europe/Berlin"),
        ("2024-10-27 02:30:00", "Europe/Berlin"),
        ("2024-07-01", "America/New_York"),
        ("20240131T104547", "UTC"),
        ("2024-07-01 12:00:00Z", "America/New_York"),
    ];
    let others = [
        ("d", "date", "2024-01-31T23:00:00+05:00"),
        ("d", "date", "20240131"),
        ("h", "time", "12:00:00Z"),
        ("h", "time", "2024-01-31 04:05:06.7"),
        ("h", "time", "040506"),
        ("z", "timetz", "12:00:00.5+02:30"),
        ("z", "timetz", "04:05Z"),
    ];
    let mut sql = "CREATE TABLE t (n int, at0 timestamptz, at1 timestamptz, at2 timestamptz, d date, h time, z timetz);
        CREATE TABLE expected (LIKE t);"
        .to_owned();
    let mut records = Vec::new();
    let zones = ["Europe/Berlin", "America/New_York", "UTC"];
    let column = |zone: &str| zones.iter().position(|other| *other == zone).expect("one of them");
    for (text, zone) in texts {
        let n = records.len();
        sql +=
            &format!("SET timezone = '{zone}'; INSERT INTO expected (n, at{}) VALUES ({n}, '{text}');", column(zone));
        records.push(format!("{{\"n\":{n},\"at{}\":\"{text}\"}}", column(zone)));
    }
    for (name, _, text) in others {
        let n = records.len();
        sql += &format!("INSERT INTO expected (n, {name}) VALUES ({n}, '{text}');");
        records.push(format!("{{\"n\":{n},\"{name}\":\"{text}\"}}"));
    }
    let columns: String = zones
        .iter()
        .enumerate()
        .map(|(n, zone)| format!("at{n} = {{ field = \"at{n}\", zone = \"{zone}\" }}\n"))
        .collect();
    let pipeline = format!("[pipelines.{}.columns]\nn = \"n\"\nd = \"d\"\nh = \"h\"\nz = \"z\"\n{columns}", world.name);
    let records: Vec<&str> = records.iter().map(String::as_str).collect();
    world.inserted(&sql, &records, &pipeline).await;
    assert_eq!(world.refused().await, "");
    let differ = "SELECT coalesce(string_agg(t::text || ' is not ' || e::text, E'\\n'), '') FROM t JOIN expected e USING (n) \
                  WHERE t::text <> e::text";
    assert_eq!(world.text(differ).await, "");
    assert_eq!(world.number("SELECT count(*) FROM t JOIN expected USING (n)").await, 13);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_whose_name_no_column_can_have_costs_no_other_field_its_column() {
    let world = World::new(1).await;
    let long = "x".repeat(70);
    let record = format!(
        r#"{{"v":1,"ctid":2,"xmin":3,"select":4,"a.b":5,"A":6,"a":7,"":8,"{long}":9,"tableoid":"t","user\"s":10}}"#
    );
    let pipeline = "table.evolve = \"add\"\nunknown_fields = { column = \"extra\" }";
    world.inserted("CREATE TABLE t (v int, extra jsonb)", &[&record, r#"{"v":2,"b":1}"#], pipeline).await;
    assert_eq!(world.in_order(r#"v, "select", "a.b", "A", a, "user""s", b"#, "v").await, "1:4:5:6:7:10,2:1");
    let extra = format!(r#"{{"": 8, "ctid": 2, "xmin": 3, "tableoid": "t", "{long}": 9}}"#);
    assert_eq!(world.number(&format!("SELECT count(*) FROM t WHERE v = 1 AND extra = '{extra}'")).await, 1);
    assert_eq!(world.refused().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_another_encoding_refuses_a_record_alone_and_takes_its_letter() {
    let mut world = World::new(1).await;
    let name = tidegate_harness::unique_name("latin");
    world
        .sql(&format!("CREATE DATABASE {name} ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0"))
        .await;
    let url = world.postgres.url(&name);
    world.database = tidegate_harness::Database { name, url };
    world.sql("CREATE TABLE t (v int, note text, doc jsonb)").await;
    let records = [
        r#"{"v":1,"note":"caf\u00e9 é","doc":{"a":"ü"}}"#,
        r#"{"v":2,"note":"→"}"#,
        r#"{"v":3,"doc":{"a":"→"}}"#,
        r#"{"v":"→"}"#,
        r#"{"v":5,"новый":1,"né":2}"#,
    ];
    world.produce(records.map(|value| Record::new(value).to(0)));
    let pipeline = "table = { name = \"t\", evolve = \"add\" }\ndead_letters.max_share = 1.0";
    let (code, log) = world.drain(&world.config(pipeline));
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.in_order("v, note, doc->>'a', \"né\"", "v").await, "1:café é:ü,5:2");
    assert_eq!(world.refused().await, "1:22P05,2:22P05,3:type_mismatch");
    let detail = "SELECT detail FROM tidegate.dead_letter WHERE record_offset = 3";
    assert!(world.text(detail).await.contains("\\u{2192}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_alone_takes_longer_than_the_timeout_is_named() {
    let world = World::new(1).await;
    world
        .sql(
            "CREATE TABLE t (v int);
             CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN IF NEW.v = 3 THEN PERFORM pg_sleep(30); END IF; RETURN NEW; END $$;
             CREATE TRIGGER slow BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION slow()",
        )
        .await;
    world.produce((0..8).map(|v| Record::new(format!("{{\"v\":{v}}}")).to(0)));
    let deadlines = "lock_timeout = \"200ms\"\nstatement_timeout = \"300ms\"";
    let daemon = world.daemon(&crate::accounting::with_postgres(&world.config("table.name = \"t\""), deadlines));
    let named = format!("the record at offset 3 of {}/0", world.topic);
    daemon.await_log(&named, crate::support::PATIENCE).expect("the record is named");
    world.sql("DROP TRIGGER slow ON t").await;
    let written = async || world.number("SELECT count(*) FROM t").await == 8;
    tidegate_harness::eventually_async("all rows", crate::support::PATIENCE, written).await.expect("they go in");
    assert_eq!(world.refused().await, "");
}
