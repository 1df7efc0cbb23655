//! `tidegate pipelines list` and `forget`.

use crate::accounting::{NUMBERED, numbered};
use crate::cli::tidegate;
use crate::support::{PATIENCE, World};

const TO_RIDES: &str = "table.name = \"rides\"";

impl World {
    /// Returns a configuration that has another pipeline instead of this test's.
    fn without_the_first(&self) -> String {
        self.config(TO_RIDES).replacen(&self.name, "other", 1)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_pipeline_is_listed_and_forgotten_with_its_replays() {
    let world = World::new(2).await;
    world.sql(NUMBERED).await;
    world.sql("CREATE TABLE copies (seq bigint, name text)").await;
    world.produce((0..10).map(|n| numbered(n, 2)));
    let (code, log) = world.drain(&world.config(TO_RIDES));
    assert_eq!(code, Some(0), "{log}");
    tidegate(&world.config(TO_RIDES), &["replay", "--from", "earliest", "--into", "copies"]).ok();

    let without = world.without_the_first();
    let list = tidegate(&without, &["pipelines", "list"]).ok();
    let list = list.says(&[&world.name, "not in the configuration", "never started", "other"]);
    assert!(list.out.contains(&format!("{} replay ", world.name)), "{list}");
    let json = tidegate(&without, &["pipelines", "list", "--json"]).ok().json();
    let known = json["pipelines"].as_array().expect("a list").iter().find(|p| p["name"] == world.name.as_str());
    let known = known.expect("it is listed");
    assert_eq!((&known["configured"], &known["table_exists"]), (&false.into(), &true.into()), "{known}");
    assert_eq!((&known["partitions"], &known["topics"][0]), (&2.into(), &world.topic.as_str().into()), "{known}");

    // Standard input isn't a terminal, so nobody can confirm.
    let again = format!("the next start of a pipeline named `{}` reads its topics from `start` on", world.name);
    let asked = tidegate(&without, &["pipelines", "forget", &world.name]);
    asked.fails(64, &["4 positions", "--yes", &again, "writes those rows again"]);
    tidegate(&without, &["pipelines", "forget", "nobody", "--yes"]).fails(64, &["nobody", &world.name]);
    let known = "SELECT count(*) FROM tidegate.pipeline";
    assert_eq!(world.number(known).await, 2, "nothing is forgotten yet");
    tidegate(&without, &["pipelines", "forget", &world.name, "--yes"]).ok().says(&[
        "with 1 replay",
        "stays as it is",
        &again,
    ]);
    assert_eq!(world.number(known).await, 0);
    assert_eq!(world.number("SELECT count(*) FROM tidegate.ledger").await, 0);
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 10, "the table stays");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_needed_is_not_forgotten() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    world.produce((0..10).map(|n| numbered(n, 1)));
    world.produce([tidegate_harness::Record::new("no JSON").to(0)]);
    let daemon = world.daemon(&world.config(TO_RIDES));
    world.await_written(&daemon).await;
    let without = world.without_the_first();
    let forget = ["pipelines", "forget", world.name.as_str(), "--yes"];
    tidegate(&without, &forget).fails(64, &["runs", "stop it first"]);
    daemon.drain(PATIENCE).expect("it ends");
    tidegate(&world.config(TO_RIDES), &forget).fails(64, &["is in the configuration", "once more"]);
    tidegate(&without, &forget).fails(64, &["1 dead letter", "--dead-letters"]);
    assert_eq!(world.number("SELECT count(*) FROM tidegate.ledger").await, 1, "nothing is forgotten");
    let with_letters = [&forget[..], &["--dead-letters", "--json"]].concat();
    let json = tidegate(&without, &with_letters).ok().json();
    assert_eq!((&json["partitions"], &json["dead_letters"]), (&1.into(), &1.into()), "{json}");
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_its_table_was_dropped_a_pipeline_begins_again_under_its_name() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    world.produce((0..10).map(|n| numbered(n, 1)));
    let config = world.config(TO_RIDES);
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    world.sql("DROP TABLE rides").await;
    world.sql(NUMBERED).await;
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(70), "{log}");
    assert!(log.contains(&format!("tidegate pipelines forget {}", world.name)), "it says what helps: {log}");
    tidegate(&config, &["pipelines", "list"]).ok().says(&["(dropped)"]);
    tidegate(&config, &["pipelines", "forget", &world.name, "--yes"]).ok();
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    world.assert_exact(10).await;
}
