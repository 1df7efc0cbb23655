//! `decode = { … }`: how values are decoded.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::decode::Path;
use crate::fault::hint;
use crate::schema::Schema;
use crate::spec::RowFilter;

/// How values are decoded: `decode.format`, with the settings that depend on it.
#[derive(Clone, Debug, PartialEq)]
pub enum Decode {
    /// `format = "json"`: a value is one object, or an array of objects, each of which is a row.
    Json,
    /// `format = "json", envelope = "connect"`: a value is `{schema, payload}`, as Kafka Connect's JSON converter writes it.
    ConnectJson,
    /// `format = "json", envelope = "debezium"`: a value is `{before, after, op, …}`, with or without Kafka Connect's envelope
    /// around it.
    ChangeJson,
    /// `format = "ndjson"`: a value has one object after another, each of which is a row.
    NdJson,
    /// `format = "raw"`: the value is not parsed. It is the record's only field, named `value`.
    Raw,
    /// `format = "csv"`: each line of a value is a row, except a first line with the names of the columns. A quoted field may
    /// contain line breaks.
    Csv(CsvOptions),
    Avro(SchemaSource),
    Protobuf(SchemaSource),
}

/// How a record is read: its key, its envelope, arrays of rows, and which rows delete.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// `decode.key_format`
    pub keys: KeyFormat,
    /// `decode.envelope = "debezium"`: a record is a change of a row, with the row before and after the change.
    pub change: bool,
    /// `decode.rows`: the paths of arrays whose elements are rows. The first array is in the value, and each further array is in
    /// the elements of the previous one. If the list is empty, the format decides which parts of a value are rows.
    pub rows: Vec<Vec<String>>,
    /// `table.delete_where`: a record's row that matches this filter deletes the row with the same key from the table.
    pub delete_where: Option<RowFilter>,
}

impl Shape {
    /// A value consists of the fields, without an envelope. Keys are read as [`KeyFormat::Auto`] says. No row deletes.
    pub const PLAIN: Shape = Shape { keys: KeyFormat::Auto, change: false, rows: Vec::new(), delete_where: None };

    pub fn plain() -> &'static Self {
        static PLAIN: Shape = Shape::PLAIN;
        &PLAIN
    }
}

/// How a record's key is decoded. Keys are decoded for deletes and for columns with `meta = "key"`.
#[derive(Clone, Debug, PartialEq)]
pub enum KeyFormat {
    /// `"auto"`: the key's content decides.
    /// - If the value's format uses a schema registry, a key that names its schema is decoded by that schema.
    /// - An object or a quoted string is JSON, and so is any JSON value behind a registry's frame. An object may have Kafka
    ///   Connect's envelope.
    /// - Each column reads any other key by its own type.
    ///
    /// Columns with `meta = "key"` use these rules only if the values have an envelope or come with a registry's schemas.
    /// Otherwise, each column reads the key's bytes by its own type.
    Auto,
    /// `"json"`: a JSON value. It may have a registry's framing, and an object may have Kafka Connect's envelope.
    Json,
    Avro(SchemaSource),
    Protobuf(SchemaSource),
    /// `"text"`: UTF-8 text that each column reads by its own type.
    Text,
    /// `"bytes"`: not parsed.
    Bytes,
    /// `"int16"`, `"int32"`, `"int64"`: a big-endian integer with this many bytes (2, 4 or 8), as Java's serializers write it.
    Int(usize),
    /// `"float32"`, `"float64"`: a big-endian float with this many bytes (4 or 8).
    Float(usize),
    /// `"uuid"`: the 16 bytes of a UUID, or its text.
    Uuid,
}

impl KeyFormat {
    pub fn needs_registry(&self) -> bool {
        matches!(self, Self::Avro(SchemaSource::Registry) | Self::Protobuf(SchemaSource::Registry))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvOptions {
    /// `columns`: the names of the fields. `None`: the first line of each value contains the names.
    pub columns: Option<Vec<String>>,
    pub delimiter: u8,
    pub quote: u8,
    /// `null`: an unquoted field with this text is null. By default, this is the empty text.
    pub null: String,
}

#[derive(Clone, PartialEq)]
pub enum SchemaSource {
    /// The schemas are in the registry of `[schema_registry]`. Each value (or key) names its schema.
    Registry,
    /// All values (or keys) have the schema of `schema_file`.
    Local {
        file: PathBuf,
        schema: Arc<Schema>,
        /// `framing = "confluent"`: values begin with a registry's frame, although the schema is local.
        framed: bool,
        /// `message`: the name of the values' Protobuf message type. `None`: not configured, or the format is Avro.
        message: Option<String>,
    },
}

/// Leaves out the schema, which may be very long.
impl fmt::Debug for SchemaSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registry => f.write_str("Registry"),
            Self::Local { file, framed, message, .. } => f
                .debug_struct("Local")
                .field("file", file)
                .field("framed", framed)
                .field("message", message)
                .finish_non_exhaustive(),
        }
    }
}

impl SchemaSource {
    /// Returns whether values begin with a frame (a zero byte and a schema id), unless a header names their schema.
    pub fn framed(&self) -> bool {
        match self {
            Self::Registry => true,
            Self::Local { framed, .. } => *framed,
        }
    }

    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Registry => None,
            Self::Local { message, .. } => message.as_deref(),
        }
    }
}

impl Decode {
    pub fn needs_registry(&self) -> bool {
        matches!(self, Self::Avro(SchemaSource::Registry) | Self::Protobuf(SchemaSource::Registry))
    }

    pub(crate) fn may_be_framed(&self) -> bool {
        matches!(self, Self::Avro(source) | Self::Protobuf(source) if source.framed())
    }

    /// Returns an error message if no record can have the field at `path`, which begins at the top of the value. Returns `None`
    /// if records may have it, or if the configuration doesn't say which fields records have. `rows` are the paths of the arrays
    /// whose elements are rows.
    pub(crate) fn lack(&self, path: &[String], rows: &[Path]) -> Option<String> {
        let whole = path.join(".");
        match self {
            Self::Raw => not_of("a raw value", &whole, &["value"]),
            Self::Csv(CsvOptions { columns: Some(columns), .. }) => {
                let names: Vec<_> = columns.iter().map(String::as_str).collect();
                not_of("`decode.columns`", &whole, &names)
            }
            Self::Avro(SchemaSource::Local { schema, file, .. }) => {
                schema.lack(None, path, rows).map(|lack| format!("`{whole}`: {lack} ({})", file.display()))
            }
            Self::Protobuf(SchemaSource::Local { schema, file, message, framed }) => {
                // If values are framed and the configuration names no message, each frame names a message of the file. So report
                // the field only if all messages lack it.
                let messages = match message {
                    None if *framed => schema.own_messages(),
                    _ => Vec::new(),
                };
                let mut lacks = messages.iter().map(|name| schema.lack(Some(name), path, rows));
                let first = lacks.next().unwrap_or_else(|| schema.lack(message.as_deref(), path, rows));
                let lack = first.filter(|_| lacks.all(|lack| lack.is_some()));
                lack.map(|lack| format!("`{whole}`: {lack} ({})", file.display()))
            }
            _ => None,
        }
    }
}

fn not_of(whose: &str, field: &str, names: &[&str]) -> Option<String> {
    const NAMED_MAX: usize = 12;
    if names.contains(&field) {
        return None;
    }
    let all = if names.len() <= NAMED_MAX { format!(" (there are {})", names.join(", ")) } else { String::new() };
    Some(format!("{whose} has no field `{field}`{}{all}", hint(field, names.iter().copied())))
}
