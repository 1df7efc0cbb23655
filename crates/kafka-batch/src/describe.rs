//! Asks the brokers about a consumer group: which operations they allow a client, and the names of the group's members.
//! `rdkafka` has no call that returns these.

use std::ffi::{CStr, CString, c_int};
use std::ptr::{self, NonNull};
use std::time::Duration;

use rdkafka::bindings as rd;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};

/// Returns whether the client may read as a member of a group: join the group and commit its offsets. `None` means that the
/// broker's answer doesn't say this, for example because the group doesn't exist (since Kafka 4.0). Blocks for at most
/// `timeout` plus one second, and changes nothing.
///
/// # Errors
/// `GroupAuthorizationFailed` if the client has no right even to describe the group, and any failure of the request.
pub fn may_read_group<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    timeout: Duration,
) -> KafkaResult<Option<bool>> {
    describe(client, group, timeout, operations).map(Option::flatten)
}

/// Returns the names (`group.instance.id`) of a group's members. Members without a name are left out. The list is empty
/// if the group doesn't exist. Blocks for at most `timeout` plus one second, and changes nothing.
///
/// # Errors
/// Any failure of the request.
pub fn named_members<C: ClientContext>(client: &Client<C>, group: &str, timeout: Duration) -> KafkaResult<Vec<String>> {
    describe(client, group, timeout, names).map(Option::unwrap_or_default)
}

/// Requests a group's description, passes it to `read`, and returns the result of `read`. Returns `None` if the broker
/// describes nothing, or reports that the group doesn't exist.
fn describe<C: ClientContext, T>(
    client: &Client<C>,
    group: &str,
    timeout: Duration,
    read: impl FnOnce(*const rd::rd_kafka_ConsumerGroupDescription_t) -> T,
) -> KafkaResult<Option<T>> {
    let milliseconds = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
    let name = CString::new(group).map_err(KafkaError::Nul)?;
    let handle = client.native_ptr();
    let failed = |code: rd::rd_kafka_resp_err_t| Err(KafkaError::AdminOp(RDKafkaErrorCode::from(code)));
    let options = Options::new(handle, milliseconds)?;
    // SAFETY: the client is alive for the whole call.
    let queue = Owned::new(unsafe { rd::rd_kafka_queue_new(handle) }, rd::rd_kafka_queue_destroy)?;
    let mut names = [name.as_ptr()];
    // SAFETY: all pointers are alive; librdkafka copies the names and the options.
    unsafe { rd::rd_kafka_DescribeConsumerGroups(handle, names.as_mut_ptr(), 1, options.0.get(), queue.get()) };
    // librdkafka ends the request at its own deadline. Wait one second longer, for the answer to be delivered.
    // SAFETY: the queue is alive.
    let event = unsafe { rd::rd_kafka_queue_poll(queue.get(), milliseconds.saturating_add(1000)) };
    let Some(event) = NonNull::new(event) else { return failed(rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__TIMED_OUT) };
    let event = Owned { pointer: event, destroy: rd::rd_kafka_event_destroy };
    // SAFETY: the event is alive.
    let code = unsafe { rd::rd_kafka_event_error(event.get()) };
    if code != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
        return failed(code);
    }
    // SAFETY: the event is alive; for an event of another kind the result is null.
    let result = unsafe { rd::rd_kafka_event_DescribeConsumerGroups_result(event.get()) };
    let mut count = 0;
    if result.is_null() {
        return Ok(None);
    }
    // SAFETY: the result belongs to the event, which is alive.
    let groups = unsafe { rd::rd_kafka_DescribeConsumerGroups_result_groups(result, &raw mut count) };
    if count == 0 {
        return Ok(None);
    }
    // SAFETY: the array has `count` entries, which belong to the event.
    let group = unsafe { *groups };
    // SAFETY: the description is alive as long as its event.
    let error = unsafe { rd::rd_kafka_ConsumerGroupDescription_error(group) };
    if !error.is_null() {
        // SAFETY: the error belongs to the description.
        let code = unsafe { rd::rd_kafka_error_code(error) };
        // Since Kafka 4.0, brokers report this error for a group that doesn't exist. Older brokers describe such a
        // group as one without members.
        if code == rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_GROUP_ID_NOT_FOUND {
            return Ok(None);
        }
        if code != rd::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return failed(code);
        }
    }
    Ok(Some(read(group)))
}

