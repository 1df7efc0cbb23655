//! Reads the connection URL, which may name several servers. This module reads only the parts that say which servers may be used;
//! sqlx reads all other parts and parameters.

use std::fmt::Write as _;

use super::Secret;

/// The form of a URL, shown in faults.
pub const FORM: &str = "write postgres://user@host:5432/database";

const SERVERS_MAX: usize = 16;

/// The servers of a URL, from which one is chosen per connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Servers {
    /// All servers, in the order of the URL; at least one.
    pub all: Vec<Server>,
    /// Whether the chosen server must accept writes, as the parameter `target_session_attrs` says. Without this parameter, true
    /// if the URL names several servers.
    pub must_write: bool,
    /// Whether the URL names a file with CA certificates. If so,
    /// `sslmode=require` verifies the server's certificate, as in libpq.
    pub has_authorities: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// The host, or the path of the socket's folder, and the port if the URL names one. Shown in messages.
    pub name: String,
    /// The URL for this server alone, in the form that sqlx reads.
    pub url: Secret,
    /// Whether the server is reached over a Unix socket, on which Postgres doesn't speak TLS.
    pub is_socket: bool,
}

/// Reads a connection URL.
///
/// # Errors
/// If `url` is not a valid URL. The text says what is wrong. It repeats no part of the URL,
/// because the URL may contain a password.
pub fn parse(url: &str) -> Result<Servers, String> {
    let Some((scheme, rest)) = split_scheme(url)? else { return Err(format!("not a URL of Postgres; {FORM}")) };
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
    let (user, hosts) = authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
    let query = Query::parse(query)?;

    let given = query.hosts.as_deref().unwrap_or(hosts);
    let mut all: Vec<(String, Option<String>)> = Vec::new();
    for host in given.split(',') {
        let (host, port) = if query.hosts.is_some() { (host, None) } else { split_port(host)? };
        all.push((host.to_owned(), port.map(str::to_owned)));
    }
    if let Some(ports) = &query.ports {
        let ports: Vec<&str> = ports.split(',').collect();
        if ports.len() != 1 && ports.len() != all.len() {
            return Err("`port` names neither one port nor one per host".to_owned());
        }
        for (at, (_, port)) in all.iter_mut().enumerate() {
            *port = Some((*ports.get(at).unwrap_or(&ports[0])).to_owned());
        }
    }
    if all.len() > SERVERS_MAX {
        return Err(format!("more than {SERVERS_MAX} hosts"));
    }
    let is_list = all.len() > 1;
    if is_list && query.has_address {
        return Err("`hostaddr` goes with one host only".to_owned());
    }
    let of_one = |(host, port): &(String, Option<String>)| -> Result<Server, String> {
        if host.is_empty() && (is_list || user.is_some()) {
            return Err("no host is named; for a Unix socket write ?host=/path/of/its/folder".to_owned());
        }
        let port = port.as_deref().filter(|port| !port.is_empty());
        if port.is_some_and(|port| !port.parse::<u16>().is_ok_and(|port| port > 0)) {
            return Err("a port is not a number from 1 to 65535".to_owned());
        }
        Ok(server(scheme, user, host, port, path, &query.rest))
    };
    let all = all.iter().map(of_one).collect::<Result<Vec<_>, _>>()?;
    let must_write = query.must_write.unwrap_or(is_list);
    Ok(Servers { all, must_write, has_authorities: query.has_authorities })
}

/// Splits off the scheme `postgres` or `postgresql`. JDBC URLs and lists of `key=value` pairs, which people may paste, get errors
/// of their own. Returns `Ok(None)` for any other text.
fn split_scheme(url: &str) -> Result<Option<(&str, &str)>, String> {
    if url.starts_with("jdbc:") {
        return Err(format!("a JDBC URL; {FORM}, with the user and the password before the host"));
    }
    if let Some((scheme @ ("postgres" | "postgresql"), rest)) = url.split_once("://") {
        return Ok(Some((scheme, rest)));
    }
    if !url.contains("://") && url.split_whitespace().any(|word| word.contains('=')) {
        return Err(format!("a list of key=value pairs; {FORM}?key=value&key=value"));
    }
    Ok(None)
}

/// Reads `host`, `host:port` or `[IPv6]:port`.
fn split_port(host: &str) -> Result<(&str, Option<&str>), String> {
    if host.starts_with('[') {
        let Some(end) = host.find(']') else { return Err("a [ without its ] among the hosts".to_owned()) };
        let (address, port) = host.split_at(end + 1);
        return match port.strip_prefix(':') {
            Some(port) => Ok((address, Some(port))),
            None if port.is_empty() => Ok((address, None)),
            None => Err("something other than a port follows ] among the hosts".to_owned()),
        };
    }
    Ok(host.split_once(':').map_or((host, None), |(host, port)| (host, Some(port))))
}

fn server(scheme: &str, user: Option<&str>, host: &str, port: Option<&str>, path: &str, rest: &[String]) -> Server {
    let host = decoded(host);
    let is_socket = host.starts_with('/');
    let mut parameters = rest.to_vec();
    let mut url = format!("{scheme}://");
    if let Some(user) = user {
        url += user;
        url.push('@');
    }
    if is_socket {
        // A URL must have a host. The parameter with the socket's path overrides this host.
        url += "localhost";
        parameters.push(format!("host={}", encoded(&host)));
    } else {
        url += &host;
    }
    let name = match port {
        Some(port) => {
            url.push(':');
            url += port;
            format!("{host}:{port}")
        }
        None if host.is_empty() => "the default server".to_owned(),
        None => host,
    };
    url += path;
    for (at, parameter) in parameters.iter().enumerate() {
        url.push(if at == 0 { '?' } else { '&' });
        url += parameter;
    }
    Server { name, url: Secret::new(url), is_socket }
}

