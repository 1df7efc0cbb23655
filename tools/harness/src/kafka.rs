//! A real Kafka: one broker or three in KRaft mode, or one with ZooKeeper.
//!
//! A broker that was stopped or killed can be started again ([`Kafka::start_again`]). It keeps its port and its data. A broker's
//! index counts from 0.

mod client;
mod member;
mod produce;
mod secure;
mod settings;
mod spec;
pub(crate) mod template;

use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

pub use self::member::JavaConsumer;
pub use self::produce::Record;
pub use self::secure::{Listener, SASL_PASSWORD, SASL_USER};
pub use self::spec::KafkaSpec;
use self::spec::Layout;
use crate::process::{Output, Process, Program, Run, Signal};
use crate::tls::Authority;
use crate::{Proxy, TunedFor, fetch, free_port};

/// The longest time that a start of Kafka may take. It is long, because a build may use all cores while three brokers start.
const START_DEADLINE: Duration = Duration::from_secs(90);
const STOP_DEADLINE: Duration = Duration::from_secs(60);
/// How many times a start of Kafka or of one broker is tried. A start may fail because another process has just taken the port.
/// It may also fail because ZooKeeper remembers a killed broker until its session ends.
const START_ATTEMPTS: usize = 4;

/// A running Kafka. If this process has started it, dropping it kills its processes and removes its data.
#[derive(Debug)]
pub struct Kafka {
    bootstrap_servers: String,
    own: Option<Own>,
}

/// The state of a Kafka that this process has started. Each broker has a lock, because several threads may use the same Kafka.
#[derive(Debug)]
struct Own {
    brokers: Vec<Mutex<Broker>>,
    #[expect(dead_code, reason = "held to live as long as its broker")]
    zookeeper: Option<Process>,
    /// The brokers read the files of the certificates. The files are deleted when the last owner of this value drops it.
    authority: Option<Arc<Authority>>,
}

#[derive(Debug)]
struct Broker {
    run: Arc<Run>,
    program: Program,
    port: u16,
    /// The port of the listener behind the broker's proxy. The broker advertises the proxy's address for this listener.
    proxied_port: Option<u16>,
    secure_ports: Vec<(Listener, u16)>,
    process: Option<Process>,
}

impl Kafka {
    pub fn start(spec: &KafkaSpec) -> Result<Self> {
        let mut attempt = 1;
        loop {
            match Self::try_start(spec) {
                Err(error) if attempt < START_ATTEMPTS && lost_its_port(&error) => attempt += 1,
                outcome => return outcome.context("could not start Kafka"),
            }
        }
    }

    /// Starts a Kafka as [`Kafka::start`] does, and a proxy in front of each broker. Returns the Kafka, and each broker's proxy.
    /// A client that connects to a proxy reaches all brokers through their proxies. [`Kafka::bootstrap_servers`] returns the
    /// addresses without proxies.
    pub fn start_behind_proxies(spec: &KafkaSpec) -> Result<(Self, Vec<Proxy>)> {
        // Start the proxies before the brokers, which need the proxies' addresses.
        let proxies: Vec<Proxy> = (0..spec.brokers()).map(|_| Proxy::start("127.0.0.1:1")).collect::<Result<_>>()?;
        let spec = KafkaSpec { proxies: proxies.iter().map(Proxy::addr).collect(), ..spec.clone() };
        let kafka = Self::start(&spec)?;
        for (index, proxy) in proxies.iter().enumerate() {
            let port = kafka.broker(index)?.proxied_port.context("the broker has no listener for its proxy")?;
            proxy.set_upstream(format!("127.0.0.1:{port}"));
        }
        Ok((kafka, proxies))
    }

