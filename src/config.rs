//! The configuration, checked: a [`Config`] can't be wrong.
//!
//! The way in, in the order of the data: `layer` reads each file with its places, `environment` makes one more layer of
//! the variables, the `config` crate merges them, `schema` says which keys there are and of which type, and the `read*`
//! files turn the merged tree into the types below. Nothing stops at the first fault: [`Faults`] carries them all, each
//! with the file and line, or the variable, that it comes from. No fault repeats a value that may be secret.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod deadlines;
pub mod defaults;
mod environment;
mod fault;
mod layer;
mod names;
mod node;
mod partition_by;
mod pipeline;
pub mod postgres_url;
mod properties;
mod property_names;
mod read;
mod read_columns;
mod read_decode;
mod read_pipeline;
mod read_table;
mod route;
mod row_filter;
mod schema;
mod schema_registry;
mod secret;
#[cfg(test)]
mod tests;
pub mod token;
pub mod units;
pub(crate) mod url_parameters;

pub(crate) use fault::nearest;
pub use fault::{Fault, Faults};
pub(crate) use names::table as table_name;
pub use pipeline::{GroupProtocol, KeepLetters, Pipeline, Start, Topics};
pub use schema_registry::{SchemaRegistry, SecretSource};
pub use secret::Secret;

/// What every variable that overrides a key begins with: `TIDEGATE__PIPELINES__RIDE_HISTORY__CONSUMERS=4`.
pub const ENVIRONMENT_PREFIX: &str = "TIDEGATE__";

/// The process's variables for [`Config::load`]. Not `std::env::vars`, which panics at any variable that is no Unicode.
pub fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok().filter(|name| name.starts_with(ENVIRONMENT_PREFIX))?;
        Some((name, value.to_string_lossy().into_owned()))
    })
}

/// All of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `instance`: a name of this daemon that it keeps over restarts. `None`: made of the host's name and the port of `http.listen`.
    pub instance: Option<String>,
    /// `[kafka]`
    pub kafka: Kafka,
    /// `[postgres]`
    pub postgres: Postgres,
    /// `[http]`
    pub http: Http,
    /// `[log]`
    pub log: Log,
    /// `[limits]`
    pub limits: Limits,
    /// `[pipelines.NAME]`, in order of name; at least one.
    pub pipelines: Vec<Pipeline>,
}

impl Config {
    /// Reads files that overlay each other (tables merge by name, anything else is replaced, the later wins), and over
    /// them the variables of `env` that begin with [`ENVIRONMENT_PREFIX`]. Pass [`variables`].
    ///
    /// # Errors
    /// Everything that is wrong, together. Where a file can't be read or is no TOML, that alone.
    pub fn load(files: &[PathBuf], env: impl Iterator<Item = (String, String)>) -> Result<Config, Faults> {
        let texts = files.iter().map(|file| (file.as_path(), std::fs::read_to_string(file).map_err(|e| e.to_string())));
        read::config(texts, env)
    }

    /// Reads one text, as [`Config::load`] reads a file; `name` stands for the file in faults. No environment.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(name: &str, toml: &str) -> Result<Config, Faults> {
        read::config([(Path::new(name), Ok(toml.to_owned()))].into_iter(), std::iter::empty())
    }
}

/// The whole configuration on many lines, secrets as `***`.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:#?}")
    }
}

/// `[kafka]`: how to reach the brokers.
#[derive(Clone, Debug, PartialEq)]
pub struct Kafka {
    /// `host:port,host:port`
    pub bootstrap_servers: String,
    /// librdkafka's own properties; those that would break a promise are refused by name. Values may be secret.
    pub properties: BTreeMap<String, Secret>,
    /// The files that values of `properties` were read from.
    pub files: BTreeMap<String, PathBuf>,
    /// `token_command`: a program that prints tokens for SASL OAUTHBEARER, with its arguments.
    pub token_command: Option<Vec<String>>,
}

