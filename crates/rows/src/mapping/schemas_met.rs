//! Compares the planned paths with the schemas that records name in a registry. So `tidegate check` can distinguish two cases: no
//! schema has the field, or a schema has it but the records leave it out.

use tidegate_protocol::record::Record;

use crate::decode::frame;
use crate::mapping::plan::Plan;
use crate::mapping::{Encoder, tombstone};
use crate::schema::{Found, Schema, SchemaId};

/// The schemas that records named in a registry, and the paths of one plan that these schemas lack. The index in `lacks` and
/// `others` is a slot of the plan.
#[derive(Debug, Default)]
pub struct SchemasMet {
    /// The id of each schema. A Protobuf schema also has the name of the message.
    schemas: Vec<(SchemaId, Option<String>)>,
    /// A message that says which part of the slot's path is missing in the schema that was added last. `None` if one of the
    /// schemas has the whole path.
    lacks: Vec<Option<String>>,
    /// Another version of one of `schemas`, if this version has the slot's whole path.
    others: Vec<Option<SchemaId>>,
}

impl SchemasMet {
    /// Returns a message that says why records with these schemas can't have the field at `path`. The message is about the schema
    /// that was added last. Returns `None` if one of the schemas has the field, or if no schema was added. `path` is written as
    /// in the mapping.
    pub fn lack(&self, plan: &Plan, path: &[String]) -> Option<&str> {
        let slot = plan.paths.iter().position(|known| plan.within_row(known) == path)?;
        self.lacks.get(slot)?.as_deref()
    }

    /// Returns the id of a version from [`Self::add_version`] that has the field at `path`. Returns `None` if no such version has
    /// the field, or if a schema of the records has it.
    pub fn version_with(&self, plan: &Plan, path: &[String]) -> Option<SchemaId> {
        let slot = plan.paths.iter().position(|known| plan.within_row(known) == path)?;
        *self.others.get(slot)?
    }

    /// Returns the schemas that records named, if at least one path is in none of these schemas. Otherwise, returns an empty
    /// list.
    pub fn lacking(&self) -> Vec<SchemaId> {
        let lacks = self.lacks.iter().any(Option::is_some);
        self.schemas.iter().filter(|_| lacks).map(|(id, _)| *id).collect()
    }

    /// Finds out which of the missing paths `schema` has. `schema` has the id `id`, and is another version of the schema `of`.
    pub fn add_version(&mut self, plan: &Plan, of: SchemaId, id: SchemaId, schema: &Schema) {
        let messages = self.schemas.iter().filter(|(met, _)| *met == of).map(|(_, message)| message.as_deref());
        let messages: Vec<_> = messages.collect();
        self.others.resize(plan.paths.len(), None);
        for ((path, lack), other) in plan.paths.iter().zip(&self.lacks).zip(&mut self.others) {
            let has = |message: &Option<&str>| schema.has(*message, path, &plan.levels);
            if lack.is_some() && other.is_none() && messages.iter().any(has) {
                *other = Some(id);
            }
        }
    }

    fn add(&mut self, plan: &Plan, id: SchemaId, schema: &Schema, message: Option<&str>) {
        let is_known = |(of, name): &(SchemaId, Option<String>)| *of == id && name.as_deref() == message;
        if self.schemas.iter().any(is_known) {
            return;
        }
        let is_first = self.schemas.is_empty();
        self.lacks.resize(plan.paths.len(), None);
        for (path, kept) in plan.paths.iter().zip(&mut self.lacks) {
            if is_first || kept.is_some() {
                let lack = schema.lack(message, path, &plan.levels);
                *kept = lack.map(|lack| format!("schema {id}: {lack}"));
            }
        }
        self.schemas.push((id, message.map(str::to_owned)));
    }
}

impl Encoder {
    /// Adds to `met` how the planned paths compare with the schema that a record names by its id. Does nothing if this schema
    /// hasn't been read from the registry.
    pub fn meet_schema(&self, record: &Record<'_>, met: &mut SchemasMet) {
        let plan = &self.plan;
        let Some(schemas) = plan.schemas.as_ref().filter(|_| plan.decode.needs_registry()) else { return };
        let Some(payload) = record.value.filter(|payload| !tombstone::is_spelled_out(payload)) else { return };
        let header = self.header(record.headers, &frame::OF_VALUE);
        let id = match header {
            None => frame::schema_id(payload).map(SchemaId::Number),
            Some(header) => frame::of_header(header.schema).map(|(id, _)| id),
        };
        let Some(id) = id else { return };
        if let Found::Schema(schema) = schemas.find(id) {
            let message = schema.message_name(payload, header);
            // A Protobuf value whose message isn't known says nothing about the fields.
            if message.is_some() || schema.kind() != "PROTOBUF" {
                met.add(plan, id, &schema, message);
            }
        }
    }
}
