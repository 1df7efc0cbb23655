//! Determines which consumer of which instance reads each partition. Combines the state of our own consumers, the owners in the
//! ledger, and the rows of `tidegate.instance`. No I/O.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The status page's view of a pipeline's consumers: one column per instance that has consumers of the pipeline, with one box per
/// consumer. The box shows one chip per partition. Partitions are given as indexes in the pipeline's list of partitions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Board {
    pub(super) columns: Vec<Column>,
    /// The partitions without a living consumer.
    pub(super) nobody: Vec<usize>,
    /// A sentence that explains how the partitions are spread over the consumers.
    pub(super) rule: String,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Column {
    pub(super) instance: String,
    pub(super) host: String,
    pub(super) url: Option<String>,
    /// Whether this is the instance that answers the request.
    pub(super) this: bool,
    pub(super) consumers: Vec<BoardConsumer>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct BoardConsumer {
    pub(super) consumer: u32,
    /// Whether the consumer waits to be admitted to its group. Known only for the consumers of this instance.
    pub(super) joining: bool,
    pub(super) partitions: Vec<usize>,
}

/// The owner of a partition: `ours` is the consumer of this instance that has it, and `owner` is the owner in the ledger, in the
/// form `INSTANCE/cNUMBER`.
#[derive(Clone, Debug)]
pub(super) struct Held<'a> {
    pub(super) ours: Option<u32>,
    pub(super) owner: Option<&'a str>,
}

/// An instance that is running, with the consumers that it has for the pipeline.
#[derive(Clone, Debug)]
pub(super) struct Living {
    pub(super) instance: String,
    pub(super) host: String,
    pub(super) url: Option<String>,
    pub(super) this: bool,
    pub(super) consumers: u32,
    /// Consumers that have not joined their group yet, or that probably have to join it again. Known only for this instance.
    pub(super) joining: Vec<u32>,
}

pub(super) fn board(instances: Vec<Living>, partitions: &[Held<'_>]) -> Board {
    let mut columns: Vec<Column> = instances
        .into_iter()
        .filter(|living| living.consumers > 0)
        .map(|Living { instance, host, url, this, consumers, joining }| {
            let seat =
                |consumer| BoardConsumer { consumer, joining: joining.contains(&consumer), partitions: Vec::new() };
            let consumers = (0..consumers).map(seat).collect();
            Column { instance, host, url, this, consumers }
        })
        .collect();
    columns.sort_by(|a, b| a.instance.cmp(&b.instance));
    let places: BTreeMap<String, usize> =
        columns.iter().enumerate().map(|(place, column)| (column.instance.clone(), place)).collect();
    let this = columns.iter().position(|column| column.this);
    let mut nobody = Vec::new();
    for (index, held) in partitions.iter().enumerate() {
        let seat = match (held.ours, held.owner.and_then(split_owner)) {
            (Some(consumer), _) => this.map(|column| (column, consumer)),
            // If the ledger names this instance, but no consumer here has the partition, the consumer has given the
            // partition up, so nobody reads it now.
            (None, Some((instance, consumer))) => {
                places.get(instance).filter(|place| Some(**place) != this).map(|place| (*place, consumer))
            }
            (None, None) => None,
        };
        let seat = seat
            .and_then(|(column, consumer)| columns[column].consumers.iter_mut().find(|seat| seat.consumer == consumer));
        match seat {
            Some(seat) => seat.partitions.push(index),
            None => nobody.push(index),
        }
    }
    let rule = rule(&columns, partitions.len(), nobody.len());
    Board { columns, nobody, rule }
}

fn split_owner(owner: &str) -> Option<(&str, u32)> {
    let (instance, consumer) = owner.rsplit_once("/c")?;
    Some((instance, consumer.parse().ok()?))
}

fn rule(columns: &[Column], partitions: usize, nobody: usize) -> String {
    let seats = || columns.iter().flat_map(|column| &column.consumers);
    let consumers = seats().count();
    let joining = seats().filter(|seat| seat.joining).count();
    let idle = seats().filter(|seat| seat.partitions.is_empty()).count();
    let (most, least) =
        seats().map(|seat| seat.partitions.len()).fold((0, usize::MAX), |(a, b), n| (a.max(n), b.min(n)));
    let (p, c) = (count(partitions, "partition"), count(consumers, "consumer"));
    if partitions == 0 {
        return format!("{c}; the partitions aren't known yet");
    }
    if joining > 0 {
        return match joining {
            1 => format!("{p}, {c}: 1 joins the group"),
            _ => format!("{p}, {c}: {joining} join the group"),
        };
    }
    if nobody > 0 {
        return format!(
            "{p}, {c}: {nobody} of them {} without a consumer at the moment",
            if nobody == 1 { "is" } else { "are" }
        );
    }
    match consumers {
        1 => format!("{p}, 1 consumer: it reads {}", if partitions == 1 { "it" } else { "them all" }),
        _ if idle > 0 => format!("{p}, {c}: {idle} idle, because each partition has another consumer"),
        _ if most == least => format!("{p}, {c}: {most} each"),
        _ => format!("{p}, {c}: {least} to {most} each"),
    }
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn living(instance: &str, this: bool, consumers: u32) -> Living {
        Living { instance: instance.into(), host: "h".into(), url: None, this, consumers, joining: Vec::new() }
    }

    fn ours(consumer: u32) -> Held<'static> {
        Held { ours: Some(consumer), owner: None }
    }

    fn theirs(owner: &'static str) -> Held<'static> {
        Held { ours: None, owner: Some(owner) }
    }

    #[test]
    fn the_rules_of_the_group_are_said() {
        let say = |consumers, held: &[u32]| {
            board(vec![living("a", true, consumers)], &held.iter().map(|c| ours(*c)).collect::<Vec<_>>()).rule
        };
        assert_eq!(say(1, &[0]), "1 partition, 1 consumer: it reads it");
        assert_eq!(say(1, &[0, 0, 0, 0]), "4 partitions, 1 consumer: it reads them all");
        assert_eq!(say(2, &[0, 0, 1, 1]), "4 partitions, 2 consumers: 2 each");
        assert_eq!(say(3, &[0, 0, 1, 2]), "4 partitions, 3 consumers: 1 to 2 each");
        assert_eq!(
            say(5, &[0, 1, 2, 3]),
            "4 partitions, 5 consumers: 1 idle, because each partition has another consumer"
        );
    }

    #[test]
    fn who_joins_is_not_idle() {
        let joining = |joining: Vec<u32>| board(vec![Living { joining, ..living("a", true, 2) }], &[ours(0)]);
        assert_eq!(joining(vec![1]).rule, "1 partition, 2 consumers: 1 joins the group");
        assert!(joining(vec![1]).columns[0].consumers[1].joining);
        assert_eq!(
            joining(vec![]).rule,
            "1 partition, 2 consumers: 1 idle, because each partition has another consumer"
        );
    }

    #[test]
    fn partitions_of_other_instances_come_from_the_ledger() {
        let board =
            board(vec![living("b", false, 2), living("a", true, 1)], &[ours(0), theirs("b/c1"), theirs("b/c0")]);
        assert_eq!(board.columns[0].instance, "a");
        assert_eq!(board.columns[1].consumers[1].partitions, [1]);
        assert!(board.nobody.is_empty());
    }

    #[test]
    fn an_owner_who_is_gone_or_gave_it_up_reads_nothing() {
        let held = [theirs("gone/c0"), theirs("a/c0"), Held { ours: None, owner: None }, theirs("a/c")];
        assert_eq!(board(vec![living("a", true, 1)], &held).nobody, [0, 1, 2, 3]);
    }
}
