//! Turns librdkafka's texts about failed connections and denied requests into a cause and a remedy.
//!
//! librdkafka reports nearly every failed connection with the code `_TRANSPORT`; only the text names the cause. The texts are
//! those of librdkafka 2.12 with OpenSSL 3, each observed with a real server.

use std::fmt;

/// A connection that failed, or a request that Kafka refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The broker's `host:port`; `None` if the text names none.
    pub broker: Option<String>,
    pub cause: Cause,
    /// librdkafka's text without the names of brokers and threads, and without the state of the connection. If the fault wasn't
    /// parsed from librdkafka's text: our own words.
    text: String,
}

/// The cause of a failed connection or of a refused request. `words`
/// says in full what each cause means, and `remedy` what to do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    HostNotFound,
    Refused,
    Unreachable,
    Postgres,
    NotKafka,
    TlsListener,
    PlainListener,
    /// The broker's certificate isn't trusted, and librdkafka's text doesn't say why.
    Certificate,
    UnknownCa,
    WrongName,
    ClientCertificate,
    SaslRequired,
    SaslDenied,
    SaslMechanism,
    SaslNotOffered,
    TimedOut,
    NoCoordinator,
    Closed,
    GroupDenied,
    TopicDenied,
    NoConsumerProtocol,
    OtherProtocol,
    Other,
}

impl Cause {
    /// Returns whether the cause says what is wrong. The other causes only say that something is wrong.
    pub fn is_definite(self) -> bool {
        !matches!(self, Self::TimedOut | Self::Closed | Self::Other)
    }

    fn words(self) -> &'static str {
        match self {
            Self::HostNotFound => "the host name has no address",
            Self::Refused => "the connection is refused",
            Self::Unreachable => "the host does not answer",
            Self::Postgres => "Postgres listens there, not Kafka",
            Self::NotKafka => "what listens there is not Kafka",
            Self::TlsListener => {
                "the broker closed the plain-text connection at the first request, as a TLS listener does"
            }
            Self::PlainListener => "the listener does not speak TLS",
            Self::Certificate => "the broker's certificate is not trusted",
            Self::UnknownCa => "the broker's certificate is not signed by a known CA, or is not valid now",
            Self::WrongName => "the broker's certificate is for another host name",
            Self::ClientCertificate => "the broker does not accept our client certificate, or we have none",
            Self::SaslRequired => "the broker closed the connection after the first request, as a SASL listener does",
            Self::SaslDenied => "the broker refuses the user or the password",
            Self::SaslMechanism => "the broker does not offer this SASL mechanism",
            Self::SaslNotOffered => "the listener does not use SASL",
            Self::TimedOut => "the broker does not answer requests",
            Self::NoCoordinator => "no broker coordinates the group",
            Self::Closed => "the broker closed the connection",
            Self::GroupDenied => "Kafka denies access to the group",
            Self::TopicDenied => "Kafka denies access to the topic",
            Self::NoConsumerProtocol => "the broker does not offer `group_protocol = \"consumer\"`",
            Self::OtherProtocol => "not all members of the group offer the assignor of our `group_protocol`",
            Self::Other => "Kafka gave an error",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::HostNotFound => {
                "correct `kafka.bootstrap_servers`, or the broker's `advertised.listeners` if it gave this name"
            }
            Self::Refused => "start Kafka there, or correct host and port in `kafka.bootstrap_servers`",
            Self::Unreachable => "check the network, the firewall and `kafka.bootstrap_servers`",
            Self::Postgres | Self::NotKafka => "correct the port in `kafka.bootstrap_servers`",
            Self::TlsListener => {
                "set `\"security.protocol\" = \"ssl\"` (or `\"sasl_ssl\"`) in `kafka.properties`, or use the port of a plain-text listener"
            }
            Self::PlainListener => {
                "use the port of the TLS listener, or set `\"security.protocol\" = \"plaintext\"` (or `\"sasl_plaintext\"`) in `kafka.properties`"
            }
            Self::Certificate | Self::UnknownCa => {
                "set `\"ssl.ca.location\"` in `kafka.properties` to the CA that signed it"
            }
            Self::WrongName => {
                "use a host name that the certificate holds in `kafka.bootstrap_servers` and in the broker's `advertised.listeners`"
            }
            Self::ClientCertificate => {
                "set `\"ssl.certificate.location\"` and `\"ssl.key.location\"` in `kafka.properties` to a certificate that the broker trusts"
            }
            Self::SaslRequired => {
                "set `\"security.protocol\"` to `\"sasl_plaintext\"` or `\"sasl_ssl\"` and the `sasl.*` settings in `kafka.properties`"
            }
            Self::SaslDenied => "correct `\"sasl.username\"` and `\"sasl.password\"` in `kafka.properties`",
            Self::SaslMechanism => "set `\"sasl.mechanism\"` in `kafka.properties` to one that the broker offers",
            Self::SaslNotOffered => {
                "use the port of the SASL listener, or set `\"security.protocol\"` to `\"plaintext\"` or `\"ssl\"`"
            }
            Self::TimedOut => "check the broker's load and the network",
            Self::NoCoordinator => "check that every partition of `__consumer_offsets` has a leader",
            Self::Closed => "look at the broker's log",
            Self::GroupDenied => "grant READ on the group to our user",
            Self::TopicDenied => "grant READ and DESCRIBE on the topic to our user",
            Self::NoConsumerProtocol => {
                "set `group_protocol = \"cooperative\"`, or upgrade all brokers to Kafka 4.0 or later and switch the protocol on \
                 (`kafka-features upgrade --feature group.version=1`, and `consumer` in the brokers' \
                 `group.coordinator.rebalance.protocols`)"
            }
            Self::OtherProtocol => {
                "set `group` to a group of its own, end the other members (`kafka-consumer-groups --describe --members` lists them), or \
                 let them offer the same in `partition.assignment.strategy`: `cooperative-sticky` for `group_protocol = \"cooperative\"`, \
                 `range` for \"eager\" (Java clients offer both by default since Kafka 3.0, clients on librdkafka `range` and `roundrobin`)"
            }
            Self::Other => "look at the broker's log, and check `kafka.properties`",
        }
    }
}

