//! librdkafka's properties: which ones the user can set, and why the others can't be set.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rdkafka::{ClientConfig, error::KafkaError};

use super::environment::fold;
use super::fault::nearest;
use super::node::ConfigNode;
use super::property_names::{NAMES, POINTERS};
use super::{Content, Secret, token};

/// The suffix of a property whose value is read from a file: `"sasl.password_file"`.
const FILE: &str = "_file";

/// librdkafka properties that the user can't set, each with the reason or with the key to set instead.
const REFUSED: &[(&[&str], &str)] = &[
    (&["bootstrap.servers", "metadata.broker.list"], "set kafka.bootstrap_servers"),
    (&["group.id"], "set pipelines.NAME.group"),
    (
        &["group.protocol", "partition.assignment.strategy", "group.protocol.type"],
        "set pipelines.NAME.group_protocol; Tidegate supports only these protocols",
    ),
    (
        &["enable.auto.commit", "auto.commit.enable", "auto.commit.interval.ms"],
        "Tidegate alone commits an offset, after its rows; otherwise the lag of the group would be wrong",
    ),
    (
        &["enable.auto.offset.store", "offset.store.method", "offset.store.path", "offset.store.sync.interval.ms"],
        "the ledger in Postgres decides where reading resumes; no other store is used",
    ),
    (
        &["auto.offset.reset"],
        "set pipelines.NAME.start and on_offset_loss; a silent reset would lose or repeat records",
    ),
    (&["isolation.level"], "always read_committed, or records of aborted transactions would become rows"),
    (&["check.crcs"], "librdkafka skips a batch whose checksum is wrong, and its records would be lost"),
    (&["enable.partition.eof"], "tidegate reads the log's end itself"),
    (
        &[
            "queued.min.messages",
            "queued.max.messages.kbytes",
            "fetch.max.bytes",
            "fetch.message.max.bytes",
            "max.partition.fetch.bytes",
            "receive.message.max.bytes",
            "message.max.bytes", // raises fetch.max.bytes
        ],
        "follows from limits.memory, or the prefetch would not be bounded",
    ),
    (&["fetch.queue.backoff.ms"], "always 1; librdkafka's default of 1000 halves a drain"),
    (&["topic.metadata.refresh.interval.ms"], "always 10000, so that new partitions are seen soon"),
    (&["statistics.interval.ms"], "tidegate's metrics are at /metrics"),
    (&["group.instance.id"], "set instance; the consumers of a pool would share the id and fence one another"),
    (&["allow.auto.create.topics"], "a misspelled topic would be created without an error, and would stay empty"),
    (
        &["api.version.request", "api.version.fallback.ms", "broker.version.fallback"],
        "the protocol of old brokers has no headers, timestamps and transactions",
    ),
    (&["log_level"], "set log.level"),
    (&["log.queue"], "librdkafka's lines belong in Tidegate's log"),
    (&["enabled_events", "consume.callback.max.messages"], "records come by polling only"),
    (&["plugin.library.paths"], "a plugin could change what is read or committed"),
];

/// Well-known properties of Java clients that librdkafka names differently or doesn't have, each with what to write instead.
const OF_JAVA: &[(&str, &str)] = &[
    ("sasl.jaas.config", "write \"sasl.username\" and \"sasl.password\" (or \"sasl.password_file\")"),
    (
        "ssl.truststore.location",
        "write \"ssl.ca.location\" with the authorities' certificates in PEM: keytool -exportcert -rfc makes them",
    ),
    ("ssl.truststore.password", "write \"ssl.ca.location\" with a PEM file, which has no password"),
    ("ssl.truststore.type", "write \"ssl.ca.location\" with a PEM file"),
    ("ssl.truststore.certificates", "write \"ssl.ca.pem\""),
    (
        "ssl.keystore.type",
        "a PKCS#12 file goes to \"ssl.keystore.location\", PEM to \"ssl.certificate.location\" and \"ssl.key.location\"",
    ),
    ("ssl.keystore.certificate.chain", "write \"ssl.certificate.pem\""),
    ("ssl.keystore.key", "write \"ssl.key.pem\""),
    ("ssl.protocol", "leave it out: TLS 1.2 and 1.3 are agreed on"),
    ("ssl.enabled.protocols", "leave it out: TLS 1.2 and 1.3 are agreed on"),
    ("sasl.login.callback.handler.class", "write \"sasl.oauthbearer.method\" and what belongs to it"),
    ("sasl.client.callback.handler.class", "leave it out: it names a class of Java"),
    ("key.deserializer", "leave it out: pipelines.NAME.decode says what records are"),
    ("value.deserializer", "leave it out: pipelines.NAME.decode says what records are"),
    ("max.poll.records", "set pipelines.NAME.batch.max_rows"),
    ("fetch.max.wait.ms", "write \"fetch.wait.max.ms\""),
    ("schema.registry.url", "set [schema_registry] url"),
    ("interceptor.classes", "leave it out: it names a class of Java"),
];

