//! The results of `check` for one pipeline, as text and as JSON.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tidegate_rows::catalog::TableName;
use tidegate_rows::mapping::Plan;

use super::KafkaReport;
use super::database::PostgresReport;
use super::sample::Sample;
use crate::cli::show::{self, Table};
use crate::config::units::{show_duration, show_size};
use crate::config::{Config, Pipeline, defaults};
use crate::error::FatalError;
use crate::limits::Share;

#[derive(Debug, Serialize)]
pub(super) struct PipelineReport {
    pub(super) pipeline: String,
    pub(super) table: String,
    pub(super) mode: &'static str,
    /// Faults to correct before the pipeline is started, most of them with the remedy.
    pub(super) faults: Vec<String>,
    pub(super) warnings: Vec<String>,
    /// The statements that grant the role its missing rights, each once.
    pub(super) grants: Vec<String>,
    pub(super) kafka: Option<KafkaReport>,
    pub(super) postgres: Option<PostgresReport>,
    pub(super) columns: Vec<PlannedColumn>,
    /// The SQL with which the first start would create the missing tables.
    pub(super) ddl: Option<String>,
    pub(super) memory: Option<Memory>,
    pub(super) deadlines: BTreeMap<&'static str, String>,
    pub(super) sample: Option<Sample>,
    pub(super) offline: bool,
    #[serde(skip)]
    pub(super) unreachable: bool,
    /// Why the pipeline can't create partitions, and the remedy. `None` if the pipeline can create partitions. Also `None` if
    /// it can't run without new partitions; then the reason is one of the faults.
    #[serde(skip)]
    pub(super) no_new_partitions: Option<String>,
    /// Relations that aren't partitions of the table, but have names that new partitions would get. So the pipeline can't create
    /// the partitions of these names.
    #[serde(skip)]
    pub(super) taken: Vec<TableName>,
}

#[derive(Debug, Serialize)]
pub(super) struct PlannedColumn {
    pub(super) column: String,
    #[serde(rename = "type")]
    pub(super) type_text: String,
    pub(super) from: String,
    pub(super) not_null: bool,
    /// The effect of a missing field on the row; empty if the field can't be missing.
    pub(super) missing: &'static str,
}

/// The pipeline's share of `limits.memory`, in bytes.
#[derive(Debug, Serialize)]
pub(super) struct Memory {
    pub(super) limit_bytes: u64,
    pub(super) pipeline_bytes: u64,
    pub(super) consumer_queue_bytes: u64,
    pub(super) consumer_fetch_bytes: u64,
}

impl Memory {
    pub(super) fn of(config: &Config, share: &Share) -> Self {
        Self {
            limit_bytes: config.limits.memory,
            pipeline_bytes: share.bytes,
            consumer_queue_bytes: share.prefetch.queued_kbytes << 10,
            consumer_fetch_bytes: share.prefetch.fetch_bytes,
        }
    }
}

/// The deadlines that the report prints first, in this order. Each of them must be shorter than the next.
const DEADLINES: [&str; 5] = ["lock", "statement", "write", "drain", "max_poll_interval"];

impl PipelineReport {
    pub(super) fn of(config: &Config, pipeline: &Pipeline) -> Self {
        let poll = config.kafka.properties_of(pipeline);
        let poll = poll.get("max.poll.interval.ms").and_then(|ms| ms.expose().parse().ok());
        let poll = poll.map_or(defaults::MAX_POLL_INTERVAL, Duration::from_millis);
        let deadlines = [
            ("lock", config.postgres.lock_timeout),
            ("statement", config.postgres.statement_timeout),
            ("write", config.postgres.write_timeout),
            ("drain", config.limits.drain_timeout),
            ("max_poll_interval", poll),
            ("connect", config.postgres.connect_timeout),
            ("idle_in_transaction", config.postgres.idle_in_transaction_timeout),
            ("claim_grace", config.limits.claim_grace),
        ];
        Self {
            pipeline: pipeline.name.clone(),
            table: pipeline.table.name.to_string(),
            mode: pipeline.table.mode.word(),
            faults: Vec::new(),
            warnings: Vec::new(),
            grants: Vec::new(),
            kafka: None,
            postgres: None,
            columns: Vec::new(),
            ddl: None,
            memory: None,
            deadlines: deadlines.into_iter().map(|(name, value)| (name, show_duration(value))).collect(),
            sample: None,
            offline: false,
            unreachable: false,
            no_new_partitions: None,
            taken: Vec::new(),
        }
    }

