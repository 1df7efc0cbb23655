//! The writer process of the arrangements without Kafka (`demo writer`): reads JSON from a pipe, writes rows into Postgres, and
//! writes answers.
//!
//! The input consists of frames: index, length and JSON of a record. An answer consists of one byte and the index. All numbers
//! are little-endian. A write whose outcome is unknown is retried, so its rows may be in the table twice.

use std::collections::VecDeque;
use std::io::{BufReader, BufWriter, Read, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use sqlx::{Connection, PgConnection};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::rows::Row;
use crate::ways::{self, Way};

pub(crate) const ANSWER_BYTES: usize = 5;
pub(crate) const ACKED: u8 = b'a';
pub(crate) const FREED: u8 = b'f';
pub(crate) const BOTH: u8 = b'b';
const FAILED: u8 = b'x';

const RETRY: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arrangement {
    /// Each record is written by one INSERT, and acknowledged when the INSERT is committed.
    Insert,
    /// One INSERT writes all waiting records, up to `rows`. They are acknowledged when it is committed.
    MultiRow,
    /// Records are acknowledged when they are in memory, and written by COPY later.
    Buffer,
}

/// The arguments of a writer.
#[derive(Clone, Debug, Args)]
pub(crate) struct WriterArguments {
    #[arg(long, value_enum)]
    pub(crate) arrangement: Arrangement,
    /// The number of connections.
    #[arg(long)]
    pub(crate) clients: usize,
    /// The highest number of rows per transaction.
    #[arg(long)]
    pub(crate) rows: usize,
    /// How old a batch may become before it is written, in milliseconds.
    #[arg(long)]
    pub(crate) max_age_ms: u64,
    #[arg(long)]
    pub(crate) url: String,
}

impl WriterArguments {
    pub(crate) fn to_args(&self) -> Vec<String> {
        let arrangement = match self.arrangement {
            Arrangement::Insert => "insert",
            Arrangement::MultiRow => "multi-row",
            Arrangement::Buffer => "buffer",
        };
        [
            ("arrangement", arrangement.to_owned()),
            ("clients", self.clients.to_string()),
            ("rows", self.rows.to_string()),
            ("max-age-ms", self.max_age_ms.to_string()),
            ("url", self.url.clone()),
        ]
        .map(|(name, value)| format!("--{name}={value}"))
        .into()
    }
}

#[derive(Debug, Default)]
struct Queue {
    records: Mutex<VecDeque<(u32, Row)>>,
    more: Notify,
}

/// Runs until the input ends, and then exits at once. The records in memory are lost.
pub(crate) async fn run(arguments: WriterArguments) -> Result<()> {
    let queue = Arc::new(Queue::default());
    let (answers, outgoing) = channel();
    let printer = std::thread::spawn(move || print(&outgoing));
    let mut clients = JoinSet::new();
    for _ in 0..arguments.clients {
        clients.spawn(client(arguments.clone(), Arc::clone(&queue), answers.clone()));
    }
    let reader = tokio::task::spawn_blocking(move || read(arguments.arrangement, &queue, &answers));
    tokio::select! {
        ended = reader => ended.context("the reader panicked")??,
        Some(ended) = clients.join_next() => ended.context("a client panicked")??,
    }
    clients.abort_all();
    drop(printer);
    Ok(())
}

fn read(arrangement: Arrangement, queue: &Queue, answers: &Sender<(u8, u32)>) -> Result<()> {
    let mut input = BufReader::with_capacity(256 << 10, std::io::stdin().lock());
    let mut head = [0; 8];
    let mut json = Vec::new();
    while input.read_exact(&mut head).is_ok() {
        let [a, b, c, d, e, f, g, h] = head;
        let (index, length) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        json.resize(length as usize, 0);
        input.read_exact(&mut json)?;
        let Ok(row) = Row::decode(&json) else {
            answers.send((FAILED, index))?;
            continue;
        };
        queue.records.lock().unwrap_or_else(PoisonError::into_inner).push_back((index, row));
        if arrangement == Arrangement::Buffer {
            answers.send((ACKED, index))?;
        }
        queue.more.notify_one();
    }
    Ok(())
}

fn print(outgoing: &Receiver<(u8, u32)>) {
    let mut output = BufWriter::with_capacity(64 << 10, std::io::stdout().lock());
    while let Ok(first) = outgoing.recv() {
        for (word, index) in std::iter::once(first).chain(outgoing.try_iter()) {
            let [a, b, c, d] = index.to_le_bytes();
            if output.write_all(&[word, a, b, c, d]).is_err() {
                return;
            }
        }
        if output.flush().is_err() {
            return;
        }
    }
}

async fn client(arguments: WriterArguments, queue: Arc<Queue>, answers: Sender<(u8, u32)>) -> Result<()> {
    let (way, word) = match arguments.arrangement {
        Arrangement::Insert => (Way::Insert, BOTH),
        Arrangement::MultiRow => (Way::Unnest, BOTH),
        Arrangement::Buffer => (Way::CopyBinary, FREED),
    };
    let statement = ways::statement(way, 1);
    let mut connection = None;
    loop {
        let batch = queue.take(arguments.rows, Duration::from_millis(arguments.max_age_ms)).await;
        let rows: Vec<&Row> = batch.iter().map(|(_, row)| row).collect();
        while let Err(_gone) = write(way, &statement, &rows, &arguments.url, &mut connection).await {
            connection = None;
            tokio::time::sleep(RETRY).await;
        }
        for (index, _) in &batch {
            answers.send((word, *index))?;
        }
    }
}

async fn write(
    way: Way,
    statement: &str,
    rows: &[&Row],
    url: &str,
    connection: &mut Option<PgConnection>,
) -> Result<()> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(PgConnection::connect(url).await?),
    };
    ways::write(way, statement, rows, connection).await
}

impl Queue {
    /// Waits for a record, and then takes records until `max_age` has passed or `most` records are taken.
    async fn take(&self, most: usize, max_age: Duration) -> Vec<(u32, Row)> {
        let mut batch = self.pop(most);
        while batch.is_empty() {
            self.more.notified().await;
            batch = self.pop(most);
        }
        let full = tokio::time::Instant::now() + max_age;
        while batch.len() < most {
            if tokio::time::timeout_at(full, self.more.notified()).await.is_err() {
                break;
            }
            batch.append(&mut self.pop(most - batch.len()));
        }
        // Records are left, so wake another client, which may be asleep.
        if self.has_more() {
            self.more.notify_one();
        }
        batch
    }

    fn pop(&self, most: usize) -> Vec<(u32, Row)> {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let count = records.len().min(most);
        records.drain(..count).collect()
    }

    fn has_more(&self) -> bool {
        !self.records.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}
