//! Record accounting: compares every record in Kafka with the table and the dead letters.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures_util::TryStreamExt;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use sqlx::{PgConnection, Row};
use tokio::time::sleep;

use crate::load::{Content, checksum, reading};
use crate::stage::{Stage, TOPIC};

/// How long the daemons may take at the end to write all records. The time is long, because after a restore the daemons write
/// the lost records again.
const DRAIN_DEADLINE: Duration = Duration::from_secs(600);
const POLL: Duration = Duration::from_secs(30);

/// The result of the comparison at the end of a campaign. `produced` counts the records in Kafka, and `rows` the rows of the
/// table. Each record should have exactly one row.
#[derive(Debug, Default)]
pub(crate) struct Accounting {
    pub(crate) produced: u64,
    pub(crate) rows: u64,
    /// Records with a dead letter.
    pub(crate) dead_letters: u64,
    /// Records with neither a row nor a dead letter.
    pub(crate) missing: u64,
    /// Surplus rows and dead letters. For example, a record with two rows and a dead letter counts as 2 here. Several dead
    /// letters of a record count as one.
    pub(crate) twice: u64,
    /// Rows that differ from the content that [`Content::of`] returns for the record's number.
    pub(crate) damaged: u64,
    /// Rows at offsets where Kafka has no record.
    pub(crate) strange: u64,
    /// Records that Kafka acknowledged but doesn't have. Kafka lost them, not the daemon.
    pub(crate) lost_by_kafka: u64,
    /// The first 20 findings, as text.
    pub(crate) findings: Vec<String>,
    /// The time from Kafka's last acknowledgement until all records were written; at most [`DRAIN_DEADLINE`].
    pub(crate) drain: Duration,
}

impl Accounting {
    pub(crate) fn is_exact(&self) -> bool {
        let Self { missing, twice, damaged, strange, dead_letters, produced, rows, .. } = self;
        missing + twice + damaged + strange + dead_letters == 0 && produced == rows && *rows > 0
    }

    fn finding(&mut self, what: String) {
        if self.findings.len() < 20 {
            self.findings.push(what);
        }
    }
}

#[derive(Debug)]
struct Found {
    offset: i64,
    seq: Option<i64>,
    text: Option<String>,
    reading: Option<f64>,
    checksum: Option<i64>,
}

impl Stage {
    /// Stops the producer, and waits until the daemons have written all records, for at most [`DRAIN_DEADLINE`]. Then compares
    /// every record with the table.
    pub(crate) async fn reconcile(&mut self) -> Result<Accounting> {
        let delivered = self.load.end()?;
        if delivered.failed > 0 {
            bail!("Kafka didn't take {} records: {:?}", delivered.failed, delivered.last_error);
        }
        let started = Instant::now();
        let ends = self.kafka.end_offsets(TOPIC)?;
        while !self.is_written(&ends).await {
            self.check_daemons()?;
            if started.elapsed() > DRAIN_DEADLINE {
                self.output.say(format!("  not drained within {DRAIN_DEADLINE:?}\n{}", self.log_tails()));
                break;
            }
            sleep(Duration::from_millis(200)).await;
        }
        let mut accounting = Accounting { drain: started.elapsed(), ..Accounting::default() };
        let mut seen = Seen::default();
        let mut connection = self.connect().await?;
        for (partition, end) in (0..).zip(&ends) {
            self.partition(&mut connection, partition, *end, &mut accounting, &mut seen).await?;
        }
        accounting.lost_by_kafka = (0..i64::try_from(self.load.sent())?)
            .filter(|seq| delivered.holds(*seq) && !seen.holds(*seq))
            .count() as u64;
        if delivered.count != self.load.sent() {
            accounting.finding(format!("{} sent, {} acknowledged", self.load.sent(), delivered.count));
        }
        Ok(accounting)
    }

    async fn is_written(&self, ends: &[i64]) -> bool {
        let ask = async {
            let sql = "SELECT partition, next_offset FROM tidegate.ledger";
            let rows = sqlx::query(sql).fetch_all(&mut self.connect().await?).await?;
            let mut next = vec![0; ends.len()];
            for row in rows {
                let partition = usize::try_from(row.try_get::<i32, _>(0)?)?;
                *next.get_mut(partition).context("a partition that Kafka hasn't got")? = row.try_get::<i64, _>(1)?;
            }
            anyhow::Ok(next)
        };
        ask.await.is_ok_and(|next| next.iter().zip(ends).all(|(next, end)| next >= end))
    }

