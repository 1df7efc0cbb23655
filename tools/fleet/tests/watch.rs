//! Tests the customer's view with a real Postgres, and how the program ends on a signal.

use std::io::Read;
use std::process::ExitStatus;
use std::sync::Mutex;
use std::time::Duration;

use fleet::{WatchSpec, watch_until};
use sqlx::{Connection, PgConnection};
use tidegate_harness::process::{Output, Process, Program, Run, Signal};
use tidegate_harness::{Database, eventually, eventually_async, shared, unique_name};

const SQL: &str = include_str!("../../../config/fleet.sql");
const PATIENCE: Duration = Duration::from_secs(60);

async fn database() -> Database {
    let database = shared::postgres().expect("Postgres starts").create_database().await.expect("a database");
    sqlx::raw_sql(SQL).execute(&mut connect(&database).await).await.expect("the tables are made");
    database
}

async fn connect(database: &Database) -> PgConnection {
    database.connect().await.expect("a connection")
}

/// Writes a state of trip 42, like a batch of the daemon. The state was sent `minute` minutes after 23:00 yesterday, and was
/// measured 300 ms earlier.
async fn write(database: &Database, minute: i32, odometer_mm: i64, state: &str, event: Option<&str>) {
    let sql = "INSERT INTO customer_info (trip_id, region, ts, sent_at, lat, lon, speed_kmh, odometer_mm, state, event)
        SELECT 42, 'north', at - interval '300 ms', at, 52.5731, 13.401, 0, $2, $3, $4
        FROM (SELECT date_trunc('day', now()) - interval '1 hour' + $1 * interval '1 minute' AS at) AS t
        ON CONFLICT (trip_id) DO UPDATE SET ts = EXCLUDED.ts, sent_at = EXCLUDED.sent_at, odometer_mm = EXCLUDED.odometer_mm,
            state = EXCLUDED.state, event = EXCLUDED.event";
    let written = sqlx::query(sql).bind(minute).bind(odometer_mm).bind(state).bind(event);
    written.execute(&mut connect(database).await).await.expect("written");
}

async fn is_listened_to(database: &Database) -> bool {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    let count: i64 = sqlx::query_scalar(sql).fetch_one(&mut connect(database).await).await.expect("asked");
    count > 0
}

#[tokio::test]
async fn a_customer_hears_of_each_change_and_of_the_end() {
    let database = database().await;
    let said = Mutex::new(Vec::new());
    let spec = WatchSpec { database_url: database.url.clone(), trip_id: 42, at: None, readings: None };
    let has_said = |words: &str| said.lock().expect("not poisoned").iter().any(|line: &String| line.contains(words));
    let watched = watch_until(&spec, std::future::pending(), |words| {
        said.lock().expect("not poisoned").push(words.to_owned());
    });
    let driver = async {
        let hears = async |words: &str| {
            let heard = eventually_async("the customer hears of it", PATIENCE, async || has_said(words)).await;
            heard.unwrap_or_else(|error| panic!("{words}: {error}; {said:?}"));
        };
        hears("no such trip yet").await;
        write(&database, 0, 500, "driving", None).await;
        // The row was measured at least an hour ago, so the sentence also says that there is no news.
        hears("here, no news for").await;
        write(&database, 1, 600, "stopped", None).await;
        write(&database, 4, 600, "paused", None).await;
        // These states are old too, so several of their sentences may be equal. A sentence that equals the last one isn't said
        // again. Only the sentence at the trip's end is certain to come.
        sever(&database).await;
        write(&database, 5, 1_500_000, "stopped", Some("trip_ended")).await;
    };
    let (summary, ()) = tokio::join!(watched, driver);
    let summary = summary.expect("watched");
    assert!(has_said("the trip is over, after 1.5 km"), "{said:?}");
    assert!((1..=3).contains(&summary.readings), "{summary}");
    let (measured, sent) = (summary.since_measured_ms.expect("timed"), summary.since_sent_ms.expect("timed"));
    assert!((measured.max - sent.max - 300.0).abs() < 1.0, "{summary}");
    connect(&database).await.close().await.expect("closed");
}

async fn sever(database: &Database) {
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE 'LISTEN%'";
    let ended: i64 = sqlx::query_scalar(sql).fetch_one(&mut connect(database).await).await.expect("ended");
    assert!(ended > 0, "nobody was listening");
}

/// The running program `fleet`, and the guard that ends it with this test.
struct Started {
    _run: std::sync::Arc<Run>,
    process: Process,
}

impl Started {
    fn start(args: &[&str]) -> Self {
        let run = Run::start("fleet").expect("a folder");
        let program = Program {
            binary: env!("CARGO_BIN_EXE_fleet").into(),
            args: args.iter().map(Into::into).collect(),
            env: Vec::new(),
            user: None,
            output: Output::Pipes,
            end_signal: Signal::KILL,
        };
        let process = Process::start(&run, &program).expect("it starts");
        Self { _run: run, process }
    }

    fn end(self, signal: Signal) -> (ExitStatus, String) {
        // Take the other pipe too, so that the program can write to it without an error.
        let (mut out, _said) = self.process.take_pipes().expect("its pipes");
        self.process.signal(signal).expect("asked");
        let status = self.process.await_exit(PATIENCE).expect("it ends");
        let mut text = String::new();
        out.read_to_string(&mut text).expect("UTF-8");
        (status, text)
    }
}

#[tokio::test]
async fn asked_to_end_it_prints_its_totals_and_all_is_acknowledged() {
    let kafka = shared::kafka().expect("a broker");
    for signal in [Signal::TERM, Signal::INT] {
        let topic = unique_name("fleet");
        kafka.create_topic(&topic, 2, &[]).expect("a topic");
        let servers = kafka.bootstrap_servers();
        let args =
            ["produce", "--bootstrap-servers", servers, "--topic", &topic, "--vehicles", "200", "--quiet", "--json"];
        let fleet = Started::start(&args);
        let sent = || kafka.end_offsets(&topic).expect("offsets").iter().sum::<i64>();
        eventually("records are sent", PATIENCE, || sent() > 0).expect("they are");
        let (status, out) = fleet.end(signal);
        assert_eq!(status.code(), Some(0), "{out}");
        let summary: serde_json::Value = serde_json::from_str(&out).expect("JSON");
        assert_eq!(
            (&summary["interrupted"], &summary["failed"], &summary["unacked"]),
            (&true.into(), &0.into(), &0.into())
        );
        assert_eq!(summary["acked"], sent());
    }
}

#[tokio::test]
async fn a_watch_that_is_asked_to_end_prints_what_it_saw() {
    let database = database().await;
    let customer = Started::start(&["watch", "--trip", "42", "--database-url", &database.url, "--json"]);
    eventually_async("it listens", PATIENCE, async || is_listened_to(&database).await).await.expect("it does");
    let (status, out) = customer.end(Signal::TERM);
    assert_eq!(status.code(), Some(0), "{out}");
    let summary: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!(summary["readings"], 0);
}
