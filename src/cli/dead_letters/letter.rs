//! `tidegate dead-letters show ID`: prints one dead letter.

use serde::Serialize;
use sqlx::Row;

use super::{failed, keys, open, unknown};
use crate::cli::{Common, show};
use crate::error::FatalError;

/// Arguments of `show`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    common: Common,
    /// The dead letter's id, as `list` shows it.
    id: i64,
}

#[derive(Serialize)]
struct Report {
    id: i64,
    pipeline: String,
    topic: String,
    partition: i32,
    offset: i64,
    timestamp_ms: Option<i64>,
    reason: String,
    sqlstate: Option<String>,
    column: Option<String>,
    detail: String,
    created_at_ms: i64,
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Vec<Header>,
}

#[derive(Serialize)]
struct Header {
    name: Bytes,
    value: Option<Bytes>,
}

/// Bytes as text if [`show::as_text`] accepts them, otherwise as hexadecimal digits.
#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Bytes {
    Text(String),
    Hex(String),
}

impl Bytes {
    fn of(bytes: &[u8]) -> Self {
        show::as_text(bytes).map_or_else(|| Self::Hex(show::hex(bytes)), |text| Self::Text(text.to_owned()))
    }

    fn shown(bytes: Option<&Self>) -> String {
        match bytes {
            None => "null".to_owned(),
            Some(Self::Text(text)) => text.clone(),
            Some(Self::Hex(digits)) => format!("\\x{digits}"),
        }
    }
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), FatalError> {
    let config = arguments.common.load()?;
    let pipelines = arguments.common.pipelines(&config)?;
    let mut connection = open(&config).await?;
    let keys = keys(&mut connection, &pipelines).await?;
    let row = sqlx::query(
        "SELECT id, pipeline, topic, partition, record_offset, timestamp_ms, reason, sqlstate, column_name, detail,
             (extract(epoch FROM created_at) * 1000)::int8, key, value, header_names, header_values
         FROM tidegate.dead_letter WHERE id = $1 AND pipeline = ANY ($2)",
    );
    let row = row.bind(arguments.id).bind(&keys).fetch_optional(&mut connection).await.map_err(failed)?;
    let Some(row) = row else {
        return Err(unknown(arguments.id, &pipelines));
    };
    let report = read(&row).map_err(failed)?;
    if arguments.common.json { show::json(&report) } else { show::print(&text(&report)) }
}

fn read(row: &sqlx::postgres::PgRow) -> Result<Report, sqlx::Error> {
    let (names, values): (Vec<Vec<u8>>, Vec<Option<Vec<u8>>>) = (row.try_get(13)?, row.try_get(14)?);
    let headers = names.iter().zip(&values);
    Ok(Report {
        id: row.try_get(0)?,
        pipeline: row.try_get(1)?,
        topic: row.try_get(2)?,
        partition: row.try_get(3)?,
        offset: row.try_get(4)?,
        timestamp_ms: row.try_get(5)?,
        reason: row.try_get(6)?,
        sqlstate: row.try_get(7)?,
        column: row.try_get(8)?,
        detail: row.try_get(9)?,
        created_at_ms: row.try_get(10)?,
        key: row.try_get::<Option<&[u8]>, _>(11)?.map(Bytes::of),
        value: row.try_get::<Option<&[u8]>, _>(12)?.map(Bytes::of),
        headers: headers
            .map(|(name, value)| Header { name: Bytes::of(name), value: value.as_deref().map(Bytes::of) })
            .collect(),
    })
}

fn text(report: &Report) -> String {
    let Report { id, pipeline, topic, partition, offset, reason, detail, .. } = report;
    let mut text = format!("dead letter {id} of {pipeline}: {topic}/{partition}@{offset}\n");
    let sqlstate = report.sqlstate.as_ref().map_or(String::new(), |code| format!(", SQLSTATE {code}"));
    let column = report.column.as_ref().map_or(String::new(), |column| format!(", column {}", show::safe(column)));
    text += &format!("  reason     {reason}{sqlstate}{column}\n  detail     {}\n", show::safe(detail));
    text += &format!("  stored     {}\n", show::time(report.created_at_ms));
    text += &format!("  timestamp  {}\n", report.timestamp_ms.map_or_else(|| "none".to_owned(), show::time));
    for Header { name, value } in &report.headers {
        text += &format!("  header     {} = {}\n", Bytes::shown(Some(name)), Bytes::shown(value.as_ref()));
    }
    text += &format!("  key        {}\n", Bytes::shown(report.key.as_ref()));
    text + &format!("  value      {}\n", Bytes::shown(report.value.as_ref()))
}
