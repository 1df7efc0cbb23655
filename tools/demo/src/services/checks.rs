//! Compares the actual results of each service with the expected results. [`fleet::Truth`] computes the expected results from the
//! records that the fleets send.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use fleet::{Outcome, Tariff, TripTruth};
use sqlx::{PgConnection, Row};
use tidegate_harness::sql::number;

use super::SERVICES;
use super::lags::Lags;
use crate::raw::Sheet;

/// How long a trip is silent before it is closed, as in close_silent_trips() of config/fleet.sql.
const SILENCE_MS: i64 = 10 * 60_000;
/// The largest allowed time between the newest readings of two partitions. close_silent_trips() compares a trip with the newest
/// reading of its partition, but this check compares it with the newest reading of all partitions.
const TOLERANCE_MS: i64 = 10_000;

/// The expected trips of all fleets so far, by trip id.
#[derive(Debug, Default)]
pub(super) struct Checks {
    trips: HashMap<i64, TripTruth>,
}

/// A trip in the tables of two services: `fare` and `customer_info`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// The fare in cents, computed from the trip's distance and times; `None` if the view `fares` has no fare for the trip.
    pub(crate) fare: Option<i64>,
    /// The charged amount in cents, with all adjustments; `None` while the trip isn't closed.
    pub(crate) charged: Option<i64>,
    /// The time of the latest reading that the customer sees, in milliseconds since the epoch.
    pub(crate) seen_ms: Option<i64>,
}

/// Counts of trips. `true_cents` is the sum of the expected fares, and `found_cents` is the sum of the fares in the view `fares`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trips {
    pub(crate) expected: u64,
    pub(crate) ended: u64,
    /// Trips that haven't ended, but must be closed because they have been silent for too long.
    pub(crate) silent: u64,
    pub(crate) missing_fares: u64,
    pub(crate) missing_customers: u64,
    pub(crate) wrong_fares: u64,
    /// Trips that ended or fell silent, but weren't charged the fare. Also trips that were charged too early.
    pub(crate) wrong_charges: u64,
    /// Trips for which the customer sees a reading that isn't the latest.
    pub(crate) stale_customers: u64,
    /// Trips that cost more than the minimum. Only their fares depend on distance and time, so only they test the computation.
    pub(crate) above_minimum: u64,
    pub(crate) true_cents: i128,
    pub(crate) found_cents: i128,
}

impl Trips {
    pub(crate) fn reconcile<'a>(
        truth: impl IntoIterator<Item = &'a TripTruth> + Clone,
        found: &HashMap<i64, Found>,
    ) -> Self {
        let tariff = Tariff::default();
        let latest = truth.clone().into_iter().map(|trip| trip.end_ms).max().unwrap_or(0);
        let mut trips = Self::default();
        for trip in truth {
            let found = found.get(&trip.trip_id.cast_signed()).copied().unwrap_or_default();
            let cents = trip.fare_cents(&tariff);
            trips.expected += 1;
            trips.ended += u64::from(trip.ended);
            trips.above_minimum += u64::from(cents > i128::from(tariff.minimum_cents));
            trips.true_cents += cents;
            trips.found_cents += found.fare.map_or(0, i128::from);
            match found.fare {
                None => trips.missing_fares += 1,
                Some(fare) => trips.wrong_fares += u64::from(i128::from(fare) != cents),
            }
            let silent_ms = latest - trip.end_ms - SILENCE_MS;
            let is_silent = !trip.ended && silent_ms > TOLERANCE_MS;
            trips.silent += u64::from(is_silent);
            let is_charged_right = if trip.ended || is_silent {
                found.charged.map(i128::from) == Some(cents)
            } else {
                // A trip that was silent for about `SILENCE_MS` may be charged already or not yet.
                found.charged.is_none() || silent_ms > -TOLERANCE_MS
            };
            trips.wrong_charges += u64::from(!is_charged_right);
            match found.seen_ms {
                None => trips.missing_customers += 1,
                Some(seen) => trips.stale_customers += u64::from(seen != trip.end_ms),
            }
        }
        trips
    }
}

