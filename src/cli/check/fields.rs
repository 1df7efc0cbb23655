//! Counts how many of the sampled rows have the field of each column, in any format. Pure.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Deserializer, Value};
use tidegate_protocol::record::Record;
use tidegate_rows::mapping::{Encoder, Plan, Presence};
use tidegate_rows::spec::{Decode, Source, UnknownFields};

use super::report::PipelineReport;
use crate::config::{Pipeline, nearest};

/// If the share of records that have a column's field is below this, `check` warns.
const FEW: f64 = 0.1;
/// How many field names are kept for "did you mean". The limit keeps records with generated names from filling the memory.
const SEEN_MAX: usize = 10_000;
/// How many levels of objects are searched.
const DEPTH_MAX: usize = 8;

/// One column that a field fills.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Share {
    pub(super) column: String,
    pub(super) field: String,
    /// Rows that have the field, even if it is null.
    pub(super) present: u64,
    /// The number of rows that were read: one per record, or one per element of an array. Records that only delete don't count.
    pub(super) records: u64,
    /// Whether the mapping names the field. If there is no mapping, a table may well have a column without a field.
    #[serde(skip)]
    is_mapped: bool,
}

/// Counts fields over a sample.
#[derive(Debug, Default)]
pub(super) struct Fields {
    presence: Presence,
    /// The names of the fields that JSON records have.
    seen: BTreeSet<String>,
    is_json: bool,
    in_payload: bool,
    in_change: bool,
}

impl Fields {
    pub(super) fn of(pipeline: &Pipeline) -> Self {
        Self {
            is_json: matches!(
                pipeline.decode,
                Decode::Json | Decode::ConnectJson | Decode::ChangeJson | Decode::NdJson
            ),
            in_payload: matches!(pipeline.decode, Decode::ConnectJson | Decode::ChangeJson),
            in_change: pipeline.shape.change,
            ..Self::default()
        }
    }

    /// Counts the fields of a record's rows.
    pub(super) fn add(&mut self, record: &Record<'_>, encoder: &mut Encoder) {
        encoder.count_fields(record, &mut self.presence);
        // Only JSON records have field names that can be suggested.
        let value = record.value.filter(|_| self.is_json);
        let value = value.map(|value| value.strip_prefix(b"\xef\xbb\xbf").unwrap_or(value));
        for value in value.into_iter().flat_map(|value| Deserializer::from_slice(value).into_iter::<Value>()) {
            let Ok(value) = value else { return };
            let value = if self.in_payload { value.get("payload").unwrap_or(&value) } else { &value };
            let rows = ["after", "before"].iter().filter_map(|name| value.get(name).filter(|row| row.is_object()));
            let row = if self.in_change { rows.into_iter().next() } else { Some(value) };
            if let Some(row) = row {
                self.note(row, "", 0);
            }
        }
    }

    fn note(&mut self, value: &Value, prefix: &str, depth: usize) {
        let members = match value {
            Value::Object(members) => members,
            // If the elements of an array are rows, the path continues in each element.
            Value::Array(elements) => return elements.iter().for_each(|element| self.note(element, prefix, depth + 1)),
            _ => return,
        };
        for (name, member) in members {
            if self.seen.len() >= SEEN_MAX || depth >= DEPTH_MAX {
                return;
            }
            let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            self.note(member, &path, depth + 1);
            self.seen.insert(path);
        }
    }

