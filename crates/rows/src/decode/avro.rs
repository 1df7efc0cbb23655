//! Avro. A writer's schema is the schema with which a record was written. Each such schema has a plan, which says which fields
//! the columns need. Records are decoded by their schema's plan, without building a tree of their values.
//!
//! With a registry, each record names its schema by an id; otherwise all records have the local schema. Fields are found by name
//! or alias, so schemas of any version fill the same columns. A field that the schema lacks counts as missing.

mod plan;
#[cfg(test)]
mod tests;
mod walk;

use std::sync::Arc;

use crate::decode::Fields;
use crate::decode::Leftovers;
use crate::decode::Path;
use crate::decode::frame::SchemaHeader;
use crate::decode::plans::{Framed, Plans, whose};
use crate::schema::{Parsed, Schema, SchemaId, Schemas};
use crate::spec::SchemaSource;
use crate::value::DecodeError;
use crate::value::{Reason, Slot};
use plan::AvroPlan;
use walk::{AvroWalk, Broken};

#[derive(Debug)]
pub(crate) struct AvroDecoder {
    paths: Vec<Path>,
    leftovers: Leftovers,
    /// The path to the object that holds the record's fields: `after` in Debezium's envelope, otherwise empty.
    base: Vec<String>,
    plans: Plans<(Arc<Schema>, AvroPlan)>,
}

impl AvroDecoder {
    pub(crate) fn new(
        source: &SchemaSource,
        paths: &[Path],
        leftovers: Leftovers,
        base: &[String],
        schemas: Option<&Arc<dyn Schemas>>,
    ) -> Self {
        let plans = Plans::new(source, schemas, |schema, id| plan(schema, id, paths, leftovers, base));
        Self { paths: paths.to_vec(), leftovers, base: base.to_vec(), plans }
    }

    #[inline]
    pub(crate) fn wants(&mut self, payload: &[u8], header: Option<SchemaHeader<'_>>) -> Option<SchemaId> {
        let Self { paths, leftovers, base, plans } = self;
        plans.wants(payload, header.map(|header| header.schema), |schema, id| plan(schema, id, paths, *leftovers, base))
    }

    pub(crate) fn decode(
        &mut self,
        payload: &[u8],
        header: Option<SchemaHeader<'_>>,
        fields: &mut Fields,
    ) -> Result<(), DecodeError> {
        let Self { paths, leftovers, base, plans } = self;
        fields.reset(paths.len());
        let Framed { id, start, .. } = plans.open(payload, header.map(|header| header.schema), |schema, id| {
            plan(schema, id, paths, *leftovers, base)
        })?;
        let (schema, plan) = plans.current()?;
        let Parsed::Avro(schema) = &schema.0 else { return Err(schema.is_not("avro", id)) };
        if let Some(name) = &plan.refused {
            return Err(DecodeError::new(Reason::UnknownField, format!("the field \"{name}\" has no column")));
        }
        let mut walk = AvroWalk::new(schema, plan, payload, start, fields);
        let Err(Broken) = walk.document() else { return Ok(()) };
        let (at, what) = (walk.at, walk.what);
        fields.slots.fill(Slot::MISSING);
        Err(broken(at, what, id))
    }
}

fn plan(
    schema: Arc<Schema>,
    id: Option<SchemaId>,
    paths: &[Path],
    leftovers: Leftovers,
    base: &[String],
) -> Result<(Arc<Schema>, AvroPlan), DecodeError> {
    match &schema.0 {
        Parsed::Avro(avro) => {
            let plan = AvroPlan::new(avro, paths, leftovers, base);
            Ok((schema, plan))
        }
        _ => Err(schema.is_not("avro", id)),
    }
}

#[cold]
fn broken(at: usize, what: &str, id: Option<SchemaId>) -> DecodeError {
    let whose = whose(id);
    DecodeError::new(Reason::InvalidFormat, format!("the value is not Avro of {whose}: byte {at}: {what}"))
}
