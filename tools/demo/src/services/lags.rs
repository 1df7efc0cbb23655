//! Compares each service's progress in the ledger with the log end offsets in Kafka.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use sqlx::postgres::PgRow;
use sqlx::{Connection, PgConnection, Row};

use super::SERVICES;
use crate::numbers::grouped;
use crate::raw::Sheet;
use crate::screen::bar;
use crate::stage::Stage;

/// The lag at which a bar is full, in records.
const FULL_BAR: f64 = 200_000.0;

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

    /// Discards the earlier measurements and events, and counts the time from now on.
    pub(super) fn begin(&mut self) {
        self.began = Instant::now();
        self.looks.clear();
        self.events.clear();
    }

    pub(super) fn event(&mut self, kind: &'static str, event: &str) {
        self.events.push((self.began.elapsed().as_secs_f64(), kind, event.to_owned()));
    }

    /// Returns a text that names the owner of each partition, from the ledger.
    pub(super) async fn board(&mut self) -> Result<String> {
        let sql = "SELECT pipeline, owner, string_agg(partition::text, ' ' ORDER BY partition) FROM tidegate.ledger
            WHERE owner IS NOT NULL GROUP BY pipeline, owner ORDER BY pipeline, min(partition)";
        let rows = sqlx::query(sql).fetch_all(self.connected().await?).await?;
        let read = |row: &PgRow| -> Result<_> { Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)) };
        Ok(told(&rows.iter().map(read).collect::<Result<Vec<_>>>()?))
    }

    pub(super) fn sent(&self) -> i64 {
        self.last().sent
    }

    /// Returns how many records each of [`SERVICES`] has processed, from the ledger.
    pub(super) fn written(&self) -> [i64; 3] {
        self.last().written
    }

    /// Returns the time from [`Self::begin`] until every service had written rows; `None` if a service hasn't written any yet.
    pub(super) fn first_seen(&self) -> Option<Duration> {
        self.looks.iter().find(|look| look.written.iter().all(|written| *written > 0)).map(|look| look.at)
    }

    /// Returns whether no service has a lag: all of them have written everything that was sent. False if nothing was sent yet.
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

    pub(super) fn line(&self) -> String {
        let last = self.last();
        let lags = SERVICES.iter().zip(last.written).map(|(service, written)| {
            let lag = (last.sent - written).max(0) as f64;
            format!("{service} {} {:>7} behind", bar(lag, FULL_BAR), grouped(lag))
        });
        format!("sent {:>9}  {}", grouped(last.sent as f64), lags.collect::<Vec<_>>().join("  "))
    }

    /// Returns the highest lag of a service since [`Self::begin`], in records.
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

/// Describes which owner reads which partitions of each service. Instances have long random names. The text shows them as letters
/// A, B and so on, in the order in which they first occur. The owner `NAME/cN` is a consumer of the instance `NAME`.
fn told(board: &[(String, String, String)]) -> String {
    let (mut met, mut services): (Vec<&str>, Vec<(&str, Vec<String>)>) = Default::default();
    for (service, owner, partitions) in board {
        let (instance, consumer) = owner.rsplit_once("/c").unwrap_or((owner, "?"));
        let number = met.iter().position(|other| *other == instance).unwrap_or_else(|| {
            met.push(instance);
            met.len() - 1
        });
        let letter = u8::try_from(number).ok().and_then(|number| b'A'.checked_add(number)).map_or('?', char::from);
        let reads = format!("{letter}{consumer} has {partitions}");
        match services.last_mut() {
            Some((last, all)) if last == service => all.push(reads),
            _ => services.push((service, vec![reads])),
        }
    }
    let services: Vec<String> =
        services.into_iter().map(|(name, reads)| format!("{name}: {}", reads.join(" · "))).collect();
    let (instances, plural) = (met.len(), if met.len() == 1 { "" } else { "s" });
    format!("{instances} instance{plural} read; consumer and its partitions: {}", services.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_become_letters_in_the_order_in_which_they_are_met() {
        let row = |service: &str, owner: &str, partitions: &str| (service.into(), owner.into(), partitions.into());
        let board =
            [row("fare", "host-1-x/c0", "0 2"), row("fare", "host-2-y/c1", "1"), row("rides", "host-2-y/c0", "0")];
        let words = "2 instances read; consumer and its partitions: fare: A0 has 0 2 · B1 has 1; rides: B0 has 0";
        assert_eq!(told(&board), words);
        assert_eq!(told(&board[..1]), "1 instance read; consumer and its partitions: fare: A0 has 0 2");
    }
}
