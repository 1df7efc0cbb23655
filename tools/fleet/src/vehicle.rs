//! How one vehicle moves. It is simulated second by second, in millimetres, without floats.
//!
//! A fleet may keep a million vehicles in memory, so the state is small. Values that can be computed are not stored.

use fastrand::Rng;

use crate::street::{BLOCK_MM, CROSSINGS, Crossing, Heading};
use crate::{Event, State};

// The following speeds are in mm/s, and the accelerations in mm/s².
const CRUISES: [u32; 4] = [8_333, 13_889, 13_889, 16_667]; // 30, 50, 50 and 60 km/h
const TURN_SPEED: u32 = 5_000;
const CREEP: u32 = 2_000;
const ACCELERATION: u32 = 1_800;
const BRAKING: u32 = 2_000;
const HARD_BRAKING: std::ops::Range<u32> = 5_000..8_000;
/// Below this speed (in mm/s), no hard braking occurs. Otherwise, it occurs in one of [`HARD_BRAKING_ODDS`] seconds.
const HARD_BRAKING_FROM: u32 = 9_000;
const HARD_BRAKING_ODDS: u32 = 400;
const TRIPS_PER_SHIFT: u32 = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Parked,
    Driving,
    /// The vehicle stands at a light, or for a passenger.
    Waiting,
    Pausing,
}

/// The vehicle's plan for the end of the current block. With `Finish`, the trip ends inside the block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plan {
    Straight,
    Turn,
    Halt,
    Finish,
}

#[derive(Debug, Clone)]
pub(crate) struct Vehicle {
    rng: Rng,
    odometer_mm: u32,
    goal_mm: u32,
    paused_ms: u32,
    along_mm: u32,
    speed: u32,
    cruise: u32,
    trips: u32,
    /// The number of seconds until a wait or a break is over.
    left_s: u32,
    at: Crossing,
    heading: Heading,
    mode: Mode,
    plan: Plan,
}

const _: () = assert!(size_of::<Vehicle>() < 100, "a million vehicles should fit in 100 MB");

