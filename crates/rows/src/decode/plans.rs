//! Keeps the plans of the schemas that occurred so far. A plan is found by its schema's id.

use std::sync::Arc;

use crate::decode::frame;
use crate::schema::{Found, Schema, SchemaId, Schemas};
use crate::spec::SchemaSource;
use crate::value::DecodeError;
use crate::value::Reason;

/// How many plans are kept. If this many plans exist, all of them are dropped before another one is added. A dropped plan is made
/// again when its schema occurs again.
const KEPT: usize = 1024;

/// For each schema that occurred: its plan, or the reason why values with this schema are rejected. `last` is the index in `made`
/// of the plan that was used last.
#[derive(Debug)]
pub(super) struct Plans<P> {
    registry: Option<Arc<dyn Schemas>>,
    framed: bool,
    /// The plans, each with the id of its schema; the plan of a local schema has no id. A lookup first tries the plan that was
    /// used last, and then searches the list from the start.
    made: Vec<(Option<SchemaId>, Result<P, DecodeError>)>,
    last: usize,
}

/// The content of a value's frame or header: the schema's id, where the payload begins, and in a header the bytes after the id.
#[derive(Clone, Copy, Debug)]
pub(super) struct Framed<'a> {
    /// The schema's id; `None` for a local schema.
    pub(super) id: Option<SchemaId>,
    /// The index of the first byte of the payload after the frame's schema id; 0 if the value has no frame. In a Protobuf frame,
    /// the message indexes begin there, and the message follows them.
    pub(super) start: usize,
    /// The bytes after the schema's id in the header: for Protobuf, the message indexes or nothing. `None` if no header names the
    /// schema.
    pub(super) indexes: Option<&'a [u8]>,
}

impl<P> Plans<P> {
    /// Makes the plan of a local schema. The plans of a registry's schemas are made when the schemas occur.
    pub(super) fn new(
        source: &SchemaSource,
        registry: Option<&Arc<dyn Schemas>>,
        make: impl Fn(Arc<Schema>, Option<SchemaId>) -> Result<P, DecodeError>,
    ) -> Self {
        let mut this = Self { registry: None, framed: source.framed(), made: Vec::new(), last: 0 };
        match source {
            SchemaSource::Local { schema, .. } => this.made.push((None, make(Arc::clone(schema), None))),
            SchemaSource::Registry => this.registry = registry.cloned(),
        }
        this
    }

    /// Returns the id of the schema that this value needs, if that schema isn't loaded yet. `None` if it is loaded, or if the
    /// value names no schema.
    #[inline]
    pub(super) fn wants(
        &mut self,
        payload: &[u8],
        header: Option<&[u8]>,
        make: impl Fn(Arc<Schema>, Option<SchemaId>) -> Result<P, DecodeError>,
    ) -> Option<SchemaId> {
        self.registry.as_ref()?;
        let id = match header {
            None => SchemaId::Number(frame::schema_id(payload)?),
            Some(header) => frame::of_header(header)?.0,
        };
        if self.made.get(self.last).is_some_and(|(known, made)| *known == Some(id) && made.is_ok()) {
            return None;
        }
        self.find(id, make)
    }

    /// Sets `last` to the index of this schema's plan, which is made if necessary. Returns the id if the schema isn't loaded yet.
    #[inline(never)]
    fn find(
        &mut self,
        id: SchemaId,
        make: impl Fn(Arc<Schema>, Option<SchemaId>) -> Result<P, DecodeError>,
    ) -> Option<SchemaId> {
        let registry = self.registry.as_ref()?;
        if let Some(at) = self.made.iter().position(|(known, _)| *known == Some(id)) {
            // If the registry didn't know the schema, the registry is asked again at intervals.
            if self.made[at].1.is_ok() || !registry.forgot(id) {
                self.last = at;
                return None;
            }
            drop(self.made.swap_remove(at));
        }
        let made = match registry.find(id) {
            Found::Wanted => return Some(id),
            Found::Schema(schema) => make(schema, Some(id)),
            Found::Fault(fault) => Err(fault),
        };
        if self.made.len() >= KEPT {
            self.made.clear();
        }
        self.last = self.made.len();
        self.made.push((Some(id), made));
        None
    }

    /// Reads the frame of a value, and selects the plan that [`Self::current`] returns.
    #[inline]
    pub(super) fn open<'a>(
        &mut self,
        payload: &[u8],
        header: Option<&'a [u8]>,
        make: impl Fn(Arc<Schema>, Option<SchemaId>) -> Result<P, DecodeError>,
    ) -> Result<Framed<'a>, DecodeError> {
        if u32::try_from(payload.len()).is_err() {
            return Err(DecodeError::new(Reason::TooLarge, "the value is larger than 4 GiB"));
        }
        if !self.framed {
            return Ok(Framed { id: None, start: 0, indexes: None });
        }
        let (id, start, indexes) = match header {
            None => {
                let id = frame::schema_id(payload).ok_or_else(|| frame::not_framed(payload))?;
                // The id in front of a value with a local schema has no meaning. It may be 0.
                let head = if self.registry.is_some() { frame::head(payload) } else { frame::HEAD };
                (SchemaId::Number(id), head, None)
            }
            Some(header) => {
                let (id, behind) = frame::of_header(header).ok_or_else(|| frame::not_of_header(header))?;
                (id, 0, Some(&header[behind..]))
            }
        };
        if self.registry.is_none() {
            return Ok(Framed { id: None, start, indexes });
        }
        let known = self.made.get(self.last).is_some_and(|(known, _)| *known == Some(id));
        // Records wait until their schema is loaded, so this can't happen. If it did, the record would become a dead letter, and
        // wouldn't be lost.
        if !known && self.find(id, make).is_some() {
            return Err(DecodeError::new(
                Reason::UnknownSchema,
                format!("its schema {id} has not been read from the registry yet"),
            ));
        }
        Ok(Framed { id: Some(id), start, indexes })
    }

    /// Returns the plan of the value that was opened last.
    #[inline]
    pub(super) fn current(&mut self) -> Result<&mut P, DecodeError> {
        match self.made.get_mut(self.last) {
            Some((_, Ok(made))) => Ok(made),
            Some((_, Err(fault))) => Err(fault.clone()),
            None => Err(DecodeError::new(Reason::UnknownSchema, "there is no schema for it")),
        }
    }
}

/// Returns the name of a schema for error messages.
pub(super) fn whose(id: Option<SchemaId>) -> String {
    id.map_or_else(|| "the local schema".to_owned(), |id| format!("schema {id}"))
}
