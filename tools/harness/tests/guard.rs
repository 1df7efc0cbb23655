//! Checks that the servers don't outlive the process that started them, even if that process is killed.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use tidegate_harness::{Kafka, KafkaSpec, Postgres, PostgresSpec, eventually, usage};

const DEADLINE: Duration = Duration::from_secs(60);
/// If this environment variable is set, the test starts servers and waits until it is killed.
const VICTIM: &str = "TIDEGATE_GUARD_TEST_VICTIM";

#[tokio::test]
async fn servers_and_their_folders_are_gone_after_their_parent_is_killed() {
    if std::env::var_os(VICTIM).is_some() {
        return start_servers_and_wait().await;
    }
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "servers_and_their_folders_are_gone_after_their_parent_is_killed", "--nocapture"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(parent.stdout.take().unwrap()).lines().map(Result::unwrap);
    let started = lines.into_iter().find_map(|line| line.strip_prefix("started ").map(str::to_owned)).unwrap();
    let (folder, pids) = started.split_once(' ').unwrap();
    let pids: Vec<u32> = pids.split(' ').map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.iter().all(|&pid| usage::is_alive(pid)));

    parent.kill().unwrap();
    parent.wait().unwrap();
    eventually("every server ends", DEADLINE, || !pids.iter().any(|&pid| usage::is_alive(pid))).unwrap();
    eventually("the folder is removed", DEADLINE, || !Path::new(folder).exists()).unwrap();
}

async fn start_servers_and_wait() {
    let kafka = Kafka::start(&KafkaSpec::single()).unwrap();
    let postgres = Postgres::start(&PostgresSpec::default()).unwrap();
    let _connection = postgres.connect("postgres").await.unwrap();
    let mut pids = postgres.backend_pids().unwrap();
    pids.extend([postgres.pid().unwrap(), kafka.pid(0).unwrap()]);
    // Suspend Postgres, so that it can't end by itself when its parent is killed.
    postgres.pause().unwrap();
    let folder = postgres.data_dir().unwrap().ancestors().nth(2).unwrap().display();
    let pids: Vec<String> = pids.iter().map(ToString::to_string).collect();
    println!("\nstarted {folder} {}", pids.join(" "));
    std::future::pending().await
}
