//! The hand-written SQL with which the daemon is compared, and the encoding of the batches that this SQL writes.

use std::time::Instant;

use anyhow::{Result, ensure};
use sqlx::{Executor, PgConnection};

use crate::stage::{Mode, Reading};

/// The header of binary COPY data, and below it the trailer.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: [u8; 2] = [0xff, 0xff];
const CHUNK: usize = 256 * 1024;

pub(crate) fn encode(readings: &[Reading]) -> Vec<u8> {
    let mut rows = HEADER.to_vec();
    for Reading { id, ts, n, note } in readings {
        rows.extend_from_slice(&4_i16.to_be_bytes());
        for number in [*id, *ts, *n] {
            rows.extend_from_slice(&8_i32.to_be_bytes());
            rows.extend_from_slice(&number.to_be_bytes());
        }
        rows.extend_from_slice(&i32::try_from(note.len()).unwrap_or(0).to_be_bytes());
        rows.extend_from_slice(note.as_bytes());
    }
    rows.extend_from_slice(&TRAILER);
    rows
}

const STAGE: &str = "CREATE TEMP TABLE s (id int8, ts int8, n int8, note text, nr int8 GENERATED ALWAYS AS IDENTITY) ON COMMIT DELETE ROWS";

fn merge(mode: Mode) -> &'static str {
    match mode {
        Mode::Append => "",
        Mode::Upsert => {
            "INSERT INTO t (id, ts, n, note) SELECT DISTINCT ON (id) id, ts, n, note FROM s ORDER BY id, ts DESC, nr DESC \
             ON CONFLICT (id) DO UPDATE SET ts = EXCLUDED.ts, n = EXCLUDED.n, note = EXCLUDED.note WHERE EXCLUDED.ts >= t.ts"
        }
        Mode::Aggregate => {
            "INSERT INTO t (id, records, total, last_ts) SELECT id, count(*), sum(n), max(ts) FROM s GROUP BY id ORDER BY id \
             ON CONFLICT (id) DO UPDATE SET records = t.records + EXCLUDED.records, total = t.total + EXCLUDED.total, \
             last_ts = greatest(t.last_ts, EXCLUDED.last_ts)"
        }
    }
}

/// Writes these batches on one connection. Returns the time of each commit.
pub(crate) async fn write(mode: Mode, connection: &mut PgConnection, batches: &[&[u8]]) -> Result<Vec<Instant>> {
    let copy = if mode == Mode::Append {
        "COPY t (id, ts, n, note) FROM STDIN (FORMAT binary)"
    } else {
        connection.execute(STAGE).await?;
        "COPY s (id, ts, n, note) FROM STDIN (FORMAT binary)"
    };
    let mut committed = Vec::new();
    for batch in batches {
        connection.execute("BEGIN").await?;
        let mut sink = connection.copy_in_raw(copy).await?;
        for chunk in batch.chunks(CHUNK) {
            sink.send(chunk).await?;
        }
        ensure!(sink.finish().await? > 0, "a batch without rows");
        if mode != Mode::Append {
            connection.execute(merge(mode)).await?;
        }
        connection.execute("COMMIT").await?;
        committed.push(Instant::now());
    }
    Ok(committed)
}