    /// Compares one partition's log with its rows and dead letters. Reads log and rows side by side, in the order of offsets.
    async fn partition(
        &self,
        connection: &mut PgConnection,
        partition: i32,
        end: i64,
        accounting: &mut Accounting,
        seen: &mut Seen,
    ) -> Result<()> {
        let sql = "SELECT DISTINCT record_offset FROM tidegate.dead_letter WHERE partition = $1";
        let dead = sqlx::query(sql).bind(partition).fetch_all(&mut *connection).await?;
        let dead = dead.iter().map(|row| Ok(row.try_get(0)?)).collect::<Result<BTreeSet<i64>>>()?;
        accounting.dead_letters += dead.len() as u64;
        let sql = "SELECT kafka_offset, seq, text, reading::float8, checksum FROM rides WHERE kafka_partition = $1
            ORDER BY kafka_offset";
        let mut rows = sqlx::query(sql).bind(partition).fetch(connection).map_ok(|row| found(&row));
        let mut row = rows.try_next().await?.transpose()?;
        let log = reader(self.kafka.bootstrap_servers(), partition)?;
        let mut at = 0;
        while at < end {
            let message = log.poll(POLL).with_context(|| format!("partition {partition} ends at {at} of {end}"))??;
            let offset = message.offset();
            at = offset + 1;
            accounting.produced += 1;
            let key = std::str::from_utf8(message.key().context("every record has a key")?)?;
            let content = Content::of(key.parse()?);
            seen.note(content.seq);
            let mut times = u32::from(dead.contains(&offset));
            while let Some(found) = row.take_if(|row| row.offset <= offset) {
                accounting.rows += 1;
                if found.offset < offset {
                    accounting.strange += 1;
                    accounting.finding(format!(
                        "partition {partition}: a row at {}, where Kafka holds nothing",
                        found.offset
                    ));
                } else {
                    times += 1;
                    if !found.is(&content) {
                        accounting.damaged += 1;
                        accounting
                            .finding(format!("partition {partition}, offset {offset}: {found:?} is not {content:?}"));
                    }
                }
                row = rows.try_next().await?.transpose()?;
            }
            if times == 0 {
                accounting.missing += 1;
                accounting.finding(format!("partition {partition}, offset {offset}: missing"));
            } else if times > 1 {
                accounting.twice += u64::from(times - 1);
                accounting.finding(format!("partition {partition}, offset {offset}: there {times} times"));
            }
        }
        while let Some(found) = row {
            accounting.rows += 1;
            accounting.strange += 1;
            accounting.finding(format!("partition {partition}: a row at {}, beyond the log's end", found.offset));
            row = rows.try_next().await?.transpose()?;
        }
        Ok(())
    }
}

fn found(row: &sqlx::postgres::PgRow) -> Result<Found> {
    Ok(Found {
        offset: row.try_get(0)?,
        seq: row.try_get(1)?,
        text: row.try_get(2)?,
        reading: row.try_get(3)?,
        checksum: row.try_get(4)?,
    })
}

impl Found {
    fn is(&self, content: &Content) -> bool {
        let text = self.text.as_deref().unwrap_or_default();
        self.seq == Some(content.seq)
            && text == content.text
            && self.checksum == Some(checksum(content.seq, text))
            && self.reading == Some(reading(content.seq))
    }
}

/// The numbers (`seq`) of the records that were found in Kafka, one bit per number.
#[derive(Debug, Default)]
struct Seen(Vec<u64>);

impl Seen {
    fn place(seq: i64) -> (usize, u64) {
        let seq = seq.unsigned_abs();
        (usize::try_from(seq / 64).unwrap_or(usize::MAX), 1 << (seq % 64))
    }

    fn note(&mut self, seq: i64) {
        let (at, bit) = Self::place(seq);
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        self.0[at] |= bit;
    }

    fn holds(&self, seq: i64) -> bool {
        let (at, bit) = Self::place(seq);
        self.0.get(at).is_some_and(|bits| bits & bit != 0)
    }
}

fn reader(bootstrap_servers: &str, partition: i32) -> Result<BaseConsumer> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap_servers)
        .set("group.id", "the-accounting")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("fetch.queue.backoff.ms", "1")
        .create()?;
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(TOPIC, partition, Offset::Beginning)?;
    consumer.assign(&from)?;
    Ok(consumer)
}
