//! `decode = { … }`: how values are decoded.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::schema::Schema;
use crate::spec::RowFilter;

/// How values are decoded.
#[derive(Clone, Debug, PartialEq)]
pub enum Decode {
    /// `format = "json"`: one object per record, or an array of objects, each of which is a row.
    Json,
    /// `format = "json", envelope = "connect"`: `{schema, payload}`, as Kafka Connect's JSON converter writes it.
    ConnectJson,
    /// `format = "json", envelope = "debezium"`: `{before, after, op, …}`, with or without Kafka Connect's envelope.
    ChangeJson,
    /// `format = "ndjson"`: one object after another, each of which is a row.
    NdJson,
    /// `format = "raw"`: the value unchanged, as the field `value`.
    Raw,
    /// `format = "csv"`: one row per line.
    Csv(CsvOptions),
    /// `format = "avro"`
    Avro(SchemaSource),
    /// `format = "protobuf"`
    Protobuf(SchemaSource),
}

/// The structure around a record's fields, and its key.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// `decode.key_format`: how keys are read.
    pub keys: KeyFormat,
    /// `decode.envelope = "debezium"`: a record is a change, with the row before and after it.
    pub change: bool,
    /// `decode.rows`: the paths of arrays whose elements are rows. Each array after the first is inside the elements of the one
    /// before it.
    pub rows: Vec<Vec<String>>,
    /// `table.delete_where`: a record that matches it deletes the row of its key.
    pub delete_where: Option<RowFilter>,
}

impl Shape {
    /// The default: a value consists of the fields, without an envelope.
    pub const PLAIN: Shape = Shape { keys: KeyFormat::Auto, change: false, rows: Vec::new(), delete_where: None };

    /// Returns a reference to [`Self::PLAIN`] that lives as long as the program.
    pub fn plain() -> &'static Self {
        static PLAIN: Shape = Shape::PLAIN;
        &PLAIN
    }
}

/// How a record's key is decoded, to delete its row and for `meta = "key"`.
#[derive(Clone, Debug, PartialEq)]
pub enum KeyFormat {
    /// `"auto"`: JSON or text, whichever the column requires. If the value's format uses a registry, keys may have a frame too.
    Auto,
    /// `"json"`: an object or a scalar, with or without a registry's framing, with or without Kafka Connect's envelope.
    Json,
    /// `"avro"`
    Avro(SchemaSource),
    /// `"protobuf"`
    Protobuf(SchemaSource),
    /// `"text"`: UTF-8.
    Text,
    /// `"bytes"`: unchanged.
    Bytes,
    /// `"int16"`, `"int32"`, `"int64"`: a big-endian integer with this many bytes, as Java's serializers write it.
    Int(usize),
    /// `"float32"`, `"float64"`: a big-endian float with this many bytes.
    Float(usize),
    /// `"uuid"`: 16 bytes, or text.
    Uuid,
}

impl KeyFormat {
    /// Returns whether the keys' schemas are in a registry.
    pub fn needs_registry(&self) -> bool {
        matches!(self, Self::Avro(SchemaSource::Registry) | Self::Protobuf(SchemaSource::Registry))
    }
}

/// The dialect of CSV.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvOptions {
    /// `columns`: the names of the fields. `None`: the first line of each value contains them.
    pub columns: Option<Vec<String>>,
    /// The byte between fields. Default: a comma.
    pub delimiter: u8,
    /// The byte around quoted fields. Default: a double quote.
    pub quote: u8,
    /// `null`: a field without quotes that has this text is null. Default: the empty text.
    pub null: String,
}

/// Where the schemas of a format come from.
#[derive(Clone, PartialEq)]
pub enum SchemaSource {
    /// `[schema_registry]`: each value names its schema.
    Registry,
    /// `schema_file`
    Local {
        file: PathBuf,
        schema: Arc<Schema>,
        /// `framing = "confluent"`: values have a registry's framing although the schema is local.
        framed: bool,
        /// `message`: the message of the Protobuf file.
        message: Option<String>,
    },
}

/// Writes no schema, because it would fill pages.
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
    /// Returns whether values begin with a zero byte and their schema id.
    pub fn framed(&self) -> bool {
        match self {
            Self::Registry => true,
            Self::Local { framed, .. } => *framed,
        }
    }

    /// Returns the Protobuf message that is configured for all values.
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Registry => None,
            Self::Local { message, .. } => message.as_deref(),
        }
    }
}

impl Decode {
    /// Returns whether the format's schemas are in a registry.
    pub fn needs_registry(&self) -> bool {
        matches!(self, Self::Avro(SchemaSource::Registry) | Self::Protobuf(SchemaSource::Registry))
    }

    /// Returns whether a value may be framed, or have a header that names its schema instead.
    pub(crate) fn may_be_framed(&self) -> bool {
        matches!(self, Self::Avro(source) | Self::Protobuf(source) if source.framed())
    }

    /// Returns the top-level fields that records can have; `None` if the configuration doesn't list them.
    pub(crate) fn field_names(&self) -> Option<Vec<&str>> {
        match self {
            Self::Raw => Some(vec!["value"]),
            Self::Csv(CsvOptions { columns: Some(columns), .. }) => Some(columns.iter().map(String::as_str).collect()),
            Self::Avro(SchemaSource::Local { schema, .. }) | Self::Protobuf(SchemaSource::Local { schema, .. }) => {
                let message = match self {
                    Self::Protobuf(source) => source.message(),
                    _ => None,
                };
                Some(schema.field_names(message)).filter(|names| !names.is_empty())
            }
            _ => None,
        }
    }

    /// Returns, for error messages, a description of what defines the fields.
    pub(crate) fn whose_fields(&self) -> String {
        match self {
            Self::Raw => "a raw value".to_owned(),
            Self::Csv(_) => "`decode.columns`".to_owned(),
            Self::Avro(SchemaSource::Local { file, .. }) | Self::Protobuf(SchemaSource::Local { file, .. }) => {
                file.display().to_string()
            }
            _ => "the schema".to_owned(),
        }
    }
}
