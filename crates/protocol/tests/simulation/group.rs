//! The consumer-group client of the fake Kafka. It fetches records in bulks, and offers them until the poll loop can't
//! take one.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use tidegate_protocol::batch::Incoming;
use tidegate_protocol::group::{Assigning, Group, GroupClient, GroupEvent, ReadError, ReadErrorKind, Visit, Visitor};
use tidegate_protocol::position::{Offset, TopicPartition};
use tokio::time::sleep;

use crate::claims::SeenLogs;
use crate::kafka::{Event, Kind, value};
use crate::world::{Bug, Sim};

pub(crate) struct SimGroup {
    pub(crate) sim: Arc<Sim>,
    pub(crate) number: u64,
    pub(crate) assigning: Assigning,
    pub(crate) seen: SeenLogs,
}

impl Group for SimGroup {
    type Client = SimClient;

    fn join(&mut self) -> Result<SimClient, Box<dyn Error + Send + Sync>> {
        let mut world = self.sim.w();
        let world = &mut *world;
        world.kafka.join(self.number, &mut world.dice);
        Ok(SimClient {
            sim: Arc::clone(&self.sim),
            number: self.number,
            assigning: self.assigning,
            seen: Arc::clone(&self.seen),
            held: BTreeSet::new(),
            fetching: BTreeMap::new(),
            bulk: VecDeque::new(),
            events: Vec::new(),
        })
    }
}

#[derive(Clone, Copy, Debug)]
struct Fetched {
    partition: usize,
    log: usize,
    at: Offset,
    kind: Kind,
}

pub(crate) struct SimClient {
    sim: Arc<Sim>,
    number: u64,
    assigning: Assigning,
    seen: SeenLogs,
    held: BTreeSet<usize>,
    /// For each fetched partition, the next offset to fetch, and the log in which fetching began. After the topic was
    /// recreated, fetches from the earlier log return nothing.
    fetching: BTreeMap<usize, (Offset, usize)>,
    bulk: VecDeque<Fetched>,
    events: Vec<GroupEvent>,
}

impl SimClient {
    fn bug(&self) -> Option<Bug> {
        self.sim.w().bug
    }

    fn partition_of(&self, source: &TopicPartition) -> usize {
        self.sim.w().kafka.partition_of(source)
    }

    fn sources(&self, partitions: &[usize]) -> Vec<TopicPartition> {
        let world = self.sim.w();
        partitions.iter().map(|p| world.kafka.sources[*p].clone()).collect()
    }

    fn start(&mut self, source: &TopicPartition, from: Offset) {
        let partition = self.partition_of(source);
        self.forget(partition);
        // Fetch only from the log whose end the claim loop read. If the topic was recreated since then, fetches return
        // nothing, because Kafka identifies a topic by its id.
        let log = self.seen.lock().expect("one thread")[&partition];
        self.fetching.insert(partition, (from, log));
    }

    fn forget(&mut self, partition: usize) {
        self.fetching.remove(&partition);
        if self.bug() != Some(Bug::StaleBulk) {
            self.bulk.retain(|fetched| fetched.partition != partition);
        }
    }

    fn whole(&mut self, all: &[(TopicPartition, Offset)]) {
        self.fetching.clear();
        self.bulk.clear();
        for (source, from) in all {
            self.start(source, *from);
        }
    }

    /// Fetches a bulk: a few records of each fetched partition, in a random order of partitions.
    fn fill(&mut self) -> Result<(), ReadError> {
        let mut world = self.sim.w();
        let world = &mut *world;
        if world.trouble > 0 && world.dice.u32(0..4000) == 0 {
            return Err(ReadError { kind: ReadErrorKind::Broken, source: "simulated".into() });
        }
        let mut partitions: Vec<usize> = self.fetching.keys().copied().collect();
        world.dice.shuffle(&mut partitions);
        for partition in partitions {
            let (from, log) = self.fetching[&partition];
            if world.kafka.current[partition] != log {
                continue;
            }
            let current = world.kafka.log(partition);
            if from < current.low() || current.high() < from {
                self.fetching.remove(&partition);
                return Err(ReadError { kind: ReadErrorKind::OutOfRange, source: "simulated".into() });
            }
            let mut at = from;
            for _ in 0..world.dice.u32(0..12) {
                let Some((offset, kind)) = world.kafka.log(partition).next(at) else { break };
                at = offset.successor();
                if world.bug == Some(Bug::RecordSkipped) && world.dice.u32(0..100) < 3 {
                    continue;
                }
                self.bulk.push_back(Fetched { partition, log, at: offset, kind });
            }
            self.fetching.insert(partition, (at, log));
        }
        Ok(())
    }
}

