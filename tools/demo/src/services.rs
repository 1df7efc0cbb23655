//! The services: three pipelines read one topic, each with its own consumer group.
//!
//! The daemon of the services runs from the beginning of the demo to its end, and serves the live page. The services get records
//! in the warm-up, and again in the story after the experiments. The story is a sequence of events, such as a burst and the kill
//! of a daemon. With `KEEP=1`, they then get records until Ctrl-C. The expected results come from [`fleet::Truth`].

mod checks;
mod lags;

use std::num::NonZeroU16;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use checks::Checks;
use fleet::{Limit, Partitioning, ProduceSpec, Profile};
use lags::Lags;
use sqlx::{Connection, Executor, PgConnection};
use tidegate_harness::sql::number;
use tidegate_harness::{Daemon, DaemonSpec, Database};

use crate::numbers::grouped;
use crate::screen::Screen;
use crate::stage::{Reconnecting, Stage};

const CONFIG: &str = include_str!("../../../config/fleet.toml");
const TABLES: &str = include_str!("../../../config/fleet.sql");
const TOPIC: &str = "telemetry";
const CLOSE_SILENT: &str = "SELECT close_silent_trips()";
const PARTITIONS: NonZeroU16 = NonZeroU16::new(4).expect("four is not zero");
pub(crate) const SERVICES: [&str; 3] = ["fare", "ride_analysis", "customer_info"];
/// The number of vehicles is a fifth of the rate, and each vehicle sends one record per simulated second. So the simulated time
/// runs five times as fast as the clock, and many trips end during the demo.
const VEHICLES: u32 = 1_000;
const RATE: f64 = 5_000.0;
/// The number of vehicles with `KEEP=1`. It equals the rate, so the simulated time runs as fast as the clock.
const VEHICLES_KEPT: u32 = 5_000;
const BURST: f64 = 8.0;
const BURST_AFTER: f64 = 3.0;
/// How long the table ride_analysis is locked, in seconds, in a run of full length.
const LOCKED: f64 = 25.0;
const LOOK: Duration = Duration::from_millis(500);
const DRAIN: Duration = Duration::from_secs(60);
/// How long Kafka keeps records, in milliseconds, as in docker-compose.yml. The live page shows this time as a red line.
const RETENTION_MS: &str = "259200000";
/// The time between two runs of `close_silent_trips()`, as docs/fleet.md recommends.
const CLOSE: Duration = Duration::from_secs(60);
/// The simulated time at which the warm-up's vehicles start, relative to now. They send for some seconds and then never again.
/// The story starts 20 minutes later ([`NEXT_START_MS`]). By then the warm-up's trips have been silent for more than ten minutes,
/// and are closed.
const FIRST_STARTS_MS: i64 = -30 * 60_000;
const NEXT_START_MS: i64 = -10 * 60_000;

#[derive(Debug)]
pub(crate) struct Services {
    stage: Arc<Stage>,
    database: Database,
    daemon: Daemon,
    /// The address of the daemon's HTTP server, which serves the live page.
    pub(crate) listen: String,
    lags: Lags,
    checks: Checks,
    /// How many fleets have started. No two of them share a vehicle.
    fleets: u32,
    /// The connection that closes silent trips (trips without new records).
    closer: Reconnecting,
    /// When silent trips were last closed, which happens once per [`CLOSE`].
    closed: Instant,
}

struct Moment {
    second: f64,
    event: Event,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Burst,
    Add,
    /// Prints which instance reads which partitions.
    Board,
    Kill,
    Lock,
    Unlock,
}

impl Event {
    fn name(self) -> &'static str {
        match self {
            Self::Burst => "burst",
            Self::Add => "added",
            Self::Board => "board",
            Self::Kill => "killed",
            Self::Lock => "locked",
            Self::Unlock => "unlocked",
        }
    }
}

type Fleet = JoinHandle<Result<fleet::Outcome, fleet::ProduceError>>;

