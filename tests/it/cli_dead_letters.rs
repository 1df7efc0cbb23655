//! `tidegate dead-letters`: a dead letter keeps its whole record, and a replay turns it into a row once.

use tidegate_harness::Record;

use crate::cli::tidegate;
use crate::support::World;

const RIDES: &str = "CREATE TABLE rides (id int NOT NULL, lat float8 CHECK (lat < 90), at bigint)";

impl World {
    fn letters_config(&self, table: &str) -> String {
        self.config(&format!(
            "table = {table}\ndead_letters.max_share = 1.0\n[pipelines.{}.columns]\nid = \"id\"\nlat = \"lat\"\nat = {{ meta = \"offset\" }}",
            self.name
        ))
    }

    fn append(&self) -> String {
        self.letters_config("{ name = \"rides\" }")
    }
}

fn ride(id: impl std::fmt::Display, lat: impl std::fmt::Display) -> Record {
    Record::new(format!(r#"{{"id":{id},"lat":{lat}}}"#))
}

#[tokio::test(flavor = "multi_thread")]
async fn list_counts_by_reason_and_show_gives_the_record_byte_for_byte() {
    let world = World::new(1).await;
    world.sql(RIDES).await;
    let config = world.append();
    tidegate(&config, &["dead-letters", "list"]).fails(64, &["no schema `tidegate`"]);
    let binary = Record::new(&b"\xff\x00{"[..]).key("k\u{1b}[2J").header("trace", "abc");
    world.produce([ride(1, 1.5), binary, ride("\"x\"", 1), ride(2, 91), ride(3, 92)]);
    world.drained(&config);
    let list = tidegate(&config, &["dead-letters", "list", "--json"]).ok().json();
    assert_eq!(list["total"], 4, "{list}");
    assert_eq!(
        (&list["counts"][0]["reason"], &list["counts"][0]["letters"]),
        (&"refused_by_postgres".into(), &2.into())
    );
    let some = ["dead-letters", "list", "--reason", "type_mismatch", "--topic", &world.topic];
    tidegate(&config, &some).ok().says(&["type_mismatch", "id \"x\" is not", &format!("{}/0@2", world.topic)]);
    tidegate(&config, &["dead-letters", "list", "--older-than", "1d"]).ok().says(&["no dead letters"]);
    tidegate(&config, &["dead-letters", "list", "--limit", "1"]).ok().says(&["… and 3 older"]);
    let letters = list["letters"].as_array().expect("letters");
    let id = letters.iter().find(|letter| letter["offset"] == 1).expect("a letter")["id"].to_string();
    let letter = tidegate(&config, &["dead-letters", "show", &id, "--json"]).ok().json();
    assert_eq!((&letter["value"]["hex"], &letter["key"]["hex"]), (&"ff007b".into(), &"6b1b5b324a".into()), "{letter}");
    assert_eq!(
        (&letter["headers"][0]["name"]["text"], &letter["headers"][0]["value"]["text"]),
        (&"trace".into(), &"abc".into())
    );
    let shown = tidegate(&config, &["dead-letters", "show", &id]).ok().says(&["trace = abc", "\\xff007b"]);
    assert!(!shown.out.contains('\u{1b}'), "nothing of a record steers the terminal");
    tidegate(&config, &["dead-letters", "show", "999999"]).fails(64, &["no dead letter 999999"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_letter_is_a_row_once_and_one_that_fails_again_stays_with_its_new_reason() {
    let world = World::new(1).await;
    world.sql(RIDES).await;
    let config = world.append();
    // One record is a good row. The mapping or Postgres rejects the others. One of these isn't JSON, so it can never be written.
    world.produce([ride(1, 1), ride(3_000_000_000_u64, 2), ride(2, 95), ride(4, 185), Record::new("{")]);
    world.drained(&config);
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 4);
    world.sql("ALTER TABLE rides ALTER id TYPE bigint, DROP CONSTRAINT rides_lat_check, ADD CONSTRAINT lower CHECK (lat < 180)").await;
    tidegate(&config, &["dead-letters", "replay"]).fails(64, &["select the dead letters", "--all"]);
    let misspelled = ["dead-letters", "replay", "--reason", "type_mismatched"];
    tidegate(&config, &misspelled)
        .fails(64, &["invalid value 'type_mismatched'", "type_mismatch", "refused_by_postgres"]);
    let ran = tidegate(&config, &["dead-letters", "replay", "--all", "--json"]);
    let report = ran.fails(70, &["2 dead letters failed again"]).json();
    let report = &report["pipelines"][0];
    assert_eq!(
        (&report["replayed"], &report["rows"], &report["failed_again"]),
        (&2.into(), &2.into(), &2.into()),
        "{report}"
    );
    // The row has the offset that its record had in Kafka.
    assert_eq!(
        world.text("SELECT string_agg(id || '@' || at, ' ' ORDER BY at) FROM rides").await,
        "1@0 3000000000@1 2@2"
    );
    let left = "SELECT string_agg(record_offset || ' ' || reason || ' ' || replays, ', ' ORDER BY id) FROM tidegate.dead_letter";
    assert_eq!(world.text(left).await, "3 refused_by_postgres 1, 4 invalid_json 1");
    assert!(world.text("SELECT detail FROM tidegate.dead_letter WHERE record_offset = 3").await.contains("lower"));
    // A second replay doesn't change the table.
    tidegate(&config, &["dead-letters", "replay", "--all"])
        .fails(70, &["0 dead letters replayed (0 rows), 2 failed again", "2 dead letters failed again"]);
    world.sql("ALTER TABLE rides DROP CONSTRAINT lower").await;
    let id = world.number("SELECT id FROM tidegate.dead_letter WHERE record_offset = 3").await.to_string();
    tidegate(&config, &["dead-letters", "replay", "--id", &id]).ok().says(&["1 dead letter replayed (1 row)"]);
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 4);
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 1);
    for command in [&["list"][..], &["replay"], &["purge", "--yes"]] {
        tidegate(&config, &[&["dead-letters"], command, &["--id", &id]].concat())
            .fails(64, &[&format!("there is no dead letter {id} of "), "`tidegate dead-letters list` shows those"]);
    }
    tidegate(&config, &["dead-letters", "purge", "--all", "--id", &id]).fails(64, &["or select all of them by --all"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_postgres_refuses_are_dead_lettered_and_replayed_under_insert_new_too() {
    let world = World::new(1).await;
    world.sql(&format!("{RIDES}; CREATE UNIQUE INDEX ON rides (id)")).await;
    let config = world.letters_config("{ name = \"rides\", mode = \"insert_new\", key = [\"id\"] }");
    world.produce([ride(1, 1), ride(2, 91), ride(3, 92), ride(1, 93), ride(4, 4)]);
    world.drained(&config);
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 2);
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 3);
    world.sql("ALTER TABLE rides DROP CONSTRAINT rides_lat_check").await;
    let report =
        tidegate(&config, &["dead-letters", "replay", "--reason", "refused_by_postgres", "--json"]).ok().json();
    let report = &report["pipelines"][0];
    // Ride 1 exists already: its dead letter is removed, without a new row.
    assert_eq!((&report["replayed"], &report["rows"]), (&3.into(), &2.into()), "{report}");
    assert_eq!(
        world.text("SELECT string_agg(id || ':' || lat, ' ' ORDER BY id) FROM rides").await,
        "1:1 2:91 3:92 4:4"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn replays_at_the_same_time_write_no_row_twice() {
    let world = World::new(1).await;
    world.sql(RIDES).await;
    let config = world.append();
    world.produce((0..3000).map(|n| ride(n, 91)));
    world.drained(&config);
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 3000);
    world.sql("ALTER TABLE rides DROP CONSTRAINT rides_lat_check").await;
    let both = [0, 1].map(|_| {
        let config = config.clone();
        std::thread::spawn(move || tidegate(&config, &["dead-letters", "replay", "--all"]))
    });
    for ran in both.map(|thread| thread.join().expect("it runs")) {
        assert!(ran.code == 0 || ran.err.contains("by another command"), "{ran}");
    }
    tidegate(&config, &["dead-letters", "replay", "--all"]).ok();
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 3000);
    assert_eq!(world.number("SELECT count(DISTINCT id) FROM rides").await, 3000);
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_counts_first_and_removes_only_what_was_named() {
    let world = World::new(1).await;
    world.sql(RIDES).await;
    let config = world.append();
    world.produce([Record::new("{"), Record::new("["), ride(1, 91), ride(2, 92)]);
    world.drained(&config);
    tidegate(&config, &["dead-letters", "purge", "--yes"]).fails(64, &["select the dead letters"]);
    tidegate(&config, &["dead-letters", "purge", "--all"]).fails(64, &["4 dead letters would be removed", "--yes"]);
    tidegate(&config, &["dead-letters", "purge", "--older-than", "1h", "--yes"]).ok().says(&["removed 0"]);
    tidegate(&config, &["dead-letters", "purge", "--reason", "refused_by_postgres", "--yes"]).ok().says(&["removed 2"]);
    assert_eq!(
        world.number("SELECT count(*) FROM tidegate.dead_letter WHERE reason <> 'refused_by_postgres'").await,
        2
    );
    tidegate(&config, &["dead-letters", "purge", "--all", "--yes", "--json"]).ok().says(&["\"removed\": 2"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_of_a_replay_can_be_replayed_into_their_own_table() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (id int, lat float8, at bigint)").await;
    world.sql("CREATE TABLE copies (id int, lat float8 CONSTRAINT low CHECK (lat < 90), at bigint)").await;
    let config = world.append();
    world.produce([ride(1, 1.5), ride(2, 95), ride(3, 96)]);
    world.drained(&config);
    let replay = ["replay", "--from", "earliest", "--into", "copies", "--name", "again"];
    tidegate(&config, &replay).ok().says(&["2 dead letters", "`tidegate dead-letters list"]);
    let key = format!("{} replay again", world.name);
    let list = tidegate(&config, &["dead-letters", "list", "--json"]).ok().json();
    assert_eq!((&list["total"], &list["counts"][0]["pipeline"]), (&2.into(), &key.as_str().into()), "{list}");
    let id = list["letters"][0]["id"].to_string();
    tidegate(&config, &["dead-letters", "show", &id]).ok().says(&[&key, "96"]);
    tidegate(&config, &["dead-letters", "purge", "--id", &id, "--yes"]).ok().says(&["removed 1 dead letter"]);
    world.sql("ALTER TABLE copies DROP CONSTRAINT low").await;
    let replayed = tidegate(&config, &["dead-letters", "replay", "--all"]).ok();
    assert_eq!(replayed.out.trim_end(), format!("{key}: 1 dead letter replayed (1 row)"), "and no other pipeline");
    let list = tidegate(&config, &["pipelines", "list"]).ok();
    let line = list.out.lines().find(|line| line.starts_with(&key)).expect("a replay is listed");
    assert!(line[key.len()..].trim_start().starts_with("replay "), "its state is replay: {line}");
    assert_eq!(world.number("SELECT count(*) FROM copies WHERE id = 2").await, 1);
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 3, "the pipeline's own table is left alone");
    tidegate(&config, &["dead-letters", "list"]).ok().says(&["no dead letters"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_may_overwrite_a_newer_row_must_be_confirmed() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (id int PRIMARY KEY, lat float8 CONSTRAINT low CHECK (lat < 90), at bigint)").await;
    let config = world.letters_config(r#"{ name = "rides", mode = "upsert", key = ["id"] }"#);
    tidegate(&config, &["migrate", "--apply"]).ok();
    let replay = ["dead-letters", "replay", "--all"];
    tidegate(&config, &replay).ok().says(&["0 dead letters replayed"]);
    for lat in [95, 2] {
        world.produce([ride(1, lat)]);
        world.drained(&config);
    }
    world.sql("ALTER TABLE rides DROP CONSTRAINT low").await;
    tidegate(&config, &replay).fails(64, &["1 dead letter of", "an old record would replace a newer row", "--yes"]);
    assert_eq!(world.number("SELECT lat::int8 FROM rides").await, 2, "nothing was replayed");
    // With `newer_by`, the newer row stays without a question.
    let newer = world.letters_config(r#"{ name = "rides", mode = "upsert", key = ["id"], newer_by = "at" }"#);
    tidegate(&newer, &replay).ok().says(&["1 dead letter replayed"]);
    assert_eq!(world.number("SELECT lat::int8 FROM rides").await, 2, "the newer row stays");
    world.sql("ALTER TABLE rides ADD CONSTRAINT low CHECK (lat < 90)").await;
    for lat in [96, 3] {
        world.produce([ride(1, lat)]);
        world.drained(&config);
    }
    world.sql("ALTER TABLE rides DROP CONSTRAINT low").await;
    tidegate(&config, &["dead-letters", "replay", "--all", "--yes"]).ok().says(&["1 dead letter replayed (1 row)"]);
    assert_eq!(world.number("SELECT lat::int8 FROM rides").await, 96, "as was asked for");
}
