//! `tidegate schema`: reads the newest records of a topic, and proposes a table and a mapping for them. The proposal is a
//! `[pipelines.NAME]` in TOML, and with `--bootstrap-servers` also the sections before it. If the table exists already, the
//! proposal maps fields to its columns, and comments name the fields and columns that don't match. Changes nothing.

mod columns;
mod existing;
mod infer;
mod keys;
mod names;
mod print;
mod shape;
mod tree;
mod trial;
mod values;

use std::ops::Range;
use std::sync::Arc;

use columns::Proposed;
use infer::Sample;
use print::{path_text, quoted};
use rdkafka::message::Message as _;
use serde::Serialize;
use tidegate_protocol::position::Offset;
use tidegate_rows::catalog::Catalog;
use tidegate_rows::ddl;
use tidegate_rows::schema::{Found, SchemaId, Schemas as _};
use tokio::task::spawn_blocking;
use trial::Compared;

use super::check::newest_ranges;
use super::progress::Progress;
use super::{reach, show, start_logging};
use crate::config::{Config, Pipeline, Topics, may_be_secret, table_name, url_parameters, variables};
use crate::error::FatalError;
use crate::kafka::reader::Reader;
use crate::kafka::settings;
use crate::postgres::catalog;
use crate::registry::{self, CachedSchemas};

/// Arguments of `schema`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The topic whose records are read.
    #[arg(long, value_name = "TOPIC")]
    topic: String,
    /// One or more brokers, separated by commas.
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "config", conflicts_with = "config")]
    bootstrap_servers: Option<String>,
    /// A property of librdkafka, such as security.protocol=SASL_SSL. May be given several times.
    #[arg(long = "property", value_name = "NAME=VALUE", conflicts_with = "config")]
    properties: Vec<String>,
    /// The URL of the schema registry, if values or keys begin with a schema id.
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    schema_registry: Option<String>,
    /// The URL of the database. If the table exists there, a mapping to its columns is proposed.
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    postgres_url: Option<String>,
    /// A configuration file from which brokers, their properties, the schema registry and the database are taken. May be given
    /// several times.
    #[arg(long, value_name = "FILE")]
    config: Vec<std::path::PathBuf>,
    /// The name of the table, which may exist. Default: the table of the first pipeline in --config that lists the topic and
    /// writes to a single table, or else a name made from the topic's name.
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// About how many of the newest records to read, from all partitions together.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    records: u32,
    /// Print one JSON document instead of text.
    #[arg(long)]
    json: bool,
}

/// Ranges of offsets, each with the number of its partition.
type Ranges = Vec<(i32, Range<Offset>)>;

#[derive(Serialize)]
struct Report {
    topic: String,
    pipeline: String,
    table: String,
    records: u64,
    tombstones: u64,
    not_json_objects: u64,
    columns: Vec<Column>,
    /// Whether the table exists. `null` if no database is configured, or if the one of `--config` can't be reached.
    table_exists: Option<bool>,
    /// The faults that keep the proposal from running with the existing table.
    faults: Vec<String>,
    /// Further remarks on the existing table and the sample. Empty if the table doesn't exist.
    findings: Vec<String>,
    /// The statement that `create = true` would run; `null` if the table exists.
    ddl: Option<String>,
    toml: String,
}

