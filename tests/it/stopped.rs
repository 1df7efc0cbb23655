//! The daemon shows a stopped pipeline with its dead letters and its lag, and names a field that no record has.

use tidegate_harness::{Record, eventually, unique_name};

use crate::accounting::NUMBERED;
use crate::support::{PATIENCE, World};

/// Adds a second pipeline to the configuration. Without it, the daemon would end when the first pipeline stops.
async fn beside(world: &World, config: &str) -> String {
    let topic = unique_name("quiet");
    world.kafka.create_topic(&topic, 1, &[]).expect("the topic is made");
    world.sql("CREATE TABLE quiet (id bigint)").await;
    format!("{config}[pipelines.{topic}]\ntopics = [\"{topic}\"]\ntable.name = \"quiet\"\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_stopped_by_its_dead_letter_budget_says_why_and_keeps_its_metrics() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    let config = beside(&world, &world.config("table.name = \"rides\"")).await;
    let bad = |n: i32| Record::new(format!(r#"{{"seq":"n/a","name":"vehicle {n}"}}"#)).to(0);
    // These dead letters are too few to stop the pipeline.
    world.produce((0..3).map(bad));
    let daemon = world.daemon(&config);
    let of = [("pipeline", world.name.as_str())];
    daemon
        .await_until("the dead letters are committed", PATIENCE, |daemon| {
            daemon.metric("tidegate_dead_letters_total", &of) == Some(3.0)
        })
        .expect("they are");
    world.produce((3..1_003).map(bad));
    let is_stopped = [of[0], ("state", "stopped")];
    daemon
        .await_until("it stops", PATIENCE, |daemon| daemon.metric("tidegate_pipeline_state", &is_stopped) == Some(1.0))
        .expect("the budget is spent");
    let ready = daemon.get("/readyz").expect("it answers").body;
    let status = daemon.status_json().expect("a status");
    let sentence = status["sentences"][0]["text"].as_str().expect("a sentence");
    let log = daemon.await_log("dead-letter budget spent", PATIENCE).expect("the log says so");
    for text in [&ready, sentence, &log] {
        for words in ["× type_mismatch, column `seq`, for example", &format!("{}/0@", world.topic)] {
            assert!(text.contains(words), "no {words:?} in: {text}");
        }
    }

    let lag = || daemon.metric("tidegate_lag_records", &of).unwrap_or(0.0);
    let before = lag();
    world.produce((0..4_000).map(bad));
    eventually("the lag of a stopped pipeline grows", PATIENCE, || lag() >= before + 4_000.0).expect("it is measured");
    let seconds = || daemon.metric("tidegate_lag_seconds", &of).unwrap_or(0.0);
    let before = seconds();
    eventually("so does its age", PATIENCE, || seconds() > before + 1.0).expect("it is measured");
    assert!(daemon.metric("tidegate_lag_reading_age_seconds", &of).is_some_and(|age| age < 10.0), "it is current");
    eventually("the dead letters are counted", PATIENCE, || {
        daemon.metric("tidegate_dead_letters_open", &of) == Some(3.0)
            && daemon.metric("tidegate_dead_letters_oldest_age_seconds", &of).is_some_and(|age| age > 0.0)
    })
    .expect("they are");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_no_record_has_is_counted_and_named_once() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    let columns = "columns = { seq = \"seq\", name = \"vehicle.name\" }";
    let config = world.config(&format!("table.name = \"rides\"\n{columns}\nbatch.max_rows = 500"));
    world.produce_numbered(0..5_000, 1);
    let daemon = world.daemon(&config);
    let missing = |column| daemon.metric("tidegate_fields_missing_total", &[("column", column)]);
    eventually("each row lacks the field", PATIENCE, || missing("name") == Some(5_000.0)).expect("they are counted");
    assert_eq!(missing("seq"), Some(0.0), "a field that each record has");
    let named = |line: &String| line.contains("`vehicle.name` (column `name`)");
    daemon.await_log("no record so far has these fields", PATIENCE).expect("the log names it");
    let says = "no record so far has had the field `vehicle.name`, so its column is NULL. Is the name misspelled?";
    eventually("the page says it", PATIENCE, || {
        daemon.get("/api/status").is_ok_and(|status| status.body.contains(says))
    })
    .expect("it does");
    world.await_written(&daemon).await;
    assert_eq!(daemon.log().into_iter().filter(named).count(), 1, "{}", daemon.log_tail());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_error_of_a_process_that_ends_offers_no_command_for_it() {
    let world = World::new(1).await;
    world.sql(NUMBERED).await;
    let daemon = world.daemon(&world.config("table.name = \"rides\""));
    daemon.await_ready(PATIENCE).expect("it is ready");
    world.refuse_writes().await;
    world.produce_numbered(0..10, 1);
    let code = daemon.wait_exit(PATIENCE).expect("the only pipeline stops, and the process ends").code();
    assert_eq!(code, Some(70), "{}", daemon.log_tail());
    let log = daemon.log().join("\n");
    assert!(log.contains("no other one runs: the process ends"), "{log}");
    assert!(!log.contains("pipelines resume") && !log.contains("SIGHUP"), "{log}");
}
