//! Compares what `deploy/`, `docker-compose.yml` and `docs/runbook.md` say about metrics, alerts and configuration with the
//! daemon and with each other.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tidegate_harness::{Record, eventually, free_port, unique_name};

use crate::support::{PATIENCE, World};

const DASHBOARD: &str = "deploy/grafana/dashboards/tidegate.json";
const ALERTS: &str = "deploy/prometheus/alerts.yml";
/// Tidegate's series begin with one of these. By Prometheus' convention, series about a process begin with `process_`.
const PREFIXES: [&str; 2] = ["tidegate_", "process_"];

fn path(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(of)
}

fn read(of: &str) -> String {
    std::fs::read_to_string(path(of)).unwrap_or_else(|error| panic!("{of}: {error}"))
}

fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| PREFIXES.iter().any(|prefix| word.starts_with(prefix))).map(str::to_owned).collect()
}

fn expressions(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match value.as_str() {
                    Some(text) if name == "expr" || name == "query" || name == "definition" => {
                        found.push(text.to_owned());
                    }
                    _ => expressions(value, found),
                }
            }
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

/// Returns the text after `key` on the lines of a YAML file, unparsed.
fn values<'a>(yaml: &'a str, key: &str) -> Vec<&'a str> {
    yaml.lines().filter_map(|line| line.trim().trim_start_matches("- ").strip_prefix(key)).map(str::trim).collect()
}

