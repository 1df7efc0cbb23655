//! Schemas from a registry with Confluent's REST interface, by number or GUID.
//!
//! A poll thread calls `CachedSchemas::find` and never waits in it. A thread of this module requests schemas that aren't cached
//! yet. Meanwhile, their records wait in the poll thread. A registry that is down, fails or denies access is an outage: requests
//! are retried without end, and nothing is dead-lettered. A record is at fault only if the registry itself answers that the
//! schema doesn't exist, or if the schema can't be used.
//!
//! A schema never changes under its id, so schemas are cached until the pipeline ends or restarts.

mod client;

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use client::{Client, FetchError};
use tidegate_protocol::retry::Backoff;
use tidegate_rows::schema::{self, Found, Schema, SchemaId};
use tidegate_rows::value::{DecodeError, Reason};
use tracing::{info, warn};

use crate::config::SchemaRegistry;
use crate::status::{Trouble, lock};

/// The time after which an unknown id is requested a second time. The registry's leader assigns ids, and its followers
/// learn of a new id a little later.
const SECOND_REQUEST_AFTER: Duration = Duration::from_secs(1);
/// After two answers that an id is unknown, one answer is enough for each further unknown id during this time. Each such answer
/// starts the time again.
const TRUSTED_FOR: Duration = Duration::from_secs(10);
/// After this time, an unknown id is requested again if a record needs it.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);
/// The most unknown ids that are remembered. When one more is added, all others are forgotten, and are requested again if a
/// record needs them.
const UNKNOWN_KEPT: usize = 4096;

/// How long a command waits for schemas.
pub const PATIENCE: Duration = Duration::from_secs(15);
pub const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Waits until a record's schemas are known. `wants` returns the id of a schema that the record still needs, or `None`. Blocks,
/// so it is for commands and never for a poll thread.
///
/// # Errors
/// If a schema isn't known after [`PATIENCE`]. The error says why the registry doesn't answer, if it doesn't.
pub fn await_schema(schemas: Option<&CachedSchemas>, wants: impl FnMut() -> Option<SchemaId>) -> Result<(), String> {
    await_until(Instant::now() + PATIENCE, schemas, wants)
}

