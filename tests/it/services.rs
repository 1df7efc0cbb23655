//! The three services of `config/fleet.toml`. Their tables are compared with the results that the simulated fleet computes.

use std::collections::{BTreeMap, HashMap, HashSet};

use fleet::{
    Deliveries, DeliverySpec, Encoder, Fleet, FleetSpec, Format, Partitioning, Reading, Tariff, Truth, write_key,
};
use sqlx::Row;
use tidegate_harness::{Daemon, Record, eventually_async, free_port};

use crate::accounting::{await_metric, counted, with_short_sessions};
use crate::cli::tidegate;
use crate::support::{PATIENCE, World, spec};

const CONFIG: &str = include_str!("../../config/fleet.toml");
const SQL: &str = include_str!("../../config/fleet.sql");

impl World {
    /// Returns a world for the services. Its topic has two partitions, for the regions north and south. Its database has their
    /// tables.
    pub(crate) async fn with_services() -> Self {
        let world = Self::new(2).await;
        world.sql(SQL).await;
        world
    }

    /// Returns `config/fleet.toml` with the servers, topic and groups of this world, and with only the services `only`.
    pub(crate) fn services(&self, only: &[&str]) -> String {
        let (head, pipelines) = CONFIG.split_once("\n[pipelines.fare]").expect("the first service");
        let pipelines = format!("\n[pipelines.fare]{pipelines}");
        let mut config = head
            .replace("127.0.0.1:9092", self.kafka.bootstrap_servers())
            .replace("postgres://postgres@127.0.0.1:5432/telemetry", &self.database.url);
        config += &format!("\n[http]\nlisten = \"127.0.0.1:{}\"\n", free_port().expect("a free port"));
        for service in pipelines.split("\n[pipelines.").skip(1) {
            let name = service.split([']', '.']).next().expect("a name");
            if only.contains(&name) {
                let topics = format!("topics = [\"{}\"]\ngroup = \"{name}_{}\"", self.topic, self.name);
                config += &format!("\n[pipelines.{}", service.replace("topics = [\"telemetry\"]", &topics));
            }
        }
        assert!(!config.contains("\"telemetry\""), "each service reads this world's topic: {config}");
        config
    }

    pub(crate) async fn await_service(&self, daemon: &Daemon, service: &str) {
        let end: i64 = self.kafka.end_offsets(&self.topic).expect("Kafka tells its ends").into_iter().sum();
        let ledger =
            format!("SELECT coalesce(sum(next_offset), 0)::int8 FROM tidegate.ledger WHERE pipeline = '{service}'");
        let made = "SELECT count(*) FROM pg_tables WHERE (schemaname, tablename) = ('tidegate', 'ledger')";
        let written = async || self.number(made).await > 0 && self.number(&ledger).await >= end;
        if let Err(error) = eventually_async("all is written", PATIENCE, written).await {
            panic!("{error:#}; {}", daemon.log_tail());
        }
    }

    pub(crate) fn drive(&self, drive: &Drive) -> Driven {
        let fleet = Fleet::new(drive.fleet.clone()).expect("a fleet that can be");
        let mut truth = Truth::new(drive.fleet.clone(), Partitioning::ByRegion);
        let mut encoder = Encoder::new(Format::Telemetry);
        let (mut records, mut readings) = (Vec::new(), BTreeMap::new());
        for delivery in Deliveries::new(fleet, drive.delivery, Some(drive.records)) {
            truth.add(&delivery);
            let reading = delivery.reading;
            readings.insert((reading.trip_id, reading.ts_ms), reading);
            let (mut payload, mut key) = (Vec::new(), Vec::new());
            encoder.write(&reading, &mut payload);
            write_key(&reading, &mut key);
            records.push(Record::new(payload).key(key).to(Partitioning::ByRegion.of(&reading).into()));
        }
        self.produce(records);
        Driven { truth, readings }
    }
}

pub(crate) struct Drive {
    pub(crate) fleet: FleetSpec,
    pub(crate) delivery: DeliverySpec,
    pub(crate) records: u64,
}

impl Drive {
    /// Returns a drive with late and duplicate records. It begins at `start_ms`, in milliseconds since 1970.
    pub(crate) fn of(vehicles: u32, start_ms: i64, seconds: u64) -> Self {
        Self {
            fleet: FleetSpec { vehicles, start_ms, seed: 7, ..FleetSpec::default() },
            delivery: DeliverySpec { late: 0.03, repeat: 0.03 },
            records: u64::from(vehicles) * seconds,
        }
    }
}

