//! Registers pipelines. The registration at a pipeline's first start records the cluster, group and table that belong
//! to the pipeline's name, and creates the ledger rows of its partitions.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{Connection, PgConnection, Row};
use tidegate_protocol::position::{Offset, TopicPartition};

use super::claims;

/// The cluster, group, table and topics that belong to a pipeline's name. If cluster, group or table differ at a later
/// start, the pipeline stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    pub pipeline: String,
    pub cluster_id: String,
    pub group_id: String,
    pub target: String,
    /// The table's oid; 0 if records name their table.
    pub target_oid: u32,
    /// The topics, each with its current number of partitions.
    pub topics: BTreeMap<String, i32>,
}

#[derive(Debug)]
pub enum RegisterError {
    Database(sqlx::Error),
    /// The configuration contradicts a registration. Either this pipeline is registered with another cluster, group or table. Or
    /// another pipeline already feeds this pipeline's table from one of its topics. The text says which, and what to do.
    Differs(String),
}

impl From<sqlx::Error> for RegisterError {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

/// Returns whether the pipeline is registered. If it isn't, the caller must request the starting offsets from Kafka.
///
/// # Errors
/// The error of the statement.
pub async fn is_known(connection: &mut PgConnection, pipeline: &str) -> Result<bool, sqlx::Error> {
    let row = sqlx::query("SELECT EXISTS (SELECT FROM tidegate.pipeline WHERE name = $1)");
    row.bind(pipeline).fetch_one(connection).await?.try_get(0)
}

/// Registers a pipeline with its partitions' starting offsets, or compares it with the existing registration.
///
/// # Errors
/// [`RegisterError::Differs`] if the pipeline is registered with another cluster, group or table. Also if another pipeline
/// already feeds the table from one of the topics. The pipeline then stops, and the error names the remedy.
pub async fn register(
    connection: &mut PgConnection,
    wanted: &Registration,
    starts: &[(TopicPartition, Offset)],
) -> Result<(), RegisterError> {
    let mut transaction = connection.begin().await?;
    // If the session's setting is `off`, a crash may undo the last commits. Rows and ledger advances may be undone,
    // because their records are read again. The registration must survive.
    sqlx::query("SET LOCAL synchronous_commit = on").execute(&mut *transaction).await?;
    // Allow only one registration at a time, so that two new pipelines for the same table and topic see each other.
    sqlx::query("LOCK TABLE tidegate.pipeline IN SHARE ROW EXCLUSIVE MODE").execute(&mut *transaction).await?;
    if is_as_registered(&mut transaction, wanted).await? {
        return Ok(());
    }
    let topics: serde_json::Value =
        wanted.topics.iter().map(|(topic, n)| (topic.clone(), serde_json::Value::from(*n))).collect();
    sqlx::query(
        "INSERT INTO tidegate.pipeline (name, cluster_id, group_id, target, target_oid, topics, version)
         VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7)",
    )
    .bind(&wanted.pipeline)
    .bind(&wanted.cluster_id)
    .bind(&wanted.group_id)
    .bind(&wanted.target)
    .bind(i64::from(wanted.target_oid))
    .bind(topics.to_string())
    .bind(env!("CARGO_PKG_VERSION"))
    .execute(&mut *transaction)
    .await?;
    insert_lost_rows(&mut transaction, &wanted.pipeline, starts).await?;
    Ok(transaction.commit().await?)
}

/// Returns true if the pipeline is registered with this cluster, group and table, and false if it is not registered.
///
/// # Errors
/// [`RegisterError::Differs`] if the pipeline is registered with another cluster, group or table. Also if it is not registered,
/// and another pipeline already feeds the table from one of its topics.
pub async fn is_as_registered(connection: &mut PgConnection, wanted: &Registration) -> Result<bool, RegisterError> {
    let known = sqlx::query("SELECT cluster_id, group_id, target, target_oid FROM tidegate.pipeline WHERE name = $1")
        .bind(&wanted.pipeline)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(row) = known else { return reject_second_feed(connection, wanted).await.map(|()| false) };
    let (cluster_id, group_id): (String, String) = (row.try_get(0)?, row.try_get(1)?);
    let (target, target_oid): (String, i64) = (row.try_get(2)?, row.try_get(3)?);
    compare(wanted, &cluster_id, &group_id, &target, target_oid).map_err(RegisterError::Differs)?;
    Ok(true)
}

