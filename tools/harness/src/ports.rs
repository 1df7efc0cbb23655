//! Free ports on loopback.
//!
//! Ports are chosen below the range that the system uses for outgoing connections. The reason is that a restarted server keeps
//! its port. While it is down, the system may give a port of that range to a client that tries to reconnect. If that is the
//! server's own port, the client connects to itself, and the server can't start. A server that listens on port 0 would get a port
//! of that range.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::ops::Range;
use std::sync::Mutex;

use anyhow::{Result, bail};

const CANDIDATES: Range<u16> = 15_000..32_000;
const ATTEMPTS: usize = 1_000;

/// The ports that were handed out. The lock is contended if parallel tests start servers; two of them must not get the same port.
static HANDED_OUT: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Returns a port on 127.0.0.1 that was free a moment ago, and that this function hasn't returned before.
///
/// # Errors
/// If a thousand random candidates were all taken.
pub fn free_port() -> Result<u16> {
    let mut handed_out = HANDED_OUT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    for _ in 0..ATTEMPTS {
        let port = fastrand::u16(CANDIDATES);
        if !handed_out.contains(&port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            handed_out.insert(port);
            return Ok(port);
        }
    }
    bail!("no free port between {} and {}", CANDIDATES.start, CANDIDATES.end)
}
