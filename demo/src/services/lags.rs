//! How far each service is, by the ledger, against the log's end, by Kafka.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
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
    events: Vec<(f64, &'static str, String)>,
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

    pub(super) fn event(&mut self, kind: &'static str, event: &str) {
        self.events.push((self.began.elapsed().as_secs_f64(), kind, event.to_owned()));
    }

    /// Who reads which partition, by the ledger, which names the owners.
    pub(super) async fn board(&mut self) -> Result<String> {
        let sql =
            "SELECT pipeline, string_agg(partition || ' by ' || owner, ', ' ORDER BY partition) FROM tidegate.ledger
            GROUP BY pipeline ORDER BY pipeline";
        let rows = sqlx::query(sql).fetch_all(self.connected().await?).await?;
        let boards = rows.iter().map(|row| -> Result<String> {
            let (service, owners): (String, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
            Ok(format!("{service}: {}", owners.unwrap_or_default()))
        });
        let boards: Vec<String> = boards.collect::<Result<_>>()?;
        // Instances have long names of chance; letters in the order in which they are met are enough.
        Ok(format!("who reads which partition: {}", shortened(&boards.join("; "))))
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

    async fn connected(&mut self) -> Result<&mut PgConnection> {
        if self.connection.is_none() {
            self.connection = Some(PgConnection::connect(&self.url).await?);
        }
        self.connection.as_mut().context("there is a connection")
    }

    async fn ledger(&mut self) -> Result<[i64; 3]> {
        let sql = "SELECT pipeline, sum(next_offset)::int8 FROM tidegate.ledger GROUP BY pipeline";
        let rows = sqlx::query(sql).fetch_all(self.connected().await?).await?;
        let mut written = [0; 3];
        for row in rows {
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
        let mut events = Sheet::new(&["second", "kind", "event"]);
        for (second, kind, event) in &self.events {
            events.push(&[second, kind, event]);
        }
        events.save(&folder.join("services-events.csv"))
    }
}

/// Puts A, B, … in the place of the words after `by `.
fn shortened(board: &str) -> String {
    let mut met: Vec<&str> = Vec::new();
    let mut out = String::new();
    for (at, part) in board.split(" by ").enumerate() {
        if at == 0 {
            out += part;
            continue;
        }
        let end = part.find([',', ';']).unwrap_or(part.len());
        let (owner, rest) = part.split_at(end);
        let number = met.iter().position(|other| *other == owner).unwrap_or_else(|| {
            met.push(owner);
            met.len() - 1
        });
        let letter = u8::try_from(number).ok().and_then(|number| b'A'.checked_add(number)).map_or('?', char::from);
        out.push(' ');
        out.push(letter);
        out += rest;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_become_letters_in_the_order_in_which_they_are_met() {
        let board = "fare: 0 by host-1-x, 1 by host-2-y; rides: 0 by host-2-y";
        assert_eq!(shortened(board), "fare: 0 A, 1 B; rides: 0 B");
        assert_eq!(shortened(""), "");
    }
}
