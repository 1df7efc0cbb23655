//! The claim service, simulated: its statements against the fake Postgres, its question to Kafka, and the real
//! [`resolve_start`] between them.

use std::collections::HashMap;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};

use crate::store::{call, connect};
use tidegate_protocol::partition::{Condition, Grant, resolve_start};
use tidegate_protocol::position::{Offset, TopicPartition};
use tidegate_protocol::retry::Stage;
use tokio::time::sleep;

use crate::daemon::Answer;
use crate::postgres::{Cell, Op, Reply};
use crate::world::{Bug, Policy, Sim};

/// By partition, the last question asked: an earlier one is not asked any more.
pub(crate) type Latest = Arc<Mutex<HashMap<TopicPartition, u64>>>;

#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) source: TopicPartition,
    pub(crate) question: u64,
    pub(crate) step_over: Option<Condition>,
}

/// Asks until there is an answer.
pub(crate) async fn claim(sim: Arc<Sim>, daemon: u64, wanted: Wanted, latest: Latest, answers: Sender<Answer>) {
    latest.lock().expect("one thread").insert(wanted.source.clone(), wanted.question);
    let partition = sim.w().kafka.partition_of(&wanted.source);
    while latest.lock().expect("one thread").get(&wanted.source) == Some(&wanted.question) {
        if let Some(answer) = round(&sim, daemon, partition, &wanted).await {
            // A poll loop that is gone needs no answer.
            answers.send(answer).ok();
            return;
        }
        let pause = sim.w().ms(20..400);
        sleep(pause).await;
    }
}

/// Everything that fails is tried again, from the start.
async fn round(sim: &Arc<Sim>, daemon: u64, partition: usize, wanted: &Wanted) -> Option<Answer> {
    let mut connection = Some(connect(sim, daemon).await.ok()?);
    let claim = sim.w().new_claim();
    let reply = call(&mut connection, Stage::Ledger, Op::Claim { partition, claim }).await.ok()?;
    let Reply::Claimed(cell) = reply else { panic!("{reply:?}") };
    let source = wanted.source.clone();
    let Some(Cell { next, claim, epoch, last, .. }) = cell else {
        return (sim.w().policy == Policy::Fail).then_some(Answer::Refused(
            source,
            wanted.question,
            Condition::LedgerLost,
        ));
    };
    let claim = claim.expect("just claimed");
    let (low, low_log, pause) = {
        let mut world = sim.w();
        (world.kafka.log(partition).low(), world.kafka.current[partition], world.ms(0..30))
    };
    sleep(pause).await;
    let (high, log, policy, bug) = {
        let world = sim.w();
        (world.kafka.log(partition).high(), world.kafka.current[partition], world.policy, world.bug)
    };
    if log != low_log {
        return None;
    }
    let low_seen = if bug == Some(Bug::RetentionUnseen) { Offset::ZERO } else { low };
    let found = match wanted.step_over.clone() {
        Some(condition) if condition.still_met(last) => Err(condition),
        _ => resolve_start(next, last, low_seen, high),
    };
    let grant = match found {
        Ok((fetch, verify)) => Grant { claim, epoch, next, fetch, verify },
        Err(condition) => {
            let to = match policy {
                Policy::Fail => return Some(Answer::Refused(source, wanted.question, condition)),
                Policy::Earliest => low,
                Policy::Latest => high,
            };
            let step = Op::StepOver { partition, claim, to, log };
            let Reply::Stepped(true) = call(&mut connection, Stage::Ledger, step).await.ok()? else { return None };
            Grant { claim, epoch, next: to, fetch: to, verify: None }
        }
    };
    Some(Answer::Granted(source, wanted.question, grant, log))
}
