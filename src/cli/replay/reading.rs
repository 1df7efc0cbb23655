//! Reads the ranges of a replay into batches, one topic after the other. The reading blocks, so it has its own thread.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use rdkafka::message::{BorrowedMessage, Message as _};
use tidegate_protocol::batch::BatchLimits;
use tidegate_protocol::batch::{Batch, Trigger};
use tidegate_protocol::position::Offset;
use tidegate_protocol::rate_limit::RateLimit;
use tidegate_rows::mapping::Encoder;
use tokio::sync::mpsc::Sender;

use super::replay_progress::Open;
use crate::config::{Config, Pipeline};
use crate::kafka::reader::{Reader, incoming, push_headers};
use crate::kafka::settings;
use crate::plan::{Planned, rejected_record};

pub(super) struct Reading {
    reader: Reader,
    planned: Arc<Planned>,
    limits: BatchLimits,
    gate: RateLimit,
    /// Sorted by topic.
    stretches: Vec<Open>,
    outbox: Sender<Batch>,
}

impl Reading {
    pub(super) fn new(
        config: &Config,
        pipeline: &Pipeline,
        planned: Arc<Planned>,
        mut stretches: Vec<Open>,
        outbox: Sender<Batch>,
    ) -> Result<Self, String> {
        stretches.sort_by(|a, b| a.source.cmp(&b.source));
        Ok(Self {
            reader: Reader::new(&settings::reader(&config.kafka, pipeline))?,
            planned,
            limits: pipeline.batch,
            gate: RateLimit::new(pipeline.max_rows_per_second),
            stretches,
            outbox,
        })
    }

    /// Reads all ranges. The channel is closed when the reading ends. Returns how many of the rows are deletes.
    ///
    /// # Errors
    /// The error of Kafka.
    pub(super) fn run(self) -> Result<u64, String> {
        let Self { reader, planned, limits, gate, stretches, outbox } = self;
        let encoder = Encoder::new(Arc::clone(&planned.plan));
        let mut filling = Filling { planned, encoder, limits, gate, outbox, batch: Batch::new(), allowance: 0 };
        for stretches in stretches.chunk_by(|a, b| a.source.topic == b.source.topic) {
            let ranges: Vec<(i32, Range<Offset>)> =
                stretches.iter().map(|open| (open.source.partition, open.next..open.end)).collect();
            let mut places: HashMap<i32, OpenRange> = stretches
                .iter()
                .map(|open| (open.source.partition, OpenRange { open: open.clone(), segment: None }))
                .collect();
            reader.read(&stretches[0].source.topic, &ranges, |message| filling.take(&mut places, message))?;
            filling.hand_over(&mut places, Trigger::Shutdown);
        }
        Ok(filling.encoder.deletes())
    }
}

/// A range, with the index of its segment in the open batch. `segment` is `None` until the batch has a record of the range.
struct OpenRange {
    open: Open,
    segment: Option<usize>,
}

struct Filling {
    planned: Arc<Planned>,
    encoder: Encoder,
    limits: BatchLimits,
    gate: RateLimit,
    outbox: Sender<Batch>,
    batch: Batch,
    /// How many more records may be read before [`RateLimit::take`] is called again.
    allowance: u64,
}

impl Filling {
    fn take(&mut self, places: &mut HashMap<i32, OpenRange>, message: &BorrowedMessage<'_>) {
        // If the writer has ended, it has reported why. Records that are read from now on are discarded.
        if self.outbox.is_closed() {
            return;
        }
        while self.allowance == 0 {
            self.allowance = self.gate.take(Instant::now());
            if self.allowance == 0 {
                std::thread::sleep(self.gate.opens_in(Instant::now()));
            }
        }
        self.allowance = self.allowance.saturating_sub(1);
        let Some(OpenRange { open, segment }) = places.get_mut(&message.partition()) else { return };
        let record = incoming(message);
        if record.offset < open.next {
            return;
        }
        let Self { planned, encoder, batch, .. } = self;
        let segment = *segment.get_or_insert_with(|| batch.open_segment(open.source.clone(), open.claim, open.next));
        open.next = record.offset.successor();
        let headers = |arena: &mut Vec<u8>| push_headers(message, arena);
        batch.push(segment, &record, Instant::now(), headers, |record, rows| {
            encoder.encode(record, rows).map_err(|rejection| rejected_record(&planned.plan, rejection))
        });
        let max_rows = self.limits.max_rows.get();
        if self.batch.row_count() >= max_rows || self.batch.len() >= 2 * max_rows {
            self.hand_over(places, Trigger::Rows);
        } else if self.batch.bytes() as u64 >= self.limits.max_bytes {
            self.hand_over(places, Trigger::Bytes);
        }
    }

    /// Sends the batch to the writer. Blocks while an earlier batch is still in the channel, possibly for as long as an outage
    /// of Postgres lasts. This is safe: a replay is in no consumer group, so no session can time out.
    fn hand_over(&mut self, places: &mut HashMap<i32, OpenRange>, trigger: Trigger) {
        if self.batch.is_empty() {
            return;
        }
        let mut batch = std::mem::take(&mut self.batch);
        for place in places.values_mut() {
            place.segment = None;
        }
        batch.plan_version = self.planned.version;
        batch.seal(trigger);
        // If the writer has ended, its error ends the command.
        drop(self.outbox.blocking_send(batch));
    }
}
