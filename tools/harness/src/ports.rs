//! Free ports on loopback.
//!
//! Ports are chosen below Linux's default ephemeral range, from which the system takes the local ports of outgoing connections.
//! The reason is that a restarted server needs its old port. If that port were in the ephemeral range, the system could give it
//! to a client that tries to reconnect meanwhile. The client would then connect to itself, and the server couldn't start. For
//! the same reason, servers that may be restarted don't listen on port 0: the system would choose an ephemeral port.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

const CANDIDATES: Range<u16> = 15_000..32_000;
const ATTEMPTS: usize = 1_000;
/// How long to wait for an answer from a port. A port that doesn't answer counts as taken: a listener with a full queue neither
/// accepts nor refuses a connection.
const PROBE: Duration = Duration::from_millis(200);

/// The ports that this process has handed out, because two servers must not get the same port. The lock is contended if parallel
/// tests start servers.
static HANDED_OUT: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Returns a port on 127.0.0.1 that was free a moment ago, and that this function hasn't returned before.
pub fn free_port() -> Result<u16> {
    // Probe the port by connecting to it, not by listening on it. If another thread forks a child process at the same moment, the
    // child has a copy of a listening socket until it executes its program. The port would then still be taken after the probe
    // has closed its own socket.
    choose(|port| {
        let refused =
            TcpStream::connect_timeout(&address(port), PROBE).is_err_and(|e| e.kind() == ErrorKind::ConnectionRefused);
        refused.then_some(port)
    })
}

/// Listens on a port of 127.0.0.1 that was free.
pub(crate) fn listen() -> Result<TcpListener> {
    choose(|port| TcpListener::bind(address(port)).ok())
}

/// Calls `attempt` with random ports that were not handed out before, until it returns a value. Returns this value.
fn choose<T>(attempt: impl Fn(u16) -> Option<T>) -> Result<T> {
    let mut handed_out = HANDED_OUT.lock().unwrap_or_else(PoisonError::into_inner);
    for _ in 0..ATTEMPTS {
        let port = fastrand::u16(CANDIDATES);
        if handed_out.contains(&port) {
            continue;
        }
        if let Some(chosen) = attempt(port) {
            handed_out.insert(port);
            return Ok(chosen);
        }
    }
    None.with_context(|| format!("no free port between {} and {}", CANDIDATES.start, CANDIDATES.end))
}

fn address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_port_is_free_while_other_threads_start_processes() {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !done.load(Ordering::Relaxed) {
                        Command::new("true").status().unwrap();
                    }
                });
            }
            let taken = (0..2_000).filter(|_| TcpListener::bind(("127.0.0.1", free_port().unwrap())).is_err()).count();
            done.store(true, Ordering::Relaxed);
            assert_eq!(taken, 0);
        });
    }
}
