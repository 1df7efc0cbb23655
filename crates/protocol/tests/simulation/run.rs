//! One run: first a seeded schedule of records, rebalances and faults; then a time without faults, in which the daemons must
//! write the remaining records within a limit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tidegate_protocol::claim_loop::OffsetLossPolicy;
use tidegate_protocol::partition::LossCondition;
use tidegate_protocol::poll_loop::Message;
use tidegate_protocol::stopped::Stopped;
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep};

use crate::daemon::{self, Daemon};
use crate::oracle;
use crate::postgres::Outage;
use crate::world::{Bug, Sim};

/// Within this time after the last fault, the remaining records must be written. The time is several times longer than all
/// deadlines, grace periods and session timeouts together.
const DRAIN_WITHIN: Duration = Duration::from_secs(180);

#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) violation: Option<String>,
    pub(crate) stops: Vec<String>,
    pub(crate) rows: usize,
    pub(crate) dead: usize,
    pub(crate) took: Duration,
    /// In a replay, the last state of each daemon, printed with `Debug`.
    #[expect(dead_code, reason = "shown by a replay")]
    pub(crate) notes: BTreeMap<u64, String>,
    pub(crate) events: BTreeMap<&'static str, u64>,
}

/// Runs a seed in simulated time. The same seed gives the same run.
pub(crate) fn run(seed: u64, bug: Option<Bug>) -> Run {
    fastrand::seed(seed);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime without I/O").block_on(async {
        let started = Instant::now();
        let sim = Sim::new(seed, bug);
        let mut fleet = Fleet::new(Arc::clone(&sim));
        fleet.trouble().await;
        fleet.heal();
        fleet.drain().await;
        let world = sim.w();
        let data = &world.server.data;
        Run {
            violation: world.violation.clone(),
            stops: world.stops.clone(),
            rows: data.rows.iter().map(Vec::len).sum(),
            dead: data.dead.iter().map(Vec::len).sum(),
            took: started.elapsed(),
            notes: world.notes.clone(),
            events: world.events.clone(),
        }
    })
}

struct Fleet {
    sim: Arc<Sim>,
    /// For each slot, the daemon that runs in it, or the time at which the next one starts.
    daemons: Vec<Result<Daemon, Instant>>,
    /// For each slot, when its suspended process resumes.
    asleep: Vec<Option<Instant>>,
    outage_until: Option<Instant>,
    stranger: Option<(u64, Instant)>,
    /// The kinds of faults that this run's schedule may contain, one bit per kind.
    allowed: u32,
    last_number: u64,
}

impl Fleet {
    fn new(sim: Arc<Sim>) -> Self {
        let (count, allowed) = {
            let mut world = sim.w();
            // Each kind of fault is allowed in more than half of the runs; some runs have all kinds, some none.
            let allowed = world.dice.u32(..) | if world.chance(20) { u32::MAX } else { 0 };
            (world.dice.usize(1..=3), if world.chance(5) { 0 } else { allowed })
        };
        let daemons = (0..count).map(|_| Err(Instant::now())).collect();
        Self { sim, daemons, asleep: vec![None; count], outage_until: None, stranger: None, allowed, last_number: 0 }
    }

    async fn trouble(&mut self) {
        let steps = self.sim.w().dice.u32(5..40);
        for _ in 0..steps {
            self.keep_up();
            self.produce();
            self.fault();
            let pause = {
                let mut world = self.sim.w();
                let long = world.chance(10);
                world.ms(if long { 1000..8000 } else { 5..400 })
            };
            sleep(pause).await;
            if self.sim.w().violation.is_some() {
                return;
            }
        }
    }

    fn keep_up(&mut self) {
        let now = Instant::now();
        {
            let mut world = self.sim.w();
            let world = &mut *world;
            world.kafka.tick(&mut world.dice);
            if self.outage_until.is_some_and(|until| until <= now) {
                self.outage_until = None;
                world.server.outage = None;
            }
            if let Some((stranger, until)) = self.stranger
                && until <= now
            {
                world.server.end(stranger);
                self.stranger = None;
            }
        }
        for place in 0..self.daemons.len() {
            if self.asleep[place].is_some_and(|until| until <= now) {
                self.wake(place);
            }
            let ended = match &mut self.daemons[place] {
                Ok(daemon) => daemon.tasks.try_join_next(),
                Err(at) if *at <= now => {
                    self.last_number += 1;
                    self.daemons[place] = Ok(daemon::start(&self.sim, self.last_number));
                    None
                }
                Err(_) => None,
            };
            let Some(ended) = ended else { continue };
            match ended {
                Ok(Ok(())) => {}
                Ok(Err(stopped)) => self.stopped(&stopped),
                Err(panic) => self.sim.w().violated(format!("a panic: {panic}")),
            }
            self.kill(place);
        }
    }

    fn stopped(&self, why: &Stopped) {
        let mut world = self.sim.w();
        match why {
            Stopped::LogLoss { condition: LossCondition::LedgerLost, .. } => world.server.restore_lost(),
            Stopped::LogLoss { .. } => {
                world.server.restore_lost();
                world.policy = OffsetLossPolicy::Earliest;
            }
            Stopped::ReplanDidNotHelp(_) if world.catalog_changes > 1 => {}
            other => world.violated(format!("a stop for no reason: {other}")),
        }
        world.stops.push(why.to_string());
    }