    pub(super) fn fault(&mut self, error: &FatalError) {
        self.unreachable |= matches!(error, FatalError::Unavailable(_));
        self.faults.extend(error.to_string().lines().map(str::to_owned));
    }

    pub(super) fn lacks(&mut self, what: impl std::fmt::Display, statement: String) {
        self.faults.push(format!("{what}; run: {statement};"));
        if !self.grants.contains(&statement) {
            self.grants.push(statement);
        }
    }

    /// Warns that the pipeline can't create partitions. It still runs as long as existing partitions accept all rows.
    pub(super) fn lacks_partitions(&mut self, pipeline: &Pipeline, why: String) {
        self.warnings.push(format!(
            "pipelines.{}.table.partition_by: {why}; rows with the current time have a partition, so the pipeline runs; it stops at the first row without a partition",
            pipeline.name
        ));
        self.no_new_partitions.get_or_insert(why);
    }

    pub(super) fn planned(&mut self, plan: &Plan) {
        self.warnings.extend(plan.warnings().iter().cloned());
        let columns = plan.describe().into_iter();
        self.columns = columns
            .map(|column| PlannedColumn {
                column: column.column.to_owned(),
                type_text: column.type_text.to_owned(),
                from: column.source,
                not_null: column.not_null,
                missing: column.missing,
            })
            .collect();
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("pipeline {} → {} ({})\n", self.pipeline, self.table, self.mode);
        if let Some(kafka) = &self.kafka {
            text += &kafka_text(kafka);
        }
        if let Some(postgres) = &self.postgres {
            text += &postgres.text();
        }
        if let Some(ddl) = &self.ddl {
            text +=
                &format!("  the table is missing; the first start would run:\n    {};\n", ddl.replace('\n', "\n    "));
        }
        if !self.columns.is_empty() {
            let mut table = Table::new(&["column", "type", "from", "", "field missing"]);
            for column in &self.columns {
                let not_null = if column.not_null { "NOT NULL" } else { "" };
                let missing = column.missing.to_owned();
                let (name, of, from) = (column.column.clone(), column.type_text.clone(), column.from.clone());
                table.row([name, of, from, not_null.to_owned(), missing]);
            }
            text += &format!("  plan\n{}", table.text("    "));
        }
        if let Some(Memory { limit_bytes, pipeline_bytes, consumer_queue_bytes, consumer_fetch_bytes }) = &self.memory {
            text += &format!(
                "  memory      at most {} of {}; each consumer prefetches {}, fetches {} at a time\n",
                mib(*pipeline_bytes),
                show_size(*limit_bytes),
                mib(*consumer_queue_bytes),
                mib(*consumer_fetch_bytes)
            );
        }
        let shown = |name: &&str| self.deadlines.get(*name).map(|value| format!("{name} {value}"));
        text += &format!("  deadlines   {}", DEADLINES.iter().filter_map(shown).collect::<Vec<_>>().join(" < "));
        let others: Vec<_> = ["connect", "idle_in_transaction", "claim_grace"].iter().filter_map(shown).collect();
        text += &format!("; {}\n", others.join(", "));
        if let Some(sample) = &self.sample {
            text += &sample.text();
        }
        for warning in &self.warnings {
            text += &format!("  warning     {warning}\n");
        }
        for fault in &self.faults {
            text += &format!("  FAULT       {fault}\n");
        }
        if self.grants.len() > 1 {
            text += "  all missing rights at once\n";
            for statement in &self.grants {
                text += &format!("    {statement};\n");
            }
        }
        if self.faults.is_empty() {
            text += if self.offline { "  the files are valid; no server was asked\n" } else { "  ready\n" };
        }
        text
    }
}

fn kafka_text(kafka: &KafkaReport) -> String {
    let id = &kafka.cluster_id;
    let mut text = format!("  Kafka       {} (cluster {id})\n", kafka.bootstrap_servers);
    for (topic, found) in &kafka.topics {
        text += &format!(
            "  topic       {topic}: {}, up to {}\n",
            show::counted(u64::try_from(found.partitions).unwrap_or(0), "partition", "partitions"),
            show::counted(found.records, "record", "records")
        );
    }
    let state = kafka.group_state.as_deref().unwrap_or("does not exist yet");
    text + &format!(
        "  group       {}: {state}, {}\n",
        kafka.group,
        show::counted(kafka.group_members as u64, "member", "members")
    )
}

fn mib(bytes: u64) -> String {
    let tenths = (bytes * 10) >> 20;
    format!("{}.{} MiB", tenths / 10, tenths % 10)
}
