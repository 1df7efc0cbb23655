//! The schemas of Avro and Protobuf, and the trait by which decoders ask a registry for them.

pub(crate) mod avro;
mod lack;
pub(crate) mod logical;
mod outline;
mod parse;
pub(crate) mod protobuf;

use std::fmt::{self, Debug, Display, Formatter};
use std::sync::Arc;

use crate::value::{DecodeError, Reason};
use avro::AvroSchema;
pub use outline::Outline;
pub use parse::{avro_file, of_text, proto_file};
use protobuf::ProtoFile;

/// The deepest nesting that is accepted, in binary values and in Avro schemas.
pub(crate) const MAX_DEPTH: u32 = 128;

/// A parsed schema. From it, a decoder makes a plan that says where the fields of a value are.
#[derive(Debug, PartialEq)]
pub struct Schema(pub(crate) Parsed);

#[derive(Debug, PartialEq)]
pub(crate) enum Parsed {
    Avro(AvroSchema),
    Protobuf(ProtoFile),
    /// The registry's name of a schema type that isn't decoded: `JSON`.
    Other(String),
}

impl Schema {
    pub fn kind(&self) -> &str {
        match &self.0 {
            Parsed::Avro(_) => "AVRO",
            Parsed::Protobuf(_) => "PROTOBUF",
            Parsed::Other(kind) => kind,
        }
    }

    /// Returns the names of a Protobuf file's own messages, without imported messages. Returns an empty list for other formats.
    pub fn own_messages(&self) -> Vec<&str> {
        match &self.0 {
            Parsed::Protobuf(file) => file.own_messages(),
            Parsed::Avro(_) | Parsed::Other(_) => Vec::new(),
        }
    }

    /// Returns whether a Protobuf file, or a file that it imports, has this message. `name` includes the package.
    pub fn has_message(&self, name: &str) -> bool {
        matches!(&self.0, Parsed::Protobuf(file) if file.has_message(name))
    }

    /// Returns the error for a record whose schema has another format than `wanted`, the format that the pipeline decodes.
    pub(crate) fn is_not(&self, wanted: &str, id: Option<SchemaId>) -> DecodeError {
        let id = id.map_or_else(|| "of the pipeline".to_owned(), |id| id.to_string());
        let detail = format!("its schema {id} is {}, and the pipeline decodes {wanted}", self.kind());
        DecodeError::new(Reason::UnknownSchema, detail)
    }
}

/// The identifier by which a record names its schema in a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SchemaId {
    /// A number, in the frame of a value or in a header.
    Number(u32),
    /// A GUID, in a header.
    Guid(u128),
}

impl Display for SchemaId {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Guid(guid) => {
                let digits = format!("{guid:032x}");
                let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
                f.write_str(&parts.join("-"))
            }
        }
    }
}

/// The result of [`Schemas::find`].
#[derive(Clone, Debug)]
pub enum Found {
    Schema(Arc<Schema>),
    /// The schema can't be loaded, so the record is rejected with this error.
    Fault(DecodeError),
    /// The schema isn't loaded yet. It has been requested from the registry.
    Wanted,
}

/// The schemas of a registry. A decoder looks up a schema when a record names one for which the decoder has no plan.
pub trait Schemas: Debug + Send + Sync {
    /// Returns a schema, or why it can't be loaded. If the schema isn't loaded yet, requests it without waiting for it.
    fn find(&self, id: SchemaId) -> Found;

    /// Returns whether [`Self::find`] should be called again for a schema for which it returned [`Found::Fault`]. The registry
    /// may have the schema by now.
    fn forgot(&self, id: SchemaId) -> bool;
}
