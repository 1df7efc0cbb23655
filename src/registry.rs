//! Schemas by their numbers, from a registry that speaks Confluent's REST interface.
//!
//! A poll thread asks `Schemas::find` and never waits for it: what isn't here is asked for by a thread of this room's own, and
//! the record waits at the poll thread meanwhile. A registry that is down, refuses us or is in trouble is an outage: it is asked
//! again and again, and nothing is set aside. Only its own word that it has no such schema makes that the record's fault.
//!
//! A schema never changes under its number, so what was read is kept for as long as the process lives.

mod client;
mod parse;

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::config::SchemaRegistry;
use crate::decode::DecodeFault;
use crate::decode::avro::AvroSchema;
use crate::decode::protobuf::ProtoFile;
use crate::mapping::Encoder;
use crate::status::lock;
use crate::value::Reason;
use client::{Client, FetchError};
pub(crate) use parse::{avro_file, proto_file};
use tidegate_protocol::retry::Backoff;

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

/// Waits until a record's schema is here. Blocks; for commands, never for a poll thread.
///
/// # Errors
/// After [`PATIENCE`], with the registry's trouble.
pub fn await_schema(encoder: &mut Encoder, schemas: Option<&Arc<Schemas>>, value: Option<&[u8]>) -> Result<(), String> {
    let asked_at = Instant::now();
    while let Some(id) = encoder.wants(value) {
        if asked_at.elapsed() > PATIENCE {
            let trouble = schemas.and_then(|schemas| schemas.trouble());
            return Err(trouble.unwrap_or_else(|| format!("schema {id} has not come from the registry")));
        }
        thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// A schema, ready to be planned with.
#[derive(Debug)]
pub struct Schema(pub(crate) Parsed);

/// What a schema's text says.
#[derive(Debug)]
pub(crate) enum Parsed {
    /// Avro's.
    Avro(AvroSchema),
    /// Protobuf's.
    Protobuf(ProtoFile),
    /// Of a type that we don't read by its schema.
    Other(String),
}

impl Schema {
    /// The registry's name of the type.
    fn kind(&self) -> &str {
        match &self.0 {
            Parsed::Avro(_) => "AVRO",
            Parsed::Protobuf(_) => "PROTOBUF",
            Parsed::Other(kind) => kind,
        }
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
#[derive(Debug)]
pub(crate) enum Found {
    /// It is here.
    Schema(Arc<Schema>),
    /// It will not come: the record is at fault.
    Fault(DecodeFault),
    /// It has been asked for.
    Wanted,
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
    trouble: Option<String>,
}

/// The schemas of one registry, for the pipelines' threads.
#[derive(Debug)]
pub struct Schemas {
    /// Held for moments: by poll threads once a new number, and by the thread that asks.
    state: Mutex<State>,
    requests: Mutex<Sender<u32>>,
}

impl Schemas {
    /// Starts the thread that asks. It ends when this is dropped.
    ///
    /// # Errors
    /// Where the registry's certificates can't be read, or no thread can be had.
    pub fn start(config: &SchemaRegistry) -> Result<Arc<Self>, String> {
        let client = Client::new(config)?;
        let (requests, asked) = channel();
        let this = Arc::new(Self { state: Mutex::default(), requests: Mutex::new(requests) });
        let worker = Worker { client, schemas: Arc::downgrade(&this), trusted_until: None };
        let thread = thread::Builder::new().name("schema-registry".to_owned()).spawn(move || worker.run(&asked));
        thread.map_err(|error| format!("no thread for the schema registry: {error}"))?;
        Ok(this)
    }

    /// What is known of a number; asks for it where nothing is. Doesn't wait.
    pub(crate) fn find(&self, id: u32) -> Found {
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

    /// Whether a number that wasn't known may be by now.
    pub(crate) fn forgot(&self, id: u32) -> bool {
        match lock(&self.state).entries.get(&id) {
            Some(Entry::Unknown(_, at)) => at.elapsed() >= UNKNOWN_FOR,
            Some(Entry::Unusable(_)) => false,
            Some(Entry::Asked | Entry::Here(_)) | None => true,
        }
    }

    /// Why the registry gives no answer, while it gives none.
    pub fn trouble(&self) -> Option<String> {
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
            info!("the schema registry answers again");
        }
    }

    fn in_trouble(&self, why: String, attempts: u32) {
        if attempts.is_power_of_two() {
            warn!(why, attempts, "records wait for their schemas; nothing is lost");
        }
        lock(&self.state).trouble = Some(why);
    }
}

/// The thread that asks.
struct Worker {
    client: Client,
    schemas: Weak<Schemas>,
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
                    Err(why) => {
                        let Some(schemas) = self.schemas.upgrade() else { return };
                        let wait = backoff.next(fastrand::f64());
                        schemas.in_trouble(why, backoff.attempts());
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
    fn ask(&mut self, id: u32) -> Result<Entry, String> {
        let document = match self.client.schema(id) {
            Err(FetchError::Unknown(_)) if self.trusted_until.is_none_or(|until| until <= Instant::now()) => {
                thread::sleep(SECOND_QUESTION);
                self.client.schema(id)
            }
            other => other,
        };
        let unusable = |why: String| {
            let detail = format!("its schema {id} can't be used: {why}");
            warn!(id, why, "a schema of the registry can't be used: its records are dead letters");
            Entry::Unusable(DecodeFault::new(Reason::UnknownSchema, detail))
        };
        match document {
            Ok(document) => match parse::schema(&document) {
                Ok(schema) => {
                    info!(id, kind = schema.kind(), "read a schema from the registry");
                    Ok(Entry::Here(Arc::new(schema)))
                }
                Err(why) => Ok(unusable(why)),
            },
            Err(FetchError::Outage(why)) => Err(why),
            Err(FetchError::Unusable(why)) => Ok(unusable(why)),
            Err(FetchError::Unknown(why)) => {
                self.trusted_until = Some(Instant::now() + TRUSTED_FOR);
                let detail = format!("its schema {id} is not in the registry: {why}");
                Ok(Entry::Unknown(DecodeFault::new(Reason::UnknownSchema, detail), Instant::now()))
            }
        }
    }
}
