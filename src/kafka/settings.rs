//! librdkafka's settings: the user's own, those that Tidegate requires or prefers, and those derived from the memory budget.

use std::fs::File;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use tidegate_protocol::batch::BatchLimits;

use super::credentials::{self, Keeper};
use crate::config::{FILES_READ_ONCE, GroupProtocol, Kafka, Pipeline, defaults, token};
use crate::limits::Prefetch;

/// The time between two requests of librdkafka for new topics and partitions.
const METADATA_REFRESH_MS: u32 = 10_000;

/// The longest wait between two connection attempts to a broker. With librdkafka's default of 10 s, records could begin
/// to flow as late as 10 s after the broker is back.
const RECONNECT_MAX_MS: u32 = 2_000;

/// The time between two heartbeats of a member of a classic group. When a partition moves, the new owner can't start before the
/// old one has given the partition up. Members learn of such steps at their next heartbeat, so the partition pauses for about one
/// interval. At librdkafka's default of 3 s, a pause of 3.4 s was measured. Two small requests per second and consumer cost a
/// broker almost nothing, and more than 20 of them in a row may fail before a session of 12 s ends. With
/// `group_protocol = "consumer"` the broker sets the interval, by `group.consumer.heartbeat.interval.ms` (5 s by default).
const HEARTBEAT_MS: u32 = 500;

/// A fetch reply with at least this many bytes is sent at once. If there are fewer, the broker waits for more, up to
/// [`FETCH_WAIT_MAX`]. Without this setting, at a few thousand records per second, each fetch would bring only a few
/// records, and the fetches would cost more than the records.
const FETCH_MIN_BYTES: u64 = 200_000;
/// The longest time that the broker waits for [`FETCH_MIN_BYTES`].
const FETCH_WAIT_MAX: Duration = Duration::from_millis(100);
/// The broker waits for [`FETCH_MIN_BYTES`] for at most `batch.max_age` divided by this number.
const FETCH_WAIT_SHARE: u32 = 5;
/// The shortest useful `fetch.wait.max.ms`. With a shorter wait, fetches of an empty log would return so often that they cost
/// more than they save. If `batch.max_age` allows only a shorter wait, librdkafka's defaults are used: the broker then answers a
/// fetch as soon as there is a record.
const FETCH_WAIT_MIN: Duration = Duration::from_millis(10);

const FETCH_MIN_BYTES_KEY: &str = "fetch.min.bytes";
const FETCH_WAIT_KEY: &str = "fetch.wait.max.ms";

/// The time between two reports of statistics by librdkafka. The statistics say how far logs were read.
const STATISTICS_MS: u32 = 2_000;

/// librdkafka's settings for one client, and the keeper of credentials that change while it runs.
#[derive(Clone, Debug)]
pub struct Settings {
    config: ClientConfig,
    /// The keeper of credentials that change; `None` if there are none, or if they are among the settings and never change.
    pub credentials: Option<Arc<Keeper>>,
}

impl Deref for Settings {
    type Target = ClientConfig;

    fn deref(&self) -> &ClientConfig {
        &self.config
    }
}

impl DerefMut for Settings {
    fn deref_mut(&mut self) -> &mut ClientConfig {
        &mut self.config
    }
}

/// Returns the error message for settings with which librdkafka refuses to make a client. If files that the settings name can't be
/// read, the message lists these files instead of `error`, librdkafka's own text, which names no file.
pub fn refused(settings: &Settings, error: &KafkaError) -> String {
    let unread = FILES_READ_ONCE.iter().filter_map(|(name, _)| {
        let path = settings.get(name).filter(|path| *path != "probe")?;
        let why =
            std::fs::metadata(path).and_then(|found| if found.is_dir() { Ok(()) } else { File::open(path).map(drop) });
        why.err().map(|why| format!("can't read {path:?}, which \"{name}\" in `kafka.properties` names: {why}"))
    });
    let unread: Vec<_> = unread.collect();
    if !unread.is_empty() {
        return unread.join("; ");
    }
    let text = format!("librdkafka refuses `kafka.properties`: {error}");
    let at_fault = FILES_READ_ONCE.iter().find(|(name, _)| text.contains(name));
    match at_fault.and_then(|(name, content)| Some((settings.get(name)?, content))) {
        Some((path, content)) => format!("{text}; {path:?} must have {content}"),
        None => text,
    }
}

