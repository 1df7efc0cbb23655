//! The configuration. A [`Config`] has been checked and is valid.
//!
//! `layer` reads each file, and remembers the line of each key. `environment` makes one more layer from the environment
//! variables. The `config` crate merges the layers. Then the `read*` files turn the merged tree into the types below. `schema`
//! says which keys exist and which types they have. Reading doesn't stop at the first fault: [`Faults`] has all of them, each
//! with its file and line, or with its variable. No fault repeats a value that may be secret.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

mod content;
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
mod print;
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

pub use content::Content;
pub(crate) use fault::nearest;
pub use fault::{Fault, Faults};
pub(crate) use names::table as table_name;
pub use pipeline::{DeadLetterRetention, GroupProtocol, Pipeline, Start, Topics};
pub use print::json_schema;
pub(crate) use print::may_be_secret;
pub(crate) use properties::FILES_READ_ONCE;
pub use schema_registry::{SchemaRegistry, SecretSource};
pub use secret::Secret;

/// The prefix of every variable that overrides a key: `TIDEGATE__PIPELINES__RIDE_HISTORY__CONSUMERS=4`.
pub const ENVIRONMENT_PREFIX: &str = "TIDEGATE__";

/// Returns the process's environment variables that begin with [`ENVIRONMENT_PREFIX`], for [`Config::load`]. `std::env::vars`
/// isn't used, because it panics at a variable that isn't Unicode.
pub fn variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| {
        let name = name.into_string().ok().filter(|name| name.starts_with(ENVIRONMENT_PREFIX))?;
        Some((name, value.to_string_lossy().into_owned()))
    })
}

/// Returns the process's variables that are probably meant to override a key, but have too few underscores, such as
/// `TIDEGATE_LOG_LEVEL`. Each is returned with the name that was probably meant.
pub fn unused_variables() -> impl Iterator<Item = (String, String)> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    names.filter_map(|name| environment::meant_by(&name).map(|meant| (name, meant)))
}

/// The whole configuration. A field that is a section of the file, such as `kafka`,
/// has the keys of that section. Keys that aren't set have their defaults.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `instance`: this daemon's own name, the same after every restart. `None`: derived from the host's name and the port of
    /// `http.listen`.
    pub instance: Option<String>,
    pub kafka: Kafka,
    pub postgres: Postgres,
    pub http: Http,
    pub log: Log,
    pub limits: Limits,
    pub schema_registry: Option<Arc<SchemaRegistry>>,
    /// `[pipelines.NAME]`, sorted by name; at least one.
    pub pipelines: Vec<Pipeline>,
}

impl Config {
    /// Reads the files in order. A later file overrides an earlier one: tables are merged key by key, and any other value is
    /// replaced. Then reads the variables of `env` that begin with [`ENVIRONMENT_PREFIX`]; they override all files. [`variables`]
    /// returns those of the process.
    ///
    /// # Errors
    /// All faults together. Except: if a file can't be read or isn't TOML, only the faults of such files.
    pub fn load(files: &[PathBuf], env: impl Iterator<Item = (String, String)>) -> Result<Config, Faults> {
        let texts = files.iter().map(|file| (file.as_path(), std::fs::read_to_string(file).map_err(|e| e.to_string())));
        read::config(texts, env).map(|(config, _)| config)
    }

    /// Reads files and variables as [`Config::load`] does. Returns everything that they set, as one TOML text without secrets.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn merged(files: &[PathBuf], env: impl Iterator<Item = (String, String)>) -> Result<String, Faults> {
        let texts = files.iter().map(|file| (file.as_path(), std::fs::read_to_string(file).map_err(|e| e.to_string())));
        read::config(texts, env).map(|(_, tree)| print::toml(&tree))
    }

    /// Reads one text as [`Config::load`] reads a file; `name` is the file's name in faults. Ignores the environment.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(name: &str, toml: &str) -> Result<Config, Faults> {
        let read = read::config([(Path::new(name), Ok(toml.to_owned()))].into_iter(), std::iter::empty());
        read.map(|(config, _)| config)
    }
}

/// Formats the whole configuration on many lines, with secrets as `***`.
impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:#?}")
    }
}

/// `[kafka]`: how to reach the brokers. `properties` has librdkafka's properties by name. If a property's value was read from a
/// file, `files` has the file's path by the same name: `"sasl.password_file"` adds an entry for `sasl.password`.
#[derive(Clone, Debug, PartialEq)]
pub struct Kafka {
    /// `host:port` of some of the brokers, separated by commas.
    pub bootstrap_servers: String,
    pub properties: BTreeMap<String, Secret>,
    pub files: BTreeMap<String, PathBuf>,
    /// Digests of the certificate and key files that `properties` names. A reload compares them to notice that a file was
    /// replaced. A file that couldn't be read has no digest.
    pub contents: BTreeMap<String, Content>,
    /// `token_command`: a program, with its arguments, that prints tokens for SASL OAUTHBEARER.
    pub token_command: Option<Vec<String>>,
}

