//! The schemas of Avro and Protobuf, and what is asked of a registry that has them.

pub(crate) mod avro;
pub(crate) mod logical;
mod outline;
mod parse;
pub(crate) mod protobuf;

use std::fmt::Debug;
use std::sync::Arc;

use crate::value::{DecodeFault, Reason};
use avro::AvroSchema;
pub use outline::Outline;
pub use parse::{avro_file, of_text, proto_file};
use protobuf::ProtoFile;

/// How deep a binary value may be nested.
pub(crate) const MAX_DEPTH: u32 = 128;

/// A schema, ready to be planned with.
#[derive(Debug, PartialEq)]
pub struct Schema(pub(crate) Parsed);

/// What a schema's text says.
#[derive(Debug, PartialEq)]
pub(crate) enum Parsed {
    /// Avro's.
    Avro(AvroSchema),
    /// Protobuf's.
    Protobuf(ProtoFile),
    /// Of a type that we don't read by its schema.
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

    /// Returns the messages of a Protobuf file; those of another format are none.
    pub fn own_messages(&self) -> Vec<&str> {
        match &self.0 {
            Parsed::Protobuf(file) => file.own_messages(),
            Parsed::Avro(_) | Parsed::Other(_) => Vec::new(),
        }
    }

    /// Returns whether a Protobuf file has this message, or one that it imports.
    pub fn has_message(&self, name: &str) -> bool {
        matches!(&self.0, Parsed::Protobuf(file) if file.has_message(name))
    }

    /// The top-level fields, for faults of a mapping.
    pub(crate) fn field_names(&self, message: Option<&str>) -> Vec<&str> {
        match &self.0 {
            Parsed::Avro(avro) => avro.field_names(),
            Parsed::Protobuf(file) => file.field_names(message),
            Parsed::Other(_) => Vec::new(),
        }
    }

    /// What a record is told that has a schema of another format.
    pub(crate) fn is_not(&self, wanted: &str, id: u32) -> DecodeFault {
        let detail = format!("its schema {id} is {}, and the pipeline decodes {wanted}", self.kind());
        DecodeFault::new(Reason::UnknownSchema, detail)
    }
}

/// What is known of a schema's number.
#[derive(Clone, Debug)]
pub enum Found {
    /// It is here.
    Schema(Arc<Schema>),
    /// It will not come: the record is at fault.
    Fault(DecodeFault),
    /// It has been asked for.
    Wanted,
}

/// The schemas of a registry, by their numbers. A decoder asks when it meets a number that it has no plan for: never twice for
/// a schema that it got.
pub trait Schemas: Debug + Send + Sync {
    /// Returns what is known of a number, and asks the registry where nothing is. Doesn't wait.
    fn find(&self, id: u32) -> Found;

    /// Returns whether a number that had no usable schema may have one by now, so that [`Self::find`] is to be asked again.
    fn forgot(&self, id: u32) -> bool;
}