pub fn consumer(kafka: &Kafka, pipeline: &Pipeline, prefetch: &Prefetch) -> Settings {
    let mut config = client(kafka, pipeline);
    for (name, value) in [
        // The ledger has the positions. Kafka stores them only for tools that show lag, and Tidegate commits them itself.
        ("enable.auto.commit", "false".to_owned()),
        ("enable.auto.offset.store", "false".to_owned()),
        // If a position is outside of the log, librdkafka reports an error, and doesn't jump to another position.
        ("auto.offset.reset", "error".to_owned()),
        // The default of 1000 ms halves the rate of a drain: the fetcher would sleep each time its queue was full.
        ("fetch.queue.backoff.ms", "1".to_owned()),
        // The statistics say how far logs were read, past transaction markers. With them, the lag of a log that ends with
        // a marker becomes 0.
        ("statistics.interval.ms", STATISTICS_MS.to_string()),
        ("topic.metadata.refresh.interval.ms", METADATA_REFRESH_MS.to_string()),
        ("queued.max.messages.kbytes", prefetch.queued_kbytes.to_string()),
        ("queued.min.messages", prefetch.queued_messages.to_string()),
        ("fetch.message.max.bytes", prefetch.fetch_partition_bytes.to_string()),
        ("fetch.max.bytes", prefetch.fetch_bytes.to_string()),
        // librdkafka refuses a `fetch.max.bytes` below this setting (1 MB by default). The setting has no other effect on a
        // consumer: a record that is larger than both is still delivered.
        ("message.max.bytes", prefetch.fetch_bytes.to_string()),
    ] {
        config.set(name, value);
    }
    let fetch_wait = (pipeline.batch.max_age / FETCH_WAIT_SHARE).min(FETCH_WAIT_MAX);
    if fetch_wait >= FETCH_WAIT_MIN {
        set_default(&mut config, FETCH_MIN_BYTES_KEY, FETCH_MIN_BYTES.min(prefetch.fetch_partition_bytes).to_string());
    }
    if fetch_wait >= FETCH_WAIT_MIN || waits_for_bytes(&config) {
        // The default of 500 ms would be longer than a short `max_age`.
        set_default(&mut config, FETCH_WAIT_KEY, fetch_wait.as_millis().max(1).to_string());
    }
    if pipeline.group_protocol != GroupProtocol::Consumer {
        set_default(&mut config, "heartbeat.interval.ms", HEARTBEAT_MS.to_string());
        set_default(&mut config, "session.timeout.ms", defaults::SESSION_TIMEOUT.as_millis().to_string());
    }
    match assignor(pipeline.group_protocol) {
        Some(assignor) => config.set("partition.assignment.strategy", assignor),
        // The broker assigns the partitions, and the broker's settings determine heartbeats and sessions.
        None => config.set("group.protocol", "consumer"),
    };
    config
}

/// The assignor of `group_protocol = "eager"`.
pub const EAGER: &str = "range";
/// The assignors that other clients offer, as a part of messages.
pub const OFFERED: &str = "Java clients offer `range` and `cooperative-sticky` by default since Kafka 3.0, clients on librdkafka `range` and `roundrobin`, and `partition.assignment.strategy` changes that";

/// Returns the assignor that our members of a classic group offer. Kafka refuses our members unless all other members offer it
/// too. `None` if the broker assigns the partitions.
pub fn assignor(protocol: GroupProtocol) -> Option<&'static str> {
    match protocol {
        GroupProtocol::Cooperative => Some("cooperative-sticky"),
        GroupProtocol::Eager => Some(EAGER),
        GroupProtocol::Consumer => None,
    }
}

/// Returns the limits of a batch whose records are fetched with the settings of [`consumer`]. `batch.max_age` limits the time
/// from a record's arrival in Kafka to its commit. The broker may wait for `fetch.wait.max.ms` before it sends the record,
/// unless `fetch.min.bytes` is 1. So this wait is subtracted from `max_age`, but never more than half of `max_age`.
pub fn batch_limits(config: &ClientConfig, batch: BatchLimits) -> BatchLimits {
    let wait = number(config, FETCH_WAIT_KEY).filter(|_| waits_for_bytes(config));
    let wait = wait.map_or(Duration::ZERO, Duration::from_millis);
    BatchLimits { max_age: batch.max_age - wait.min(batch.max_age / 2), ..batch }
}

