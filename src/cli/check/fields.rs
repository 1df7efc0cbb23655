//! For each column, counts the sampled rows that have its field. Reports columns whose field is missing or rare. Handles all
//! formats. Only [`Fields::look_at_versions`] does I/O.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::{Deserializer, Value};
use tidegate_protocol::record::Record;
use tidegate_rows::mapping::{Encoder, SchemasMet};
use tidegate_rows::schema::{Schema, SchemaId};
use tidegate_rows::spec::{Decode, Missing, Source, UnknownFields};

use super::report::PipelineReport;
use crate::config::{Pipeline, nearest};
use crate::registry::CachedSchemas;

/// If fewer than this share of the rows have a column's field, `check` warns.
const FEW: f64 = 0.1;
/// How many field names are kept for "did you mean". The limit keeps records with generated names from filling the memory.
const SEEN_MAX: usize = 10_000;
/// How many levels of nested objects are searched for field names.
const DEPTH_MAX: usize = 8;

/// A column that a field fills, and the number of rows that have this field.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Share {
    pub(super) column: String,
    pub(super) field: String,
    /// Rows that have the field, even if it is null.
    pub(super) present: u64,
    /// Rows that were read; one record may have several. Deletes, and rows that the row filter leaves out, are not counted.
    pub(super) records: u64,
    /// Says which part of the field's path the records' schemas lack. `None` if one of the schemas has the field.
    #[serde(skip)]
    lack: Option<String>,
    /// The id of another version of the records' schemas that has the field. `None` if no version has it, or if the records' own
    /// schemas have it.
    #[serde(skip)]
    version: Option<SchemaId>,
}

/// Counts and names of the fields of the sampled records.
#[derive(Debug, Default)]
pub(super) struct Fields {
    /// The number of rows, counted as for the metric `tidegate_fields_missing_total`.
    rows: u64,
    shares: Vec<Share>,
    schemas: SchemasMet,
    /// Why some other versions of the records' schemas could not be read. `None` if all were read, or if none was needed.
    unread: Option<String>,
    /// The paths of the fields that were seen in JSON records, such as `position.lat`, for "did you mean".
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

    /// Looks in other versions of the records' schemas for the paths that the records' schemas lack. Requests the other versions
    /// from the registry, and blocks.
    pub(super) fn look_at_versions(&mut self, registry: &CachedSchemas, encoder: &Encoder) {
        let Self { schemas, unread, .. } = self;
        let lacking = schemas.lacking();
        let add = |of, id, schema: &Schema| schemas.add_version(encoder.plan(), of, id, schema);
        *unread = registry.other_versions(&lacking, add).err();
    }

    /// Takes over the counts of the encoder that encoded the sample.
    pub(super) fn take(&mut self, encoder: &mut Encoder) {
        let (mut counts, schemas, plan) = (Vec::new(), &self.schemas, encoder.plan().clone());
        let records = encoder.take_missing(|missing| {
            let lack = schemas.lack(&plan, missing.path).map(str::to_owned);
            let version = schemas.version_with(&plan, missing.path);
            counts.push((missing.column.to_owned(), missing.path.join("."), missing.rows, lack, version));
        });
        let share = |(column, field, missing, lack, version)| Share {
            column,
            field,
            present: records.saturating_sub(missing),
            records,
            lack,
            version,
        };
        (self.rows, self.shares) = (records, counts.into_iter().map(share).collect());
    }

