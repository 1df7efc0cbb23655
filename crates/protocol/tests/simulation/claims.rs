//! Implements the claim loop's interfaces: its statements run in the fake Postgres, and its requests go to the fake Kafka.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidegate_protocol::claim_loop::{ClaimLedger, Claimed, End, Ends, LogEnds, LogEndsError};
use tidegate_protocol::position::{Claim, Offset, TopicPartition};
use tidegate_protocol::retry::Stage;
use tidegate_protocol::store::WriteError;
use tokio::time::sleep;

use crate::postgres::{Cell, Op, Reply};
use crate::store::{Connection, call, connect};
use crate::world::{Bug, Sim};

/// For each partition, the log whose end was last read. Only the fakes use this; the claim loop can't see it. The fakes note in
/// the ledger to which log an offset belongs, for the oracle.
pub(crate) type SeenLogs = Arc<Mutex<HashMap<usize, usize>>>;

pub(crate) struct SimLedger {
    pub(crate) sim: Arc<Sim>,
    pub(crate) daemon: u64,
    pub(crate) connection: Option<Connection>,
    pub(crate) seen: SeenLogs,
}

impl SimLedger {
    async fn call(&mut self, op: Op) -> Result<Reply, WriteError> {
        if self.connection.is_none() {
            self.connection = Some(connect(&self.sim, self.daemon).await?);
        }
        call(&mut self.connection, Stage::Ledger, op).await
    }

    fn partitions(&self, sources: &[TopicPartition]) -> Vec<usize> {
        let world = self.sim.w();
        // Leave out partitions that don't exist, because the fakes have no index for them.
        sources.iter().filter_map(|source| world.kafka.sources.iter().position(|s| s == source)).collect()
    }

    fn sources(&self, partitions: &[usize]) -> Vec<TopicPartition> {
        let world = self.sim.w();
        partitions.iter().map(|p| world.kafka.sources[*p].clone()).collect()
    }

    fn places(&self, places: &[(TopicPartition, Offset)]) -> Vec<(usize, Offset, usize)> {
        let (world, seen) = (self.sim.w(), self.seen.lock().expect("one thread"));
        let place = |(source, offset): &(TopicPartition, Offset)| {
            let partition = world.kafka.partition_of(source);
            (partition, *offset, seen[&partition])
        };
        places.iter().map(place).collect()
    }
}

impl ClaimLedger for SimLedger {
    fn is_connected(&self) -> bool {
        self.connection.is_some()
    }

    fn disconnect(&mut self) {
        self.connection = None;
    }

    async fn without_row(&mut self, sources: &[TopicPartition]) -> Result<Vec<TopicPartition>, WriteError> {
        let partitions = self.partitions(sources);
        match self.call(Op::WithoutRow(partitions)).await? {
            Reply::Partitions(partitions) => Ok(self.sources(&partitions)),
            other => panic!("{other:?}"),
        }
    }

    async fn extend(&mut self, starts: &[(TopicPartition, Offset)]) -> Result<Vec<TopicPartition>, WriteError> {
        let starts = self.places(starts);
        match self.call(Op::Extend(starts)).await? {
            Reply::Partitions(lost) => Ok(self.sources(&lost)),
            other => panic!("{other:?}"),
        }
    }

    async fn insert_lost_rows(&mut self, places: &[(TopicPartition, Offset)]) -> Result<(), WriteError> {
        let places = self.places(places);
        self.call(Op::InsertRows(places)).await.map(|_| ())
    }

    async fn claim(&mut self, _owner: &str, sources: &[TopicPartition]) -> Result<Vec<Claimed>, WriteError> {
        let partitions = self.partitions(sources);
        let claims = {
            let mut world = self.sim.w();
            partitions.into_iter().map(|partition| (partition, world.new_claim())).collect()
        };
        let Reply::Claimed(cells) = self.call(Op::Claim(claims)).await? else { panic!("cells") };
        let claimed = |(partition, cell): (usize, Cell)| Claimed {
            source: self.sim.w().kafka.sources[partition].clone(),
            claim: Claim { id: cell.claim.expect("just claimed"), epoch: cell.epoch },
            next: cell.next,
            last: cell.last,
        };
        Ok(cells.into_iter().map(claimed).collect())
    }

    async fn skip_condition(&mut self, claimed: &Claimed, to: Offset) -> Result<Option<Claim>, WriteError> {
        let (partition, to, log) = self.places(&[(claimed.source.clone(), to)])[0];
        let renewed = self.sim.w().new_claim();
        let step = Op::StepOver { partition, claim: claimed.claim.id, renewed, from: claimed.next, to, log };
        match self.call(step).await? {
            Reply::Stepped(epoch) => Ok(epoch.map(|epoch| Claim { id: renewed, epoch })),
            other => panic!("{other:?}"),
        }
    }

    fn wait_at_lock(&self, source: TopicPartition, _waits: u32) -> impl Future<Output = ()> + Send + 'static {
        let (sim, daemon) = (Arc::clone(&self.sim), self.daemon);
        async move {
            let Ok(connection) = connect(&sim, daemon).await else {
                return sleep(Duration::from_millis(250)).await;
            };
            let partition = sim.w().kafka.partition_of(&source);
            // Ignore the reply: the claim loop tries the row again in any case.
            let _answer = call(&mut Some(connection), Stage::Ledger, Op::Settle(vec![partition])).await;
        }
    }
}

pub(crate) struct SimLogEnds {
    pub(crate) sim: Arc<Sim>,
    pub(crate) seen: SeenLogs,
}

impl LogEnds for SimLogEnds {
    async fn ends(&self, sources: &[TopicPartition], end: End) -> Result<Ends, LogEndsError> {
        let (pause, answers) = {
            let mut world = self.sim.w();
            (world.ms(0..30), world.trouble == 0 || !world.chance(3))
        };
        sleep(pause).await;
        if !answers {
            return Err(LogEndsError("simulated".into()));
        }
        let (world, mut seen) = (self.sim.w(), self.seen.lock().expect("one thread"));
        let mut ends = Ends::new();
        for source in sources {
            let partition = world.kafka.partition_of(source);
            seen.insert(partition, world.kafka.current[partition]);
            let log = world.kafka.log(partition);
            let offset = match end {
                End::Low if world.bug == Some(Bug::RetentionUnseen) => Offset::ZERO,
                End::Low => log.low(),
                End::High => log.high(),
            };
            ends.insert(source.clone(), offset);
        }
        Ok(ends)
    }
}
