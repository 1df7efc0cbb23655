//! Writes dead letters, byte for byte.

use sqlx::{PgConnection, Row};
use tidegate_protocol::batch::{Batch, RejectedRecord};

/// The most dead letters per statement. This limits the statement's memory and the size of its parameters.
const LETTERS_MAX: usize = 1000;
/// The most bytes of keys and values per statement. A record that is larger has its own statement.
const BYTES_MAX: usize = 8 << 20;

/// Inserts dead letters. All headers form one flat list. Each header in it has the number of its dead letter. A nested list
/// wouldn't work, because the inner arrays of a Postgres array must have equal lengths.
const INSERT: &str = "
INSERT INTO tidegate.dead_letter (pipeline, topic, partition, record_offset, timestamp_ms, key, value, header_names,
    header_values, reason, sqlstate, column_name, detail)
SELECT $1, d.topic, d.partition, d.record_offset, d.timestamp_ms, d.key, d.value,
    coalesce((SELECT array_agg(h.name ORDER BY h.nth) FROM unnest($13::int4[], $14::bytea[], $15::bytea[])
        WITH ORDINALITY AS h (letter, name, value, nth) WHERE h.letter = d.nth), '{}'),
    coalesce((SELECT array_agg(h.value ORDER BY h.nth) FROM unnest($13::int4[], $14::bytea[], $15::bytea[])
        WITH ORDINALITY AS h (letter, name, value, nth) WHERE h.letter = d.nth), '{}'),
    d.reason, d.sqlstate, d.column_name, d.detail
FROM unnest($2::text[], $3::int4[], $4::int8[], $5::int8[], $6::bytea[], $7::bytea[], $8::text[], $9::text[], $10::text[],
    $11::text[], $12::int4[]) AS d (topic, partition, record_offset, timestamp_ms, key, value, reason, sqlstate,
    column_name, detail, nth)
ORDER BY d.nth";

/// Inserts the dead letters of `rejects`, in this order. Each statement inserts as many as the limits above allow.
pub(super) async fn insert(
    connection: &mut PgConnection,
    pipeline: &str,
    batch: &Batch,
    rejects: &[&RejectedRecord],
) -> Result<(), sqlx::Error> {
    let takes_all_characters = takes_all_characters(connection).await?;
    let mut rest = rejects;
    while !rest.is_empty() {
        let (some, others) = rest.split_at(fitting(batch, rest));
        insert_some(connection, pipeline, batch, some, takes_all_characters).await?;
        rest = others;
    }
    Ok(())
}

fn fitting(batch: &Batch, rejects: &[&RejectedRecord]) -> usize {
    let mut bytes = 0;
    let within = rejects.iter().take(LETTERS_MAX).take_while(|reject| {
        let record = batch.record(reject.record);
        bytes += record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
        bytes <= BYTES_MAX
    });
    within.count().max(1)
}

async fn insert_some(
    connection: &mut PgConnection,
    pipeline: &str,
    batch: &Batch,
    rejects: &[&RejectedRecord],
    takes_all_characters: bool,
) -> Result<(), sqlx::Error> {
    let records: Vec<_> = rejects.iter().map(|reject| batch.record(reject.record)).collect();
    let (mut letters, mut names, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for (nth, record) in (0i32..).zip(&records) {
        for (name, value) in record.headers.iter() {
            letters.push(nth);
            names.push(name);
            values.push(value);
        }
    }
    sqlx::query(INSERT)
        .bind(pipeline)
        .bind(records.iter().map(|record| record.topic).collect::<Vec<_>>())
        .bind(records.iter().map(|record| record.partition).collect::<Vec<_>>())
        .bind(records.iter().map(|record| record.offset).collect::<Vec<_>>())
        .bind(records.iter().map(|record| record.timestamp_ms).collect::<Vec<_>>())
        .bind(records.iter().map(|record| record.key).collect::<Vec<_>>())
        .bind(records.iter().map(|record| record.value).collect::<Vec<_>>())
        .bind(rejects.iter().map(|reject| reject.reason).collect::<Vec<_>>())
        .bind(rejects.iter().map(|reject| reject.sqlstate.as_deref()).collect::<Vec<_>>())
        .bind(rejects.iter().map(|reject| reject.column.as_deref()).collect::<Vec<_>>())
        .bind(rejects.iter().map(|reject| storable(&reject.detail, takes_all_characters)).collect::<Vec<_>>())
        .bind((0i32..).take(records.len()).collect::<Vec<_>>())
        .bind(letters)
        .bind(names)
        .bind(values)
        .execute(connection)
        .await?;
    Ok(())
}

/// Returns whether the database's encoding has every character that a record may contain.
pub(super) async fn takes_all_characters(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let encoding = sqlx::query("SELECT current_setting('server_encoding')").fetch_one(connection).await?;
    Ok(matches!(encoding.try_get(0)?, "UTF8" | "SQL_ASCII"))
}

/// Returns a detail in a form that a text column can store. A detail may quote a NUL, which no text column can store, or
/// characters that the database's encoding lacks. The record itself is stored as bytes, unchanged.
pub(crate) fn storable(detail: &str, takes_all_characters: bool) -> String {
    let detail = detail.replace('\0', "\\0");
    if takes_all_characters || detail.is_ascii() {
        return detail;
    }
    let mut ascii = String::new();
    for c in detail.chars() {
        if c.is_ascii() { ascii.push(c) } else { ascii.extend(c.escape_unicode()) }
    }
    ascii
}
