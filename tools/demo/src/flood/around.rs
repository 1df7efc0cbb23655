//! Does everything besides sending: stops the database, measures CPU time, and shows the progress.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use tokio::runtime::Handle;

use super::acts::{Acts, NAMES};
use super::driver::{Look, Surroundings};
use super::meter::{KAFKA, Meter, POSTGRES, WRITER};
use crate::numbers::{bytes, grouped};
use crate::screen::{Screen, bar};
use crate::stage::{Reconnecting, Stage};

const WRITTEN: &str = "SELECT coalesce(sum(next_offset), 0)::int8 FROM tidegate.ledger";

pub(super) struct Around<'a> {
    stage: Arc<Stage>,
    screen: &'a Screen,
    pub(super) acts: Acts,
    /// Reads Tidegate's ledger, to find out when all records are written. `None` for the arrangements without a ledger.
    ledger: Option<Reconnecting>,
    meter: Meter,
    events: Arc<Mutex<Vec<(Instant, &'static str)>>>,
    outage: Option<JoinHandle<Result<()>>>,
    last: Look,
}

impl<'a> Around<'a> {
    pub(super) fn new(stage: &Arc<Stage>, screen: &'a Screen, acts: &Acts, has_ledger: bool) -> Result<Self> {
        let mut meter = Meter::default();
        meter.begin(KAFKA, stage.kafka.pid(0)?);
        meter.begin(POSTGRES, stage.postgres_pid().context("Postgres is stopped")?);
        Ok(Self {
            stage: Arc::clone(stage),
            screen,
            acts: *acts,
            ledger: has_ledger.then(|| Reconnecting::new(&stage.database.url)),
            meter,
            events: Arc::default(),
            outage: None,
            last: Look::default(),
        })
    }

    pub(super) fn await_database(&mut self) -> Result<()> {
        self.outage.take().map_or(Ok(()), |outage| outage.join().map_err(|_| anyhow!("the outage panicked"))?)
    }

    /// Returns the CPU seconds of the writer, of the database and of Kafka, in this order.
    pub(super) fn cpu_seconds(&self) -> [f64; 3] {
        [WRITER, POSTGRES, KAFKA].map(|part| self.meter.seconds(part))
    }

    /// Returns the events with their times, in microseconds since `started`.
    pub(super) fn events_since(&self, started: Instant) -> Vec<(u32, String)> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        let micros =
            |at: &Instant| u32::try_from(at.saturating_duration_since(started).as_micros()).unwrap_or(u32::MAX);
        events.iter().map(|(at, event)| (micros(at), (*event).to_owned())).collect()
    }
}

impl Surroundings for Around<'_> {
    fn stop_database(&mut self) -> Result<()> {
        let (stage, events, how_long) = (Arc::clone(&self.stage), Arc::clone(&self.events), self.acts.lengths[2]);
        let told = move |event| events.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), event));
        self.outage = Some(std::thread::spawn(move || stage.stop_database(how_long, told)));
        Ok(())
    }

    fn look(&mut self, look: Look, writer: Option<u32>) {
        self.meter.count(WRITER, writer);
        self.meter.count(POSTGRES, self.stage.postgres_pid());
        self.meter.count(KAFKA, self.stage.kafka.pid(0).ok());
        let seconds = look.at.saturating_sub(self.last.at).as_secs_f64().max(1e-3);
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let (into, acked) = (rate(look.intended, self.last.intended), rate(look.acked, self.last.acked));
        let act = self.acts.at(look.at);
        let refused =
            if look.refused > 0 { format!("  refused {}", grouped(look.refused as f64)) } else { String::new() };
        self.screen.step(&format!(
            "act {} {:<16} due {:>7}/s {}  answered {:>7}/s {}  buffer {:>9}{refused}",
            act + 1,
            if look.at < self.acts.end() { NAMES[act] } else { "settling" },
            grouped(into),
            bar(into, self.acts.rush),
            grouped(acked),
            bar(acked, self.acts.rush),
            bytes(look.buffer_bytes as f64),
        ));
        self.last = look;
    }

    fn settled(&mut self, taken: u64, freed: u64) -> bool {
        let Some(ledger) = &mut self.ledger else { return freed >= taken };
        let written = Handle::current().block_on(tokio::time::timeout(Duration::from_secs(2), ledger.number(WRITTEN)));
        written.ok().flatten().is_some_and(|written| written.unsigned_abs() >= taken)
    }
}
