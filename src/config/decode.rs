//! What `decode = { … }` and `[schema_registry]` mean, checked. `read_decode` makes them.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Secret;
use crate::registry::Schema;

/// How values are decoded.
#[derive(Clone, Debug)]
pub enum Decode {
    /// `format = "json"`: an object a record, or an array of objects, each of which is a row.
    Json,
    /// `format = "json", envelope = "connect"`: `{schema, payload}`, as Kafka Connect's JSON converter writes it.
    ConnectJson,
    /// `format = "raw"`: the value as it is, as the field `value`.
    Raw,
    /// `format = "csv"`: a row a line.
    Csv(CsvOptions),
    /// `format = "avro"`
    Avro(SchemaSource),
    /// `format = "protobuf"`
    Protobuf(SchemaSource),
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
#[derive(Clone)]
pub enum SchemaSource {
    /// `[schema_registry]`: each value names its schema.
    Registry(Arc<SchemaRegistry>),
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
            Self::Registry(registry) => f.debug_tuple("Registry").field(&registry.url).finish(),
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
            Self::Registry(_) => true,
            Self::Local { framed, .. } => *framed,
        }
    }

    /// The Protobuf message that is named for all values.
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Registry(_) => None,
            Self::Local { message, .. } => message.as_deref(),
        }
    }
}

impl Decode {
    /// The registry that the format's schemas come from.
    pub fn registry(&self) -> Option<&Arc<SchemaRegistry>> {
        match self {
            Self::Avro(SchemaSource::Registry(registry)) | Self::Protobuf(SchemaSource::Registry(registry)) => {
                Some(registry)
            }
            _ => None,
        }
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

/// Text that must not be seen, or the file that it is read from each time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretSource {
    /// In the configuration or a variable.
    Inline(Secret),
    /// Read again for each question, so that a rotated one is picked up.
    File(PathBuf),
}

/// `[schema_registry]`: a registry that speaks Confluent's REST interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaRegistry {
    /// Without a slash at its end.
    pub url: String,
    /// For basic authentication.
    pub username: Option<String>,
    /// `password` or `password_file`
    pub password: Option<SecretSource>,
    /// `token` or `token_file`, for bearer authentication.
    pub token: Option<SecretSource>,
    /// `ca_file`: who may have signed its certificate, in PEM. `None`: whom the system trusts.
    pub ca_file: Option<PathBuf>,
    /// The longest that one answer may take. Default [`REGISTRY_TIMEOUT`](super::defaults::REGISTRY_TIMEOUT).
    pub timeout: Duration,
}
