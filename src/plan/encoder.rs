//! Encodes rows by the newest plan, and counts the fields that records lack.

use std::collections::BTreeMap;
use std::sync::Arc;

use tidegate_protocol::batch::RejectedRecord;
use tidegate_protocol::poll_loop::RecordEncoder;
use tidegate_protocol::record::{Headers, Record};
use tidegate_rows::mapping::{Encoder, Plan};
use tidegate_rows::value::EncodeError;
use tracing::warn;

use super::{PlanSource, Planned};
use crate::metrics;

/// After this many rows, the log names the fields that none of them had.
const NEVER_SEEN_AFTER: u64 = 1000;

/// Encodes rows by one plan at a time, for a poll loop or a writer.
#[derive(Debug)]
pub struct PlannedEncoder {
    pub(crate) plans: Arc<PlanSource>,
    /// The plan in use.
    pub(crate) planned: Arc<Planned>,
    pub(crate) encoder: Encoder,
    /// The number of rows encoded by this plan.
    seen: u64,
    /// For each column without a default: the path of its field, and how many of the `seen` rows lacked the field.
    missing: BTreeMap<String, (String, u64)>,
    /// Whether the log has already named the fields that no record has.
    named: bool,
}

impl PlannedEncoder {
    /// Makes an encoder that uses the plans of this source.
    pub fn new(plans: Arc<PlanSource>) -> Self {
        let planned = plans.current();
        let encoder = Encoder::new(Arc::clone(&planned.plan));
        let mut this = Self { encoder, planned, plans, seen: 0, missing: BTreeMap::new(), named: false };
        // This call registers the metrics, so that each series begins at 0.
        this.count_missing();
        this
    }

    /// Adds to the metrics, for each column, the number of rows since the last call that lacked the column's field.
    /// Logs once which fields no record has.
    fn count_missing(&mut self) {
        let (pipeline, missing) = (&self.plans.config.name, &mut self.missing);
        self.seen += self.encoder.take_missing(|field| {
            metrics::fields_missing(pipeline, field.column, field.rows);
            match missing.get_mut(field.column) {
                Some((_, rows)) => *rows += field.rows,
                None if field.has_default => {}
                None => {
                    missing.insert(field.column.to_owned(), (field.path.join("."), field.rows));
                }
            }
        });
        if self.named || self.seen < NEVER_SEEN_AFTER {
            return;
        }
        let never = self.missing.iter().filter(|(_, (_, rows))| *rows >= self.seen);
        let fields: Vec<_> = never.map(|(column, (path, _))| format!("`{path}` (column `{column}`)")).collect();
        if !fields.is_empty() {
            self.named = true;
            warn!(
                pipeline,
                rows = self.seen,
                fields = fields.join(", "),
                "no record so far has these fields, so their columns are NULL; if that is not intended, correct `columns`"
            );
        }
    }

    /// Switches to this plan.
    pub(crate) fn switch_to(&mut self, planned: Arc<Planned>) {
        self.encoder = Encoder::new(Arc::clone(&planned.plan));
        self.planned = planned;
        self.seen = 0;
        self.missing.clear();
    }
}

impl RecordEncoder for PlannedEncoder {
    #[inline]
    fn wants(&mut self, key: Option<&[u8]>, value: Option<&[u8]>, headers: Headers<'_>) -> bool {
        self.encoder.wants(key, value, headers).is_some()
    }

    fn reads_headers(&self) -> bool {
        self.encoder.reads_headers()
    }

    #[inline]
    fn encode(&mut self, record: &Record<'_>, rows: &mut Vec<u8>) -> Result<u32, RejectedRecord> {
        self.encoder.encode(record, rows).map_err(|rejection| rejected_record(&self.planned.plan, rejection))
    }

    fn version(&self) -> u64 {
        self.planned.version
    }

    fn renew(&mut self) {
        self.count_missing();
        if self.planned.version != self.plans.version() {
            self.switch_to(self.plans.current());
        }
    }
}

/// Converts an encoding error to a [`RejectedRecord`]. The plan has the column's name.
#[cold]
pub fn rejected_record(plan: &Plan, rejection: EncodeError) -> RejectedRecord {
    RejectedRecord {
        record: 0,
        reason: rejection.reason.code(),
        sqlstate: None,
        column: rejection.column.and_then(|column| plan.column_name(column)).map(Into::into),
        detail: rejection.detail.into(),
    }
}
