//! The view of a customer who waits for a vehicle, computed from the vehicle's latest states.
//!
//! No I/O: the current time is an argument. A state doesn't say how long a vehicle has been standing. But the odometer never
//! decreases. So if two states have the same odometer, the vehicle hasn't moved in the time between them.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use crate::report::Delays;
use crate::street::{CROSSINGS, Crossing, Heading};
use crate::{Quantiles, Region};

/// The average speed in a city, stops included.
const CITY_KMH: f64 = 20.0;
/// A vehicle within this distance counts as arrived.
const HERE_METRES: f64 = 100.0;
/// If there is no news for this long, the customer is told so. Normally a vehicle sends once per second.
const NO_NEWS_MS: i64 = 10_000;

/// The latest state of a trip, as the customer read it from the table `customer_info`. The vehicle measured the state at `ts_ms`,
/// and handed it to Kafka at `sent_ms`. Both are in milliseconds since the epoch. `region` is `north` or `south`, and `state` is
/// `driving`, `stopped` or `paused`.
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting {
    pub ts_ms: i64,
    pub sent_ms: i64,
    pub region: String,
    /// Latitude and longitude in millionths of a degree.
    pub at: (i64, i64),
    pub speed_kmh: f64,
    /// Distance since the trip's start, in millimetres.
    pub odometer_mm: i64,
    pub state: String,
    pub ended: bool,
}

/// How many new readings a customer has seen after the first one, and how old they were when the customer read them. The age
/// counts from the measurement by the vehicle, or from the sending to Kafka. Without a new reading, both ages are `None`.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct WatchSummary {
    pub readings: u64,
    pub since_measured_ms: Option<Quantiles>,
    pub since_sent_ms: Option<Quantiles>,
    /// How many readings were measured at a time ahead of the customer's clock. In `since_measured_ms` they count as 0 ms. A
    /// fleet's time runs ahead if each vehicle sends more than once per second.
    pub ahead_of_clock: u64,
}

impl fmt::Display for WatchSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} readings seen", self.readings)?;
        if let Some(age) = &self.since_measured_ms {
            writeln!(f, "readable after the reading: {age}")?;
        }
        if let Some(age) = &self.since_sent_ms {
            writeln!(f, "readable after it was handed to Kafka: {age}")?;
        }
        if self.ahead_of_clock > 0 {
            writeln!(
                f,
                "{} of them were ahead of the clock: this fleet doesn't run in real time",
                self.ahead_of_clock
            )?;
        }
        Ok(())
    }
}

/// A customer who waits at a place and watches a trip, with what the customer has seen so far.
#[derive(Debug, Default)]
pub struct Customer {
    at: Option<(i64, i64)>,
    last: Option<Sighting>,
    /// The vehicle's time at which the odometer first had its current value.
    unmoved_since_ms: i64,
    said: String,
    readings: u64,
    since_measured: Delays,
    since_sent: Delays,
    ahead_of_clock: u64,
}

impl Customer {
    /// Makes a customer. `at` is latitude and longitude in millionths of a degree. `None` means the middle of the vehicle's
    /// region.
    pub fn new(at: Option<(i64, i64)>) -> Self {
        Self { at, ..Self::default() }
    }

    /// Processes a state that was read at `now_ms`. Returns the sentence for the customer; `None` if it is the same as the last
    /// one.
    pub fn see(&mut self, sighting: Option<&Sighting>, now_ms: i64) -> Option<String> {
        let Some(sighting) = sighting else { return self.say("no such trip yet".to_owned()) };
        match &self.last {
            Some(last) if sighting.ts_ms <= last.ts_ms => {}
            Some(last) => {
                if sighting.odometer_mm > last.odometer_mm {
                    self.unmoved_since_ms = sighting.ts_ms;
                }
                self.time(sighting, now_ms);
                self.last = Some(sighting.clone());
            }
            // The first row may have been written before the watch began, so its age means nothing.
            None => {
                self.unmoved_since_ms = sighting.ts_ms;
                self.last = Some(sighting.clone());
            }
        }
        let words = self.words(now_ms);
        self.say(words)
    }

    pub fn readings(&self) -> u64 {
        self.readings
    }

    pub fn is_done(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.ended)
    }

    pub fn summary(&self) -> WatchSummary {
        WatchSummary {
            readings: self.readings,
            since_measured_ms: Quantiles::of(&self.since_measured),
            since_sent_ms: Quantiles::of(&self.since_sent),
            ahead_of_clock: self.ahead_of_clock,
        }
    }

    fn time(&mut self, sighting: &Sighting, now_ms: i64) {
        let age = |since_ms: i64| Duration::from_millis(now_ms.saturating_sub(since_ms).max(0).unsigned_abs());
        self.readings += 1;
        self.ahead_of_clock += u64::from(sighting.ts_ms > now_ms);
        self.since_measured.record(age(sighting.ts_ms));
        self.since_sent.record(age(sighting.sent_ms));
    }

    fn say(&mut self, words: String) -> Option<String> {
        if words == self.said {
            return None;
        }
        self.said.clone_from(&words);
        Some(words)
    }

    fn words(&self, now_ms: i64) -> String {
        let Some(last) = &self.last else { return String::new() };
        if last.ended {
            return format!("the trip is over, after {:.1} km", last.odometer_mm as f64 / 1e6);
        }
        let metres = street_metres(last.at, self.at.unwrap_or_else(|| middle(&last.region)));
        let minutes = metres * 60.0 / (CITY_KMH * 1_000.0);
        let away = if metres < HERE_METRES { "here".to_owned() } else { format!("{:.0} min away", minutes.ceil()) };
        let silent_ms = now_ms.saturating_sub(last.sent_ms.max(last.ts_ms));
        if silent_ms > NO_NEWS_MS {
            // Round the time, so that the sentence doesn't change every second.
            return format!("{away}, no news for {}", spoken(silent_ms / NO_NEWS_MS * NO_NEWS_MS));
        }
        let standing_ms = last.ts_ms - self.unmoved_since_ms;
        match last.state.as_str() {
            "driving" => away,
            state if standing_ms < 60_000 => format!("{away}, {state}"),
            state => format!("{away}, {state} {}", spoken(standing_ms)),
        }
    }
}

