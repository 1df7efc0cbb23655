//! Encodes the sampled records for a table that exists, and counts those that would become dead letters.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use rdkafka::message::Message as _;
use tidegate_protocol::batch::Incoming;
use tidegate_protocol::position::Offset;
use tidegate_protocol::record::{Headers, Record};
use tidegate_protocol::store::ReplanError;
use tidegate_rows::catalog::Catalog;
use tidegate_rows::mapping::Encoder;
use tokio::task::spawn_blocking;

use super::existing;
use crate::cli::schema::infer::Proposal;
use crate::cli::show;
use crate::config::Pipeline;
use crate::error::FatalError;
use crate::kafka::reader::{Reader, incoming, push_headers};
use crate::kafka::settings::Settings;
use crate::plan::PlanSource;
use crate::registry;

/// The most kinds of dead letters that are reported. A kind is a reason and a column.
const KINDS_MAX: usize = 20;

#[derive(Debug, Default)]
pub(super) struct Compared {
    pub(super) faults: Vec<String>,
    pub(super) findings: Vec<String>,
}

/// Compares the proposed pipeline with the table, and encodes the records of `ranges` for it. Writes nothing.
///
/// # Errors
/// If Kafka or the schema registry can't be read.
pub(super) async fn compare(
    pipeline: &Pipeline,
    proposal: &Proposal,
    table: &Catalog,
    reader: Settings,
    topic: Arc<str>,
    ranges: Vec<(i32, Range<Offset>)>,
) -> Result<Compared, FatalError> {
    let planned = match PlanSource::for_trial(pipeline, table.clone()) {
        Ok(planned) => planned,
        Err(ReplanError::Unplannable(why)) => {
            let filled: Vec<_> = proposal.columns.iter().map(|column| column.name.as_str()).collect();
            let findings = existing::findings(table, proposal, &filled);
            return Ok(Compared { faults: why.lines().map(str::to_owned).collect(), findings });
        }
        Err(ReplanError::Write(error)) => return Err(FatalError::Unavailable(error.to_string())),
    };
    let plan = Arc::clone(&planned.current().plan);
    let mut findings = existing::findings(table, proposal, &plan.column_names().collect::<Vec<_>>());
    findings.extend(plan.warnings().iter().cloned());
    let reading = spawn_blocking(move || {
        let mut encoder = Encoder::new(plan);
        let (mut rows, mut trouble) = (Vec::new(), Ok(()));
        let mut rejected: BTreeMap<(Option<u16>, &'static str), (u64, String)> = BTreeMap::new();
        Reader::new(&reader)?.read(&topic, &ranges, |message| {
            let Incoming { offset, timestamp_ms, key, value } = incoming(message);
            let mut arena = Vec::new();
            push_headers(message, &mut arena);
            let headers = Headers::from_arena(&arena);
            if trouble.is_ok() {
                trouble = registry::await_schema(planned.schemas().map(|schemas| &**schemas), || {
                    encoder.wants(key, value, headers)
                });
            }
            let (partition, offset) = (message.partition(), offset.get());
            let record = Record { topic: &topic, partition, offset, timestamp_ms, key, value, headers };
            rows.clear();
            if let Err(error) = encoder.encode(&record, &mut rows) {
                let first = || (0, format!("{topic}/{partition}@{offset}: {}", error.detail));
                rejected.entry((error.column, error.reason.code())).or_insert_with(first).0 += 1;
            }
        })?;
        trouble.map(|()| rejected)
    });
    let rejected = reading.await.map_err(FatalError::bug)?.map_err(FatalError::Unavailable)?;
    let kinds = rejected.into_values().take(KINDS_MAX).map(|(count, first)| {
        let records = show::counted(
            count,
            "record of the sample becomes a dead letter",
            "records of the sample become dead letters",
        );
        format!("{records}: {first}")
    });
    findings.extend(kinds);
    Ok(Compared { faults: Vec::new(), findings })
}

impl Compared {
    pub(super) fn comments(&self, table: &Catalog) -> String {
        let faults = self.faults.iter().map(|fault| format!("#   FAULT: {}\n", show::safe(fault)));
        let findings = self.findings.iter().map(|finding| format!("#   {}\n", show::safe(finding)));
        let lines: String = faults.chain(findings).collect();
        let empty = if lines.is_empty() { "#   each column has its field\n" } else { "" };
        format!("# Compared with table {}, which exists:\n{lines}{empty}", show::safe(&table.table.to_string()))
    }
}
