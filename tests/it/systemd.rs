//! The daemon reports its state to a service manager, as a service of `Type=notify` with a watchdog.

use std::os::unix::net::UnixDatagram;

use tidegate_harness::{Daemon, Record};

use crate::support::{PATIENCE, World, spec};

/// A stand-in for systemd. It owns the socket to which services send their messages.
struct Manager {
    socket: UnixDatagram,
    folder: tempfile::TempDir,
}

impl Manager {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = UnixDatagram::bind(folder.path().join("notify")).expect("the socket is made");
        socket.set_read_timeout(Some(PATIENCE)).expect("the socket has a timeout");
        Self { socket, folder }
    }

    fn name(&self) -> String {
        self.folder.path().join("notify").to_string_lossy().into_owned()
    }

    fn until(&self, wanted: impl Fn(&str) -> bool) -> Vec<String> {
        let mut messages = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let size =
                self.socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{error}; so far came {messages:?}"));
            messages.push(String::from_utf8(buffer[..size].to_vec()).expect("messages are text"));
            if wanted(messages.last().expect("one was pushed")) {
                return messages;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_that_the_daemon_is_ready_lives_works_and_ends() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (id bigint)").await;
    world.produce((0..10).map(|n| Record::new(format!(r#"{{"id":{n}}}"#))));
    let manager = Manager::new();
    let config = world.config("table.name = \"rides\"");
    let daemon = spec(&config).env("NOTIFY_SOCKET", manager.name()).env("WATCHDOG_USEC", "30000000");
    let daemon = Daemon::spawn(&daemon).expect("the daemon starts");
    manager.until(|message| message == "READY=1");
    let flows = format!("STATUS={} flowing\nWATCHDOG=1", world.name);
    manager.until(|message| message == flows);
    daemon.terminate().expect("the daemon gets the signal");
    manager.until(|message| message == "STOPPING=1");
    assert!(daemon.wait_exit(PATIENCE).expect("the daemon ends").success());
}

/// systemd compares the time in the message RELOADING=1 with that of its signal. Then it waits for READY=1. The daemon must send
/// READY=1 even if the new configuration has faults.
#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_when_a_reload_begins_and_ends() {
    let world = World::new(1).await;
    world.sql("CREATE TABLE rides (id bigint)").await;
    let manager = Manager::new();
    let config = world.config("table.name = \"rides\"");
    let daemon = Daemon::spawn(&spec(&config).env("NOTIFY_SOCKET", manager.name())).expect("the daemon starts");
    manager.until(|message| message == "READY=1");
    for config in [config.clone(), config.replace("table.name", "table.nam")] {
        daemon.write_config(&config).expect("the file is written");
        let signalled = monotonic_micros();
        daemon.hang_up().expect("the daemon gets the signal");
        let messages = manager.until(|message| message.starts_with("RELOADING=1"));
        let began = messages.last().and_then(|message| message.strip_prefix("RELOADING=1\nMONOTONIC_USEC="));
        let began: i64 = began.expect("the time is told").parse().expect("a number");
        assert!(signalled <= began && began <= monotonic_micros(), "{signalled} {began}");
        manager.until(|message| message == "READY=1");
    }
}

/// Returns the time of the monotonic clock, with which systemd dates its signals, in microseconds.
fn monotonic_micros() -> i64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1_000
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_is_ready_for_systemd_while_postgres_is_away_and_without_a_watchdog_none_is_fed() {
    let world = World::new(1).await;
    let manager = Manager::new();
    let nobody = tidegate_harness::free_port().expect("a free port");
    let config = world.config_at(&format!("postgres://nobody@127.0.0.1:{nobody}/nowhere"), "table.name = \"rides\"");
    let _daemon = Daemon::spawn(&spec(&config).env("NOTIFY_SOCKET", manager.name())).expect("the daemon starts");
    manager.until(|message| message == "READY=1");
    let waits = format!("STATUS={} starting", world.name);
    manager.until(|message| message == waits);
}
