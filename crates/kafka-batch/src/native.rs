//! Types that own librdkafka's queues and messages, and destroy them when they are dropped.
//!
//! The pointers of these types belong to a client, which these types don't keep alive. `BatchQueue` does: it owns values of these
//! types and an `Arc` of the consumer, and drops the consumer last.

use std::ffi::{CStr, c_void};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::time::Duration;

use rdkafka::bindings as rd;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::types::RDKafkaRespErr;

use crate::MAX_MESSAGES;

/// A function that librdkafka calls when an entry arrives in an empty queue. The queue is locked during the call.
pub(crate) type EventCallback = unsafe extern "C" fn(*mut rd::rd_kafka_t, *mut c_void);

/// A handle on a queue. Dropping it releases the handle. A queue made by `rd_kafka_queue_new` is then disabled and emptied; any
/// other queue continues to exist.
pub(crate) struct Queue(NonNull<rd::rd_kafka_queue_t>);

// SAFETY: librdkafka guards every queue with a mutex of its own, and a handle can be destroyed on any thread.
unsafe impl Send for Queue {}
// SAFETY: as above; the methods that take `&self` only call functions which take that mutex.
unsafe impl Sync for Queue {}

impl Queue {
    /// Takes ownership of a handle. Returns `None` for a null pointer.
    ///
    /// # Safety
    /// `handle` is null or a handle that nobody else destroys, and its client outlives the returned value.
    pub(crate) unsafe fn from_raw(handle: *mut rd::rd_kafka_queue_t) -> Option<Self> {
        NonNull::new(handle).map(Self)
    }

    /// Forwards the queue's present and future entries to the queue `to`. `None` ends the forwarding.
    pub(crate) fn forward(&self, to: Option<&Self>) {
        let to = to.map_or(ptr::null_mut(), |queue| queue.0.as_ptr());
        // SAFETY: both handles are alive as long as their owners. librdkafka counts the reference to the target.
        unsafe { rd::rd_kafka_queue_forward(self.0.as_ptr(), to) }
    }

    /// Sets the callback, which is called whenever an entry arrives in the queue while the queue is empty.
    ///
    /// # Safety
    /// `opaque` stays valid for `callback`, on any thread, until [`Queue::clear_callback`] returns. That function may
    /// be called on any handle on this queue.
    pub(crate) unsafe fn set_callback(&self, callback: EventCallback, opaque: *const c_void) {
        // SAFETY: the handle is alive, and the caller guarantees that `opaque` is valid.
        unsafe { rd::rd_kafka_queue_cb_event_enable(self.0.as_ptr(), Some(callback), opaque.cast_mut()) }
    }

    /// Removes the callback. librdkafka both calls and removes a callback with the queue's lock held, so the callback isn't
    /// running when this function returns.
    pub(crate) fn clear_callback(&self) {
        // SAFETY: the handle is alive, and without a function the opaque pointer is not used.
        unsafe { rd::rd_kafka_queue_cb_event_enable(self.0.as_ptr(), None, ptr::null_mut()) }
    }

    /// Ends the current wait on this queue, or the next wait if nobody waits now.
    pub(crate) fn wake(&self) {
        // SAFETY: the handle is alive.
        unsafe { rd::rd_kafka_queue_yield(self.0.as_ptr()) }
    }

    /// Sends a commit of these positions. Kafka's answer comes to this queue as an event.
    ///
    /// # Safety
    /// `client` is alive and owns this queue; `positions` is a list that stays alive during the call.
    pub(crate) unsafe fn commit(
        &self,
        client: *mut rd::rd_kafka_t,
        positions: *const rd::rd_kafka_topic_partition_list_t,
    ) -> RDKafkaRespErr {
        // SAFETY: the handle is alive, and the caller guarantees that client and list are alive. librdkafka copies the list.
        unsafe { rd::rd_kafka_commit_queue(client, positions, self.0.as_ptr(), None, ptr::null_mut()) }
    }

    /// Returns whether this queue, or the one to which it is forwarded, has an entry.
    pub(crate) fn is_occupied(&self) -> bool {
        // SAFETY: the handle is alive.
        let length = unsafe { rd::rd_kafka_queue_length(self.0.as_ptr()) };
        length > 0
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: the handle is owned and is not used after this.
        unsafe { rd::rd_kafka_queue_destroy(self.0.as_ptr()) }
    }
}

/// The messages of a bulk. The array of slots is reused for the next bulk.
///
/// Invariant: `first <= taken <= end <= MAX_MESSAGES`, and the slots from `first` to `end` hold messages that this value owns. Of
/// these, the messages before `taken` were taken.
pub(crate) struct Messages {
    slots: Box<[*mut rd::rd_kafka_message_t]>,
    first: usize,
    taken: usize,
    end: usize,
}

// SAFETY: a message is bound to no thread. Shared access from several threads is excluded: this type is not
// `Sync`, and neither is [`MessageRef`].
unsafe impl Send for Messages {}