fn compare(
    wanted: &Registration,
    cluster_id: &str,
    group_id: &str,
    target: &str,
    target_oid: i64,
) -> Result<(), String> {
    let name = &wanted.pipeline;
    let differs = |what: &str, was: &str, is: &str, remedy: &str| {
        Err(format!("pipeline `{name}` was registered with {what} `{was}`, and now has `{is}`: {remedy}"))
    };
    if cluster_id != wanted.cluster_id {
        return differs(
            "the Kafka cluster",
            cluster_id,
            &wanted.cluster_id,
            "offsets of one cluster mean nothing in another; point `kafka.bootstrap_servers` back, or give the pipeline a new name",
        );
    }
    if group_id != wanted.group_id {
        return differs(
            "the group",
            group_id,
            &wanted.group_id,
            "two groups would each read everything; set `group` back, or give the pipeline a new name",
        );
    }
    if target != wanted.target {
        return differs(
            "the table",
            target,
            &wanted.target,
            "the rows that the ledger counts are in the other table; set `table.name` back, or give the pipeline a new name",
        );
    }
    if target_oid != i64::from(wanted.target_oid) {
        return Err(other_table(name, target, wanted.target_oid));
    }
    Ok(())
}

/// Returns the message that a pipeline's table isn't the one that was registered, with the remedy. `oid` is the oid of
/// the table that has this name now; 0 if there is none.
pub fn other_table(pipeline: &str, table: impl std::fmt::Display, oid: u32) -> String {
    let again = format!(
        "to read the topic again from the beginning into a new table, run `tidegate pipelines forget {pipeline} --yes`, and start the pipeline"
    );
    if oid == 0 {
        format!(
            "table `{table}` does not exist any more, while the ledger says that its rows are written: if it was renamed or moved, undo that; {again}"
        )
    } else {
        format!(
            "table `{table}` was dropped and recreated, while the ledger says that its rows are written: {again}; if it was restored with these rows, run: UPDATE tidegate.pipeline SET target_oid = {oid} WHERE name = '{}';",
            pipeline.replace('\'', "''")
        )
    }
}

async fn reject_second_feed(connection: &mut PgConnection, wanted: &Registration) -> Result<(), RegisterError> {
    let topics: Vec<&str> = wanted.topics.keys().map(String::as_str).collect();
    let tables = [i64::from(wanted.target_oid)];
    let Some(Feeder { pipeline, topic, .. }) = feeder(connection, &wanted.pipeline, &topics, &tables).await? else {
        return Ok(());
    };
    Err(RegisterError::Differs(format!(
        "pipeline `{pipeline}` feeds `{}` from topic `{topic}` already, so the table would have every record twice: was `{}` renamed? `tidegate offsets copy {pipeline} {}` takes its positions over",
        wanted.target, wanted.pipeline, wanted.pipeline
    )))
}

/// A pipeline that writes a topic into a table.
pub(super) struct Feeder {
    pub(super) pipeline: String,
    pub(super) topic: String,
    pub(super) table: String,
}

/// Returns a pipeline, other than `pipeline`, that writes one of these topics into one of these tables; `None` if there is none.
/// `tables` are oids. The oid 0 is ignored: it stands for the target of a pipeline whose records name their tables. Those tables
/// are checked when records first name them.
///
/// # Errors
/// The error of the statement.
pub(super) async fn feeder(
    connection: &mut PgConnection,
    pipeline: &str,
    topics: &[&str],
    tables: &[i64],
) -> Result<Option<Feeder>, sqlx::Error> {
    let found = sqlx::query(
        "SELECT p.name, topic, t.oid::oid::regclass::text
         FROM unnest($3::int8[]) AS t (oid)
         JOIN tidegate.pipeline p ON p.target_oid = t.oid
             OR EXISTS (SELECT FROM tidegate.route r WHERE r.pipeline = p.name AND r.table_oid = t.oid)
         CROSS JOIN jsonb_object_keys(p.topics) AS topic
         WHERE p.name <> $1 AND topic = ANY ($2) AND t.oid <> 0 LIMIT 1",
    );
    let found = found.bind(pipeline).bind(topics).bind(tables).fetch_optional(connection).await?;
    let read = |row: sqlx::postgres::PgRow| {
        Ok(Feeder { pipeline: row.try_get(0)?, topic: row.try_get(1)?, table: row.try_get(2)? })
    };
    found.map(read).transpose()
}