impl Checks {
    pub(super) fn expect(&mut self, outcome: &Outcome) -> Result<()> {
        let summary = &outcome.summary;
        ensure!(summary.acked == summary.sent, "Kafka took {} of {} records", summary.acked, summary.sent);
        let truth = outcome.truth.as_ref().context("the fleet kept no truth")?;
        self.trips.extend(truth.trips().into_iter().map(|trip| (trip.trip_id.cast_signed(), *trip)));
        Ok(())
    }

    /// Compares the tables of all services with the expected results, and writes `services.csv` into `folder`. Returns whether
    /// all tables are right.
    pub(super) async fn run(
        &self,
        connection: &mut PgConnection,
        sent: i64,
        lags: &Lags,
        folder: &Path,
    ) -> Result<bool> {
        let trips = Trips::reconcile(self.trips.values(), &found(connection).await?);
        let sql = "SELECT count(*)::int8, count(DISTINCT (kafka_partition, kafka_offset))::int8 FROM ride_analysis";
        let row = sqlx::query(sql).fetch_one(&mut *connection).await?;
        let (rows, records): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        let mut sheet = Sheet::new(&[
            "service",
            "sent",
            "expected",
            "in_table",
            "missing",
            "twice",
            "wrong",
            "dead_letters",
            "largest_lag",
            "what",
        ]);
        let mut is_well = true;
        for (at, service) in SERVICES.iter().enumerate() {
            let sql = format!("SELECT count(*)::int8 FROM tidegate.dead_letter WHERE pipeline = '{service}'");
            let dead = number(connection, &sql).await?;
            let in_table = number(connection, &format!("SELECT count(*)::int8 FROM {service}")).await?;
            let expected = i64::try_from(trips.expected)?;
            let (expected, missing, twice, wrong, what) = match *service {
                "ride_analysis" => (sent, sent - records - dead, rows - records, 0, "each record once".to_owned()),
                "fare" => {
                    let wrong = i64::try_from(trips.wrong_fares + trips.wrong_charges)?;
                    let what = format!(
                        "fares of {} trips to the cent: {}.{:02} of {}.{:02}; {} above the minimum; {} closed by their end and {} by \
                         their silence",
                        trips.expected,
                        trips.found_cents / 100,
                        trips.found_cents % 100,
                        trips.true_cents / 100,
                        trips.true_cents % 100,
                        trips.above_minimum,
                        trips.ended,
                        trips.silent
                    );
                    (expected, i64::try_from(trips.missing_fares)?, in_table - expected, wrong, what)
                }
                _ => {
                    let wrong = i64::try_from(trips.stale_customers)?;
                    let what = "each trip's latest reading".to_owned();
                    (expected, i64::try_from(trips.missing_customers)?, in_table - expected, wrong, what)
                }
            };
            // So far, `twice` is the number of rows minus the expected number. Each missing row has lowered it by one, so add the
            // missing rows.
            let twice = if *service == "ride_analysis" { twice } else { (twice + missing).max(0) };
            is_well &= [missing, twice, wrong, dead].iter().all(|count| *count == 0);
            let largest = lags.largest(at);
            sheet.push(&[service, &sent, &expected, &in_table, &missing, &twice, &wrong, &dead, &largest, &what]);
        }
        sheet.save(&folder.join("services.csv"))?;
        Ok(is_well)
    }
}