    /// Warns about columns whose field no record has, or only few have. Returns the counts. `plan` is the plan with which the
    /// records were counted.
    pub(super) fn judged(self, pipeline: &Pipeline, plan: &Plan, report: &mut PipelineReport) -> Vec<Share> {
        let records = self.presence.rows();
        if records == 0 {
            return Vec::new();
        }
        let shares = self.shares(pipeline, plan);
        for Share { column, field, present, .. } in shares.iter().filter(|share| share.is_mapped) {
            let key = format!("pipelines.{}.columns.{column}", pipeline.name);
            let whose = format!("{records} newest {}", self::records(pipeline));
            if *present == 0 {
                // Look for a field of the same name at another level, or of a similar name.
                let last = field.rsplit('.').next().unwrap_or(field);
                let ends = |seen: &&String| seen.rsplit('.').next() == Some(last);
                let meant = nearest(field, self.seen.iter().map(String::as_str))
                    .or_else(|| self.seen.iter().find(ends).map(String::as_str));
                let hint = match meant {
                    Some(meant) => format!("; did you mean `{meant}`?"),
                    None if self.seen.is_empty() => String::new(),
                    None => format!("; the records have {}", some_of(&self.seen)),
                };
                // A Protobuf record leaves out fields that aren't set, so the field may well exist.
                let is_doubtful = matches!(pipeline.decode, Decode::Protobuf(_));
                let to = if is_doubtful { &mut report.warnings } else { &mut report.faults };
                to.push(format!("{key}: none of the {whose} has field `{field}`{hint}"));
            } else if share(*present, records) < FEW {
                report.warnings.push(format!("{key}: only {present} of the {whose} have field `{field}`"));
            }
        }
        self.unmapped(pipeline, &shares, report);
        shares
    }

    /// Judges the columns of a table without a mapping, which are filled from fields of the same names. If no record has any of
    /// these fields, that is a fault: the rows would consist of nothing but defaults and NULLs. A column alone may well have no
    /// field, so it is only named if a field has a similar name.
    fn unmapped(&self, pipeline: &Pipeline, shares: &[Share], report: &mut PipelineReport) {
        let takes_any = pipeline.table.evolve || matches!(pipeline.unknown_fields, UnknownFields::Column(_));
        let missing: Vec<_> = shares.iter().filter(|share| !share.is_mapped && share.present == 0).collect();
        let is_taken = |name: &str| shares.iter().any(|share| share.field == name);
        for Share { column, .. } in &missing {
            let free = self.seen.iter().map(String::as_str).filter(|name| !is_taken(name));
            let same = free.clone().find(|name| name.to_lowercase() == column.to_lowercase());
            if let Some(meant) = same.or_else(|| nearest(column, free)) {
                report.warnings.push(format!(
                    "no record has a field `{column}` for the column of this name: did you mean `{meant}`? then map it in pipelines.{}.columns",
                    pipeline.name
                ));
            }
        }
        // A Protobuf record leaves out fields that aren't set.
        if missing.is_empty()
            || missing.len() < shares.len()
            || takes_any
            || matches!(pipeline.decode, Decode::Protobuf(_))
        {
            return;
        }
        let columns = missing.iter().map(|share| format!("`{}`", share.column)).collect::<Vec<_>>().join(", ");
        let seen =
            if self.seen.is_empty() { String::new() } else { format!("; the records have {}", some_of(&self.seen)) };
        report.faults.push(format!(
            "pipelines.{0}.columns: none of the {1} newest {2} has a field for any column of `{3}` ({columns}), so nothing of them would be written{seen}; map their fields to the columns in pipelines.{0}.columns, or create the table with columns of these names",
            pipeline.name,
            self.presence.rows(),
            records(pipeline),
            pipeline.table.name
        ));
    }

    fn shares(&self, pipeline: &Pipeline, plan: &Plan) -> Vec<Share> {
        let share = |column: &str, path: &[String], is_mapped| {
            let (column, field, records) = (column.to_owned(), path.join("."), self.presence.rows());
            let present = self.presence.of(plan, path)?;
            Some(Share { column, field, present, records, is_mapped })
        };
        match &pipeline.columns {
            Some(columns) => {
                let fields = columns.iter().filter_map(|column| match &column.source {
                    Source::Field(path) => share(&column.name, path, true),
                    _ => None,
                });
                fields.collect()
            }
            None => plan.fields().filter_map(|(column, path)| share(column, path, false)).collect(),
        }
    }
}

/// Returns the word for the counted rows: `records` or `rows`.
pub(super) fn records(pipeline: &Pipeline) -> &'static str {
    let is_several = !pipeline.shape.rows.is_empty() || matches!(pipeline.decode, Decode::NdJson | Decode::Csv(_));
    if is_several { "rows" } else { "records" }
}

#[expect(clippy::cast_precision_loss, reason = "a sample is far below 2^53 records")]
fn share(present: u64, records: u64) -> f64 {
    present as f64 / records as f64
}

fn some_of(seen: &BTreeSet<String>) -> String {
    seen.iter().take(10).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
