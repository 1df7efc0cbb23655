//! The daemon under test, run as a user runs it: with a configuration file, signals, logs and HTTP.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::free_port;
use crate::http::{self, Response};
use crate::process::{Output, Process, Program, Run, Signal};

const PAUSE_BETWEEN_LOOKS: Duration = Duration::from_millis(10);
const LINES_SHOWN: usize = 40;

#[derive(Debug, Clone)]
pub struct DaemonSpec {
    binary: PathBuf,
    config: String,
    http_address: Option<String>,
    args: Vec<String>,
    env: Vec<(String, String)>,
}

impl DaemonSpec {
    /// Returns the specification of `binary run --config FILE`; the file contains `config`.
    pub fn new(binary: impl AsRef<Path>, config: impl Into<String>) -> Self {
        Self {
            binary: binary.as_ref().to_owned(),
            config: config.into(),
            http_address: None,
            args: Vec::new(),
            env: Vec::new(),
        }
    }

    /// Sets the address (`host:port`) to which [`Daemon::get`] sends its requests. To make the daemon listen there, set
    /// `http.listen` in `config`, or call [`DaemonSpec::on`] afterwards.
    #[must_use]
    pub fn http_address(mut self, address: impl Into<String>) -> Self {
        self.http_address = Some(address.into());
        self
    }

    /// Adds environment variables that make the daemon use this Kafka and this Postgres, and serve HTTP. The address for HTTP is
    /// that of [`DaemonSpec::http_address`]. By default, it is a free port on 127.0.0.1.
    pub fn on(mut self, bootstrap_servers: &str, postgres_url: &str) -> Result<Self> {
        let listen = match self.http_address.take() {
            Some(address) => address,
            None => format!("127.0.0.1:{}", free_port()?),
        };
        Ok(self
            .env("TIDEGATE__KAFKA__BOOTSTRAP_SERVERS", bootstrap_servers)
            .env("TIDEGATE__POSTGRES__URL", postgres_url)
            .env("TIDEGATE__HTTP__LISTEN", &listen)
            .http_address(listen))
    }

    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }
}

/// A started daemon. When this value is dropped, the daemon is killed.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    run: Arc<Run>,
    http_address: Option<String>,
    lines: Arc<Mutex<Vec<String>>>,
    readers: Mutex<Vec<JoinHandle<()>>>,
}

impl Daemon {
    /// Starts the daemon. The caller must wait until it is ready.
    ///
    /// # Errors
    /// If the binary doesn't exist, or if the daemon's folder, files or process can't be created. If the daemon ends at once,
    /// this function returns no error.
    pub fn spawn(spec: &DaemonSpec) -> Result<Self> {
        let binary = spec.binary.canonicalize().with_context(|| format!("there is no `{}`", spec.binary.display()))?;
        let run = Run::start("daemon")?;
        let config = run.folder().join("tidegate.toml");
        std::fs::write(&config, &spec.config)?;
        let mut args = vec!["run".into(), "--config".into(), config.into()];
        args.extend(spec.args.iter().map(Into::into));
        let program = Program {
            binary: binary.into(),
            args,
            env: spec.env.clone(),
            user: None,
            output: Output::Pipes,
            end_signal: Signal::KILL,
        };
        let process = Process::start(&run, &program)?;
        let (stdout, stderr) = process.take_pipes().context("the daemon has no pipes")?;
        let lines = Arc::default();
        let log = Arc::new(Mutex::new(File::create(run.folder().join("daemon.log"))?));
        let readers = vec![read_lines(stdout, &lines, &log), read_lines(stderr, &lines, &log)];
        Ok(Self { process, run, http_address: spec.http_address.clone(), lines, readers: Mutex::new(readers) })
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Returns the folder with the daemon's configuration and log. The folder is deleted when this value is dropped, unless
    /// `TIDEGATE_KEEP_RUNS` is set.
    pub fn folder(&self) -> &Path {
        self.run.folder()
    }

    /// Tells the daemon to drain and end (SIGTERM).
    pub fn terminate(&self) -> Result<()> {
        self.process.signal(Signal::TERM)
    }

    /// Tells the daemon to drain and end (SIGTERM), and waits until it has ended. Fails if it ends with
    /// another exit status than 0.
    pub fn drain(&self, deadline: Duration) -> Result<()> {
        self.terminate()?;
        let status = self.wait_exit(deadline)?;
        ensure!(status.success(), "a daemon that was told to end ended with {status}; {}", self.log_tail());
        Ok(())
    }

    /// Returns the address (`host:port`) at which the daemon serves HTTP; `None` if the specification has none.
    pub fn http_address(&self) -> Option<&str> {
        self.http_address.as_deref()
    }

    /// Tells the daemon to drain and end (SIGINT), as Ctrl-C does.
    pub fn interrupt(&self) -> Result<()> {
        self.process.signal(Signal::INT)
    }

    /// Replaces the daemon's configuration file. The daemon reads it at the next [`Daemon::hang_up`].
    pub fn write_config(&self, config: &str) -> Result<()> {
        Ok(std::fs::write(self.folder().join("tidegate.toml"), config)?)
    }

    /// Tells the daemon to read its configuration again (SIGHUP).
    pub fn hang_up(&self) -> Result<()> {
        self.process.signal(Signal::HUP)
    }

    pub fn kill(&self) -> Result<ExitStatus> {
        self.process.kill()
    }

    pub fn pause(&self) -> Result<()> {
        self.process.pause()
    }

    pub fn resume(&self) -> Result<()> {
        self.process.resume()
    }

    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.process.exit_status()
    }

