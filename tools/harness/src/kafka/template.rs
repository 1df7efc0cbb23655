//! Creates the template for the data folders of all brokers of one version. This is done once, after the download.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{START_DEADLINE, STOP_DEADLINE, TunedFor, is_listening, java};
use crate::fetch::{JAVA_MISSING, Jars, run};
use crate::free_port;
use crate::process::{Process, Run, Signal};

const CLUSTER_ID: &str = "dGVtcGxhdGVvZmFsbGRhdA";

/// Prepares two things that make later starts faster. First, formats a data folder and keeps the file that all data folders have
/// in common, because the formatter takes as long as a broker's start. Then runs a broker once and saves its loaded classes. With
/// this archive, a broker starts about twice as fast.
pub(crate) fn prepare(jars: &Jars) -> Result<()> {
    let run = Run::start("template")?;
    let port = free_port()?;
    let properties = run.folder().join("server.properties");
    let data = run.folder().join("data");
    let controller_port = free_port()?;
    fs::write(
        &properties,
        format!(
            "process.roles=broker,controller\nnode.id=1\ncontroller.listener.names=CONTROLLER\n\
             listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}\n\
             controller.quorum.voters=1@127.0.0.1:{controller_port}\nlog.dirs={}\n",
            data.display()
        ),
    )?;
    format(jars, &properties)?;
    copy_checkpoint(|path| data.join(path), |path| jars.checkpoint(path))?;
    if let Err(error) = save_classes(&run, jars, &properties, port) {
        eprintln!("brokers will start slowly, their classes could not be saved: {error:#}");
    }
    Ok(())
}

/// The path of the checkpoint in a data folder. Kafka 4.2 and earlier use the first path, later versions the second.
const CHECKPOINTS: [&str; 2] =
    ["bootstrap.checkpoint", "__cluster_metadata-0/00000000000000000000-0000000000.checkpoint"];

/// Copies the checkpoint, which lists a cluster's features, from one folder to another. `from` and `to` turn a path of
/// `CHECKPOINTS` into a path in the first and in the second folder.
pub(super) fn copy_checkpoint(from: impl Fn(&str) -> PathBuf, to: impl Fn(&str) -> PathBuf) -> Result<()> {
    let path = CHECKPOINTS.into_iter().find(|path| from(path).is_file()).context("the formatter left no checkpoint")?;
    let target = to(path);
    target.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::copy(from(path), target)?;
    Ok(())
}

fn format(jars: &Jars, properties: &Path) -> Result<()> {
    let mut format = Command::new("java");
    format.args(["-XX:TieredStopAtLevel=1", "-cp", &jars.classpath(), "kafka.tools.StorageTool", "format"]);
    format.args(["--cluster-id", CLUSTER_ID, "--config"]).arg(properties);
    run(&mut format, JAVA_MISSING)
}

fn save_classes(run: &std::sync::Arc<Run>, jars: &Jars, properties: &Path, port: u16) -> Result<()> {
    let log = run.folder().join("broker.log");
    let mut program = java(jars, TunedFor::Tests, "kafka.Kafka", properties, log);
    program.args.insert(0, format!("-XX:ArchiveClassesAtExit={}", jars.class_archive().display()).into());
    let broker = Process::start(run, &program)?;
    broker.await_ready("the broker", START_DEADLINE, || is_listening(port))?;
    broker.signal(Signal::TERM)?;
    broker.await_exit(STOP_DEADLINE)?;
    Ok(())
}
