//! One daemon: the real poll loop, claim loop and writer, in a process that can be suspended, resumed and killed at any point.

use std::collections::HashMap;
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use fastrand::Rng;
use tidegate_protocol::batch::{BatchLimits, RejectedRecord};
use tidegate_protocol::claim_loop::{ClaimAnswer, ClaimLoop};
use tidegate_protocol::dead_letter_budget::{DeadLetterBudget, DeadLetterLimits};
use tidegate_protocol::event::{Event, Hold, Listener};
use tidegate_protocol::group::Assigning;
use tidegate_protocol::poll_loop::{LedgerReadings, Message, PollLoop, RecordEncoder};
use tidegate_protocol::position::{Offset, TopicPartition};
use tidegate_protocol::rate_limit::RateLimit;
use tidegate_protocol::record::{Headers, Record};
use tidegate_protocol::session::Session;
use tidegate_protocol::stopped::Stopped;
use tidegate_protocol::store::LedgerRow;
use tidegate_protocol::writer::Writer;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::claims::{SeenLogs, SimLedger, SimLogEnds};
use crate::group::SimGroup;
use crate::kafka::Kind;
use crate::store::{SimStore, encode};
use crate::world::{Bug, Sim};

const CLAIM_GRACE: Duration = Duration::from_secs(3);
const DRAIN_TIMEOUT: Duration = Duration::from_secs(4);

#[derive(Debug, Default)]
pub(crate) struct Process {
    /// `None` while the process runs; while it is suspended, the wakers of its tasks.
    stopped: Mutex<Option<Vec<Waker>>>,
}

impl Process {
    pub(crate) fn stop(&self) {
        self.stopped.lock().expect("one thread").get_or_insert_with(Vec::new);
    }

    pub(crate) fn go_on(&self) {
        let wakers = self.stopped.lock().expect("one thread").take();
        wakers.into_iter().flatten().for_each(Waker::wake);
    }

    pub(crate) async fn run<T>(self: Arc<Self>, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        std::future::poll_fn(|context| {
            if let Some(wakers) = &mut *self.stopped.lock().expect("one thread") {
                wakers.push(context.waker().clone());
                return Poll::Pending;
            }
            work.as_mut().poll(context)
        })
        .await
    }
}

/// A running daemon. Dropping it has the effect of SIGKILL.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) process: Arc<Process>,
    pub(crate) tasks: JoinSet<Result<(), Stopped>>,
    pub(crate) leave: CancellationToken,
    pub(crate) inbox: mpsc::Sender<Message>,
}

pub(crate) fn start(sim: &Arc<Sim>, number: u64) -> Daemon {
    let process = Arc::new(Process::default());
    let leave = CancellationToken::new();
    let mut tasks = JoinSet::new();
    let (outbox, batches) = mpsc::channel(1);
    // The channels are small, so that a full inbox and a full queue of requests occur too.
    let (inbox, messages) = mpsc::channel(2);
    let (claims, requests) = mpsc::channel(1);
    let (plan, limits, assigning, rate, policy, seed, bug) = {
        let mut world = sim.w();
        let limits = BatchLimits {
            max_rows: NonZeroU32::new(world.dice.u32(1..20)).expect("not 0"),
            max_bytes: 4000,
            max_age: world.ms(5..200),
        };
        let assigning = if world.chance(30) { Assigning::Whole } else { Assigning::Incremental };
        let rate = if world.chance(20) { NonZeroU32::new(world.dice.u32(20..2000)) } else { None };
        (world.server.catalog, limits, assigning, rate, world.policy, world.dice.u64(..), world.bug)
    };
    let mut spawn = |work: Pin<Box<dyn Future<Output = Result<(), Stopped>> + Send>>| {
        tasks.spawn(Arc::clone(&process).run(work));
    };
    let answers = match bug {
        Some(bug @ (Bug::AckLost | Bug::LogNotVerified | Bug::FetchFromTheEnd)) => {
            let (relay, relayed) = mpsc::channel(2);
            spawn(Box::pin(falsify(Arc::clone(sim), bug, relayed, inbox.clone())));
            relay
        }
        _ => inbox.clone(),
    };
    let listener = Arc::new(Watch { sim: Arc::clone(sim), number });
    let plans = Arc::new(AtomicU64::new(plan));
    let store = SimStore::new(Arc::clone(sim), number, Arc::clone(&plans));
    // The budget has its own tests. Here, no share of dead letters stops the pipeline.
    let budget = DeadLetterBudget::new(DeadLetterLimits {
        max_share: 1.0,
        window: Duration::from_secs(60),
        min_count: u64::MAX,
    });
    let writer = Writer::new(store, budget, Rng::with_seed(seed), listener.clone());
    let writer_waits = writer.wait_flag();
    spawn(Box::pin(writer.run(batches, answers.clone())));
    let seen = SeenLogs::default();
    let ledger = SimLedger { sim: Arc::clone(sim), daemon: number, connection: None, seen: Arc::clone(&seen) };
    let log_ends = SimLogEnds { sim: Arc::clone(sim), seen: Arc::clone(&seen) };
    let claim_loop = ClaimLoop::new(ledger, log_ends, policy, Rng::with_seed(seed + 1), listener.clone());
    spawn(Box::pin(claim_loop.run(requests)));
    let readings = SimReadings::default();
    spawn(Box::pin(look(Arc::clone(sim), readings.clone(), leave.clone())));
    let poll_loop = PollLoop {
        group: SimGroup { sim: Arc::clone(sim), number, assigning, seen },
        encoder: SimEncoder { sim: Arc::clone(sim), plan, plans, schema_at: None },
        readings,
        session: Session::new(limits, CLAIM_GRACE),
        on_offset_loss: policy,
        drain_timeout: DRAIN_TIMEOUT,
        owner: format!("daemon-{number}").into(),
        outbox,
        writer_waits,
        claims,
        answers,
        inbox: messages,
        rate_limit: Arc::new(RateLimit::new(rate)),
        listener,
        stop: leave.clone(),
    };
    spawn(Box::pin(poll_loop.run()));
    Daemon { process, tasks, leave, inbox }
}

