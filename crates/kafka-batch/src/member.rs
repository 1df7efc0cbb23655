//! Finds out whether a consumer is a member of its group.

use rdkafka::bindings as rd;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};

/// Returns whether the consumer has a member id. Under a classic protocol, a consumer has one from the answer to its first
/// JoinGroup until it starts to leave the group, or until the id is no longer valid. So after `unsubscribe`, `false` means that
/// the request to leave is being sent. A call that closes the consumer waits until this request is answered or has failed
/// (`rd_kafka_cgrp_leave`, `rd_kafka_cgrp_try_terminate`). Under KIP-848, a consumer always has an id, even if it isn't a member.
pub fn is_member<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> bool {
    let client = consumer.client().native_ptr();
    // SAFETY: the client is alive.
    let id = unsafe { rd::rd_kafka_memberid(client) };
    if id.is_null() {
        return false;
    }
    // SAFETY: the id is a text with a NUL at its end, so it has a first byte.
    let is_member = unsafe { id.read() } != 0;
    // SAFETY: the text was allocated for the caller, who has not freed it.
    unsafe { rd::rd_kafka_mem_free(client, id.cast()) }
    is_member
}