impl Fault {
    /// Parses a line of librdkafka's log or an error's reason: `ssl://host:9092/bootstrap: SSL handshake failed: …`.
    pub fn parse(line: &str) -> Self {
        let mut rest = line.trim();
        // A log line begins with the thread's name.
        if let Some((_, after)) = rest.strip_prefix("[thrd:").and_then(|rest| rest.split_once("]: ")) {
            rest = after;
        }
        let (mut broker, mut tls, mut sasl) = (None, false, false);
        while let Some((name, after)) = rest.split_once(": ") {
            let Some(address) = address(name) else {
                // The name of the coordinator's connection has an extra prefix before its address.
                if name.starts_with("GroupCoordinator") {
                    rest = after;
                    continue;
                }
                break;
            };
            tls |= name.starts_with("ssl://") || name.starts_with("sasl_ssl://");
            sasl |= name.starts_with("sasl_");
            broker = Some(address.to_owned());
            rest = after;
        }
        let (text, state) = match rest.rsplit_once(" (after ") {
            Some((text, state)) => (text, state),
            None => (rest, ""),
        };
        Self { broker, cause: cause(text, state, tls, sasl), text: text.to_owned() }
    }

    pub fn group_denied(group: &str) -> Self {
        Self { broker: None, cause: Cause::GroupDenied, text: format!("group `{group}`") }
    }

    pub fn other_protocol(group: &str) -> Self {
        Self { broker: None, cause: Cause::OtherProtocol, text: format!("group `{group}`") }
    }

    pub fn topic_denied(topic: &str) -> Self {
        Self { broker: None, cause: Cause::TopicDenied, text: format!("topic `{topic}`") }
    }

    pub fn no_consumer_protocol(broker: &str) -> Self {
        let text = "it is older than Kafka 4.0, or has the protocol switched off".to_owned();
        Self { broker: Some(broker.to_owned()), cause: Cause::NoConsumerProtocol, text }
    }

