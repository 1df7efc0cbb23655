//! Plans by the number of the writer's schema.

use std::sync::Arc;

use crate::decode::frame;
use crate::schema::{Found, Schema, Schemas};
use crate::spec::SchemaSource;
use crate::value::DecodeFault;
use crate::value::Reason;

/// Plans that are kept; beyond it, those of schemas that come again are made again.
const KEPT: usize = 1024;

/// The plan, or the fault, of each schema seen so far.
#[derive(Debug)]
pub(super) struct Plans<P> {
    registry: Option<Arc<dyn Schemas>>,
    framed: bool,
    /// In the order in which they came; few, and the last one is asked first.
    made: Vec<(u32, Result<P, DecodeFault>)>,
    last: usize,
}

/// Where a framed value's own bytes begin, and its schema's number; 0 for a local one.
pub(super) type Framed = (usize, u32);

impl<P> Plans<P> {
    /// Plans of the source's schemas: a local one is planned at once.
    pub(super) fn new(
        source: &SchemaSource,
        registry: Option<&Arc<dyn Schemas>>,
        make: impl Fn(Arc<Schema>, u32) -> Result<P, DecodeFault>,
    ) -> Self {
        let mut this = Self { registry: None, framed: source.framed(), made: Vec::new(), last: 0 };
        match source {
            SchemaSource::Local { schema, .. } => this.made.push((0, make(Arc::clone(schema), 0))),
            SchemaSource::Registry => this.registry = registry.cloned(),
        }
        this
    }

    /// The schema that this value needs and that isn't here yet.
    #[inline]
    pub(super) fn wants(
        &mut self,
        payload: &[u8],
        make: impl Fn(Arc<Schema>, u32) -> Result<P, DecodeFault>,
    ) -> Option<u32> {
        self.registry.as_ref()?;
        let id = frame::schema_id(payload)?;
        if self.made.get(self.last).is_some_and(|(known, made)| *known == id && made.is_ok()) {
            return None;
        }
        self.find(id, make)
    }

    /// Makes `last` the place of this schema's plan; `Some` where it must be waited for.
    #[inline(never)]
    fn find(&mut self, id: u32, make: impl Fn(Arc<Schema>, u32) -> Result<P, DecodeFault>) -> Option<u32> {
        let registry = self.registry.as_ref()?;
        if let Some(at) = self.made.iter().position(|(known, _)| *known == id) {
            // The registry is asked again from time to time for a schema that it didn't know.
            if self.made[at].1.is_ok() || !registry.forgot(id) {
                self.last = at;
                return None;
            }
            drop(self.made.swap_remove(at));
        }
        let made = match registry.find(id) {
            Found::Wanted => return Some(id),
            Found::Schema(schema) => make(schema, id),
            Found::Fault(fault) => Err(fault),
        };
        if self.made.len() >= KEPT {
            self.made.clear();
        }
        self.last = self.made.len();
        self.made.push((id, made));
        None
    }

    /// The frame of a value, and with it the plan that [`Self::current`] gives.
    #[inline]
    pub(super) fn open(
        &mut self,
        payload: &[u8],
        make: impl Fn(Arc<Schema>, u32) -> Result<P, DecodeFault>,
    ) -> Result<Framed, DecodeFault> {
        if u32::try_from(payload.len()).is_err() {
            return Err(DecodeFault::new(Reason::TooLarge, "the value is larger than 4 GiB"));
        }
        if !self.framed {
            return Ok((0, 0));
        }
        let id = frame::schema_id(payload).ok_or_else(|| frame::not_framed(payload))?;
        if self.registry.is_none() {
            return Ok((frame::HEAD, 0));
        }
        let known = self.made.get(self.last).is_some_and(|(known, _)| *known == id);
        // Records wait until their schema is here, so this one is; were it not, no record would be lost by saying so.
        if !known && self.find(id, make).is_some() {
            return Err(DecodeFault::new(Reason::UnknownSchema, format!("its schema {id} has not come yet")));
        }
        Ok((frame::HEAD, id))
    }

    /// The plan of the value that was opened last.
    #[inline]
    pub(super) fn current(&mut self) -> Result<&mut P, DecodeFault> {
        match self.made.get_mut(self.last) {
            Some((_, Ok(made))) => Ok(made),
            Some((_, Err(fault))) => Err(fault.clone()),
            None => Err(DecodeFault::new(Reason::UnknownSchema, "there is no schema for it")),
        }
    }
}

/// Returns a name for the schema that a value doesn't match, for people.
pub(super) fn whose(id: u32) -> String {
    if id == 0 { "the local schema".to_owned() } else { format!("schema {id}") }
}
