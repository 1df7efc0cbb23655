//! Reads the mapping, `[pipelines.NAME.columns]`, from the configuration tree.

use jiff::tz::TimeZone;
use tidegate_rows::spec::{
    Aggregate, AggregateFunction, Column, EpochUnit, Function, HashKey, Missing, NulPolicy, Source,
};

use super::node::ConfigNode;
use super::{names, row_filter};

/// Reads every column, in the order of the file; `None` if there is no mapping.
pub(super) fn all(table: &ConfigNode<'_>) -> Option<Vec<Column>> {
    if !table.is_table() {
        return None;
    }
    let columns: Vec<_> = table.entries().into_iter().map(|(name, node)| one(name, &node)).collect();
    if columns.is_empty() {
        table.fault("empty; map a column, or leave the table out to map every top-level field by its name");
    }
    Some(columns)
}

fn one(name: &str, node: &ConfigNode<'_>) -> Column {
    if let Err(message) = names::identifier(name) {
        node.fault(message);
    }
    let source = match node.text() {
        Some(path) => field(path, node),
        None => source(node),
    };
    let units =
        [("s", EpochUnit::Seconds), ("ms", EpochUnit::Millis), ("us", EpochUnit::Micros), ("ns", EpochUnit::Nanos)];
    let nuls = [("dead_letter", NulPolicy::DeadLetter), ("strip", NulPolicy::Strip), ("replace", NulPolicy::Replace)];
    let missing = [
        ("default", Missing::Default),
        ("null", Missing::Null),
        ("dead_letter", Missing::DeadLetter),
        ("keep", Missing::Keep),
    ];
    let type_name = node
        .at("type")
        .text()
        .and_then(|text| names::column_type(text).map_err(|message| node.at("type").fault(message)).ok());
    let keep = node.at("keep").text().map(str::to_owned);
    let column = Column {
        name: name.to_owned(),
        source,
        unit: node.at("unit").choice(&units),
        default: node.at("default").scalar_json(),
        zone: zone(&node.at("zone")),
        missing: node.at("missing").choice(&missing).or(keep.is_some().then_some(Missing::Keep)),
        keep,
        nul: node.at("nul").choice(&nuls).unwrap_or_default(),
        not_null: node.at("not_null").flag(false),
        function: function(node),
        aggregate: aggregate(node),
        type_name,
    };
    check(&column, node);
    column
}

/// Reads the column's function: linear (`scale`, `offset` or both), `parse` or `hash`. More than one of the three is a fault.
fn function(node: &ConfigNode<'_>) -> Option<Function> {
    let (scale, offset) = (node.at("scale"), node.at("offset"));
    let linear = scale.is_set() || offset.is_set();
    let said = [linear, node.at("parse").is_set(), node.at("hash").is_set()];
    if said.iter().filter(|said| **said).count() > 1 {
        node.fault("has more than one of scale or offset, parse and hash; keep one");
    }
    let key = node.at("hash_key_file");
    if key.is_set() && !node.at("hash").is_set() {
        key.fault("belongs to hash = \"sha256\"");
    }
    if linear {
        let number = |node: &ConfigNode<'_>, default: &str| node.scalar_json().unwrap_or_else(|| default.to_owned());
        return Some(Function::Linear { scale: number(&scale, "1"), offset: number(&offset, "0") });
    }
    if node.at("parse").choice(&[("json", ())]).is_some() {
        return Some(Function::ParseJson);
    }
    node.at("hash").choice(&[("sha256", ())])?;
    key.require("name a file with the secret key of the hash");
    let file = key.file()?;
    let bytes = match std::fs::read(&file) {
        Ok(bytes) => bytes,
        Err(error) => {
            key.fault(format!("{}: {error}", file.display()));
            return None;
        }
    };
    // Ignore white space at the end of the file, because editors and `echo` add a newline.
    let bytes = bytes.trim_ascii_end();
    if bytes.len() < HASH_KEY_MIN {
        key.fault(format!("holds {} bytes; a key has {HASH_KEY_MIN} at least", bytes.len()));
    }
    Some(Function::Hash(HashKey::new(bytes)))
}

/// The shortest key of the function `hash`, in bytes. Shorter keys can be guessed.
const HASH_KEY_MIN: usize = 16;

/// Reads the one of `field`, `meta`, `header` and `value` that is set. If none is set, notes a fault and returns a placeholder. A
/// column that counts records needs none of the four.
fn source(node: &ConfigNode<'_>) -> Source {
    let nothing = || Source::Field(Vec::new());
    match node.one_of(&["field", "meta", "header", "value"]) {
        Some(("field", at)) => at.text().map_or_else(nothing, |path| field(path, &at)),
        Some(("value", at)) => at.scalar_json().map_or_else(nothing, Source::Constant),
        Some(("header", at)) => {
            if at.text() == Some("") {
                at.fault("empty; write the name of a header");
            }
            Source::Header(at.text().unwrap_or_default().to_owned())
        }
        Some((_, at)) => {
            let words = [
                ("topic", &Source::Topic),
                ("partition", &Source::Partition),
                ("offset", &Source::Offset),
                ("timestamp", &Source::Timestamp),
                ("key", &Source::Key),
                ("headers", &Source::Headers),
                ("ordinal", &Source::Ordinal),
            ];
            match at.text() {
                Some(text) if text.starts_with("source.") || matches!(text, "op" | "ts_ms" | "ts_us" | "ts_ns") => {
                    Source::Envelope(names::field_path(text).unwrap_or_else(|message| {
                        at.fault(message);
                        Vec::new()
                    }))
                }
                _ => at.choice(&words).cloned().unwrap_or_else(nothing),
            }
        }
        None if node.at("aggregate").text() == Some("count") => Source::Record,
        None => {
            if node.is_table() {
                node.fault("doesn't say what fills the column; set field, meta, header or value");
            }
            nothing()
        }
    }
}

