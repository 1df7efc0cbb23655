//! `tidegate dead-letters list`: counts by reason, and the newest dead letters.

use serde::Serialize;
use sqlx::Row;

use super::{Filter, failed, keys, matching, open};
use crate::cli::Common;
use crate::cli::show::{self, Table};
use crate::error::FatalError;

/// Arguments of `list`.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    filter: Filter,
    /// List at most this many dead letters, the newest first. The counts include all of them.
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: u32,
}

#[derive(Serialize)]
struct Report {
    total: i64,
    counts: Vec<Count>,
    letters: Vec<Line>,
}

#[derive(Serialize)]
struct Count {
    pipeline: String,
    reason: String,
    letters: i64,
    oldest_ms: i64,
    newest_ms: i64,
}

#[derive(Serialize)]
struct Line {
    id: i64,
    pipeline: String,
    topic: String,
    partition: i32,
    offset: i64,
    reason: String,
    sqlstate: Option<String>,
    column: Option<String>,
    detail: String,
    created_at_ms: i64,
}

pub(super) async fn run(arguments: &Arguments) -> Result<(), FatalError> {
    let config = arguments.common.load()?;
    let pipelines = arguments.common.pipelines(&config)?;
    let mut connection = open(&config).await?;
    let keys = keys(&mut connection, &pipelines).await?;
    arguments.filter.find_ids(&mut connection, &keys, &pipelines).await?;
    let sql = matching!(
        "SELECT pipeline, reason, count(*), (extract(epoch FROM min(created_at)) * 1000)::int8,
             (extract(epoch FROM max(created_at)) * 1000)::int8 FROM tidegate.dead_letter",
        "GROUP BY pipeline, reason ORDER BY count(*) DESC, pipeline, reason"
    );
    let rows = arguments.filter.bind(sql, &keys).fetch_all(&mut connection).await.map_err(failed)?;
    let count = |row: &sqlx::postgres::PgRow| {
        Ok(Count {
            pipeline: row.try_get(0)?,
            reason: row.try_get(1)?,
            letters: row.try_get(2)?,
            oldest_ms: row.try_get(3)?,
            newest_ms: row.try_get(4)?,
        })
    };
    let counts = rows.iter().map(count).collect::<Result<Vec<_>, sqlx::Error>>().map_err(failed)?;
    let sql = matching!(
        "SELECT id, pipeline, topic, partition, record_offset, reason, sqlstate, column_name, detail,
             (extract(epoch FROM created_at) * 1000)::int8 FROM tidegate.dead_letter",
        "ORDER BY id DESC LIMIT $7"
    );
    let listed = arguments.filter.bind(sql, &keys).bind(i64::from(arguments.limit));
    let rows = listed.fetch_all(&mut connection).await.map_err(failed)?;
    let line = |row: &sqlx::postgres::PgRow| {
        Ok(Line {
            id: row.try_get(0)?,
            pipeline: row.try_get(1)?,
            topic: row.try_get(2)?,
            partition: row.try_get(3)?,
            offset: row.try_get(4)?,
            reason: row.try_get(5)?,
            sqlstate: row.try_get(6)?,
            column: row.try_get(7)?,
            detail: row.try_get(8)?,
            created_at_ms: row.try_get(9)?,
        })
    };
    let letters = rows.iter().map(line).collect::<Result<Vec<_>, sqlx::Error>>().map_err(failed)?;
    let report = Report { total: counts.iter().map(|count| count.letters).sum(), counts, letters };
    if arguments.common.json { show::json(&report) } else { show::print(&text(&report)) }
}

fn text(report: &Report) -> String {
    if report.total == 0 {
        return "no dead letters".to_owned();
    }
    let mut counts = Table::new(&["pipeline", "reason", "dead letters", "oldest", "newest"]);
    for Count { pipeline, reason, letters, oldest_ms, newest_ms } in &report.counts {
        let (oldest, newest) = (show::time(*oldest_ms), show::time(*newest_ms));
        counts.row([pipeline.clone(), reason.clone(), show::count(*letters), oldest, newest]);
    }
    let mut lines = Table::new(&["id", "pipeline", "stored", "record", "reason", "detail"]);
    for line in &report.letters {
        let record = format!("{}/{}@{}", line.topic, line.partition, line.offset);
        let detail = show::safe(&line.detail);
        let (id, time) = (line.id.to_string(), show::time(line.created_at_ms));
        lines.row([id, line.pipeline.clone(), time, record, line.reason.clone(), detail]);
    }
    let mut text = counts.text("");
    if !report.letters.is_empty() {
        text += &format!("\n{}", lines.text(""));
    }
    let shown = i64::try_from(report.letters.len()).unwrap_or(i64::MAX);
    if shown < report.total {
        text += &format!("… and {} older; --limit shows more\n", show::count(report.total - shown));
    }
    text
}
