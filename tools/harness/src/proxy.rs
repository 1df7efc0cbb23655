//! A network that can be made to fail: a TCP proxy in front of Postgres or of a Kafka broker.
//!
//! A test can make the proxy cut connections, refuse new ones, or forward nothing while all connections stay open. In front of
//! Postgres, the proxy also reads the protocol and acts on a chosen message. For example, it drops the reply to a COMMIT.
//!
//! The proxy runs on its own thread, so that the network keeps working while a test blocks.

mod connection;
mod dialog;
mod frames;
mod trigger;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;

use self::trigger::TriggerState;
pub use self::trigger::{Action, Armed, Trigger};
use crate::ports;

/// A running proxy. When it is dropped, its connections are closed.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: Arc<State>,
    /// `None` only while the proxy is being dropped.
    runtime: Option<Runtime>,
}

#[derive(Debug)]
struct State {
    control: watch::Sender<Control>,
    reads_postgres: bool,
    /// The connections and tests that arm triggers contend for the lock.
    watched: Mutex<Vec<Arc<TriggerState>>>,
    open: watch::Sender<usize>,
}

#[derive(Debug, Clone)]
struct Control {
    upstream: String,
    refuse: bool,
    hold: bool,
    cuts: u64,
}

impl Proxy {
    /// Starts a proxy that forwards to `upstream` (`host:port`) and doesn't look at the data.
    pub fn start(upstream: impl Into<String>) -> Result<Self> {
        Self::listen(upstream.into(), false)
    }

    /// Starts a proxy in front of a Postgres at `upstream`. It reads the protocol, so [`Proxy::arm`] can make it act on a chosen
    /// message.
    pub fn start_postgres(upstream: impl Into<String>) -> Result<Self> {
        Self::listen(upstream.into(), true)
    }

    fn listen(upstream: String, reads_postgres: bool) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let listener = ports::listen()?;
        listener.set_nonblocking(true)?;
        let control = Control { upstream, refuse: false, hold: false, cuts: 0 };
        let state = Arc::new(State {
            control: watch::Sender::new(control),
            reads_postgres,
            watched: Mutex::default(),
            open: watch::Sender::new(0),
        });
        let address = listener.local_addr()?;
        let serving = Arc::clone(&state);
        // Nobody waits for the task. It ends with the runtime.
        drop(runtime.spawn(async move { accept(TcpListener::from_std(listener)?, serving).await }));
        Ok(Self { address, state, runtime: Some(runtime) })
    }

    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Forwards new connections to `upstream` from now on. Open connections stay with their server.
    pub fn set_upstream(&self, upstream: impl Into<String>) {
        let upstream = upstream.into();
        self.state.control.send_modify(|control| control.upstream = upstream);
    }

    /// Resets every open connection, on both sides.
    pub fn cut(&self) {
        self.state.control.send_modify(|control| control.cuts += 1);
    }

    /// Sets whether new connections are reset at once. Open connections stay open.
    pub fn refuse(&self, refuse: bool) {
        self.state.control.send_modify(|control| control.refuse = refuse);
    }

    /// Sets whether the proxy is silent: it accepts connections and keeps them open, but forwards no data in either
    /// direction. Data that arrives meanwhile is forwarded afterwards.
    pub fn hold(&self, hold: bool) {
        self.state.control.send_modify(|control| control.hold = hold);
    }

    pub fn connections(&self) -> usize {
        *self.state.open.borrow()
    }

    /// Sets a trigger: the proxy acts on the next message that `trigger` describes, on any connection. This works only with
    /// [`Proxy::start_postgres`].
    pub fn arm(&self, trigger: Trigger, action: Action) -> Armed {
        self.arm_times(trigger, action, 1)
    }

    /// Sets a trigger, as [`Proxy::arm`] does, but for the next `times` messages that `trigger` describes.
    pub fn arm_times(&self, trigger: Trigger, action: Action, times: u64) -> Armed {
        let (watched, armed) = trigger::arm(trigger, action, times);
        self.state.watched.lock().unwrap_or_else(PoisonError::into_inner).push(watched);
        armed
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Dropping a runtime inside a test's own runtime panics. So shut it down in the background.
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) -> std::io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        // Remove tasks that have ended, so that they don't accumulate.
        while connections.try_join_next().is_some() {}
        let Ok((client, _)) = listener.accept().await else {
            // The process has no free file descriptor. Try again when some may have been closed.
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        connections.spawn(connection::serve(client, Arc::clone(&state)));
    }
}
