//! One daemon: the real session and writer, a poll loop as the consumer's, and a process around them that can be stopped,
//! go on, and be killed at any point.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::future::Future;
use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use crate::store::{SimStore, encode};
use tidegate::metrics::WriterMetrics;
use tidegate::status::{ConsumerStatus, WriterState};
use tidegate::writer::{Stopped, Writer};
use tidegate_protocol::batch::BatchLimits;
use tidegate_protocol::batch::{Batch, Incoming, Trigger};
use tidegate_protocol::dead_letter_budget::DeadLetterBudget;
use tidegate_protocol::dead_letter_budget::DeadLetterLimits;
use tidegate_protocol::partition::{Condition, Grant};
use tidegate_protocol::position::{Offset, TopicPartition};
use tidegate_protocol::session::{Ack, Fate, Session};
use tidegate_protocol::store::LedgerRow;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::claims::{self, Latest};
use crate::kafka::{Event, value};
use crate::world::{Bug, Policy, Sim};

const CLAIM_GRACE: Duration = Duration::from_secs(3);
const REVOKE_WAIT: Duration = Duration::from_secs(2);

/// What comes back to a poll loop.
#[derive(Debug)]
pub(crate) enum Answer {
    Ack(Box<Ack>),
    /// With the log that the claim was held against: a topic made again since then answers no fetch.
    Granted(TopicPartition, u64, Grant, usize),
    Refused(TopicPartition, u64, Condition),
    /// What the ledger says, read after this time.
    Ledger(Vec<(TopicPartition, LedgerRow)>, Instant),
}

impl From<Ack> for Answer {
    fn from(ack: Ack) -> Self {
        Self::Ack(Box::new(ack))
    }
}

/// Whether a process runs, or is stopped and by whom it is to be woken.
#[derive(Debug, Default)]
pub(crate) struct Process {
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

    /// Runs, but not while the process is stopped.
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

/// A running daemon; dropping it is SIGKILL.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) process: Arc<Process>,
    pub(crate) tasks: JoinSet<Result<(), Stopped>>,
    pub(crate) leave: Arc<AtomicU64>,
}

pub(crate) fn start(sim: &Arc<Sim>, number: u64) -> Daemon {
    let process = Arc::new(Process::default());
    let leave = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    let (outbox, batches) = mpsc::channel(1);
    let (answers, inbox) = channel();
    let status = Arc::new(ConsumerStatus::new(0));
    let (plan, limits) = {
        let mut world = sim.w();
        let world = &mut *world;
        world.kafka.join(number, &mut world.dice);
        let limits = BatchLimits {
            max_rows: NonZeroU32::new(world.dice.u32(1..20)).expect("not 0"),
            max_bytes: 4000,
            max_age: world.ms(5..200),
        };
        (world.server.catalog, limits)
    };
    let plans = Arc::new(AtomicU64::new(plan));
    let store = SimStore::new(Arc::clone(sim), number, Arc::clone(&plans));
    // The budget has tests of its own; here nothing is bad enough to stop for.
    let budget = DeadLetterBudget::new(DeadLetterLimits {
        max_share: 1.0,
        window: Duration::from_secs(60),
        min_count: u64::MAX,
    });
    let metrics = WriterMetrics::new(&"simulated".into());
    let writer = Writer::new(store, budget, metrics, Arc::clone(&status));
    tasks.spawn(Arc::clone(&process).run(writer.run(batches, answers.clone())));
    let poll_loop = PollLoop {
        sim: Arc::clone(sim),
        process: Arc::clone(&process),
        number,
        session: Session::new(limits, CLAIM_GRACE),
        held: BTreeSet::new(),
        fetching: BTreeMap::new(),
        logs: HashMap::new(),
        stepping: HashMap::new(),
        latest: Latest::default(),
        claims: JoinSet::new(),
        look_at: Instant::now(),
        plan,
        plans,
        outbox,
        answers,
        inbox,
        status,
        leave: Arc::clone(&leave),
    };
    tasks.spawn(Arc::clone(&process).run(poll_loop.run()));
    Daemon { process, tasks, leave }
}

struct PollLoop {
    sim: Arc<Sim>,
    process: Arc<Process>,
    number: u64,
    session: Session,
    /// What the group gave us, as far as we know.
    held: BTreeSet<usize>,
    /// Where fetching stands, and in which log.
    fetching: BTreeMap<usize, (Offset, usize)>,
    logs: HashMap<usize, usize>,
    stepping: HashMap<TopicPartition, Condition>,
    latest: Latest,
    claims: JoinSet<()>,
    look_at: Instant,
    plan: u64,
    plans: Arc<AtomicU64>,
    outbox: mpsc::Sender<Batch>,
    answers: Sender<Answer>,
    inbox: Receiver<Answer>,
    status: Arc<ConsumerStatus>,
    leave: Arc<AtomicU64>,
}

