//! How far each service is, by the ledger, against the log's end, by Kafka.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use sqlx::{Connection, PgConnection, Row};

use super::SERVICES;
use crate::numbers::grouped;
use crate::raw::Sheet;
use crate::screen::bar;
use crate::stage::Stage;

/// A lag whose bar is full.
const FULL_BAR: f64 = 200_000.0;

/// One look.
#[derive(Clone, Copy, Debug, Default)]
struct Look {
    at: Duration,
    sent: i64,
    written: [i64; 3],
}

#[derive(Debug)]
pub(super) struct Lags {
    topic: &'static str,
    url: String,
    connection: Option<PgConnection>,
    began: Instant,
    looks: Vec<Look>,
    events: Vec<(f64, String)>,
}

impl Lags {
    pub(super) fn new(topic: &'static str, url: &str) -> Self {
        let (looks, events) = Default::default();
        Self { topic, url: url.to_owned(), connection: None, began: Instant::now(), looks, events }
    }

    /// What comes from now on is the story.
    pub(super) fn begin(&mut self) {
        self.began = Instant::now();
        self.looks.clear();
        self.events.clear();
    }

    pub(super) fn event(&mut self, event: &str) {
        self.events.push((self.began.elapsed().as_secs_f64(), event.to_owned()));
    }

    pub(super) fn sent(&self) -> i64 {
        self.last().sent
    }

    /// Records that each service has got past, by the ledger.
    pub(super) fn written(&self) -> [i64; 3] {
        self.last().written
    }

    /// Whether everything that was sent is written by all.
    pub(super) fn are_gone(&self) -> bool {
        let last = self.last();
        last.sent > 0 && last.written.iter().all(|written| *written >= last.sent)
    }

    pub(super) async fn look(&mut self, stage: &Stage) -> Result<()> {
        let sent = stage.kafka.end_offsets(self.topic)?.iter().sum();
        let written = self.ledger().await.unwrap_or_else(|_| {
            self.connection = None;
            self.last().written
        });
        self.looks.push(Look { at: self.began.elapsed(), sent, written });
        Ok(())
    }

    async fn ledger(&mut self) -> Result<[i64; 3]> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.connection.insert(PgConnection::connect(&self.url).await?),
        };
        let sql = "SELECT pipeline, sum(next_offset)::int8 FROM tidegate.ledger GROUP BY pipeline";
        let mut written = [0; 3];
        for row in sqlx::query(sql).fetch_all(connection).await? {
            let name: String = row.try_get(0)?;
            if let Some(at) = SERVICES.iter().position(|service| *service == name) {
                written[at] = row.try_get(1)?;
            }
        }
        Ok(written)
    }

    fn last(&self) -> Look {
        self.looks.last().copied().unwrap_or_default()
    }

    /// How it is at the moment, for people.
    pub(super) fn line(&self) -> String {
        let last = self.last();
        let lags = SERVICES.iter().zip(last.written).map(|(service, written)| {
            let lag = (last.sent - written).max(0) as f64;
            format!("{service} {} {:>7} behind", bar(lag, FULL_BAR), grouped(lag))
        });
        format!("sent {:>9}  {}", grouped(last.sent as f64), lags.collect::<Vec<_>>().join("  "))
    }

    /// The largest lag of a service, in records.
    pub(super) fn largest(&self, service: usize) -> i64 {
        self.looks.iter().map(|look| look.sent - look.written[service]).max().unwrap_or(0)
    }

    pub(super) fn save(&self, folder: &Path) -> Result<()> {
        let mut series = Sheet::new(&["second", "service", "sent", "written", "lag"]);
        for look in &self.looks {
            for (service, written) in SERVICES.iter().zip(look.written) {
                let lag = (look.sent - written).max(0);
                series.push(&[&look.at.as_secs_f64(), service, &look.sent, &written, &lag]);
            }
        }
        series.save(&folder.join("services-series.csv"))?;
        let mut events = Sheet::new(&["second", "event"]);
        for (second, event) in &self.events {
            events.push(&[second, event]);
        }
        events.save(&folder.join("services-events.csv"))
    }
}