    /// Remembers a record's schema and, if the record is JSON, the names of its fields.
    pub(super) fn see(&mut self, record: &Record<'_>, encoder: &Encoder) {
        encoder.meet_schema(record, &mut self.schemas);
        // Field names are suggested for JSON records only.
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
            // The elements of an array may be rows, so continue in each element, under the same path.
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

    /// Reports columns whose field is in no record or in few records. Returns the counts.
    pub(super) fn judged(self, pipeline: &Pipeline, report: &mut PipelineReport) -> Vec<Share> {
        let records = self.rows;
        if records == 0 {
            return Vec::new();
        }
        // Check only columns that are mapped to a field of the row. It is normal that a column without a mapping has no field,
        // and that few records have a certain field of Debezium's envelope.
        let mapped = pipeline.columns.iter().flatten().filter(|column| matches!(column.source, Source::Field(_)));
        let mapped: BTreeSet<_> = mapped.map(|column| column.name.as_str()).collect();
        for Share { column, field, present, lack, version, .. } in
            self.shares.iter().filter(|share| mapped.contains(&*share.column))
        {
            let key = format!("pipelines.{}.columns.{column}", pipeline.name);
            let whose = format!("{records} newest {}", self::records(pipeline));
            if *present == 0 {
                if let (Some(_), Some(id)) = (lack, version) {
                    report.warnings.push(format!(
                        "{key}: none of the {whose} has field `{field}`, because their schemas don't have it; schema {id} does, which is another version of them"
                    ));
                    continue;
                }
                // Look for a field of the same name at another level, or of a similar name.
                let last = field.rsplit('.').next().unwrap_or(field);
                let ends = |seen: &&String| seen.rsplit('.').next() == Some(last);
                let meant = nearest(field, self.seen.iter().map(String::as_str))
                    .or_else(|| self.seen.iter().find(ends).map(String::as_str));
                let hint = match (lack, meant) {
                    (Some(lack), _) => match &self.unread {
                        Some(why) => format!("; {lack}; not all other versions of the schema could be read: {why}"),
                        None => format!("; {lack}"),
                    },
                    (None, Some(meant)) => format!("; did you mean `{meant}`?"),
                    (None, None) if self.seen.is_empty() => String::new(),
                    (None, None) => format!("; the records have {}", some_of(&self.seen)),
                };
                // A Protobuf record leaves out fields that aren't set. So a field that the schema has may still appear in later
                // records.
                let is_unset = matches!(pipeline.decode, Decode::Protobuf(_)) && lack.is_none();
                let mut stated = pipeline.columns.iter().flatten();
                let is_meant = stated.any(|of| of.name == *column && of.missing == Some(Missing::Null));
                let is_doubtful = is_unset || is_meant;
                let to = if is_doubtful { &mut report.warnings } else { &mut report.faults };
                to.push(format!("{key}: none of the {whose} has field `{field}`{hint}"));
            } else if ratio(*present, records) < FEW {
                report.warnings.push(format!("{key}: only {present} of the {whose} have field `{field}`"));
            }
        }
        self.unmapped(pipeline, &mapped, report);
        self.shares
    }

    /// Checks the columns that have no mapping, and are filled from fields of the same names. It is normal that a single column
    /// has no field, so such a column is only reported if a field has a similar name. It is a fault if no column has a mapping
    /// and no record has any of these fields: the rows would only have defaults and NULLs. Except: it is no fault if `evolve` or
    /// `unknown_fields` takes the records' fields, or if the records are Protobuf, which leave out fields.
    fn unmapped(&self, pipeline: &Pipeline, mapped: &BTreeSet<&str>, report: &mut PipelineReport) {
        let shares = &self.shares;
        let takes_any = pipeline.table.evolve || matches!(pipeline.unknown_fields, UnknownFields::Column(_));
        let missing: Vec<_> =
            shares.iter().filter(|share| !mapped.contains(&*share.column) && share.present == 0).collect();
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
        // A Protobuf record leaves out fields that aren't set, so missing fields are no fault.
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
            self.rows,
            records(pipeline),
            pipeline.table.name
        ));
    }
}

pub(super) fn records(pipeline: &Pipeline) -> &'static str {
    let is_several = !pipeline.shape.rows.is_empty() || matches!(pipeline.decode, Decode::NdJson | Decode::Csv(_));
    if is_several { "rows" } else { "records" }
}

#[expect(clippy::cast_precision_loss, reason = "a sample is far below 2^53 records")]
fn ratio(present: u64, records: u64) -> f64 {
    present as f64 / records as f64
}

fn some_of(seen: &BTreeSet<String>) -> String {
    seen.iter().take(10).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}