    fn wake(&mut self, place: usize) {
        self.asleep[place] = None;
        if let Ok(daemon) = &self.daemons[place] {
            daemon.process.go_on();
        }
    }

    fn kill(&mut self, place: usize) {
        self.asleep[place] = None;
        let again = self.sim.w().ms(1..5000);
        self.daemons[place] = Err(Instant::now() + again);
    }

    fn produce(&self) {
        let mut world = self.sim.w();
        let world = &mut *world;
        if world.chance(60) {
            let bad = self.allowed & 1 > 0;
            let partition = world.dice.usize(0..world.kafka.sources.len());
            for _ in 0..world.dice.u32(0..12) {
                world.kafka.produce(partition, &mut world.dice, bad);
            }
        }
    }

    fn fault(&mut self) {
        let kind = self.sim.w().dice.u32(1..24);
        if self.allowed >> kind & 1 == 0 {
            return;
        }
        // Killing a daemon locks the world, so it is done after `guard` is dropped.
        let mut killed = None;
        let sim = Arc::clone(&self.sim);
        let mut guard = sim.w();
        let world = &mut *guard;
        let place = world.dice.usize(0..self.daemons.len());
        let partition = world.dice.usize(0..world.kafka.sources.len());
        let now = Instant::now();
        world.trace(|| format!("fault {kind}, daemon at {place}, partition {partition}"));
        match kind {
            1..=4 => world.kafka.rebalance(&mut world.dice),
            5..=8 => {
                // Three ranges in milliseconds: short; around the idle timeout of transactions; around the group's
                // session timeout.
                let stops = [50..1000, 2000..6000, 8000..20_000];
                let which = world.dice.usize(0..3);
                let until = now + world.ms(stops[which].clone());
                if let Ok(daemon) = &self.daemons[place] {
                    daemon.process.stop();
                    self.asleep[place] = Some(until);
                }
            }
            9 | 10 => killed = Some(place),
            11 if world.chance(30) => {
                if let Ok(daemon) = &self.daemons[place] {
                    // If the inbox is full, the request is left out.
                    let _asked = daemon.inbox.try_send(Message::Rebuild("simulated"));
                }
            }
            11 => {
                if let Ok(daemon) = &self.daemons[place] {
                    daemon.leave.cancel();
                }
            }
            12 | 13 => {
                let kinds = [Outage::Down, Outage::ReadOnly, Outage::DiskFull];
                let outage = kinds[world.dice.usize(0..3)];
                world.server.outage = Some(outage);
                if outage == Outage::Down {
                    world.server.end_all();
                }
                self.outage_until = Some(now + world.ms(50..10_000));
            }
            14 | 15 => {
                if let Some(backend) = world.dice.choice(world.server.backends()) {
                    world.server.end(backend);
                }
            }
            16 | 17 => {
                // A failover loses the last few transactions. A restore may return to any earlier state.
                let past = world.server.past.len();
                let oldest = if world.chance(70) { past.saturating_sub(4) } else { 0 };
                let which = world.dice.usize(oldest..past);
                world.server.become_past(which);
                if world.policy != OffsetLossPolicy::Fail {
                    // With a policy other than `Fail`, a partition that lost its ledger row would be read
                    // twice, as documented. So put the lost rows back.
                    world.server.restore_lost();
                }
            }
            18 => {
                world.server.catalog += 1;
                world.catalog_changes += 1;
            }
            19 => world.kafka.compact(partition, &mut world.dice),
            20 => world.kafka.expire(partition, &mut world.dice),
            21 => world.kafka.recreate(partition, &mut world.dice),
            22 if world.policy == OffsetLossPolicy::Fail => world.server.lose(partition),
            23 if self.stranger.is_none() => {
                let until = now + world.ms(100..8000);
                self.stranger = world.server.lock_by_stranger(partition).map(|backend| (backend, until));
                // After a rebalance, the old and the new owner may wait for the same row, and either may get it first.
                world.kafka.rebalance(&mut world.dice);
            }
            _ => {}
        }
        drop(guard);
        if let Some(place) = killed {
            self.kill(place);
        }
    }

    fn heal(&mut self) {
        {
            let mut world = self.sim.w();
            world.trouble = 0;
            world.server.outage = None;
            world.server.restore_lost();
        }
        self.outage_until = None;
        if let Some((stranger, _)) = self.stranger.take() {
            self.sim.w().server.end(stranger);
        }
        for place in 0..self.daemons.len() {
            self.wake(place);
        }
    }

    async fn drain(&mut self) {
        let started = Instant::now();
        loop {
            self.keep_up();
            {
                let mut world = self.sim.w();
                if world.violation.is_some() || oracle::drained(&world) {
                    break;
                }
                if started.elapsed() > DRAIN_WITHIN {
                    let what = oracle::undrained(&world);
                    return world.violated(format!("no progress within {DRAIN_WITHIN:?} after all healed: {what}"));
                }
            }
            sleep(Duration::from_millis(200)).await;
        }
        // Messages that are still under way, such as the COMMIT of a daemon that was presumed dead, must break no invariant.
        sleep(Duration::from_secs(10)).await;
        oracle::audit(&mut self.sim.w());
    }
}
