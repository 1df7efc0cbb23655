//! `decode = { … }`: how values are decoded.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::schema::Schema;
use crate::spec::RowFilter;

/// How values are decoded.
#[derive(Clone, Debug, PartialEq)]
pub enum Decode {
    /// `format = "json"`: an object a record, or an array of objects, each of which is a row.
    Json,
    /// `format = "json", envelope = "connect"`: `{schema, payload}`, as Kafka Connect's JSON converter writes it.
    ConnectJson,
    /// `format = "json", envelope = "debezium"`: `{before, after, op, …}`, in Kafka Connect's envelope or not.
    ChangeJson,
    /// `format = "ndjson"`: objects one after the other, each of which is a row.
    NdJson,
    /// `format = "raw"`: the value as it is, as the field `value`.
    Raw,
    /// `format = "csv"`: a row a line.
    Csv(CsvOptions),
    /// `format = "avro"`
    Avro(SchemaSource),
    /// `format = "protobuf"`
    Protobuf(SchemaSource),
}

/// The structure around a record's fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// `decode.key_format`: how keys are read.
    pub keys: KeyFormat,
    /// `decode.envelope = "debezium"`: a record is a change, with the row before and after it.
    pub change: bool,
    /// `decode.rows`: the paths of arrays whose elements are rows, each within the elements of the one before.
    pub rows: Vec<Vec<String>>,
    /// `table.delete_where`: a record for which it holds deletes the row of its key.
    pub delete_where: Option<RowFilter>,
}

impl Shape {
    /// Records without a shape of their own.
    pub const PLAIN: Shape = Shape { keys: KeyFormat::Auto, change: false, rows: Vec::new(), delete_where: None };

    /// Returns the same, for as long as it takes.
    pub fn plain() -> &'static Self {
        static PLAIN: Shape = Shape::PLAIN;
        &PLAIN
    }
}

/// How a record's key is read, to delete its row and for `meta = "key"`.
#[derive(Clone, Debug, PartialEq)]
pub enum KeyFormat {
    /// As a column wants its bytes: JSON, or text. Keys of formats with a registry may stand behind its frame.
    Auto,
    /// `"json"`: an object or a scalar, behind a registry's frame or not, in Kafka Connect's envelope or not.
    Json,
    /// `"avro"`
    Avro(SchemaSource),
    /// `"protobuf"`
    Protobuf(SchemaSource),
    /// `"text"`: UTF-8.
    Text,
    /// `"bytes"`: as they are.
    Bytes,
    /// `"int16"`, `"int32"`, `"int64"`: a whole number of so many bytes, the highest first, as Java's serializers write it.
    Int(usize),
    /// `"float32"`, `"float64"`: a float of so many bytes, the highest first.
    Float(usize),
    /// `"uuid"`: sixteen bytes, or text.
    Uuid,
}

impl KeyFormat {
    /// Returns whether keys have their schemas in a registry.
    pub fn needs_registry(&self) -> bool {
        matches!(self, Self::Avro(SchemaSource::Registry) | Self::Protobuf(SchemaSource::Registry))
    }
}

/// How CSV looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvOptions {
    /// `columns`: the fields' names; `None`: each value's first line has them.
    pub columns: Option<Vec<String>>,
    /// Between fields. Default a comma.
    pub delimiter: u8,
    /// Around fields. Default a double quote.
    pub quote: u8,
    /// `null`: a field without quotes that is this text is null. Default the empty text.
    pub null: String,
}

/// Where a format's schemas come from.
#[derive(Clone, PartialEq)]
pub enum SchemaSource {
    /// `[schema_registry]`: each value names its schema.
    Registry,
    /// `schema_file`
    Local {
        /// The file.
        file: PathBuf,
        /// What is in it.
        schema: Arc<Schema>,
        /// `framing = "confluent"`: values begin with a schema's number all the same.
        framed: bool,
        /// `message`: which of a Protobuf file's messages it is.
        message: Option<String>,
    },
}

/// The schema itself would fill pages.
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
    /// Whether values begin with a zero byte and their schema's number.
    pub fn framed(&self) -> bool {
        match self {
            Self::Registry => true,
            Self::Local { framed, .. } => *framed,
        }
    }

    /// The Protobuf message that is named for all values.
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Registry => None,
            Self::Local { message, .. } => message.as_deref(),
        }
    }
}

impl Decode {
    /// Returns whether the format has its schemas in a registry.
    pub fn needs_registry(&self) -> bool {
        matches!(self, Self::Avro(SchemaSource::Registry) | Self::Protobuf(SchemaSource::Registry))
    }

    /// Whether a value may have a frame, or a header in its place.
    pub(crate) fn may_be_framed(&self) -> bool {
        matches!(self, Self::Avro(source) | Self::Protobuf(source) if source.framed())
    }

    /// The top-level fields that records can have, where the configuration says it.
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

    /// Whose fields these are, for faults.
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
