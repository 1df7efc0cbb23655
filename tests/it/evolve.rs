//! `evolve = "add"`: new fields become columns. If several daemons meet a new field, one of them adds the column. No value is
//! lost.

use tidegate_harness::{Daemon, Record, eventually_async, free_port};

use crate::accounting::with_short_sessions;
use crate::cli::tidegate;
use crate::support::{PATIENCE, World};

const EVOLVING: &str =
    "table = { name = \"rides\", evolve = \"add\" }\nbatch.max_rows = 2000\nflow.max_rows_per_second = 20_000";

/// Returns record number `n`. After every thousand records, the records get one more field.
fn growing(n: i32) -> Record {
    let mut text = format!(r#"{{"seq":{n}"#);
    for field in 0..=n / 1_000 {
        text += &match field % 4 {
            0 => format!(r#","number_{field}":{}.5"#, n % 7),
            1 => format!(r#","text_{field}":"t{n}""#),
            2 => format!(r#","flag_{field}":{}"#, n % 2 == 0),
            _ => format!(r#","list_{field}":[{n}]"#),
        };
    }
    Record::new(text + "}").to(n % 4)
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_appear_under_load_become_columns_and_no_value_is_lost() {
    const RECORDS: i32 = 20_000;
    let world = World::new(4).await;
    world.sql("CREATE TABLE rides (seq bigint)").await;
    world.produce((0..RECORDS).map(growing));
    let config = with_short_sessions(&world.config(EVOLVING));
    let port = free_port().expect("a free port");
    let (before, rest) = config.split_once("listen = \"").expect("it listens");
    let other = format!("{before}listen = \"127.0.0.1:{port}\"{}", rest.split_once('"').expect("its end").1);
    let daemons: [Daemon; 2] = [world.daemon(&config), world.daemon(&other)];
    // At first, either of the daemons may own all partitions.
    let flows = async || world.number("SELECT count(*) FROM rides").await >= 1_000;
    eventually_async("rows are written", PATIENCE, flows).await.expect("it flows");
    // Another client, which doesn't use our lock, adds a column too.
    world.sql("ALTER TABLE rides ADD COLUMN IF NOT EXISTS number_16 float8").await;
    world.await_written(&daemons[0]).await;
    assert_eq!(world.text("SELECT coalesce(string_agg(detail, E'\\n'), '') FROM tidegate.dead_letter").await, "");
    assert_eq!(world.number("SELECT count(DISTINCT seq) FROM rides").await, i64::from(RECORDS));
    assert_eq!(world.number("SELECT count(*) FROM rides").await, i64::from(RECORDS));
    // Each of the 20 fields must have its value in every record that contains the field.
    for (field, (name, sql_type, value)) in (0..20).map(|field| {
        let of = match field % 4 {
            0 => (format!("number_{field}"), "numeric", "(seq % 7 + 0.5)::numeric".to_owned()),
            1 => (format!("text_{field}"), "text", "'t' || seq".to_owned()),
            2 => (format!("flag_{field}"), "boolean", "seq % 2 = 0".to_owned()),
            _ => (format!("list_{field}"), "jsonb", "jsonb_build_array(seq)".to_owned()),
        };
        (field, of)
    }) {
        let wrong = format!(
            "SELECT count(*) FROM rides WHERE {name} IS DISTINCT FROM CASE WHEN seq >= {} THEN {value} END",
            field * 1_000
        );
        assert_eq!(world.number(&wrong).await, 0, "{name}");
        let declared = format!(
            "SELECT format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = 'rides'::regclass AND attname = '{name}'"
        );
        let declared = world.text(&declared).await;
        assert!(declared == sql_type || name == "number_16" && declared == "double precision", "{name} {declared}");
    }
    for daemon in &daemons {
        assert_eq!(daemon.exit_status(), None, "{}", daemon.log_tail());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_that_can_not_become_columns_follow_unknown_fields() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (id int, \"name\" text, own int DEFAULT 7, words xml, extra jsonb)").await;
    let long = "x".repeat(64);
    world.produce(
        [
            format!(r#"{{"id":1,"called":"a","{long}":1,"words":"<a/>","O\"Neil; --":true}}"#),
            r#"{"id":2,"called":"b","later":null,"name":"of another column"}"#.to_owned(),
            r#"{"id":3,"own":9,"mixed":1}"#.to_owned(),
            r#"{"id":4,"mixed":"x"}"#.to_owned(),
        ]
        .map(|text| Record::new(text).to(0)),
    );
    let config = world.config(
        "table = { name = \"rides\", evolve = \"add\" }\nunknown_fields = { column = \"extra\" }\ncolumns.id = \"id\"\ncolumns.name = \"called\"",
    );
    let ran = tidegate(&config, &["check"]).ok();
    ran.says(&["ADD COLUMN IF NOT EXISTS \"O\"\"Neil; --\" bool", "\"mixed\" jsonb", "4 newest records → 4 rows"]);
    assert_eq!(
        world.number("SELECT count(*) FROM pg_attribute WHERE attrelid = 'rides'::regclass AND attnum > 0").await,
        5
    );
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    let rows = "SELECT string_agg(concat_ws('|', id, name, coalesce(own::text, '-'), coalesce(extra::text, '-'), mixed, \"O\"\"Neil; --\"), ' ' ORDER BY id) FROM rides";
    let expected = format!(
        r#"1|a|7|{{"words": "<a/>", "{long}": 1}}|t 2|b|7|{{"name": "of another column", "later": null}} 3|9|-|1 4|7|-|"x""#
    );
    assert_eq!(world.text(rows).await, expected);
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_does_not_own_the_table_stops_and_check_says_so_before() {
    let world = World::new(1).await;
    let role = tidegate_harness::unique_name("clerk");
    world
        .sql(&format!(
            "CREATE TABLE rides (id int); CREATE ROLE {role} LOGIN; GRANT ALL ON rides TO {role};
             CREATE SCHEMA tidegate AUTHORIZATION {role}"
        ))
        .await;
    world.produce([Record::new(r#"{"id":1}"#).to(0), Record::new(r#"{"id":2,"name":"x"}"#).to(0)]);
    let url = world.database.url.replace("postgres@", &format!("{role}@"));
    let config = world.config_at(&url, "table = { name = \"rides\", evolve = \"add\" }");
    tidegate(&config, &["check"])
        .fails(64, &["table.evolve", &format!("ALTER TABLE \"public\".\"rides\" OWNER TO {role}")]);
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(70), "{log}");
    assert!(log.contains("can't add columns to `public.rides`"), "{log}");
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 0, "nothing was moved past");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_only_a_later_row_of_a_record_has_becomes_a_column() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (id int)").await;
    world.produce([
        Record::new(r#"[{"id":1},{"id":2,"speed":5}]"#).to(0),
        Record::new(r#"[{"id":3,"speed":5.5}]"#).to(0),
    ]);
    let (code, log) = world.drain(&world.config("table = { name = \"rides\", evolve = \"add\" }"));
    assert_eq!(code, Some(0), "{log}");
    let rows = "SELECT string_agg(concat_ws(':', id, speed), ',' ORDER BY id) FROM rides";
    assert_eq!(world.text(rows).await, "1,2:5,3:5.5");
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 0);
}
