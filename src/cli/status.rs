//! `tidegate status`: prints the state of a running daemon, as on its live page.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use crate::config::Config;
use crate::error::FatalError;
use crate::http::{Status, text};

/// The time limit for connecting to the daemon, and for each read and write.
const DEADLINE: Duration = Duration::from_secs(10);
/// The largest answer that is read, in bytes. A larger one is cut off, so its document can't be parsed.
const BYTES_MAX: u64 = 64 << 20;

pub(super) fn run(config: &Config, json: bool) -> Result<(), FatalError> {
    let at = reachable(config.http.listen);
    let body = ask(at, "/api/status").map_err(|why| {
        FatalError::Unavailable(format!("no daemon answers at {at} (`http.listen`): {why}; is `tidegate run` running?"))
    })?;
    let shown = if json {
        body
    } else {
        let status: Status = serde_json::from_str(&body).map_err(|error| {
            FatalError::Unavailable(format!("the answer at {at} is not a status that this version can read: {error}"))
        })?;
        let from = status.now_ms - 1000 * i64::try_from(text::FLOOD_SECONDS).unwrap_or(60);
        // If the daemon ends after its first answer, this answer is shown without the history.
        text::render(&status, |pipeline| {
            let path = format!("/api/history?pipeline={}&from={from}", escaped(pipeline));
            serde_json::from_str(&ask(at, &path).ok()?).ok()
        })
    };
    // If the reader closes the pipe early, as `head` does, that isn't an error.
    drop(writeln!(std::io::stdout(), "{}", shown.trim_end()));
    Ok(())
}

pub(super) fn is_daemon(listen: SocketAddr) -> bool {
    ask(reachable(listen), "/api/status").is_ok_and(|body| serde_json::from_str::<Status>(&body).is_ok())
}

/// Returns the address for connecting to a daemon that listens at `listen`: loopback if the daemon listens on all interfaces.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// Percent-encodes a name for the query of a URL.
fn escaped(name: &str) -> String {
    let mut escaped = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped += &format!("%{byte:02X}");
        }
    }
    escaped
}

/// Makes one request by HTTP/1.0, in which the end of the connection marks the end of the answer. Returns the body of the
/// answer. An answer with a status other than 200 is an error.
fn ask(at: SocketAddr, path: &str) -> Result<String, String> {
    let failed = |error: std::io::Error| error.to_string();
    let mut connection = TcpStream::connect_timeout(&at, DEADLINE).map_err(failed)?;
    connection.set_read_timeout(Some(DEADLINE)).map_err(failed)?;
    connection.set_write_timeout(Some(DEADLINE)).map_err(failed)?;
    connection.write_all(format!("GET {path} HTTP/1.0\r\nHost: {at}\r\n\r\n").as_bytes()).map_err(failed)?;
    let mut answer = String::new();
    connection.take(BYTES_MAX).read_to_string(&mut answer).map_err(failed)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("the answer is not HTTP")?;
    let first = head.lines().next().unwrap_or_default();
    if first.split(' ').nth(1) == Some("200") { Ok(body.to_owned()) } else { Err(format!("it says {first:?}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_hold_anything_and_stays_within_its_query() {
        assert_eq!(escaped("ride_history"), "ride_history");
        assert_eq!(escaped("a b&from=0 ü"), "a%20b%26from%3D0%20%C3%BC");
    }
}