/// Returns whether the broker waits with a fetch until it has several bytes.
fn waits_for_bytes(config: &ClientConfig) -> bool {
    number(config, FETCH_MIN_BYTES_KEY).is_some_and(|bytes| bytes > 1)
}

fn number(config: &ClientConfig, key: &str) -> Option<u64> {
    config.get(key)?.trim().parse().ok()
}

fn set_default(config: &mut ClientConfig, key: &str, value: String) {
    if config.get(key).is_none() {
        config.set(key, value);
    }
}

/// Returns the settings of a client that makes requests about the pipeline's topics and group, and joins no group.
pub fn observer(kafka: &Kafka, pipeline: &Pipeline) -> Settings {
    let mut config = client(kafka, pipeline);
    config.set("enable.auto.commit", "false");
    config
}

/// Returns the settings of a client that reads given ranges of logs. Such a client joins no group, and is told when it
/// reaches a log's end.
pub fn reader(kafka: &Kafka, pipeline: &Pipeline) -> Settings {
    to_read(observer(kafka, pipeline))
}

/// Derives the settings of [`reader`] from those of [`observer`].
pub fn to_read(mut config: Settings) -> Settings {
    config.set("enable.auto.offset.store", "false");
    config.set("enable.partition.eof", "true");
    config.set("auto.offset.reset", "error");
    config.set("fetch.queue.backoff.ms", "1");
    // A fetch that still waits at the end of one log delays the next topic. With the default of 500 ms, reading a hundred
    // topics takes a minute and a half.
    config.set("fetch.wait.max.ms", "10");
    config.set("queued.max.messages.kbytes", "16384");
    config
}

fn client(kafka: &Kafka, pipeline: &Pipeline) -> Settings {
    let mut config = ClientConfig::new();
    config.set("client.id", "tidegate");
    for (name, value) in kafka.properties_of(pipeline) {
        if !token::OURS.contains(&name) {
            config.set(name, value.expose());
        }
    }
    trust_the_system(&mut config, |name| std::env::var(name).ok().filter(|path| !path.is_empty()));
    config.set("bootstrap.servers", &kafka.bootstrap_servers);
    config.set("group.id", &pipeline.group);
    set_default(&mut config, "reconnect.backoff.max.ms", RECONNECT_MAX_MS.to_string());
    // When a broker closes a connection, librdkafka logs it at level info. That is often the only sign of a wrong protocol or
    // port.
    config.set_log_level(RDKafkaLogLevel::Info);
    if pipeline.group_protocol == GroupProtocol::Consumer {
        // If a broker doesn't offer the protocol, librdkafka keeps asking the group's coordinator and reports nothing. Only its
        // debug log says so, in a few lines per connection.
        let debug = config.get("debug").map_or_else(|| "feature".to_owned(), |debug| format!("{debug},feature"));
        config.set("debug", debug);
        config.set_log_level(RDKafkaLogLevel::Debug);
    }
    Settings { config, credentials: credentials::keeper(kafka, pipeline) }
}

