//! The queue to which partitions are forwarded.

use std::ffi::{CString, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::bindings as rd;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{IsError as _, KafkaError, KafkaResult};
use rdkafka::topic_partition_list::TopicPartitionList;

use crate::native::{Messages, Queue};
use crate::{Bulk, MAX_MESSAGES};

/// Reads the records of forwarded partitions in bulk, beside a consumer whose own queue keeps the events. A consumer should
/// have at most one such queue, because a second one takes over the wake-ups of the first.
///
/// When a `BatchQueue` is dropped, the partitions are forwarded to the consumer's queue. Records that were fetched but
/// not read move to that queue, in order. Records that were read but not taken are lost. A `BatchQueue` holds an `Arc`
/// of its consumer, so the consumer can't be dropped before it.
pub struct BatchQueue<C: ConsumerContext + 'static> {
    // Fields are dropped in the order of declaration. The consumer is the last one, because no other field may outlive it.
    messages: Messages,
    forwarded: Vec<Forwarded>,
    own: Arc<Own>,
    events: Queue,
    consumer: Arc<BaseConsumer<C>>,
}

struct Forwarded {
    topic: String,
    partition: i32,
    queue: Queue,
}

/// The state that the callbacks use. It is in an `Arc`, so that its address stays the same when the `BatchQueue` moves.
struct Own {
    queue: Queue,
    /// Whether an entry arrived in a partition's queue while that queue was not forwarded.
    strayed: AtomicBool,
    on_ready: Option<Box<dyn Fn() + Send + Sync>>,
}

impl Own {
    /// Calls `on_ready`; if there is none, ends a wait in [`BatchQueue::read`].
    fn wake(&self) {
        match &self.on_ready {
            Some(on_ready) => on_ready(),
            None => self.queue.wake(),
        }
    }
}

/// Called when the queue of the [`Own`] is empty and an entry arrives in it.
///
/// # Safety
/// `own` points to an [`Own`].
unsafe extern "C" fn on_record(_: *mut rd::rd_kafka_t, own: *mut c_void) {
    // SAFETY: the caller guarantees that `own` points to an [`Own`]. Only shared references to it exist.
    let own = unsafe { &*own.cast_const().cast::<Own>() };
    own.wake();
}

/// Called when the consumer's queue is empty and an event arrives in it.
///
/// # Safety
/// `own` points to an [`Own`].
unsafe extern "C" fn on_event(_: *mut rd::rd_kafka_t, own: *mut c_void) {
    // SAFETY: the caller guarantees that `own` points to an [`Own`]. Only shared references to it exist.
    let own = unsafe { &*own.cast_const().cast::<Own>() };
    own.wake();
}

/// Called when a partition's queue is empty and not forwarded, and an entry arrives in it.
///
/// # Safety
/// `own` points to an [`Own`].
unsafe extern "C" fn on_stray(_: *mut rd::rd_kafka_t, own: *mut c_void) {
    // SAFETY: the caller guarantees that `own` points to an [`Own`]. Only shared references to it exist.
    let own = unsafe { &*own.cast_const().cast::<Own>() };
    own.strayed.store(true, Ordering::Release);
    own.wake();
}

