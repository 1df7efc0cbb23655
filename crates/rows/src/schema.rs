//! The schemas of Avro and Protobuf, and the trait by which decoders ask a registry for them.

pub(crate) mod avro;
pub(crate) mod logical;
mod parse;
pub(crate) mod protobuf;

use std::fmt::Debug;
use std::sync::Arc;

use crate::value::{DecodeFault, Reason};
use avro::AvroSchema;
pub use parse::{avro_file, of_text, proto_file};
use protobuf::ProtoFile;

/// The deepest nesting of a binary value.
pub(crate) const MAX_DEPTH: u32 = 128;

/// A parsed schema, from which decoders make plans.
#[derive(Debug, PartialEq)]
pub struct Schema(pub(crate) Parsed);

/// A schema, by its format.
#[derive(Debug, PartialEq)]
pub(crate) enum Parsed {
    /// Avro's.
    Avro(AvroSchema),
    /// Protobuf's.
    Protobuf(ProtoFile),
    /// A schema of a type that isn't used for decoding.
    Other(String),
}

impl Schema {
    /// Returns the registry's name of the type: `AVRO`.
    pub fn kind(&self) -> &str {
        match &self.0 {
            Parsed::Avro(_) => "AVRO",
            Parsed::Protobuf(_) => "PROTOBUF",
            Parsed::Other(kind) => kind,
        }
    }

    /// Returns the messages of a Protobuf file; nothing for other formats.
    pub fn own_messages(&self) -> Vec<&str> {
        match &self.0 {
            Parsed::Protobuf(file) => file.own_messages(),
            Parsed::Avro(_) | Parsed::Other(_) => Vec::new(),
        }
    }

    /// Returns whether a Protobuf file, or one that it imports, has this message.
    pub fn has_message(&self, name: &str) -> bool {
        matches!(&self.0, Parsed::Protobuf(file) if file.has_message(name))
    }

    /// Returns the top-level fields, for faults of a mapping.
    pub(crate) fn field_names(&self, message: Option<&str>) -> Vec<&str> {
        match &self.0 {
            Parsed::Avro(avro) => avro.field_names(),
            Parsed::Protobuf(file) => file.field_names(message),
            Parsed::Other(_) => Vec::new(),
        }
    }

    /// Returns the fault of a record whose schema has another format than `wanted`.
    pub(crate) fn is_not(&self, wanted: &str, id: u32) -> DecodeFault {
        let detail = format!("its schema {id} is {}, and the pipeline decodes {wanted}", self.kind());
        DecodeFault::new(Reason::UnknownSchema, detail)
    }
}

/// The result of looking up a schema id.
#[derive(Clone, Debug)]
pub enum Found {
    /// The schema is loaded.
    Schema(Arc<Schema>),
    /// The schema can't be loaded: the record is at fault.
    Fault(DecodeFault),
    /// The schema has been requested.
    Wanted,
}

/// The schemas of a registry, by id. A decoder calls it when it meets an id for which it has no plan, and never again for a schema
/// that it got.
pub trait Schemas: Debug + Send + Sync {
    /// Returns the schema with this id, if it is loaded, and requests it otherwise. Doesn't wait.
    fn find(&self, id: u32) -> Found;

    /// Returns whether an id without a usable schema may have one by now, so that [`Self::find`] should be called again.
    fn forgot(&self, id: u32) -> bool;
}