impl Messages {
    pub(crate) fn new() -> Self {
        Self { slots: vec![ptr::null_mut(); MAX_MESSAGES].into_boxed_slice(), first: 0, taken: 0, end: 0 }
    }

    pub(crate) fn remaining(&self) -> usize {
        self.end - self.taken
    }

    pub(crate) fn clear(&mut self) {
        self.taken = self.end;
        self.destroy_taken();
        (self.first, self.taken, self.end) = (0, 0, 0);
    }

    /// Destroys the messages that were taken. A fetch buffer is freed with the last message in it.
    pub(crate) fn destroy_taken(&mut self) {
        while self.first < self.taken {
            let message = self.slots[self.first];
            // Advance before the call, so that no message is ever destroyed twice.
            self.first += 1;
            // SAFETY: by the invariant the slot held a message that is owned here, and the slot is no longer in `first..end`. A
            // [`MessageRef`] borrows this value through the bulk, so none is alive while this function borrows it mutably.
            unsafe { rd::rd_kafka_message_destroy(message) }
        }
    }

    /// Appends up to `limit` messages to those already in the bulk. Waits until `limit` messages have arrived, the
    /// queue is woken, or `wait` has passed. Returns how many were appended.
    ///
    /// # Errors
    /// The error that librdkafka reports.
    pub(crate) fn fill(&mut self, queue: &Queue, wait: Duration, limit: usize) -> Result<usize, RDKafkaErrorCode> {
        let room = &mut self.slots[self.end..];
        let limit = limit.min(room.len());
        let wait = milliseconds(wait);
        // SAFETY: the handle is alive, and `room` has at least `limit` slots that hold nothing.
        let read = unsafe { rd::rd_kafka_consume_batch_queue(queue.0.as_ptr(), wait, room.as_mut_ptr(), limit) };
        match usize::try_from(read) {
            Ok(read) => {
                self.end += read;
                Ok(read)
            }
            Err(_) => {
                // SAFETY: the call only reads a variable of this thread.
                Err(unsafe { rd::rd_kafka_last_error() }.into())
            }
        }
    }

    /// Removes and destroys the untaken messages for which `unwanted` returns true. The remaining ones keep their order.
    pub(crate) fn remove(&mut self, unwanted: impl Fn(MessageRef<'_>) -> bool) {
        self.destroy_taken();
        // Move the unwanted messages before the wanted ones, and count them as taken.
        for current in self.taken..self.end {
            // SAFETY: by the invariant the slot holds a message, and it stays there during the call.
            let message = unsafe { MessageRef::new(self.slots[current]) };
            if unwanted(message) {
                self.slots[self.taken..=current].rotate_right(1);
                self.taken += 1;
            }
        }
        self.destroy_taken();
    }

    pub(crate) fn taking(&mut self) -> Taking<'_> {
        Taking { slots: &self.slots[..self.end], taken: &mut self.taken }
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        self.clear();
    }
}

/// The untaken messages of a bulk. As long as this value or one of its messages lives, no message is destroyed.
pub(crate) struct Taking<'b> {
    slots: &'b [*mut rd::rd_kafka_message_t],
    taken: &'b mut usize,
}

impl<'b> Taking<'b> {
    pub(crate) fn peek(&self) -> Option<MessageRef<'b>> {
        let slot = self.slots.get(*self.taken)?;
        // SAFETY: by the invariant of `Messages` the slot holds a message. Destroying it needs a mutable borrow of the
        // `Messages`, which are borrowed for `'b`.
        Some(unsafe { MessageRef::new(*slot) })
    }

    /// Marks the first untaken message as taken. The message stays alive for `'b`.
    pub(crate) fn take(&mut self) {
        assert!(*self.taken < self.slots.len(), "nothing is left to take");
        *self.taken += 1;
    }
}

/// A message that lives for `'m`. It is neither `Send` nor `Sync`, because librdkafka parses headers without a lock, when they
/// are requested for the first time.
#[derive(Clone, Copy)]
pub(crate) struct MessageRef<'m>(NonNull<rd::rd_kafka_message_t>, PhantomData<&'m Messages>);

impl<'m> MessageRef<'m> {
    /// # Safety
    /// `message` is a message which lives for `'m`.
    unsafe fn new(message: *mut rd::rd_kafka_message_t) -> Self {
        Self(NonNull::new(message).expect("a slot of the bulk is empty"), PhantomData)
    }

    fn fields(&self) -> *const rd::rd_kafka_message_t {
        self.0.as_ptr()
    }

    /// Returns the error number; 0 for a record. A broker may send numbers that the Rust enumeration lacks, so the number must
    /// not be read as this enumeration.
    pub(crate) fn error_number(&self) -> i32 {
        // SAFETY: the message is alive; this takes the field's address without reading it.
        let error = unsafe { &raw const (*self.fields()).err };
        // SAFETY: the field has the size and the alignment of an `i32`, which is the representation of the enumeration.
        unsafe { error.cast::<i32>().read() }
    }

