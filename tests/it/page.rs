//! The endpoints that the live page uses: the JSON document, the stream of changes and the history. Also checks which requests
//! are rejected.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;
use tidegate_harness::{Daemon, Record, eventually};

use crate::support::{PATIENCE, World, program, spec};

pub(crate) fn address(config: &str) -> String {
    let (_, listen) = config.split_once("listen = \"").unwrap();
    listen.split_once('"').unwrap().0.to_owned()
}

fn ask(address: &str, request: &str) -> (String, String) {
    let mut connection = TcpStream::connect(address).expect("the daemon listens");
    connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    connection.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).expect("the answer ends");
    let (head, body) = answer.split_once("\r\n\r\n").expect("it is HTTP");
    (head.to_ascii_lowercase(), body.to_owned())
}

fn get(address: &str, path: &str, more: &str) -> (String, String) {
    ask(address, &format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n{more}\r\n"))
}

async fn flowing(partitions: i32, pipeline: &str) -> (World, String, Daemon) {
    let world = World::new(partitions).await;
    world.sql("CREATE TABLE rides (id bigint)").await;
    let config = world.config(&format!("{pipeline}\ntable.name = \"rides\"\nbatch.max_age = \"50ms\""));
    let daemon = world.daemon(&config);
    daemon.await_ready(PATIENCE).unwrap();
    (world, address(&config), daemon)
}

fn rides(world: &World, partitions: i32, count: i32) {
    world.produce((0..count).map(|n| Record::new(format!(r#"{{"id":{n}}}"#)).to(n % partitions)));
}

pub(crate) fn status_when(daemon: &Daemon, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let found = daemon.await_until(what, PATIENCE, |daemon| {
        last = daemon.status_json().unwrap_or_default();
        condition(&last)
    });
    found.unwrap_or_else(|error| panic!("{error:#}\n{last:#}"));
    last
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_shows_readers_time_and_dead_letters() {
    let (world, _, daemon) = flowing(4, "consumers = 2\ndead_letters.max_share = 1.0").await;
    rides(&world, 4, 1000);
    world.produce([Record::new("no json").to(2)]);
    let status = status_when(&daemon, "everything is written", |status| {
        let p = &status["pipelines"][0];
        p["rows"] == 1000
            && p["dead_letters"] == 1
            && p["lag_records"] == 0
            && p["board"]["nobody"] == serde_json::json!([])
    });
    let pipeline = &status["pipelines"][0];
    assert_eq!(status["version"], 1);
    assert_eq!(pipeline["board"]["rule"], "4 partitions, 2 consumers: 2 each", "{pipeline:#}");
    assert_eq!(pipeline["board"]["columns"][0]["this"], true);
    let dead = &pipeline["dead"][0];
    assert_eq!(
        (&dead["count"], &dead["newest"][0]["partition"], &dead["newest"][0]["offset"]),
        (&1.into(), &2.into(), &250.into())
    );
    assert!(!status.to_string().contains("no json"), "a record's value is shown");
    assert!(pipeline["batches"]["rows_median"].as_u64().unwrap() > 0, "{pipeline:#}");
    let status = status_when(&daemon, "shares of time", |status| {
        status["pipelines"][0]["consumers"][0]["time"]["poll"].as_f64().is_some_and(|share| share > 0.5)
    });
    assert_eq!(status["pipelines"][0]["limit"], "Consumers wait for records: the pipeline has spare capacity.");
    let kinds: Vec<&str> =
        status["timeline"].as_array().unwrap().iter().map(|event| event["kind"].as_str().unwrap()).collect();
    assert!(kinds.contains(&"start") && kinds.contains(&"rebalance"), "{kinds:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unchanged_status_is_not_sent_again() {
    let (_world, address, daemon) = flowing(1, "").await;
    status_when(&daemon, "the lag is seen", |status| status["pipelines"][0]["lag_seen_ms"].is_number());
    let known = eventually("two answers in a row that say the same", PATIENCE, || {
        let (head, _) = get(&address, "/api/status", "");
        let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).expect("a tag").to_owned();
        let (head, body) = get(&address, "/api/status", &format!("If-None-Match: {}\r\n", tag.replace("w/", "W/")));
        head.contains(" 304 ") && body.is_empty()
    });
    known.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_stream_says_everything_first_and_then_what_changed() {
    let (world, address, _daemon) = flowing(2, "").await;
    let mut connection = TcpStream::connect(&address).unwrap();
    connection.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(connection, "GET /api/events HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
    let mut lines = BufReader::new(connection).lines().map(|line| line.expect("the stream goes on"));
    let mut frame = |event: &str| -> Value {
        lines.find(|line| *line == format!("event: {event}")).expect("the event comes");
        let data = lines.next().unwrap();
        serde_json::from_str(data.strip_prefix("data: ").expect("data follows")).expect("it is JSON")
    };
    let mut document = frame("status");
    assert_eq!(document["version"], 1);
    rides(&world, 2, 500);
    for _ in 0..30 {
        let change = frame("change");
        for set in change["set"].as_array().unwrap() {
            let path = set[0].as_array().unwrap();
            let pointer: String = path
                .iter()
                .map(|step| format!("/{}", step.as_str().map_or_else(|| step.to_string(), str::to_owned)))
                .collect();
            *document.pointer_mut(&pointer).unwrap_or_else(|| panic!("{pointer} is not there")) = set[1].clone();
        }
        if document["pipelines"][0]["rows"] == 500 {
            return;
        }
    }
    panic!("the changes never came to 500 rows: {document:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_is_served_by_the_second_and_by_the_minute() {
    let (world, address, daemon) = flowing(2, "").await;
    // The history has the differences between readings of the lag. So a reading must come before the records.
    let lag = |daemon: &Daemon, n: &str| daemon.metric("tidegate_lag_records", &[("partition", n)]);
    daemon
        .await_until("the lag of both partitions is read", PATIENCE, |d| ["0", "1"].iter().all(|n| lag(d, n).is_some()))
        .unwrap();
    rides(&world, 2, 5000);
    status_when(&daemon, "all rows", |status| status["pipelines"][0]["rows"] == 5000);
    let now = status_when(&daemon, "any", |_| true)["now_ms"].as_i64().unwrap();
    let read = |from: i64| -> Value {
        serde_json::from_str(&get(&address, &format!("/api/history?pipeline={}&from={from}", world.name), "").1)
            .unwrap()
    };
    let seen = eventually("the flood is in the history", PATIENCE, || {
        let fine = read(now - 60_000);
        let sum = |column: &str| fine[column].as_array().unwrap().iter().filter_map(Value::as_f64).sum::<f64>();
        assert_eq!(fine["step_seconds"], 1);
        sum("out") > 0.0
    });
    seen.unwrap();
    assert_eq!(read(0)["step_seconds"], 60);
    assert!(get(&address, "/api/history?pipeline=nobody&from=0", "").0.contains(" 404 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_s_name_is_refused_and_nothing_may_run_or_be_framed() {
    let (_world, address, _daemon) = flowing(1, "").await;
    for path in ["/", "/api/status", "/api/events", "/api/history", "/metrics", "/page.js"] {
        let (head, body) = ask(&address, &format!("GET {path} HTTP/1.0\r\nHost: evil.example\r\n\r\n"));
        assert!(head.starts_with("http/1.0 421") || head.starts_with("http/1.1 421"), "{path}: {head}");
        assert!(!body.contains("pipeline"), "{path}: {body}");
    }
    for path in ["/", "/api/status", "/page.js", "/uplot.js", "/page.css", "/nowhere"] {
        let (head, _) = get(&address, path, "");
        assert!(
            head.contains("content-security-policy: default-src 'self';") && !head.contains("unsafe"),
            "{path}: {head}"
        );
        assert!(
            head.contains("x-content-type-options: nosniff") && head.contains("frame-ancestors 'none'"),
            "{path}: {head}"
        );
    }
    let (head, _) =
        ask(&address, &format!("POST /api/status HTTP/1.0\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n"));
    assert!(head.contains(" 405 "), "{head}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_scripts_the_page_is_a_snapshot_and_the_command_prints_the_same() {
    let (_world, address, daemon) = flowing(2, "consumers = 3").await;
    status_when(&daemon, "an idle consumer", |status| {
        status["pipelines"][0]["board"]["rule"]
            == "2 partitions, 3 consumers: 1 idle, because each partition has another consumer"
    });
    let rule = "consumers:    2 partitions, 3 consumers: 1 idle, because each partition has another consumer";
    let (_, page) = get(&address, "/", "");
    assert!(page.contains(rule), "{page}");
    let config = daemon.folder().join("tidegate.toml");
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new(program())
            .arg("status")
            .arg("--config")
            .arg(&config)
            .args(arguments)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let (code, text) = run(&[]);
    assert_eq!(code, Some(0));
    for part in ["STATE", "PIPELINES", rule, "time:", "TIMELINE", "MEMORY"] {
        assert!(text.contains(part), "{part} in:\n{text}");
    }
    let (code, json) = run(&["--json"]);
    assert_eq!((code, serde_json::from_str::<Value>(&json).unwrap()["version"].clone()), (Some(0), 1.into()));
    daemon.terminate().unwrap();
    daemon.wait_exit(PATIENCE).unwrap();
    assert_eq!(run(&[]).0, Some(69), "no daemon answers");
}

#[tokio::test(flavor = "multi_thread")]
async fn instances_see_each_other_and_say_goodbye() {
    let (world, _, first) = flowing(4, "").await;
    let other = world.config("table.name = \"rides\"");
    let second = Daemon::spawn(&spec(&other)).unwrap();
    second.await_ready(PATIENCE).unwrap();
    for daemon in [&first, &second] {
        let status = status_when(daemon, "both read", |status| {
            status["pipelines"][0]["board"]["rule"] == "4 partitions, 2 consumers: 2 each"
        });
        assert_eq!(status["instances"].as_array().unwrap().len(), 1);
    }
    second.terminate().unwrap();
    second.wait_exit(PATIENCE).unwrap();
    assert_eq!(world.number("SELECT count(*) FROM tidegate.instance").await, 1);
    status_when(&first, "the first has all again", |status| {
        status["pipelines"][0]["board"]["rule"] == "4 partitions, 1 consumer: it reads them all"
    });
}
