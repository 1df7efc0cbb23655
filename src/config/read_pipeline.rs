//! Reads the [`Pipeline`]s from the configuration tree.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tidegate_protocol::batch::BatchLimits;
use tidegate_protocol::claim_loop::OffsetLossPolicy;
use tidegate_protocol::dead_letter_budget::DeadLetterLimits;
use tidegate_rows::spec::{Column, UnknownFields};

use super::node::ConfigNode;
use super::read::ANY_WAIT;
use super::{DeadLetterRetention, GroupProtocol, Pipeline, SchemaRegistry, Start, Topics};
use super::{defaults, names, properties, read_columns, read_decode, read_table, row_filter};

/// Reads every pipeline, sorted by name, and checks that they don't conflict.
pub(super) fn all(table: &ConfigNode<'_>, registry: Option<&Arc<SchemaRegistry>>) -> Vec<Pipeline> {
    let mut nodes = table.entries();
    nodes.sort_by_key(|(name, _)| *name);
    nodes.retain(|(_, node)| node.is_table()); // a fault is noted for anything else
    if nodes.is_empty() && (!table.is_set() || table.is_table()) {
        table.fault("missing; write a [pipelines.NAME]");
    }
    let pipelines: Vec<_> = nodes.iter().map(|(name, node)| one(name, node, registry)).collect();
    for (number, one) in pipelines.iter().enumerate() {
        for other in number + 1..pipelines.len() {
            apart((one, &nodes[number].1), (&pipelines[other], &nodes[other].1));
        }
    }
    pipelines
}

/// Notes a fault if two pipelines have the same group, or write the same topic into the same table. The fault is noted
/// at the pipeline that comes later in the files. Topics that match a pattern are compared only when a pipeline is registered.
fn apart(one: (&Pipeline, &ConfigNode<'_>), other: (&Pipeline, &ConfigNode<'_>)) {
    let in_order = |path: &[&str]| {
        let [first, second] = [one.1, other.1].map(|node| path.iter().fold(node.clone(), |node, name| node.at(name)));
        if first.place() > second.place() { (first, other.0) } else { (second, one.0) }
    };
    if one.0.group == other.0.group {
        let (node, earlier) = in_order(&["group"]);
        node.fault(format!(
            "{:?} is also the group of pipelines.{}, so each pipeline would get only a part of the records; give each pipeline its own group",
            earlier.group, earlier.name
        ));
    }
    let is_named = !one.0.table.name.name.is_empty(); // a missing name has its own fault
    if is_named
        && one.0.table.name == other.0.table.name
        && let Some(topic) = shared_topic(&one.0.topics, &other.0.topics)
    {
        let (node, earlier) = in_order(&["table", "name"]);
        node.fault(format!(
            "pipelines.{} writes topic {topic} into {} already, so the table would have each record twice",
            earlier.name, earlier.table.name
        ));
    }
}

fn shared_topic<'a>(one: &'a Topics, other: &'a Topics) -> Option<&'a str> {
    match (one, other) {
        (Topics::List(one), Topics::List(other)) => one.iter().find(|topic| other.contains(topic)).map(String::as_str),
        (Topics::Pattern(one), Topics::Pattern(other)) => (one == other).then_some(one.as_str()),
        _ => None, // a registration compares the topics that the pattern matches then
    }
}

fn one(name: &str, node: &ConfigNode<'_>, registry: Option<&Arc<SchemaRegistry>>) -> Pipeline {
    if let Err(message) = names::pipeline(name) {
        node.fault(message);
    }
    let protocols = [
        ("cooperative", GroupProtocol::Cooperative),
        ("eager", GroupProtocol::Eager),
        ("consumer", GroupProtocol::Consumer),
    ];
    let losses = [
        ("fail", OffsetLossPolicy::Fail),
        ("earliest", OffsetLossPolicy::Earliest),
        ("latest", OffsetLossPolicy::Latest),
    ];
    let consumers = node.at("consumers").integer(1..=defaults::MAX_CONSUMERS, defaults::CONSUMERS.get());
    let rate = node.at("flow").at("max_rows_per_second").integer(0..=u32::MAX, 0);
    let decode = read_decode::decode(&node.at("decode"), registry);
    let shape = read_decode::shape(node, registry);
    let columns = read_columns::all(&node.at("columns"));
    let unknown_fields = unknown_fields(&node.at("unknown_fields"), columns.as_deref());
    let (kafka_properties, kafka_files, kafka_contents) = properties::read(&node.at("kafka"));
    Pipeline {
        name: name.to_owned(),
        topics: topics(node),
        group: group(name, &node.at("group")),
        consumers: NonZeroU32::new(consumers).unwrap_or(defaults::CONSUMERS),
        start: start(&node.at("start")),
        group_protocol: node.at("group_protocol").choice(&protocols).unwrap_or(GroupProtocol::Cooperative),
        schema_registry: registry.filter(|_| decode.needs_registry() || shape.keys.needs_registry()).cloned(),
        decode,
        shape,
        batch: batch(&node.at("batch")),
        max_rows_per_second: NonZeroU32::new(rate),
        keep: row_filter::read(&node.at("where")),
        table: read_table::target(node, columns.as_deref()),
        columns,
        unknown_fields,
        on_offset_loss: node.at("on_offset_loss").choice(&losses).unwrap_or_default(),
        dead_letters: dead_letters(&node.at("dead_letters")),
        dead_letter_retention: dead_letter_retention(&node.at("dead_letters")),
        kafka_properties,
        kafka_files,
        kafka_contents,
    }
}