fn aggregate(node: &ConfigNode<'_>) -> Option<Aggregate> {
    let words = ["sum", "count", "min", "max", "first", "last"];
    let at = node.at("aggregate");
    let word = at.choice(&words.map(|word| (word, word)));
    let by = node.at("by");
    let ordered = matches!(word, Some("first" | "last"));
    if by.is_set() && !ordered && (word.is_some() || !at.is_set()) {
        by.fault("only for aggregate = \"first\" and \"last\"");
    }
    if node.at("where").is_set() && !at.is_set() {
        node.at("where").fault("says which records count for an aggregate; this column has none");
    } else if node.at("where").is_set() && ordered {
        node.at("where").fault("belongs to the column that `by` names, and applies here too; leave it out");
    }
    if ordered {
        by.require("name the column that decides which record is first or last: one with aggregate = \"min\" for first, or \"max\" for last");
    }
    let by = || by.text().unwrap_or_default().to_owned();
    let function = match word? {
        "sum" => AggregateFunction::Sum,
        "count" => AggregateFunction::Count,
        "min" => AggregateFunction::Min,
        "max" => AggregateFunction::Max,
        "first" => AggregateFunction::First { by: by() },
        _ => AggregateFunction::Last { by: by() },
    };
    Some(Aggregate { function, condition: row_filter::read(&node.at("where")) })
}

/// Reads `zone`: UTC or a name of the time zone database.
fn zone(node: &ConfigNode<'_>) -> Option<TimeZone> {
    let name = node.text()?;
    TimeZone::get(name)
        .map_err(|_| {
            node.fault(format!("{name:?} is not a time zone; write \"UTC\" or a name such as \"Europe/Berlin\""))
        })
        .ok()
}

fn field(path: &str, node: &ConfigNode<'_>) -> Source {
    Source::Field(names::field_path(path).unwrap_or_else(|message| {
        node.fault(message);
        Vec::new()
    }))
}

/// Notes a fault for each setting of a column that contradicts the column's type, its source or another setting.
fn check(column: &Column, node: &ConfigNode<'_>) {
    let base = column.type_name.as_deref().map(|name| name.split('(').next().unwrap_or(name));
    let is_record = matches!(column.source, Source::Field(_) | Source::Header(_) | Source::Envelope(_));
    if column.unit.is_some() {
        let base = base.map(|base| base.trim_end_matches("[]"));
        if base.is_some_and(|base| !matches!(base, "timestamptz" | "timestamp" | "tstzrange" | "tsrange")) {
            node.at("unit").fault("only a timestamptz or timestamp is made from an epoch");
        }
        if !is_record {
            node.at("unit").fault("Kafka's own metadata has its unit already");
        }
    }
    if column.zone.is_some() {
        let base = base.map(|base| base.trim_end_matches("[]"));
        if base.is_some_and(|base| !matches!(base, "timestamptz" | "tstzrange")) {
            node.at("zone").fault("only text that becomes timestamptz has a zone");
        }
        if !is_record && column.source != Source::Key {
            node.at("zone").fault("Kafka's own metadata has its zone already");
        }
    }
    if column.default.is_some() && !is_record {
        node.at("default").fault("Kafka's own metadata is never missing");
    }
    if column.missing.is_some() {
        let at = node.at("missing");
        if column.default.is_some() {
            at.fault("the column's `default` says already what a missing field means; leave one of the two out");
        } else if !(is_record || matches!(column.source, Source::Key | Source::Timestamp)) {
            at.fault("Kafka's own metadata is never missing");
        } else if column.aggregate.is_some() {
            at.fault("a record without the field leaves an aggregate as it is; leave this out");
        }
    }
    if column.keep.is_some() {
        let at = node.at("keep");
        if column.keep.as_deref() == Some("") {
            at.fault("empty; write the text that stands for an unchanged value, as \"__debezium_unavailable_value\"");
        }
        if !matches!(column.source, Source::Field(_) | Source::Envelope(_)) {
            at.fault("only a field of the record can be left out by a text in its place");
        }
        if column.missing != Some(Missing::Keep) {
            let why = "says that this text leaves the row's value as it is, and `missing` says otherwise; leave one of the two out";
            at.fault(why);
        }
    }
    let counts = column.aggregate.as_ref().is_some_and(|a| a.function == AggregateFunction::Count);
    if counts && (column.default.is_some() || column.unit.is_some()) {
        node.at("aggregate").fault("a count takes no default and no unit");
    }
}