/// Returns whether the image's health check succeeds for a daemon with this configuration. The health check requests the path
/// `asked`.
fn is_healthy(config: &str, asked: &str) -> bool {
    let (_, listen) = config.split_once("listen = \"127.0.0.1:").expect("the configuration says where to listen");
    let (port, _) = listen.split_once('"').expect("the address ends");
    let check = Command::new("bash").arg(path("deploy/healthcheck.sh")).args([asked, port]).status();
    check.expect("bash runs").success()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_of_the_dashboard_and_the_alerts_is_on_a_real_metrics_page() {
    let dashboard: serde_json::Value = serde_json::from_str(&read(DASHBOARD)).expect("the dashboard is JSON");
    let mut asked = Vec::new();
    expressions(&dashboard, &mut asked);
    assert!(asked.len() > 20, "only {} expressions were found on the dashboard", asked.len());
    // The texts of the alerts name no metrics, so the whole file can be searched.
    asked.push(read(ALERTS));
    let wanted: BTreeSet<String> = asked.iter().flat_map(|text| metrics_in(text)).collect();
    assert!(wanted.len() > 20, "only {wanted:?}");

    let mut world = World::new(2).await;
    // The headroom needs a topic with a retention. The test's broker doesn't delete records by default.
    world.topic = unique_name("week");
    world.kafka.create_topic(&world.topic, 2, &[("retention.ms", "604800000")]).expect("the topic is made");
    world.sql("CREATE TABLE rides (id bigint, lat float8); CREATE TABLE lost (LIKE rides)").await;
    // Some series exist only after a fault. One such series is for a log whose unread records Kafka deleted.
    let lost = unique_name("lost");
    world.kafka.create_topic(&lost, 1, &[]).expect("the topic is made");
    let other = format!("[pipelines.{lost}]\ntopics = [\"{lost}\"]\ntable.name = \"lost\"\n");
    let config = world.config("table.name = \"rides\"") + &other;
    let lose = |range: std::ops::Range<i32>| {
        world.kafka.produce(&lost, range.map(|n| Record::new(format!(r#"{{"id":{n}}}"#)))).expect("Kafka takes them");
    };
    lose(0..10);
    let (code, log) = world.drain(&config);
    assert_eq!(code, Some(0), "{log}");
    lose(10..20);
    world.kafka.delete_records(&lost, 0, 15).expect("records are deleted");
    world.produce((0..1_000).map(|n: i32| Record::new(format!(r#"{{"id":{n},"lat":52.5}}"#)).to(n % 2)));
    world.produce([Record::new(r#"{"id":1000,"lat":"n/a"}"#), Record::new("not JSON")]);
    // Another series that exists only after a fault counts the rows that lack a column's field.
    world.produce([Record::new(r#"{"id":1001}"#)]);
    let daemon = world.daemon(&config);
    let dead = || daemon.metric("tidegate_dead_letters_total", &[("pipeline", &world.name)]);
    eventually("both bad records are dead letters", PATIENCE, || dead() == Some(2.0)).expect("within its time");
    let all = || daemon.get("/metrics").expect("the metrics are served").body;
    // The lag appears with the first reading of the log ends. The age of this reading follows within a second.
    eventually("the lag is known", PATIENCE, || {
        let page = all();
        ["retention_headroom_seconds", "lag_reading_age_seconds", "log_loss"]
            .iter()
            .all(|name| page.contains(&format!("\ntidegate_{name}{{")))
    })
    .expect("within its time");

    assert!(is_healthy(&config, "/healthz"), "the image's health check finds the daemon");
    let page = all();
    let missing: Vec<_> = wanted
        .iter()
        .filter(|name| {
            !page.lines().any(|line| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} ")))
        })
        .collect();
    assert!(missing.is_empty(), "asked for, and not on /metrics: {missing:?}\n{page}");
    assert_eq!(daemon.metric("tidegate_rows_written_total", &[("pipeline", &world.name)]), Some(1_001.0));
    assert_eq!(daemon.metric("tidegate_records_consumed_total", &[("pipeline", &world.name)]), Some(1_003.0));
    // Keep the metrics in the build's folder, for `promtool check metrics`.
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("metrics.txt");
    std::fs::write(&kept, &page).expect("the page is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn series_of_events_exist_before_any_event_while_postgres_is_down() {
    let world = World::new(1).await;
    // Nothing listens on this port, so the pipeline waits for Postgres from the start.
    let port = free_port().expect("a free port");
    let config = world.config_at(&format!("postgres://nobody@127.0.0.1:{port}/nowhere"), "table.name = \"rides\"");
    let daemon = world.daemon(&config);
    let is = |name: &str, labels: &[(&str, &str)]| daemon.metric(name, labels) == Some(0.0);
    eventually("the counters stand at 0", PATIENCE, || {
        is("tidegate_dead_letters_total", &[("reason", "type_mismatch")])
            && is("tidegate_records_lost_total", &[("cause", "retention")])
            && is("tidegate_records_lost_total", &[("cause", "log_replaced")])
            && is("tidegate_retries_total", &[("sqlstate_class", "57")])
            && is("tidegate_fenced_total", &[("pipeline", &world.name)])
            && is("tidegate_ledger_rewinds_total", &[("pipeline", &world.name)])
            && is("tidegate_batches_total", &[("trigger", "revoke")])
            && is("tidegate_end_to_end_latency_seconds_count", &[("pipeline", &world.name)])
    })
    .expect("before the pipeline has ever reached Postgres");
    // During an outage the container must not be restarted, but the outage must be visible.
    assert!(is_healthy(&config, "/healthz"));
    assert!(!is_healthy(&config, "/readyz"));
    let state = |state| daemon.metric("tidegate_pipeline_state", &[("pipeline", &world.name), ("state", state)]);
    assert_eq!(state("starting"), Some(1.0));
    let page = daemon.get("/metrics").expect("the metrics are served").body;
    assert!(page.contains("# TYPE tidegate_cycle_seconds_total counter"), "{page}");
    let resident = daemon.metric("process_resident_memory_bytes", &[]).expect("the kernel tells");
    assert!(resident > 1e6, "{resident}");
}

#[test]
fn every_alert_has_its_words_and_its_section_in_the_runbook() {
    let (alerts, runbook) = (read(ALERTS), read("docs/runbook.md"));
    let names = values(&alerts, "alert:");
    assert!(names.len() >= 8, "{names:?}");
    let sections: BTreeSet<&str> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    let missing: Vec<_> = names.iter().filter(|name| !sections.contains(*name)).collect();
    assert!(missing.is_empty(), "without a section in docs/runbook.md: {missing:?}");
    let unknown: Vec<_> =
        sections.iter().filter(|name| name.starts_with("Tidegate") && !names.contains(name)).collect();
    assert!(unknown.is_empty(), "sections of alerts that don't exist: {unknown:?}");
    for key in ["summary:", "description:", "runbook:", "severity:"] {
        assert_eq!(values(&alerts, key).len(), names.len(), "each alert has one `{key}`");
    }
    let links: Vec<_> = values(&alerts, "runbook:");
    for (name, link) in names.iter().zip(links) {
        assert_eq!(link, format!("docs/runbook.md#{}", name.to_lowercase()));
    }
    let tests = read("deploy/prometheus/alerts_test.yml");
    let is_tested = |name: &str| {
        values(&tests, "alertname:").contains(&name)
            || tests.contains(&format!("- expr: ALERTS{{alertname=\"{name}\"}}"))
    };
    let untested: Vec<_> = names.iter().filter(|name| !is_tested(name)).collect();
    assert!(untested.is_empty(), "without a unit test: {untested:?}");
}

/// Returns the configuration of the daemon in docker-compose.yml. The daemon's command names the files, which are merged in this
/// order.
fn stack() -> tidegate::config::Config {
    let compose = read("docker-compose.yml");
    let (_, service) = compose.split_once("\n  tidegate:").expect("a service `tidegate`");
    let command = values(service, "command:")[0];
    let files: Vec<_> = command
        .split([',', '[', ']', ' '])
        .filter_map(|word| word.strip_prefix("/etc/tidegate/"))
        .map(|file| path("config").join(file))
        .collect();
    assert_eq!(files.len(), 2, "{command}");
    tidegate::config::Config::load(&files, std::iter::empty()).unwrap_or_else(|faults| panic!("{faults}"))
}

#[test]
fn the_stack_and_its_configuration_agree() {
    let (compose, config) = (read("docker-compose.yml"), stack());
    let names: Vec<_> = config.pipelines.iter().map(|pipeline| pipeline.name.as_str()).collect();
    assert_eq!(names, ["customer_info", "fare", "ride_analysis"]);
    for pipeline in &config.pipelines {
        assert_eq!(format!("{:?}", pipeline.topics), "List([\"telemetry\"])", "the fleet's topic");
        let table = format!("CREATE TABLE IF NOT EXISTS {} (", pipeline.table.name);
        assert!(read("config/fleet.sql").contains(&table), "{table}");
    }
    assert!(compose.contains("--topic, telemetry") && compose.contains("--topic=telemetry"));
    assert!(compose.contains("--partitions, \"4\"") && compose.contains("--partitioning=vehicle:4"));
    assert_eq!(config.kafka.bootstrap_servers, "kafka:19092");
    assert!(compose.contains("aliases: [kafka]") && compose.contains("INTERNAL://kafka:19092"));
    let port = config.http.listen.port();
    assert!(compose.contains(&format!("127.0.0.1:{port}-")) && read("Dockerfile").contains(&format!("EXPOSE {port}")));
    assert!(!config.http.listen.ip().is_loopback(), "nobody else would reach it in its container");
}

#[test]
fn every_file_that_the_stack_and_the_image_use_exists() {
    let (compose, dockerfile) = (read("docker-compose.yml"), read("Dockerfile"));
    let mounted = compose.split(['"', ' ', '\n', '[']).filter_map(|word| word.strip_prefix("./"));
    let mounted: Vec<_> = mounted.map(|mount| mount.split(':').next().expect("a path")).collect();
    assert!(mounted.len() >= 8, "{mounted:?}");
    let copied = dockerfile.lines().filter(|line| line.starts_with("COPY ") && !line.contains("--from="));
    let copied: Vec<_> =
        copied.flat_map(|line| line.split(' ').filter(|word| word.contains('/') && !word.starts_with('/'))).collect();
    assert!(copied.len() >= 2, "{copied:?}");
    for taken in mounted.iter().chain(&copied) {
        assert!(path(taken).exists(), "{taken}");
    }
    // The build context must not exclude files that the image copies.
    for line in read(".dockerignore").lines().filter(|line| !line.is_empty() && !line.starts_with(['#', '!'])) {
        let hidden = line.trim_end_matches('/');
        assert!(copied.iter().all(|copied| !copied.starts_with(hidden)), "{hidden}");
    }
}

#[test]
fn the_stack_grants_the_daemon_longer_to_drain_than_it_may_take() {
    let compose = read("docker-compose.yml");
    let after = compose.split_once("\n  tidegate:").expect("a service `tidegate`").1;
    let grace = values(after, "stop_grace_period:")[0].trim_end_matches('s').parse::<u64>().expect("whole seconds");
    let config = stack();
    assert!(Duration::from_secs(grace) > config.limits.drain_timeout + Duration::from_secs(10), "{grace} s");
}

#[test]
fn the_daemon_takes_the_configurations_of_kubernetes() {
    let secrets = tempfile::tempdir().expect("a folder");
    for (secret, text) in [("postgres-url", "postgres://tidegate@postgres/telemetry"), ("kafka-password", "secret")] {
        std::fs::write(secrets.path().join(secret), text).expect("the secret is written");
    }
    let mounted = |file: &str| {
        let text = read(file).replace("/run/secrets/tidegate", &secrets.path().to_string_lossy());
        let path = secrets.path().join("daemon.toml");
        std::fs::write(&path, text).expect("the file is written");
        path
    };
    let pipelines = path("deploy/kubernetes/base/pipelines.toml");
    for daemon in ["base", "overlays/production"] {
        let files = [mounted(&format!("deploy/kubernetes/{daemon}/daemon.toml")), pipelines.clone()];
        let config =
            tidegate::config::Config::load(&files, std::iter::empty()).unwrap_or_else(|faults| panic!("{faults}"));
        for pipeline in &config.pipelines {
            tidegate::limits::share(&config, pipeline).unwrap_or_else(|fault| panic!("{daemon}: {fault}"));
        }
        assert!(!config.http.listen.ip().is_loopback(), "{daemon}: probes and Prometheus come from outside the pod");
    }
}

#[test]
fn the_network_policy_opens_the_ports_of_the_base_configuration() {
    let policy = read("deploy/kubernetes/components/network-policy/networkpolicy.yaml");
    let (ingress, egress) = policy.split_once("  egress:\n").expect("rules for egress");
    let ports = |rules: &str| values(rules, "{ port:").iter().map(|port| (*port).to_owned()).collect::<Vec<_>>();
    assert_eq!(ports(ingress), ["http, protocol: TCP }"], "metrics and the page");
    let stateful = read("deploy/kubernetes/base/statefulset.yaml");
    let config = read("deploy/kubernetes/base/daemon.toml");
    let port = |key: &str| {
        let address = values(&config, key)[0].trim_end_matches('"');
        address.rsplit_once(':').expect("a port").1.to_owned()
    };
    assert!(stateful.contains(&format!("- {{ name: http, containerPort: {} }}", port("listen ="))));
    let kafka = format!("{}, protocol: TCP }}", port("bootstrap_servers ="));
    assert!(ports(egress).contains(&kafka), "{kafka} in {policy}");
    assert!(policy.contains("podSelector: { matchLabels: { app.kubernetes.io/name: tidegate } }"), "{policy}");
}
