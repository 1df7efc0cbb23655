//! SIGHUP and `tidegate pipelines resume`. Pipelines with a changed configuration restart, stopped pipelines are resumed, and the
//! others keep flowing.

use std::process::{Command, Stdio};

use tidegate_harness::{Daemon, Record, unique_name};

use crate::accounting::{numbered, with_limits};
use crate::cli::tidegate;
use crate::support::{PATIENCE, World, program};

/// Two pipelines that read the same topic, each with its own table. The memory budget leaves room for a third pipeline.
struct Pair {
    world: World,
    other: String,
}

impl Pair {
    async fn new() -> Self {
        let world = World::new(1).await;
        world.sql("CREATE TABLE rides (seq bigint, name text); CREATE TABLE more (seq bigint, name text)").await;
        Self { world, other: unique_name("more") }
    }

    /// Returns the configuration of both pipelines. `first` is added to the settings of the first pipeline, and `rest` to the
    /// end.
    fn config(&self, first: &str, rest: &str) -> String {
        let second = self.pipeline(&self.other, "more");
        let config = self.world.config(&format!("table.name = \"rides\"\n{first}\n{second}\n{rest}"));
        with_limits(&config, "memory = \"4GiB\"")
    }

    fn pipeline(&self, name: &str, table: &str) -> String {
        format!("[pipelines.{name}]\ntopics = [\"{}\"]\ntable.name = \"{table}\"", self.world.topic)
    }

    /// Returns the same configuration as [`Self::config`], but with the address on which the daemon already listens.
    fn again(&self, daemon: &Daemon, first: &str, rest: &str) -> String {
        let config = self.config(first, rest);
        let (before, after) = config.split_once("listen = \"").expect("it listens");
        let (_, after) = after.split_once('"').expect("the address ends");
        format!("{before}listen = \"{}\"{after}", daemon.http_address().expect("an address"))
    }

    async fn await_rows(&self, daemon: &Daemon, table: &str, rows: i64) {
        let sql = format!("SELECT count(*) FROM {table}");
        let reached = tidegate_harness::eventually_async("the rows are there", PATIENCE, async || {
            self.world.number(&sql).await >= rows
        });
        if let Err(error) = reached.await {
            panic!("{error:#}: {}", daemon.log_tail());
        }
        assert_eq!(self.world.number(&sql).await, rows, "no row comes twice");
    }
}

pub(crate) fn hang_up(daemon: &Daemon, config: &str) {
    daemon.write_config(config).expect("the file is written");
    daemon.hang_up().expect("it gets the signal");
}

fn rebalances(daemon: &Daemon, pipeline: &str) -> f64 {
    daemon.metric("tidegate_rebalances_total", &[("pipeline", pipeline)]).unwrap_or(0.0)
}