/// Properties that take one of a few words, each with its words. A fault about another word lists them.
const CHOICES: &[(&str, &[&str])] = &[
    ("broker.address.family", &["any", "v4", "v6"]),
    ("client.dns.lookup", &["use_all_dns_ips", "resolve_canonical_bootstrap_servers_only"]),
    ("metadata.recovery.strategy", &["none", "rebootstrap"]),
    ("security.protocol", &["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]),
    ("ssl.endpoint.identification.algorithm", &["none", "https"]),
];

/// Properties that can't be used with the group protocol `consumer` (KIP-848), and the broker's settings that replace them.
const CLASSIC_ONLY: &[(&str, &str)] = &[
    ("session.timeout.ms", "group.consumer.session.timeout.ms"),
    ("heartbeat.interval.ms", "group.consumer.heartbeat.interval.ms"),
];

/// Properties that name files, each with the content that the file must have. OpenSSL's errors, which librdkafka passes on, don't
/// say which content is expected. librdkafka reads these files only when it creates a client. So a digest of each file is kept
/// for a reload to compare. A folder, or the value `probe`, has no digest.
pub(crate) const FILES_READ_ONCE: &[(&str, &str)] = &[
    ("ssl.ca.location", "the authorities' certificates in PEM"),
    ("ssl.certificate.location", "a certificate in PEM"),
    ("ssl.crl.location", "a list of revoked certificates in PEM"),
    ("ssl.key.location", "a private key in PEM; if it is encrypted, \"ssl.key.password\" must have its password"),
    ("ssl.keystore.location", "a PKCS#12 keystore, and \"ssl.keystore.password\" must have its password"),
];

/// Three maps by property: the values, the files from which values were read, and the digests of the files that values name.
type Read = (BTreeMap<String, Secret>, BTreeMap<String, PathBuf>, BTreeMap<String, Content>);

/// Checks a table of properties, and reads the files from which values come.
pub(super) fn read(table: &ConfigNode<'_>) -> Read {
    let (mut properties, mut files, mut contents) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (name, node) in table.entries() {
        let (name, from_file) = match name.strip_suffix(FILE) {
            Some(property) if !NAMES.contains(&name) => (property, true),
            _ => (name, false),
        };
        if let Some(reason) = why_not(name) {
            node.fault(reason);
            continue;
        }
        let file = format!("{name}{FILE}");
        let winner = table.one_of(&[name, &file]);
        if winner.is_some_and(|(winner, _)| (winner == name) == from_file) {
            continue; // a later layer sets the value instead of the file, or the reverse
        }
        let value = if from_file { read_file(&node) } else { node.scalar_text() };
        let Some(value) = value else { continue };
        if name == "ssl.endpoint.identification.algorithm" && value.is_empty() {
            node.fault("a name check is turned off by \"none\", where Java's clients take an empty text");
            continue;
        }
        if let Err(words) = check(name, &value) {
            node.fault(words);
            continue;
        }
        if let Some(file) = node.file().filter(|_| from_file) {
            files.insert(name.to_owned(), file);
        }
        // If a file can't be read, it has no digest, and librdkafka reports the error when the client is created.
        if FILES_READ_ONCE.iter().any(|(file, _)| *file == name)
            && let Ok(content) = Content::of(Path::new(&value))
        {
            contents.insert(name.to_owned(), content);
        }
        properties.insert(name.to_owned(), Secret::new(value));
    }
    (properties, files, contents)
}

fn check(name: &str, value: &str) -> Result<(), String> {
    if token::OURS.contains(&name) {
        return Ok(()); // Tidegate uses it, and doesn't pass it to librdkafka
    }
    ClientConfig::new().set(name, value).create_native_config().map(drop).map_err(|error| in_our_words(name, &error))
}

/// Returns our own message for an error, because librdkafka's message may repeat the value, which may be secret.
/// librdkafka has the same error code for a bad value and for a feature that its build lacks. Only its message tells them apart.
fn in_our_words(name: &str, error: &KafkaError) -> String {
    let words = match error {
        KafkaError::ClientConfig(_, words, ..) => words.as_str(),
        _ => "",
    };
    if words.contains("not supported in this build") {
        return "librdkafka is built without what this property needs".to_owned();
    }
    if let Some((_, choices)) = CHOICES.iter().find(|(property, _)| *property == name) {
        return format!("librdkafka doesn't take this value; it takes {}", choices.join(", "));
    }
    if let Some((_, range)) = words.split_once("is outside allowed range ") {
        return format!("librdkafka takes only values in {}", range.trim_end());
    }
    if words.starts_with("Expected bool value") {
        return "librdkafka takes only true or false".to_owned();
    }
    "librdkafka doesn't take this value; see CONFIGURATION.md of librdkafka 2.12".to_owned()
}

/// Reads a file's text without the newline at its end.
fn read_file(node: &ConfigNode<'_>) -> Option<String> {
    let file = node.file()?;
    match std::fs::read_to_string(&file) {
        Ok(text) => {
            Some(text.strip_suffix('\n').map(|t| t.strip_suffix('\r').unwrap_or(t)).unwrap_or(&text).to_owned())
        }
        Err(error) => {
            node.fault(format!("{} can't be read: {error}", file.display()));
            None
        }
    }
}

/// Returns why a property can't be set; `None` if it can.
fn why_not(name: &str) -> Option<String> {
    if let Some((_, reason)) = REFUSED.iter().find(|(names, _)| names.contains(&name)) {
        return Some(format!("not to be set: {reason}"));
    }
    if POINTERS.contains(&name) {
        return Some("not to be set: librdkafka takes it from a program only".to_owned());
    }
    if NAMES.contains(&name) {
        return None;
    }
    if let Some((_, instead)) = OF_JAVA.iter().find(|(java, _)| *java == name) {
        return Some(format!("a property of Java's clients; {instead}"));
    }
    Some(match nearest(name, NAMES.iter().copied()) {
        Some(meant) => format!("librdkafka has no such property of a consumer, did you mean {meant}?"),
        None => "librdkafka has no such property of a consumer".to_owned(),
    })
}

/// Notes a fault for each property of `table` that contradicts the pipeline's group protocol.
pub(super) fn check_protocol(table: &ConfigNode<'_>, pipeline: &str, is_consumer_protocol: bool) {
    for (name, broker) in CLASSIC_ONLY.iter().filter(|_| is_consumer_protocol) {
        if table.at(name).is_set() {
            table.at(name).fault(format!(
                "can't be used with group_protocol = \"consumer\" of pipelines.{pipeline}, because the broker decides this ({broker})"
            ));
        }
    }
    let assignor = table.at("group.remote.assignor");
    if assignor.is_set() && !is_consumer_protocol {
        assignor.fault(format!("requires group_protocol = \"consumer\", which pipelines.{pipeline} does not have"));
    }
}

/// Returns the property that the end of a variable's name means: `SASL_PASSWORD` means `sasl.password`, and
/// `SASL_PASSWORD_FILE` means `sasl.password_file`.
pub(super) fn by_folded_name(part: &str) -> Option<String> {
    let folded = fold(part);
    let find = |folded: &str| NAMES.iter().find(|name| fold(name) == folded).map(|name| (*name).to_owned());
    find(&folded).or_else(|| Some(find(folded.strip_suffix(FILE)?)? + FILE))
}

#[cfg(test)]
mod tests {
    use rdkafka::types::RDKafkaConfRes;

    use super::*;

    #[test]
    fn librdkafka_knows_every_name_and_no_two_look_the_same_to_a_shell() {
        for name in NAMES {
            let set = ClientConfig::new().set(*name, "-").create_native_config();
            let unknown = matches!(set, Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)));
            assert!(!unknown, "{name}");
        }
        let folded: std::collections::BTreeSet<_> = NAMES.iter().map(|name| fold(name)).collect();
        assert_eq!(folded.len(), NAMES.len());
        for name in REFUSED.iter().flat_map(|(names, _)| *names).chain(CLASSIC_ONLY.iter().map(|(name, _)| name)) {
            assert!(NAMES.contains(name), "{name}");
        }
    }

    #[test]
    fn librdkafka_takes_the_words_that_a_fault_lists() {
        for (name, choices) in CHOICES {
            choices.iter().for_each(|choice| assert_eq!(check(name, choice), Ok(()), "{name}"));
            assert_eq!(
                check(name, "TLS"),
                Err(format!("librdkafka doesn't take this value; it takes {}", choices.join(", ")))
            );
        }
    }

    #[test]
    fn a_property_of_java_names_its_counterpart() {
        for (name, _) in OF_JAVA {
            assert!(!NAMES.contains(name), "{name}");
            assert!(why_not(name).is_some_and(|why| why.starts_with("a property of Java's clients")), "{name}");
        }
        assert!(why_not("ssl.truststore.location").is_some_and(|why| why.contains("ssl.ca.location")));
    }

    #[test]
    fn a_variable_names_a_property_with_underscores() {
        assert_eq!(by_folded_name("SECURITY_PROTOCOL").as_deref(), Some("security.protocol"));
        assert_eq!(by_folded_name("security.protocol").as_deref(), Some("security.protocol"));
        assert_eq!(by_folded_name("SASL_PASSWORD_FILE").as_deref(), Some("sasl.password_file"));
        assert_eq!(
            by_folded_name("SASL_OAUTHBEARER_ASSERTION_FILE").as_deref(),
            Some("sasl.oauthbearer.assertion.file")
        );
        assert_eq!(by_folded_name("NOPE"), None);
    }
}