/// Makes TLS connections trust the system's certificate authorities, unless the user names other authorities. The linked OpenSSL
/// looks for certificates in the folder for which it was built, which most machines don't have. So `ssl.ca.location` is set to
/// `probe`, with which librdkafka searches the folders of known distributions. `SSL_CERT_FILE` and `SSL_CERT_DIR` name another
/// file or folder, as for connections to Postgres. `variable` reads an environment variable.
fn trust_the_system(config: &mut ClientConfig, variable: impl Fn(&str) -> Option<String>) {
    let is_tls = config.get("security.protocol").is_some_and(|protocol| protocol.to_ascii_lowercase().contains("ssl"));
    if !is_tls || config.get("ssl.ca.pem").is_some() {
        return;
    }
    let authorities = variable("SSL_CERT_FILE").or_else(|| variable("SSL_CERT_DIR"));
    set_default(config, "ssl.ca.location", authorities.unwrap_or_else(|| "probe".to_owned()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::limits;

    #[test]
    fn a_file_with_other_content_is_named_with_what_must_be_in_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n").unwrap();
        for (name, content) in FILES_READ_ONCE {
            let mut settings = Settings { config: ClientConfig::new(), credentials: None };
            settings.set("security.protocol", "ssl").set(*name, file.path().to_str().unwrap());
            let error = settings.create::<rdkafka::consumer::BaseConsumer>().map(drop).unwrap_err();
            let refused = refused(&settings, &error);
            assert!(refused.ends_with(&format!("; {:?} must have {content}", file.path())), "{name}: {refused}");
        }
    }

    /// Returns `fetch.min.bytes`, `fetch.wait.max.ms` and the age at which the session closes a batch, in milliseconds.
    fn fetch(max_age: &str, properties: &str) -> (Option<String>, Option<String>, u128) {
        let toml = format!(
            "[kafka]\nbootstrap_servers = \"127.0.0.1:9092\"\n[kafka.properties]\n{properties}\n\
             [postgres]\nurl = \"postgres://tidegate@127.0.0.1/t\"\n\
             [pipelines.rides]\ntopics = [\"t\"]\nbatch = {{ max_age = \"{max_age}\" }}\n\
             [pipelines.rides.table]\nname = \"rides\"\n"
        );
        let config = Config::parse("test.toml", &toml).expect("a configuration");
        let pipeline = &config.pipelines[0];
        let share = limits::share(&config, pipeline).expect("it fits");
        let settings = consumer(&config.kafka, pipeline, &share.prefetch);
        let get = |key| settings.get(key).map(str::to_owned);
        let max_age = batch_limits(&settings, pipeline.batch).max_age.as_millis();
        (get(FETCH_MIN_BYTES_KEY), get(FETCH_WAIT_KEY), max_age)
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn the_broker_may_wait_for_a_fifth_of_the_age_and_at_most_100_ms() {
        assert_eq!(fetch("500ms", ""), (some("200000"), some("100"), 400));
        assert_eq!(fetch("200ms", ""), (some("200000"), some("40"), 160));
        assert_eq!(fetch("10s", ""), (some("200000"), some("100"), 9900));
    }

    #[test]
    fn a_short_age_is_fetched_as_it_comes() {
        assert_eq!(fetch("40ms", ""), (None, None, 40));
        let asked = "\"fetch.min.bytes\" = 5000";
        assert_eq!(
            fetch("40ms", asked),
            (some("5000"), some("8"), 32),
            "a wait that is asked for is a part of the age"
        );
        assert_eq!(fetch("1ms", asked), (some("5000"), some("1"), 0));
    }

    fn authorities(properties: &[(&str, &str)], variables: &[(&str, &str)]) -> Option<String> {
        let mut config = ClientConfig::new();
        for (name, value) in properties {
            config.set(*name, *value);
        }
        let find =
            |name: &str| variables.iter().find(|(found, _)| *found == name).map(|(_, value)| (*value).to_owned());
        trust_the_system(&mut config, find);
        config.get("ssl.ca.location").map(str::to_owned)
    }

    #[test]
    fn tls_trusts_the_system_unless_the_user_names_an_authority() {
        for protocol in ["ssl", "SSL", "sasl_ssl", "SASL_SSL"] {
            assert_eq!(authorities(&[("security.protocol", protocol)], &[]), some("probe"), "{protocol}");
        }
        let tls = ("security.protocol", "SSL");
        assert_eq!(authorities(&[tls, ("ssl.ca.location", "/ca.pem")], &[("SSL_CERT_FILE", "/f")]), some("/ca.pem"));
        assert_eq!(authorities(&[tls, ("ssl.ca.pem", "-")], &[("SSL_CERT_FILE", "/f")]), None);
        assert_eq!(authorities(&[tls], &[("SSL_CERT_FILE", "/f"), ("SSL_CERT_DIR", "/d")]), some("/f"));
        assert_eq!(authorities(&[tls], &[("SSL_CERT_DIR", "/d")]), some("/d"));
        assert_eq!(authorities(&[("security.protocol", "SASL_PLAINTEXT")], &[]), None);
        assert_eq!(authorities(&[], &[]), None);
    }

    #[test]
    fn a_users_own_fetch_settings_hold_and_their_wait_counts() {
        assert_eq!(fetch("500ms", "\"fetch.min.bytes\" = \"1\""), (some("1"), some("100"), 500));
        let own = "\"fetch.min.bytes\" = \"5000\"\n\"fetch.wait.max.ms\" = \"300\"";
        assert_eq!(fetch("500ms", own), (some("5000"), some("300"), 250));
    }
}
