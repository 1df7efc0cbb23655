//! Delivers readings from the vehicles to Kafka. As in a real fleet, some readings arrive late and out of order, and some arrive
//! twice. No reading is lost. The simulated clock measures the delays, so the same seed gives the same delays at any rate.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use fastrand::Rng;

use crate::{Fleet, Reading};

#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct DeliverySpec {
    /// The share of readings that arrive late, by 2 s to 256 s. Shorter delays are more frequent.
    pub late: f64,
    /// The share of readings that arrive twice. Half of the repetitions follow at once, the others 1 s to 30 s later.
    pub repeat: f64,
}

/// Whether a record is the first one of its reading, or an exact copy of the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arrival {
    First,
    Repeat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    pub reading: Reading,
    pub arrival: Arrival,
    /// Whether the record is delayed. Later readings may arrive before it.
    pub late: bool,
}

/// A reading on its way to Kafka. Ordered by arrival time, then by the reading's index. If both are equal, the repetition comes
/// last.
#[derive(Debug, Clone)]
struct Pending {
    at_ms: i64,
    delivery: Delivery,
}

impl Pending {
    fn rank(&self) -> (i64, u64, Arrival) {
        (self.at_ms, self.delivery.reading.index, self.delivery.arrival)
    }
}

impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        self.rank() == other.rank()
    }
}

impl Eq for Pending {}

impl PartialOrd for Pending {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pending {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.rank().cmp(&other.rank())
    }
}

/// A fleet's readings in the order in which they reach Kafka.
///
/// Readings on their way are kept in memory, at about 100 bytes each. If 1 % of the readings are late, memory holds about as many
/// readings as the fleet sends in half a second.
#[derive(Debug, Clone)]
pub struct Deliveries {
    fleet: Fleet,
    spec: DeliverySpec,
    rng: Rng,
    pending: BinaryHeap<Reverse<Pending>>,
    /// How many records are still to be created.
    left: u64,
}

impl Deliveries {
    /// Returns an iterator over exactly `records` records, repetitions included. The last ones are those that are still on their
    /// way after the last new reading. If `records` is `None`, new readings follow until [`Deliveries::close`] is called.
    pub fn new(fleet: Fleet, spec: DeliverySpec, records: Option<u64>) -> Self {
        let rng = Rng::with_seed(fleet.spec().seed ^ 0x6c61_7465);
        Self { fleet, spec, rng, pending: BinaryHeap::new(), left: records.unwrap_or(u64::MAX) }
    }

    /// Takes no new readings from the fleet from now on. Only the readings that are already on their way will arrive.
    pub fn close(&mut self) {
        self.left = 0;
    }

    /// Returns the reading on its way that arrives next. Returns `None` if there is none, or if the fleet's next reading is
    /// earlier.
    fn arrived(&mut self) -> Option<Delivery> {
        let Reverse(first) = self.pending.peek()?;
        let is_due = self.left == 0 || first.at_ms <= self.fleet.next_ts_ms();
        if !is_due {
            return None;
        }
        self.pending.pop().map(|Reverse(pending)| pending.delivery)
    }

    /// Takes the fleet's next reading, and sends it on its way. Returns the reading if it arrives at once.
    fn begin(&mut self) -> Option<Delivery> {
        self.left = self.left.checked_sub(1)?;
        let reading = self.fleet.next()?;
        let late = self.happens(self.spec.late);
        let first = Delivery { reading, arrival: Arrival::First, late };
        let mut at_ms = reading.ts_ms;
        if late {
            at_ms += 2_000 << self.rng.u32(..7);
            at_ms += self.rng.i64(0..at_ms - reading.ts_ms);
            self.pending.push(Reverse(Pending { at_ms, delivery: first }));
        }
        if self.happens(self.spec.repeat) && self.left > 0 {
            self.left -= 1;
            if self.rng.bool() {
                at_ms += self.rng.i64(1_000..30_000);
            }
            let late = at_ms > reading.ts_ms;
            let delivery = Delivery { reading, arrival: Arrival::Repeat, late };
            self.pending.push(Reverse(Pending { at_ms, delivery }));
        }
        (!late).then_some(first)
    }

