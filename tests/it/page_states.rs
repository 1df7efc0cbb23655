//! The live page while something is wrong. Each problem must be described at the top, in the pipeline's row and on the board.

use serde_json::json;
use sqlx::Executor;
use tidegate_harness::{eventually_async, unique_name};

use crate::page_browser::{Browser, pool, rides, start, world};
use crate::support::{PATIENCE, World};

pub(crate) fn row(pipeline: &str) -> String {
    format!("#pipelines tr[data-name=\"{pipeline}\"]")
}

pub(crate) fn select(browser: &mut Browser, pipeline: &str) {
    browser.tell(&json!({"do": "click", "at": row(pipeline)})).unwrap();
    browser.await_text("#readers .which", pipeline);
}

pub(crate) fn more(world: &World, name: &str, lines: &str) -> String {
    let World { topic, name: unique, .. } = world;
    format!(
        "[pipelines.{name}]\ntopics = [\"{topic}\"]\ngroup = \"{unique}-{name}\"\ntable.name = \"{name}\"\n{lines}\n"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_dead_letter_budget_a_locked_table_and_a_lost_claim_affect_one_pipeline_only() {
    let Some(mut browser) = Browser::start() else { return };
    let world = world(4).await;
    world.sql("CREATE TABLE strict (id bigint CHECK (id < 0)); CREATE TABLE fare (id bigint)").await;
    let config = format!(
        "{}{}{}",
        pool(&world, 2).replace("[kafka]", "[limits]\nclaim_grace = \"40s\"\n[kafka]"),
        more(&world, "strict", "dead_letters = { max_share = 0.05, min_count = 10 }"),
        more(&world, "fare", "")
    );
    let (daemon, at) = start(&config);
    browser.open(&at);
    browser.await_text(&row("fare"), "flowing");
    daemon.await_ready(PATIENCE).unwrap();

    rides(&world, 4, 200);
    browser.await_text("#sentences", "strict stopped: ");
    browser.await_text("#sentences", "Manual action required.");
    browser.await_text(&row("strict"), "stopped");
    select(&mut browser, "strict");
    browser.await_text("#nobody", "no consumer reads 0");
    browser.shoot_each("stopped");

    let mut holder = world.connect().await;
    holder.execute("SET application_name = 'a nightly report'; BEGIN; LOCK TABLE rides").await.unwrap();
    rides(&world, 4, 4000);
    browser.await_text("#sentences", &format!("{} has waited", world.name));
    browser.await_text("#sentences", "a nightly report");
    select(&mut browser, &world.name);
    browser.await_text("#board", "◷");
    browser.await_text(&row(&world.name), "waiting for Postgres");
    browser.await_text(&row("fare"), "flowing");
    browser.shoot("locked");
    let goes_on = async || world.number("SELECT count(*) FROM fare").await == 4200;
    eventually_async("who isn't locked goes on", PATIENCE, goes_on).await.unwrap();
    holder.execute("COMMIT").await.unwrap();
    browser.await_text(&row(&world.name), "flowing");

    world
        .sql(&format!(
            "UPDATE tidegate.ledger SET claim_id = gen_random_uuid(), epoch = epoch + 1 WHERE pipeline = '{}' AND partition < 2",
            world.name
        ))
        .await;
    rides(&world, 4, 400);
    browser.await_text("#sentences", "taken over by another claim; nothing is written twice");
    browser.await_text("#board", "✕");
    browser.await_text("#timeline", "another claim");
    browser.shoot("fenced");
    browser.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_falls_behind_is_shown_with_both_rates_and_kafkas_deletion() {
    let Some(mut browser) = Browser::start() else { return };
    let mut world = world(2).await;
    world.topic = unique_name("kept_for_days");
    world.kafka.create_topic(&world.topic, 2, &[("retention.ms", "259200000")]).unwrap();
    world.sql("CREATE TABLE slow (id bigint)").await;
    world.sql("CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN PERFORM pg_sleep(0.005); RETURN new; END $f$; CREATE TRIGGER dawdle BEFORE INSERT ON slow FOR EACH ROW EXECUTE FUNCTION dawdle()").await;
    let (_daemon, at) = start(&format!("{}{}", pool(&world, 1), more(&world, "slow", "batch.max_rows = 200")));
    browser.open(&at);
    browser.await_text(&row("slow"), "flowing");
    select(&mut browser, "slow");
    let mut says = String::new();
    for _ in 0..40 {
        rides(&world, 2, 1000);
        browser.await_another_second();
        says = browser.text("#sentences");
        if says.contains("slow falls behind: ") && browser.text(&row("slow")).contains("falling behind") {
            break;
        }
    }
    assert!(says.contains("slow falls behind: ") && says.contains("Nothing is lost: "), "{says}");
    assert!(browser.text(&row(&world.name)).contains("flowing"), "the other one keeps up");
    browser.await_text("#flood-words", "Kafka deletes the oldest unwritten in ");
    browser.await_text("#limit", "Postgres is the limit");
    browser.shoot_each("behind");
    // Bars of equal waits must have equal lengths, whichever partition waits longest. A pipeline without lag has no bar.
    let bars = "Math.max(...[...document.querySelectorAll('#board .chip')].map((chip) => parseInt(chip.style.getPropertyValue('--lag'))))";
    let longest = browser.eval(bars).as_i64().unwrap();
    assert!((1..=100).contains(&longest), "the bars of a pipeline that is behind: {longest} %");
    select(&mut browser, &world.name);
    assert_eq!(browser.eval(bars), 0, "the bars of a pipeline that keeps up");
    select(&mut browser, "slow");
    browser.view(json!({"dark": true}));
    browser.open(&at);
    browser.await_text("#live", "live");
    select(&mut browser, "slow");
    browser.await_text("#flood-words", "records per second come into Kafka");
    browser.await_another_second();
    browser.shoot("behind-dark");
    browser.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_being_claimed_are_shown_as_claiming() {
    let Some(mut browser) = Browser::start() else { return };
    let world = world(4).await;
    let config = pool(&world, 2);
    let (first, at) = start(&config);
    rides(&world, 4, 400);
    first.await_ready(PATIENCE).unwrap();
    browser.open(&at);
    browser.await_text("#sentences", "Every record is written.");
    first.terminate().unwrap();
    first.wait_exit(PATIENCE).unwrap();
    // This session locks the ledger's rows of three of the four partitions, so their claims have to wait.
    let mut holder = world.connect().await;
    holder.execute("BEGIN; SELECT FROM tidegate.ledger WHERE partition > 0 FOR UPDATE").await.unwrap();
    let (_second, _) = start(&config);
    browser.await_text(&row(&world.name), "rebalancing");
    browser.await_text("#sentences", "being claimed");
    browser.await_text("#board", "⇄");
    browser.shoot("rebalancing");
    holder.execute("COMMIT").await.unwrap();
    browser.await_text("#sentences", "Everything flows.");
    browser.await_text("#rule", "4 partitions, 2 consumers: 2 each");
}
