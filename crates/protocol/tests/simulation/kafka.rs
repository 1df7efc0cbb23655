//! A fake Kafka: logs with gaps, and a group that assigns partitions, revokes them, and removes silent members.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use fastrand::Rng;
use tidegate_protocol::position::{Offset, TopicPartition};
use tokio::time::Instant;

/// A member that doesn't poll for this long is removed from the group.
pub(crate) const SESSION_TIMEOUT: Duration = Duration::from_secs(9);

/// How the daemon must treat a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Good,
    Double,
    /// A record that the configuration skips: it makes neither a row nor a dead letter.
    Skipped,
    Undecodable,
    Refused,
    /// A deferred constraint refuses the record at COMMIT.
    RefusedAtCommit,
    /// Plans with an odd version can't encode the record.
    RefusedByOddPlans,
}

impl Kind {
    const ALL: [Self; 7] = [
        Self::Good,
        Self::Double,
        Self::Skipped,
        Self::Undecodable,
        Self::Refused,
        Self::RefusedAtCommit,
        Self::RefusedByOddPlans,
    ];

    pub(crate) fn of(byte: u8) -> Self {
        Self::ALL[usize::from(byte)]
    }

    /// Returns how many rows a record of this kind must have in the table, unless it is a dead letter.
    pub(crate) fn rows(self) -> u8 {
        match self {
            Self::Good | Self::RefusedByOddPlans => 1,
            Self::Double => 2,
            Self::Skipped | Self::Undecodable | Self::Refused | Self::RefusedAtCommit => 0,
        }
    }

    pub(crate) fn may_be_dead(self) -> bool {
        matches!(self, Self::Undecodable | Self::Refused | Self::RefusedAtCommit | Self::RefusedByOddPlans)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Live(Kind),
    /// A control record, an aborted transaction's record, or a record that compaction or the topic's deletion removed.
    Gap,
    Expired,
    /// The record need not be written: a policy skipped it, or its log couldn't be identified.
    Excused,
}

/// One log. A recreated topic has a new one.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) partition: usize,
    pub(crate) places: Vec<Place>,
    pub(crate) low: usize,
    /// Records before this offset need not be written, even those that don't exist yet.
    pub(crate) excused_to: usize,
}

impl Log {
    pub(crate) fn low(&self) -> Offset {
        offset(self.low)
    }

    pub(crate) fn high(&self) -> Offset {
        offset(self.places.len())
    }

    pub(crate) fn next(&self, at: Offset) -> Option<(Offset, Kind)> {
        (index(at).max(self.low)..self.places.len()).find_map(|at| match self.places[at] {
            Place::Live(kind) => Some((offset(at), kind)),
            _ => None,
        })
    }
}

pub(crate) fn offset(at: usize) -> Offset {
    Offset::new(i64::try_from(at).expect("logs are short"))
}

pub(crate) fn index(offset: Offset) -> usize {
    usize::try_from(offset.get()).expect("offsets are not negative")
}

/// Returns a record's value. It contains the offset and the log, so that the oracle can tell the rows of different logs apart.
pub(crate) fn value(log: usize, at: Offset, kind: Kind) -> [u8; 13] {
    let mut value = [0; 13];
    value[0] = kind as u8;
    value[1..5].copy_from_slice(&u32::try_from(log).expect("few logs").to_le_bytes());
    value[5..].copy_from_slice(&at.get().to_le_bytes());
    value
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Assigned(Vec<usize>),
    Revoked { partitions: Vec<usize>, lost: bool },
}

#[derive(Debug)]
struct Member {
    polled_at: Instant,
}

/// The broker: every log that ever existed, the current log of each partition, and the group.
#[derive(Debug)]
pub(crate) struct Kafka {
    pub(crate) sources: Vec<TopicPartition>,
    pub(crate) logs: Vec<Log>,
    pub(crate) current: Vec<usize>,
    members: BTreeMap<u64, Member>,
    owner: Vec<Option<u64>>,
    target: Vec<Option<u64>>,
}

impl Kafka {
    pub(crate) fn new(partitions: usize) -> Self {
        let names = ["north", "south"];
        let source = |at: usize| TopicPartition::new(names[at % 2], i32::try_from(at / 2).expect("few"));
        Self {
            sources: (0..partitions).map(source).collect(),
            logs: (0..partitions).map(|partition| Log { partition, ..Log::default() }).collect(),
            current: (0..partitions).collect(),
            members: BTreeMap::new(),
            owner: vec![None; partitions],
            target: vec![None; partitions],
        }
    }

    pub(crate) fn partition_of(&self, source: &TopicPartition) -> usize {
        self.sources.iter().position(|s| s == source).expect("a partition of ours")
    }

    pub(crate) fn log(&self, partition: usize) -> &Log {
        &self.logs[self.current[partition]]
    }