    /// Waits until the daemon ends, and returns its exit status. Afterwards [`Daemon::log`] returns all lines of its output.
    pub fn wait_exit(&self, deadline: Duration) -> Result<ExitStatus> {
        let status = self.process.await_exit(deadline).with_context(|| self.log_tail())?;
        for reader in lock(&self.readers).drain(..) {
            ensure!(reader.join().is_ok(), "the daemon's output could not be read");
        }
        Ok(status)
    }

    pub fn log(&self) -> Vec<String> {
        lock(&self.lines).clone()
    }

    /// Waits for a log line that contains `text`, and returns the first one. The line may have been written before this call.
    ///
    /// # Errors
    /// If the daemon ends or `deadline` passes first. The error shows the end of the daemon's log.
    pub fn await_log(&self, text: &str, deadline: Duration) -> Result<String> {
        self.await_value(&format!("a line with `{text}`"), deadline, || {
            lock(&self.lines).iter().find(|line| line.contains(text)).cloned()
        })
    }

    /// Waits until `condition` returns true.
    ///
    /// # Errors
    /// If the daemon ends or `deadline` passes first. The error names `what` and shows the end of the daemon's log.
    pub fn await_until(&self, what: &str, deadline: Duration, mut condition: impl FnMut(&Self) -> bool) -> Result<()> {
        self.await_value(what, deadline, || condition(self).then_some(()))
    }

    pub fn await_ready(&self, deadline: Duration) -> Result<()> {
        self.await_until("`/readyz` says 200", deadline, |daemon| {
            daemon.get("/readyz").is_ok_and(|response| response.status == 200)
        })
    }

    pub fn get(&self, path: &str) -> Result<Response> {
        let address = self.http_address.as_deref().context("the daemon was started without `http_address`")?;
        http::get(address, path)
    }

    pub fn status_json(&self) -> Result<serde_json::Value> {
        let response = self.get("/api/status")?;
        ensure!(response.status == 200, "`/api/status` answered {}: {}", response.status, response.body);
        serde_json::from_str(&response.body).context("`/api/status` is no JSON")
    }

    /// Sums those series of `/metrics` that have the name `name` and all of `labels`. Returns `None` if there is no such series,
    /// or if the daemon doesn't answer.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        http::metric(&self.get("/metrics").ok()?.body, name, labels)
    }

    pub fn log_tail(&self) -> String {
        let lines = lock(&self.lines);
        format!("the daemon's log ends with:\n{}", lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n"))
    }

    fn await_value<T>(&self, what: &str, deadline: Duration, mut look: impl FnMut() -> Option<T>) -> Result<T> {
        let started = Instant::now();
        loop {
            let ended = self.exit_status();
            if let Some(value) = look() {
                return Ok(value);
            }
            if let Some(status) = ended {
                // The daemon may have written the expected line just before it ended. So read the rest of its output and look
                // again.
                self.wait_exit(Duration::from_secs(10))?;
                return look().with_context(|| format!("{what}: the daemon ended with {status}; {}", self.log_tail()));
            }
            if started.elapsed() > deadline {
                bail!("{what}: not within {deadline:?}; {}", self.log_tail());
            }
            std::thread::sleep(PAUSE_BETWEEN_LOOKS);
        }
    }
}

fn read_lines(
    pipe: impl Read + Send + 'static,
    lines: &Arc<Mutex<Vec<String>>>,
    log: &Arc<Mutex<File>>,
) -> JoinHandle<()> {
    let (lines, log) = (Arc::clone(lines), Arc::clone(log));
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).into_owned();
            // People read the file to examine a failure. If it can't be written, for example because the disk is full, the test
            // continues.
            drop(writeln!(lock(&log), "{line}"));
            lock(&lines).push(line);
        }
    })
}

/// Threads contend for the lock: those that read the two pipes, and tests that read the log.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