    fn try_start(spec: &KafkaSpec) -> Result<Self> {
        fetch::require_java()?;
        let run = Run::start("kafka")?;
        let (jars, zookeeper) = match spec.layout {
            Layout::Kraft { .. } => (fetch::kafka_of(&spec.version)?, None),
            Layout::ZooKeeper => {
                let jars = fetch::kafka_with_zookeeper(&spec.version)?;
                let zookeeper = start_zookeeper(&run, &jars, spec.tuned_for)?;
                (jars, Some(zookeeper))
            }
        };
        let nodes = settings::lay_out(spec, zookeeper.as_ref().map(|(_, port)| *port))?;
        let mut brokers = Vec::new();
        for node in &nodes {
            let secure_ports = node.secure_ports.clone();
            let properties = node.prepare(run.folder(), &jars)?;
            let log = run.folder().join(format!("broker-{}.log", node.id));
            let program = java(&jars, spec.tuned_for, "kafka.Kafka", &properties, log);
            let (port, proxied_port) = (node.port, node.proxied_port);
            brokers.push(Broker { run: Arc::clone(&run), program, port, proxied_port, secure_ports, process: None });
        }
        let addresses: Vec<String> = nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        // Start all brokers before waiting for the first one, because a quorum of three needs two.
        for broker in &mut brokers {
            broker.spawn()?;
        }
        for broker in &mut brokers {
            broker.await_listening()?;
        }
        let brokers = brokers.into_iter().map(Mutex::new).collect();
        let own = Own { brokers, zookeeper: zookeeper.map(|(process, _)| process), authority: spec.authority.clone() };
        let kafka = Self { bootstrap_servers: addresses.join(","), own: Some(own) };
        kafka.await_brokers(START_DEADLINE)?;
        Ok(kafka)
    }

    /// Returns a Kafka that something else has started. Topics can be created and records produced, but brokers can't be stopped.
    pub fn external(bootstrap_servers: &str) -> Self {
        Self { bootstrap_servers: bootstrap_servers.to_owned(), own: None }
    }

    /// Returns the value of `bootstrap.servers`. If this process has started the Kafka, the value names every broker.
    pub fn bootstrap_servers(&self) -> &str {
        &self.bootstrap_servers
    }

    /// Returns whether something else has started this Kafka, so that its brokers can't be stopped or killed.
    pub fn is_external(&self) -> bool {
        self.own.is_none()
    }

    pub fn address(&self, broker: usize) -> Result<String> {
        Ok(format!("127.0.0.1:{}", self.broker(broker)?.port))
    }

    /// Returns the process id of a broker. Fails if this Kafka is external or has no such broker, like every method that takes a
    /// broker's index.
    pub fn pid(&self, broker: usize) -> Result<u32> {
        Ok(self.broker(broker)?.running()?.pid())
    }

    pub fn data_dir(&self, broker: usize) -> Result<std::path::PathBuf> {
        // Node ids begin at 1.
        Ok(self.broker(broker)?.run.folder().join(format!("data-{}", broker + 1)))
    }

    /// Shuts a broker down cleanly (SIGTERM), within a minute. The broker writes all data to disk. Other brokers take over its
    /// partitions.
    pub fn stop(&self, broker: usize) -> Result<()> {
        let mut broker = self.broker(broker)?;
        let process = broker.running()?;
        process.signal(Signal::TERM)?;
        process.await_exit(STOP_DEADLINE)?;
        broker.process = None;
        Ok(())
    }

    pub fn kill(&self, broker: usize) -> Result<()> {
        let mut broker = self.broker(broker)?;
        broker.running()?.kill()?;
        broker.process = None;
        Ok(())
    }

    /// Starts a broker that was stopped or killed, on the same port and with the same data. Waits until its port accepts
    /// connections, and then until any broker answers a request.
    pub fn start_again(&self, broker: usize) -> Result<()> {
        let mut broker = self.broker(broker)?;
        ensure!(broker.process.is_none(), "the broker is running already");
        let mut attempt = 1;
        loop {
            let started = broker.spawn().and_then(|()| broker.await_listening());
            match started {
                Ok(()) => break,
                Err(_) if attempt < START_ATTEMPTS => attempt += 1,
                Err(error) => return Err(error.context("could not start the broker again")),
            }
        }
        drop(broker);
        self.await_a_broker(START_DEADLINE)
    }