fn await_until(
    deadline: Instant,
    schemas: Option<&CachedSchemas>,
    mut wants: impl FnMut() -> Option<SchemaId>,
) -> Result<(), String> {
    while let Some(id) = wants() {
        if Instant::now() > deadline {
            let trouble = schemas.and_then(CachedSchemas::trouble);
            let late = || format!("schema {id} was not read from the registry in time");
            return Err(trouble.map_or_else(late, |trouble| trouble.to_string()));
        }
        thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// The state of one schema in the cache.
#[derive(Debug)]
enum Entry {
    /// The schema is requested, and no answer has come yet.
    Asked,
    Here(Arc<Schema>),
    /// The registry has the schema, but it can't be used. Another request would change nothing.
    Unusable(DecodeError),
    /// The registry didn't have the schema at this time.
    Unknown(DecodeError, Instant),
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<SchemaId, Entry>,
    /// The number of entries that are [`Entry::Unknown`].
    unknown: usize,
    /// Why the registry doesn't answer. While it answers, this and `trouble_since` are `None`.
    trouble: Option<Trouble>,
    trouble_since: Option<Instant>,
}

/// The schemas of one pipeline's registry, shared by the pipeline's threads.
#[derive(Debug)]
pub struct CachedSchemas {
    pipeline: Box<str>,
    /// The cached schemas. Locked only briefly. A poll thread that already has a plan for a record's schema doesn't lock them.
    state: Mutex<State>,
    requests: Mutex<Sender<SchemaId>>,
    client: Arc<Client>,
}

impl CachedSchemas {
    /// Starts the requesting thread. The thread ends when the returned schemas are dropped.
    ///
    /// # Errors
    /// If the registry's certificates can't be read, or no thread can be started.
    pub fn start(config: &SchemaRegistry, pipeline: &str) -> Result<Arc<Self>, String> {
        let client = Arc::new(Client::new(config)?);
        let (requests, asked) = channel();
        let this = Arc::new(Self {
            pipeline: pipeline.into(),
            state: Mutex::default(),
            requests: Mutex::new(requests),
            client: Arc::clone(&client),
        });
        let worker = Worker { client, pipeline: pipeline.into(), schemas: Arc::downgrade(&this), trusted_until: None };
        let thread = thread::Builder::new().name("schema-registry".to_owned()).spawn(move || worker.run(&asked));
        thread.map_err(|error| format!("can't start a thread for the schema registry: {error}"))?;
        Ok(this)
    }

    /// Calls `visit` for the other versions of each schema in `of`: the other schemas that `Client::versions` finds under its
    /// subjects. `visit` gets the id from `of`, the other version's id, and the other version's schema. A version whose schema
    /// can't be used is skipped. A schema in `of` is skipped if its id is a GUID, or if the registry doesn't have all of these
    /// versions any more. Blocks, so it is for commands and never for a poll thread.
    ///
    /// # Errors
    /// If a request for versions fails, or if not all schemas have arrived after [`PATIENCE`].
    pub fn other_versions(
        &self,
        of: &[SchemaId],
        mut visit: impl FnMut(SchemaId, SchemaId, &Schema),
    ) -> Result<(), String> {
        let deadline = Instant::now() + PATIENCE;
        for of in of {
            let SchemaId::Number(number) = *of else { continue };
            let others = match self.client.versions(number, deadline) {
                Ok(others) => others,
                // The registry no longer has the schema, a subject of it, or one of the versions.
                Err(FetchError::Unknown(_)) => continue,
                Err(FetchError::Unusable(why)) => return Err(why),
                Err(FetchError::Outage(trouble)) => return Err(trouble.to_string()),
            };
            for id in others.into_iter().map(SchemaId::Number).filter(|id| id != of) {
                let wanted = || matches!(schema::Schemas::find(self, id), Found::Wanted).then_some(id);
                await_until(deadline, Some(self), wanted)?;
                if let Found::Schema(schema) = schema::Schemas::find(self, id) {
                    visit(*of, id, &schema);
                }
            }
        }
        Ok(())
    }

    pub fn trouble(&self) -> Option<Trouble> {
        lock(&self.state).trouble.clone()
    }

    fn answer(&self, id: SchemaId, entry: Entry) {
        let mut state = lock(&self.state);
        if matches!(entry, Entry::Unknown(..)) {
            if state.unknown >= UNKNOWN_KEPT {
                state.entries.retain(|_, entry| !matches!(entry, Entry::Unknown(..)));
                state.unknown = 0;
            }
            state.unknown += 1;
        }
        state.entries.insert(id, entry);
        if state.trouble.take().is_some() {
            let seconds = state.trouble_since.take().map(|since| since.elapsed().as_secs());
            info!(pipeline = &*self.pipeline, seconds, "the schema registry answers again");
        }
    }

    fn in_trouble(&self, trouble: Trouble, attempts: u32) {
        if attempts.is_power_of_two() {
            warn!(pipeline = &*self.pipeline, why = %trouble, attempts, "records wait for their schemas; nothing is lost");
        }
        let mut state = lock(&self.state);
        state.trouble = Some(trouble);
        state.trouble_since.get_or_insert_with(Instant::now);
    }
}

impl schema::Schemas for CachedSchemas {
    fn find(&self, id: SchemaId) -> Found {
        let mut state = lock(&self.state);
        match state.entries.get(&id) {
            Some(Entry::Here(schema)) => return Found::Schema(Arc::clone(schema)),
            Some(Entry::Unusable(fault)) => return Found::Fault(fault.clone()),
            Some(Entry::Unknown(fault, at)) if at.elapsed() < UNKNOWN_FOR => return Found::Fault(fault.clone()),
            Some(Entry::Asked) => return Found::Wanted,
            Some(Entry::Unknown(..)) => state.unknown -= 1,
            None => {}
        }
        state.entries.insert(id, Entry::Asked);
        drop(state);
        // The thread lives as long as `self`. If it were gone, the record would wait, and the watchdog would report that.
        let _gone = lock(&self.requests).send(id);
        Found::Wanted
    }

    fn forgot(&self, id: SchemaId) -> bool {
        match lock(&self.state).entries.get(&id) {
            Some(Entry::Unknown(_, at)) => at.elapsed() >= UNKNOWN_FOR,
            Some(Entry::Unusable(_)) => false,
            Some(Entry::Asked | Entry::Here(_)) | None => true,
        }
    }
}

struct Worker {
    client: Arc<Client>,
    pipeline: Box<str>,
    schemas: Weak<CachedSchemas>,
    /// The end of [`TRUSTED_FOR`]. Until then, one answer is enough to find that an id is unknown; later, two are needed.
    trusted_until: Option<Instant>,
}

impl Worker {
    fn run(mut self, asked: &Receiver<SchemaId>) {
        while let Ok(id) = asked.recv() {
            let mut backoff = Backoff::new();
            let entry = loop {
                match self.ask(id) {
                    Ok(entry) => break entry,
                    Err(trouble) => {
                        let Some(schemas) = self.schemas.upgrade() else { return };
                        let wait = backoff.next(fastrand::f64());
                        schemas.in_trouble(trouble, backoff.attempts());
                        drop(schemas);
                        thread::sleep(wait);
                    }
                }
            };
            let Some(schemas) = self.schemas.upgrade() else { return };
            schemas.answer(id, entry);
        }
    }

    /// Requests a schema. If the registry doesn't know it, waits for [`SECOND_REQUEST_AFTER`] and requests it once more, unless
    /// `trusted_until` is in the future.
    fn ask(&mut self, id: SchemaId) -> Result<Entry, Trouble> {
        let document = match self.client.schema(id) {
            Err(FetchError::Unknown(_)) if self.trusted_until.is_none_or(|until| until <= Instant::now()) => {
                thread::sleep(SECOND_REQUEST_AFTER);
                self.client.schema(id)
            }
            other => other,
        };
        let pipeline = &*self.pipeline;
        let unusable = |why: String| {
            let detail = format!("its schema {id} can't be used: {why}");
            warn!(pipeline, %id, why, "a schema of the registry can't be used: its records are dead letters");
            Entry::Unusable(DecodeError::new(Reason::UnknownSchema, detail))
        };
        match document {
            Ok(document) => match schema::of_text(document.kind.as_deref(), &document.schema, &document.uses) {
                Ok(schema) => {
                    info!(pipeline, %id, kind = schema.kind(), "read a schema from the registry");
                    Ok(Entry::Here(Arc::new(schema)))
                }
                Err(why) => Ok(unusable(why)),
            },
            Err(FetchError::Outage(trouble)) => Err(trouble),
            Err(FetchError::Unusable(why)) => Ok(unusable(why)),
            Err(FetchError::Unknown(why)) => {
                self.trusted_until = Some(Instant::now() + TRUSTED_FOR);
                let detail = format!("its schema {id} is not in the registry: {why}");
                Ok(Entry::Unknown(DecodeError::new(Reason::UnknownSchema, detail), Instant::now()))
            }
        }
    }
}
