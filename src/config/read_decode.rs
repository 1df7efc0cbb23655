//! Reads `[schema_registry]` and `[pipelines.NAME.decode]` from the configuration tree.

use std::sync::Arc;

use tidegate_rows::schema;
use tidegate_rows::spec::{CsvOptions, Decode, KeyFormat, SchemaSource, Shape};

use super::node::ConfigNode;
use super::read::ANY_WAIT;
use super::{Content, SchemaRegistry, Secret, SecretSource, defaults, names, row_filter};

pub(super) fn schema_registry(table: &ConfigNode<'_>) -> Option<Arc<SchemaRegistry>> {
    if !table.is_table() {
        return None;
    }
    let url = table.at("url");
    url.require("write it as in \"http://127.0.0.1:8081\"");
    let text = url.text().unwrap_or_default();
    let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    match host {
        _ if url.text().is_none() => {}
        Some(host) if host.split('/').next().is_some_and(|authority| authority.contains('@')) => {
            url.fault("holds a name or a password; set username and password_file");
        }
        Some(host) if !host.is_empty() && !host.contains(char::is_whitespace) => {}
        _ => url.fault("not a URL; write it as in \"http://host:8081\""),
    }
    let secret = |inline: &str, file: &str| match table.one_of(&[inline, file]) {
        Some((key, node)) if key == file => node.file().map(SecretSource::File),
        Some((_, node)) => node.text().map(|text| SecretSource::Inline(Secret::new(text))),
        None => None,
    };
    let (password, token) = (secret("password", "password_file"), secret("token", "token_file"));
    let username = table.at("username");
    if password.is_some() && !username.is_set() {
        username.fault("missing; a password requires a user name");
    }
    if token.is_some() && username.is_set() {
        username.fault("a token is set too; keep one of the two");
    }
    let ca_file = table.at("ca_file");
    if ca_file.is_set() && text.starts_with("http://") {
        ca_file.fault("the URL begins with http://, which has no certificates; write https://");
    }
    Some(Arc::new(SchemaRegistry {
        url: text.trim_end_matches('/').to_owned(),
        username: username.text().map(str::to_owned),
        password,
        token,
        ca_content: ca_file.file().and_then(|file| match Content::of(&file) {
            Ok(content) => Some(content),
            Err(error) => {
                ca_file.fault(format!("{} can't be read: {error}", file.display()));
                None
            }
        }),
        ca_file: ca_file.file(),
        timeout: table.at("timeout").duration(ANY_WAIT, defaults::REGISTRY_TIMEOUT),
    }))
}

/// The keys of `decode` that belong to certain formats only, each with these formats.
const OF_FORMAT: &[(&str, &[&str])] = &[
    ("envelope", &["json", "avro", "protobuf"]),
    ("rows", &["json", "ndjson", "avro", "protobuf"]),
    ("columns", &["csv"]),
    ("delimiter", &["csv"]),
    ("quote", &["csv"]),
    ("null", &["csv"]),
    ("schema_file", &["avro", "protobuf"]),
    ("framing", &["avro", "protobuf"]),
    ("message", &["protobuf"]),
    ("include", &["protobuf"]),
];

/// Reads the format of values from `decode`, with the options of that format.
pub(super) fn decode(node: &ConfigNode<'_>, registry: Option<&Arc<SchemaRegistry>>) -> Decode {
    let formats = ["json", "ndjson", "csv", "raw", "avro", "protobuf"].map(|word| (word, word));
    let format = if node.at("format").is_set() { node.at("format").choice(&formats) } else { Some("json") };
    let Some(format) = format else { return Decode::Json };
    for (key, formats) in OF_FORMAT {
        if node.at(key).is_set() && !formats.contains(&format) {
            node.at(key).fault(format!("belongs to format {}, and this is {format:?}", super::node::quoted(formats)));
        }
    }
    let envelope = envelope(node);
    match format {
        "csv" => Decode::Csv(csv(node)),
        "raw" => Decode::Raw,
        "ndjson" => Decode::NdJson,
        "avro" => source(node, registry, false).map_or(Decode::Json, Decode::Avro),
        "protobuf" => source(node, registry, true).map_or(Decode::Json, Decode::Protobuf),
        _ => match envelope {
            Some("connect") => Decode::ConnectJson,
            Some("debezium") => Decode::ChangeJson,
            _ => Decode::Json,
        },
    }
}

fn envelope<'a>(node: &ConfigNode<'a>) -> Option<&'a str> {
    let words = ["none", "connect", "debezium"].map(|word| (word, word));
    let word = node.at("envelope").choice(&words);
    if word == Some("connect") && matches!(node.at("format").text(), Some("avro" | "protobuf")) {
        node.at("envelope")
            .fault("\"connect\" belongs to format \"json\"; the schemas of other formats are not in the value");
    }
    word
}

fn csv(node: &ConfigNode<'_>) -> CsvOptions {
    let byte = |key: &str, default: u8| match node.at(key).text().map(str::as_bytes) {
        None => default,
        Some([byte]) if byte.is_ascii() && !matches!(byte, b'\n' | b'\r' | 0) => *byte,
        Some(_) => {
            node.at(key).fault("write one ASCII character");
            default
        }
    };
    let (delimiter, quote) = (byte("delimiter", b','), byte("quote", b'"'));
    if delimiter == quote {
        node.at("quote").fault("the delimiter is the same character");
    }
    let columns = node.at("columns");
    let not_empty = |name: &str| if name.is_empty() { Err("empty; write a field's name".to_owned()) } else { Ok(()) };
    let names = columns.list(not_empty);
    if names.as_ref().is_some_and(Vec::is_empty) {
        columns.fault("empty; name the fields in their order, or leave it out where values have a header");
    }
    let null = node.at("null").text().unwrap_or_default();
    if null.contains(['\n', '\r']) {
        node.at("null").fault("holds a line's end");
    }
    CsvOptions { columns: names, delimiter, quote, null: null.to_owned() }
}