impl Vehicle {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let at = Crossing { east: rng.u8(1..CROSSINGS - 1), north: rng.u8(1..CROSSINGS - 1) };
        let heading = Heading::ALL[rng.usize(..Heading::ALL.len())];
        Self {
            rng,
            odometer_mm: 0,
            goal_mm: 0,
            paused_ms: 0,
            along_mm: 0,
            speed: 0,
            cruise: 0,
            trips: 0,
            left_s: 0,
            at,
            heading,
            mode: Mode::Parked,
            plan: Plan::Straight,
        }
    }

    /// Advances by one second. The first second after a trip's end begins the next trip.
    pub(crate) fn step(&mut self, trip_metres: [u32; 2]) -> Option<Event> {
        match self.mode {
            Mode::Parked => {
                self.begin(trip_metres);
                return Some(Event::TripStarted);
            }
            Mode::Driving => return self.drive(),
            Mode::Waiting => {}
            Mode::Pausing => self.paused_ms += 1_000,
        }
        self.left_s -= 1;
        if self.left_s == 0 {
            self.mode = Mode::Driving;
            self.enter_block();
        }
        None
    }

    pub(crate) fn state(&self) -> State {
        match self.mode {
            Mode::Pausing => State::Paused,
            Mode::Driving if self.speed > 0 => State::Driving,
            Mode::Driving | Mode::Parked | Mode::Waiting => State::Stopped,
        }
    }

    pub(crate) fn at(&self) -> (Crossing, Heading, u32) {
        (self.at, self.heading, self.along_mm)
    }

    pub(crate) fn speed_mm_s(&self) -> u32 {
        self.speed
    }

    pub(crate) fn odometer_mm(&self) -> u32 {
        self.odometer_mm
    }

    pub(crate) fn paused_ms(&self) -> u32 {
        self.paused_ms
    }

    /// Returns the number of the current trip, from 0. Valid only after the first step.
    pub(crate) fn trip(&self) -> u32 {
        self.trips - 1
    }

    /// Returns which of the vehicle's two drivers is on shift, 0 or 1.
    pub(crate) fn shift(&self) -> u32 {
        self.trip() / TRIPS_PER_SHIFT % 2
    }

    fn begin(&mut self, [from, to]: [u32; 2]) {
        self.trips += 1;
        self.odometer_mm = 0;
        self.paused_ms = 0;
        self.goal_mm = self.rng.u32(from * 1_000..=to * 1_000);
        self.mode = Mode::Driving;
        self.settle();
    }

    fn drive(&mut self) -> Option<Event> {
        let ahead = match self.plan {
            Plan::Finish => self.goal_mm - self.odometer_mm,
            Plan::Straight | Plan::Turn | Plan::Halt => BLOCK_MM - self.along_mm,
        };
        let halts = matches!(self.plan, Plan::Halt | Plan::Finish);
        let before = self.speed;
        self.speed = self.next_speed(ahead);
        let distance = (before + self.speed) / 2;
        let travelled = if halts { distance.min(ahead) } else { distance };
        self.odometer_mm += travelled;
        self.along_mm += travelled;
        if distance < ahead {
            return None;
        }
        match self.plan {
            Plan::Straight | Plan::Turn => self.enter_block(),
            Plan::Halt => self.halt(),
            Plan::Finish => {
                self.speed = 0;
                self.mode = Mode::Parked;
                return Some(Event::TripEnded);
            }
        }
        None
    }

    /// Returns the speed for the next second, in mm/s: the highest speed that the street, the vehicle's acceleration and the
    /// braking distance allow. At random, the vehicle brakes hard instead.
    fn next_speed(&mut self, ahead: u32) -> u32 {
        if self.speed >= HARD_BRAKING_FROM && self.rng.u32(..HARD_BRAKING_ODDS) == 0 {
            return self.speed - self.rng.u32(HARD_BRAKING);
        }
        let exit = match self.plan {
            Plan::Straight => return self.toward(self.cruise),
            Plan::Turn => TURN_SPEED,
            Plan::Halt | Plan::Finish => 0,
        };
        // The brakes take effect after the coming second. So subtract that second's distance.
        let room = ahead.saturating_sub(self.speed);
        let brakeable = (exit * exit + 2 * BRAKING * room).isqrt();
        self.toward(self.cruise.min(brakeable.max(CREEP)))
    }

    fn toward(&self, wanted: u32) -> u32 {
        wanted.clamp(self.speed.saturating_sub(BRAKING * 3 / 2), self.speed + ACCELERATION)
    }

    /// Passes the crossing, and continues in the next block with the distance that was driven beyond the crossing.
    fn enter_block(&mut self) {
        let here = self.at.next(self.heading).unwrap_or(self.at);
        self.at = here;
        self.along_mm -= BLOCK_MM;
        let (left, right) = (self.heading.left(), self.heading.right());
        let (first, second) = if self.rng.bool() { (left, right) } else { (right, left) };
        let open = |way: &Heading| here.next(*way).is_some();
        let ways = match self.plan {
            Plan::Straight => [self.heading, first, second],
            Plan::Turn | Plan::Halt | Plan::Finish => [first, second, self.heading],
        };
        // At the edge of the grid, some ways lead out of it.
        self.heading = ways.into_iter().find(open).unwrap_or(self.heading);
        self.settle();
    }

    /// Chooses the speed for this block, and what to do at its end.
    fn settle(&mut self) {
        self.cruise = CRUISES[self.rng.usize(..CRUISES.len())];
        // If the trip's end (`goal_mm`) is within the braking distance, move the end a little further, inside the block.
        let braking_mm = self.speed * self.speed / (2 * BRAKING) + self.speed;
        self.goal_mm = self.goal_mm.max(self.odometer_mm + braking_mm);
        let goal_ahead = self.goal_mm - self.odometer_mm;
        let dice = self.rng.u32(..100);
        let goes_on = self.at.next(self.heading).and_then(|end| end.next(self.heading)).is_some();
        self.plan = match dice {
            _ if goal_ahead <= BLOCK_MM - self.along_mm => Plan::Finish,
            0..40 => Plan::Halt,
            40..80 if goes_on => Plan::Straight,
            _ => Plan::Turn,
        };
    }

    fn halt(&mut self) {
        self.speed = 0;
        (self.mode, self.left_s) = match self.rng.u32(..100) {
            0..5 => (Mode::Pausing, self.rng.u32(30..=600)), // the driver's break
            5..25 => (Mode::Waiting, self.rng.u32(15..=60)), // a passenger
            _ => (Mode::Waiting, self.rng.u32(5..=45)),      // a red light
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_drives_as_people_do() {
        let (mut hard, mut paused, mut stopped, mut driving, mut ended) = (0, 0, 0, 0, 0);
        for seed in 0..50 {
            let mut vehicle = Vehicle::new(seed);
            for _ in 0..3_600 {
                let before = vehicle.speed;
                let event = vehicle.step([800, 6_000]);
                let (at, heading, along) = vehicle.at();
                assert!(at.next(heading).is_some(), "seed {seed}: leaves the city");
                assert!(along <= BLOCK_MM, "seed {seed}: {along} mm along a block");
                assert!(vehicle.speed <= 16_667 + ACCELERATION, "seed {seed}: speeds");
                assert!(vehicle.odometer_mm <= vehicle.goal_mm, "seed {seed}: drives too far");
                hard += u32::from(before.saturating_sub(vehicle.speed) > 4_500);
                ended += u32::from(event == Some(Event::TripEnded));
                match vehicle.state() {
                    State::Driving => driving += 1,
                    State::Stopped => stopped += 1,
                    State::Paused => paused += 1,
                }
            }
        }
        assert!(driving > stopped && stopped > paused && paused > 1_000, "{driving} {stopped} {paused}");
        assert!(hard > 50 && hard < driving / 100, "{hard} hard brakings in {driving} s");
        assert!((250..2_000).contains(&ended), "{ended} trips in 50 vehicle hours");
    }
}