fn topics(node: &ConfigNode<'_>) -> Topics {
    match node.one_of(&["topics", "topic_pattern"]) {
        Some(("topics", list)) => Topics::List(list.list(names::topic).unwrap_or_default()),
        Some((_, pattern)) => {
            let text = pattern.text().unwrap_or_default();
            if pattern.text().is_some() && !text.starts_with('^') {
                pattern.fault(format!("a pattern begins with ^; write {:?}", format!("^{text}")));
            }
            Topics::Pattern(text.to_owned())
        }
        None => {
            node.at("topics").require("name the topics to read, as in topics = [\"telemetry\"], or set topic_pattern");
            Topics::List(Vec::new())
        }
    }
}

fn group(name: &str, node: &ConfigNode<'_>) -> String {
    let group = node.text().unwrap_or(name);
    if group.is_empty() || group.chars().any(char::is_control) {
        node.fault("not a name of a consumer group");
    }
    group.to_owned()
}

fn start(node: &ConfigNode<'_>) -> Start {
    match node.text() {
        None | Some("earliest") => Start::Earliest,
        Some("latest") => Start::Latest,
        Some("committed") => Start::Committed,
        Some(text) => match text.parse::<Timestamp>().map(Timestamp::as_millisecond) {
            Ok(millis @ 0..) => Start::Time(millis),
            _ => {
                node.fault(format!(
                    "{text:?} is not a start; write \"earliest\", \"latest\", \"committed\" or a time after 1970 such as \
                     \"2026-01-31T08:00:00Z\""
                ));
                Start::Earliest
            }
        },
    }
}

fn batch(node: &ConfigNode<'_>) -> BatchLimits {
    let default = defaults::BATCH;
    let rows = node.at("max_rows").integer(1..=10_000_000, default.max_rows.get());
    BatchLimits {
        max_rows: NonZeroU32::new(rows).unwrap_or(default.max_rows),
        max_bytes: node.at("max_bytes").size((16 << 10)..=(1 << 30), default.max_bytes),
        max_age: node.at("max_age").duration(ANY_WAIT, default.max_age),
    }
}

fn unknown_fields(node: &ConfigNode<'_>, columns: Option<&[Column]>) -> UnknownFields {
    if !node.is_table() {
        let words = [("ignore", false), ("dead_letter", true)];
        return match node.choice(&words) {
            Some(true) => UnknownFields::DeadLetter,
            _ => UnknownFields::Ignore,
        };
    }
    let column = node.at("column");
    column.require("name the jsonb column that takes them");
    let Some(name) = column.text() else { return UnknownFields::Ignore };
    if let Err(message) = names::identifier(name) {
        column.fault(message);
    }
    if columns.is_some_and(|columns| columns.iter().any(|mapped| mapped.name == name)) {
        column.fault(format!("column {name:?} is mapped already; a column has only one source"));
    }
    UnknownFields::Column(name.to_owned())
}

fn dead_letters(node: &ConfigNode<'_>) -> DeadLetterLimits {
    let default = defaults::DEAD_LETTERS;
    let share = node.at("max_share");
    let max_share = share.float().unwrap_or(default.max_share);
    if !(max_share > 0.0 && max_share <= 1.0) {
        share.fault(format!(
            "{max_share} is out of range; it must be above 0 and at most 1, and with 1 the pipeline never stops"
        ));
    }
    DeadLetterLimits {
        max_share,
        window: node.at("window").duration(Duration::from_secs(1)..=Duration::from_secs(7 * 86_400), default.window),
        min_count: u64::from(node.at("min_count").integer(0..=u32::MAX, u32::try_from(default.min_count).unwrap_or(0))),
    }
}

fn dead_letter_retention(node: &ConfigNode<'_>) -> DeadLetterRetention {
    let day = Duration::from_secs(86_400);
    let (retention, max_size) = (node.at("retention"), node.at("max_size"));
    DeadLetterRetention {
        retention: retention.is_set().then(|| retention.duration(Duration::from_secs(60)..=day * 36_525, day * 36_525)),
        max_bytes: max_size.is_set().then(|| max_size.size((1 << 20)..=(1 << 50), 1 << 50)),
    }
}
