//! Counts how many of the sampled records have the field of each column. Pure.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;
use tidegate_rows::spec::{Decode, Source};

use super::report::PipelineReport;
use crate::config::{Pipeline, nearest};

/// A column whose field fewer records have than this share is worth a warning.
const FEW: f64 = 0.1;
/// How many fields are kept for "did you mean": a record with generated names must not fill the memory.
const SEEN_MAX: usize = 10_000;
/// How many levels of objects are searched.
const DEPTH_MAX: usize = 8;

/// One column that a field fills.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Share {
    pub(super) column: String,
    pub(super) field: String,
    /// Records that have the field, even if it is null.
    pub(super) present: u64,
    /// Records that were read; each element of an array is one.
    pub(super) records: u64,
    #[serde(skip)]
    path: Vec<String>,
}

/// Counts fields over a sample.
#[derive(Debug, Default)]
pub(super) struct Fields {
    shares: Vec<Share>,
    seen: BTreeSet<String>,
    in_payload: bool,
}

impl Fields {
    /// Counts for the pipeline's own mapping; counts nothing for formats other than JSON, for changes and nested arrays, and if
    /// every field goes to the column of its name.
    pub(super) fn of(pipeline: &Pipeline) -> Self {
        let in_payload = matches!(pipeline.decode, Decode::ConnectJson);
        // The fields of a nested array's elements, and those of a change's row, lie elsewhere in the value.
        let is_plain = !pipeline.shape.change && pipeline.shape.rows.is_empty();
        if !is_plain || !in_payload && !matches!(pipeline.decode, Decode::Json) {
            return Self::default();
        }
        let shares = pipeline.columns.iter().flatten().filter_map(|column| match &column.source {
            Source::Field(path) => Some(Share {
                column: column.name.clone(),
                field: path.join("."),
                present: 0,
                records: 0,
                path: path.clone(),
            }),
            _ => None,
        });
        Self { shares: shares.collect(), seen: BTreeSet::new(), in_payload }
    }

    /// Counts the fields of a record's value. A value that isn't JSON is counted elsewhere.
    pub(super) fn add(&mut self, value: Option<&[u8]>) {
        if self.shares.is_empty() {
            return;
        }
        let Some(Ok(value)) = value.map(serde_json::from_slice::<Value>) else { return };
        let value = if self.in_payload { value.get("payload").unwrap_or(&value) } else { &value };
        match value {
            Value::Array(records) => records.iter().for_each(|record| self.record(record)),
            record => self.record(record),
        }
    }

    fn record(&mut self, record: &Value) {
        if !record.is_object() {
            return;
        }
        for share in &mut self.shares {
            share.records += 1;
            share.present += u64::from(find(record, &share.path).is_some());
        }
        self.note(record, "", 0);
    }

    fn note(&mut self, value: &Value, prefix: &str, depth: usize) {
        let Value::Object(members) = value else { return };
        for (name, member) in members {
            if self.seen.len() >= SEEN_MAX || depth >= DEPTH_MAX {
                return;
            }
            let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            self.note(member, &path, depth + 1);
            self.seen.insert(path);
        }
    }

    /// Reports columns whose field no record has, or few have, and returns the counts.
    pub(super) fn judged(self, pipeline: &Pipeline, report: &mut PipelineReport) -> Vec<Share> {
        for Share { column, field, present, records, .. } in &self.shares {
            if *records == 0 {
                continue;
            }
            let key = format!("pipelines.{}.columns.{column}", pipeline.name);
            if *present == 0 {
                // The field of that name is at another level, or it is spelled differently.
                let last = field.rsplit('.').next().unwrap_or(field);
                let ends = |seen: &&String| seen.rsplit('.').next() == Some(last);
                let meant = nearest(field, self.seen.iter().map(String::as_str))
                    .or_else(|| self.seen.iter().find(ends).map(String::as_str));
                let hint = meant.map_or_else(
                    || format!("; the records have {}", some_of(&self.seen)),
                    |meant| format!("; did you mean `{meant}`?"),
                );
                report.faults.push(format!("{key}: none of the {records} newest records has field `{field}`{hint}"));
            } else if share(*present, *records) < FEW {
                report
                    .warnings
                    .push(format!("{key}: only {present} of the {records} newest records have field `{field}`"));
            }
        }
        self.shares
    }
}

fn find<'v>(value: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, name| match value {
        Value::Array(items) => items.get(name.parse::<usize>().ok()?),
        other => other.get(name),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a sample is far below 2^53 records")]
fn share(present: u64, records: u64) -> f64 {
    present as f64 / records as f64
}

fn some_of(seen: &BTreeSet<String>) -> String {
    let some: Vec<String> = seen.iter().take(10).map(|name| format!("`{name}`")).collect();
    if some.is_empty() { "no field at all".to_owned() } else { some.join(", ") }
}
