//! Turns files and environment into a [`Config`]. `read_pipeline` reads the pipelines.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::Value;
use sqlx::postgres::PgConnectOptions;
use tracing::Level;

use super::fault::{Fault, Faults, SourceLocation};
use super::layer::{Layer, merge};
use super::node::{ConfigNode, Reader};
use super::schema::ROOT;
use super::{Config, Http, Kafka, Limits, Log, LogFormat, Postgres, PostgresUrl, Secret};
use super::{
    deadlines, defaults, environment, names, postgres_url, properties, read_decode, read_pipeline, token,
    url_parameters,
};

/// The range of timeouts, and of `batch.max_age`. Its upper end is low enough that sums of such durations can't overflow.
pub(super) const ANY_WAIT: std::ops::RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_secs(3600);

/// Postgres settings that the user can't set for Tidegate's sessions, each with the key to set instead or with the
/// reason.
const OUR_SETTINGS: &[(&str, &str)] = &[
    ("statement_timeout", "set postgres.statement_timeout"),
    ("lock_timeout", "set postgres.lock_timeout"),
    ("idle_in_transaction_session_timeout", "set postgres.idle_in_transaction_timeout"),
    ("transaction_timeout", "set postgres.write_timeout"),
    ("idle_session_timeout", "always 0, so that an idle topic does not end connections"),
    ("application_name", "tidegate finds its own sessions by it"),
    ("search_path", "name the schema in pipelines.NAME.table.name"),
    ("client_encoding", "always UTF8"),
    ("default_transaction_isolation", "always read committed; the ledger's fencing requires it"),
    ("transaction_isolation", "always read committed; the ledger's fencing requires it"),
    ("default_transaction_deferrable", "always off"),
    ("row_security", "always on"),
    ("exit_on_error", "always off, or each refused row would end the connection"),
    ("quote_all_identifiers", "always off; types are compared by their text"),
    ("standard_conforming_strings", "always on"),
    ("default_transaction_read_only", "a sink writes"),
    ("transaction_read_only", "a sink writes"),
];

/// Reads the files' texts and then the environment. Later texts override earlier ones, and the environment overrides all texts.
/// Returns the configuration, and the tree of everything that was set.
pub(super) fn config<'f>(
    files: impl Iterator<Item = (&'f Path, Result<String, String>)>,
    env: impl Iterator<Item = (String, String)>,
) -> Result<(Config, Value), Faults> {
    let mut layers = Vec::new();
    let mut faults = Vec::new();
    let mut top = SourceLocation::Nowhere;
    for (layer, (file, text)) in files.enumerate() {
        if layer == 0 {
            top = SourceLocation::File { layer, file: file.to_owned() };
        }
        match text {
            Err(error) => faults.push(Fault::new(
                SourceLocation::File { layer, file: file.to_owned() },
                &[],
                format!("can't be read: {error}"),
            )),
            Ok(text) => match Layer::parse(layer, file, &text, ROOT) {
                Ok(layer) => layers.push(layer),
                Err(fault) => faults.push(fault),
            },
        }
    }
    if !faults.is_empty() {
        return Err(Faults::new(faults)); // if a file can't be read, most other faults would be wrong
    }
    let (files, _) = merge(&layers);
    layers.push(environment::layer(layers.len(), &files, env, &mut faults));
    let (tree, places) = merge(&layers);
    let reader = Reader { places, top, faults: RefCell::new(faults) };
    let config = whole(&ConfigNode::top(&reader, &tree));
    let faults = reader.faults.into_inner();
    if faults.is_empty() { Ok((config, tree)) } else { Err(Faults::new(faults)) }
}

fn whole(top: &ConfigNode<'_>) -> Config {
    top.check(ROOT);
    let registry = read_decode::schema_registry(&top.at("schema_registry"));
    let config = Config {
        instance: instance(&top.at("instance")),
        kafka: kafka(&top.at("kafka")),
        postgres: postgres(&top.at("postgres")),
        http: http(&top.at("http")),
        log: log(&top.at("log")),
        limits: limits(&top.at("limits")),
        pipelines: read_pipeline::all(&top.at("pipelines"), registry.as_ref()),
        schema_registry: registry,
    };
    deadlines::check(
        top,
        &[
            ("postgres.connect_timeout", config.postgres.connect_timeout),
            ("postgres.lock_timeout", config.postgres.lock_timeout),
            ("postgres.statement_timeout", config.postgres.statement_timeout),
            ("postgres.write_timeout", config.postgres.write_timeout),
            ("limits.drain_timeout", config.limits.drain_timeout),
            ("limits.claim_grace", config.limits.claim_grace),
        ],
    );
    if let Some(Err(why)) =
        config.pipelines.iter().map(|pipeline| config.kafka.token_source(pipeline)).find(Result::is_err)
    {
        let command = top.at("kafka").at("token_command");
        let method = top.at("kafka").at("properties").at(token::METHOD);
        if command.is_set() { command.fault(why) } else { method.fault(why) }
    }
    for pipeline in &config.pipelines {
        let own = top.at("pipelines").at(&pipeline.name).at("kafka");
        let is_consumer_protocol = pipeline.group_protocol == super::GroupProtocol::Consumer;
        properties::check_protocol(&own, &pipeline.name, is_consumer_protocol);
        properties::check_protocol(&top.at("kafka").at("properties"), &pipeline.name, is_consumer_protocol);
        deadlines::check_poll(top, &own, config.limits.drain_timeout, is_consumer_protocol);
    }
    config
}

