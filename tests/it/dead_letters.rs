//! One bad record costs only that record: it is dead-lettered byte for byte, and the records around it are written. A
//! fault that isn't caused by the records makes no dead letters.

use sqlx::Row;
use tidegate_harness::Record;

use crate::accounting::{SHORT_DEADLINES, await_metric, with_limits, with_postgres};
use crate::support::{PATIENCE, World};

#[derive(Debug, PartialEq, Eq)]
struct Letter {
    place: (String, i32, i64),
    timestamp_ms: Option<i64>,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    reason: String,
    column: Option<String>,
    detail: String,
}

async fn letters(world: &World) -> Vec<Letter> {
    let sql = "SELECT topic, partition, record_offset, timestamp_ms, key, value, header_names, header_values, reason,
        column_name, detail FROM tidegate.dead_letter ORDER BY partition, record_offset";
    let rows = sqlx::query(sql).fetch_all(&mut world.connect().await).await.expect("the query runs");
    let letter = |row: &sqlx::postgres::PgRow| {
        let names: Vec<Vec<u8>> = row.get(6);
        let values: Vec<Option<Vec<u8>>> = row.get(7);
        assert_eq!(names.len(), values.len(), "a value a header");
        Letter {
            place: (row.get(0), row.get(1), row.get(2)),
            timestamp_ms: row.get(3),
            key: row.get(4),
            value: row.get(5),
            headers: names.into_iter().zip(values).collect(),
            reason: row.get(8),
            column: row.get(9),
            detail: row.get(10),
        }
    };
    rows.iter().map(letter).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_bad_records_among_100_000_are_three_dead_letters_byte_for_byte() {
    let world = World::new(2).await;
    world.sql("CREATE TABLE rides (seq bigint, name text)").await;
    let bad = [
        (12_344, r#"{"seq":12344,"name":"#.to_owned(), "invalid_json", None),
        (50_001, r#"{"seq":"n/a","name":"vehicle"}"#.to_owned(), "type_mismatch", Some("seq")),
        (99_998, r#"{"seq":99998,"name":"a\u0000b"}"#.to_owned(), "nul_in_text", Some("name")),
    ];
    let record = |n: i32| match bad.iter().find(|(at, ..)| *at == n) {
        None => Record::new(format!(r#"{{"seq":{n},"name":"vehicle {n}"}}"#)).to(n % 2),
        Some((_, value, ..)) => {
            let mut record =
                Record::new(value.as_str()).to(n % 2).key([0, 255, b'k', 128]).at_ms(1_700_000_000_000 + i64::from(n));
            record = record.header("trace", [0xde, 0, 0xad]).header("trace", "again").header("empty", "");
            record.headers.push(("null".to_owned(), None));
            record
        }
    };
    world.produce((0..100_000).map(record));
    let (code, log) = world.drain(&world.config("table.name = \"rides\""));
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 99_997);
    assert_eq!(world.number("SELECT count(DISTINCT seq) FROM rides").await, 99_997);
    assert_eq!(world.ledger().await, 100_000, "the position moved past them");
    let mut found = letters(&world).await;
    found.sort_by_key(|letter| letter.timestamp_ms);
    for (letter, (n, value, reason, column)) in found.iter().zip(&bad) {
        let text = |text: &str| text.as_bytes().to_vec();
        let headers = vec![
            (text("trace"), Some(vec![0xde, 0, 0xad])),
            (text("trace"), Some(text("again"))),
            (text("empty"), Some(Vec::new())),
            (text("null"), None),
        ];
        assert_eq!(letter.place, (world.topic.clone(), n % 2, i64::from(n / 2)));
        assert_eq!(letter.timestamp_ms, Some(1_700_000_000_000 + i64::from(*n)));
        assert_eq!(letter.key.as_deref(), Some(&[0, 255, b'k', 128][..]));
        assert_eq!(letter.value.as_deref(), Some(value.as_bytes()));
        assert_eq!(letter.headers, headers);
        assert_eq!((letter.reason.as_str(), letter.column.as_deref()), (*reason, *column));
        assert!(!letter.detail.is_empty(), "it says why");
    }
    assert_eq!(found.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_a_record_has_its_reason_and_leaves_its_neighbours() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (seq int NOT NULL, name varchar(10), at timestamptz, code uuid, mark text)").await;
    let mapping = "table.name = \"rides\"\nunknown_fields = \"dead_letter\"\ndead_letters.max_share = 1.0\n\
        [pipelines.NAME.columns]\nseq = \"seq\"\nname = \"name\"\nat = \"at\"\ncode = \"code\"\nmark = { header = \"mark\" }";
    let bad: Vec<(Record, &str)> = vec![
        (Record::tombstone().key("gone"), "tombstone"),
        (Record::new(""), "invalid_json"),
        (Record::new("[1]"), "not_an_object"),
        (Record::new(r#"{"seq":1} x"#), "invalid_json"),
        (Record::new(b"{\"seq\":1,\"name\":\"\xff\xfe\"}".to_vec()), "invalid_utf8"),
        (Record::new(r#"{"name":"a"}"#), "missing_field"),
        (Record::new(r#"{"seq":null}"#), "null_in_not_null"),
        (Record::new(r#"{"seq":2147483648}"#), "out_of_range"),
        (Record::new(r#"{"seq":1,"name":"12345678901"}"#), "too_long"),
        (Record::new(r#"{"seq":1,"at":"2026-02-30T00:00:00Z"}"#), "out_of_range"),
        (Record::new(r#"{"seq":1,"at":"noonish"}"#), "invalid_timestamp"),
        (Record::new(r#"{"seq":1,"code":"not-a-uuid"}"#), "invalid_uuid"),
        (Record::new(r#"{"seq":1,"colour":"red"}"#), "unknown_field"),
        (Record::new(r#"{"seq":1}"#).header("mark", [0xff]), "invalid_utf8"),
        (Record::new(r#"{"seq":1}"#).header("mark", [b'a', 0]), "nul_in_text"),
    ];
    let good = |n: i32| Record::new(format!(r#"{{"seq":{n},"name":"a\\u0000"}}"#));
    let mut records = vec![good(-1)];
    for (n, (record, _)) in (0..).zip(&bad) {
        records.extend([record.clone(), good(n)]);
    }
    world.produce(records.into_iter().map(|record| record.to(0)));
    let (code, log) = world.drain(&world.config(&mapping.replace("NAME", &world.name)));
    assert_eq!(code, Some(0), "{log}");
    let found: Vec<_> = letters(&world).await.into_iter().map(|l| (l.place.2, l.value, l.reason)).collect();
    let expected: Vec<_> = (0..)
        .zip(&bad)
        .map(|(n, (record, reason))| (1 + 2 * n, record.payload.clone(), (*reason).to_owned()))
        .collect();
    assert_eq!(found, expected);
    assert_eq!(world.number("SELECT count(*) FROM rides").await, i64::try_from(bad.len() + 1).expect("few"));
    // In this JSON, the backslash of `\u0000` is escaped itself. So the text contains a backslash and no NUL, and is kept.
    assert_eq!(world.number("SELECT count(*) FROM rides WHERE name <> 'a\\u0000'").await, 0);
}

/// One way in which a table refuses record 7777 of 10 000. The search for the record may take `copies` COPYs.
struct Refusal {
    table: &'static str,
    create: &'static str,
    /// Further settings of the pipeline, after `table.name`.
    mode: &'static str,
    sqlstate: &'static str,
    copies: i64,
}

/// The largest number of COPYs if the error names the line. They are the first COPY, the part before the line, the record and the
/// rest. Four more are allowed in case the line is wrong.
const NAMED: i64 = 8;
/// The largest number of COPYs if the error names no line. From 10 000 records to 1 there are 14 steps with two halves each.
/// Three more are allowed, such as the first COPY.
const UNNAMED: i64 = 2 * 14 + 3;

const REFUSALS: &[Refusal] = &[
    Refusal {
        table: "by_unique",
        create: "uniq bigint UNIQUE, seq bigint",
        mode: "",
        sqlstate: "23505",
        copies: NAMED,
    },
    Refusal { table: "by_check", create: "seq bigint CHECK (seq <> 7777)", mode: "", sqlstate: "23514", copies: NAMED },
    Refusal {
        table: "by_partition",
        create: "seq bigint) PARTITION BY RANGE (seq",
        mode: "",
        sqlstate: "23514",
        copies: NAMED,
    },
    Refusal { table: "by_domain", create: "name short, seq bigint", mode: "", sqlstate: "23514", copies: NAMED },
    Refusal { table: "by_22001", create: "seq bigint", mode: "", sqlstate: "22001", copies: NAMED },
    Refusal { table: "by_22003", create: "seq bigint", mode: "", sqlstate: "22003", copies: NAMED },
    Refusal { table: "by_p0001", create: "seq bigint", mode: "", sqlstate: "P0001", copies: NAMED },
    Refusal { table: "by_index_row", create: "pad text, seq bigint", mode: "", sqlstate: "54000", copies: NAMED },
    Refusal {
        table: "by_reference",
        create: "seq bigint REFERENCES known",
        mode: "",
        sqlstate: "23503",
        copies: UNNAMED,
    },
    Refusal {
        table: "by_deferred_unique",
        create: "uniq bigint UNIQUE DEFERRABLE INITIALLY DEFERRED, seq bigint",
        mode: "",
        sqlstate: "23505",
        copies: UNNAMED,
    },
    Refusal {
        table: "by_deferred_reference",
        create: "seq bigint REFERENCES known DEFERRABLE INITIALLY DEFERRED",
        mode: "",
        sqlstate: "23503",
        copies: UNNAMED,
    },
    Refusal {
        table: "by_merge",
        create: "seq bigint PRIMARY KEY CHECK (seq <> 7777)",
        mode: "\ntable.mode = \"insert_new\"\ntable.key = [\"seq\"]",
        sqlstate: "23514",
        copies: UNNAMED,
    },
];

/// Counts the COPYs by a sequence, because a rollback doesn't reset a sequence.
const COUNT_COPIES: &str = "
    CREATE FUNCTION count_copy() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN PERFORM nextval('copies_' || TG_ARGV[0]); RETURN NULL; END $$";

async fn count_copies(world: &World, table: &str) {
    world
        .sql(&format!(
            "CREATE SEQUENCE copies_{table} MINVALUE 0 START 0;
             CREATE TRIGGER count_copy BEFORE INSERT ON {table} FOR EACH STATEMENT EXECUTE FUNCTION count_copy('{table}')"
        ))
        .await;
}

async fn copies_of(world: &World, table: &str) -> i64 {
    world.number(&format!("SELECT last_value + 1 FROM copies_{table}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_postgres_refuses_is_dead_lettered_alone_and_few_copies_find_it() {
    let world = World::new(1).await;
    world
        .sql(&format!(
            "CREATE TABLE known (seq bigint PRIMARY KEY);
             INSERT INTO known SELECT n FROM generate_series(0, 9999) n WHERE n <> 7777;
             CREATE DOMAIN short AS text CHECK (length(value) < 20);
             CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.seq = 7777 THEN RAISE 'not this one' USING ERRCODE = TG_ARGV[0]; END IF; RETURN NEW; END $$;
             {COUNT_COPIES}"
        ))
        .await;
    let mut pipelines = String::new();
    for refusal in REFUSALS {
        let Refusal { table, create, mode, .. } = refusal;
        world.sql(&format!("CREATE TABLE {table} ({create})")).await;
        count_copies(&world, table).await;
        let name = format!("{}_{}", world.name, table);
        let head = if pipelines.is_empty() {
            String::new()
        } else {
            format!("[pipelines.{name}]\ntopics = [\"{}\"]\n", world.topic)
        };
        pipelines += &format!(
            "{head}table.name = \"{table}\"{mode}\nbatch = {{ max_rows = 10_000, max_bytes = \"4MiB\", max_age = \"5s\" }}\n"
        );
    }
    world
        .sql(
            "CREATE TABLE low PARTITION OF by_partition FOR VALUES FROM (0) TO (7777);
             CREATE TABLE high PARTITION OF by_partition FOR VALUES FROM (7778) TO (10000);
             CREATE INDEX ON by_index_row (pad);
             CREATE TRIGGER refuse BEFORE INSERT ON by_22001 FOR EACH ROW EXECUTE FUNCTION refuse('22001');
             CREATE TRIGGER refuse BEFORE INSERT ON by_22003 FOR EACH ROW EXECUTE FUNCTION refuse('22003');
             CREATE TRIGGER refuse BEFORE INSERT ON by_p0001 FOR EACH ROW EXECUTE FUNCTION refuse('P0001')",
        )
        .await;
    // The text is random, so that compression can't make it small enough for an index entry.
    let pad: String = std::iter::repeat_with(fastrand::alphanumeric).take(9_000).collect();
    world.produce((0..10_000).map(|seq| {
        let is_bad = seq == 7777;
        let (uniq, pad) = if is_bad { (100, pad.as_str()) } else { (seq, "") };
        let name = if is_bad { "a name of more than 20 letters" } else { "short" };
        Record::new(format!(r#"{{"seq":{seq},"uniq":{uniq},"name":"{name}","pad":"{pad}"}}"#)).to(0)
    }));
    let (code, log) = world.drain(&with_limits(&world.config(&pipelines), "memory = \"1GiB\""));
    assert_eq!(code, Some(0), "{log}");
    for (n, refusal) in REFUSALS.iter().enumerate() {
        let Refusal { table, sqlstate, copies, .. } = refusal;
        let name = if n == 0 { world.name.clone() } else { format!("{}_{}", world.name, table) };
        assert_eq!(world.number(&format!("SELECT count(*) FROM {table}")).await, 9_999, "{table}");
        let letters =
            "SELECT count(*) FROM tidegate.dead_letter WHERE reason = 'refused_by_postgres' AND detail <> '' AND";
        let ours = format!("{letters} pipeline = '{name}'");
        assert_eq!(world.number(&ours).await, 1, "{table}");
        let right = format!("{ours} AND sqlstate = '{sqlstate}' AND record_offset = 7777");
        assert_eq!(world.number(&right).await, 1, "{table}: {log}");
        let used = copies_of(&world, table).await;
        println!("{table}: {used} copies");
        assert!(used <= *copies, "{table} took {used} copies, at most {copies} were thought of");
    }
    assert_eq!(world.number("SELECT count(*) FROM tidegate.ledger WHERE next_offset <> 10000").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn five_bad_rows_of_a_batch_cost_three_copies_each() {
    let world = World::new(1).await;
    world.sql(&format!("CREATE TABLE rides (seq bigint CHECK (seq % 2000 <> 777)); {COUNT_COPIES}")).await;
    count_copies(&world, "rides").await;
    world.produce((0..10_000).map(|seq| Record::new(format!(r#"{{"seq":{seq}}}"#)).to(0)));
    let pipeline = "table.name = \"rides\"\nbatch = { max_rows = 10_000, max_age = \"5s\" }";
    let (code, log) = world.drain(&world.config(pipeline));
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 9_995);
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter WHERE record_offset % 2000 = 777").await, 5);
    let copies = copies_of(&world, "rides").await;
    // 17 is the first COPY, three per bad record (before it, the record alone, after it), and one COPY without rows. This last
    // COPY checks whether the table accepts rows at all.
    assert!(copies <= 17, "{copies} copies");
}

/// A deferred trigger raises its error at COMMIT, with any SQLSTATE. So the error doesn't prove that nothing was committed, and
/// the daemon reads the ledger.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_a_deferred_trigger_refuses_is_a_dead_letter_whatever_the_sqlstate() {
    for sqlstate in ["P0001", "TG001", "42P01"] {
        let world = World::new(1).await;
        world
            .sql(&format!(
                "CREATE TABLE rides (seq bigint);
                 CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
                 BEGIN IF NEW.seq = 7 THEN RAISE 'not this one' USING ERRCODE = '{sqlstate}'; END IF; RETURN NULL; END $$;
                 CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON rides DEFERRABLE INITIALLY DEFERRED
                     FOR EACH ROW EXECUTE FUNCTION refuse()"
            ))
            .await;
        world.produce((0..100).map(|seq| Record::new(format!(r#"{{"seq":{seq}}}"#)).to(0)));
        let (code, log) = world.drain(&world.config("table.name = \"rides\""));
        assert_eq!(code, Some(0), "{sqlstate}: {log}");
        assert_eq!(world.number("SELECT count(*) FROM rides").await, 99, "{sqlstate}: {log}");
        let letters = "SELECT string_agg(record_offset || ' ' || sqlstate, ',') FROM tidegate.dead_letter";
        assert_eq!(world.text(letters).await, format!("7 {sqlstate}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_row_is_refused_the_dead_letter_budget_stops_the_pipeline_before_the_ledger_advances() {
    let world = World::new(1).await;
    world.sql(&format!("CREATE TABLE rides (seq bigint CHECK (seq < 0)); {COUNT_COPIES}")).await;
    count_copies(&world, "rides").await;
    world.produce((0..10_000).map(|seq| Record::new(format!(r#"{{"seq":{seq}}}"#)).to(0)));
    let pipeline = "table.name = \"rides\"\nbatch = { max_rows = 10_000, max_age = \"5s\" }";
    let (code, log) = world.drain(&world.config(pipeline));
    assert_eq!(code, Some(70), "{log}");
    assert!(log.contains("dead-letter budget spent"), "{log}");
    assert_eq!(world.ledger().await, 0, "nothing was moved past");
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 0);
    let copies = copies_of(&world, "rides").await;
    assert!(copies <= 1_002, "{copies} copies: {log}");
    // When the table accepts the records again, the next start writes them all.
    world.sql("ALTER TABLE rides DROP CONSTRAINT rides_seq_check").await;
    let (code, log) = world.drain(&world.config(pipeline));
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.number("SELECT count(DISTINCT seq) FROM rides").await, 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_dead_letters_cannot_be_written_the_ledger_does_not_advance() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (seq bigint)").await;
    let config = with_postgres(&world.config("table.name = \"rides\""), SHORT_DEADLINES);
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    // A fault that needs manual action stops the pipeline; a temporary one makes it wait.
    world
        .sql(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             RAISE 'no letters today' USING ERRCODE = TG_ARGV[0]; END $$;
             CREATE TRIGGER refuse BEFORE INSERT ON tidegate.dead_letter FOR EACH ROW EXECUTE FUNCTION refuse('P0001')",
        )
        .await;
    let bad = |seq: i32| if seq == 500 { "no json".to_owned() } else { format!(r#"{{"seq":{seq}}}"#) };
    world.produce((0..1_000).map(|seq| Record::new(bad(seq)).to(0)));
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(70), "{log}");
    assert!(log.contains("no letters today"), "{log}");
    assert_eq!((world.ledger().await, world.number("SELECT count(*) FROM rides").await), (0, 0));

    world
        .sql(
            "DROP TRIGGER refuse ON tidegate.dead_letter;
             CREATE TRIGGER refuse BEFORE INSERT ON tidegate.dead_letter FOR EACH ROW EXECUTE FUNCTION refuse('53100')",
        )
        .await;
    let daemon = world.daemon(&config);
    await_metric(&daemon, "tidegate_retries_total", 3.0);
    assert_eq!((world.ledger().await, world.number("SELECT count(*) FROM rides").await), (0, 0));
    world.sql("DROP TRIGGER refuse ON tidegate.dead_letter").await;
    world.await_written(&daemon).await;
    assert_eq!(world.number("SELECT count(DISTINCT seq) FROM rides").await, 999);
    assert_eq!(letters(&world).await.len(), 1);
    daemon.terminate().expect("the signal is sent");
    assert_eq!(daemon.wait_exit(PATIENCE).expect("it ends").code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn old_dead_letters_are_removed_and_the_oldest_past_the_cap_and_counted() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (seq bigint)").await;
    let bad = |n: usize| Record::new(format!("{n} is no object {}", "x".repeat(1000))).to(0);
    world.produce((0..3000).map(bad));
    let budget = "table.name = \"rides\"\ndead_letters = { max_share = 1";
    let (code, log) = world.drain(&world.config(&format!("{budget} }}")));
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 3000, "none is removed untold");
    world
        .sql("UPDATE tidegate.dead_letter SET created_at = now() - interval '31 days' WHERE record_offset < 1200")
        .await;
    world
        .sql(
            "INSERT INTO tidegate.dead_letter (pipeline, topic, partition, record_offset, reason, detail, created_at)
               VALUES ('another', 't', 0, 0, 'invalid_json', '', now() - interval '1 year')",
        )
        .await;
    world
        .sql(&format!(
            "INSERT INTO tidegate.dead_letter (pipeline, topic, partition, record_offset, reason, detail, created_at)
               VALUES ('{} replay all', 't', 0, 0, 'invalid_json', '', now() - interval '1 year')",
            world.name
        ))
        .await;
    let daemon = world.daemon(&world.config(&format!("{budget}, retention = \"30d\", max_size = \"1MiB\" }}")));
    let purged = |cause: &'static str| {
        move |daemon: &tidegate_harness::Daemon| {
            daemon.metric("tidegate_dead_letters_purged_total", &[("cause", cause)])
        }
    };
    daemon.await_until("the old ones are removed", PATIENCE, |d| purged("age")(d) == Some(1201.0)).expect("by age");
    daemon
        .await_until("and the oldest others", PATIENCE, |d| purged("size")(d).unwrap_or(0.0) > 700.0)
        .expect("by size");
    let left = world.number("SELECT count(*) FROM tidegate.dead_letter WHERE pipeline <> 'another'").await;
    assert!((900..1048).contains(&left), "{left} letters of a kilobyte and more in a MiB");
    assert_eq!(purged("size")(&daemon), Some((1800 - left) as f64), "each is counted");
    let newest = "SELECT count(*) FROM tidegate.dead_letter WHERE pipeline <> 'another' AND record_offset >= 3000 -";
    assert_eq!(world.number(&format!("{newest} {left}")).await, left, "the newest stay");
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter WHERE pipeline = 'another'").await, 1);
}

/// A dead letter and the reason of a stop name the trigger's function. They contain no value from the context of Postgres's
/// error.
#[tokio::test(flavor = "multi_thread")]
async fn the_function_that_raised_an_error_is_named_and_no_value_is_logged() {
    let world = World::new(1).await;
    world
        .sql(
            "CREATE TABLE rides (id int8, name text);
             CREATE FUNCTION rides_guard() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 IF NEW.id = 3 THEN RAISE 'not today'; END IF;
                 RETURN NEW;
             END $$;
             CREATE TRIGGER guard BEFORE INSERT ON rides FOR EACH ROW EXECUTE FUNCTION rides_guard()",
        )
        .await;
    // The value looks like a line of the error's context.
    let record = |id: i32| {
        Record::new(format!(r#"{{"id":{id},"name":"hidden {id}\nPL/pgSQL function hidden_{id}() line 1 at RAISE"}}"#))
    };
    world.produce((0..20).map(record));
    let config = world.config("table.name = \"rides\"\ndead_letters.max_share = 0.5");
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    let raised = "not today; raised in PL/pgSQL function rides_guard() line 3 at RAISE";
    let details: Vec<_> = letters(&world).await.into_iter().map(|letter| letter.detail).collect();
    assert_eq!(details, [raised]);
    assert!(!log.contains("hidden"), "{log}");
    world.refuse_writes().await;
    world.produce((20..22).map(record));
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(70), "{log}");
    assert!(log.contains("closed for today; raised in PL/pgSQL function refuse() line 2 at RAISE"), "{log}");
    assert!(!log.contains("hidden"), "{log}");
}
