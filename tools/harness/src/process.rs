//! Processes that die with us.
//!
//! A [`Run`] is a temporary folder and a guard: a small shell script that reads from a pipe whose only writer is this
//! process. When we end in any way, SIGKILL included, the pipe ends; the guard then kills what still runs, with its
//! children, and removes the folder. A [`Process`] is started in two steps, so that no moment is left in which it runs
//! unguarded: a shell waits for our word, we name its id to the guard, and then it becomes the program.

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
/// Waits for `go` and becomes the program. When we die before, `read` fails and the program never starts.
const LAUNCHER: &str = r#"read -r word && [ "$word" = go ] && exec "$@" </dev/null"#;
const LAST_SIGNAL_DEADLINE: Duration = Duration::from_secs(2);
const LOG_LINES_SHOWN: usize = 30;
const PAUSE_BETWEEN_LOOKS: Duration = Duration::from_millis(5);
/// Set to keep the folders of ended runs, with their logs.
const KEEP: &str = "TIDEGATE_KEEP_RUNS";

/// A folder of its own for what is started together, and the guard who ends it.
#[derive(Debug)]
pub struct Run {
    folder: PathBuf,
    guard: Mutex<Child>,
    /// Closed to tell the guard that the run is over. Contended by the processes of the run that start and end in parallel.
    orders: Mutex<Option<ChildStdin>>,
}

impl Run {
    /// Makes a folder with `name` in its name and starts its guard.
    ///
    /// # Errors
    /// When there is no room for temporary files, or no `sh`.
    pub fn start(name: &str) -> Result<Arc<Self>> {
        let folder = tempfile::Builder::new()
            .prefix(&format!("tidegate-{name}-"))
            // Postgres may run as another user, so others may enter.
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

    /// Returns the folder in which this run keeps its files.
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
        // It needs no answer: a guard that is gone leaves nothing to wait for.
        drop(lock(&self.guard).wait());
    }
}

/// A user to run a program as.
#[derive(Debug, Clone, Copy)]
pub struct User {
    pub uid: u32,
    /// The id of the user's main group.
    pub gid: u32,
}

/// Where a process writes.
#[derive(Debug, Clone)]
pub enum Output {
    /// Both streams, appended to a file.
    Log(PathBuf),
    /// Two pipes, to be taken with [`Process::take_pipes`].
    Pipes,
}

/// A program and how to run it.
#[derive(Debug)]
pub struct Program {
    /// A path, or a name to be found on `PATH`.
    pub binary: OsString,
    pub args: Vec<OsString>,
    /// Variables set beside those of this process.
    pub env: Vec<(String, String)>,
    /// The user that it runs as, if not ours. Requires root.
    pub user: Option<User>,
    pub output: Output,
    /// The signal that is tried for two seconds before SIGKILL, when it is dropped or the harness ends.
    pub last_signal: Signal,
}

/// A started program. Dropping it ends it, with its children.
#[derive(Debug)]
pub struct Process {
    run: Arc<Run>,
    pid: u32,
    log: Option<PathBuf>,
    last_signal: Signal,
    child: Mutex<Child>,
}

impl Process {
    /// Starts `program` under the guard of `run`.
    ///
    /// # Errors
    /// When it can't be started; that it ends at once is told by [`Process::await_ready`].
    pub fn start(run: &Arc<Run>, program: &Program) -> Result<Self> {
        let mut launcher = Command::new("sh");
        launcher.args(["-c", LAUNCHER, "tidegate-launcher"]).arg(&program.binary).args(&program.args);
        // The harness's own, which share the prefix of the daemon's.
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
            last_signal: program.last_signal,
            child: Mutex::new(child),
        };
        run.tell_guard(&format!("watch {} {}\n", process.pid, program.last_signal.as_raw()))?;
        stdin.context("the launcher has no input")?.write_all(b"go\n").context("the launcher is gone")?;
        Ok(process)
    }

    /// Returns the id of the program's process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Returns the exit status, if the process has ended.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        // It is ours and waited for here alone, so the call can't fail.
        lock(&self.child).try_wait().ok().flatten()
    }

    /// Sends `signal` to the process alone. One that has ended gets none.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        // Held, so that the process can't be reaped and its id given to another in between.
        let mut child = lock(&self.child);
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        send(self.pid, signal)
    }

    /// Kills the process and its children at once (SIGKILL), waits until all are gone, and tells how it ended.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn kill(&self) -> Result<ExitStatus> {
        if let Some(status) = self.exit_status() {
            return Ok(status);
        }
        // Stopped first, so that it gives birth to none while we look.
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

    /// Stops the process and its children where they are (SIGSTOP), until [`Process::resume`].
    ///
    /// # Errors
    /// When the system refuses.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)?;
        usage::descendants(self.pid).into_iter().try_for_each(|child| send(child, Signal::STOP))
    }

    /// Lets the process and its children go on (SIGCONT).
    ///
    /// # Errors
    /// When the system refuses.
    pub fn resume(&self) -> Result<()> {
        usage::descendants(self.pid).into_iter().try_for_each(|child| send(child, Signal::CONT))?;
        self.signal(Signal::CONT)
    }

    /// Waits until the process ends by itself or by a signal sent before.
    ///
    /// # Errors
    /// When `deadline` passes first.
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

    /// Waits until `is_ready` holds.
    ///
    /// # Errors
    /// When the process ends or `deadline` passes first; the error shows the end of its log.
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

    /// Returns standard output and standard error of a process that was started with [`Output::Pipes`], once.
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
        if self.last_signal != Signal::KILL {
            // A paused process does not handle the signal. The kill afterwards covers any failure here.
            drop(self.resume().and_then(|()| self.signal(self.last_signal)));
            drop(self.await_exit(LAST_SIGNAL_DEADLINE));
        }
        // The guard still has its id when this fails, and ends it with the run.
        if self.kill().is_ok() {
            drop(self.run.tell_guard(&format!("forget {}\n", self.pid)));
        }
    }
}

/// Returns the last lines of a log, made ready to be put at the end of an error.
pub fn log_tail(path: &Path) -> String {
    let Ok(bytes) = fs::read(path) else { return String::new() };
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let shown = lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n");
    format!("; `{}` ends with:\n{shown}", path.display())
}

/// A process that is gone by now needs no signal.
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