fn instance(node: &ConfigNode<'_>) -> Option<String> {
    let name = node.text()?;
    names::instance(name).unwrap_or_else(|message| node.fault(message));
    Some(name.to_owned())
}

fn kafka(table: &ConfigNode<'_>) -> Kafka {
    let servers = table.at("bootstrap_servers");
    servers.require("name a broker, as in bootstrap_servers = \"127.0.0.1:9092\"");
    let text = servers.text().unwrap_or_default();
    let is_server = |server: &str| !server.trim().is_empty() && !server.trim().contains(char::is_whitespace);
    if servers.text().is_some() && !text.split(',').all(is_server) {
        servers.fault("not a list of brokers; write host:port,host:port");
    } else if let Some((scheme, _)) = text.split(',').find_map(|server| server.trim().split_once("://")) {
        servers.fault(format!(
            "a broker has no scheme: write host:port without {scheme}://; \"security.protocol\" in kafka.properties says whether TLS is used"
        ));
    }
    let (properties, files, contents) = properties::read(&table.at("properties"));
    let token_command = table.at("token_command").command();
    Kafka { bootstrap_servers: text.to_owned(), properties, files, contents, token_command }
}

fn postgres(table: &ConfigNode<'_>) -> Postgres {
    let wait = |name: &str, default| table.at(name).duration(ANY_WAIT, default);
    let url = match table.one_of(&["url", "url_file"]) {
        Some(("url_file", node)) => node.file().map(PostgresUrl::File),
        Some((_, node)) => node.text().map(|text| {
            if let Some(why) = url_parameters::fault(text).or_else(|| check_url(text).err()) {
                node.fault(why);
            }
            PostgresUrl::Inline(Secret::new(text))
        }),
        None => {
            table.at("url").require("set it, or url_file with the path of a file that holds it");
            None
        }
    };
    let (password_file, password_command) = match table.one_of(&["password_file", "password_command"]) {
        Some(("password_file", node)) => (node.file(), None),
        Some((_, node)) => (None, node.command()),
        None => (None, None),
    };
    Postgres {
        // If no URL was read, a fault was noted, and this placeholder isn't used.
        url: url.unwrap_or_else(|| PostgresUrl::File(PathBuf::new())),
        password_file,
        password_command,
        session: session(&table.at("session")),
        connect_timeout: wait("connect_timeout", defaults::CONNECT_TIMEOUT),
        lock_timeout: wait("lock_timeout", defaults::LOCK_TIMEOUT),
        statement_timeout: wait("statement_timeout", defaults::STATEMENT_TIMEOUT),
        write_timeout: wait("write_timeout", defaults::WRITE_TIMEOUT),
        idle_in_transaction_timeout: wait("idle_in_transaction_timeout", defaults::IDLE_IN_TRANSACTION_TIMEOUT),
    }
}

fn check_url(text: &str) -> Result<(), String> {
    let servers = postgres_url::parse(text)?;
    let parses = servers.all.iter().all(|server| server.url.expose().parse::<PgConnectOptions>().is_ok());
    if parses { Ok(()) } else { Err(format!("not a URL of Postgres; {}", postgres_url::FORM)) }
}

fn session(table: &ConfigNode<'_>) -> BTreeMap<String, String> {
    let mut settings = BTreeMap::new();
    for (name, node) in table.entries() {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        if name.is_empty() || !name.chars().all(is_name) {
            node.fault("not the name of a setting of Postgres");
        }
        if let Some((_, why)) = OUR_SETTINGS.iter().find(|(ours, _)| ours.eq_ignore_ascii_case(name)) {
            node.fault(format!("not to be set here: {why}"));
        }
        match node.scalar_text() {
            Some(text) if text.contains('\0') => node.fault("has a NUL, which Postgres doesn't take"),
            Some(text) => {
                settings.insert(name.to_owned(), text);
            }
            None => {}
        }
    }
    settings
}

fn http(table: &ConfigNode<'_>) -> Http {
    let listen = table.at("listen");
    let address = listen.text().map(str::parse::<SocketAddr>);
    if let Some(Err(_)) = address {
        listen.fault("not an address; write an IP and a port, as in \"127.0.0.1:9464\"");
    }
    let url = table.at("url");
    let is_url = |text: &str| {
        let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
        host.is_some_and(|host| !host.is_empty() && !host.contains(char::is_whitespace))
    };
    if url.text().is_some_and(|text| !is_url(text)) {
        url.fault("not a URL; write it as in \"http://host:9464\"");
    }
    Http {
        listen: address.and_then(Result::ok).unwrap_or(defaults::HTTP_LISTEN),
        url: url.text().map(|text| text.trim_end_matches('/').to_owned()),
    }
}

fn log(table: &ConfigNode<'_>) -> Log {
    let levels = [
        ("error", Level::ERROR),
        ("warn", Level::WARN),
        ("info", Level::INFO),
        ("debug", Level::DEBUG),
        ("trace", Level::TRACE),
    ];
    Log {
        format: table.at("format").choice(&[("text", LogFormat::Text), ("json", LogFormat::Json)]).unwrap_or_default(),
        level: table.at("level").choice(&levels).unwrap_or(defaults::LOG_LEVEL),
    }
}

fn limits(table: &ConfigNode<'_>) -> Limits {
    Limits {
        memory: table.at("memory").size((16 << 20)..=(1 << 40), defaults::MEMORY),
        drain_timeout: table.at("drain_timeout").duration(ANY_WAIT, defaults::DRAIN_TIMEOUT),
        claim_grace: table.at("claim_grace").duration(ANY_WAIT, defaults::CLAIM_GRACE),
    }
}