impl GroupClient for SimClient {
    async fn ready(&mut self, wait: Duration) {
        let pause = {
            let mut world = self.sim.w();
            let more = self.fetching.iter().any(|(partition, (at, log))| {
                world.kafka.current[*partition] == *log && world.kafka.log(*partition).next(*at).is_some()
            });
            world.ms(if more { 1..12 } else { 10..120 })
        };
        sleep(pause.min(wait)).await;
    }

    fn serve(&mut self) -> Result<(), ReadError> {
        let event = {
            let mut world = self.sim.w();
            let world = &mut *world;
            world.kafka.poll(self.number, &self.held, &mut world.dice)
        };
        match event {
            None => {}
            Some(Event::Assigned(partitions)) => {
                self.events.push(GroupEvent::Assigned(self.sources(&partitions)));
                self.held.extend(partitions);
            }
            Some(Event::Revoked { partitions, lost }) => {
                self.events.push(GroupEvent::Revoked { sources: self.sources(&partitions), lost });
            }
        }
        Ok(())
    }

    fn read(&mut self, visitor: &mut impl Visitor) -> Result<bool, ReadError> {
        if self.bulk.is_empty() {
            self.fill()?;
        }
        let (mut run, mut offered) = (None, false);
        while let Some(&Fetched { partition, log, at, kind }) = self.bulk.front() {
            if run != Some(partition) {
                run = Some(partition);
                let source = self.sim.w().kafka.sources[partition].clone();
                visitor.partition(&source.topic, source.partition);
            }
            offered = true;
            let value = value(log, at, kind);
            let timestamp_ms = Some(i64::try_from(log).expect("few logs"));
            let incoming = Incoming { offset: at, timestamp_ms, key: None, value: Some(&value) };
            if visitor.record(&incoming, |_| ()) == Visit::NotNow {
                break;
            }
            self.bulk.pop_front();
        }
        Ok(offered)
    }

    fn take_events(&mut self) -> Vec<GroupEvent> {
        std::mem::take(&mut self.events)
    }

    fn take_read_to(&mut self) -> Vec<(TopicPartition, Offset)> {
        if !self.bulk.is_empty() {
            return Vec::new();
        }
        let mut world = self.sim.w();
        let world = &mut *world;
        if world.dice.u8(0..20) > 0 {
            return Vec::new();
        }
        let read = self.fetching.iter().filter(|(partition, (at, log))| {
            world.kafka.current[**partition] == *log && world.kafka.log(**partition).next(*at).is_none()
        });
        read.map(|(partition, _)| (world.kafka.sources[*partition].clone(), world.kafka.log(*partition).high()))
            .collect()
    }

    fn assigning(&self) -> Assigning {
        self.assigning
    }

    fn accept(&mut self) {}

    fn release(&mut self, sources: &[TopicPartition]) {
        let partitions: Vec<usize> = sources.iter().map(|source| self.partition_of(source)).collect();
        for partition in &partitions {
            self.held.remove(partition);
            self.forget(*partition);
        }
        self.sim.w().kafka.released(self.number, &partitions);
    }

    fn fetch(&mut self, starts: &[(TopicPartition, Offset)], all: &[(TopicPartition, Offset)]) {
        match self.assigning {
            Assigning::Whole => self.whole(all),
            Assigning::Incremental => {
                for (source, from) in starts {
                    let partition = self.partition_of(source);
                    // As in librdkafka, a partition that is fetched already isn't assigned again, and continues at its offset.
                    if !self.fetching.contains_key(&partition) {
                        self.start(source, *from);
                    }
                }
            }
        }
    }

    fn stop(&mut self, sources: &[TopicPartition], rest: &[(TopicPartition, Offset)]) {
        match self.assigning {
            Assigning::Whole => self.whole(rest),
            Assigning::Incremental => {
                for source in sources {
                    let partition = self.partition_of(source);
                    self.forget(partition);
                }
            }
        }
    }

    fn commit(&mut self, positions: &[(TopicPartition, Offset)]) {
        let _only_for_tools = positions;
    }

    async fn leave(self) {
        let pause = self.sim.w().ms(0..50);
        sleep(pause).await;
        let mut world = self.sim.w();
        let world = &mut *world;
        world.kafka.leave(self.number, &mut world.dice);
    }
}