fn now() -> std::time::Instant {
    Instant::now().into_std()
}

impl PollLoop {
    async fn run(mut self) -> Result<(), Stopped> {
        loop {
            if self.leave.load(Ordering::Relaxed) > 0 {
                self.flush(Trigger::Shutdown).await;
                let mut world = self.sim.w();
                let world = &mut *world;
                world.kafka.leave(self.number, &mut world.dice);
                return Ok(());
            }
            self.group().await?;
            while let Ok(answer) = self.inbox.try_recv() {
                self.answer(answer);
            }
            if self.bug() != Some(Bug::FencedForEver) {
                self.session.tick(now());
            }
            self.look();
            self.carry_out()?;
            if self.sim.w().verbose {
                self.note();
            }
            if let Some(trigger) = self.session.due(now()) {
                self.seal(trigger);
            }
            let took = !self.session.is_full() && self.take()?;
            let pause = match (took, self.session.in_flight(), self.held.is_empty()) {
                (true, ..) => 1..12,
                (false, true, _) => 3..20,
                _ => 10..120,
            };
            let pause = self.sim.w().ms(pause);
            sleep(pause).await;
        }
    }

    /// Has the ledger read, now and then.
    fn look(&mut self) {
        let asked_at = Instant::now();
        if asked_at < self.look_at {
            return;
        }
        let (there, back) = {
            let mut world = self.sim.w();
            self.look_at = asked_at + world.ms(800..1500);
            (world.ms(0..50), world.ms(0..50))
        };
        let (sim, answers) = (Arc::clone(&self.sim), self.answers.clone());
        self.claims.spawn(Arc::clone(&self.process).run(async move {
            sleep(there).await;
            let rows = sim.w().ledger_rows();
            sleep(back).await;
            if let Some(rows) = rows {
                // A poll loop that is gone needs no answer.
                answers.send(Answer::Ledger(rows, asked_at)).ok();
            }
        }));
    }

    /// For a replay: where every partition of ours stands.
    fn note(&self) {
        let states = self.session.partitions().map(|p| format!("{}: {:?}", p.source, p.state));
        let note = format!("{} {:?}", states.collect::<Vec<_>>().join(", "), self.fetching);
        self.sim.w().notes.insert(self.number, note);
    }

    fn bug(&self) -> Option<Bug> {
        self.sim.w().bug
    }

    fn source(&self, partition: usize) -> TopicPartition {
        self.sim.w().kafka.sources[partition].clone()
    }

    async fn group(&mut self) -> Result<(), Stopped> {
        let event = {
            let mut world = self.sim.w();
            let world = &mut *world;
            world.kafka.poll(self.number, &self.held, &mut world.dice)
        };
        match event {
            None => {}
            Some(Event::Assigned(partitions)) => {
                let sources: Vec<_> = partitions.iter().map(|p| self.source(*p)).collect();
                self.held.extend(partitions);
                self.session.assigned(sources, now());
            }
            Some(Event::Revoked { partitions, lost }) => {
                if !lost {
                    self.flush(Trigger::Revoke).await;
                }
                let sources: Vec<_> = partitions.iter().map(|p| self.source(*p)).collect();
                self.session.revoked(&sources);
                for partition in &partitions {
                    self.held.remove(partition);
                    self.fetching.remove(partition);
                }
                self.sim.w().kafka.released(self.number, &partitions);
            }
        }
        self.carry_out()
    }

    fn answer(&mut self, answer: Answer) {
        let bug = self.bug();
        match answer {
            Answer::Ack(mut ack) => {
                if bug == Some(Bug::AckLost) && self.sim.w().chance(20) {
                    return;
                }
                if bug == Some(Bug::RewindTakenAsCommitted) {
                    let committed = |fate: &mut Fate| *fate = Fate::Committed(Offset::ZERO);
                    ack.fates.iter_mut().filter(|f| f.2 == Fate::Rewound).for_each(|f| committed(&mut f.2));
                }
                self.session.acked(*ack, now());
            }
            Answer::Granted(source, question, mut grant, log) => {
                let partition = self.sim.w().kafka.partition_of(&source);
                match bug {
                    Some(Bug::LogNotVerified) => grant.verify = None,
                    Some(Bug::FetchFromTheEnd) => grant.fetch = self.sim.w().kafka.log(partition).high(),
                    _ => {}
                }
                if self.session.partitions().any(|p| p.source == source && p.question == question) {
                    self.logs.insert(partition, log);
                }
                self.session.granted(&source, question, &grant, now());
            }
            Answer::Refused(source, question, condition) => self.session.refused(&source, question, condition),
            Answer::Ledger(..) if bug == Some(Bug::LedgerUnseen) => {}
            Answer::Ledger(rows, asked_at) => {
                for (source, row) in rows {
                    self.session.ledger_seen(&source, row, asked_at.into_std(), now());
                }
            }
        }
    }