impl Kafka {
    /// Returns the properties of a pipeline's clients. The pipeline's own properties override the shared ones.
    pub fn properties_of<'a>(&'a self, pipeline: &'a Pipeline) -> BTreeMap<&'a str, &'a Secret> {
        let all = self.properties.iter().chain(&pipeline.kafka_properties);
        all.map(|(name, value)| (name.as_str(), value)).collect()
    }

    /// Returns the file from which the value of a pipeline's property
    /// was read; `None` if the configuration contains the value itself.
    pub fn file_of(&self, name: &str, pipeline: &Pipeline) -> Option<PathBuf> {
        if pipeline.kafka_properties.contains_key(name) {
            return pipeline.kafka_files.get(name).cloned();
        }
        self.files.get(name).cloned()
    }

    /// Returns the source of tokens for a pipeline's clients, if they need any.
    ///
    /// # Errors
    /// If a setting is missing or contradicts another. The text says which one. A configuration that was loaded has no such
    /// error.
    pub fn token_source(&self, pipeline: &Pipeline) -> Result<Option<token::TokenSource>, String> {
        let file = |name: &str| self.file_of(name, pipeline);
        token::source(&self.properties_of(pipeline), file, self.token_command.as_deref())
    }
}

/// `[postgres]`: how to reach the database, and the deadlines for work
/// there. [`defaults`] has the default of each deadline, with its reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Postgres {
    pub url: PostgresUrl,
    /// `password_file`: the password, read again on each connection; overrides a password in the URL.
    pub password_file: Option<PathBuf>,
    /// `password_command`: a program, with its arguments, that prints the password; used instead of `password_file`.
    pub password_command: Option<Vec<String>>,
    /// `[postgres.session]`: settings of Postgres for Tidegate's sessions, such as `synchronous_commit`.
    pub session: BTreeMap<String, String>,
    pub connect_timeout: Duration,
    pub lock_timeout: Duration,
    pub statement_timeout: Duration,
    /// The longest wait for one answer of Postgres. After this time, the connection
    /// is closed, and the ledger says whether the transaction was committed.
    pub write_timeout: Duration,
    /// How long a transaction may be idle, for example because its client is suspended.
    /// After this time, Postgres ends the session, which releases the locks.
    pub idle_in_transaction_timeout: Duration,
}

/// The connection URL, or the file that contains it. The file is read
/// again for each connection, so that a rotated password is picked up.
#[derive(Clone, Debug, PartialEq)]
pub enum PostgresUrl {
    Inline(Secret),
    File(PathBuf),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Http {
    /// The address that serves `/metrics` and the page.
    pub listen: SocketAddr,
    /// `url`: the URL at which others reach this instance's page. The pages of the other instances link to it.
    /// `None`: derived from `listen`.
    pub url: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Log {
    pub format: LogFormat,
    pub level: tracing::Level,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum LogFormat {
    #[default]
    Text,
    /// One JSON object per line, for programs.
    Json,
}

/// `[limits]`. [`defaults`] has the default of each limit, with its reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// The memory budget of the process, in bytes, Kafka's prefetch included.
    pub memory: u64,
    /// How long a shutdown may take in total. It also limits a second wait. If Kafka revokes a partition, the consumer first
    /// writes what it has read. This takes at most [`Limits::flush_timeout`], and never more than 5 s.
    pub drain_timeout: Duration,
    /// How long a fenced owner waits for Kafka to revoke the partition, before it claims the partition again.
    pub claim_grace: Duration,
}

impl Limits {
    /// Returns how long a poll loop that was told to stop waits until its records are written. After this time, it leaves its
    /// group.
    pub fn flush_timeout(&self) -> Duration {
        self.drain_timeout - 2 * self.reserve()
    }

    /// Returns how long a pipeline may take to end after it was told to stop.
    pub fn pipeline_timeout(&self) -> Duration {
        self.drain_timeout - self.reserve()
    }

    /// Returns how much of `drain_timeout` is reserved for leaving the groups. The same time again is reserved for the last
    /// statements in Postgres.
    pub fn reserve(&self) -> Duration {
        (self.drain_timeout / 10).min(Duration::from_secs(1))
    }
}