/// Returns the names of a described group's members. The caller must keep the event that owns the description until
/// this function returns.
fn names(group: *const rd::rd_kafka_ConsumerGroupDescription_t) -> Vec<String> {
    // SAFETY: the description is alive.
    let count = unsafe { rd::rd_kafka_ConsumerGroupDescription_member_count(group) };
    let name = |index| {
        // SAFETY: the description is alive, and has a member of each index below the count.
        let member = unsafe { rd::rd_kafka_ConsumerGroupDescription_member(group, index) };
        // SAFETY: the member belongs to the description.
        let name = unsafe { rd::rd_kafka_MemberDescription_group_instance_id(member) };
        // SAFETY: the name belongs to the member, and ends with a zero; a member without a name has null.
        (!name.is_null()).then(|| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned())
    };
    (0..count).filter_map(name).collect()
}

/// Returns whether a described group's operations include reading; `None` if the description doesn't list them. The caller
/// must keep the event that owns the description until this function returns.
fn operations(group: *const rd::rd_kafka_ConsumerGroupDescription_t) -> Option<bool> {
    let mut count = 0;
    // SAFETY: the description is alive.
    let allowed = unsafe { rd::rd_kafka_ConsumerGroupDescription_authorized_operations(group, &raw mut count) };
    if allowed.is_null() {
        return None;
    }
    // Compare the operations as numbers: a broker may know operations that the bindings don't.
    let read = rd::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_READ as c_int;
    let allowed = allowed.cast::<c_int>();
    // SAFETY: the array has `count` entries of the size of a C enum, which belong to the description.
    let allowed = unsafe { std::slice::from_raw_parts(allowed, count) };
    Some(allowed.contains(&read))
}

struct Options(Owned<rd::rd_kafka_AdminOptions_t>);

impl Options {
    fn new(handle: *mut rd::rd_kafka_t, milliseconds: c_int) -> KafkaResult<Self> {
        let kind = rd::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
        // SAFETY: the client is alive.
        let options =
            Owned::new(unsafe { rd::rd_kafka_AdminOptions_new(handle, kind) }, rd::rd_kafka_AdminOptions_destroy)?;
        // SAFETY: the options are alive; without a buffer librdkafka writes no text.
        unsafe { rd::rd_kafka_AdminOptions_set_request_timeout(options.get(), milliseconds, ptr::null_mut(), 0) };
        // SAFETY: the options are alive.
        let error = unsafe { rd::rd_kafka_AdminOptions_set_include_authorized_operations(options.get(), 1) };
        if let Some(error) = NonNull::new(error) {
            // SAFETY: the error is ours, and is not used after this.
            unsafe { rd::rd_kafka_error_destroy(error.as_ptr()) };
            return Err(KafkaError::AdminOp(RDKafkaErrorCode::InvalidArgument));
        }
        Ok(Self(options))
    }
}

/// A pointer to an object of librdkafka, with the function that destroys the object.
struct Owned<T> {
    pointer: NonNull<T>,
    destroy: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    fn new(pointer: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> KafkaResult<Self> {
        let pointer = NonNull::new(pointer).ok_or(KafkaError::AdminOp(RDKafkaErrorCode::Fail))?;
        Ok(Self { pointer, destroy })
    }

    fn get(&self) -> *mut T {
        self.pointer.as_ptr()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the pointer is owned and is not used after this.
        unsafe { (self.destroy)(self.pointer.as_ptr()) }
    }
}