impl Services {
    /// Creates the topic and the tables, starts the daemon, and waits until it is ready. The daemon serves its page at `listen`.
    pub(crate) async fn start(stage: &Arc<Stage>, listen: String) -> Result<Self> {
        stage.kafka.create_topic(TOPIC, PARTITIONS.get().into(), &[("retention.ms", RETENTION_MS)])?;
        let database = stage.postgres.create_database().await?;
        let mut connection = database.connect().await?;
        connection.execute(sqlx::raw_sql(TABLES)).await.context("config/fleet.sql")?;
        connection.close().await?;
        let daemon = spawn(stage, &database, Some(&listen))?;
        daemon.await_ready(Duration::from_secs(60))?;
        let (lags, closer) = (Lags::new(TOPIC, &database.url), Reconnecting::new(&database.url));
        let (stage, checks, closed) = (Arc::clone(stage), Checks::default(), Instant::now());
        Ok(Self { stage, database, daemon, listen, lags, checks, fleets: 0, closer, closed })
    }

    /// Sends records for a short time, and prints how soon the first rows and all rows were in the tables.
    pub(crate) async fn warm_up(&mut self, screen: &Screen, scale: f64) -> Result<()> {
        let seconds = 5.0 * scale;
        let fleet = self.send(Profile::Steady, seconds, FIRST_STARTS_MS);
        let began = Instant::now();
        self.lags.begin();
        self.follow(screen, &fleet, &[]).await?;
        self.park(fleet)?;
        let written = self.lags.written();
        screen.say(&format!(
            "the first rows were in the tables {:.1} s after the fleet began; all {} records are, read by each of three services, \
             after {:.1} s: {} in all",
            self.lags.first_seen().unwrap_or(began.elapsed()).as_secs_f64(),
            grouped(self.lags.sent() as f64),
            began.elapsed().as_secs_f64(),
            grouped(written.iter().sum::<i64>() as f64)
        ));
        Ok(())
    }

    /// Runs the story: sends records, and lets the events happen at their times. Writes `services-series.csv` and
    /// `services-events.csv` into `folder`.
    pub(crate) async fn story(&mut self, screen: &Screen, folder: &Path, scale: f64) -> Result<()> {
        self.lags.begin();
        let at = |second: f64, event| Moment { second: second * scale, event };
        let moments = [
            at(BURST_AFTER, Event::Burst),
            at(9.0, Event::Add),
            at(12.0, Event::Board),
            at(14.0, Event::Kill),
            at(22.0, Event::Board),
            at(23.0, Event::Lock),
            at(23.0 + LOCKED, Event::Unlock),
        ];
        let profile = Profile::Burst { factor: BURST, after: BURST_AFTER * scale, seconds: 6.0 * scale };
        let fleet = self.send(profile, (25.0 + LOCKED) * scale, NEXT_START_MS);
        self.follow(screen, &fleet, &moments).await?;
        self.park(fleet)?;
        self.lags.save(folder)
    }

    /// Runs a steady fleet until Ctrl-C.
    pub(crate) async fn keep(&mut self, screen: &Screen) -> Result<()> {
        let stop = Arc::new(AtomicBool::new(false));
        let fleet = self.send_until(VEHICLES_KEPT, Profile::Steady, None, None, Arc::clone(&stop));
        let told = tokio::signal::ctrl_c();
        tokio::select! {
            told = told => told?,
            followed = self.follow(screen, &fleet, &[]) => followed?,
        }
        stop.store(true, Ordering::Relaxed);
        self.follow(screen, &fleet, &[]).await?;
        self.park(fleet)
    }

    /// Drains the daemon, closes the silent trips, and compares the tables with the truth. Writes `services.csv`. Returns
    /// whether the tables are right.
    pub(crate) async fn check(&self, folder: &Path) -> Result<bool> {
        self.daemon.drain(Duration::from_secs(60))?;
        let sent = self.stage.kafka.end_offsets(TOPIC)?.iter().sum();
        let mut connection = self.database.connect().await?;
        number(&mut connection, CLOSE_SILENT).await?;
        self.checks.run(&mut connection, sent, &self.lags, folder).await
    }

    fn send(&mut self, profile: Profile, seconds: f64, starts_ms: i64) -> Fleet {
        self.send_until(VEHICLES, profile, Some(seconds), Some(starts_ms), Arc::default())
    }

