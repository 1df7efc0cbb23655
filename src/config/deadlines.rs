//! Checks that some deadlines are shorter than others. [`ORDER`] says which ones, and why.

use std::time::Duration;

use super::defaults;
use super::node::ConfigNode;
use super::units::show_duration;

/// A deadline as it will be used, and the key where a user sets it.
struct Deadline<'a> {
    name: &'static str,
    value: Duration,
    node: ConfigNode<'a>,
}

/// Pairs of deadlines: the shorter one, the longer one, and what would happen in the wrong order.
const ORDER: &[(&str, &str, &str)] = &[
    (
        "postgres.lock_timeout",
        "postgres.statement_timeout",
        "the statement times out first, and its error doesn't say which session holds the lock",
    ),
    (
        "postgres.statement_timeout",
        "postgres.write_timeout",
        "Tidegate closes the connection before Postgres reports the error",
    ),
    (
        "postgres.write_timeout",
        "limits.drain_timeout",
        "a shutdown ends before it is known whether the last batch was committed",
    ),
    (
        "postgres.connect_timeout",
        "limits.drain_timeout",
        "a shutdown ends before Tidegate can reconnect and read whether the last batch was committed",
    ),
    ("postgres.lock_timeout", "limits.claim_grace", "a claim is requested again while the first request still waits"),
    (
        "limits.drain_timeout",
        "max.poll.interval.ms",
        "Kafka removes the consumer from its group while the consumer drains",
    ),
];

/// Checks the pairs of [`ORDER`] whose deadlines are in `values`, by name.
pub(super) fn check(top: &ConfigNode<'_>, values: &[(&'static str, Duration)]) {
    let find = |name: &str| {
        let (name, value) = values.iter().find(|(known, _)| *known == name)?;
        let (table, key) = name.split_once('.')?;
        Some(Deadline { name, value: *value, node: top.at(table).at(key) })
    };
    for (shorter, longer, otherwise) in ORDER {
        let (Some(short), Some(long)) = (find(shorter), find(longer)) else { continue };
        check_pair(&short, &long, otherwise);
    }
}

/// Checks that one pipeline's `max.poll.interval.ms` is longer than `drain` (`limits.drain_timeout`), and not shorter than its
/// `session.timeout.ms`. Both are read from `own`, the pipeline's properties, or else from `[kafka]`. Under the protocol
/// `consumer` the broker sets the session timeout, so it isn't checked.
pub(super) fn check_poll(top: &ConfigNode<'_>, own: &ConfigNode<'_>, drain: Duration, is_consumer_protocol: bool) {
    let shared = top.at("kafka").at("properties");
    let find = |name: &'static str, default: Duration| {
        let node = [own.at(name), shared.at(name)].into_iter().find(ConfigNode::is_set).unwrap_or_else(|| own.at(name));
        let set = node.scalar_text().and_then(|text| text.parse().ok()).map(Duration::from_millis);
        Deadline { name, value: set.unwrap_or(default), node }
    };
    let poll = find("max.poll.interval.ms", defaults::MAX_POLL_INTERVAL);
    let drain = Deadline { name: "limits.drain_timeout", value: drain, node: top.at("limits").at("drain_timeout") };
    if let Some((_, _, otherwise)) = ORDER.iter().find(|(_, longer, _)| *longer == poll.name) {
        check_pair(&drain, &poll, otherwise);
    }
    if is_consumer_protocol {
        return;
    }
    let session = find("session.timeout.ms", defaults::SESSION_TIMEOUT);
    if session.value > poll.value {
        let longer = if session.node.is_set() { &session } else { &poll };
        longer.node.fault(format!(
            "session.timeout.ms ({}) must not be above max.poll.interval.ms ({}); librdkafka refuses it",
            show_duration(session.value),
            show_duration(poll.value)
        ));
    }
}

fn check_pair(short: &Deadline<'_>, long: &Deadline<'_>, otherwise: &str) {
    if short.value < long.value {
        return;
    }
    let shown = |deadline: &Deadline<'_>| {
        let by_default = if deadline.node.is_set() { "" } else { " by default" };
        format!("{} ({}{by_default})", deadline.name, show_duration(deadline.value))
    };
    // Report the fault at the key that the user set. If both or neither were set, report it at the longer deadline.
    let (node, own, order, other) = if short.node.is_set() && !long.node.is_set() {
        (&short.node, short.value, "below", shown(long))
    } else {
        (&long.node, long.value, "above", shown(short))
    };
    node.fault(format!("{} must be {order} {other}, or {otherwise}", show_duration(own)));
}