    pub fn restart(&self, broker: usize) -> Result<()> {
        self.stop(broker)?;
        self.start_again(broker)
    }

    /// Suspends a broker (SIGSTOP). Its connections stay open, but it doesn't answer.
    pub fn pause(&self, broker: usize) -> Result<()> {
        self.broker(broker)?.running()?.pause()
    }

    pub fn resume(&self, broker: usize) -> Result<()> {
        self.broker(broker)?.running()?.resume()
    }

    fn broker(&self, index: usize) -> Result<MutexGuard<'_, Broker>> {
        let Some(own) = &self.own else {
            bail!(
                "this Kafka is the one that `KAFKA_BOOTSTRAP_SERVERS` names; its brokers are not ours to stop or start"
            );
        };
        let broker = own.brokers.get(index).with_context(|| format!("there is no broker {index}"))?;
        Ok(broker.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Broker {
    fn spawn(&mut self) -> Result<()> {
        self.process = Some(Process::start(&self.run, &self.program)?);
        Ok(())
    }

    /// Waits until the broker's port accepts connections. After a failure, drops the process, which kills the broker.
    fn await_listening(&mut self) -> Result<()> {
        let process = self.running()?;
        let ready = process.await_ready("the broker", START_DEADLINE, || is_listening(self.port));
        if ready.is_err() {
            self.process = None;
        }
        ready
    }

    fn running(&self) -> Result<&Process> {
        self.process.as_ref().context("the broker is not running")
    }
}

fn start_zookeeper(run: &Arc<Run>, jars: &fetch::Jars, tuned_for: TunedFor) -> Result<(Process, u16)> {
    let port = free_port()?;
    let properties = settings::prepare_zookeeper(run.folder(), port)?;
    let log = run.folder().join("zookeeper.log");
    let main = "org.apache.zookeeper.server.quorum.QuorumPeerMain";
    let process = Process::start(run, &java(jars, tuned_for, main, &properties, log))?;
    process.await_ready("ZooKeeper", START_DEADLINE, || is_listening(port))?;
    Ok((process, port))
}

fn java(
    jars: &fetch::Jars,
    tuned_for: TunedFor,
    main: &str,
    properties: &std::path::Path,
    log: std::path::PathBuf,
) -> Program {
    let flags: &[&str] = match tuned_for {
        // These flags prefer fast compilation to fast code. They allow one thread for garbage collection, and little memory.
        TunedFor::Tests => &["-Xmx512m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"],
        // These are the main flags of Kafka's own start script.
        TunedFor::Speed => {
            &["-Xms1g", "-Xmx1g", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:+ExplicitGCInvokesConcurrent"]
        }
    };
    let logging = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"];
    let mut args: Vec<std::ffi::OsString> = flags.iter().chain(&logging).map(Into::into).collect();
    let archive = jars.class_archive();
    // Java ignores an archive that another version of Java has written, and loads the classes from the JAR files.
    if archive.exists() {
        args.push(format!("-XX:SharedArchiveFile={}", archive.display()).into());
    }
    args.extend([
        "-Xshare:auto".into(),
        "-Djava.awt.headless=true".into(),
        "-Dzookeeper.admin.enableServer=false".into(),
    ]);
    args.extend(["-cp".into(), jars.classpath().into(), main.into(), properties.into()]);
    Program {
        binary: "java".into(),
        args,
        env: Vec::new(),
        user: None,
        output: Output::Log(log),
        end_signal: Signal::KILL,
    }
}

fn is_listening(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}

fn lost_its_port(error: &anyhow::Error) -> bool {
    let text = format!("{error:#}");
    text.contains("Address already in use") || text.contains("BindException")
}
