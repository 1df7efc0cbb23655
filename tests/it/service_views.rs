//! The table `ride_analysis` and its views. Each is compared with a result that the test computes itself.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write;

use fleet::{Reading, Region, State};
use tidegate_harness::Record;

use crate::services::{Drive, now_ms};
use crate::support::World;

const DAY: i64 = 86_400_000;

type Trips<'a> = BTreeMap<u64, Vec<&'a Reading>>;

/// Splits a trip into stretches. Returns those in which every reading satisfies `is`. A stretch is its first reading, and the
/// time of its end: that of the next reading that doesn't satisfy `is`, or of the trip's last reading.
fn stretches<'a>(trip: &[&'a Reading], is: impl Fn(&Reading) -> bool) -> Vec<(&'a Reading, i64)> {
    let mut found: Vec<(&Reading, i64)> = Vec::new();
    let mut open = false;
    for reading in trip {
        let holds = is(reading);
        if open {
            found.last_mut().expect("it is open").1 = reading.ts_ms;
        } else if holds {
            found.push((reading, reading.ts_ms));
        }
        open = holds;
    }
    found
}

fn stops(trips: &Trips<'_>) -> String {
    let mut lines = String::new();
    for (id, trip) in trips {
        for (first, ended) in stretches(trip, |reading| reading.state != State::Driving) {
            if ended - first.ts_ms > 300_000 {
                let (south, lon_per_mm) = match first.region {
                    Region::North => (52_530_000, 14_793),
                    Region::South => (52_400_000, 14_723),
                };
                // The vehicles stop at crossings, 200 m apart.
                let street = ((first.lon_e6 - 13_330_000) * 1_000_000 + lon_per_mm * 100_000) / (lon_per_mm * 200_000);
                let avenue = ((first.lat_e6 - south) * 1_000_000 + 8_983 * 100_000) / (8_983 * 200_000);
                let began = first.ts_ms;
                writeln!(lines, "{id} {began} {ended} street {street}, avenue {avenue}").expect("text");
            }
        }
    }
    lines
}

fn pauses(trips: &Trips<'_>) -> String {
    let mut lines = String::new();
    for (id, trip) in trips {
        for (first, ended) in stretches(trip, |reading| reading.state == State::Paused) {
            writeln!(lines, "{id} {} {ended}", first.ts_ms).expect("text");
        }
    }
    lines
}

fn speed_profile(trips: &Trips<'_>) -> String {
    let mut lines = String::new();
    for (id, trip) in trips {
        let mut minutes: BTreeMap<i64, (u64, u32, u32)> = BTreeMap::new();
        for reading in trip {
            let minute = minutes.entry((reading.ts_ms - trip[0].ts_ms) / 60_000).or_default();
            minute.0 = reading.odometer_mm;
            minute.1 = minute.1.max(reading.speed_tenths);
            minute.2 += u32::from(reading.state != State::Driving);
        }
        let mut before = 0;
        for (minute, (odometer_mm, tenths, standing)) in minutes {
            let metres = (odometer_mm - before) / 1_000;
            writeln!(lines, "{id} {minute} {metres} {}.{} {standing}", tenths / 10, tenths % 10).expect("text");
            before = odometer_mm;
        }
    }
    lines
}

fn hard_braking(trips: &Trips<'_>) -> String {
    let mut lines = String::new();
    for (id, trip) in trips {
        for pair in trip.windows(2) {
            let slower = i64::from(pair[0].speed_tenths) - i64::from(pair[1].speed_tenths);
            // From one reading to the next, the speed fell by more than 16.2 km/h per second, on average.
            if slower * 1_000 > 162 * (pair[1].ts_ms - pair[0].ts_ms) {
                writeln!(lines, "{id} {}", pair[1].ts_ms).expect("text");
            }
        }
    }
    lines
}

fn utilisation(trips: &Trips<'_>) -> String {
    // The set of vehicles that were seen, and the seconds in each state.
    type Use = (HashSet<u32>, [u32; 3]);
    let mut hours: BTreeMap<(i64, &str), Use> = BTreeMap::new();
    for reading in trips.values().flatten() {
        let hour = hours.entry((reading.ts_ms / 3_600_000, reading.region.as_str())).or_default();
        hour.0.insert(reading.vehicle_id);
        hour.1[match reading.state {
            State::Driving => 0,
            State::Stopped => 1,
            State::Paused => 2,
        }] += 1;
    }
    let mut lines = String::new();
    for ((hour, region), (vehicles, [driving, stopped, paused])) in hours {
        writeln!(lines, "{hour} {region} {} {driving} {stopped} {paused}", vehicles.len()).expect("text");
    }
    lines
}

/// Returns SQL for the time of a column in milliseconds since the epoch.
fn ms(column: &str) -> String {
    format!("(extract(epoch FROM {column}) * 1000)::int8")
}

