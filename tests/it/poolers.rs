//! A pgbouncer in front of Postgres. Its session mode works; its other modes are detected and refused.

use std::fs;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use tidegate_harness::free_port;
use tidegate_harness::process::{Output, Process, Program, Run, Signal, User};

use crate::accounting::NUMBERED;
use crate::cli::tidegate;
use crate::support::{PATIENCE, World};

struct Pooler {
    #[expect(dead_code, reason = "held to live as long as the test")]
    process: Process,
    port: u16,
}

/// Returns the path of pgbouncer. If it is missing, installs Debian's package.
fn pgbouncer() -> PathBuf {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
        folders.map(|folder| folder.join("pgbouncer")).find(|file| file.is_file())
    };
    let install = || {
        let script = "sudo=$([ \"$(id -u)\" = 0 ] || echo sudo -n); $sudo apt-get update -qq && \
                      $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends pgbouncer";
        let ran = Command::new("sh").args(["-c", script]).output().expect("sh runs");
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        find().unwrap_or_else(|| {
            panic!("pgbouncer is missing and can't be installed; install the package pgbouncer: {said}")
        })
    };
    FOUND.get_or_init(|| find().unwrap_or_else(install)).clone()
}

impl Pooler {
    /// Starts pgbouncer in this mode. As by default, it refuses startup parameters that it doesn't track.
    fn start(world: &World, mode: &str) -> Self {
        let run = Run::start("pgbouncer").expect("a folder");
        let port = free_port().expect("a free port");
        let address = world.postgres.address();
        let (host, server_port) = address.rsplit_once(':').expect("a port");
        let file = run.folder().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={host} port={server_port} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = any\npool_mode = {mode}\nmax_client_conn = 200\ndefault_pool_size = 100\n"
        );
        fs::write(&file, text).expect("the configuration is written");
        // pgbouncer refuses to run as root. So it runs as the owner of Postgres' data.
        let owner = fs::metadata(world.postgres.data_dir().expect("the data")).expect("its owner");
        let (uid, gid) = (std::os::unix::fs::MetadataExt::uid(&owner), std::os::unix::fs::MetadataExt::gid(&owner));
        chown(&file, Some(uid), Some(gid)).expect("the configuration is handed over");
        let program = Program {
            binary: pgbouncer().into(),
            args: vec![file.into()],
            env: Vec::new(),
            user: Some(User { uid, gid }),
            output: Output::Log(run.folder().join("pgbouncer.log")),
            end_signal: Signal::KILL,
        };
        let process = Process::start(&run, &program).expect("pgbouncer starts");
        let listens = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        if let Err(error) = process.await_ready("pgbouncer", PATIENCE, listens) {
            panic!("{error:#}");
        }
        Self { process, port }
    }

    fn config(&self, world: &World, pipeline: &str) -> String {
        world.config_at(&world.database.url_at(format_args!("127.0.0.1:{}", self.port)), pipeline)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_session_mode_drains_in_each_mode_of_writing() {
    let world = World::new(2).await;
    let pooler = Pooler::start(&world, "session");
    for (n, mode) in ["append", "insert_new", "upsert"].iter().enumerate() {
        world.sql(&format!("DROP TABLE IF EXISTS rides; DROP SCHEMA IF EXISTS tidegate CASCADE; {NUMBERED}")).await;
        world.sql("ALTER TABLE rides ADD UNIQUE (seq)").await;
        let first = 5_000 * i32::try_from(n).expect("a small number");
        world.produce_numbered(first..first + 5_000, 2);
        let key = if *mode == "append" { "" } else { "\ntable.key = [\"seq\"]" };
        let pipeline =
            format!("table.name = \"rides\"\ntable.mode = \"{mode}\"\nbatch.max_rows = 500\nconsumers = 2{key}");
        let (code, log) = world.drain(&pooler.config(&world, &pipeline));
        assert_eq!(code, Some(0), "{mode}: {log}");
        world.assert_exact(i64::from(first) + 5_000).await;
    }
    tidegate(
        &pooler.config(&world, "table.name = \"rides\"\ntable.mode = \"upsert\"\ntable.key = [\"seq\"]"),
        &["check"],
    )
    .ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_another_mode_is_refused_by_name_and_nothing_is_written() {
    let world = World::new(2).await;
    world.sql(NUMBERED).await;
    world.produce_numbered(0..100, 2);
    for mode in ["transaction", "statement"] {
        let pooler = Pooler::start(&world, mode);
        let config = pooler.config(&world, "table.name = \"rides\"");
        tidegate(&config, &["check"])
            .fails(69, &["a pooler gives each transaction another session", "set pool_mode = session"]);
        let daemon = world.daemon(&config);
        daemon.await_log("a pooler gives each transaction another session", PATIENCE).expect("it says so");
        let ready = daemon.get("/readyz").expect("it answers");
        assert_eq!(ready.status, 503, "{}", ready.body);
        drop(daemon);
        assert_eq!(world.schemas().await, 0, "{mode}: nothing was made");
    }
}