pub(crate) fn reloads(daemon: &Daemon, result: &str, count: f64) {
    let what = format!("{count} reloads: {result}");
    let reached = |d: &Daemon| d.metric("tidegate_config_reloads_total", &[("result", result)]).unwrap_or(0.0) >= count;
    daemon.await_until(&what, PATIENCE, reached).expect("it is read again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_restarts_what_changed_adds_and_removes_and_the_rest_keeps_flowing() {
    let pair = Pair::new().await;
    let (world, other) = (&pair.world, pair.other.as_str());
    world.sql("CREATE TABLE third (seq bigint, name text)").await;
    world.produce((0..100).map(|n| numbered(n, 1)));
    let daemon = world.daemon(&pair.config("", ""));
    daemon.await_ready(PATIENCE).expect("it is ready");
    pair.await_rows(&daemon, "rides", 100).await;
    pair.await_rows(&daemon, "more", 100).await;
    let undisturbed = rebalances(&daemon, other);

    // One pipeline is changed, and one is added.
    let third = unique_name("third");
    hang_up(&daemon, &pair.again(&daemon, "consumers = 2", &pair.pipeline(&third, "third")));
    // When the status shows a pipeline, the page requests its history. So even a new pipeline must have a history.
    daemon
        .await_until("the status has it", PATIENCE, |daemon| {
            daemon.get("/api/status").is_ok_and(|answer| answer.body.contains(&third))
        })
        .unwrap();
    let history = daemon.get(&format!("/api/history?pipeline={third}")).expect("it answers");
    assert!(history.body.contains(&format!(r#""version":1,"pipeline":"{third}""#)), "{}", history.body);
    reloads(&daemon, "success", 1.0);
    pair.await_rows(&daemon, "third", 100).await;
    world.produce((100..200).map(|n| numbered(n, 1)));
    for table in ["rides", "more", "third"] {
        pair.await_rows(&daemon, table, 200).await;
    }
    daemon.await_ready(PATIENCE).expect("all are ready");
    let status = daemon.status_json().expect("it answers");
    let consumers = |name: &str| {
        let pipelines = status["pipelines"].as_array().expect("a list").iter();
        pipelines.filter(|p| p["name"] == name).map(|p| p["consumers"].as_array().expect("a list").len()).sum::<usize>()
    };
    assert_eq!((consumers(&world.name), consumers(other), consumers(&third)), (2, 1, 1));

    // One pipeline is removed. It drains, and its series disappear.
    hang_up(&daemon, &pair.again(&daemon, "consumers = 2", ""));
    daemon.await_log("the pipeline is removed", PATIENCE).expect("it is removed");
    assert_eq!(daemon.metric("tidegate_pipeline_state", &[("pipeline", &third)]), None);
    world.produce((200..210).map(|n| numbered(n, 1)));
    pair.await_rows(&daemon, "rides", 210).await;
    pair.await_rows(&daemon, "more", 210).await;
    assert_eq!(world.number("SELECT count(*) FROM third").await, 200, "it reads no more");
    assert_eq!(rebalances(&daemon, other), undisturbed, "the one that did not change was left alone");
    daemon.drain(PATIENCE).expect("it ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_without_a_topic_and_a_limit_removes_their_series() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (id bigint)").await;
    let other = unique_name("left");
    world.kafka.create_topic(&other, 1, &[]).expect("the topic is made");
    let one = world.config("table.name = \"rides\"");
    let topics = format!("topics = [\"{}\"]", world.topic);
    let both =
        one.replace(&topics, &format!("topics = [\"{}\", \"{other}\"]\nflow.max_rows_per_second = 1000", world.topic));
    let daemon = world.daemon(&both);
    let lag = |daemon: &Daemon, topic: &str| {
        daemon.metric("tidegate_lag_records", &[("pipeline", &world.name), ("topic", topic)])
    };
    let limit = || daemon.metric("tidegate_flow_max_rows_per_second", &[("pipeline", &world.name)]);
    let have_both = |daemon: &Daemon| lag(daemon, &world.topic).is_some() && lag(daemon, &other).is_some();
    daemon.await_until("both topics have a lag", PATIENCE, have_both).unwrap();
    assert_eq!(limit(), Some(1000.0));
    hang_up(&daemon, &one);
    reloads(&daemon, "success", 1.0);
    let has_one = |daemon: &Daemon| lag(daemon, &world.topic).is_some() && lag(daemon, &other).is_none();
    daemon.await_until("the topic that is read alone has a lag", PATIENCE, has_one).unwrap();
    assert_eq!(limit(), None);
    daemon.drain(PATIENCE).expect("it ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_with_faults_changes_nothing_and_one_that_needs_a_restart_says_so() {
    let pair = Pair::new().await;
    let (world, other) = (&pair.world, pair.other.as_str());
    let daemon = world.daemon(&pair.config("", ""));
    daemon.await_ready(PATIENCE).expect("it is ready");
    let before = (rebalances(&daemon, &world.name), rebalances(&daemon, other));
    hang_up(&daemon, &pair.again(&daemon, "batch.max_row = 7\nbatch.max_byte = 7", "consumer = 2"));
    let refused = daemon.await_log("the new configuration is refused", PATIENCE).expect("it says why");
    assert!(refused.contains("did you mean max_rows?"), "{refused}");
    reloads(&daemon, "failure", 1.0);
    let status = || daemon.get("/api/status").expect("it answers").body;
    let timeline = |daemon: &Daemon| {
        let status = daemon.status_json().unwrap_or_default();
        status["timeline"].as_array().is_some_and(|all| all.iter().any(|event| event["kind"] == "reload"))
    };
    assert!(status().contains("The last reload was refused"), "{}", status());
    let ran = tidegate(&pair.again(&daemon, "", ""), &["status"]).ok();
    for fault in ["batch.max_row: unknown key", "batch.max_byte: unknown key", "consumer: unknown key"] {
        assert!(status().contains(fault), "{fault}: {}", status());
        assert!(ran.out.contains(fault), "{fault}: {ran}");
    }
    daemon.await_until("the timeline has it", PATIENCE, timeline).expect("it has");
    assert_eq!(daemon.metric("tidegate_config_last_reload_successful", &[]), Some(0.0));
    world.produce((0..50).map(|n| numbered(n, 1)));
    pair.await_rows(&daemon, "rides", 50).await;
    pair.await_rows(&daemon, "more", 50).await;
    assert_eq!((rebalances(&daemon, &world.name), rebalances(&daemon, other)), before, "nothing restarted");

    // If the address is changed, the pipelines keep running, and the daemon names the key that needs a restart.
    hang_up(&daemon, &pair.config("", ""));
    let named = daemon.await_log("take effect when the process is restarted", PATIENCE).expect("it says so");
    assert!(named.contains("http.listen"), "{named}");
    reloads(&daemon, "success", 1.0);
    assert_eq!(daemon.metric("tidegate_config_last_reload_successful", &[]), Some(1.0));
    assert!(!status().contains("The last reload was refused"), "{}", status());
    assert_eq!((rebalances(&daemon, &world.name), rebalances(&daemon, other)), before, "nothing restarted");
}

/// Makes the first pipeline stop because of an error that doesn't go away. Then repairs the cause.
async fn stopped(pair: &Pair, daemon: &Daemon) {
    let world = &pair.world;
    world.refuse_writes().await;
    world.produce((0..2000).map(|n| numbered(n, 1)));
    pair.await_rows(daemon, "more", 2000).await;
    daemon.await_log("resume` starts it again", PATIENCE).expect("it stops");
    assert_eq!(world.number("SELECT count(*) FROM rides").await, 0);
    world.sql("DROP TRIGGER refuse ON rides").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_resumes_a_stopped_pipeline_and_leaves_the_other_alone() {
    let pair = Pair::new().await;
    let daemon = pair.world.daemon(&pair.config("", ""));
    daemon.await_ready(PATIENCE).expect("it is ready");
    stopped(&pair, &daemon).await;
    let undisturbed = rebalances(&daemon, &pair.other);
    daemon.hang_up().expect("it gets the signal");
    pair.await_rows(&daemon, "rides", 2000).await;
    daemon.await_ready(PATIENCE).expect("all are ready");
    assert_eq!(rebalances(&daemon, &pair.other), undisturbed);
    daemon.drain(PATIENCE).expect("a resumed pipeline is no failure");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_resumes_one_stopped_pipeline_by_its_name() {
    let pair = Pair::new().await;
    let config = pair.config("", "");
    tidegate(&config, &["pipelines", "resume", &pair.world.name]).fails(64, &["was never started on this database"]);
    let daemon = pair.world.daemon(&config);
    daemon.await_ready(PATIENCE).expect("it is ready");
    stopped(&pair, &daemon).await;
    let undisturbed = rebalances(&daemon, &pair.other);
    tidegate(&config, &["pipelines", "resume", "nobody"]).fails(64, &["nobody", &pair.other]);
    assert_eq!(pair.world.number("SELECT count(*) FROM rides").await, 0, "it was not asked");
    tidegate(&config, &["pipelines", "resume", &pair.world.name]).ok().says(&[&pair.world.name, "SIGHUP"]);
    pair.await_rows(&daemon, "rides", 2000).await;
    assert_eq!(rebalances(&daemon, &pair.other), undisturbed);

    // A request to resume a running pipeline is refused, and leaves nothing behind for a later stop.
    daemon.await_ready(PATIENCE).expect("it runs again");
    let requests = "SELECT sum(resumes)::int8 FROM tidegate.pipeline";
    let before = pair.world.number(requests).await;
    tidegate(&config, &["pipelines", "resume", &pair.world.name]).fails(64, &["runs already"]);
    assert_eq!(pair.world.number(requests).await, before);
    daemon.drain(PATIENCE).expect("a resumed pipeline is no failure");
    tidegate(&config, &["pipelines", "resume", &pair.world.name]).fails(64, &["no daemon runs", "tidegate run"]);
    assert_eq!(pair.world.number(requests).await, before);
}

/// A request to resume that was made before the pipeline stopped doesn't resume it.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_request_resumes_nothing() {
    let pair = Pair::new().await;
    let config = pair.config("", "");
    let daemon = pair.world.daemon(&config);
    daemon.await_ready(PATIENCE).expect("it is ready");
    pair.world.sql("UPDATE tidegate.pipeline SET resumes = resumes + 1").await;
    stopped(&pair, &daemon).await;
    let name = &pair.world.name;
    let state = |daemon: &Daemon| daemon.metric("tidegate_pipeline_state", &[("pipeline", name), ("state", "stopped")]);
    let listed = tidegate_harness::eventually("it is listed as stopped", PATIENCE, || {
        tidegate(&config, &["pipelines", "list"]).ok().out.contains(&format!("{name} stopped on "))
    });
    listed.unwrap_or_else(|error| panic!("{error}: {}", daemon.log_tail()));
    daemon.await_until("it stays stopped", PATIENCE, |daemon| state(daemon) == Some(1.0)).expect("it is shown");
    let list = tidegate(&config, &["pipelines", "list", "--json"]).ok().json();
    let of = |wanted: &str| {
        let all = list["pipelines"].as_array().expect("a list").iter();
        all.filter(|line| line["name"] == wanted).map(|line| line.to_string()).collect::<String>()
    };
    assert!(of(name).contains("closed for today") && of(name).contains("\"connections\":0"), "{list}");
    assert!(!of(&pair.other).contains("closed for today"), "{list}");

    // While a pipeline is stopped, its positions may be set, and it may be forgotten.
    tidegate(&config, &["offsets", "set", "--pipeline", name, "--offset", "latest"]).ok();
    let without = pair.world.config("table.name = \"rides\"").replacen(name.as_str(), "another", 1);
    tidegate(&without, &["pipelines", "forget", name, "--yes"]).ok().says(&["forgot"]);
    pair.world.sql("TRUNCATE rides").await;
    tidegate(&config, &["pipelines", "resume", name]).fails(64, &["is not registered", "SIGHUP"]);
    daemon.hang_up().expect("it gets the signal");
    pair.await_rows(&daemon, "rides", 2000).await;
    daemon.drain(PATIENCE).expect("a resumed pipeline is no failure");
}

/// Nobody reads the daemon's log any more, as after a terminal was closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_terminal_does_not_end_it() {
    let pair = Pair::new().await;
    let world = &pair.world;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tidegate.toml");
    let config = world.config("table.name = \"rides\"");
    std::fs::write(&file, &config).expect("the configuration is written");
    let mut command = Command::new(program());
    command.arg("run").arg("--config").arg(&file).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let stderr = child.stderr.take().expect("a pipe");
    {
        use std::io::{BufRead as _, BufReader};
        let mut lines = BufReader::new(stderr).lines();
        let joined = lines.find(|line| line.as_ref().is_ok_and(|line| line.contains("assigned")));
        assert!(joined.is_some(), "it is running");
    }
    let signal = |name: &str| {
        let sent = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    };
    signal("HUP");
    world.produce([Record::new(r#"{"seq":1,"name":"a"}"#).to(0)]);
    let there = tidegate_harness::eventually_async("the row is there", PATIENCE, async || {
        world.number("SELECT count(*) FROM rides").await == 1
    });
    there.await.expect("it flows on");
    signal("TERM");
    let status = child.wait().expect("it ends");
    assert_eq!(status.code(), Some(0));
}
