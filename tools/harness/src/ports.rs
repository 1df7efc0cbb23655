//! Free ports on loopback.
//!
//! They are taken from below the range that the system hands out to outgoing connections. A server that is restarted
//! keeps its port, and while it is down a client that tries to reconnect from the same range may be given that very port
//! and then connects to itself: the server could not come back. Port 0 has this fault, so it is not used.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::ops::Range;
use std::sync::Mutex;

use anyhow::{Result, bail};

const CANDIDATES: Range<u16> = 15_000..32_000;
const ATTEMPTS: usize = 1_000;

/// Contended by tests that start servers in parallel: two of them must not be told the same port.
static HANDED_OUT: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A port on 127.0.0.1 that nobody listened on a moment ago and that this process was not given before.
///
/// # Errors
/// When a thousand random candidates were all taken.
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