impl World {
    /// Returns these columns of a view's rows as text. In `columns`, a time with the suffix `:ms` or `:h` becomes a number of
    /// milliseconds or hours since the epoch.
    async fn lines(&self, view: &str, columns: &str, order: &str) -> String {
        let blanks = columns.matches(" ").count() + 1;
        let format = vec!["%s"; blanks].join(" ");
        let columns = columns.split(' ').map(|column| match column.split_once(':') {
            Some((time, unit)) => format!("{}{}", ms(time), if unit == "h" { " / 3600000" } else { "" }),
            None => column.to_owned(),
        });
        let columns = columns.collect::<Vec<_>>().join(", ");
        let sql = format!(
            "SELECT coalesce(string_agg(format('{format}', {columns}) || E'\\n', '' ORDER BY {order}), '') FROM {view}"
        );
        self.text(&sql).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_record_is_kept_once_in_the_partition_of_its_day_and_each_view_answers_its_question() {
    let world = World::with_services().await;
    let config = world.services(&["ride_analysis"]);
    // The trips cross midnight.
    let midnight = now_ms() / DAY * DAY;
    let driven = world.drive(&Drive::of(40, midnight - 1_000_000, 2_400));
    world.drained(&config);

    let ends = world.kafka.end_offsets(&world.topic).expect("Kafka tells its ends");
    let kept = "SELECT count(*) FROM (SELECT DISTINCT kafka_offset FROM ride_analysis WHERE kafka_partition = ";
    for (partition, end) in ends.iter().enumerate() {
        assert_eq!(world.number(&format!("{kept}{partition})")).await, *end);
    }
    assert_eq!(world.number("SELECT count(*) FROM ride_analysis").await, ends.iter().sum::<i64>());
    assert!(driven.truth.sent() > driven.truth.distinct(), "some were sent twice");
    assert_eq!(world.number("SELECT count(*) FROM readings").await.unsigned_abs(), driven.truth.distinct());
    assert_eq!(world.number("SELECT count(*) FROM tidegate.dead_letter").await, 0);

    let day = |ts: &str| format!("'ride_analysis_p' || to_char({ts} AT TIME ZONE 'UTC', 'YYYYMMDD')");
    let misplaced = format!("SELECT count(*) FROM ride_analysis WHERE tableoid::regclass::text <> {}", day("ts"));
    assert_eq!(world.number(&misplaced).await, 0);
    let used = "SELECT count(DISTINCT tableoid) FROM ride_analysis";
    assert_eq!(world.number(used).await, 2, "the days before and after midnight");
    let names = "SELECT count(*) FROM pg_class WHERE relname = ";
    assert_eq!(world.number(&format!("{names}{}", day("(now() + interval '1 day')"))).await, 1, "tomorrow's is there");
    let indexed = "SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = indexrelid JOIN pg_am a ON a.oid = relam
        WHERE indrelid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent = 'ride_analysis'::regclass) AND amname = ";
    let partitions = world.number("SELECT count(*) FROM pg_inherits WHERE inhparent = 'ride_analysis'::regclass").await;
    assert_eq!(world.number(&format!("{indexed}'brin'")).await, partitions);
    assert_eq!(world.number(&format!("{indexed}'btree'")).await, partitions);

    let mut trips: Trips<'_> = BTreeMap::new();
    for ((trip, _), reading) in &driven.readings {
        trips.entry(*trip).or_default().push(reading);
    }
    let questions = [
        ("stops", "trip_id began:ms ended:ms crossing", "trip_id, began", stops(&trips), 5),
        ("pauses", "trip_id began:ms ended:ms", "trip_id, began", pauses(&trips), 20),
        (
            "speed_profile",
            "trip_id minute metres fastest_kmh standing_s",
            "trip_id, minute",
            speed_profile(&trips),
            500,
        ),
        ("hard_braking", "trip_id ts:ms", "trip_id, ts", hard_braking(&trips), 20),
        (
            "fleet_utilisation",
            "hour:h region vehicles driving_s stopped_s paused_s",
            "hour, region",
            utilisation(&trips),
            4,
        ),
    ];
    for (view, columns, order, truth, least) in questions {
        let answer = world.lines(view, columns, order).await;
        assert!(truth.lines().count() >= least, "{view}: a test without a case: {truth}");
        assert_eq!(answer, truth, "{view}");
    }
    let paused: u64 = driven.truth.trips().iter().map(|trip| trip.paused_ms).sum();
    let in_view = "SELECT (extract(epoch FROM sum(lasted)) * 1000)::int8 FROM pauses";
    let view = world.number(in_view).await.unsigned_abs();
    assert!(view.abs_diff(paused) <= 1_000 * 40, "{view} ms of {paused}: a pause that isn't over has a second to come");

    // Records from clocks that were reset or are ahead must create no partition and no dead letter.
    let lying =
        |ts: &str| Record::new(format!(r#"{{"vehicle_id":999,"trip_id":999,"ts":"{ts}","state":"driving"}}"#)).to(0);
    world.produce([lying("1970-01-01T00:00:00Z"), lying("2099-12-31T23:59:59Z")]);
    world.drained(&config);
    assert_eq!(world.number("SELECT count(*) FROM ride_analysis_default WHERE vehicle_id = 999").await, 2);
    let after = world.number("SELECT count(*) FROM pg_inherits WHERE inhparent = 'ride_analysis'::regclass").await;
    assert_eq!(after, partitions);
}