fn spoken(ms: i64) -> String {
    if ms < 60_000 { format!("{} s", ms / 1_000) } else { format!("{} min", ms / 60_000) }
}

fn middle(region: &str) -> (i64, i64) {
    let region = if region == Region::North.as_str() { Region::North } else { Region::South };
    Crossing { east: CROSSINGS / 2, north: CROSSINGS / 2 }.position(Heading::North, 0, region)
}

/// Returns the distance in metres between two places along a grid of streets. Places are in millionths of a degree.
fn street_metres(from: (i64, i64), to: (i64, i64)) -> f64 {
    const METRES_PER_MILLIONTH: f64 = 0.111_32;
    let north = (to.0 - from.0) as f64;
    let east = (to.1 - from.1) as f64 * (from.0 as f64 / 1e6).to_radians().cos();
    (north.abs() + east.abs()) * METRES_PER_MILLIONTH
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a sighting of a vehicle, `second` seconds after the first one. The way from the vehicle to the middle of the north
    /// is 1.9 km.
    fn sighting(second: i64, odometer_mm: i64, state: &str) -> Sighting {
        let (lat, lon) = middle("north");
        Sighting {
            ts_ms: second * 1_000,
            sent_ms: second * 1_000 + 20,
            region: "north".to_owned(),
            at: (lat + 8_000, lon - 14_793),
            speed_kmh: 0.0,
            odometer_mm,
            state: state.to_owned(),
            ended: false,
        }
    }

    #[test]
    fn it_says_how_far_away_the_vehicle_is_and_how_long_it_has_been_standing() {
        let mut customer = Customer::new(None);
        assert_eq!(customer.see(None, 0).as_deref(), Some("no such trip yet"));
        let mut see =
            |second, odometer, state| customer.see(Some(&sighting(second, odometer, state)), second * 1_000 + 50);
        // 1.9 km at 20 km/h
        assert_eq!(see(0, 500, "driving").as_deref(), Some("6 min away"));
        assert_eq!(see(1, 600, "driving"), None);
        assert_eq!(see(2, 600, "stopped").as_deref(), Some("6 min away, stopped"));
        assert_eq!(see(60, 600, "stopped"), None);
        assert_eq!(see(61, 600, "stopped").as_deref(), Some("6 min away, stopped 1 min"));
        assert_eq!(see(150, 600, "paused").as_deref(), Some("6 min away, paused 2 min"));
        // The vehicle moved between these two sightings, so it hasn't been standing for long.
        assert_eq!(see(200, 700, "stopped").as_deref(), Some("6 min away, stopped"));
    }

    #[test]
    fn it_says_when_there_is_no_news_when_it_is_here_and_when_it_is_over() {
        let mut customer = Customer::new(Some(sighting(0, 0, "").at));
        let mut near = sighting(0, 500, "driving");
        assert_eq!(customer.see(Some(&near), 50).as_deref(), Some("here"));
        assert_eq!(customer.see(Some(&near), 9_000), None);
        assert_eq!(customer.see(Some(&near), 25_000).as_deref(), Some("here, no news for 20 s"));
        assert_eq!(customer.see(Some(&near), 26_000), None);
        assert_eq!(customer.see(Some(&near), 130_000).as_deref(), Some("here, no news for 2 min"));
        near = Sighting { ended: true, odometer_mm: 2_345_678, ..sighting(131, 500, "stopped") };
        assert!(!customer.is_done());
        assert_eq!(customer.see(Some(&near), 131_100).as_deref(), Some("the trip is over, after 2.3 km"));
        assert!(customer.is_done());
    }

    #[test]
    fn it_times_news_and_nothing_else() {
        let mut customer = Customer::new(None);
        customer.see(Some(&sighting(0, 0, "driving")), 60_000);
        assert_eq!(customer.summary(), WatchSummary::default());
        customer.see(Some(&sighting(1, 0, "driving")), 1_300);
        // A repeated reading and a late one must not count as news.
        customer.see(Some(&sighting(1, 0, "driving")), 9_000);
        customer.see(Some(&sighting(0, 0, "driving")), 9_000);
        let summary = customer.summary();
        assert_eq!(summary.readings, 1);
        assert_eq!(summary.since_measured_ms.map(|age| age.max), Some(300.0));
        assert_eq!(summary.since_sent_ms.map(|age| age.max), Some(280.0));
        customer.see(Some(&sighting(20, 0, "driving")), 9_000);
        assert_eq!((customer.readings(), customer.summary().ahead_of_clock), (2, 1));
        assert!(customer.summary().to_string().contains("ahead of the clock"));
    }

    #[test]
    fn a_block_of_the_grid_is_two_hundred_metres_either_way() {
        let crossing = |east, north| Crossing { east, north }.position(Heading::North, 0, Region::South);
        for (east, north) in [(4, 3), (3, 4)] {
            let metres = street_metres(crossing(3, 3), crossing(east, north));
            assert!((metres - 200.0).abs() < 1.0, "{metres}");
        }
    }
}
