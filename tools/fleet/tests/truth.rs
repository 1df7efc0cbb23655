//! Compares [`Truth`], the results that the producer expects, with those of a consumer that knows only the records' bytes.

use std::collections::{HashMap, HashSet};

use fleet::{Deliveries, DeliverySpec, Encoder, Fleet, FleetSpec, Format, Partitioning, Tariff, Truth};
use proptest::prelude::*;
use serde_json::Value;

const START_MS: i64 = 1_767_225_600_000;

#[derive(Debug, Default, PartialEq)]
struct Trip {
    vehicle_id: u64,
    driver_id: u64,
    start_ms: i64,
    end_ms: i64,
    odometer_mm: u64,
    paused_ms: u64,
    ended: bool,
    readings: u64,
}

/// Reads every record, drops duplicates, and computes each trip's result from the rest.
#[derive(Default)]
struct Consumer {
    seen: HashSet<(u64, u64)>,
    trips: HashMap<u64, Trip>,
}

impl Consumer {
    fn read(&mut self, record: &[u8]) {
        let json: Value = serde_json::from_slice(record).expect("JSON");
        let number = |field: &str| json[field].as_u64().expect(field);
        if !self.seen.insert((number("vehicle_id"), number("seq"))) {
            return;
        }
        let ts: jiff::Timestamp = json["ts"].as_str().expect("ts").parse().expect("RFC 3339");
        let ts = ts.as_millisecond();
        let first = Trip { start_ms: ts, ..Trip::default() };
        let trip = self.trips.entry(number("trip_id")).or_insert(first);
        trip.vehicle_id = number("vehicle_id");
        trip.driver_id = number("driver_id");
        trip.start_ms = trip.start_ms.min(ts);
        trip.end_ms = trip.end_ms.max(ts);
        trip.odometer_mm = trip.odometer_mm.max(number("odometer_mm"));
        trip.paused_ms = trip.paused_ms.max(number("paused_ms"));
        trip.ended |= json["event"] == "trip_ended";
        trip.readings += 1;
    }
}

fn run(seed: u64, delivery: DeliverySpec, records: u64) -> (Truth, Consumer) {
    let spec = FleetSpec { seed, vehicles: 7, start_ms: START_MS, ..FleetSpec::default() };
    let fleet = Fleet::new(spec.clone()).expect("valid");
    let mut truth = Truth::new(spec, Partitioning::ByRegion);
    let mut consumer = Consumer::default();
    let (mut encoder, mut record) = (Encoder::new(Format::Telemetry), Vec::new());
    for delivery in Deliveries::new(fleet, delivery, Some(records)) {
        truth.add(&delivery);
        record.clear();
        encoder.write(&delivery.reading, &mut record);
        consumer.read(&record);
    }
    (truth, consumer)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn it_is_what_a_consumer_that_drops_repetitions_finds(
        seed in any::<u64>(), late in 0.0..0.3, repeat in 0.0..0.3, records in 1u64..12_000,
    ) {
        let (truth, consumer) = run(seed, DeliverySpec { late, repeat }, records);
        prop_assert_eq!(truth.sent(), records);
        prop_assert_eq!(truth.distinct(), consumer.seen.len() as u64);
        prop_assert_eq!(truth.trips().len(), consumer.trips.len());
        for trip in truth.trips() {
            let expected = Trip {
                vehicle_id: trip.vehicle_id.into(),
                driver_id: trip.driver_id.into(),
                start_ms: trip.start_ms,
                end_ms: trip.end_ms,
                odometer_mm: trip.odometer_mm,
                paused_ms: trip.paused_ms,
                ended: trip.ended,
                readings: trip.readings,
            };
            prop_assert_eq!(consumer.trips.get(&trip.trip_id), Some(&expected));
            // There is one reading per second, and none is missing, even if some arrived late.
            prop_assert_eq!(trip.duration_ms(), (trip.readings - 1) * 1_000);
        }
    }
}

#[test]
fn the_files_hold_what_the_truth_knows() {
    let (truth, _) = run(5, DeliverySpec { late: 0.05, repeat: 0.05 }, 20_000);
    let tariff = Tariff::default();
    let mut file = Vec::new();
    truth.write_json(&tariff, &mut file).expect("written");
    let json: Value = serde_json::from_slice(&file).expect("JSON");
    assert_eq!((&json["sent"], &json["seed"]), (&20_000.into(), &5.into()));
    assert_eq!(json["distinct"], truth.distinct());
    assert_eq!(json["partitions"][1]["sent"], truth.partitions()[1].sent);
    let mut csv = Vec::new();
    truth.write_csv(&tariff, &mut csv).expect("written");
    let csv = String::from_utf8(csv).expect("text");
    let mut lines = csv.lines();
    let heading: Vec<_> = lines.next().expect("a heading").split(',').collect();
    let trips = json["trips"].as_array().expect("trips");
    assert_eq!(trips.len(), truth.trips().len());
    for ((row, trip), line) in trips.iter().zip(truth.trips()).zip(lines) {
        assert_eq!(row["trip_id"], trip.trip_id);
        assert_eq!(row["fare_cents"].as_i64().map(i128::from), Some(trip.fare_cents(&tariff)));
        let cells: Vec<_> = line.split(',').collect();
        assert_eq!(cells.len(), heading.len());
        for (name, cell) in heading.iter().zip(cells) {
            assert_eq!(row[*name].to_string().trim_matches('"'), cell, "{name}");
        }
    }
    assert!(trips.iter().any(|trip| trip["ended"] == true));
    assert!(trips.iter().any(|trip| trip["paused_ms"] != 0));
}