    pub(crate) fn topic_pointer(&self) -> *mut rd::rd_kafka_topic_t {
        // SAFETY: the message is alive.
        unsafe { (*self.fields()).rkt }
    }

    pub(crate) fn topic(&self) -> &'m str {
        let topic = self.topic_pointer();
        if topic.is_null() {
            return "";
        }
        // SAFETY: a message holds a reference to its topic.
        let name = unsafe { rd::rd_kafka_topic_name(topic) };
        // SAFETY: the name ends with a NUL and lives as long as the topic.
        let name = unsafe { CStr::from_ptr(name) };
        name.to_str().expect("Kafka's topic names consist of ASCII letters, digits, `.`, `_` and `-`")
    }

    pub(crate) fn partition(&self) -> i32 {
        // SAFETY: the message is alive.
        unsafe { (*self.fields()).partition }
    }

    pub(crate) fn offset(&self) -> i64 {
        // SAFETY: the message is alive.
        unsafe { (*self.fields()).offset }
    }

    /// Returns the record's value; if the message is an error, the error's text.
    pub(crate) fn payload(&self) -> Option<&'m [u8]> {
        // SAFETY: the message is alive.
        let start = unsafe { (*self.fields()).payload };
        // SAFETY: the message is alive.
        let length = unsafe { (*self.fields()).len };
        // SAFETY: the pointer is null or points to `length` bytes that live as long as the message.
        unsafe { bytes(start, length) }
    }

    pub(crate) fn key(&self) -> Option<&'m [u8]> {
        // SAFETY: the message is alive.
        let start = unsafe { (*self.fields()).key };
        // SAFETY: the message is alive.
        let length = unsafe { (*self.fields()).key_len };
        // SAFETY: the pointer is null or points to `length` bytes that live as long as the message.
        unsafe { bytes(start, length) }
    }

    /// Returns the timestamp in milliseconds since 1970; `None` if the message has none.
    pub(crate) fn timestamp(&self) -> Option<i64> {
        let mut kind = rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is alive, and `kind` is a variable into which librdkafka may write.
        let timestamp = unsafe { rd::rd_kafka_message_timestamp(self.fields(), &raw mut kind) };
        let known = timestamp != -1 && kind != rd::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        known.then_some(timestamp)
    }

    /// Returns the headers, which librdkafka parses at the first call. The list is empty if the message has no headers, or if
    /// librdkafka cannot parse them.
    pub(crate) fn headers(&self) -> HeaderList<'m> {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is alive and used by this thread alone: `MessageRef` is neither `Send` nor `Sync`.
        let error = unsafe { rd::rd_kafka_message_headers(self.fields(), &raw mut headers) };
        let parsed = error == rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
        HeaderList(if parsed { headers } else { ptr::null_mut() }, PhantomData)
    }
}

/// The headers of a message that lives for `'m`.
#[derive(Clone, Copy)]
pub(crate) struct HeaderList<'m>(*const rd::rd_kafka_headers_t, PhantomData<&'m Messages>);

impl<'m> HeaderList<'m> {
    /// Returns the name and the value of the header at `index`; `None` after the last one.
    pub(crate) fn get(&self, index: usize) -> Option<(&'m [u8], Option<&'m [u8]>)> {
        if self.0.is_null() {
            return None;
        }
        let (mut name, mut value, mut length) = (ptr::null(), ptr::null(), 0);
        // SAFETY: the list lives as long as its message, and librdkafka may write into the three variables.
        let error =
            unsafe { rd::rd_kafka_header_get_all(self.0, index, &raw mut name, &raw mut value, &raw mut length) };
        if error != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return None;
        }
        // SAFETY: a header's name ends with a NUL and lives as long as the list.
        let name = unsafe { CStr::from_ptr(name) };
        // SAFETY: the pointer is null or points to `length` bytes that live as long as the list.
        Some((name.to_bytes(), unsafe { bytes(value, length) }))
    }
}

/// # Safety
/// `start` is null or points to `length` bytes that live and don't change for `'a`.
unsafe fn bytes<'a>(start: *const c_void, length: usize) -> Option<&'a [u8]> {
    if start.is_null() {
        return None;
    }
    // SAFETY: the caller guarantees this.
    Some(unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) })
}

/// Converts a wait to whole milliseconds for librdkafka, rounded up, so that half a millisecond doesn't become zero.
fn milliseconds(wait: Duration) -> i32 {
    i32::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_rounded_up_and_bounded() {
        assert_eq!(milliseconds(Duration::ZERO), 0);
        assert_eq!(milliseconds(Duration::from_nanos(1)), 1);
        assert_eq!(milliseconds(Duration::from_millis(7)), 7);
        assert_eq!(milliseconds(Duration::MAX), i32::MAX);
    }
}