    /// Returns the fault of brokers that don't answer, for the case that
    /// no failed connection says why. `servers` are their addresses.
    pub fn silent(servers: &str) -> Self {
        Self { broker: Some(servers.to_owned()), cause: Cause::TimedOut, text: "requests time out".to_owned() }
    }

    /// Returns the fault of a request that failed with `error`, whose cause isn't known.
    pub fn answer(error: &impl fmt::Display) -> Self {
        Self { broker: None, cause: Cause::Other, text: error.to_string() }
    }

    pub fn no_coordinator() -> Self {
        Self { broker: None, cause: Cause::NoCoordinator, text: "the client keeps looking for it".to_owned() }
    }

    /// Returns the topic that the client has no right to read or describe. `None` for any other fault.
    pub fn denied_topic(&self) -> Option<&str> {
        (self.cause == Cause::TopicDenied).then(|| self.text.strip_prefix("topic `")?.strip_suffix('`')).flatten()
    }

    pub fn with_cause(self, cause: Cause) -> Self {
        Self { cause, ..self }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(broker) = &self.broker {
            write!(f, "{broker}: ")?;
        }
        write!(f, "{} ({}); {}", self.cause.words(), self.text, self.cause.remedy())
    }
}

/// Parses a line of librdkafka's debug log (context `feature`). In this log, librdkafka lists the requests that a broker
/// supports, one per line. Returns the broker, and whether it offers the group protocol `consumer`:
///
/// - For the line of the protocol's request (`ConsumerGroupHeartbeat`), `Some(true)` if the broker supports version 1 of the
///   request, otherwise `Some(false)`. Version 0, which Kafka 3.8 has, doesn't count, because librdkafka doesn't send it.
/// - For the first line of a list, `None`, because a later line may name the request.
///
/// Returns `None` for any other line.
pub fn consumer_protocol(line: &str) -> Option<(String, Option<bool>)> {
    let is_first = line.contains("Broker API support:");
    if !is_first && !line.contains("ApiKey ConsumerGroupHeartbeat ") {
        return None;
    }
    let Fault { broker, text, .. } = Fault::parse(line);
    let newest = text.rsplit_once("..").and_then(|(_, newest)| newest.trim().parse::<i16>().ok());
    Some((broker?, (!is_first).then(|| newest.is_some_and(|newest| newest >= 1))))
}

/// Returns `host:port` of a broker's name as librdkafka writes it: `sasl_ssl://host:port/7`, `host:port/bootstrap`.
fn address(name: &str) -> Option<&str> {
    let name = name.split_once("://").map_or(name, |(_, name)| name);
    let name = name.split_once('/').map_or(name, |(name, _)| name);
    let (host, port) = name.rsplit_once(':')?;
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    (is_port && !host.is_empty() && !host.contains(' ')).then_some(name)
}

fn cause(text: &str, state: &str, tls: bool, sasl: bool) -> Cause {
    let says = |words: &str| text.contains(words);
    let is_closed = says("Disconnected") || says("closed by peer") || says("Connection reset");
    if says("Failed to resolve") {
        Cause::HostNotFound
    } else if says("Connection refused") {
        Cause::Refused
    } else if says("No route to host")
        || says("Network is unreachable")
        || says("Host is down")
        || says("Connection timed out")
        || says("Connection setup timed out")
    {
        Cause::Unreachable
    } else if says("certificate verify failed") || says("Failed to verify broker certificate") {
        Cause::Certificate
    } else if says("alert") || says("client SSL authentication") {
        Cause::ClientCertificate
    } else if says("Unsupported SASL mechanism") {
        Cause::SaslMechanism
    } else if says("not valid in current SASL state") {
        Cause::SaslNotOffered
    } else if says("SASL authentication error") {
        Cause::SaslDenied
    } else if says("PLAINTEXT broker listener")
        || says("wrong version number")
        || (tls && is_closed && state.contains("SSL_HANDSHAKE"))
    {
        Cause::PlainListener
    } else if let Some(size) = text.split_once("Invalid response size ").map(|(_, size)| size) {
        what_answered(size)
    } else if !tls && says("closed by peer") && state.contains("APIVERSION_QUERY") {
        // This isn't a proxy whose broker is down: such a proxy resets the connection instead of closing it.
        Cause::TlsListener
    } else if !sasl && is_closed && (says("might require SASL") || (state.contains("state UP") && is_young(state))) {
        Cause::SaslRequired
    } else if says("timed out") {
        Cause::TimedOut
    } else if is_closed {
        Cause::Closed
    } else {
        Cause::Other
    }
}

