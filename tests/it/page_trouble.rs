//! The live page when something is wrong. The first view must show the right pipeline, the cause, how long it has
//! lasted, and what to do.

use serde_json::{Value, json};
use tidegate_harness::registry::Registry;
use tidegate_harness::{Kafka, KafkaSpec, Record, eventually, shared};

use crate::page::status_when;
use crate::page_browser::{Browser, pool, rides, start, world};
use crate::page_states::{more, row, select};
use crate::support::{PATIENCE, World};

/// Returns into how many lines the text of an element is wrapped on the screen.
fn lines(browser: &mut Browser, selector: &str) -> Value {
    let script = "(() => { const range = document.createRange(); range.selectNodeContents(document.querySelector(SELECTOR)); \
         return new Set([...range.getClientRects()].map((r) => Math.round(r.top))).size; })()";
    browser.eval(&script.replace("SELECTOR", &json!(selector).to_string()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_a_stopped_pipeline_its_reason_and_what_to_do() {
    let Some(mut browser) = Browser::start() else { return };
    let world = world(4).await;
    world.sql("CREATE TABLE zz_strict (id bigint CHECK (id < 0))").await;
    let strict = more(&world, "zz_strict", "dead_letters = { max_share = 0.05, min_count = 10 }");
    let (daemon, at) = start(&format!("{}{strict}", pool(&world, 2)));
    daemon.await_ready(PATIENCE).unwrap();
    rides(&world, 4, 200);
    world.produce([Record::new(r#"{"id":"seven"}"#).to(0), Record::new("no json").to(1)]);
    status_when(&daemon, "a pipeline has stopped, another one has dead letters", |status| {
        let pipelines = status["pipelines"].as_array().map_or(&[][..], Vec::as_slice);
        pipelines.iter().any(|p| p["state"] == "stopped") && pipelines.iter().any(|p| p["dead_letters"] == 2)
    });
    let past = eventually("there is some past", PATIENCE, || {
        let history = daemon.get(&format!("/api/history?pipeline={}&from=0", world.name)).unwrap().body;
        let history = serde_json::from_str::<Value>(&history).unwrap();
        let now = status_when(&daemon, "now", |_| true)["now_ms"].as_i64().unwrap();
        let fine = daemon.get(&format!("/api/history?pipeline={}&from={}", world.name, now - 60_000)).unwrap().body;
        let fine = serde_json::from_str::<Value>(&fine).unwrap();
        history["step_seconds"] == 60 && fine["at_ms"].as_array().unwrap().len() >= 12
    });
    past.unwrap();

    browser.view(json!({}));
    browser.open(&at);
    // A paused page has no stream, so everything must be drawn from the history.
    browser.await_text("#live", "live");
    browser.tell(&json!({"do": "click", "at": "#pause"})).unwrap();
    assert_eq!(browser.text("#readers .which"), "zz_strict", "the pipeline in trouble is chosen, not the first one");
    let points =
        "Math.min(...[...document.querySelectorAll('#pipelines svg')].map((svg) => svg.children[0].points.length))";
    let drawn = eventually("the sparklines are drawn", PATIENCE, || browser.eval(points).as_i64().unwrap() >= 10);
    drawn.unwrap();
    browser.await_text(&format!("{} .state", row("zz_strict")), "stopped");
    browser.await_text(&format!("{} .state small", row("zz_strict")), "dead");
    let says = browser.text("#pipelines");
    assert!(!says.contains('?'), "what isn't known is absent: {says}");

    // The times of the timeline have dates, and the newest event is first.
    let times = "[...document.querySelectorAll('#timeline time')].map((time) => time.textContent)";
    let times: Vec<String> = serde_json::from_value(browser.eval(times)).unwrap();
    assert!(times.len() > 4 && times.iter().all(|time| time.len() == "2026-01-31 10:42:07".len()), "{times:?}");
    assert!(times.is_sorted_by(|newer, older| newer >= older), "{times:?}");
    let starts =
        "[...document.querySelectorAll('#timeline li')].filter((li) => /was assigned/.test(li.textContent)).length";
    assert!(browser.eval(starts).as_i64().unwrap() <= 4, "a rebalance is one line: {}", browser.text("#timeline"));

    browser.tell(&json!({"do": "click", "at": "#pause"})).unwrap();
    select(&mut browser, &world.name);
    browser.await_text("#dead", "invalid_json");
    // Each of these cells has two parts, such as a name and a sign. Each part takes one line, unless a word is broken.
    for column in 1..=2 {
        let cell = format!("{} td:nth-child({column})", row(&world.name));
        let taken = lines(&mut browser, &cell).as_i64().unwrap();
        assert!((1..=2).contains(&taken), "{} takes {taken} lines", browser.text(&cell));
    }
    for reason in 1..=2 {
        let cell = format!("#dead tbody tr:nth-child({reason}) .reason");
        assert_eq!(lines(&mut browser, &cell), 1, "{} breaks", browser.text(&cell));
    }
    browser.shoot_each("dead-letters");

    let link = "#sentences li.bad a";
    browser.tell(&json!({"do": "click", "at": link})).unwrap();
    browser.await_text("#runbook section:target h2", "TidegatePipelineStopped");
    browser.await_text("#runbook section:target", "tidegate check --config FILE");
    browser.shoot("runbook");
    browser.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_down_is_shown_by_name_and_a_joining_consumer_is_not_idle() {
    let Some(mut browser) = Browser::start() else { return };
    let kafka: &'static Kafka = Box::leak(Box::new(Kafka::start(&KafkaSpec::single()).expect("Kafka starts")));
    let world = World::on(kafka, shared::postgres().expect("Postgres starts"), 3).await;
    world.sql("CREATE TABLE rides (id bigint)").await;
    let config = pool(&world, 3);
    kafka.stop(0).unwrap();
    let (_daemon, at) = start(&config);
    browser.open(&at);
    browser.await_text(&row(&world.name), "can't start yet");
    browser.await_text("#board", "c0 · joining");
    assert!(!browser.text("#board").contains("idle"));
    browser.shoot_each("first-load");
    kafka.start_again(0).unwrap();
    browser.await_text("#board", "c0 · 1");
    rides(&world, 3, 300);
    browser.await_text("#sentences", "Every record is written.");

    kafka.kill(0).unwrap();
    browser.await_text("#sentences", "for Kafka: ");
    browser.await_text("#sentences", "the connection is refused");
    browser.await_text(&row(&world.name), "waiting for Kafka");
    browser.await_text("#board", "◷");
    let titles =
        "[...document.querySelectorAll('#board .chip')].every((chip) => chip.title.includes('waiting for Kafka'))";
    let named = eventually("each partition says what it waits for", PATIENCE, || browser.eval(titles) == true);
    named.unwrap();
    // While the group has revoked a consumer's partitions, the page must not call the consumer idle.
    assert!(!browser.text("#board").contains("idle"), "{}", browser.text("#board"));
    assert_eq!(
        browser.eval("document.querySelector('#sentences li.bad a').getAttribute('href')"),
        "/runbook#tidegatekafkaunavailable"
    );
    // When the log ends are no longer known, the rates must disappear too.
    let rate = format!("{} td[data-label=\"in/s\"]", row(&world.name));
    let absent = eventually("the rates are absent", PATIENCE, || browser.text(&rate) == "–");
    absent.unwrap();
    browser.shoot_each("kafka-away");
    kafka.start_again(0).unwrap();
    browser.await_text("#sentences", "Everything flows.");
    browser.await_text("#timeline", "Kafka serves again");
    browser.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_registry_down_is_shown_by_name() {
    let Some(mut browser) = Browser::start() else { return };
    let world = world(1).await;
    let registry = Registry::start().expect("the registry starts");
    let schema = |name: &str| format!(r#"{{"type":"record","name":"{name}","fields":[{{"name":"id","type":"int"}}]}}"#);
    let known = registry.add("ride", "AVRO", &schema("Ride"), &[]);
    let unknown = registry.add("ride", "AVRO", &schema("Later"), &[]);
    let record = |id: u32| Record::new([&[0][..], &id.to_be_bytes(), &[4]].concat());
    let config = world.config("consumers = 2\ntable.name = \"rides\"\ndecode.format = \"avro\"").replacen(
        "[http]",
        &format!("[schema_registry]\nurl = \"{}\"\n[http]", registry.url()),
        1,
    );
    let (_daemon, at) = start(&config);
    browser.open(&at);
    world.produce([record(known)]);
    browser.await_text("#sentences", "Every record is written.");
    registry.fail_with(Some(503));
    world.produce([record(unknown)]);
    browser.await_text("#sentences", "the schema registry");
    browser.await_text(&row(&world.name), "waiting for schemas");
    assert_eq!(
        browser.eval("document.querySelector('#sentences li.bad a').getAttribute('href')"),
        "/runbook#the-schema-registry-is-away"
    );
    browser.shoot_each("registry-away");
    registry.fail_with(None);
    browser.await_text("#sentences", "Every record is written.");
    browser.await_text("#timeline", "reads again after");
    browser.assert_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spike_is_cut_and_marked_and_the_flow_keeps_its_height() {
    let Some(mut browser) = Browser::start() else { return };
    let world = world(1).await;
    let (daemon, at) = start(&pool(&world, 1));
    daemon.await_ready(PATIENCE).unwrap();
    browser.open(&at);
    browser.await_text("#live", "live");
    let top =
        |browser: &mut Browser, rates: &str| browser.eval(&format!("Chart.top({rates}, [], 10)")).as_f64().unwrap();
    let flow = "Array(290).fill(1000)";
    let of_flow = top(&mut browser, flow);
    assert!((1000.0..2000.0).contains(&of_flow), "{of_flow}");
    let of_spike = top(&mut browser, &format!("{flow}.concat(Array(10).fill(80000))"));
    assert!((1000.0..2000.0).contains(&of_spike), "ten seconds of a spike flatten five minutes: {of_spike}");
    let of_half = top(&mut browser, &format!("{flow}.concat(Array(60).fill(80000))"));
    assert!(of_half >= 80_000.0, "what lasts a minute is no spike: {of_half}");
    let of_bursts = top(&mut browser, "Array(290).fill(0).concat(Array(5).fill(300))");
    assert!(of_bursts >= 300.0, "a short burst after silence is all there is to see: {of_bursts}");

    // Check the page's own code too, from the history to the words beside the chart.
    browser.eval(
        "(() => { const ask = window.fetch; window.fetch = (url, ...rest) => String(url).startsWith('/api/history') ? \
         ask(url, ...rest).then((r) => r.json()).then((h) => { const now = Date.now(), n = 200, of = (v) => Array.from({ length: n }, (_, i) => i === 100 ? 50 * v : v); \
         return new Response(JSON.stringify({ ...h, step_seconds: 1, at_ms: of(0).map((_, i) => now - (n - i) * 1000), into: of(1000), out: of(1000), lag: of(0), wait: of(0), headroom: of(0) })); }) \
         : ask(url, ...rest); })()",
    );
    browser.tell(&json!({"do": "click", "at": "[data-range=\"300\"]"})).unwrap();
    browser.await_text("#above", "▲ 1 spike above the axis, up to 50 000/s.");
    browser.shoot("spike");
    browser.assert_clean();
}