/// Creates the ledger rows of partitions that appeared after the registration. `starts` has the oldest offset of each. Existing
/// rows are kept. Returns the partitions that are registered but have lost their ledger row.
///
/// # Errors
/// [`RegisterError::Differs`] if another pipeline writes one of these topics into a table of this pipeline, and the topic is new
/// in this pipeline.
pub async fn extend(
    connection: &mut PgConnection,
    pipeline: &str,
    starts: &[(TopicPartition, Offset)],
) -> Result<Vec<TopicPartition>, RegisterError> {
    let mut transaction = connection.begin().await?;
    // Take the same lock as a registration, so that two pipelines that find the same new topic see each other.
    sqlx::query("LOCK TABLE tidegate.pipeline IN SHARE ROW EXCLUSIVE MODE").execute(&mut *transaction).await?;
    // FOR NO KEY UPDATE lets other sessions insert ledger rows, which refer to this row, at the same time.
    let topics: String = sqlx::query("SELECT topics::text FROM tidegate.pipeline WHERE name = $1 FOR NO KEY UPDATE")
        .bind(pipeline)
        .fetch_one(&mut *transaction)
        .await?
        .try_get(0)?;
    let mut known: BTreeMap<String, i32> =
        serde_json::from_str(&topics).map_err(|error| RegisterError::Database(sqlx::Error::Decode(error.into())))?;
    // Another instance may have added some of these partitions meanwhile. They have a row now, so they are neither new nor lost.
    let sources: Vec<TopicPartition> = starts.iter().map(|(source, _)| source.clone()).collect();
    let without = claims::without_row(&mut transaction, pipeline, &sources).await?;
    let (new, lost): (Vec<_>, Vec<_>) = starts
        .iter()
        .filter(|(source, _)| without.contains(source))
        .cloned()
        .partition(|(source, _)| source.partition >= known.get(&*source.topic).copied().unwrap_or(0));
    let new_topics: BTreeSet<&str> =
        new.iter().map(|(source, _)| &*source.topic).filter(|topic| !known.contains_key(*topic)).collect();
    reject_shared_topics(&mut transaction, pipeline, new_topics).await?;
    insert_lost_rows(&mut transaction, pipeline, &new).await?;
    for (source, _) in &new {
        let count = known.entry(source.topic.to_string()).or_insert(0);
        *count = (*count).max(source.partition + 1);
    }
    let topics: serde_json::Value = known.into_iter().map(|(topic, n)| (topic, serde_json::Value::from(n))).collect();
    sqlx::query("UPDATE tidegate.pipeline SET topics = $2::jsonb WHERE name = $1")
        .bind(pipeline)
        .bind(topics.to_string())
        .execute(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(lost.into_iter().map(|(source, _)| source).collect())
}

/// Fails if another pipeline writes one of these topics into a table of this pipeline.
async fn reject_shared_topics(
    connection: &mut PgConnection,
    pipeline: &str,
    topics: BTreeSet<&str>,
) -> Result<(), RegisterError> {
    if topics.is_empty() {
        return Ok(());
    }
    let tables = "SELECT target_oid FROM tidegate.pipeline WHERE name = $1
         UNION SELECT table_oid FROM tidegate.route WHERE pipeline = $1";
    let tables: Vec<i64> = sqlx::query_scalar(tables).bind(pipeline).fetch_all(&mut *connection).await?;
    let topics: Vec<&str> = topics.into_iter().collect();
    let Some(Feeder { pipeline: other, topic, table }) = feeder(connection, pipeline, &topics, &tables).await? else {
        return Ok(());
    };
    Err(RegisterError::Differs(format!(
        "topic `{topic}` is new in pipeline `{pipeline}`, and pipeline `{other}` writes it into `{table}` already, so the table would have every record twice: exclude the topic from `topic_pattern`"
    )))
}

/// Inserts a ledger row for each partition in `starts`. Existing rows are kept: the table's trigger skips a second row
/// for the same partition, whatever its offset.
///
/// # Errors
/// The error of the statement.
pub async fn insert_lost_rows(
    connection: &mut PgConnection,
    pipeline: &str,
    starts: &[(TopicPartition, Offset)],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO tidegate.ledger (pipeline, topic, partition, next_offset, first_offset)
         SELECT $1, * FROM unnest($2::text[], $3::int4[], $4::int8[], $4::int8[])",
    )
    .bind(pipeline)
    .bind(starts.iter().map(|(source, _)| &*source.topic).collect::<Vec<_>>())
    .bind(starts.iter().map(|(source, _)| source.partition).collect::<Vec<_>>())
    .bind(starts.iter().map(|(_, offset)| offset.get()).collect::<Vec<_>>())
    .execute(connection)
    .await?;
    Ok(())
}
