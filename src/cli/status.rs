//! `tidegate status`: what the live page shows, from a running daemon.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

use crate::config::Config;
use crate::error::FatalError;
use crate::http::text;

/// The longest that a daemon may take to answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// The largest document that is taken for one.
const BYTES_MAX: u64 = 64 << 20;

pub(super) fn run(config: &Config, json: bool) -> Result<(), FatalError> {
    let at = reachable(config.http.listen);
    let body = ask(at).map_err(|why| {
        FatalError::Unavailable(format!("no daemon answers at {at} (`http.listen`): {why}; is `tidegate run` running?"))
    })?;
    let shown = if json {
        body
    } else {
        let status: Value = serde_json::from_str(&body)
            .map_err(|error| FatalError::Unavailable(format!("what answers at {at} is no tidegate: {error}")))?;
        text::render(&status)
    };
    // A reader that has seen enough, such as `head`, is no fault.
    drop(writeln!(std::io::stdout(), "{}", shown.trim_end()));
    Ok(())
}

/// Where a daemon that listens everywhere is reached from here.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// One question by HTTP/1.0, whose answer ends with the connection.
fn ask(at: SocketAddr) -> Result<String, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut connection = TcpStream::connect_timeout(&at, DEADLINE).map_err(failed)?;
    connection.set_read_timeout(Some(DEADLINE)).map_err(failed)?;
    connection.set_write_timeout(Some(DEADLINE)).map_err(failed)?;
    connection.write_all(format!("GET /api/status HTTP/1.0\r\nHost: {at}\r\n\r\n").as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    connection.take(BYTES_MAX).read_to_string(&mut answer).map_err(failed)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("the answer is no HTTP")?;
    let first = head.lines().next().unwrap_or_default();
    if first.split(' ').nth(1) == Some("200") { Ok(body.to_owned()) } else { Err(format!("it says {first:?}")) }
}