/// Plants a bug between the loops: changes or drops messages on their way to the poll loop.
async fn falsify(
    sim: Arc<Sim>,
    bug: Bug,
    mut from: mpsc::Receiver<Message>,
    to: mpsc::Sender<Message>,
) -> Result<(), Stopped> {
    while let Some(mut message) = from.recv().await {
        match &mut message {
            Message::Ack(_) if bug == Bug::AckLost && sim.w().chance(20) => continue,
            Message::Claims(answers) => {
                for ClaimAnswer { source, answer, .. } in answers {
                    match answer {
                        Ok(grant) if bug == Bug::LogNotVerified => grant.verify = None,
                        Ok(grant) if bug == Bug::FetchFromTheEnd => {
                            let world = sim.w();
                            grant.fetch = world.kafka.log(world.kafka.partition_of(source)).high();
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
        if to.send(message).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// Reads the ledger at intervals, as the task that computes the lag does, and checks whether a log became shorter.
async fn look(sim: Arc<Sim>, readings: SimReadings, leave: CancellationToken) -> Result<(), Stopped> {
    let mut ends: HashMap<usize, Offset> = HashMap::new();
    while !leave.is_cancelled() {
        let (pause, there, back) = {
            let mut world = sim.w();
            (world.ms(800..1500), world.ms(0..50), world.ms(0..50))
        };
        sleep(pause).await;
        let requested_at = Instant::now().into_std();
        sleep(there).await;
        let rows = sim.w().ledger_rows();
        let cuts = {
            let world = sim.w();
            let cut = |at: usize| {
                let high = world.kafka.log(at).high();
                ends.insert(at, high).is_some_and(|before| high < before)
            };
            u32::try_from((0..world.kafka.sources.len()).map(cut).filter(|cut| *cut).count()).expect("few")
        };
        sleep(back).await;
        let mut reading = readings.0.lock().expect("one thread");
        reading.cuts += cuts;
        if let Some(rows) = rows
            && sim.w().bug != Some(Bug::LedgerUnseen)
        {
            reading.rows = rows.into_iter().map(|(source, row)| (source, row, requested_at)).collect();
        }
    }
    Ok(())
}

#[derive(Clone, Default)]
struct SimReadings(Arc<Mutex<Reading>>);

#[derive(Default)]
struct Reading {
    cuts: u32,
    rows: Vec<(TopicPartition, LedgerRow, std::time::Instant)>,
}

impl LedgerReadings for SimReadings {
    fn truncations(&self) -> u32 {
        self.0.lock().expect("one thread").cuts
    }

    fn visit(&self, each: &mut dyn FnMut(&TopicPartition, LedgerRow, std::time::Instant)) {
        for (source, row, requested_at) in &self.0.lock().expect("one thread").rows {
            each(source, *row, *requested_at);
        }
    }
}

/// Encodes rows for the poll loop. Records of one kind need a schema, which becomes available some time after the first such
/// record.
struct SimEncoder {
    sim: Arc<Sim>,
    plan: u64,
    plans: Arc<AtomicU64>,
    schema_at: Option<Instant>,
}

impl RecordEncoder for SimEncoder {
    fn reads_headers(&self) -> bool {
        false
    }

    fn wants(&mut self, _key: Option<&[u8]>, value: Option<&[u8]>, _headers: Headers<'_>) -> bool {
        if Kind::of(value.expect("records have values")[0]) != Kind::Double {
            return false;
        }
        let schema_at = *self.schema_at.get_or_insert_with(|| {
            let mut world = self.sim.w();
            let slow = world.chance(30);
            Instant::now() + world.ms(if slow { 100..4000 } else { 0..30 })
        });
        Instant::now() < schema_at
    }

    fn encode(&mut self, record: &Record<'_>, rows: &mut Vec<u8>) -> Result<u32, RejectedRecord> {
        encode(record, self.plan, rows)
    }

    fn version(&self) -> u64 {
        self.plan
    }

    fn renew(&mut self) {
        self.plan = self.plans.load(Ordering::Relaxed);
    }
}

/// Counts the events that the loops report. If a seed is replayed, most of the events are also printed.
struct Watch {
    sim: Arc<Sim>,
    number: u64,
}

impl Listener for Watch {
    fn on(&self, event: &Event<'_>) {
        let mut world = self.sim.w();
        *world.events.entry(kind_of(event)).or_default() += 1;
        match event {
            Event::Snapshot(_) | Event::Held(_) | Event::Spent(..) => {}
            Event::Committed(_) => world.trace(|| format!("daemon {}: committed", self.number)),
            Event::BatchWritten { .. } => world.trace(|| format!("daemon {}: batch written", self.number)),
            other => world.trace(|| format!("daemon {}: {other:?}", self.number)),
        }
        if world.verbose
            && let Event::Snapshot(snapshot) = event
        {
            let states = snapshot.session.partitions().map(|p| format!("{}: {:?}", p.source, p.state));
            let note = states.collect::<Vec<_>>().join(", ");
            world.notes.insert(self.number, note);
        }
    }
}

fn kind_of(event: &Event<'_>) -> &'static str {
    match event {
        Event::Assigned { .. } => "assigned",
        Event::Joined => "joined",
        Event::Revoked { lost: false, .. } => "revoked",
        Event::Revoked { lost: true, .. } => "lost",
        Event::Held(None) => "not held",
        Event::Held(Some(Hold::Full)) => "held: full",
        Event::Held(Some(Hold::Flow)) => "held: flow",
        Event::Held(Some(Hold::Schema)) => "held: schema",
        Event::Snapshot(_) => "snapshot",
        Event::KafkaRetries { .. } => "kafka retries",
        Event::PositionOutOfRange(_) => "out of range",
        Event::LogCut => "log cut",
        Event::Rebuilding { .. } => "rebuilding",
        Event::DrainEnded { open: 0, in_flight: 0 } => "drained",
        Event::DrainEnded { .. } => "drain cut",
        Event::Claimed { .. } => "claimed",
        Event::LogLoss { .. } => "log loss",
        Event::ConditionSkipped { .. } => "stepped over",
        Event::ClaimsWait { .. } => "claims wait",
        Event::Fenced { from: Some(_), .. } => "fenced",
        Event::Fenced { from: None, .. } => "fenced by a reading",
        Event::Rewound { from: Some(_), .. } => "rewound",
        Event::Rewound { from: None, .. } => "rewound by a reading",
        Event::Committed(_) => "committed",
        Event::BatchWritten { .. } => "batch written",
        Event::CommitUnknown(_) => "commit unknown",
        Event::CatalogChanged(_) => "catalog changed",
        Event::WindowHalved { .. } => "window halved",
        Event::PoisonFound { .. } => "poison found",
        Event::WriterWaits { .. } => "writer waits",
        Event::Spent(..) => "spent",
    }
}