    fn happens(&mut self, share: f64) -> bool {
        share > 0.0 && self.rng.f64() < share
    }
}

impl Iterator for Deliveries {
    type Item = Delivery;

    fn next(&mut self) -> Option<Delivery> {
        loop {
            if let Some(delivery) = self.arrived() {
                return Some(delivery);
            }
            if self.left == 0 {
                return None;
            }
            if let Some(delivery) = self.begin() {
                return Some(delivery);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::FleetSpec;

    fn deliveries(seed: u64, spec: DeliverySpec, records: u64) -> Deliveries {
        let fleet = FleetSpec { seed, vehicles: 50, ..FleetSpec::default() };
        Deliveries::new(Fleet::new(fleet).expect("valid"), spec, Some(records))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn every_reading_comes_once_first_and_no_record_is_missing(
            seed in any::<u64>(), late in 0.0..0.5, repeat in 0.0..0.5, records in 0u64..20_000,
        ) {
            let spec = DeliverySpec { late, repeat };
            let mut copies: HashMap<u64, Vec<Arrival>> = HashMap::new();
            let mut sent = 0;
            for delivery in deliveries(seed, spec, records) {
                copies.entry(delivery.reading.index).or_default().push(delivery.arrival);
                sent += 1;
            }
            prop_assert_eq!(sent, records);
            for index in 0..copies.len() as u64 {
                let copies = copies.get(&index).expect("no reading is skipped");
                let known = [&[Arrival::First][..], &[Arrival::First, Arrival::Repeat]];
                prop_assert!(known.contains(&copies.as_slice()), "{:?}", copies);
            }
            prop_assert!(deliveries(seed, spec, records).eq(deliveries(seed, spec, records)));
        }
    }

    #[test]
    fn the_shares_are_those_that_were_asked_for() {
        let spec = DeliverySpec { late: 0.02, repeat: 0.05 };
        let (mut late, mut repeated, mut delays) = (0, 0, Vec::new());
        let mut now = 0;
        for Delivery { reading, arrival, late: is_late } in deliveries(7, spec, 500_000) {
            now = now.max(reading.ts_ms);
            repeated += u32::from(arrival == Arrival::Repeat);
            if is_late && arrival == Arrival::First {
                late += 1;
                delays.push(now - reading.ts_ms);
            }
        }
        assert!((9_000..11_000).contains(&late), "{late} late");
        assert!((23_000..25_000).contains(&repeated), "{repeated} repeated");
        delays.sort_unstable();
        assert!(delays[delays.len() / 2] > 5_000 && delays[delays.len() - 1] > 200_000);
    }

    #[test]
    fn a_perfect_way_changes_nothing() {
        let mut fleet = Fleet::new(FleetSpec { seed: 3, vehicles: 50, ..FleetSpec::default() }).expect("valid");
        for delivery in deliveries(3, DeliverySpec::default(), 10_000) {
            assert_eq!(Some(delivery.reading), fleet.next());
            assert_eq!((delivery.arrival, delivery.late), (Arrival::First, false));
        }
    }

    #[test]
    fn once_closed_it_ends_with_what_was_under_way() {
        let mut way = deliveries(1, DeliverySpec { late: 0.5, repeat: 0.0 }, 1_000_000);
        let before: Vec<_> = way.by_ref().take(1_000).collect();
        way.close();
        let after: Vec<_> = way.collect();
        assert!(!after.is_empty() && after.iter().all(|delivery| delivery.late));
        let mut all: Vec<_> = before.iter().chain(&after).map(|d| d.reading.index).collect();
        all.sort_unstable();
        assert!(all.iter().copied().eq(0..all.len() as u64));
    }
}