    pub(crate) fn produce(&mut self, partition: usize, dice: &mut Rng, bad: bool) {
        let log = &mut self.logs[self.current[partition]];
        let kind = match dice.u8(0..100) {
            0..=69 => Kind::Good,
            70..=77 => Kind::Double,
            78..=83 => Kind::Skipped,
            _ if !bad => Kind::Good,
            84..=88 => Kind::Undecodable,
            89..=93 => Kind::Refused,
            94..=96 => Kind::RefusedAtCommit,
            _ => Kind::RefusedByOddPlans,
        };
        let excused = log.places.len() < log.excused_to;
        log.places.push(if excused { Place::Excused } else { Place::Live(kind) });
        if dice.u8(0..8) == 0 {
            // Transaction markers, or aborted records.
            log.places.extend(std::iter::repeat_n(Place::Gap, dice.usize(1..4)));
        }
    }

    pub(crate) fn compact(&mut self, partition: usize, dice: &mut Rng) {
        let log = &mut self.logs[self.current[partition]];
        for place in &mut log.places {
            if matches!(place, Place::Live(_)) && dice.u8(0..3) == 0 {
                *place = Place::Gap;
            }
        }
    }

    pub(crate) fn expire(&mut self, partition: usize, dice: &mut Rng) {
        let log = &mut self.logs[self.current[partition]];
        let low = dice.usize(log.low..=log.places.len());
        for place in &mut log.places[log.low..low] {
            if matches!(place, Place::Live(_)) {
                *place = Place::Expired;
            }
        }
        log.low = low;
    }

    /// Replaces the partition's log by a new one, perhaps with records, as if the topic was deleted and created again. The
    /// partition has no owner then, until the group assigns it again.
    pub(crate) fn recreate(&mut self, partition: usize, dice: &mut Rng) {
        for place in &mut self.logs[self.current[partition]].places {
            *place = Place::Gap;
        }
        self.logs.push(Log { partition, ..Log::default() });
        self.current[partition] = self.logs.len() - 1;
        for _ in 0..dice.usize(0..30) {
            self.produce(partition, dice, true);
        }
        self.owner[partition] = None;
        self.share_out(partition, dice);
    }

    pub(crate) fn join(&mut self, member: u64, dice: &mut Rng) {
        self.members.insert(member, Member { polled_at: Instant::now() });
        self.rebalance(dice);
    }

    pub(crate) fn leave(&mut self, member: u64, dice: &mut Rng) {
        self.members.remove(&member);
        self.let_go_of(member, dice);
    }

    pub(crate) fn rebalance(&mut self, dice: &mut Rng) {
        for partition in 0..self.sources.len() {
            self.share_out(partition, dice);
        }
    }

    fn share_out(&mut self, partition: usize, dice: &mut Rng) {
        let members: Vec<u64> = self.members.keys().copied().collect();
        self.target[partition] = dice.choice(members);
    }

    fn let_go_of(&mut self, member: u64, dice: &mut Rng) {
        for partition in 0..self.sources.len() {
            if self.owner[partition] == Some(member) {
                self.owner[partition] = None;
            }
            if self.target[partition] == Some(member) {
                self.share_out(partition, dice);
            }
        }
    }

    pub(crate) fn tick(&mut self, dice: &mut Rng) {
        let now = Instant::now();
        let silent: Vec<u64> =
            self.members.iter().filter(|(_, m)| now - m.polled_at > SESSION_TIMEOUT).map(|(id, _)| *id).collect();
        for member in silent {
            self.leave(member, dice);
        }
    }

    /// Returns the group's next message to a member that holds the partitions `held`; `None` if there is no
    /// message. A removed member doesn't learn of its removal at once; when it does, it joins again.
    pub(crate) fn poll(&mut self, member: u64, held: &BTreeSet<usize>, dice: &mut Rng) -> Option<Event> {
        let Some(state) = self.members.get_mut(&member) else {
            if dice.u8(0..4) > 0 {
                return None;
            }
            self.join(member, dice);
            let partitions: Vec<usize> = held.iter().copied().collect();
            return (!partitions.is_empty()).then_some(Event::Revoked { partitions, lost: true });
        };
        state.polled_at = Instant::now();
        let lost: Vec<usize> = held.iter().copied().filter(|p| self.owner[*p] != Some(member)).collect();
        if !lost.is_empty() {
            return Some(Event::Revoked { partitions: lost, lost: true });
        }
        let revoked: Vec<usize> = held.iter().copied().filter(|p| self.target[*p] != Some(member)).collect();
        if !revoked.is_empty() {
            return Some(Event::Revoked { partitions: revoked, lost: false });
        }
        let free = |p: &usize| self.target[*p] == Some(member) && self.owner[*p].is_none();
        let given: Vec<usize> = (0..self.sources.len()).filter(free).collect();
        for partition in &given {
            self.owner[*partition] = Some(member);
        }
        (!given.is_empty()).then_some(Event::Assigned(given))
    }

    pub(crate) fn released(&mut self, member: u64, partitions: &[usize]) {
        for partition in partitions {
            if self.owner[*partition] == Some(member) {
                self.owner[*partition] = None;
            }
        }
    }
}
