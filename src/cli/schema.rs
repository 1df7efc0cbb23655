//! `tidegate schema`: reads the newest records of a topic, and proposes a table and a mapping for them. The proposal is a
//! configuration that `tidegate check` accepts. Changes nothing, and doesn't connect to Postgres.

mod infer;
mod shape;

use std::fmt::Write as _;
use std::sync::Arc;

use infer::{Proposal, Proposed, Sample};
use rdkafka::message::Message as _;
use serde::Serialize;
use tidegate_protocol::claim_loop::End;
use tidegate_rows::ddl;
use tokio::task::spawn_blocking;

use super::check::newest;
use super::progress::Progress;
use super::{reach, show, start_logging};
use crate::config::{Config, Pipeline, Topics, variables};
use crate::error::FatalError;
use crate::kafka::observer::partitions_of;
use crate::kafka::reader::Reader;
use crate::kafka::settings;

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
    /// A configuration that already has a pipeline: brokers and their properties are taken from it.
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
    type_text: &'static str,
    unit: Option<&'static str>,
    field: String,
    /// Records that have the field with a value other than null.
    with_value: u64,
}

/// Columns that identify a row's record: `verify` looks records up by them.
const PLACE: &str = "kafka_partition = { meta = \"partition\", type = \"int4\" }\n\
                     kafka_offset = { meta = \"offset\", type = \"int8\" }\n";

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
    let Some(proposal) = sample.propose() else {
        return Err(FatalError::Config(format!(
            "of the newest {} of topic `{}` none is a JSON object with a field that has a value; a table can't be proposed from them",
            show::counted(sample.records, "record", "records"),
            arguments.topic
        )));
    };
    let block = block(&arguments.topic, &name, &table, &proposal, &sample);
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
            type_text: proposed.type_name,
            unit: proposed.unit,
            field: path_text(&proposed.path),
            with_value: proposed.present - proposed.nulls,
        }
    }
}

fn bug(what: &str) -> FatalError {
    FatalError::Stopped(format!("a bug of ours: {what}"))
}

/// Returns the brokers to connect to, as a configuration of one pipeline, and its part that belongs at the head of the
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
        head +=
            "\n[postgres]\n# Change this to your database.\nurl = \"postgres://tidegate@127.0.0.1:5432/telemetry\"\n\n";
        let config = Config::parse("--bootstrap-servers", &(head.clone() + &pipeline));
        return Ok((config.map_err(|faults| FatalError::Config(faults.to_string()))?, head));
    }
    let mut config =
        Config::load(&arguments.config, variables()).map_err(|faults| FatalError::Config(faults.to_string()))?;
    // Only the brokers matter; a pipeline's own properties are ignored.
    config.pipelines.truncate(1);
    if let Some(pipeline) = config.pipelines.first_mut() {
        pipeline.topics = Topics::List(vec![arguments.topic.clone()]);
    }
    Ok((config, String::new()))
}

/// Returns the connection settings that complete the proposed pipeline; needed if `head` is empty because an existing file has
/// them.
fn connections(config: &Config, head: &str) -> String {
    if head.is_empty() {
        format!(
            "[kafka]\nbootstrap_servers = {}\n[postgres]\nurl = \"postgres://\"\n",
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
    let reading = spawn_blocking(move || {
        let mut sample = Sample::default();
        Reader::new(&reader)?.read(&topic, &ranges, |message| sample.add(message.key(), message.payload()))?;
        Ok(sample)
    });
    let read = reading.await.map_err(|error| bug(&error.to_string()))?;
    read.map_err(FatalError::Unavailable)
}

/// Returns the pipeline's tables.
fn block(topic: &str, name: &str, table: &str, proposal: &Proposal, sample: &Sample) -> String {
    let Proposal { shape, rows, columns, key: key_columns, count, complete } = proposal;
    let mut text =
        format!("# Proposed from the newest {} of topic {topic}", show::counted(sample.records, "record", "records"));
    let deletes = !key_columns.is_empty();
    let tombstones = if deletes { 0 } else { sample.tombstones };
    if tombstones + sample.odd() > 0 {
        let _infallible = write!(
            text,
            ", of which {} without a value and {} no JSON object: those would be dead letters",
            show::count(tombstones),
            show::count(sample.odd())
        );
    }
    text += ".\n";
    let rest = if *complete { "Fields that appear later" } else { "Fields that appear later or found no column below" };
    let extra = free_name(columns, "extra");
    let _infallible = write!(
        text,
        "[pipelines.{name}]\ntopics = [{}]\n# {rest} are kept in this jsonb column.\nunknown_fields = {{ column = {} }}\n\n",
        quoted(topic),
        quoted(&extra),
    );
    let mut decode = shape.decode().to_owned();
    if let Some(rows) = rows {
        let path = quoted(&path_text(std::slice::from_ref(rows)));
        let _infallible = writeln!(decode, "# Each element of this array is a row.\nrows = {path}");
    }
    if !decode.is_empty() {
        let _infallible = write!(text, "[pipelines.{name}.decode]\n{decode}\n");
    }
    let _infallible = write!(text, "[pipelines.{name}.table]\nname = {}\ncreate = true\n", quoted(table));
    if deletes {
        let names = key_columns.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
        let _infallible = write!(
            text,
            "# The fields of the records' keys. Deletes are applied.\nmode = \"upsert\"\nkey = [{names}]\n"
        );
    }
    let _infallible = write!(text, "\n[pipelines.{name}.columns]\n");
    for column in columns {
        let unit = column.unit.map_or(String::new(), |unit| format!(", unit = \"{unit}\""));
        let with_value = column.present - column.nulls;
        let note = if with_value < *count && !column.is_element {
            format!(" # in {} of {count}", show::count(with_value))
        } else {
            String::new()
        };
        let _infallible = writeln!(
            text,
            "{} = {{ field = {}, type = \"{}\"{unit} }}{note}",
            key(&column.name),
            quoted(&path_text(&column.path)),
            column.type_name
        );
    }
    let taken = |name: &str| columns.iter().any(|column| column.name == name);
    if !taken("kafka_partition") && !taken("kafka_offset") {
        text += PLACE;
        if (rows.is_some() || *shape == shape::Shape::Lines) && !taken("kafka_row") {
            text += "kafka_row = { meta = \"ordinal\", type = \"int4\" }\n";
        }
    }
    text
}

/// Returns `wanted`, followed by as many underscores as make it unique among the columns.
fn free_name(columns: &[Proposed], wanted: &str) -> String {
    let mut name = wanted.to_owned();
    while columns.iter().any(|column| column.name == name) {
        name.push('_');
    }
    name
}

/// Converts the topic's name to the characters that a pipeline's name may have.
fn pipeline_name(topic: &str) -> String {
    topic.chars().take(63).map(|c| if c == '.' { '_' } else { c }).collect()
}

/// Formats a table's name as the configuration reads it.
fn quote_table(name: &str) -> String {
    if name.contains('-') { format!("\"{name}\"") } else { name.to_owned() }
}

/// Formats a path as the configuration reads it.
fn path_text(path: &[String]) -> String {
    path.iter().map(|name| name.replace('\\', "\\\\").replace('.', "\\.")).collect::<Vec<_>>().join(".")
}

/// Formats a TOML key.
fn key(name: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !name.is_empty() && name.bytes().all(bare) { name.to_owned() } else { quoted(name) }
}

/// Formats a basic TOML string.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _infallible = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted + "\""
}
