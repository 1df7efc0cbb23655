//! The fleet: simulates all vehicles, one second at a time.
//!
//! Vehicles send one after another, evenly spread over each second. So the readings are in order of time.

use crate::vehicle::Vehicle;
use crate::{Reading, Region};

/// The difference between two consecutive trip ids of one vehicle. It is above all vehicle ids, so trip ids are unique.
pub const TRIP_STRIDE: u64 = 10_000_000;

/// The latest start, in milliseconds since the epoch. RFC 3339 can express times until the end of year 9999, about a century
/// later.
const LATEST_START_MS: i64 = 250_000_000_000_000;

/// The parameters of a fleet. Each vehicle sends one reading per simulated second. The same parameters give the same readings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetSpec {
    pub vehicles: u32,
    /// The id of the first vehicle. If two fleets have different vehicle ids, they have different trip ids too.
    pub first_vehicle: u32,
    pub seed: u64,
    /// The first reading's time, in milliseconds since the epoch.
    pub start_ms: i64,
    pub north_permille: u32,
    /// The shortest and the longest trip, in metres.
    pub trip_metres: [u32; 2],
}

impl Default for FleetSpec {
    fn default() -> Self {
        Self {
            vehicles: 1_000,
            first_vehicle: 1,
            seed: 1,
            start_ms: 1_767_225_600_000,
            north_permille: 500,
            trip_metres: [800, 6_000],
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSpec {
    #[error("`vehicles` must be at least 1, and the last id below {TRIP_STRIDE}")]
    Vehicles,
    #[error("`start` must lie between the years 1970 and 9800")]
    Start,
    #[error("`north_permille` must be at most 1000")]
    North,
    #[error("`trip_metres` must be a range within 10 to 1000000")]
    TripMetres,
}

/// An endless iterator of readings. [`Fleet::tick`] passes the readings of one second to a closure.
#[derive(Debug, Clone)]
pub struct Fleet {
    spec: FleetSpec,
    vehicles: Vec<Vehicle>,
    /// The index of the vehicle that sends the next reading.
    turn: u32,
    /// Simulated seconds since the start. This is also the `seq` of the next reading.
    second: u64,
    index: u64,
}

impl Fleet {
    /// # Errors
    /// If a parameter is out of bounds; `InvalidSpec` names the first one.
    pub fn new(spec: FleetSpec) -> Result<Self, InvalidSpec> {
        let end = u64::from(spec.first_vehicle) + u64::from(spec.vehicles);
        let [shortest, longest] = spec.trip_metres;
        if spec.vehicles == 0 || end > TRIP_STRIDE {
            return Err(InvalidSpec::Vehicles);
        }
        if !(0..LATEST_START_MS).contains(&spec.start_ms) {
            return Err(InvalidSpec::Start);
        }
        if spec.north_permille > 1_000 {
            return Err(InvalidSpec::North);
        }
        if shortest < 10 || shortest > longest || longest > 1_000_000 {
            return Err(InvalidSpec::TripMetres);
        }
        let ids = u64::from(spec.first_vehicle)..end;
        let vehicles = ids.map(|id| Vehicle::new(scatter(spec.seed, id))).collect();
        Ok(Self { spec, vehicles, turn: 0, second: 0, index: 0 })
    }

    /// Lets each vehicle send once, and advances by a second.
    pub fn tick(&mut self, mut send: impl FnMut(&Reading)) {
        for _ in 0..self.vehicles.len() {
            send(&self.advance());
        }
    }

    pub fn next_ts_ms(&self) -> i64 {
        let phase = u64::from(self.turn) * 1_000 / u64::from(self.spec.vehicles);
        self.spec.start_ms + (self.second * 1_000 + phase).cast_signed()
    }

    /// Sets the time of the first reading to `start_ms`, in milliseconds since the epoch. May only be called before the
    /// first reading.
    ///
    /// # Errors
    /// If the time is out of bounds.
    pub fn starting_at(mut self, start_ms: i64) -> Result<Self, InvalidSpec> {
        if !(0..LATEST_START_MS).contains(&start_ms) {
            return Err(InvalidSpec::Start);
        }
        self.spec.start_ms = start_ms;
        Ok(self)
    }

    pub fn spec(&self) -> &FleetSpec {
        &self.spec
    }

    fn advance(&mut self) -> Reading {
        let ts_ms = self.next_ts_ms();
        let vehicle_id = self.spec.first_vehicle + self.turn;
        let region = region(self.turn, self.spec.north_permille);
        let vehicle = &mut self.vehicles[self.turn as usize];
        let event = vehicle.step(self.spec.trip_metres);
        let (at, heading, along) = vehicle.at();
        let (lat_e6, lon_e6) = at.position(heading, along, region);
        let reading = Reading {
            vehicle_id,
            driver_id: vehicle_id * 2 + vehicle.shift(),
            trip_id: u64::from(vehicle.trip()) * TRIP_STRIDE + u64::from(vehicle_id),
            region,
            ts_ms,
            lat_e6,
            lon_e6,
            speed_tenths: (vehicle.speed_mm_s() * 36 + 500) / 1_000,
            odometer_mm: vehicle.odometer_mm().into(),
            paused_ms: vehicle.paused_ms().into(),
            state: vehicle.state(),
            event,
            seq: self.second,
            index: self.index,
        };
        self.index += 1;
        self.turn += 1;
        if self.turn == self.spec.vehicles {
            self.turn = 0;
            self.second += 1;
        }
        reading
    }
}

impl Iterator for Fleet {
    type Item = Reading;

    fn next(&mut self) -> Option<Reading> {
        Some(self.advance())
    }
}

/// Returns the region of the vehicle with the index `turn`. The vehicles of each region are spread evenly over the indexes.
fn region(turn: u32, north_permille: u32) -> Region {
    let north = u64::from(north_permille);
    let turn = u64::from(turn);
    if (turn + 1) * north / 1_000 > turn * north / 1_000 { Region::North } else { Region::South }
}

/// Returns the seed of one vehicle, by the finalizer of splitmix64. Vehicles with adjacent ids get unrelated seeds.
fn scatter(seed: u64, id: u64) -> u64 {
    let mut mixed = seed ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::Event;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn the_same_seed_gives_the_same_readings(seed in any::<u64>(), vehicles in 1u32..40) {
            let spec = FleetSpec { seed, vehicles, ..FleetSpec::default() };
            let one = Fleet::new(spec.clone()).expect("valid").take(2_000);
            let other = Fleet::new(spec.clone()).expect("valid").take(2_000);
            prop_assert!(one.eq(other));
            let unlike = FleetSpec { seed: seed ^ 1, ..spec.clone() };
            let one = Fleet::new(spec).expect("valid").take(2_000);
            prop_assert!(one.ne(Fleet::new(unlike).expect("valid").take(2_000)));
        }

        #[test]
        fn counters_never_fall_and_nothing_is_missing(seed in any::<u64>(), vehicles in 1u32..8) {
            let spec = FleetSpec { seed, vehicles, ..FleetSpec::default() };
            let mut last: HashMap<u32, Reading> = HashMap::new();
            let readings = Fleet::new(spec).expect("valid").take(4_000 * vehicles as usize);
            for (index, reading) in readings.enumerate() {
                prop_assert_eq!(reading.index, index as u64);
                let Some(before) = last.insert(reading.vehicle_id, reading) else {
                    prop_assert_eq!((reading.seq, reading.event), (0, Some(Event::TripStarted)));
                    continue;
                };
                prop_assert_eq!(reading.seq, before.seq + 1);
                prop_assert_eq!(reading.ts_ms, before.ts_ms + 1_000);
                prop_assert_eq!(reading.region, before.region);
                if before.event == Some(Event::TripEnded) {
                    prop_assert_eq!(reading.trip_id, before.trip_id + TRIP_STRIDE);
                    prop_assert_eq!(reading.event, Some(Event::TripStarted));
                    prop_assert_eq!((reading.odometer_mm, reading.paused_ms), (0, 0));
                } else {
                    prop_assert_eq!(reading.trip_id, before.trip_id);
                    prop_assert_eq!(reading.driver_id, before.driver_id);
                    prop_assert!(reading.event != Some(Event::TripStarted));
                    prop_assert!(reading.odometer_mm >= before.odometer_mm);
                    prop_assert!(reading.paused_ms >= before.paused_ms);
                }
            }
        }
    }

    #[test]
    fn a_tick_is_one_second_of_all_vehicles() {
        let spec = FleetSpec { vehicles: 4, ..FleetSpec::default() };
        let mut fleet = Fleet::new(spec.clone()).expect("valid");
        let mut sent = Vec::new();
        fleet.tick(|reading| sent.push((reading.vehicle_id, reading.ts_ms - spec.start_ms)));
        assert_eq!(sent, [(1, 0), (2, 250), (3, 500), (4, 750)]);
        fleet.tick(|reading| assert!(reading.ts_ms >= spec.start_ms + 1_000));
    }

    #[test]
    fn two_million_vehicles_all_send_within_their_second() {
        let spec = FleetSpec { vehicles: 2_000_000, ..FleetSpec::default() };
        let mut fleet = Fleet::new(spec.clone()).expect("valid").starting_at(5_000).expect("valid");
        for second in 0..2 {
            let (mut last, mut count) = (0, 0u32);
            fleet.tick(|reading| {
                count += 1;
                assert_eq!((reading.vehicle_id, reading.seq), (count, second));
                assert!(reading.ts_ms >= last && reading.ts_ms / 1_000 == 5 + i64::try_from(second).expect("few"));
                last = reading.ts_ms;
            });
            assert_eq!(count, spec.vehicles);
        }
    }

    #[test]
    fn the_regions_have_their_shares() {
        for north in [0, 1, 300, 500, 999, 1_000] {
            let count = (0..10_000).filter(|&turn| region(turn, north) == Region::North).count();
            assert_eq!(count, north as usize * 10);
        }
    }

    #[test]
    fn a_fleet_that_cannot_be_is_refused() {
        let refused = |spec| Fleet::new(spec).map(drop);
        let spec = FleetSpec::default;
        assert_eq!(refused(FleetSpec { vehicles: 0, ..spec() }), Err(InvalidSpec::Vehicles));
        let crowd = FleetSpec { vehicles: 10_000_000, ..spec() };
        assert_eq!(refused(crowd), Err(InvalidSpec::Vehicles));
        assert_eq!(refused(FleetSpec { start_ms: -1, ..spec() }), Err(InvalidSpec::Start));
        assert_eq!(refused(FleetSpec { north_permille: 1_001, ..spec() }), Err(InvalidSpec::North));
        let back = FleetSpec { trip_metres: [20, 10], ..spec() };
        assert_eq!(refused(back), Err(InvalidSpec::TripMetres));
    }
}
