//! Counts how many rows have the field of each column, for the records that `check` tries.

use tidegate_protocol::record::Record;

use crate::decode::{Path, frame};
use crate::mapping::plan::{Feed, Plan};
use crate::mapping::{Encoder, tombstone};
use crate::schema::{Found, Schema, SchemaId};
use crate::value::Kind;

/// Counts, over records of one plan, the rows that have each field.
#[derive(Debug, Default)]
pub struct Presence {
    rows: u64,
    present: Vec<u64>,
    /// The schemas of a registry that were met, each with its Protobuf message.
    schemas: Vec<(SchemaId, Option<String>)>,
    /// For each slot, what the newest of these schemas lacks of the field's path; `None` if one of them has the whole path.
    lacks: Vec<Option<String>>,
}

impl Presence {
    /// Returns how many rows were counted.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Returns how many of the counted rows have the field at `path`, null or not; `None` if no column is filled from
    /// `path`. `path` is written as in the mapping.
    pub fn of(&self, plan: &Plan, path: &[String]) -> Option<u64> {
        let slot = plan.paths.iter().position(|known| plan.within_row(known) == Some(path))?;
        Some(self.present.get(slot).copied().unwrap_or(0))
    }

    /// Returns why none of the counted records can have the field at `path`: what their schemas lack. `None` if one of the schemas has
    /// it, or if the records' schemas are in no registry.
    pub fn lack(&self, plan: &Plan, path: &[String]) -> Option<&str> {
        let slot = plan.paths.iter().position(|known| plan.within_row(known) == Some(path))?;
        self.lacks.get(slot)?.as_deref()
    }

    fn add_schema(&mut self, plan: &Plan, id: SchemaId, schema: &Schema, message: Option<&str>) {
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

impl Plan {
    /// Visits the columns that are filled from a field, with the field's path as a mapping writes it. Visits none if
    /// records name their table.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[String])> {
        self.columns.iter().filter_map(|column| match column.feed {
            Feed::Field(slot) => Some((&*column.name, self.within_row(self.paths.get(usize::from(slot))?)?)),
            _ => None,
        })
    }

    /// Returns a path as a mapping writes it. In a change of Debezium's, the row lies in `after`, which a mapping
    /// leaves out.
    fn within_row<'p>(&self, path: &'p Path) -> Option<&'p [String]> {
        match &self.change {
            Some(_) => path.split_first().filter(|(first, _)| *first == "after").map(|(_, rest)| rest),
            None => Some(path),
        }
    }
}

impl Encoder {
    /// Counts the fields of a record's rows. Records that can't be decoded have none, and neither have those that only delete.
    pub fn count_fields(&mut self, record: &Record<'_>, presence: &mut Presence) {
        let Some(payload) = record.value.filter(|payload| !tombstone::is_spelled_out(payload)) else { return };
        self.look_at_schema(record, payload, presence);
        self.each_row(record, payload, |this| {
            if this.changes_row(payload) {
                presence.rows += 1;
                presence.present.resize(this.fields.slots.len(), 0);
                for (count, slot) in presence.present.iter_mut().zip(&this.fields.slots) {
                    *count += u64::from(slot.kind != Kind::Missing);
                }
            }
        });
    }

    /// Compares the planned paths with the schema that a record names in a registry. It has come: the record waited for it.
    fn look_at_schema(&self, record: &Record<'_>, payload: &[u8], presence: &mut Presence) {
        let plan = &self.plan;
        let Some(schemas) = plan.schemas.as_ref().filter(|_| plan.decode.needs_registry()) else { return };
        let header = self.header(record.headers, &frame::OF_VALUE);
        let id = match header {
            None => frame::schema_id(payload).map(SchemaId::Number),
            Some(header) => frame::of_header(header).map(|(id, _)| id),
        };
        let Some(id) = id else { return };
        if let Found::Schema(schema) = schemas.find(id) {
            presence.add_schema(plan, id, &schema, schema.message_name(payload, header));
        }
    }

    /// Returns whether the decoded record has a row after it, which a change may lack.
    fn changes_row(&self, payload: &[u8]) -> bool {
        let op = self.plan.change.as_ref().map(|change| self.fields.value(change.op, payload));
        op.is_none_or(|op| matches!(op.as_text(), Some(b"c" | b"r" | b"u")))
    }
}
