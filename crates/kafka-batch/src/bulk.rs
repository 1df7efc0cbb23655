//! The result of a read: faults, and runs of records. A run has consecutive records of one partition.

use std::borrow::Cow;

use rdkafka::bindings::{rd_kafka_resp_err_t, rd_kafka_topic_t};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::native::{HeaderList, MessageRef, Messages, Taking};

/// The records and faults that [`BatchQueue::read`](crate::BatchQueue::read) returns, in the order in which librdkafka
/// delivered them. A bulk may be empty.
///
/// When the bulk is dropped, its taken records and faults are destroyed. The untaken ones stay in the queue, and the next read
/// returns them. So a caller may stop after any record.
pub struct Bulk<'q> {
    messages: &'q mut Messages,
}

pub enum Item<'b> {
    Run(Run<'b>),
    /// An error of one partition. More records of the partition may follow it.
    Fault(Fault<'b>),
}

impl<'q> Bulk<'q> {
    pub(crate) fn new(messages: &'q mut Messages) -> Self {
        Self { messages }
    }

    /// Returns how many records and faults are left to take, at most [`MAX_MESSAGES`](crate::MAX_MESSAGES).
    pub fn len(&self) -> usize {
        self.messages.remaining()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the next run or fault, or `None` when the bulk is used up. A fault counts as taken when it is returned.
    /// The records of a run are taken one by one. If the caller doesn't take all of them, the next run begins with the
    /// first untaken record.
    pub fn next_item(&mut self) -> Option<Item<'_>> {
        let mut taking = self.messages.taking();
        let message = taking.peek()?;
        if message.error_number() != 0 {
            taking.take();
            return Some(Item::Fault(Fault { message }));
        }
        let (topic_pointer, partition) = (message.topic_pointer(), message.partition());
        let records = Records { topic_pointer, partition, taking };
        Some(Item::Run(Run { topic: message.topic(), partition, records }))
    }
}

impl Drop for Bulk<'_> {
    fn drop(&mut self) {
        self.messages.destroy_taken();
    }
}

/// Consecutive records of one partition.
pub struct Run<'b> {
    pub topic: &'b str,
    pub partition: i32,
    pub records: Records<'b>,
}

/// The records of a run. A record is taken when the iterator yields it.
pub struct Records<'b> {
    topic_pointer: *mut rd_kafka_topic_t,
    partition: i32,
    taking: Taking<'b>,
}

impl<'b> Records<'b> {
    /// Offers the next record to `takes`. If `takes` returns true, the record is taken. Otherwise the next run begins with this
    /// record. Returns what `takes` returned, or `None` at the end of the run.
    #[inline]
    pub fn next_if(&mut self, takes: impl FnOnce(Record<'b>) -> bool) -> Option<bool> {
        let record = self.peek()?;
        let taken = takes(record);
        if taken {
            self.taking.take();
        }
        Some(taken)
    }

    #[inline]
    fn peek(&self) -> Option<Record<'b>> {
        let message = self.taking.peek()?;
        // Each message of a bulk holds a reference to its topic, so equal pointers mean the same topic.
        if message.partition() != self.partition
            || message.topic_pointer() != self.topic_pointer
            || message.error_number() != 0
        {
            return None;
        }
        Some(Record { message })
    }
}

impl<'b> Iterator for Records<'b> {
    type Item = Record<'b>;

    #[inline]
    fn next(&mut self) -> Option<Record<'b>> {
        let record = self.peek()?;
        self.taking.take();
        Some(record)
    }
}

/// A record. The data that its methods return lives as long as the borrow of its bulk.
#[derive(Clone, Copy)]
pub struct Record<'b> {
    message: MessageRef<'b>,
}

impl<'b> Record<'b> {
    /// Returns the offset, 0 or greater. Offsets of a partition grow, but not always by 1.
    pub fn offset(&self) -> i64 {
        self.message.offset()
    }

    pub fn key(&self) -> Option<&'b [u8]> {
        self.message.key()
    }

    /// Returns the value, `None` for a tombstone.
    pub fn value(&self) -> Option<&'b [u8]> {
        self.message.payload()
    }

    /// Returns the record's time in milliseconds since 1970, `None` if the broker stores none.
    pub fn timestamp(&self) -> Option<i64> {
        self.message.timestamp()
    }

    /// Returns the headers in their order. librdkafka parses them at the first call, which allocates; a record without
    /// headers costs one call and no allocation. If librdkafka cannot parse the headers, returns none of them, as
    /// `rdkafka` does.
    pub fn headers(&self) -> Headers<'b> {
        Headers { list: self.message.headers(), next: 0 }
    }
}

/// The headers of a record: pairs of a name and a value. A name consists of any bytes except NUL, in practice UTF-8.
#[derive(Clone)]
pub struct Headers<'b> {
    list: HeaderList<'b>,
    next: usize,
}

impl<'b> Iterator for Headers<'b> {
    type Item = (&'b [u8], Option<&'b [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.list.get(self.next)?;
        self.next += 1;
        Some(header)
    }
}

/// An error that librdkafka reports in the stream of a partition. Examples are the end of the partition (`enable.partition.eof`),
/// an offset outside of the log (`auto.offset.reset = error`), a denied or failed fetch, and a record batch that cannot be
/// decoded.
///
/// A fault may move librdkafka's position: see "Positions" in the [crate's documentation](crate).
#[derive(Clone, Copy)]
pub struct Fault<'b> {
    message: MessageRef<'b>,
}

impl<'b> Fault<'b> {
    /// Returns the error code. A number that the bindings don't know becomes [`RDKafkaErrorCode::Unknown`]; [`Fault::text`]
    /// usually describes the error nevertheless.
    pub fn code(&self) -> RDKafkaErrorCode {
        let number = self.message.error_number();
        rd_kafka_resp_err_t::try_from(number).map_or(RDKafkaErrorCode::Unknown, RDKafkaErrorCode::from)
    }

    /// Returns the error as [`BaseConsumer::poll`](rdkafka::consumer::BaseConsumer::poll) would.
    pub fn error(&self) -> KafkaError {
        match self.code() {
            RDKafkaErrorCode::PartitionEOF => KafkaError::PartitionEOF(self.partition()),
            code => KafkaError::MessageConsumption(code),
        }
    }

    /// Returns librdkafka's description, which usually names the broker, the offset and the cause. If there is none, returns
    /// the description of the code.
    pub fn text(&self) -> Cow<'b, str> {
        match self.message.payload() {
            Some(text) => String::from_utf8_lossy(text),
            None => Cow::Owned(self.code().to_string()),
        }
    }

    /// Returns the topic's name; empty if librdkafka names none.
    pub fn topic(&self) -> &'b str {
        self.message.topic()
    }

    /// Returns the partition; negative if librdkafka names none.
    pub fn partition(&self) -> i32 {
        self.message.partition()
    }

    /// Returns the fault's offset. For a failed fetch, and for the end of a partition, this is the next offset to fetch.
    /// Negative if librdkafka names none.
    pub fn offset(&self) -> i64 {
        self.message.offset()
    }
}
