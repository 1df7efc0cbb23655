//! `tidegate schema`: reads the newest records of a topic, and proposes a table and a mapping for them. The proposal is a
//! configuration that `tidegate check` accepts. Changes nothing, and doesn't connect to Postgres.

mod columns;
mod infer;
mod keys;
mod names;
mod print;
mod shape;
mod tree;
mod values;

use std::sync::Arc;

use columns::Proposed;
use infer::Sample;
use print::{path_text, quoted};
use rdkafka::message::Message as _;
use serde::Serialize;
use tidegate_protocol::claim_loop::End;
use tidegate_rows::ddl;
use tidegate_rows::schema::{Found, SchemaId, Schemas as _};
use tokio::task::spawn_blocking;

use super::check::newest;
use super::progress::Progress;
use super::{reach, show, start_logging};
use crate::config::{Config, Pipeline, Topics, variables};
use crate::error::FatalError;
use crate::kafka::observer::partitions_of;
use crate::kafka::reader::Reader;
use crate::kafka::settings;
use crate::registry::{self, CachedSchemas};

/// Arguments of `schema`.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// The topic to read.
    #[arg(long, value_name = "TOPIC")]
    topic: String,
    /// A broker, or several separated by commas.
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "config", conflicts_with = "config")]
    bootstrap_servers: Option<String>,
    /// A librdkafka property, for clusters that require a password. May be given several times.
    #[arg(long = "property", value_name = "NAME=VALUE", conflicts_with = "config")]
    properties: Vec<String>,
    /// The URL of a schema registry, if values or keys begin with the id of a schema.
    #[arg(long, value_name = "URL", conflicts_with = "config")]
    schema_registry: Option<String>,
    /// A configuration that already has a pipeline: brokers and their properties are taken from it, and the schema registry.
    #[arg(long, value_name = "FILE")]
    config: Vec<std::path::PathBuf>,
    /// The table to propose; the topic's name by default.
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// How many of the newest records to read.
    #[arg(long, default_value_t = 1000, value_name = "N")]
    records: u32,
    /// Print one JSON document on standard output, for programs.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    topic: String,
    pipeline: String,
    table: String,
    records: u64,
    tombstones: u64,
    not_json_objects: u64,
    columns: Vec<Column>,
    /// The statement that `create = true` would run.
    ddl: String,
    /// The proposed configuration.
    toml: String,
}

