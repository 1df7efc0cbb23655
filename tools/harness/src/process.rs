//! Processes that end when this process ends.
//!
//! A [`Run`] is a temporary folder and a guard. The guard is a small shell script that reads from a pipe. Only this process can
//! write to the pipe. When this process ends in any way, even by SIGKILL, the system closes the pipe. The guard then kills the
//! processes that still run, with their children, and removes the folder.
//!
//! A [`Process`] never runs unguarded, because it starts in two steps. First a shell starts, and waits for a word on its standard
//! input. When the guard has the shell's process id, we send the word, and the shell becomes the program (`exec`).

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

use crate::{cache, usage};

const GUARD: &str = include_str!("guard.sh");
/// A shell script that waits for the word `go`, and then becomes the program. If this process ends before it has sent the word,
/// `read` fails and the program never starts.
const LAUNCHER: &str = r#"read -r word && [ "$word" = go ] && exec "$@" </dev/null"#;
const LAST_SIGNAL_DEADLINE: Duration = Duration::from_secs(2);
const LOG_LINES_SHOWN: usize = 30;
const PAUSE_BETWEEN_LOOKS: Duration = Duration::from_millis(5);
/// If this environment variable is set, the folders of ended runs are kept, with their logs.
const KEEP: &str = "TIDEGATE_KEEP_RUNS";

/// A folder for processes that are started together, and the guard that ends them.
#[derive(Debug)]
pub struct Run {
    folder: PathBuf,
    guard: Mutex<Child>,
    /// The pipe to the guard. Closing the pipe tells the guard that the run is over. Processes that start or end in parallel
    /// contend for the lock.
    orders: Mutex<Option<ChildStdin>>,
}

impl Run {
    /// Creates a folder with `name` in its name, and starts its guard.
    ///
    /// # Errors
    /// If the folder can't be created, or there is no `sh`.
    pub fn start(name: &str) -> Result<Arc<Self>> {
        let folder = tempfile::Builder::new()
            .prefix(&format!("tidegate-{name}-"))
            // Postgres may run as another user, so other users may enter the folder.
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir()
            .context("could not make a temporary folder")?
            .keep();
        let removed = if std::env::var_os(KEEP).is_some() { OsStr::new("") } else { folder.as_os_str() };
        let mut guard = Command::new("sh")
            .args(["-c", GUARD, "tidegate-guard"])
            .arg(removed)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()
            .context("could not start `sh`")?;
        let orders = guard.stdin.take();
        Ok(Arc::new(Self { folder, guard: Mutex::new(guard), orders: Mutex::new(orders) }))
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    fn tell_guard(&self, order: &str) -> Result<()> {
        let mut orders = lock(&self.orders);
        let orders = orders.as_mut().context("the run is over")?;
        orders.write_all(order.as_bytes()).context("the guard of the run is gone")
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        drop(lock(&self.orders).take());
        // Ignore an error: if the guard has ended already, there is nothing to wait for.
        drop(lock(&self.guard).wait());
    }
}

#[derive(Debug, Clone, Copy)]
pub struct User {
    pub uid: u32,
    pub gid: u32,
}

#[derive(Debug, Clone)]
pub enum Output {
    /// Standard output and standard error are appended to this file.
    Log(PathBuf),
    /// Standard output and standard error each have a pipe, which [`Process::take_pipes`] returns.
    Pipes,
}

#[derive(Debug)]
pub struct Program {
    /// The path of the program, or a name that is looked up in `PATH`.
    pub binary: OsString,
    pub args: Vec<OsString>,
    /// Variables that are set in addition to those of this process.
    pub env: Vec<(String, String)>,
    /// The user that the program runs as. `None` means the user of this process. Only root can choose another user.
    pub user: Option<User>,
    pub output: Output,
    /// The signal that is sent when the [`Process`] is dropped or the harness ends. A program that still runs two seconds later
    /// gets SIGKILL.
    pub end_signal: Signal,
}

/// A program that was started. Dropping this value ends the program. A program that doesn't end in time is killed with its
/// children.
#[derive(Debug)]
pub struct Process {
    run: Arc<Run>,
    pid: u32,
    log: Option<PathBuf>,
    end_signal: Signal,
    child: Mutex<Child>,
}

impl Process {
    /// Starts `program` under the guard of `run`.
    ///
    /// # Errors
    /// If the shell can't be started, if the log can't be opened, or if the guard is gone. A missing program, or one that ends at
    /// once, is no error here. Later calls report it, such as [`Process::await_ready`].
    pub fn start(run: &Arc<Run>, program: &Program) -> Result<Self> {
        let mut launcher = Command::new("sh");
        launcher.args(["-c", LAUNCHER, "tidegate-launcher"]).arg(&program.binary).args(&program.args);
        // Remove the harness' own variables, which have the same prefix as the daemon's.
        launcher.env_remove(cache::CHOSEN_BY).env_remove(KEEP);
        launcher.envs(program.env.iter().map(|(name, value)| (name, value)));
        launcher.stdin(Stdio::piped()).current_dir("/").process_group(0);
        if let Some(User { uid, gid }) = program.user {
            launcher.uid(uid).gid(gid);
        }
        let log = match &program.output {
            Output::Pipes => {
                launcher.stdout(Stdio::piped()).stderr(Stdio::piped());
                None
            }
            Output::Log(path) => {
                let file = File::options().create(true).append(true).open(path);
                let file = file.with_context(|| format!("could not open `{}`", path.display()))?;
                launcher.stdout(file.try_clone()?).stderr(file);
                Some(path.clone())
            }
        };
        let mut child = launcher.spawn().context("could not start `sh`")?;
        let stdin = child.stdin.take();
        let process = Self {
            run: Arc::clone(run),
            pid: child.id(),
            log,
            end_signal: program.end_signal,
            child: Mutex::new(child),
        };
        run.tell_guard(&format!("watch {} {}\n", process.pid, program.end_signal.as_raw()))?;
        stdin.context("the launcher has no input")?.write_all(b"go\n").context("the launcher is gone")?;
        Ok(process)
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn exit_status(&self) -> Option<ExitStatus> {
        // The process is our child, and only this code waits for it. So the call can't fail.
        lock(&self.child).try_wait().ok().flatten()
    }

    /// Sends `signal` to the process, but not to its children. Does nothing if the process has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // Hold the lock until the signal is sent. Otherwise the process could be reaped first, and another process could get its
        // id.
        let mut child = lock(&self.child);
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        send(self.pid, signal)
    }