    /// As the consumer's: conditions first, then what is fetched, then claims.
    fn carry_out(&mut self) -> Result<(), Stopped> {
        let mut actions = self.session.take_actions();
        for (source, condition) in std::mem::take(&mut actions.conditions) {
            if self.sim.w().policy == Policy::Fail {
                return Err(Stopped(format!("{source}: {}", condition.cause())));
            }
            self.stepping.insert(source.clone(), condition);
            self.session.claim_again(&source, now());
        }
        actions.claim.extend(self.session.take_actions().claim);
        for source in actions.stop {
            let partition = self.sim.w().kafka.partition_of(&source);
            self.fetching.remove(&partition);
        }
        for (source, from) in actions.fetch {
            let partition = self.sim.w().kafka.partition_of(&source);
            // As librdkafka: what is fetched already isn't assigned a second time, and goes on where it is.
            self.fetching.entry(partition).or_insert((from, self.logs[&partition]));
        }
        for (source, question) in actions.claim {
            let step_over = self.stepping.remove(&source);
            let wanted = claims::Wanted { source, question, step_over };
            let (sim, latest, answers) = (Arc::clone(&self.sim), Arc::clone(&self.latest), self.answers.clone());
            let claim = claims::claim(sim, self.number, wanted, latest, answers);
            self.claims.spawn(Arc::clone(&self.process).run(claim));
        }
        while self.claims.try_join_next().is_some() {}
        Ok(())
    }

    fn seal(&mut self, trigger: Trigger) {
        let Some(mut batch) = self.session.seal(trigger, now()) else { return };
        batch.plan_version = self.plan;
        self.plan = self.plans.load(Ordering::Relaxed);
        // A writer that has ended ends the daemon.
        self.outbox.try_send(batch).ok();
    }

    async fn flush(&mut self, trigger: Trigger) {
        let deadline = Instant::now() + REVOKE_WAIT;
        loop {
            self.seal(trigger);
            let waiting = matches!(self.status.writer(), WriterState::Waiting { .. });
            if !self.session.in_flight() || Instant::now() >= deadline || waiting || self.outbox.is_closed() {
                return;
            }
            sleep(Duration::from_millis(10)).await;
            while let Ok(answer) = self.inbox.try_recv() {
                self.answer(answer);
            }
        }
    }

    /// Takes a stretch of records; whether there were any.
    fn take(&mut self) -> Result<bool, Stopped> {
        let mut took = false;
        let mut left = self.sim.w().dice.u32(1..12);
        let partitions: Vec<usize> = self.fetching.keys().copied().collect();
        for partition in partitions {
            while left > 0 && !self.session.is_full() {
                let Some(&(at, log)) = self.fetching.get(&partition) else { break };
                let (next, in_range, skip) = {
                    let mut world = self.sim.w();
                    if world.kafka.current[partition] != log {
                        break;
                    }
                    let skip = world.bug == Some(Bug::RecordSkipped) && world.chance(3);
                    let log = world.kafka.log(partition);
                    (log.next(at), log.low() <= at && at <= log.high(), skip)
                };
                if !in_range {
                    self.session.claim_all_again(now());
                    self.carry_out()?;
                    return Ok(took);
                }
                let Some((offset, kind)) = next else { break };
                self.fetching.insert(partition, (offset.successor(), log));
                left -= 1;
                took = true;
                if !skip {
                    self.deliver(partition, log, offset, &value(log, offset, kind));
                }
            }
        }
        // What a record brought about is carried out after the group has spoken, as in the consumer.
        Ok(took)
    }

    fn deliver(&mut self, partition: usize, log: usize, offset: Offset, value: &[u8]) {
        let source = self.source(partition);
        let timestamp_ms = Some(i64::try_from(log).expect("few logs"));
        let incoming = Incoming { offset, timestamp_ms, key: None, value: Some(value) };
        let plan = self.plan;
        let (topic, number) = (&source.topic, source.partition);
        self.session.deliver(topic, number, &incoming, now(), |_| (), |record, rows| encode(record, plan, rows));
    }
}