/// Returns whether the connection had been in its last state for less than 2 s when it failed. `state` is the end of
/// librdkafka's line, such as `12ms in state UP)`.
fn is_young(state: &str) -> bool {
    state.split_once("ms").and_then(|(ms, _)| ms.parse::<u64>().ok()).is_some_and(|ms| ms < 2000)
}

/// Returns which program answered, from the first four bytes of its answer, which librdkafka reads as a length. An error
/// message of Postgres begins with `E` and a length below 65,536; a TLS alert begins with 0x15 0x03.
fn what_answered(size: &str) -> Cause {
    let digits = size.split(|c: char| !c.is_ascii_digit() && c != '-').next().unwrap_or_default();
    let bytes = digits.parse::<i64>().unwrap_or_default().to_be_bytes();
    match bytes[4..] {
        [b'E', 0, 0, _] => Cause::Postgres,
        [0x15, 0x03, ..] => Cause::TlsListener,
        _ => Cause::NotKafka,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> (Option<String>, Cause) {
        let fault = Fault::parse(line);
        (fault.broker, fault.cause)
    }

    /// Each line was logged by librdkafka with a real server.
    #[test]
    fn each_line_of_librdkafka_has_its_cause_and_its_broker() {
        for (line, broker, cause) in [
            (
                "127.0.0.1:39999/bootstrap: Connect to ipv4#127.0.0.1:39999 failed: Connection refused (after 0ms in state CONNECT)",
                "127.0.0.1:39999",
                Cause::Refused,
            ),
            (
                "[thrd:GroupCoordinator]: GroupCoordinator: 127.0.0.1:9092: Connect to ipv4#127.0.0.1:9092 failed: Connection refused (after 0ms in state CONNECT, 3 identical error(s) suppressed)",
                "127.0.0.1:9092",
                Cause::Refused,
            ),
            (
                "no-such-host:9092/bootstrap: Failed to resolve 'no-such-host:9092': Name or service not known (after 0ms in state CONNECT)",
                "no-such-host:9092",
                Cause::HostNotFound,
            ),
            (
                "127.0.0.1:39432/bootstrap: Receive failed: Invalid response size 1157627904 (0..100000000): increase receive.message.max.bytes (after 2ms in state APIVERSION_QUERY)",
                "127.0.0.1:39432",
                Cause::Postgres,
            ),
            (
                "127.0.0.1:80/bootstrap: Receive failed: Invalid response size 1213486160 (0..100000000): increase receive.message.max.bytes (after 2ms in state APIVERSION_QUERY)",
                "127.0.0.1:80",
                Cause::NotKafka,
            ),
            (
                "[thrd:127.0.0.1:39092/bootstrap]: 127.0.0.1:39092/bootstrap: Disconnected: connection closed by peer: receive 0 after POLLIN (after 1ms in state APIVERSION_QUERY)",
                "127.0.0.1:39092",
                Cause::TlsListener,
            ),
            (
                "127.0.0.1:39092/bootstrap: Disconnected: connection reset by peer (after 1ms in state APIVERSION_QUERY)",
                "127.0.0.1:39092",
                Cause::Closed,
            ),
            (
                "ssl://127.0.0.1:39091/bootstrap: SSL handshake failed: Disconnected: SSL connection closed by peer: connecting to a PLAINTEXT broker listener? (after 6ms in state SSL_HANDSHAKE)",
                "127.0.0.1:39091",
                Cause::PlainListener,
            ),
            (
                "ssl://127.0.0.1:39091/bootstrap: Disconnected: SSL connection closed by peer (after 0ms in state SSL_HANDSHAKE)",
                "127.0.0.1:39091",
                Cause::PlainListener,
            ),
            (
                "ssl://localhost:39092/bootstrap: error:0A000086:SSL routines::certificate verify failed (after 14ms in state SSL_HANDSHAKE)",
                "localhost:39092",
                Cause::Certificate,
            ),
            (
                "ssl://localhost:39093/bootstrap: Receive failed: error:0A000412:SSL routines::sslv3 alert bad certificate: SSL alert number 42 (after 5ms in state APIVERSION_QUERY)",
                "localhost:39093",
                Cause::ClientCertificate,
            ),
            (
                "127.0.0.1:39094/bootstrap: Disconnected: connection closed by peer: receive 0 after POLLIN (after 1ms in state UP)",
                "127.0.0.1:39094",
                Cause::SaslRequired,
            ),
            (
                "127.0.0.1:39094/1: Disconnected: connection closed by peer: receive 0 after POLLIN (after 61000ms in state UP)",
                "127.0.0.1:39094",
                Cause::Closed,
            ),
            (
                "sasl_plaintext://127.0.0.1:39094/bootstrap: SASL authentication error: Authentication failed: Invalid username or password (after 309ms in state AUTH_REQ)",
                "127.0.0.1:39094",
                Cause::SaslDenied,
            ),
            (
                "sasl_plaintext://127.0.0.1:39094/bootstrap: SASL SCRAM-SHA-256 mechanism handshake failed: Broker: Unsupported SASL mechanism: broker's supported mechanisms: PLAIN (after 301ms in state AUTH_HANDSHAKE)",
                "127.0.0.1:39094",
                Cause::SaslMechanism,
            ),
            (
                "sasl_plaintext://127.0.0.1:39091/bootstrap: SASL PLAIN mechanism handshake failed: Broker: Request not valid in current SASL state: broker's supported mechanisms:  (after 4ms in state AUTH_HANDSHAKE)",
                "127.0.0.1:39091",
                Cause::SaslNotOffered,
            ),
            (
                "127.0.0.1:9092/1: 1 request(s) timed out: disconnect (average rtt 1.234ms) (after 70000ms in state UP)",
                "127.0.0.1:9092",
                Cause::TimedOut,
            ),
        ] {
            assert_eq!(of(line), (Some(broker.to_owned()), cause), "{line}");
        }
    }

    #[test]
    fn an_ipv6_address_is_a_broker_and_a_sentence_is_none() {
        assert_eq!(address("ssl://[::1]:9092/bootstrap"), Some("[::1]:9092"));
        assert_eq!(address("Connect to ipv4#127.0.0.1:39999 failed"), None);
        assert_eq!(of("2/3 brokers are down"), (None, Cause::Other));
    }

    #[test]
    fn a_brokers_list_of_requests_says_whether_it_offers_the_consumer_protocol() {
        for (line, offers) in [
            ("[thrd:h:1/bootstrap]: h:1/bootstrap: Broker API support:", Some(None)),
            ("[thrd:h:1/1]: h:1/1:   ApiKey ConsumerGroupHeartbeat (68) Versions 0..0", Some(Some(false))),
            (
                "[thrd:GroupCoordinator]: GroupCoordinator/1: h:1:   ApiKey ConsumerGroupHeartbeat (68) Versions 0..1",
                Some(Some(true)),
            ),
            ("[thrd:h:1/1]: h:1/1:   ApiKey Heartbeat (12) Versions 0..4", None),
        ] {
            assert_eq!(consumer_protocol(line), offers.map(|offers| ("h:1".to_owned(), offers)), "{line}");
        }
    }

    #[test]
    fn a_fault_says_where_what_and_what_to_do() {
        let refused = Fault::parse(
            "h:1/bootstrap: Connect to ipv4#10.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT)",
        );
        assert_eq!(
            refused.to_string(),
            "h:1: the connection is refused (Connect to ipv4#10.0.0.1:1 failed: Connection refused); \
             start Kafka there, or correct host and port in `kafka.bootstrap_servers`"
        );
        assert_eq!(
            Fault::group_denied("rides").to_string(),
            "Kafka denies access to the group (group `rides`); grant READ on the group to our user"
        );
    }
}