/// The parameters of a URL: those that name servers, and in `rest` all others, unchanged.
#[derive(Default)]
struct Query {
    hosts: Option<String>,
    ports: Option<String>,
    has_address: bool,
    has_authorities: bool,
    must_write: Option<bool>,
    rest: Vec<String>,
}

impl Query {
    fn parse(text: &str) -> Result<Self, String> {
        let mut query = Self::default();
        for parameter in text.split('&').filter(|parameter| !parameter.is_empty()) {
            let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            match key {
                "host" => query.hosts = Some(decoded(value)),
                "port" => query.ports = Some(decoded(value)),
                "target_session_attrs" => {
                    query.must_write = Some(match value {
                        "any" => false,
                        "read-write" | "primary" => true,
                        _ => {
                            return Err("`target_session_attrs` is neither read-write nor primary nor any; \
                                        tidegate writes, so a standby is of no use to it"
                                .to_owned());
                        }
                    });
                }
                _ => {
                    query.has_address |= key == "hostaddr";
                    query.has_authorities |= matches!(key, "sslrootcert" | "ssl-root-cert" | "ssl-ca");
                    query.rest.push(parameter.to_owned());
                }
            }
        }
        Ok(query)
    }
}

/// Decodes percent-encoded bytes. If the result isn't UTF-8, returns the text unchanged.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| first == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

fn encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'/') {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String can't fail.
            let _infallible = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use sqlx::postgres::PgConnectOptions;

    use super::*;

    fn urls(url: &str) -> Vec<String> {
        let servers = parse(url).expect(url);
        for server in &servers.all {
            server.url.expose().parse::<PgConnectOptions>().expect("sqlx reads it");
        }
        servers.all.iter().map(|server| server.url.expose().to_owned()).collect()
    }

    fn names(url: &str) -> Vec<String> {
        parse(url).expect(url).all.into_iter().map(|server| server.name).collect()
    }

    #[test]
    fn one_host_stays_as_it_is() {
        for url in [
            "postgres://a@b/c",
            "postgresql://a:b%40c@host:6000/db?sslmode=verify-full&sslrootcert=/ca.pem",
            "postgres://a@[::1]:5433/db",
            "postgres:///db",
            "postgres://localhost",
        ] {
            assert_eq!(urls(url), [url]);
            assert!(!parse(url).unwrap().must_write);
        }
        assert!(parse("postgres://a@b/c?target_session_attrs=read-write").unwrap().must_write);
    }

    #[test]
    fn each_of_several_hosts_has_its_port_and_the_rest_in_common() {
        let url = "postgres://a:b@h1:6001,h2,[::1]:6003/db?target_session_attrs=read-write&sslmode=require";
        let expected = ["h1:6001", "h2", "[::1]:6003"].map(|host| format!("postgres://a:b@{host}/db?sslmode=require"));
        assert_eq!(urls(url), expected);
        assert_eq!(names(url), ["h1:6001", "h2", "[::1]:6003"]);
        assert!(parse("postgres://h1,h2/db").unwrap().must_write, "several hosts are no use but for their primary");
        assert!(!parse("postgres://h1,h2/db?target_session_attrs=any").unwrap().must_write);
        assert_eq!(
            urls("postgres://a@/db?host=h1,h2&port=6000"),
            ["postgres://a@h1:6000/db", "postgres://a@h2:6000/db"]
        );
        assert_eq!(names("postgres://a@x/db?host=h1,h2&port=6000,6001"), ["h1:6000", "h2:6001"]);
    }

    #[test]
    fn a_folder_is_a_unix_socket() {
        let expected = ["postgres://a@localhost:6000/db?host=/var/run/my%20pg"];
        assert_eq!(urls("postgres://a@/db?host=/var/run/my pg&port=6000"), expected);
        assert_eq!(urls("postgres://a@%2Fvar%2Frun%2Fmy%20pg:6000/db"), expected);
        let servers = parse("postgres://a@/db?host=/run,h2").unwrap();
        assert_eq!(servers.all.iter().map(|server| server.is_socket).collect::<Vec<_>>(), [true, false]);
    }

    #[test]
    fn what_is_wrong_is_named_and_not_repeated() {
        for (url, words) in [
            ("jdbc:postgresql://CANARY:5432/db", "a JDBC URL"),
            ("host=CANARY dbname=db", "key=value pairs"),
            ("mysql://CANARY@a/db", "not a URL of Postgres"),
            ("CANARY", "not a URL of Postgres"),
            ("postgres://CANARY@h:65536,b/db", "a port is not a number"),
            ("postgres://CANARY@/db", "no host is named"),
            ("postgres://CANARY@a,,b/db", "no host is named"),
            ("postgres://CANARY@[::1/db", "a [ without its ]"),
            ("postgres://CANARY@a,b/db?hostaddr=::1", "`hostaddr` goes with one host"),
            ("postgres://CANARY@a,b/db?port=1,2,3", "neither one port nor one per host"),
            ("postgres://CANARY@a,b/db?target_session_attrs=standby", "of no use"),
        ] {
            let error = parse(url).unwrap_err();
            assert!(error.contains(words) && !error.contains("CANARY"), "{url}: {error}");
        }
    }
}
