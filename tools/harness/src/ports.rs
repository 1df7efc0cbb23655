//! Free ports on loopback.
//!
//! Linux takes the local ports of outgoing connections from its ephemeral range. Ports are chosen below this range, because a
//! restarted server needs its old port. Otherwise the system could give that port to a client that tries to reconnect. The client
//! would then connect to itself, and the server couldn't start. Servers that may be restarted don't listen on port 0, because the
//! system would then choose an ephemeral port.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

const CANDIDATES: Range<u16> = 15_000..32_000;
const ATTEMPTS: usize = 1_000;
/// How long to wait for an answer from a port. A port that doesn't answer counts as taken: its listener may have a full queue.
const PROBE: Duration = Duration::from_millis(200);

/// The ports that this process has handed out. Two servers must not get the same port. Parallel tests contend for the lock.
static HANDED_OUT: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Returns a port on 127.0.0.1 that was free a moment ago, and that this function hasn't returned before.
pub fn free_port() -> Result<u16> {
    // Probe the port by connecting to it, not by listening on it. A listening socket could stay open after this function has
    // closed it: if another thread starts a process meanwhile, the child has a copy of the socket until it executes its program.
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

/// Tries random ports that were not handed out before, until `attempt` returns a value. Returns this value.
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