pub(crate) struct Driven {
    pub(crate) truth: Truth,
    /// The readings by trip and time, without repetitions.
    pub(crate) readings: BTreeMap<(u64, i64), Reading>,
}

pub(crate) fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// Checks that each trip's fare is correct, and that a closed trip was charged its fare.
async fn assert_fares(world: &World, truth: &Truth) {
    let sql = "SELECT trip_id, vehicle_id, driver_id, region, (extract(epoch FROM started_at) * 1000)::int8,
            (extract(epoch FROM last_at) * 1000)::int8, ended_at = last_at, (fare * 100)::int8, (charged * 100)::int8, fare::text
        FROM fares";
    let rows = sqlx::query(sql).fetch_all(&mut world.connect().await).await.expect("the fares are read");
    let mut fares: HashMap<u64, _> = HashMap::new();
    for row in &rows {
        let trip: i64 = row.get(0);
        fares.insert(trip.unsigned_abs(), row);
    }
    assert_eq!(fares.len(), truth.trips().len());
    let tariff = Tariff::default();
    for trip in truth.trips() {
        let row = fares[&trip.trip_id];
        assert_eq!(row.get::<i32, _>(1).unsigned_abs(), trip.vehicle_id);
        assert_eq!(row.get::<i32, _>(2).unsigned_abs(), trip.driver_id);
        assert_eq!(row.get::<String, _>(3), trip.region.as_str());
        assert_eq!((row.get::<i64, _>(4), row.get::<i64, _>(5)), (trip.start_ms, trip.end_ms), "trip {}", trip.trip_id);
        assert_eq!(row.get::<Option<bool>, _>(6).unwrap_or(false), trip.ended, "trip {}", trip.trip_id);
        let cents = trip.fare_cents(&tariff);
        assert_eq!(i128::from(row.get::<i64, _>(7)), cents, "trip {}", trip.trip_id);
        assert_eq!(row.get::<Option<i64>, _>(8).map(i128::from), trip.ended.then_some(cents), "trip {}", trip.trip_id);
        assert_eq!(row.get::<String, _>(9), format!("{}.{:02}", cents / 100, cents % 100));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fares_are_right_to_the_cent_through_kills_and_a_replay_of_everything() {
    let world = World::with_services().await;
    let driven = world.drive(&Drive::of(40, now_ms() - 1_500_000, 1_500));
    let ended = driven.truth.trips().iter().filter(|trip| trip.ended).count();
    assert!(ended > 50, "{ended} trips ended");
    // Batches are small, so that the kills interrupt writes.
    let config = world.services(&["fare"]);
    let small =
        config.replace("consumers = 2", "consumers = 2\nbatch.max_rows = 500\nflow.max_rows_per_second = 20_000");
    let small = with_short_sessions(&small);
    for _ in 0..3 {
        let daemon = Daemon::spawn(&spec(&small)).expect("the daemon starts");
        await_metric(&daemon, "tidegate_rows_written_total", 4_000.0);
        daemon.kill().expect("it dies");
    }
    let before = world.number("SELECT sum(next_offset)::int8 FROM tidegate.ledger").await;
    assert!((1..60_000).contains(&before), "the kills came in the middle of the drain: {before}");
    world.drained(&with_short_sessions(&config));
    assert_fares(&world, &driven.truth).await;

    let closed = "SELECT coalesce(md5(string_agg(c::text, ' ' ORDER BY trip_id)), '') || (SELECT coalesce(string_agg(a::text, ' ' ORDER BY adjustment_id), '') FROM fare_adjustment a) FROM fare_final c";
    let charged = world.text(closed).await;
    assert_eq!(world.number("SELECT count(*) FROM fare_final WHERE why = 'ended'").await, ended as i64);
    tidegate(&config, &["offsets", "set", "--offset", "earliest"]).ok().says(&["read again"]);
    world.drained(&config);
    assert_fares(&world, &driven.truth).await;
    assert_eq!(world.text(closed).await, charged, "a replay writes no invoice again");

    // A second service with its own table reads everything from the beginning.
    world.sql("CREATE TABLE fare_again (LIKE fare INCLUDING ALL)").await;
    let again = config
        .replace("pipelines.fare", "pipelines.fare_again")
        .replace("public.fare\"", "public.fare_again\"")
        .replace("group = \"fare_", "group = \"fare_again_");
    world.drained(&again);
    // All columns must be equal except the time of closing. A trigger sets it only in the first table.
    let differ = "SELECT count(*) FROM fare f FULL JOIN fare_again a USING (trip_id)
        WHERE to_jsonb(f) - 'closed_at' IS DISTINCT FROM to_jsonb(a) - 'closed_at'";
    assert_eq!(world.number(differ).await, 0);
    let again = world.number("SELECT count(*) FROM fare_again").await;
    assert_eq!(usize::try_from(again), Ok(driven.truth.trips().len()));
}

/// The parts of a record that the test chooses. Other fields are fixed, or follow from the trip and the partition.
struct Sent<'a> {
    trip: i64,
    partition: i32,
    ts_ms: i64,
    odometer_mm: i64,
    event: Option<&'a str>,
}

impl Sent<'_> {
    fn record(&self) -> Record {
        let Self { trip, partition, odometer_mm, .. } = self;
        let ts = jiff::Timestamp::from_millisecond(self.ts_ms).expect("a time");
        let event = self.event.map_or("null".to_owned(), |event| format!("\"{event}\""));
        let region = if *partition == 0 { "north" } else { "south" };
        Record::new(format!(
            r#"{{"vehicle_id":{trip},"driver_id":{trip},"trip_id":{trip},"region":"{region}","ts":"{ts}","lat":52.5,"lon":13.4,"speed_kmh":30.0,"odometer_mm":{odometer_mm},"paused_ms":0,"state":"driving","event":{event},"seq":1}}"#
        ))
        .to(*partition)
    }
}

