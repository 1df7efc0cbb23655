//! Checks how a daemon is run, observed and ended. A shell script plays the daemon.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use tidegate_harness::{Daemon, DaemonSpec};

const DEADLINE: Duration = Duration::from_secs(20);

fn script(folder: &tempfile::TempDir, text: &str) -> PathBuf {
    let path = folder.path().join("daemon.sh");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

#[test]
fn a_daemon_gets_its_configuration_and_drains_when_told_to_end() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"echo "$1 $2 $4 $GREETING"; cat "$3" >&2; trap 'echo drained; exit 7' TERM; echo ready; while :; do sleep 0.05; done"#;
    let spec = DaemonSpec::new(script(&folder, text), "answer = 42\n").arg("--until").env("GREETING", "hello");
    let daemon = Daemon::spawn(&spec).unwrap();
    assert_eq!(daemon.await_log("hello", DEADLINE).unwrap(), "run --config --until hello");
    daemon.await_log("answer = 42", DEADLINE).unwrap();
    daemon.await_log("ready", DEADLINE).unwrap();
    daemon.terminate().unwrap();
    assert_eq!(daemon.wait_exit(DEADLINE).unwrap().code(), Some(7));
    assert_eq!(daemon.log().last().unwrap(), "drained");
}

#[test]
fn a_daemon_that_ends_early_is_told_with_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let daemon = Daemon::spawn(&DaemonSpec::new(script(&folder, "echo 'no such topic' >&2; exit 64"), "")).unwrap();
    let error = format!("{:#}", daemon.await_log("ready", DEADLINE).unwrap_err());
    assert!(error.contains("exit status: 64") && error.contains("no such topic"), "{error}");
}

#[test]
fn a_daemon_is_asked_over_http() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = std::thread::spawn(move || {
        for body in ["{\"version\":1}", "rows{pipeline=\"a\"} 3\n"] {
            let (mut client, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            assert!(client.read(&mut request).unwrap() > 0);
            write!(client, "HTTP/1.0 200 OK\r\n\r\n{body}").unwrap();
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let spec = DaemonSpec::new(script(&folder, "sleep 60"), "").http_address(address);
    let daemon = Daemon::spawn(&spec).unwrap();
    assert_eq!(daemon.status_json().unwrap()["version"], 1);
    assert_eq!(daemon.metric("rows", &[("pipeline", "a")]), Some(3.0));
    server.join().unwrap();
    assert_eq!(daemon.kill().unwrap().code(), None);
}