#[derive(Serialize)]
struct Column {
    column: String,
    #[serde(rename = "type")]
    type_text: String,
    unit: Option<&'static str>,
    field: String,
    /// How many rows have the field with a value other than null. For Avro and Protobuf: how many have the field in
    /// their schema.
    with_value: u64,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), FatalError> {
    let name = pipeline_name(&arguments.topic);
    let (config, head, table) = brokers(arguments, &name)?;
    start_logging(&config, tracing::level_filters::LevelFilter::WARN);
    let pipeline = config.pipelines.first().ok_or_else(|| FatalError::bug("no pipeline"))?;
    let progress = Progress::start("schema");
    progress.doing(format!("reading the newest records of `{}`", arguments.topic));
    let ranges = ranges(&config, pipeline, &arguments.topic, arguments.records).await?;
    let sample = look(&config, pipeline, &arguments.topic, ranges.clone()).await?;
    if sample.records == 0 {
        return Err(FatalError::Config(format!(
            "topic `{}` holds no record, and a table is proposed from records: send some first",
            arguments.topic
        )));
    }
    progress.doing("reading the table's definition");
    let (existing, unasked) = match existing_table(arguments, &config, &table).await {
        Ok(found) => (found, None),
        // The file of `--config` may be written before its database exists, so this isn't an error.
        Err(FatalError::Unavailable(why)) if arguments.postgres_url.is_none() => (Asked::No, Some(why)),
        Err(error) => return Err(error),
    };
    let catalog = existing.catalog();
    let Some(proposal) = sample.propose(catalog) else {
        return Err(without_fields(arguments, &sample, &table, catalog));
    };
    let block = print::block(&arguments.topic, &name, &table, &proposal, &sample, catalog);
    let toml = head.shown.clone() + &block;
    let proposed = Config::parse("the proposal", &(connections(&config, &head.whole) + &block));
    let proposed = proposed.map_err(|faults| FatalError::bug(faults.to_string()))?;
    let made = proposed.pipelines.iter().find(|pipeline| pipeline.name == name);
    let made = made.ok_or_else(|| FatalError::bug("the proposal has no pipeline"))?;
    let (compared, ddl) = match catalog {
        Some(catalog) => {
            progress.doing("comparing the records with the table");
            let registry = config.schema_registry.clone().filter(|_| made.schema_registry.is_some());
            let made = Pipeline { schema_registry: registry, ..made.clone() };
            let (reader, topic) = (settings::reader(&config.kafka, pipeline), arguments.topic.as_str().into());
            (trial::compare(&made, &proposal, catalog, reader, topic, ranges).await?, None)
        }
        None => {
            let ddl = ddl::create_table(&made.rows());
            (Compared::default(), Some(ddl.map_err(|_| FatalError::bug("the proposed table can't be created"))?))
        }
    };
    drop(progress);
    if arguments.json {
        let report = Report {
            topic: arguments.topic.clone(),
            pipeline: name,
            table,
            records: sample.records,
            tombstones: sample.tombstones,
            not_json_objects: sample.odd(),
            columns: proposal.columns.iter().map(Column::of).collect(),
            table_exists: existing.is_known(),
            faults: compared.faults,
            findings: compared.findings,
            ddl,
            toml,
        };
        return show::json(&report);
    }
    let missing = match (unasked, &existing) {
        (Some(why), _) => format!("# Whether the table exists isn't known: {}\n", show::safe(&why)),
        (None, Asked::Missing) => format!("# The database has no table {table}.\n"),
        (None, _) => String::new(),
    };
    let end = match (catalog, ddl) {
        (Some(catalog), _) => compared.comments(catalog),
        (None, ddl) => format!(
            "{missing}# create = true runs this at the first start:\n#   {};",
            ddl.unwrap_or_default().replace('\n', "\n#   ")
        ),
    };
    show::print(&format!("{toml}\n{}", end.trim_end()))
}

/// The answer to whether the table exists.
enum Asked {
    /// No database is configured, or the one of `--config` can't be reached.
    No,
    Missing,
    Exists(Box<Catalog>),
}

impl Asked {
    fn catalog(&self) -> Option<&Catalog> {
        match self {
            Self::Exists(catalog) => Some(catalog),
            Self::No | Self::Missing => None,
        }
    }

    fn is_known(&self) -> Option<bool> {
        match self {
            Self::No => None,
            Self::Missing => Some(false),
            Self::Exists(_) => Some(true),
        }
    }
}

async fn existing_table(arguments: &Arguments, config: &Config, table: &str) -> Result<Asked, FatalError> {
    if arguments.postgres_url.is_none() && arguments.config.is_empty() {
        return Ok(Asked::No);
    }
    let name = table_name(table).map_err(FatalError::Config)?;
    let mut connection = reach::open(&reach::connector(config)).await?;
    let found = catalog::load(&mut connection, &name).await;
    let found = found.map_err(|error| reach::failed("can't read the table's definition", error))?;
    Ok(found.map_or(Asked::Missing, |found| Asked::Exists(Box::new(found))))
}