    /// Starts a fleet. Its simulated clock begins at the current time plus `starts_ms`. If `starts_ms` is `None`, the simulated
    /// time begins with the first record.
    fn send_until(
        &mut self,
        vehicles: u32,
        profile: Profile,
        seconds: Option<f64>,
        starts_ms: Option<i64>,
        stop: Arc<AtomicBool>,
    ) -> Fleet {
        let mut spec = ProduceSpec::new(self.stage.kafka.bootstrap_servers(), TOPIC);
        spec.fleet.vehicles = vehicles;
        // Each fleet has its own vehicles, so that no two fleets share a trip.
        spec.fleet.first_vehicle = 1 + self.fleets * VEHICLES_KEPT;
        spec.fleet.seed = u64::from(self.fleets) + 1;
        spec.fleet.start_ms = now_ms() + starts_ms.unwrap_or(0);
        spec.start_now = starts_ms.is_none();
        spec.fleet.trip_metres = [200, 2_500];
        spec.delivery.late = 0.01;
        spec.delivery.repeat = 0.01;
        spec.rate = RATE;
        spec.profile = profile;
        spec.partitioning = Partitioning::ByVehicle(PARTITIONS);
        spec.keep_truth = true;
        spec.limit = Limit { records: None, seconds };
        self.fleets += 1;
        std::thread::spawn(move || fleet::produce(&spec, &stop, |_| {}))
    }

    /// Waits until the fleet has sent everything, and adds its trips to the expected results.
    fn park(&mut self, fleet: Fleet) -> Result<()> {
        let outcome = fleet.join().map_err(|_| anyhow!("the fleet panicked"))??;
        self.checks.expect(&outcome)
    }

    /// Shows the progress, and triggers the events of `moments` at their times. After the last event and the fleet's end, waits
    /// until each service has written everything, at most for [`DRAIN`].
    async fn follow(&mut self, screen: &Screen, fleet: &Fleet, moments: &[Moment]) -> Result<()> {
        let began = Instant::now();
        let (mut next, mut second, mut lock) = (0, None, None);
        let mut drain_since = None;
        loop {
            tokio::time::sleep(LOOK).await;
            self.lags.look(&self.stage).await?;
            screen.step(&self.lags.line());
            if self.closed.elapsed() >= CLOSE {
                self.closed = Instant::now();
                if let Some(closed @ 1..) = self.closer.number(CLOSE_SILENT).await {
                    screen.say(&format!("{} trips that fell silent get their final fare", grouped(closed as f64)));
                }
            }
            while let Some(moment) = moments.get(next).filter(|moment| moment.second <= began.elapsed().as_secs_f64()) {
                next += 1;
                let told = self.happen(moment.event, &mut second, &mut lock).await?;
                self.lags.event(moment.event.name(), &told);
                screen.say(&told);
            }
            if fleet.is_finished() && next == moments.len() {
                let since = *drain_since.get_or_insert_with(Instant::now);
                if self.lags.are_gone() || since.elapsed() > DRAIN {
                    return Ok(());
                }
            }
        }
    }

    async fn happen(
        &mut self,
        event: Event,
        second: &mut Option<Daemon>,
        lock: &mut Option<PgConnection>,
    ) -> Result<String> {
        Ok(match event {
            Event::Burst => format!("the fleet sends {BURST} times as much for 6 s"),
            Event::Board => self.lags.board().await?,
            Event::Add => {
                let daemon = second.insert(spawn(&self.stage, &self.database, None)?);
                let page = daemon.http_address().unwrap_or_default();
                format!("a second instance joins each group: its page is http://{page}/")
            }
            Event::Kill => {
                if let Some(daemon) = second.take() {
                    daemon.kill()?;
                }
                "the second instance is killed (SIGKILL); its partitions wait until its session of 6 s ends".to_owned()
            }
            Event::Lock => {
                let mut connection = self.database.connect().await?;
                connection.execute("BEGIN; LOCK TABLE ride_analysis IN ACCESS EXCLUSIVE MODE").await?;
                *lock = Some(connection);
                "someone locks the table ride_analysis, as a careless migration does".to_owned()
            }
            Event::Unlock => {
                if let Some(connection) = lock.take() {
                    connection.close().await?;
                }
                "the lock is gone".to_owned()
            }
        })
    }
}

/// Starts a daemon that serves its page at `listen`, or on a free port if `listen` is `None`.
fn spawn(stage: &Stage, database: &Database, listen: Option<&str>) -> Result<Daemon> {
    // A killed consumer keeps its partitions until its session ends. The default session timeout is too long for a demo.
    let spec = DaemonSpec::new(&stage.tidegate, CONFIG).env("TIDEGATE__KAFKA__PROPERTIES__SESSION_TIMEOUT_MS", "6000");
    let spec = listen.into_iter().fold(spec, |spec, address| spec.http_address(address));
    Daemon::spawn(&spec.on(stage.kafka.bootstrap_servers(), &database.url)?)
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(0)
}