impl Kafka {
    /// The properties that hold for a pipeline: its own over the shared ones.
    pub fn properties_of<'a>(&'a self, pipeline: &'a Pipeline) -> BTreeMap<&'a str, &'a Secret> {
        let all = self.properties.iter().chain(&pipeline.kafka_properties);
        all.map(|(name, value)| (name.as_str(), value)).collect()
    }

    /// The file that a property of a pipeline was read from, if it was.
    pub fn file_of(&self, name: &str, pipeline: &Pipeline) -> Option<PathBuf> {
        if pipeline.kafka_properties.contains_key(name) {
            return pipeline.kafka_files.get(name).cloned();
        }
        self.files.get(name).cloned()
    }

    /// Where a pipeline's clients have tokens from, if they need any.
    ///
    /// # Errors
    /// Says what is missing or doesn't go together. A configuration that was read has no such error.
    pub fn token_source(&self, pipeline: &Pipeline) -> Result<Option<token::TokenSource>, String> {
        let file = |name: &str| self.file_of(name, pipeline);
        token::source(&self.properties_of(pipeline), file, self.token_command.as_deref())
    }
}

/// `[postgres]`: how to reach the database.
#[derive(Clone, Debug, PartialEq)]
pub struct Postgres {
    /// Where the connection URL comes from.
    pub url: PostgresUrl,
    /// `password_file`: the password, read again on each connection; stands over one in the URL.
    pub password_file: Option<PathBuf>,
    /// `password_command`: a program that prints the password, with its arguments; in the place of `password_file`.
    pub password_command: Option<Vec<String>>,
    /// `[postgres.session]`: settings for our transactions, such as `synchronous_commit`.
    pub session: BTreeMap<String, String>,
    /// The longest that a new connection may take. Default [`defaults::CONNECT_TIMEOUT`].
    pub connect_timeout: Duration,
    /// The longest that we wait for a lock. Default [`defaults::LOCK_TIMEOUT`].
    pub lock_timeout: Duration,
    /// The longest that Postgres may work on one statement of ours. Default [`defaults::STATEMENT_TIMEOUT`].
    pub statement_timeout: Duration,
    /// The longest that we wait for one answer of Postgres before the connection is given up and the ledger is asked.
    /// Default [`defaults::WRITE_TIMEOUT`].
    pub write_timeout: Duration,
    /// How long a transaction of ours may stand still, its client stopped, before Postgres ends it and frees its locks.
    /// Default [`defaults::IDLE_IN_TRANSACTION_TIMEOUT`].
    pub idle_in_transaction_timeout: Duration,
}

/// Where the connection URL comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum PostgresUrl {
    /// `url`
    Inline(Secret),
    /// `url_file`: read again on each connection, so that a rotated password is picked up.
    File(PathBuf),
}

/// `[http]`
#[derive(Clone, Debug, PartialEq)]
pub struct Http {
    /// Where `/metrics` and the page listen. Default [`defaults::HTTP_LISTEN`].
    pub listen: SocketAddr,
    /// `url`: how others reach this instance's page, for the list of instances. `None`: made from `listen`.
    pub url: Option<String>,
}

/// `[log]`
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Log {
    /// How a line looks. Default text.
    pub format: LogFormat,
    /// What is logged. Default [`defaults::LOG_LEVEL`].
    pub level: tracing::Level,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for programs.
    Json,
}

/// `[limits]`
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// One budget for the process, in bytes, Kafka's prefetch included. Default [`defaults::MEMORY`].
    pub memory: u64,
    /// How long a shutdown may take in all. A revoke waits for the batches in flight no longer than that either. Default
    /// [`defaults::DRAIN_TIMEOUT`].
    pub drain_timeout: Duration,
    /// How long a superseded owner waits for Kafka's revoke before it claims again. Default [`defaults::CLAIM_GRACE`].
    pub claim_grace: Duration,
}

impl Limits {
    /// How long after the stop a poll loop waits for what it has read to be written; then it leaves its group.
    pub fn flush_timeout(&self) -> Duration {
        self.drain_timeout - 2 * self.reserve()
    }

    /// How long after the stop a pipeline ends at the latest.
    pub fn pipeline_timeout(&self) -> Duration {
        self.drain_timeout - self.reserve()
    }

    /// The time within `drain_timeout` that is kept for leaving the groups, and as much again for the last word to Postgres.
    pub fn reserve(&self) -> Duration {
        (self.drain_timeout / 10).min(Duration::from_secs(1))
    }
}