    /// Kills the process and its children (SIGKILL), and waits until all have ended. Returns the exit status of the process, or
    /// an error if a child still runs after ten seconds. If the process has already ended, its children are not killed.
    pub fn kill(&self) -> Result<ExitStatus> {
        if let Some(status) = self.exit_status() {
            return Ok(status);
        }
        // Suspend it first, so that it can't start more children while we look for them.
        self.signal(Signal::STOP)?;
        let children = usage::descendants(self.pid);
        self.signal(Signal::KILL)?;
        for &child in &children {
            send(child, Signal::KILL)?;
        }
        let status = lock(&self.child).wait()?;
        crate::eventually("the children of a killed process end", Duration::from_secs(10), || {
            !children.iter().any(|&child| usage::is_alive(child))
        })?;
        Ok(status)
    }

    /// Suspends the process and its children (SIGSTOP), until [`Process::resume`].
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        usage::descendants(self.pid).into_iter().try_for_each(|child| send(child, Signal::STOP))
    }

    pub fn resume(&self) -> Result<()> {
        usage::descendants(self.pid).into_iter().try_for_each(|child| send(child, Signal::CONT))?;
        self.signal(Signal::CONT)
    }

    /// Waits until the process ends, by itself or because of an earlier signal. Returns its exit status.
    pub fn await_exit(&self, deadline: Duration) -> Result<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.exit_status() {
                return Ok(status);
            }
            if started.elapsed() > deadline {
                bail!("process {} did not end within {deadline:?}{}", self.pid, self.log_tail());
            }
            std::thread::sleep(PAUSE_BETWEEN_LOOKS);
        }
    }

    /// Waits until `is_ready` returns true. Fails if the process ends or `deadline` passes first. The error begins with `what`,
    /// and shows the end of the log if the output is [`Output::Log`].
    pub fn await_ready(&self, what: &str, deadline: Duration, mut is_ready: impl FnMut() -> bool) -> Result<()> {
        let started = Instant::now();
        while !is_ready() {
            if let Some(status) = self.exit_status() {
                bail!("{what} ended with {status} before it was ready{}", self.log_tail());
            }
            if started.elapsed() > deadline {
                bail!("{what} was not ready within {deadline:?}{}", self.log_tail());
            }
            std::thread::sleep(PAUSE_BETWEEN_LOOKS);
        }
        Ok(())
    }

    /// Returns the pipes of standard output and standard error. `None` without [`Output::Pipes`], and from the second call on.
    pub fn take_pipes(&self) -> Option<(ChildStdout, ChildStderr)> {
        let mut child = lock(&self.child);
        child.stdout.take().zip(child.stderr.take())
    }

    fn log_tail(&self) -> String {
        self.log.as_deref().map(log_tail).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.end_signal != Signal::KILL {
            // A suspended process doesn't handle the signal, so resume it. Ignore failures, because the process is killed below
            // anyway.
            drop(self.resume().and_then(|()| self.signal(self.end_signal)));
            drop(self.await_exit(LAST_SIGNAL_DEADLINE));
        }
        // If the kill fails, the guard still has the process' id, and kills the process when the run ends.
        if self.kill().is_ok() {
            drop(self.run.tell_guard(&format!("forget {}\n", self.pid)));
        }
    }
}

/// Returns the last lines of a log, as text to append to an error message. The text is empty if the log can't be read.
pub fn log_tail(path: &Path) -> String {
    let Ok(bytes) = fs::read(path) else { return String::new() };
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let shown = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n");
    format!("; `{}` ends with:\n{shown}", path.display())
}

fn send(pid: u32, signal: Signal) -> Result<()> {
    let target = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no such process id")?;
    match kill_process(target, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
        Err(error) => Err(error).with_context(|| format!("could not send a signal to process {pid}")),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