impl<C: ConsumerContext + 'static> BatchQueue<C> {
    /// Makes a queue for a consumer. This replaces the consumer's [non-empty callback](BaseConsumer::set_nonempty_callback).
    ///
    /// # Errors
    /// If the consumer has no `group.id`, and so no queue of its own.
    pub fn new(consumer: Arc<BaseConsumer<C>>) -> KafkaResult<Self> {
        Self::make(consumer, None)
    }

    /// Makes a queue that calls `on_ready` when records, or events of the consumer, may have arrived. After this call, check
    /// [`BatchQueue::is_ready`], and call `read` with a timeout of zero. Don't wait in [`BatchQueue::read`]: with such a queue,
    /// an event doesn't end that wait. `on_ready` is called while a queue is locked, usually on a thread of librdkafka. So it
    /// must neither block nor call librdkafka.
    ///
    /// # Errors
    /// As [`BatchQueue::new`].
    pub fn with_on_ready(
        consumer: Arc<BaseConsumer<C>>,
        on_ready: impl Fn() + Send + Sync + 'static,
    ) -> KafkaResult<Self> {
        Self::make(consumer, Some(Box::new(on_ready)))
    }

    fn make(consumer: Arc<BaseConsumer<C>>, on_ready: Option<Box<dyn Fn() + Send + Sync>>) -> KafkaResult<Self> {
        let client = consumer.client().native_ptr();
        // SAFETY: the client is alive.
        let events = unsafe { rd::rd_kafka_queue_get_consumer(client) };
        // SAFETY: the handle is new. It is dropped before `consumer`, here and in the returned value.
        let events = unsafe { Queue::from_raw(events) }
            .ok_or_else(|| KafkaError::ClientCreation("reading in bulk requires a `group.id`".to_owned()))?;
        // SAFETY: the client is alive.
        let queue = unsafe { rd::rd_kafka_queue_new(client) };
        // SAFETY: as for `events`.
        let queue = unsafe { Queue::from_raw(queue) }
            .ok_or_else(|| KafkaError::ClientCreation("librdkafka made no queue".to_owned()))?;
        let calls_back = on_ready.is_some();
        let own = Arc::new(Own { queue, strayed: AtomicBool::new(false), on_ready });
        let made = Self { messages: Messages::new(), forwarded: Vec::new(), own, events, consumer };
        // SAFETY: `made.own` lives until `Drop` has removed the callback.
        unsafe { made.events.set_callback(on_event, Arc::as_ptr(&made.own).cast()) }
        if calls_back {
            // SAFETY: as above.
            unsafe { made.own.queue.set_callback(on_record, Arc::as_ptr(&made.own).cast()) }
        }
        Ok(made)
    }

    /// Commits positions without waiting for Kafka's answer, which arrives on the consumer's own queue: a later
    /// [`BaseConsumer::poll`] passes it to [`ConsumerContext::commit_callback`]. [`BaseConsumer`]'s own asynchronous commit
    /// reports no answer, because librdkafka discards it.
    ///
    /// # Errors
    /// If the consumer is closed.
    pub fn commit(&self, positions: &TopicPartitionList) -> KafkaResult<()> {
        let client = self.consumer.client().native_ptr();
        // SAFETY: the client is alive as long as `consumer`, `events` is its queue, and the list is borrowed.
        let error = unsafe { self.events.commit(client, positions.ptr()) };
        if error.is_error() { Err(KafkaError::ConsumerCommit(error.into())) } else { Ok(()) }
    }

    /// Returns whether a read may return records or faults without waiting, or the consumer's queue has an event.
    pub fn is_ready(&self) -> bool {
        self.messages.remaining() > 0
            || self.own.strayed.load(Ordering::Acquire)
            || self.own.queue.is_occupied()
            || self.events.is_occupied()
    }

    /// Returns how many records and faults were read and not taken, at most [`MAX_MESSAGES`].
    pub fn remaining(&self) -> usize {
        self.messages.remaining()
    }

    pub fn consumer(&self) -> &Arc<BaseConsumer<C>> {
        &self.consumer
    }

    /// Forwards a partition's records and faults to this queue. Call this at each assignment, before the partition is assigned:
    /// see "Forwarding" in the [crate's documentation](crate). A second call is harmless.
    ///
    /// # Errors
    /// If the topic's name or the partition's number is not a valid one.
    pub fn forward(&mut self, topic: &str, partition: i32) -> KafkaResult<()> {
        let invalid = || KafkaError::Subscription(format!("cannot forward partition {partition} of topic `{topic}`"));
        let name = CString::new(topic).map_err(|_| invalid())?;
        if topic.is_empty() || partition < 0 {
            return Err(invalid());
        }
        let client = self.consumer.client().native_ptr();
        // SAFETY: the client is alive, and the name ends with a NUL.
        let queue = unsafe { rd::rd_kafka_queue_get_partition(client, name.as_ptr(), partition) };
        // SAFETY: the handle is new. It is dropped before the consumer.
        let queue = unsafe { Queue::from_raw(queue) }.ok_or_else(invalid)?;
        if let Some(known) = self.position(topic, partition) {
            // If the topic was deleted and created again, the old handle may belong to another queue.
            let known = self.forwarded.swap_remove(known);
            known.queue.clear_callback();
            known.queue.forward(None);
        }
        // SAFETY: `self.own` lives until `unforward` or `Drop` has removed the callback.
        unsafe { queue.set_callback(on_stray, Arc::as_ptr(&self.own).cast()) }
        // Forward after the callback is set. The call moves entries that have arrived before it. If librdkafka later
        // ends the forwarding, the callback reports new entries.
        queue.forward(Some(&self.own.queue));
        self.forwarded.push(Forwarded { topic: topic.to_owned(), partition, queue });
        Ok(())
    }

    /// Forwards a partition to the consumer's queue again, and drops the partition's records and faults that were read and not
    /// taken. Call this after the partition is unassigned, so that librdkafka also drops the records that were not read. Does
    /// nothing for a partition that was not forwarded to this queue.
    pub fn unforward(&mut self, topic: &str, partition: i32) {
        if let Some(known) = self.position(topic, partition) {
            let known = self.forwarded.swap_remove(known);
            known.queue.clear_callback();
            known.queue.forward(Some(&self.events));
            self.discard(topic, partition);
        }
    }

    /// Drops a partition's records and faults that were read and not taken. Call this after a seek, because they were read before
    /// it. librdkafka then delivers the records from the seek's offset on.
    pub fn discard(&mut self, topic: &str, partition: i32) {
        self.messages.remove(|message| message.partition() == partition && message.topic() == topic);
    }

    /// Returns the untaken records and faults of the last bulk. If there are none, waits for records for up to `timeout`,
    /// rounded up to whole milliseconds, and returns up to [`MAX_MESSAGES`] of those that have arrived.
    ///
    /// Doesn't wait for a full bulk. Returns an empty bulk when the time is over, or when the consumer's queue has an
    /// event: poll the consumer between two reads, to handle such events.
    ///
    /// # Errors
    /// The error that librdkafka reports. The current version reports none.
    pub fn read(&mut self, timeout: Duration) -> KafkaResult<Bulk<'_>> {
        // Also destroy the records of a bulk that was forgotten (`mem::forget`) instead of dropped.
        self.messages.destroy_taken();
        if self.messages.remaining() == 0 {
            self.messages.clear();
            self.fill(timeout).map_err(KafkaError::MessageConsumption)?;
        }
        Ok(Bulk::new(&mut self.messages))
    }

    fn fill(&mut self, timeout: Duration) -> Result<(), rdkafka::error::RDKafkaErrorCode> {
        let Self { messages, own, .. } = self;
        let started = (!timeout.is_zero()).then(Instant::now);
        loop {
            if own.strayed.swap(false, Ordering::Acquire) {
                for partition in &self.forwarded {
                    partition.queue.forward(Some(&own.queue));
                }
            }
            // This call doesn't wait, but it may consume a pending wake-up. So check for the causes of a wake-up (`strayed`, or
            // an event in the consumer's queue) after this call and before the wait. A wake-up after these checks ends the wait.
            if messages.fill(&own.queue, Duration::ZERO, MAX_MESSAGES)? > 0 {
                return Ok(());
            }
            let Some(left) = started.and_then(|started| timeout.checked_sub(started.elapsed())) else { return Ok(()) };
            if own.strayed.load(Ordering::Acquire) {
                continue;
            }
            if self.events.is_occupied() {
                return Ok(());
            }
            // librdkafka waits for as many messages as are requested. So request one first, and then the others without
            // waiting.
            if messages.fill(&own.queue, left, 1)? > 0 {
                messages.fill(&own.queue, Duration::ZERO, MAX_MESSAGES)?;
                return Ok(());
            }
            if !own.strayed.load(Ordering::Acquire) {
                return Ok(());
            }
        }
    }

    fn position(&self, topic: &str, partition: i32) -> Option<usize> {
        self.forwarded.iter().position(|known| known.partition == partition && known.topic == topic)
    }
}

impl<C: ConsumerContext + 'static> Drop for BatchQueue<C> {
    fn drop(&mut self) {
        self.messages.clear();
        // Clear the callback of the consumer's queue before our queue is forwarded to it. librdkafka calls this callback with the
        // consumer's queue locked, and the callback then locks our queue. Forwarding locks the two in the opposite order, so two
        // threads could deadlock.
        self.events.clear_callback();
        self.own.queue.clear_callback();
        // Forward our queue first, which moves its entries, and the partitions after that. So the records keep their
        // order.
        self.own.queue.forward(Some(&self.events));
        for partition in self.forwarded.drain(..) {
            partition.queue.clear_callback();
            partition.queue.forward(Some(&self.events));
        }
        // End our queue's forwarding before the queue is destroyed: destroying a queue empties the queue to which it is
        // forwarded.
        self.own.queue.forward(None);
    }
}