async fn found(connection: &mut PgConnection) -> Result<HashMap<i64, Found>> {
    let mut found: HashMap<i64, Found> = HashMap::new();
    let sql = "SELECT trip_id, (fare * 100)::int8, (charged * 100)::int8 FROM fares";
    for row in sqlx::query(sql).fetch_all(&mut *connection).await? {
        let trip = found.entry(row.try_get(0)?).or_default();
        (trip.fare, trip.charged) = (row.try_get(1)?, row.try_get(2)?);
    }
    let sql = "SELECT trip_id, (extract(epoch FROM ts) * 1000)::int8 FROM customer_info";
    for row in sqlx::query(sql).fetch_all(&mut *connection).await? {
        found.entry(row.try_get(0)?).or_default().seen_ms = row.try_get(1)?;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use fleet::{Deliveries, DeliverySpec, Fleet, FleetSpec, Partitioning, Truth};

    use super::*;

    /// Returns the truth of a fleet, and tables with exactly the expected rows.
    fn books() -> (Truth, HashMap<i64, Found>) {
        let spec = FleetSpec { vehicles: 20, trip_metres: [100, 500], ..FleetSpec::default() };
        let mut truth = Truth::new(spec.clone(), Partitioning::ByRegion);
        let way = DeliverySpec { late: 0.1, repeat: 0.1 };
        Deliveries::new(Fleet::new(spec).unwrap(), way, Some(20_000)).for_each(|delivery| truth.add(&delivery));
        let tables = truth.trips().into_iter().map(|trip| {
            let fare = i64::try_from(trip.fare_cents(&Tariff::default())).unwrap();
            let charged = trip.ended.then_some(fare);
            (trip.trip_id.cast_signed(), Found { fare: Some(fare), charged, seen_ms: Some(trip.end_ms) })
        });
        let tables = tables.collect();
        (truth, tables)
    }

    #[test]
    fn tables_that_hold_the_truth_have_nothing_missing_and_nothing_wrong() {
        let (truth, tables) = books();
        let trips = Trips::reconcile(truth.trips(), &tables);
        assert!(trips.expected > 20 && trips.ended > 0, "{trips:?}");
        assert_eq!(trips.true_cents, trips.found_cents);
        let Trips { expected, ended, above_minimum, true_cents, found_cents, .. } = trips;
        assert_eq!(trips, Trips { expected, ended, above_minimum, true_cents, found_cents, ..Trips::default() });
    }

    #[test]
    fn a_trip_that_fell_silent_is_charged_and_one_that_goes_on_is_not() {
        let (truth, mut tables) = books();
        let trips: Vec<TripTruth> = truth.trips().into_iter().copied().collect();
        let goes_on = trips.iter().find(|trip| !trip.ended).copied().unwrap();
        let later = TripTruth { trip_id: u64::MAX >> 1, end_ms: goes_on.end_ms + 11 * 60_000, ended: false, ..goes_on };
        let fare = tables[&goes_on.trip_id.cast_signed()].fare;
        let found = Found { fare, charged: None, seen_ms: Some(later.end_ms) };
        tables.insert(later.trip_id.cast_signed(), found);
        let wrong = |tables: &HashMap<i64, Found>| {
            let trips = Trips::reconcile(trips.iter().chain([&later]), tables);
            (trips.silent, trips.wrong_charges)
        };
        let silent = trips.iter().filter(|trip| !trip.ended).count() as u64;
        assert_eq!(wrong(&tables), (silent, silent), "none is charged yet");
        for trip in trips.iter().filter(|trip| !trip.ended) {
            let found = tables.get_mut(&trip.trip_id.cast_signed()).unwrap();
            found.charged = found.fare;
        }
        assert_eq!(wrong(&tables), (silent, 0));
        tables.get_mut(&later.trip_id.cast_signed()).unwrap().charged = fare;
        assert_eq!(wrong(&tables), (silent, 1), "it has only just sent");
    }

    #[test]
    fn a_cent_a_lost_row_and_a_stale_reading_are_each_told() {
        let (truth, mut tables) = books();
        let ended: Vec<i64> =
            truth.trips().iter().filter(|trip| trip.ended).map(|trip| trip.trip_id.cast_signed()).take(4).collect();
        let fare = tables[&ended[0]].fare;
        tables.get_mut(&ended[0]).unwrap().fare = fare.map(|cents| cents + 1);
        tables.get_mut(&ended[1]).unwrap().charged = None;
        tables.get_mut(&ended[2]).unwrap().seen_ms = Some(0);
        tables.remove(&ended[3]);
        let trips = Trips::reconcile(truth.trips(), &tables);
        assert_eq!((trips.wrong_fares, trips.missing_fares, trips.missing_customers), (1, 1, 1));
        // One trip has no charge, and another one has no row at all.
        assert_eq!((trips.wrong_charges, trips.stale_customers), (2, 1));
        assert_ne!(trips.true_cents, trips.found_cents);
    }
}