#[derive(Serialize)]
struct Column {
    column: String,
    #[serde(rename = "type")]
    type_text: String,
    unit: Option<&'static str>,
    field: String,
    /// How many rows have the field with a value other than null; in Avro and Protobuf how many have it in their schema.
    with_value: u64,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), FatalError> {
    let name = pipeline_name(&arguments.topic);
    let table = arguments.table.clone().unwrap_or_else(|| quote_table(&name));
    let (config, head) = brokers(arguments, &name, &table)?;
    start_logging(&config, tracing::level_filters::LevelFilter::WARN);
    let pipeline = config.pipelines.first().ok_or_else(|| bug("no pipeline"))?;
    let progress = Progress::start("schema");
    progress.doing(format!("reading the newest records of `{}`", arguments.topic));
    let sample = look(&config, pipeline, &arguments.topic, arguments.records).await?;
    drop(progress);
    if sample.records == 0 {
        return Err(FatalError::Config(format!(
            "topic `{}` holds no record, and a table is proposed from records: send some first",
            arguments.topic
        )));
    }
    let Some(proposal) = sample.propose() else {
        let remedy = match sample.unknown_schemas {
            0 => String::new(),
            count => format!(
                "; {} with the id of a schema: state the schema registry by --schema-registry or in the file of --config",
                show::counted(count, "value begins", "values begin")
            ),
        };
        return Err(FatalError::Config(format!(
            "of the newest {} of topic `{}` none is a JSON object with a field that has a value; a table can't be proposed from them{remedy}",
            show::counted(sample.records, "record", "records"),
            arguments.topic
        )));
    };
    let block = print::block(&arguments.topic, &name, &table, &proposal, &sample);
    let toml = head.clone() + &block;
    let proposed = Config::parse("the proposal", &(connections(&config, &head) + &block));
    let proposed = proposed.map_err(|faults| bug(&faults.to_string()))?;
    let made = proposed
        .pipelines
        .iter()
        .find(|pipeline| pipeline.name == name)
        .map(|pipeline| ddl::create_table(&pipeline.rows()));
    let ddl = match made {
        Some(Ok(ddl)) => ddl,
        _ => return Err(bug("the proposed table can't be made")),
    };
    if arguments.json {
        let report = Report {
            topic: arguments.topic.clone(),
            pipeline: name,
            table,
            records: sample.records,
            tombstones: sample.tombstones,
            not_json_objects: sample.odd(),
            columns: proposal.columns.iter().map(Column::of).collect(),
            ddl,
            toml,
        };
        return show::json(&report);
    }
    show::print(&format!("{toml}\n# create = true runs this at the first start:\n#   {};", ddl.replace('\n', "\n#   ")))
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

fn bug(what: &str) -> FatalError {
    FatalError::Stopped(format!("a bug of ours: {what}"))
}

/// Returns the brokers to connect to, as a configuration with one pipeline, and the text that belongs at the beginning of the
/// proposal.
fn brokers(arguments: &Arguments, name: &str, table: &str) -> Result<(Config, String), FatalError> {
    let topic = quoted(&arguments.topic);
    let pipeline = format!("[pipelines.{name}]\ntopics = [{topic}]\ntable.name = {}\n", quoted(table));
    if let Some(servers) = &arguments.bootstrap_servers {
        let mut head = format!("[kafka]\nbootstrap_servers = {}\n\n", quoted(servers));
        if !arguments.properties.is_empty() {
            head += "[kafka.properties]\n";
        }
        for property in &arguments.properties {
            let Some((name, value)) = property.split_once('=') else {
                return Err(FatalError::Config(format!("--property: `{property}` is not NAME=VALUE")));
            };
            head += &format!("{} = {}\n", quoted(name), quoted(value));
        }
        if let Some(url) = &arguments.schema_registry {
            head += &format!("\n[schema_registry]\nurl = {}\n", quoted(url));
        }
        head +=
            "\n[postgres]\n# Change this to your database.\nurl = \"postgres://tidegate@127.0.0.1:5432/telemetry\"\n\n";
        let config = Config::parse("--bootstrap-servers", &(head.clone() + &pipeline));
        return Ok((config.map_err(|faults| FatalError::Config(faults.to_string()))?, head));
    }
    let mut config =
        Config::load(&arguments.config, variables()).map_err(|faults| FatalError::Config(faults.to_string()))?;
    // Only the brokers matter here, so the pipelines and their own properties are ignored.
    config.pipelines.truncate(1);
    if let Some(pipeline) = config.pipelines.first_mut() {
        pipeline.topics = Topics::List(vec![arguments.topic.clone()]);
    }
    Ok((config, String::new()))
}

/// Returns connection settings that make the proposed pipeline a complete configuration. They are `head`. If an existing file has
/// the settings, `head` is empty, and stand-ins are returned.
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

async fn look(config: &Config, pipeline: &Pipeline, topic: &str, records: u32) -> Result<Sample, FatalError> {
    let observer = reach::observer(config, pipeline)?;
    let topics = reach::topics(config, &observer, &pipeline.topics).await?;
    if topics.is_empty() {
        return Err(FatalError::Config(format!(
            "topic `{topic}` does not exist on {}; correct its name",
            config.kafka.bootstrap_servers
        )));
    }
    let sources = partitions_of(&topics);
    let (low, high) = reach::ask(config, &observer, move |observer| {
        Ok((observer.ends(&sources, End::Low)?, observer.ends(&sources, End::High)?))
    })
    .await?;
    let logs = high.into_iter().filter_map(|(source, high)| Some((source.clone(), *low.get(&source)?, high)));
    let ranges = newest(logs.collect(), u64::from(records));
    let ranges: Vec<_> = ranges.into_iter().map(|(source, range)| (source.partition, range)).collect();
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
    let read = reading.await.map_err(|error| bug(&error.to_string()))?;
    read.map_err(FatalError::Unavailable)
}

/// Converts the topic's name to the characters that a pipeline's name may have.
fn pipeline_name(topic: &str) -> String {
    topic.chars().take(63).map(|c| if c == '.' { '_' } else { c }).collect()
}

/// Formats a table's name as the configuration reads it.
fn quote_table(name: &str) -> String {
    if name.contains('-') { format!("\"{name}\"") } else { name.to_owned() }
}
