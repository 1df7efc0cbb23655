//! The result that every consumer should have, even if records reach it late or more than once.
//!
//! The caller adds each delivery that was sent. A reading counts only once. This module doesn't use Kafka. Consumers must not
//! read its result, because they are compared with it.

use std::collections::HashMap;
use std::io::{self, Write};

use serde::{Serialize, Serializer};

use crate::digits::timestamp;
use crate::{Arrival, Delivery, Event, FleetSpec, Partitioning, Reading, Region, Tariff};

/// The expected result for one trip, from the readings that were sent. `start_ms` and `end_ms` are the times of the earliest and
/// the latest reading, in milliseconds since the epoch. `odometer_mm` and `paused_ms` are the largest values among the readings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct TripTruth {
    pub trip_id: u64,
    pub vehicle_id: u32,
    pub driver_id: u32,
    #[serde(serialize_with = "region")]
    pub region: Region,
    #[serde(rename = "start_ts", serialize_with = "rfc3339")]
    pub start_ms: i64,
    #[serde(rename = "end_ts", serialize_with = "rfc3339")]
    pub end_ms: i64,
    pub odometer_mm: u64,
    pub paused_ms: u64,
    /// Whether the reading that ends the trip was sent.
    pub ended: bool,
    pub readings: u64,
}

impl TripTruth {
    fn new(reading: &Reading) -> Self {
        Self {
            trip_id: reading.trip_id,
            vehicle_id: reading.vehicle_id,
            driver_id: reading.driver_id,
            region: reading.region,
            start_ms: reading.ts_ms,
            end_ms: reading.ts_ms,
            odometer_mm: 0,
            paused_ms: 0,
            ended: false,
            readings: 0,
        }
    }

    fn add(&mut self, reading: &Reading) {
        self.start_ms = self.start_ms.min(reading.ts_ms);
        self.end_ms = self.end_ms.max(reading.ts_ms);
        self.odometer_mm = self.odometer_mm.max(reading.odometer_mm);
        self.paused_ms = self.paused_ms.max(reading.paused_ms);
        self.ended |= reading.event == Some(Event::TripEnded);
        self.readings += 1;
    }

    pub fn duration_ms(&self) -> u64 {
        (self.end_ms - self.start_ms).unsigned_abs()
    }

    pub fn fare_cents(&self, tariff: &Tariff) -> i128 {
        tariff.fare_cents(self.odometer_mm, self.duration_ms(), self.paused_ms)
    }
}

/// The number of records that were sent to a partition, and the number of distinct readings among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct PartitionTruth {
    pub sent: u64,
    pub distinct: u64,
}

/// The expected results, from everything that was sent.
#[derive(Debug, Clone)]
pub struct Truth {
    fleet: FleetSpec,
    partitioning: Partitioning,
    partitions: Vec<PartitionTruth>,
    trips: HashMap<u64, TripTruth>,
}

impl Truth {
    pub fn new(fleet: FleetSpec, partitioning: Partitioning) -> Self {
        let partitions = vec![PartitionTruth::default(); usize::from(partitioning.count())];
        Self { fleet, partitioning, partitions, trips: HashMap::new() }
    }

    pub fn add(&mut self, delivery: &Delivery) {
        let reading = &delivery.reading;
        let partition = &mut self.partitions[usize::from(self.partitioning.of(reading))];
        partition.sent += 1;
        if delivery.arrival == Arrival::First {
            partition.distinct += 1;
            self.trips.entry(reading.trip_id).or_insert_with(|| TripTruth::new(reading)).add(reading);
        }
    }

    pub fn sent(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.sent).sum()
    }

    pub fn distinct(&self) -> u64 {
        self.partitions.iter().map(|partition| partition.distinct).sum()
    }

    pub fn partitions(&self) -> &[PartitionTruth] {
        &self.partitions
    }

    /// Returns a trip; `None` if none of its readings was sent.
    pub fn trip(&self, trip_id: u64) -> Option<&TripTruth> {
        self.trips.get(&trip_id)
    }

    /// Returns all trips, in the order of their ids.
    pub fn trips(&self) -> Vec<&TripTruth> {
        let mut trips: Vec<_> = self.trips.values().collect();
        trips.sort_unstable_by_key(|trip| trip.trip_id);
        trips
    }

    /// Writes one JSON object: the run's main parameters, the totals, the partitions, and the trips with their fares.
    ///
    /// # Errors
    /// If `out` cannot be written to.
    pub fn write_json(&self, tariff: &Tariff, mut out: impl Write) -> io::Result<()> {
        let file = File {
            seed: self.fleet.seed,
            vehicles: self.fleet.vehicles,
            start_ts: timestamp(self.fleet.start_ms),
            partitioning: self.partitioning.to_string(),
            tariff: *tariff,
            sent: self.sent(),
            distinct: self.distinct(),
            partitions: &self.partitions,
            trips: self.trips().into_iter().map(|trip| Row::new(trip, tariff)).collect(),
        };
        serde_json::to_writer(&mut out, &file)?;
        out.write_all(b"\n")?;
        out.flush()
    }

    /// Writes CSV: a heading, and one line per trip.
    ///
    /// # Errors
    /// If `out` cannot be written to.
    pub fn write_csv(&self, tariff: &Tariff, mut out: impl Write) -> io::Result<()> {
        writeln!(
            out,
            "trip_id,vehicle_id,driver_id,region,start_ts,end_ts,odometer_mm,paused_ms,ended,\
             readings,duration_ms,fare_cents"
        )?;
        for trip in self.trips() {
            let TripTruth { trip_id, vehicle_id, driver_id, odometer_mm, paused_ms, .. } = trip;
            let (region, ended, readings) = (trip.region.as_str(), trip.ended, trip.readings);
            let (start, end) = (timestamp(trip.start_ms), timestamp(trip.end_ms));
            let (duration, fare) = (trip.duration_ms(), trip.fare_cents(tariff));
            writeln!(
                out,
                "{trip_id},{vehicle_id},{driver_id},{region},{start},{end},{odometer_mm},\
                 {paused_ms},{ended},{readings},{duration},{fare}"
            )?;
        }
        out.flush()
    }
}

#[derive(Serialize)]
struct File<'a> {
    seed: u64,
    vehicles: u32,
    start_ts: String,
    partitioning: String,
    tariff: Tariff,
    sent: u64,
    distinct: u64,
    partitions: &'a [PartitionTruth],
    trips: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    trip: &'a TripTruth,
    duration_ms: u64,
    fare_cents: i128,
}

impl<'a> Row<'a> {
    fn new(trip: &'a TripTruth, tariff: &Tariff) -> Self {
        Self { trip, duration_ms: trip.duration_ms(), fare_cents: trip.fare_cents(tariff) }
    }
}

fn region<S: Serializer>(region: &Region, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(region.as_str())
}

fn rfc3339<S: Serializer>(ts_ms: &i64, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&timestamp(*ts_ms))
}
