//! Messages to systemd for a service of `Type=notify` or `Type=notify-reload`: ready, reloading, status, stopping, and the
//! watchdog's keep-alive.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::time::{ClockId, clock_gettime};

/// The connection to the service manager. If no service manager started the daemon, every message is dropped.
#[derive(Debug)]
pub(crate) struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// Whether the manager's watchdog is on: it ends a service that is silent for longer than `WatchdogSec`.
    watchdog: bool,
}

impl Manager {
    /// Reads `NOTIFY_SOCKET` and `WATCHDOG_USEC`, which systemd sets for the services that it starts.
    ///
    /// # Errors
    /// If `NOTIFY_SOCKET` isn't a valid socket name, or no datagram socket can be created.
    pub(crate) fn from_environment() -> io::Result<Self> {
        let socket = std::env::var_os("NOTIFY_SOCKET").map(|name| open(&name)).transpose()?;
        Ok(Self { watchdog: socket.is_some() && std::env::var_os("WATCHDOG_USEC").is_some(), socket })
    }

    /// Reports that the daemon serves HTTP and has started its pipelines, or that a reload is over. Kafka and Postgres may still
    /// be unavailable. A manager that waited for them would give up and restart the daemon.
    pub(crate) fn ready(&self) {
        self.tell("READY=1");
    }

    /// Reports that the configuration is being read again, until [`Manager::ready`] is called. From the time in the message, the
    /// manager knows that the message answers its latest signal.
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::Monotonic);
        let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1_000;
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={micros}"));
    }

    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    /// Reports that the daemon is alive; `status` is one line about what it does.
    pub(crate) fn alive(&self, status: &str) {
        let watchdog = if self.watchdog { "\nWATCHDOG=1" } else { "" };
        self.tell(&format!("STATUS={status}{watchdog}"));
    }

    /// Sends a message. If the manager is gone or its queue is full, the message is lost, and the log says so at level `debug`.
    fn tell(&self, message: &str) {
        if let Some((socket, manager)) = &self.socket
            && let Err(error) = socket.send_to_addr(message.as_bytes(), manager)
        {
            tracing::debug!(%error, "could not tell systemd: {message}");
        }
    }
}

fn open(name: &OsString) -> io::Result<(UnixDatagram, SocketAddr)> {
    let manager = match name.as_bytes() {
        // The name is in Linux's abstract namespace.
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(name)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, manager))
}