fn without_fields(arguments: &Arguments, sample: &Sample, table: &str, catalog: Option<&Catalog>) -> FatalError {
    if let (Some(catalog), Some(of_new)) = (catalog, sample.propose(None)) {
        let fields: Vec<_> = of_new.columns.iter().take(10).map(|column| path_text(&column.path)).collect();
        let columns: Vec<_> = catalog.columns.iter().map(|column| column.name.as_str()).collect();
        return FatalError::Config(format!(
            "no field of topic `{}` has the name of a column of `{table}`: the records have {}, the table has {}; write the mapping by \
             hand, or name another table by --table",
            arguments.topic,
            fields.join(", "),
            columns.join(", ")
        ));
    }
    let remedy = match sample.unknown_schemas {
        0 => String::new(),
        count => format!(
            "; {} with the id of a schema: state the schema registry by --schema-registry or in the file of --config",
            show::counted(count, "value begins", "values begin")
        ),
    };
    FatalError::Config(format!(
        "of the newest {} of topic `{}` none is a JSON object with a field that has a value; a table can't be proposed from them{remedy}",
        show::counted(sample.records, "record", "records"),
        arguments.topic
    ))
}

impl Column {
    fn of(proposed: &Proposed) -> Self {
        Self {
            column: proposed.name.clone(),
            type_text: proposed.typed.name.to_string(),
            unit: proposed.typed.unit,
            field: path_text(&proposed.path),
            with_value: proposed.with_value,
        }
    }
}

const FILES: &str = "Write it to a file and name that in a key that ends with `_file`; docs/connections.md lists them.";

/// The part of a configuration that comes before the pipelines. `whole` has the secrets, and is parsed for our own connections.
/// `shown` leaves them out, and is printed with the proposal.
#[derive(Default)]
struct Head {
    whole: String,
    shown: String,
}

impl Head {
    fn add(&mut self, text: &str) {
        self.add_secret(text, text);
    }

    fn add_secret(&mut self, text: &str, shown: &str) {
        self.whole += text;
        self.shown += shown;
    }

    fn add_url(&mut self, url: &str) {
        let line = |url: &str| format!("url = {}\n", quoted(url));
        match url_parameters::without_password(url) {
            None => self.add(&line(url)),
            Some(bare) => {
                let shown = format!("# The password is left out, because it is secret. {FILES}\n{}", line(&bare));
                self.add_secret(&line(url), &shown);
            }
        }
    }
}

/// Returns three things: a configuration with one pipeline, for connecting to the brokers; the part of the proposal that comes
/// before the pipelines; and the name of the table.
fn brokers(arguments: &Arguments, name: &str) -> Result<(Config, Head, String), FatalError> {
    let topic = quoted(&arguments.topic);
    let own = || arguments.table.clone().unwrap_or_else(|| quote_table(name));
    if let Some(servers) = &arguments.bootstrap_servers {
        let mut head = Head::default();
        head.add(&format!("[kafka]\nbootstrap_servers = {}\n", quoted(servers)));
        if !arguments.properties.is_empty() {
            head.add("\n[kafka.properties]\n");
        }
        for property in &arguments.properties {
            let Some((name, value)) = property.split_once('=') else {
                // Don't show the text, because it may be a password.
                return Err(FatalError::Config("--property: it takes the form NAME=VALUE".to_owned()));
            };
            let line = format!("{} = {}\n", quoted(name), quoted(value));
            if may_be_secret(name) {
                head.add_secret(&line, &format!("# {} is left out, because it may be secret. {FILES}\n", quoted(name)));
            } else {
                head.add(&line);
            }
        }
        if let Some(url) = &arguments.schema_registry {
            head.add("\n[schema_registry]\n");
            head.add_url(url);
        }
        head.add("\n[postgres]\n");
        match &arguments.postgres_url {
            Some(url) => head.add_url(url),
            None => {
                head.add("# Change this to your database.\nurl = \"postgres://tidegate@127.0.0.1:5432/telemetry\"\n")
            }
        }
        head.add("\n");
        let table = own();
        let pipeline = format!("[pipelines.{name}]\ntopics = [{topic}]\ntable.name = {}\n", quoted(&table));
        let config = Config::parse("--bootstrap-servers", &(head.whole.clone() + &pipeline));
        return Ok((config.map_err(|faults| FatalError::Config(faults.to_string()))?, head, table));
    }
    let mut config =
        Config::load(&arguments.config, variables()).map_err(|faults| FatalError::Config(faults.to_string()))?;
    let reads = |pipeline: &&Pipeline| {
        let is_named = matches!(&pipeline.topics, Topics::List(topics) if topics.contains(&arguments.topic));
        is_named && pipeline.table.route.is_none()
    };
    let configured = config.pipelines.iter().find(reads).map(|pipeline| pipeline.table.name.quoted());
    let table = arguments.table.clone().or(configured).unwrap_or_else(own);
    // Keep one pipeline, whose settings are used to connect to the brokers.
    config.pipelines.truncate(1);
    if let Some(pipeline) = config.pipelines.first_mut() {
        pipeline.topics = Topics::List(vec![arguments.topic.clone()]);
    }
    Ok((config, Head::default(), table))
}

