//! Checks whether a daemon can listen at `http.listen` on this machine.

use std::io::ErrorKind;
use std::net::SocketAddr;

use tokio::net::TcpSocket;
use tokio::task::spawn_blocking;

use super::report::PipelineReport;
use crate::cli::status;

/// Why a daemon can't listen at the address.
#[derive(Clone, Debug)]
pub(super) enum Finding {
    /// No daemon can listen at the address: for example, it isn't an address of this machine, or another program has the port.
    Fault(String),
    /// A daemon already listens at the address: probably the one whose configuration is checked.
    Warning(String),
}

impl Finding {
    /// Tries the address. Returns `None` if a daemon could listen there.
    pub(super) async fn of(listen: SocketAddr) -> Option<Self> {
        let error = bind(listen).err()?;
        let is_daemon = async || spawn_blocking(move || status::is_daemon(listen)).await.unwrap_or(false);
        if error.kind() == ErrorKind::AddrInUse && is_daemon().await {
            return Some(Self::Warning(format!(
                "http.listen: a daemon listens on {listen} already; a second daemon on this machine needs another address"
            )));
        }
        Some(Self::Fault(format!(
            "http.listen: a daemon can't listen on {listen} here: {error}; use an address of this machine and a free port"
        )))
    }

    /// Adds the finding to a pipeline's report. Each report gets it, because a daemon that can't listen runs no pipeline.
    pub(super) fn report(self, report: &mut PipelineReport) {
        match self {
            Self::Fault(text) => report.faults.push(text),
            Self::Warning(text) => report.warnings.push(text),
        }
    }
}

/// Binds the address as the daemon does, and releases it, without listening on it.
fn bind(listen: SocketAddr) -> std::io::Result<()> {
    let socket = if listen.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(listen)
}
