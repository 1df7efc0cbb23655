//! Finds the offsets of the rows in the table and of the dead letters.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;

use sqlx::{PgConnection, Row};
use tidegate_protocol::position::{Offset, TopicPartition};
use tidegate_rows::catalog::{TableName, quote_identifier};
use tidegate_rows::spec::Source;

use crate::config::Pipeline;

/// The most gaps that one query returns.
const GAPS: usize = 100_000;

/// Finds the rows of a partition by the columns that identify a row's record.
#[derive(Debug)]
pub(super) struct Columns {
    /// A `SELECT` of topic, partition and offset of each row. If the table has no column for the topic, `$1` is the pipeline's
    /// only topic.
    rows: String,
    topic: String,
}

/// Counts of one partition. `rows` and `dead_letters` are those of records before the ledger's position, and `distinct` counts
/// their different offsets. `twice` is the excess over one per record: a record with three rows adds two. `beyond` counts the
/// rows of records at or after the ledger's position.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) rows: u64,
    pub(super) dead_letters: u64,
    pub(super) distinct: u64,
    pub(super) twice: u64,
    pub(super) beyond: u64,
}

impl Columns {
    /// Looks up in the mapping which columns hold topic, partition and offset, and makes the query over all `tables`.
    ///
    /// # Errors
    /// If the table can't be compared with the ledger; the error says why.
    pub(super) fn of<'a>(
        pipeline: &Pipeline,
        tables: &[TableName],
        topics: impl Iterator<Item = &'a str>,
    ) -> Result<Self, String> {
        let topics: BTreeSet<&str> = topics.collect();
        let column = |wanted: &Source| {
            let columns = pipeline.columns.iter().flatten();
            columns.filter(|column| column.source == *wanted).map(|column| quote_identifier(&column.name)).next()
        };
        let name = &pipeline.name;
        let (Some(partition), Some(offset)) = (column(&Source::Partition), column(&Source::Offset)) else {
            return Err(format!(
                "no columns of pipelines.{name}.columns hold `meta = \"partition\"` and `meta = \"offset\"`; with both, `verify` can look for each record"
            ));
        };
        let topic = match (column(&Source::Topic), topics.len()) {
            (Some(topic), _) => format!("{topic}::text"),
            (None, 0 | 1) => "$1::text".to_owned(),
            (None, _) => {
                return Err(format!(
                    "the pipeline reads several topics, and no column of pipelines.{name}.columns holds `meta = \"topic\"`"
                ));
            }
        };
        if tables.is_empty() {
            return Err(format!("no record of pipeline {name} has named a table yet"));
        }
        let rows = tables.iter().map(|table| {
            format!(
                "SELECT {topic} AS topic, {partition}::int4 AS partition, {offset}::int8 AS record_offset, true AS is_row
                 FROM {} WHERE $1::text IS NOT NULL",
                table.quoted()
            )
        });
        Ok(Self {
            rows: rows.collect::<Vec<_>>().join(" UNION ALL "),
            topic: topics.first().map_or(String::new(), |topic| (*topic).to_owned()),
        })
    }

    /// Returns the beginning of a query, which defines `seen` as all rows and dead letters. `$2` is the pipeline's name.
    fn seen(&self) -> String {
        format!(
            "WITH seen AS ({} UNION ALL SELECT topic, partition, record_offset, false FROM tidegate.dead_letter WHERE pipeline = $2)",
            self.rows
        )
    }

    /// Returns the lowest offset of a partition's rows and dead letters. `None` if there are none.
    pub(super) async fn oldest(
        &self,
        connection: &mut PgConnection,
        pipeline: &Pipeline,
        source: &TopicPartition,
    ) -> Result<Option<Offset>, sqlx::Error> {
        let sql = format!("{} SELECT min(record_offset) FROM seen WHERE topic = $3 AND partition = $4", self.seen());
        let row = sqlx::query(&sql).bind(&self.topic).bind(&pipeline.name).bind(&*source.topic).bind(source.partition);
        Ok(row.fetch_one(connection).await?.try_get::<Option<i64>, _>(0)?.map(Offset::new))
    }

    /// Counts rows and dead letters in one pass over the table. `places` are the partitions, each with its first offset and the
    /// ledger's position. Rows and dead letters before the first offset aren't counted.
    pub(super) async fn count(
        &self,
        connection: &mut PgConnection,
        pipeline: &Pipeline,
        places: &[(TopicPartition, Offset, Offset)],
    ) -> Result<HashMap<TopicPartition, Counts>, sqlx::Error> {
        let sql = format!(
            "{}, place AS (SELECT * FROM unnest($3::text[], $4::int4[], $5::int8[], $6::int8[])
                 AS p (topic, partition, first, next))
             SELECT s.topic, s.partition,
                 count(*) FILTER (WHERE s.is_row AND s.record_offset < p.next),
                 count(*) FILTER (WHERE NOT s.is_row AND s.record_offset < p.next),
                 count(DISTINCT s.record_offset) FILTER (WHERE s.record_offset < p.next),
                 count(*) FILTER (WHERE s.is_row AND s.record_offset >= p.next)
             FROM seen s JOIN place p ON p.topic = s.topic AND p.partition = s.partition
             WHERE s.record_offset >= p.first GROUP BY s.topic, s.partition",
            self.seen()
        );
        let rows = sqlx::query(&sql)
            .bind(&self.topic)
            .bind(&pipeline.name)
            .bind(places.iter().map(|(source, ..)| source.topic.to_string()).collect::<Vec<_>>())
            .bind(places.iter().map(|(source, ..)| source.partition).collect::<Vec<_>>())
            .bind(places.iter().map(|(_, first, _)| first.get()).collect::<Vec<_>>())
            .bind(places.iter().map(|(.., next)| next.get()).collect::<Vec<_>>())
            .fetch_all(connection)
            .await?;
        let counts = |row: &sqlx::postgres::PgRow| {
            let number = |n: usize| row.try_get::<i64, _>(n).map(i64::unsigned_abs);
            let (rows, dead_letters, distinct) = (number(2)?, number(3)?, number(4)?);
            let twice = (rows + dead_letters).saturating_sub(distinct);
            let source = TopicPartition::new(row.try_get::<&str, _>(0)?, row.try_get(1)?);
            Ok((source, Counts { rows, dead_letters, distinct, twice, beyond: number(5)? }))
        };
        rows.iter().map(counts).collect()
    }

    /// Returns the gaps in a range of offsets, in order, and the offset at which the search ended. A gap is a range of offsets
    /// that have neither a row nor a dead letter.
    pub(super) async fn gaps(
        &self,
        connection: &mut PgConnection,
        pipeline: &Pipeline,
        source: &TopicPartition,
        range: Range<Offset>,
    ) -> Result<(Vec<Range<Offset>>, Offset), sqlx::Error> {
        let sql = format!(
            "{}, place AS (
                 SELECT DISTINCT record_offset FROM seen
                 WHERE topic = $3 AND partition = $4 AND record_offset >= $5 AND record_offset < $6
                 UNION ALL SELECT $6
             ), step AS (
                 SELECT lag(record_offset, 1, $5 - 1) OVER (ORDER BY record_offset) + 1 AS first, record_offset AS until
                 FROM place
             )
             SELECT first, until FROM step WHERE first < until ORDER BY first LIMIT $7",
            self.seen()
        );
        let limit = i64::try_from(GAPS).unwrap_or(i64::MAX);
        let rows = sqlx::query(&sql)
            .bind(&self.topic)
            .bind(&pipeline.name)
            .bind(&*source.topic)
            .bind(source.partition)
            .bind(range.start.get())
            .bind(range.end.get())
            .bind(limit)
            .fetch_all(connection)
            .await?;
        let gap = |row: &sqlx::postgres::PgRow| Ok(Offset::new(row.try_get(0)?)..Offset::new(row.try_get(1)?));
        let gaps: Vec<Range<Offset>> = rows.iter().map(gap).collect::<Result<_, sqlx::Error>>()?;
        let until = if gaps.len() < GAPS { range.end } else { gaps.last().map_or(range.end, |gap| gap.end) };
        Ok((gaps, until))
    }
}
