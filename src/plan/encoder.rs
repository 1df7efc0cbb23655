//! Encodes rows by the newest plan, and counts the fields that records lack.

use std::sync::Arc;

use tidegate_protocol::batch::RejectedRecord;
use tidegate_protocol::poll_loop::RecordEncoder;
use tidegate_protocol::record::{Headers, Record};
use tidegate_rows::mapping::{Encoder, Plan};
use tidegate_rows::value::EncodeError;
use tracing::warn;

use super::unseen::NeverSeen;
use super::{PlanSource, Planned};
use crate::metrics;
use crate::status::lock;

/// Encodes rows by one plan at a time, for a poll loop or a writer.
#[derive(Debug)]
pub struct PlannedEncoder {
    pub(crate) plans: Arc<PlanSource>,
    pub(crate) planned: Arc<Planned>,
    pub(crate) encoder: Encoder,
}

impl PlannedEncoder {
    pub fn new(plans: Arc<PlanSource>) -> Self {
        let planned = plans.current();
        let encoder = Encoder::new(Arc::clone(&planned.plan));
        let mut this = Self { encoder, planned, plans };
        // This call creates the series, so that each begins at 0.
        this.count_missing();
        this
    }

    /// Updates the metrics of missing fields. For each column, adds the rows since the last call whose record lacked the column's
    /// field. Logs once per plan which fields no record has had.
    fn count_missing(&mut self) {
        let pipeline = &self.plans.config.name;
        let mut unseen = lock(&self.plans.unseen);
        let counts = unseen.turn_to(self.planned.version);
        let rows = self.encoder.take_missing(|field| {
            metrics::fields_missing(pipeline, field.column, field.rows);
            if counts && self.plans.expects_field(field.column) {
                unseen.add(&field);
            }
        });
        if counts {
            unseen.add_rows(rows);
        }
        let Some((rows, never)) = unseen.news() else { return };
        drop(unseen);
        let fields: Vec<_> =
            never.iter().map(|NeverSeen { column, path }| format!("`{path}` (column `{column}`)")).collect();
        warn!(
            pipeline,
            rows,
            fields = fields.join(", "),
            "no record so far has these fields, so their columns are NULL; if that is not intended, correct `columns`"
        );
    }

    pub(crate) fn switch_to(&mut self, planned: Arc<Planned>) {
        self.encoder = Encoder::new(Arc::clone(&planned.plan));
        self.planned = planned;
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

/// Converts an encoding error to a [`RejectedRecord`], with the column's name from the plan. The batch sets the record's index
/// later.
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
