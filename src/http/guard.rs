//! Decides which requests are answered, and sets the security headers of the answers.
//!
//! The page has no password, so another web page must not be able to read it through a visitor's browser. The owner of such a
//! page could point a host name at our address (DNS rebinding). So the page and its data are served only if the `Host` header has
//! a known name or an IP address, because an IP address can't be pointed elsewhere.

use std::net::IpAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::config::Http;

/// With these headers, browsers load nothing from other origins, run no injected script, and don't show the page in a frame.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// The host names under which the page and its data are served. `named` is the host of `http.url`, and `loopback` says whether
/// only this machine can connect.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    named: Option<String>,
    loopback: bool,
}

impl Guard {
    pub(super) fn new(config: &Http) -> Self {
        let host = |url: &String| {
            let rest = url.split_once("://").map_or(url.as_str(), |(_, rest)| rest);
            name_of(rest.split('/').next().unwrap_or(rest)).to_ascii_lowercase()
        };
        Self { named: config.url.as_ref().map(host), loopback: config.listen.ip().is_loopback() }
    }

    /// Returns whether a request for `path` with this `Host` is answered. The page and its data are only served under
    /// known names. If other machines can connect, metrics and probes are served under any name, because each network
    /// may have its own name for this machine.
    fn admits(&self, host: Option<&str>, path: &str) -> bool {
        if !self.loopback && matches!(path, "/metrics" | "/healthz" | "/readyz") {
            return true;
        }
        let Some(host) = host else { return false };
        let name = name_of(host).to_ascii_lowercase();
        let name = name.trim_end_matches('.');
        name == "localhost"
            || name.ends_with(".localhost")
            || name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
            || self.named.as_deref() == Some(name)
    }
}

/// Returns the host without its port, for `host:port` and `[::1]:port`. A bare `::1` has no port.
fn name_of(host: &str) -> &str {
    let Some((name, port)) = host.rsplit_once(':') else { return host };
    let has_port = port.bytes().all(|byte| byte.is_ascii_digit()) && (name.ends_with(']') || !name.contains(':'));
    if has_port { name } else { host }
}

/// Rejects requests that `Guard::admits` refuses because of their `Host`, and adds the security headers to every answer.
pub(super) async fn check(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let mut response = if guard.admits(host, request.uri().path()) {
        next.run(request).await
    } else {
        let why = "unknown host name: use an IP address or localhost, or set `http.url` to this name\n";
        (StatusCode::MISDIRECTED_REQUEST, why).into_response()
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response.headers_mut().entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(listen: &str, url: Option<&str>) -> Guard {
        Guard::new(&Http { listen: listen.parse().unwrap(), url: url.map(str::to_owned) })
    }

    #[test]
    fn addresses_and_known_names_pass() {
        let guard = guard("127.0.0.1:9464", Some("https://Tide.example:8443/x"));
        for host in [
            "127.0.0.1:9464",
            "localhost",
            "LOCALHOST:1",
            "[::1]:9464",
            "::1",
            "10.1.2.3:80",
            "tide.example",
            "tide.example.:8443",
        ] {
            assert!(guard.admits(Some(host), "/api/status"), "{host}");
        }
    }

    #[test]
    fn names_that_somebody_may_point_at_us_are_refused() {
        let guard = guard("127.0.0.1:9464", Some("https://tide.example"));
        for host in [
            Some("evil.example"),
            Some("evil.example:9464"),
            Some("127.0.0.1.evil.example"),
            Some("localhost.evil"),
            Some(""),
            None,
        ] {
            for path in ["/", "/api/status", "/api/events", "/metrics"] {
                assert!(!guard.admits(host, path), "{host:?} {path}");
            }
        }
    }

    #[test]
    fn beyond_loopback_programs_scrape_by_any_name_and_the_page_stays_closed() {
        let guard = guard("0.0.0.0:9464", None);
        assert!(guard.admits(Some("tidegate:9464"), "/metrics"));
        assert!(guard.admits(None, "/healthz"));
        assert!(!guard.admits(Some("tidegate:9464"), "/api/status"));
    }
}
