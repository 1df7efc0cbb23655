//! Schemas by their numbers, from a registry that speaks Confluent's REST interface.
//!
//! A poll thread asks `CachedSchemas::find` and never waits for it: what isn't here is asked for by a thread of this room's own, and
//! the record waits at the poll thread meanwhile. A registry that is down, refuses us or is in trouble is an outage: it is asked
//! again and again, and nothing is set aside. Only its own word that it has no such schema makes that the record's fault.
//!
//! A schema never changes under its number, so what was read is kept for as long as the process lives.

mod client;

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use client::{Client, FetchError};
use tidegate_protocol::retry::Backoff;
use tidegate_rows::schema::{self, Found, Schema};
use tidegate_rows::value::{DecodeFault, Reason};
use tracing::{info, warn};

use crate::config::SchemaRegistry;
use crate::status::{Trouble, lock};

/// A follower of the registry's cluster may not know a number yet that its leader gave away a moment ago: it is asked a second
/// time after so long.
const SECOND_QUESTION: Duration = Duration::from_secs(1);
/// Once it said no twice, other numbers are believed to be unknown at its first word for so long.
const TRUSTED_FOR: Duration = Duration::from_secs(10);
/// A number that it didn't know is asked for again after so long.
const UNKNOWN_FOR: Duration = Duration::from_secs(30);
/// Numbers that it didn't know: more aren't remembered, whatever the topic holds.
const UNKNOWN_KEPT: usize = 4096;

/// How long a command waits for a schema.
pub const PATIENCE: Duration = Duration::from_secs(15);
/// How long between two looks whether it is here.
pub const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Waits until a record's schema is here. `wants` returns the number of the schema that the record still needs. Blocks; for
/// commands, never for a poll thread.
///
/// # Errors
/// After [`PATIENCE`], with the registry's trouble.
pub fn await_schema(schemas: Option<&CachedSchemas>, mut wants: impl FnMut() -> Option<u32>) -> Result<(), String> {
    let asked_at = Instant::now();
    while let Some(id) = wants() {
        if asked_at.elapsed() > PATIENCE {
            let trouble = schemas.and_then(CachedSchemas::trouble);
            let late = || format!("schema {id} has not come from the registry");
            return Err(trouble.map_or_else(late, |trouble| trouble.to_string()));
        }
        thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

#[derive(Debug)]
enum Entry {
    Asked,
    Here(Arc<Schema>),
    /// The registry has it, and it can't be used: asking again would change nothing.
    Unusable(DecodeFault),
    /// The registry doesn't have it, as of this time.
    Unknown(DecodeFault, Instant),
}

#[derive(Debug, Default)]
struct State {
    entries: HashMap<u32, Entry>,
    unknown: usize,
    /// Why the registry gives no answer, while it gives none.
    trouble: Option<Trouble>,
    /// Since when.
    trouble_since: Option<Instant>,
}

/// The schemas of one registry, for the pipelines' threads.
#[derive(Debug)]
pub struct CachedSchemas {
    pipeline: Box<str>,
    /// Held for moments: by poll threads once a new number, and by the thread that asks.
    state: Mutex<State>,
    requests: Mutex<Sender<u32>>,
}

impl CachedSchemas {
    /// Starts the thread that asks. It ends when this is dropped.
    ///
    /// # Errors
    /// Where the registry's certificates can't be read, or no thread can be had.
    pub fn start(config: &SchemaRegistry, pipeline: &str) -> Result<Arc<Self>, String> {
        let client = Client::new(config)?;
        let (requests, asked) = channel();
        let this =
            Arc::new(Self { pipeline: pipeline.into(), state: Mutex::default(), requests: Mutex::new(requests) });
        let worker = Worker { client, pipeline: pipeline.into(), schemas: Arc::downgrade(&this), trusted_until: None };
        let thread = thread::Builder::new().name("schema-registry".to_owned()).spawn(move || worker.run(&asked));
        thread.map_err(|error| format!("no thread for the schema registry: {error}"))?;
        Ok(this)
    }

    /// Why the registry gives no answer, while it gives none.
    pub fn trouble(&self) -> Option<Trouble> {
        lock(&self.state).trouble.clone()
    }

    fn answer(&self, id: u32, entry: Entry) {
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
    fn find(&self, id: u32) -> Found {
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
        // The thread lives as long as this does; were it gone, the record would wait, and the watchdog says so.
        let _gone = lock(&self.requests).send(id);
        Found::Wanted
    }

    fn forgot(&self, id: u32) -> bool {
        match lock(&self.state).entries.get(&id) {
            Some(Entry::Unknown(_, at)) => at.elapsed() >= UNKNOWN_FOR,
            Some(Entry::Unusable(_)) => false,
            Some(Entry::Asked | Entry::Here(_)) | None => true,
        }
    }
}

/// The thread that asks.
struct Worker {
    client: Client,
    pipeline: Box<str>,
    schemas: Weak<CachedSchemas>,
    /// Until when the registry's first word on an unknown number is believed.
    trusted_until: Option<Instant>,
}

impl Worker {
    fn run(mut self, asked: &Receiver<u32>) {
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

    /// One number, with its references.
    fn ask(&mut self, id: u32) -> Result<Entry, Trouble> {
        let document = match self.client.schema(id) {
            Err(FetchError::Unknown(_)) if self.trusted_until.is_none_or(|until| until <= Instant::now()) => {
                thread::sleep(SECOND_QUESTION);
                self.client.schema(id)
            }
            other => other,
        };
        let pipeline = &*self.pipeline;
        let unusable = |why: String| {
            let detail = format!("its schema {id} can't be used: {why}");
            warn!(pipeline, id, why, "a schema of the registry can't be used: its records are dead letters");
            Entry::Unusable(DecodeFault::new(Reason::UnknownSchema, detail))
        };
        match document {
            Ok(document) => match schema::of_text(document.kind.as_deref(), &document.schema, &document.uses) {
                Ok(schema) => {
                    info!(pipeline, id, kind = schema.kind(), "read a schema from the registry");
                    Ok(Entry::Here(Arc::new(schema)))
                }
                Err(why) => Ok(unusable(why)),
            },
            Err(FetchError::Outage(trouble)) => Err(trouble),
            Err(FetchError::Unusable(why)) => Ok(unusable(why)),
            Err(FetchError::Unknown(why)) => {
                self.trusted_until = Some(Instant::now() + TRUSTED_FOR);
                let detail = format!("its schema {id} is not in the registry: {why}");
                Ok(Entry::Unknown(DecodeFault::new(Reason::UnknownSchema, detail), Instant::now()))
            }
        }
    }
}