/// Returns the source of schemas: `schema_file` if it is set, or else the registry. Notes a fault and returns `None` if there
/// is no usable source.
fn source(node: &ConfigNode<'_>, registry: Option<&Arc<SchemaRegistry>>, protobuf: bool) -> Option<SchemaSource> {
    let at = node.at("schema_file");
    let framed = node.at("framing").choice(&[("none", false), ("confluent", true)]);
    let Some(file) = at.file() else {
        if at.is_set() {
            return None; // its fault is noted
        }
        for key in ["message", "include"] {
            if node.at(key).is_set() {
                node.at(key).fault("goes with schema_file; with a registry each value names its message");
            }
        }
        if framed == Some(false) {
            node.at("framing").fault("with a registry each value begins with its schema's number; set schema_file");
        }
        if registry.is_none() {
            node.at("format").fault(
                "needs schemas: write a [schema_registry] with its url, or set decode.schema_file to a local schema",
            );
        }
        return registry.map(|_| SchemaSource::Registry);
    };
    let folder = at.place().folder();
    let read = if protobuf {
        let includes = node.at("include").list(names::any).unwrap_or_default();
        let includes: Vec<_> = includes.iter().map(|include| folder.join(include)).collect();
        schema::proto_file(&file, &includes)
    } else {
        schema::avro_file(&file)
    };
    let schema = read.map_err(|why| at.fault(why)).ok()?;
    let message = node.at("message");
    if protobuf {
        let own = schema.own_messages();
        match message.text() {
            Some(name) if !schema.has_message(name) => {
                message.fault(format!("{} has no such message; it has {}", file.display(), own.join(", ")));
            }
            None if own.len() > 1 && framed != Some(true) => {
                message.fault(format!("missing; name one of {}", own.join(", ")));
            }
            _ => {}
        }
    }
    Some(SchemaSource::Local {
        schema: Arc::new(schema),
        framed: framed.unwrap_or(false),
        message: message.text().map(str::to_owned),
        file,
    })
}

/// Reads the options of `decode` that say how keys are read, whether values are change events, and which array contains the rows.
/// Also reads `table.delete_where`.
pub(super) fn shape(pipeline: &ConfigNode<'_>, registry: Option<&Arc<SchemaRegistry>>) -> Shape {
    let node = pipeline.at("decode");
    if node.at("rows").is_set() && node.at("envelope").text() == Some("debezium") {
        node.at("rows").fault("a change has one row; leave rows or envelope out");
    }
    Shape {
        keys: key_format(&node, registry).unwrap_or(KeyFormat::Auto),
        change: node.at("envelope").text() == Some("debezium"),
        rows: rows(&node.at("rows")),
        delete_where: row_filter::read(&pipeline.at("table").at("delete_where")),
    }
}

/// Reads `rows`, the path of the array whose elements become rows. `[].` separates the path of an array from the path of another
/// array within its elements, as in `resourceLogs[].scopeLogs[].logRecords`. Returns the whole path of each array.
fn rows(node: &ConfigNode<'_>) -> Vec<Vec<String>> {
    let Some(text) = node.text() else { return Vec::new() };
    let mut levels: Vec<Vec<String>> = Vec::new();
    for part in text.strip_suffix("[]").unwrap_or(text).split("[].") {
        match names::field_path(part) {
            Ok(path) => levels.push(levels.last().into_iter().flatten().cloned().chain(path).collect()),
            Err(message) => {
                node.fault(message);
                return Vec::new();
            }
        }
    }
    levels
}

fn key_format(node: &ConfigNode<'_>, registry: Option<&Arc<SchemaRegistry>>) -> Option<KeyFormat> {
    const WORDS: [&str; 12] =
        ["auto", "json", "avro", "protobuf", "text", "bytes", "int16", "int32", "int64", "float32", "float64", "uuid"];
    let at = node.at("key_format");
    let word = at.choice(&WORDS.map(|word| (word, word)));
    let file = node.at("key_schema_file");
    if file.is_set() && !matches!(word, Some("avro" | "protobuf")) {
        file.fault("belongs to key_format = \"avro\" and \"protobuf\"");
    }
    let source = |protobuf: bool| {
        let Some(path) = file.file() else {
            if registry.is_none() && !file.is_set() {
                at.fault("needs schemas: write a [schema_registry] with its url, or set decode.key_schema_file");
            }
            return registry.map(|_| SchemaSource::Registry);
        };
        let read = if protobuf { schema::proto_file(&path, &[]) } else { schema::avro_file(&path) };
        let schema = Arc::new(read.map_err(|why| file.fault(why)).ok()?);
        Some(SchemaSource::Local { file: path, schema, framed: false, message: None })
    };
    Some(match word? {
        "json" => KeyFormat::Json,
        "avro" => KeyFormat::Avro(source(false)?),
        "protobuf" => KeyFormat::Protobuf(source(true)?),
        "text" => KeyFormat::Text,
        "bytes" => KeyFormat::Bytes,
        "int16" => KeyFormat::Int(2),
        "int32" => KeyFormat::Int(4),
        "int64" => KeyFormat::Int(8),
        "float32" => KeyFormat::Float(4),
        "float64" => KeyFormat::Float(8),
        "uuid" => KeyFormat::Uuid,
        _ => KeyFormat::Auto,
    })
}
