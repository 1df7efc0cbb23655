//! `tidegate check`: reports what would fail at the first start, and changes nothing.

use tidegate_harness::{Record, eventually, free_port};

use crate::cli::tidegate;
use crate::support::{PATIENCE, World};

const RIDES: &str = "CREATE TABLE rides (id bigint NOT NULL, name varchar(8), lat float8, at bigint)";
const COLUMNS: &str = "table.name = \"rides\"\n[pipelines.PIPELINE.columns]\nid = \"id\"\nname = \"name\"\nlat = { field = \"pos.lat\", type = \"float8\" }\nat = { meta = \"offset\" }";

impl World {
    fn checked(&self) -> String {
        self.config(&COLUMNS.replace("PIPELINE", &self.name))
    }
}

fn good(n: i32) -> Record {
    Record::new(format!(r#"{{"id":{n},"name":"v{n}","pos":{{"lat":1.5}}}}"#)).to(n % 2)
}

#[tokio::test(flavor = "multi_thread")]
async fn check_shows_the_plan_tries_the_newest_records_and_changes_nothing() {
    let world = World::new(2).await;
    world.sql(RIDES).await;
    world.produce((0..300).map(good));
    let ran = tidegate(&world.checked(), &["check"]).ok();
    let ran = ran.says(&[
        "field pos.lat",
        "meta offset",
        "varchar(8)",
        "300 newest records → 300 rows",
        "row   {\"at\": 0, \"id\": ",
        "ready",
        "lock 5s < statement",
    ]);
    let topic = format!("{}: 2 partitions, up to 300 records", world.topic);
    ran.says(&[&topic, "cluster "]);
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 0);
    assert_eq!(world.schemas().await, 0, "check makes no schema");
    let group = world.kafka.committed_offsets(&world.name, &world.topic).expect("offsets");
    assert_eq!(group, [None, None], "check commits nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_each_record_that_would_be_a_dead_letter_and_why() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (id bigint NOT NULL, name varchar(8), lat float8 CHECK (lat < 90), at bigint)").await;
    let bad = [r#"{"id":1,"pos":{"lat":"north"}}"#, r#"{"id":2,"pos":{"lat":91}}"#, r#"{"name":"no id"}"#, "{"];
    let records = (0..96).map(|n| good(n).to(0)).chain(bad.map(|text| Record::new(text).to(0)));
    world.produce(records);
    let report = tidegate(&world.checked(), &["check", "--json"]).ok().json();
    let sample = &report["pipelines"][0]["sample"];
    assert_eq!(
        (&sample["records"], &sample["rows"], &sample["dead_letters"]),
        (&100.into(), &96.into(), &4.into()),
        "{sample}"
    );
    for (offset, reason, words) in [
        (96, "type_mismatch", "lat \"north\" is not float8"),
        (97, "refused_by_postgres", "rides_lat_check"),
        (98, "missing_field", "id is missing"),
        (99, "invalid_json", ""),
    ] {
        let letters = sample["letters"].as_array().expect("letters");
        let letter = letters.iter().find(|letter| letter["offset"] == offset).expect("a letter of that offset");
        assert_eq!((&letter["reason"], &letter["topic"]), (&reason.into(), &world.topic.as_str().into()), "{letter}");
        assert!(letter["detail"].as_str().is_some_and(|detail| detail.contains(words)), "{letter}");
    }
    // Four of the newest 10 records are bad. That is more than `max_share` allows, but less than `min_count`. So they wouldn't
    // stop the pipeline.
    let too_many = "4 of the newest 10 records would be dead letters (40.0 %), above `dead_letters.max_share` (10.0 %)";
    let few =
        format!("warning     pipelines.{}.columns: {too_many}; at this share the pipeline stops after 100", world.name);
    tidegate(&world.checked(), &["check", "--records", "10"]).ok().says(&[&few]);
    let strict = world.checked().replace("table.name", "dead_letters.min_count = 4\ntable.name");
    tidegate(&strict, &["check", "--records", "10"]).fails(64, &[too_many, "so the pipeline would stop"]);
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_shows_the_table_that_would_be_created_and_does_not_create_it() {
    let world = World::new(1).await;
    world.produce((0..10).map(|n| Record::new(format!(r#"{{"id":{},"name":"x"}}"#, n % 5))));
    let config = world.config(&format!(
        "table = {{ name = \"made\", create = true, mode = \"insert_new\", key = [\"id\"] }}\n[pipelines.{}.columns]\nid = {{ field = \"id\", type = \"int8\" }}\nname = {{ field = \"name\", type = \"text\" }}",
        world.name
    ));
    let ran = tidegate(&config, &["check"]).ok();
    // The ten records have five keys. A record whose key exists already is skipped.
    ran.says(&[
        "CREATE TABLE IF NOT EXISTS \"public\".\"made\"",
        "10 newest records → 5 rows, 0 dead letters",
        "ready",
    ]);
    assert_eq!(world.number("SELECT count(*) FROM pg_class WHERE relname = 'made'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reports_every_fault_of_the_mapping_at_once() {
    let world = World::new(1).await;
    world.sql(RIDES).await;
    let columns = COLUMNS.replace("PIPELINE", &world.name) + "\nlatt = \"x\"\n";
    let config = world.config(&columns.replace("type = \"float8\"", "type = \"int4\""));
    let text = "has no column `latt`; did you mean `lat`?";
    tidegate(&config, &["check"]).fails(64, &[text, "the mapping says `int4`, but the column is `double precision`"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reports_a_missing_table_and_a_missing_topic_as_bad_configuration() {
    let world = World::new(1).await;
    let config = world.checked().replace(&world.topic, "telemetri");
    tidegate(&config, &["check"])
        .fails(64, &["table `public.rides` does not exist", "topic `telemetri` does not exist"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reports_both_servers_that_are_unavailable() {
    let world = World::new(1).await;
    let (kafka, postgres) = (free_port().expect("a port"), free_port().expect("a port"));
    let url = world.database.url_at(format!("127.0.0.1:{postgres}"));
    let config = world.config_at(&url, "table.name = \"rides\"");
    let config = config.replace(world.kafka.bootstrap_servers(), &format!("127.0.0.1:{kafka}"));
    tidegate(&config, &["check"]).fails(69, &["can't reach Postgres", "can't ask Kafka: 127.0.0.1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reports_a_missing_database_and_shows_no_password() {
    let world = World::new(1).await;
    let url = world.database.url.replace("postgres@", "postgres:hunter2@").replace(&world.database.name, "nowhere");
    let ran = tidegate(&world.config_at(&url, "table.name = \"rides\""), &["check"]);
    let ran = ran.fails(69, &["3D000", "\"nowhere\" does not exist", "create the database"]);
    assert!(!ran.out.contains("hunter2") && !ran.err.contains("hunter2"), "{ran}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_names_the_rights_that_are_missing_and_the_statement_that_gives_them() {
    let world = World::new(1).await;
    let role = tidegate_harness::unique_name("clerk");
    world.sql(&format!("{RIDES}; CREATE ROLE {role} LOGIN")).await;
    let config = world.config_at(
        &world.database.url.replace("postgres@", &format!("{role}@")),
        &COLUMNS.replace("PIPELINE", &world.name),
    );
    let insert = format!("GRANT INSERT ON \"public\".\"rides\" TO {role}");
    world.produce((0..3).map(|n| good(n).to(0)));
    // The trial would fail because of the missing rights. So `check` skips the trial, and reports no fault of the trial.
    let ran = tidegate(&config, &["check"])
        .fails(64, &["found 2 faults", "the newest records were not tried, because rights are missing"]);
    // The statements can be run as they are printed.
    let (_, grants) = ran.out.split_once("all missing rights at once\n").expect("the statements");
    let grants: String = grants.lines().take_while(|line| line.starts_with("    ")).collect();
    assert!(
        grants.contains(&insert) && grants.contains(&format!("CREATE SCHEMA tidegate AUTHORIZATION {role};")),
        "{ran}"
    );
    world.sql(&grants).await;
    tidegate(&config, &["check"]).ok();
    // COPY refuses a table with row-level security, so `check` says that rows are written by INSERT.
    world.sql("ALTER TABLE rides ENABLE ROW LEVEL SECURITY").await;
    let ran = tidegate(&config, &["check"]).ok();
    assert!(ran.out.contains(&format!("row-level security of `public.rides` applies to `{role}`")), "{ran}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_refuses_a_table_whose_columns_have_no_field_and_suggests_similar_names() {
    let world = World::new(1).await;
    world.produce((0..3).map(|n| Record::new(format!(r#"{{"tss":{n},"Speed":1.5,"other":"x"}}"#))));
    world.sql("CREATE TABLE bt (foo text, bar text); CREATE TABLE near (ts bigint, speed float8, id bigserial)").await;
    let none = "none of the 3 newest records has a field for any column of `public.bt` (`foo`, `bar`)";
    let fault = [none, "the records have `Speed`, `other`, `tss`", &format!("pipelines.{}.columns", world.name)];
    tidegate(&world.config("table.name = \"bt\""), &["check"]).fails(64, &fault);
    let extra = "table.name = \"bt\"\nunknown_fields = { column = \"bar\" }";
    world.sql("ALTER TABLE bt ALTER bar TYPE jsonb USING bar::jsonb").await;
    tidegate(&world.config(extra), &["check"]).ok();
    tidegate(&world.config("table.name = \"near\""), &["check"])
        .fails(64, &["of this name: did you mean `tss`?", "did you mean `Speed`?"]);
    // `check` succeeds if at least one column has a field.
    world.sql("ALTER TABLE near ADD COLUMN other text").await;
    tidegate(&world.config("table.name = \"near\""), &["check"]).ok().says(&["did you mean `tss`?"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn insert_new_into_a_table_without_a_unique_constraint_is_warned_of() {
    let world = World::new(1).await;
    world.sql(RIDES).await;
    world.produce((0..3).map(|n| good(n).to(0)));
    let config =
        world.checked().replace("table.name = \"rides\"", "table = { name = \"rides\", mode = \"insert_new\" }");
    let words = "`public.rides` has no unique constraint, so mode insert_new never skips a row";
    tidegate(&config, &["check"]).ok().says(&[words]);
    let (code, log) = world.drain(&config);
    assert!(code == Some(0) && log.contains(words), "{log}");
    world.sql("CREATE UNIQUE INDEX ON rides (id) WHERE id > 0").await;
    let ran = tidegate(&config, &["check"]).ok();
    assert!(!ran.out.contains(words), "{ran}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_table_is_looked_for_in_other_schemas() {
    let world = World::new(1).await;
    world.sql("CREATE SCHEMA fleet; CREATE TABLE fleet.rides (id bigint)").await;
    let config = world.config("table.name = \"rides\"");
    let words = ["table `public.rides` does not exist", "`fleet.rides` exists: if that is the table"];
    tidegate(&config, &["check"]).fails(64, &words);
    let (code, log) = world.drain(&config);
    assert!(code == Some(70) && words.iter().all(|words| log.contains(words)), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_refuses_a_view_and_a_key_without_a_unique_index() {
    let world = World::new(1).await;
    world.sql(&format!("{RIDES}; CREATE INDEX ON rides (id); CREATE VIEW seen AS SELECT * FROM rides")).await;
    tidegate(&world.checked().replace("\"rides\"", "\"seen\""), &["check"]).fails(64, &["`public.seen` is a view"]);
    let keyed = "table = { name = \"rides\", mode = \"insert_new\", key = [\"id\"] }";
    let config = world.checked().replace("table.name = \"rides\"", keyed);
    tidegate(&config, &["check"])
        .fails(64, &["no unique index on exactly (id)", "CREATE UNIQUE INDEX ON", "check found 1 fault"]);
    world.sql("CREATE UNIQUE INDEX ON rides (id)").await;
    tidegate(&config, &["check"]).ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn check_notes_triggers_rules_and_sums_of_floats() {
    let world = World::new(1).await;
    world
        .sql(
            "CREATE TABLE fares (id int PRIMARY KEY, total float8, high bigint);
             CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
             CREATE TRIGGER audit AFTER INSERT ON fares FOR EACH ROW EXECUTE FUNCTION nothing();
             CREATE TRIGGER later AFTER UPDATE ON fares FOR EACH ROW EXECUTE FUNCTION nothing()",
        )
        .await;
    let config = world.config(
        "table = { name = \"fares\", mode = \"aggregate\", key = [\"id\"] }\ncolumns.id = \"id\"\n\
         columns.total = { field = \"n\", aggregate = \"sum\" }\n\
         columns.high = { aggregate = \"count\", where = { field = \"state\", equals = \"high\" } }",
    );
    world.produce([Record::new(r#"{"id":1,"n":2,"state":"high"}"#)]);
    let report = tidegate(&config, &["check", "--json"]).ok().json();
    let warnings = report["pipelines"][0]["warnings"].to_string();
    for words in ["insert (audit)", "a sum of `double precision` is rounded"] {
        assert!(warnings.contains(words), "no {words:?} in {warnings}");
    }
    tidegate(&config, &["check"]).ok().says(&["each record, filtered by `where`", "row before the merge   {"]);
    world.sql("CREATE RULE twice AS ON INSERT TO fares DO ALSO SELECT 1").await;
    tidegate(&config, &["check"]).fails(64, &["mode aggregate merges by ON CONFLICT", "(twice)"]);
    let append = world.config("table.name = \"fares\"\ncolumns.id = \"id\"");
    tidegate(&append, &["check"]).ok().says(&["has rules (twice), which COPY ignores"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_is_not_in_the_configuration_is_a_usage_fault() {
    let world = World::new(1).await;
    let ran = tidegate(&world.checked(), &["check", "--pipeline", "riddes"]);
    ran.fails(64, &["no pipeline `riddes`", &world.name]);
    tidegate("[kafka]\nbootstrap = 1", &["check"]).fails(64, &["unknown key", "tidegate.toml:2:1"]);
}

/// If `check` fetched from one topic after another, each topic would take a second.
#[tokio::test(flavor = "multi_thread")]
async fn check_reads_many_topics_says_what_it_asks_and_leaves_no_warning() {
    let world = World::new(1).await;
    world.sql(RIDES).await;
    for n in 0..20 {
        let topic = format!("{}-{n}", world.topic);
        world.kafka.create_topic(&topic, 1, &[]).expect("the topic is made");
        world.kafka.produce(&topic, [good(0).to(0)]).expect("Kafka takes it");
    }
    let config = world.checked();
    let pattern = format!("topic_pattern = \"^{}-.+\"", world.topic);
    let config = config.replacen(&format!("topics = [\"{}\"]", world.topic), &pattern, 1);
    let ran = tidegate(&config, &["check"]).ok().says(&["20 newest records → 20 rows", "ready"]);
    assert!(ran.err.contains("asking Kafka for topics and group") && !ran.err.contains("WARN"), "{ran}");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_shows_how_many_records_have_each_field() {
    let world = World::new(1).await;
    world.sql(RIDES).await;
    let tenth = |n| if n % 20 == 0 { good(n).to(0) } else { Record::new(format!(r#"{{"id":{n},"lat":1}}"#)).to(0) };
    world.produce((0..40).map(tenth));
    let ran = tidegate(&world.checked(), &["check"]).ok();
    let ran = ran.says(&["column id: 40 of 40 records have id", "column lat: 2 of 40 records have pos.lat"]);
    ran.says(&["only 2 of the 40 newest records have field `pos.lat`"]);
    let wrong = world.checked().replace("pos.lat", "position.lat");
    tidegate(&wrong, &["check"]).fails(64, &["none of the 40 newest records has field `position.lat`; did you mean"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_counts_fields_in_every_format() {
    // Each case has the lines of `decode`, the values of the records, the paths of both columns, and the number of rows with the
    // second column's field.
    let debezium =
        |op: &str, before: &str, after: &str| format!(r#"{{"before":{before},"after":{after},"op":"{op}"}}"#);
    let cases = [
        ("format = \"csv\"", vec!["id,v\n1,2\n3,4".to_owned(), "id\n5".to_owned()], ["id", "v"], "2 of 3 rows"),
        ("format = \"ndjson\"", vec!["{\"id\":1}\n{\"id\":2,\"v\":3}".to_owned()], ["id", "v"], "1 of 2 rows"),
        (
            "format = \"json\", rows = \"l\"",
            vec![r#"{"id":1,"l":[{"v":1},{},{"v":null}]}"#.to_owned()],
            ["id", "l.v"],
            "2 of 3 rows",
        ),
        (
            "format = \"json\", envelope = \"debezium\"",
            vec![
                debezium("c", "null", r#"{"id":1,"v":1}"#),
                debezium("u", "null", r#"{"id":1}"#),
                debezium("d", r#"{"id":1}"#, "null"),
            ],
            ["id", "v"],
            "1 of 2 records",
        ),
        (
            "format = \"json\", envelope = \"connect\"",
            vec![
                r#"{"schema":null,"payload":{"id":1}}"#.to_owned(),
                r#"{"schema":null,"payload":{"id":1,"v":2}}"#.to_owned(),
            ],
            ["id", "v"],
            "1 of 2 records",
        ),
    ];
    for (decode, values, [id, v], expected) in cases {
        let world = World::new(1).await;
        world.sql("CREATE TABLE t (id int, v int)").await;
        world.produce(values.into_iter().map(Record::new));
        let config = |v: &str| {
            world.config(&format!(
                "table.name = \"t\"\ndecode = {{ {decode} }}\ncolumns.id = \"{id}\"\ncolumns.v = \"{v}\""
            ))
        };
        tidegate(&config(v), &["check"]).ok().says(&[&format!("column v: {expected} have {v}")]);
        // No row has a field of this name.
        let wrong = tidegate(&config(&format!("{v}v")), &["check"]);
        let rows = if expected.ends_with("rows") { "rows" } else { "records" };
        wrong.fails(64, &["none of the", &format!("newest {rows} has field `{v}v`")]);
    }
}

/// The records, the configuration, the number of rows, and for each column, the number of rows without its field.
type MissingCase = (&'static [&'static str], &'static str, u64, &'static [(&'static str, u64)]);

/// `check` and the daemon's metric agree on how many rows lack a field.
#[tokio::test(flavor = "multi_thread")]
async fn check_counts_missing_fields_as_the_metric_of_the_daemon_does() {
    const PLAIN: [&str; 4] =
        [r#"{"id":1,"v":1,"w":"a"}"#, r#"{"id":2,"w":null}"#, r#"{"id":3,"v":3}"#, r#"{"id":4,"v":null}"#];
    const SEVERAL: [&str; 2] = [r#"{"id":1,"l":[{"v":1},{},{"v":null}]}"#, r#"{"id":2,"l":[{"w":"a"}]}"#];
    const CHANGES: [&str; 4] = [
        r#"{"op":"c","after":{"id":1,"v":1}}"#,
        r#"{"op":"u","after":{"id":1,"w":"a"}}"#,
        r#"{"op":"d","before":{"id":1}}"#,
        r#"{"op":"m"}"#,
    ];
    let cases: [MissingCase; 8] = [
        (&PLAIN, "columns = { id = \"id\", v = \"v\", w = \"w\" }", 4, &[("id", 0), ("v", 1), ("w", 2)]),
        // If two columns take the same field, a row without the field counts once for each column.
        (&PLAIN, "columns = { id = \"v\", v = \"v\", w = \"w\" }", 4, &[("id", 1), ("v", 1), ("w", 2)]),
        // Rows that the filter leaves out aren't counted at all.
        (
            &PLAIN,
            "columns = { id = \"id\", v = \"v\" }\nwhere = { field = \"v\", exists = true }",
            2,
            &[("id", 0), ("v", 0)],
        ),
        // A rejected row counts for each column whose field it lacks. The columns after the one that rejects the row count too.
        (
            &[r#"{"id":"x","v":1}"#, r#"{"id":"y"}"#, r#"{"v":2}"#],
            "columns = { id = { field = \"id\", missing = \"dead_letter\" }, v = \"v\", w = \"w\" }",
            3,
            &[("id", 1), ("v", 1), ("w", 3)],
        ),
        // A placeholder for an unchanged value counts as a field that the record has.
        (
            &[r#"{"id":1,"w":"__same"}"#, r#"{"id":2}"#],
            "table.mode = \"upsert\"\ntable.key = [\"id\"]\ncolumns = { id = \"id\", w = { field = \"w\", keep = \"__same\" } }",
            2,
            &[("id", 0), ("w", 1)],
        ),
        (
            &SEVERAL,
            "decode.rows = \"l\"\ncolumns = { id = \"id\", v = \"l.v\", w = \"l.w\" }",
            4,
            &[("id", 0), ("v", 2), ("w", 3)],
        ),
        // With Debezium's envelope and mode append, a delete becomes a row only if a column takes the operation (`op`).
        (
            &CHANGES,
            "decode.envelope = \"debezium\"\ncolumns = { id = \"id\", v = \"v\", w = \"w\" }",
            2,
            &[("id", 0), ("v", 1), ("w", 1)],
        ),
        (
            &CHANGES,
            "decode.envelope = \"debezium\"\ncolumns = { id = \"id\", v = \"v\", w = { meta = \"op\" } }",
            3,
            &[("id", 0), ("v", 2), ("w", 0)],
        ),
    ];
    for (n, (values, lines, rows, expected)) in cases.into_iter().enumerate() {
        let world = World::new(1).await;
        world.sql("CREATE TABLE t (id int UNIQUE, v int, w text)").await;
        world.produce(values.iter().map(|value| Record::new(*value)));
        let config = world.config(&format!("table.name = \"t\"\ndead_letters.max_share = 1\n{lines}"));
        let ran = tidegate(&config, &["check", "--json"]);
        let report = ran.json();
        let fields = report["pipelines"][0]["sample"]["fields"].as_array().cloned().unwrap_or_default();
        let shares: Vec<_> = fields
            .iter()
            .map(|field| {
                assert_eq!(field["records"], rows, "case {n}: {ran}");
                (field["column"].as_str().expect("a column"), rows - field["present"].as_u64().expect("a count"))
            })
            .collect();
        assert_eq!(shares, expected, "case {n}: {ran}");
        let daemon = world.daemon(&config);
        world.await_written(&daemon).await;
        for (column, missing) in expected {
            #[expect(clippy::cast_precision_loss, reason = "a handful of rows")]
            let counted =
                || daemon.metric("tidegate_fields_missing_total", &[("column", column)]) == Some(*missing as f64);
            eventually("the metric counts the same", PATIENCE, counted).unwrap_or_else(|error| {
                panic!(
                    "case {n}: {column}: {error:#}: {:?}",
                    daemon.metric("tidegate_fields_missing_total", &[("column", column)])
                )
            });
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_offline_asks_no_server() {
    let world = World::new(1).await;
    let (kafka, postgres) = (free_port().expect("a port"), free_port().expect("a port"));
    let url = world.database.url_at(format!("127.0.0.1:{postgres}"));
    let config = world.config_at(&url, "table.name = \"rides\"");
    let config = config.replace(world.kafka.bootstrap_servers(), &format!("127.0.0.1:{kafka}"));
    tidegate(&config, &["check", "--offline"]).ok().says(&["no server was asked"]);
    let typo = config.replace("table.name", "table.nam");
    tidegate(&typo, &["check", "--offline"]).fails(64, &["unknown key, did you mean name?"]);
}