/// Returns why a trip's fare became final, and three amounts in cents: the final fare, the adjustments, and the total charged.
async fn invoices(world: &World, trip: i64) -> String {
    let sql = "SELECT format('%s %s, adjusted by %s, charged %s', why, (f.fare * 100)::int8,
            (SELECT coalesce(string_agg((amount * 100)::int8::text, ' ' ORDER BY adjustment_id), 'nothing')
             FROM fare_adjustment a WHERE a.trip_id = f.trip_id),
            (SELECT (charged * 100)::int8 FROM fares WHERE fares.trip_id = f.trip_id))
        FROM fare_final f WHERE trip_id = ";
    world.text(&format!("{sql}{trip}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_trip_is_closed_once_and_what_comes_later_is_an_adjustment() {
    const MINUTE: i64 = 60_000;
    const KM: i64 = 1_000_000;
    let world = World::with_services().await;
    let config = world.services(&["fare"]);
    let start = now_ms() - 60 * MINUTE;
    let at = |trip, partition, minute, km, event| {
        Sent { trip, partition, ts_ms: start + minute * MINUTE, odometer_mm: km * KM, event }.record()
    };
    let cents = |km: i64, minutes: i64| {
        let metered = Tariff::default().fare_cents((km * KM).unsigned_abs(), (minutes * MINUTE).unsigned_abs(), 0);
        i64::try_from(metered).expect("a fare")
    };
    // A trip is silent if it is more than 10 minutes behind the newest record of the open trips in its partition. Trip 1 sends
    // nothing more, while trip 2 in the same partition continues. Trip 3 is not silent, because no other trip in its partition is
    // open.
    world.produce([
        at(1, 0, 0, 0, Some("trip_started")),
        at(1, 0, 9, 5, None),
        at(2, 0, 0, 0, Some("trip_started")),
        at(2, 0, 19, 12, None),
        at(3, 1, 1, 2, None),
        // A record from a clock that was reset or is ahead must not be charged.
        Sent { trip: 2, partition: 0, ts_ms: 0, odometer_mm: 11 * KM, event: None }.record(),
        Sent { trip: 2, partition: 0, ts_ms: 4_102_444_800_000, odometer_mm: 11 * KM, event: None }.record(),
        // The first record of this trip arrives after its last.
        at(4, 1, 2, 1, None),
        at(4, 1, 8, 6, Some("trip_ended")),
    ]);
    world.drained(&config);
    assert_eq!(world.number("SELECT close_silent_trips('10 minutes')").await, 0, "9 minutes are no 10");
    assert_eq!(invoices(&world, 4).await, format!("ended {0}, adjusted by nothing, charged {0}", cents(6, 6)));
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter WHERE detail LIKE '%clock_can_be%'").await, 2);
    assert_eq!(world.number("SELECT (fare * 100)::int8 FROM fares WHERE trip_id = 2").await, cents(12, 19));
    world.produce([at(2, 0, 20, 13, None)]);
    world.drained(&config);
    assert_eq!(world.number("SELECT close_silent_trips()").await, 1);
    assert_eq!(world.number("SELECT close_silent_trips()").await, 0, "once");
    assert_eq!(invoices(&world, 1).await, format!("silent {0}, adjusted by nothing, charged {0}", cents(5, 9)));
    assert_eq!(world.number("SELECT count(*) FROM fare_final").await, 2);

    // Trip 1 wasn't over after all, and trip 4 began earlier than was known. Records without news make no adjustment.
    world.produce([at(1, 0, 21, 9, Some("trip_ended")), at(4, 1, 0, 0, Some("trip_started")), at(4, 1, 5, 4, None)]);
    world.drained(&config);
    let first = format!("silent {}, adjusted by {}, charged {}", cents(5, 9), cents(9, 21) - cents(5, 9), cents(9, 21));
    let fourth = format!("ended {}, adjusted by {}, charged {}", cents(6, 6), cents(6, 8) - cents(6, 6), cents(6, 8));
    assert_eq!((invoices(&world, 1).await, invoices(&world, 4).await), (first.clone(), fourth.clone()));

    // Repeating all records makes no adjustment either.
    world.produce([at(1, 0, 21, 9, Some("trip_ended")), at(1, 0, 9, 5, None)]);
    tidegate(&config, &["offsets", "set", "--offset", "earliest"]).ok();
    world.drained(&config);
    assert_eq!(world.number("SELECT close_silent_trips()").await, 0);
    assert_eq!((invoices(&world, 1).await, invoices(&world, 4).await), (first, fourth));
    assert_eq!(world.number("SELECT count(*) FROM fare_adjustment").await, 2);

    // A new tariff applies to trips that start while it is valid. No two tariffs are valid at the same time.
    let change = start + 40 * MINUTE;
    let since = format!("to_timestamp({change} / 1000.0)");
    world
        .sql(&format!(
            "UPDATE tariff SET valid = tstzrange(NULL, {since});
             INSERT INTO tariff (valid, base, per_km, per_minute, per_paused_minute, minimum)
             VALUES (tstzrange({since}, NULL), 3, 2, 0.5, 0.1, 1)"
        ))
        .await;
    world.produce([
        at(5, 0, 39, 0, Some("trip_started")),
        at(5, 0, 49, 5, Some("trip_ended")),
        at(6, 0, 40, 0, Some("trip_started")),
        at(6, 0, 50, 5, Some("trip_ended")),
    ]);
    world.drained(&config);
    assert_eq!(invoices(&world, 5).await, format!("ended {0}, adjusted by nothing, charged {0}", cents(5, 10)));
    assert_eq!(invoices(&world, 6).await, "ended 1800, adjusted by nothing, charged 1800");
    let overlap = "INSERT INTO tariff (base, per_km, per_minute, per_paused_minute, minimum) VALUES (1, 1, 1, 1, 1)";
    let refused = sqlx::query(overlap).execute(&mut world.connect().await).await.expect_err("two tariffs at a time");
    assert!(refused.to_string().contains("one_tariff_at_a_time"), "{refused}");
}

async fn hear(listener: &mut sqlx::postgres::PgListener) -> String {
    let told = tokio::time::timeout(PATIENCE, listener.recv()).await.expect("a batch is told");
    told.expect("the connection stands").payload().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn customer_info_holds_the_newest_state_of_each_trip_and_tells_of_it_once_a_batch() {
    let world = World::with_services().await;
    let mut listener = sqlx::postgres::PgListener::connect(&world.database.url).await.expect("a listener");
    listener.listen("customer_info").await.expect("it listens");
    let config = world.services(&["customer_info"]).replace("max_rows = 20_000", "max_rows = 3_000");
    // No records are late here, so each batch has newer readings.
    let start = now_ms() - 1_000_000;
    let on_time = Drive { delivery: DeliverySpec::default(), ..Drive::of(40, start, 500) };
    world.drive(&on_time);
    let daemon = world.daemon(&config);
    world.await_service(&daemon, "customer_info").await;
    let (mut told, mut transactions) = (0_u32, HashSet::new());
    let batches = || counted(&daemon, "tidegate_batches_total");
    let all_told = async {
        while told == 0 || f64::from(told) < batches() {
            transactions.insert(hear(&mut listener).await);
            told += 1;
        }
    };
    all_told.await;
    assert_eq!(transactions.len(), told as usize, "each batch is told once");
    assert!(told > 5, "{told} batches");

    // Repeat the same vehicles from the beginning, with late and duplicate records. Only the second half is new.
    let driven = world.drive(&Drive::of(40, start, 1_000));
    world.await_service(&daemon, "customer_info").await;
    let sql = "SELECT trip_id, (extract(epoch FROM ts) * 1000)::int8, odometer_mm, state, round(lat * 1e6)::int8,
            round(lon * 1e6)::int8, vehicle_id, sent_at >= ts, event FROM customer_info";
    let rows = sqlx::query(sql).fetch_all(&mut world.connect().await).await.expect("read");
    assert_eq!(rows.len(), driven.truth.trips().len());
    for row in rows {
        let trip = row.get::<i64, _>(0).unsigned_abs();
        let newest = driven.readings.range((trip, 0)..(trip + 1, 0)).next_back().expect("a trip that was driven").1;
        assert_eq!(row.get::<i64, _>(1), newest.ts_ms, "trip {trip}");
        assert_eq!(row.get::<i64, _>(2).unsigned_abs(), newest.odometer_mm, "trip {trip}");
        assert_eq!(row.get::<String, _>(3), newest.state.as_str(), "trip {trip}");
        assert_eq!((row.get::<i64, _>(4), row.get::<i64, _>(5)), (newest.lat_e6, newest.lon_e6), "trip {trip}");
        assert_eq!(row.get::<i32, _>(6).unsigned_abs(), newest.vehicle_id);
        assert!(row.get::<bool, _>(7), "it was sent after it was measured");
        assert_eq!(row.get::<Option<String>, _>(8).as_deref(), newest.event.map(fleet::Event::as_str));
    }

    // A batch without newer readings sends no notification. So the next notification is for the batch after it.
    let last = world.number("SELECT max(trip_id) FROM customer_info").await;
    let write = async |ts_ms, odometer_mm| {
        world.produce([Sent { trip: last, partition: 0, ts_ms, odometer_mm, event: None }.record()]);
        world.await_service(&daemon, "customer_info").await;
        world.text(&format!("SELECT xmin::text FROM customer_info WHERE trip_id = {last}")).await
    };
    let now = now_ms();
    let first = write(now, 1).await;
    while hear(&mut listener).await != first {}
    assert_eq!(write(now - 1, 2).await, first, "it is late, and changes nothing");
    let second = write(now + 1, 3).await;
    assert_eq!(hear(&mut listener).await, second);
    let hot = "SELECT count(*) FROM pg_indexes WHERE tablename = 'customer_info'";
    assert_eq!(world.number(hot).await, 1, "no index but the key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_sees_a_real_fleet_drive() {
    let world = World::with_services().await;
    let daemon = world.daemon(&world.services(&["fare", "ride_analysis", "customer_info"]));
    daemon.await_ready(PATIENCE).expect("it is ready");
    let ended = std::sync::atomic::AtomicBool::new(false);
    let watch = fleet::WatchSpec { database_url: world.database.url.clone(), trip_id: 7, at: None, readings: Some(5) };
    let spec = fleet::ProduceSpec {
        fleet: FleetSpec { vehicles: 50, ..FleetSpec::default() },
        start_now: true,
        rate: 50.0,
        ..fleet::ProduceSpec::new(world.kafka.bootstrap_servers(), &world.topic)
    };
    let (summary, said) = std::thread::scope(|scope| {
        let fleet = scope.spawn(|| fleet::produce(&spec, &ended, |_| {}));
        let mut said = Vec::new();
        let late = tokio::time::sleep(PATIENCE);
        let watched = fleet::watch_until(&watch, late, |words| said.push(words.to_owned()));
        let summary = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(watched));
        ended.store(true, std::sync::atomic::Ordering::Relaxed);
        fleet.join().expect("no panic").expect("it drove");
        (summary.expect("watched"), said)
    });
    println!("{summary}{said:?}");
    assert!(summary.readings >= 5, "{summary} {said:?}; {}", daemon.log_tail());
    assert_eq!(summary.ahead_of_clock, 0, "{summary}");
    assert!(
        summary.since_sent_ms.expect("timed").p50 <= summary.since_measured_ms.expect("timed").p50 + 5.0,
        "{summary}"
    );
    assert!(said.iter().any(|words| words.contains("min away")), "{said:?}");
    for table in ["fare", "ride_analysis"] {
        let there = async || world.number(&format!("SELECT count(*) FROM {table} WHERE trip_id = 7")).await > 0;
        eventually_async("the other services have it too", PATIENCE, there).await.expect(table);
    }
}