/// Returns connection settings that make the proposed pipeline a complete configuration, so that it can be parsed. Returns
/// `head`, or placeholders if `head` is empty because the user's file has the settings already.
fn connections(config: &Config, head: &str) -> String {
    if head.is_empty() {
        let registry =
            config.schema_registry.as_ref().map_or("", |_| "[schema_registry]\nurl = \"http://127.0.0.1\"\n");
        format!(
            "[kafka]\nbootstrap_servers = {}\n[postgres]\nurl = \"postgres://\"\n{registry}",
            quoted(&config.kafka.bootstrap_servers)
        )
    } else {
        head.to_owned()
    }
}

async fn ranges(config: &Config, pipeline: &Pipeline, topic: &str, records: u32) -> Result<Ranges, FatalError> {
    let observer = reach::observer(config, pipeline)?;
    let topics = reach::topics(config, &observer, &pipeline.topics).await?;
    if topics.is_empty() {
        return Err(FatalError::Config(format!(
            "topic `{topic}` does not exist on {}; correct its name",
            config.kafka.bootstrap_servers
        )));
    }
    let ranges = newest_ranges(config, pipeline, &topics, records).await?;
    Ok(ranges.into_iter().map(|(source, range)| (source.partition, range)).collect())
}

async fn look(config: &Config, pipeline: &Pipeline, topic: &str, ranges: Ranges) -> Result<Sample, FatalError> {
    let (reader, topic): (_, Arc<str>) = (settings::reader(&config.kafka, pipeline), topic.into());
    let schemas = config.schema_registry.as_deref().map(|registry| CachedSchemas::start(registry, &pipeline.name));
    let schemas = schemas.transpose().map_err(FatalError::Config)?;
    let reading = spawn_blocking(move || {
        let mut sample = Sample::default();
        let mut trouble = Ok(());
        Reader::new(&reader)?.read(&topic, &ranges, |message| {
            sample.add(message.key(), message.payload(), |number| {
                let id = SchemaId::Number(number);
                let schemas = schemas.as_deref().filter(|_| trouble.is_ok())?;
                let wants = || matches!(schemas.find(id), Found::Wanted).then_some(id);
                trouble = registry::await_schema(Some(schemas), wants);
                match schemas.find(id) {
                    Found::Schema(schema) => Some(schema),
                    Found::Fault(_) | Found::Wanted => None,
                }
            });
        })?;
        trouble.map(|()| sample)
    });
    let read = reading.await.map_err(FatalError::bug)?;
    read.map_err(FatalError::Unavailable)
}

fn pipeline_name(topic: &str) -> String {
    topic.chars().take(63).map(|c| if c == '.' { '_' } else { c }).collect()
}

fn quote_table(name: &str) -> String {
    if name.contains('-') { format!("\"{name}\"") } else { name.to_owned() }
}
