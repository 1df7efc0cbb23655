//! Computes the partitions of a table that is partitioned by time: the partition to which a time belongs, its name, and which
//! partitions are due or have expired. No I/O.

use std::collections::BTreeSet;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::catalog::{Catalog, CatalogColumn, LONGEST_NAME, TableName, shortened};
use crate::spec::{IntervalUnit, PartitionBy};

const HOUR: i64 = 3_600_000_000;
const DAY: i64 = 24 * HOUR;
/// The microseconds from 1970 to 2000-01-01, where Postgres' timestamps begin.
const POSTGRES_EPOCH: i64 = 10_957 * DAY;
/// If there is no retention, late records create partitions for only this many past intervals: 400 days if a partition is a day.
/// Without a limit, devices with wrong clocks could create any number of partitions.
const LATE_INTERVALS: i64 = 400;
/// The most partitions that are created at once for the rows of a batch. If the batch needs more partitions, these are created in
/// further steps, and the batch is retried after each step.
const NEEDED_AT_ONCE: usize = 64;

/// The time that a partition covers, in microseconds since 1970 UTC. `from` belongs to the partition, and `to` doesn't.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bounds {
    pub from: i64,
    pub to: i64,
}

impl Bounds {
    /// Returns the partition that `time` (in microseconds since 1970) belongs to. Returns `None` unless both bounds of the
    /// partition lie in the years 1 to 9999.
    pub fn holding(by: &PartitionBy, time: i64) -> Option<Self> {
        let count = i64::from(by.interval.count.get());
        let whole = |length: i64, origin: i64| {
            let from = time.checked_sub(origin)?.div_euclid(length).checked_mul(length)?.checked_add(origin)?;
            Some(Self { from, to: from.checked_add(length)? })
        };
        let bounds = match by.interval.unit {
            IntervalUnit::Hour => whole(count * HOUR, 0),
            IntervalUnit::Day => whole(count * DAY, 0),
            // 1970 began on a Thursday, so the Monday of its first week is three days earlier.
            IntervalUnit::Week => whole(count * 7 * DAY, -3 * DAY),
            IntervalUnit::Month => {
                let date = date(time)?;
                let months = i64::from(date.year()) * 12 + i64::from(date.month()) - 1;
                let from = months.div_euclid(count) * count;
                Some(Self { from: first_of(from)?, to: first_of(from + count)? })
            }
        }?;
        let years = 1..=9999;
        (years.contains(&date(bounds.from)?.year()) && years.contains(&date(bounds.to)?.year())).then_some(bounds)
    }

    fn literal(time: i64) -> String {
        // One literal works for all three types: Postgres ignores the zone for timestamp and date, and the time of day for date.
        Timestamp::from_microsecond(time)
            .map_or_else(|_| String::new(), |at| at.strftime("%Y-%m-%d %H:%M:%S+00").to_string())
    }

    /// Returns the first and the last second of the partition as literals.
    pub fn ends(&self) -> [String; 2] {
        [Self::literal(self.from), Self::literal(self.to - 1_000_000)]
    }

    pub fn for_values(&self) -> String {
        format!("FOR VALUES FROM ('{}') TO ('{}')", Self::literal(self.from), Self::literal(self.to))
    }
}

/// Returns the partition's name, such as `telemetry_p20260131`, in the schema of the table. A table's name that is too long is
/// [`shortened`].
pub fn name(table: &TableName, by: &PartitionBy, bounds: &Bounds) -> TableName {
    let format = match by.interval.unit {
        IntervalUnit::Hour => "_p%Y%m%d%H",
        IntervalUnit::Day | IntervalUnit::Week => "_p%Y%m%d",
        IntervalUnit::Month => "_p%Y%m",
    };
    let suffix =
        Timestamp::from_microsecond(bounds.from).map_or_else(|_| String::new(), |at| at.strftime(format).to_string());
    TableName { schema: table.schema.clone(), name: shortened(&table.name, LONGEST_NAME - suffix.len()) + &suffix }
}

pub fn default_name(table: &TableName) -> TableName {
    const SUFFIX: &str = "_default";
    TableName { schema: table.schema.clone(), name: shortened(&table.name, LONGEST_NAME - SUFFIX.len()) + SUFFIX }
}

/// Returns the bounds of the partition that has this name. Returns `None` if [`name`] gives this name to no partition.
pub fn of_name(table: &TableName, by: &PartitionBy, partition: &TableName) -> Option<Bounds> {
    let digits = partition.name.rsplit_once("_p")?.1;
    let number = |range: std::ops::Range<usize>| digits.get(range)?.parse::<i8>().ok();
    let year = digits.get(..4)?.parse::<i16>().ok()?;
    let (month, day, hour) = (number(4..6)?, number(6..8).unwrap_or(1), number(8..10).unwrap_or(0));
    let from = midnight(Date::new(year, month, day).ok()?)? + i64::from(hour) * HOUR;
    let bounds = Bounds::holding(by, from)?;
    (name(table, by, &bounds) == *partition).then_some(bounds)
}

/// Returns the partitions that should exist at the time `now`: the current partition, and `ahead` partitions after it.
pub fn due(by: &PartitionBy, now: i64) -> Vec<Bounds> {
    let mut due: Vec<Bounds> = Vec::new();
    let mut at = now;
    while due.len() <= by.ahead as usize {
        let Some(bounds) = Bounds::holding(by, at) else { break };
        at = bounds.to;
        due.push(bounds);
    }
    due
}

pub fn is_expired(by: &PartitionBy, bounds: &Bounds, now: i64) -> bool {
    by.retention.is_some_and(|retention| bounds.to <= now.saturating_sub(micros(retention)))
}

/// Returns the partitions to which the times of encoded rows belong, at most 64. Some of them may exist already. Leaves out the
/// partitions in `tried`, and those that no record may create: partitions that have expired, begin more than `ahead` intervals
/// after the current one, or are too old.
///
/// Each item of `rows` has encoded rows, and the index of the time column in them.
pub fn needed<'a>(
    by: &PartitionBy,
    catalog: &Catalog,
    rows: impl Iterator<Item = (usize, &'a [u8])>,
    tried: &BTreeSet<Bounds>,
) -> Vec<Bounds> {
    let now = Timestamp::now().as_microsecond();
    let is_date = catalog.columns.iter().any(|column| column.name == by.column && column.base_type == "date");
    let mut needed = BTreeSet::new();
    let mut last: Option<Bounds> = None;
    for time in rows.flat_map(|(at, rows)| Times { rest: rows, at, is_date }) {
        if last.is_some_and(|last| (last.from..last.to).contains(&time)) {
            continue;
        }
        last = Bounds::holding(by, time);
        needed.extend(last.filter(|bounds| !tried.contains(bounds) && may_be_made(by, bounds, now)));
        if needed.len() == NEEDED_AT_ONCE {
            break;
        }
    }
    needed.into_iter().collect()
}

fn may_be_made(by: &PartitionBy, bounds: &Bounds, now: i64) -> bool {
    let last = due(by, now).last().map_or(now, |last| last.to);
    let oldest = match by.retention {
        Some(retention) => micros(retention),
        None => (bounds.to - bounds.from).saturating_mul(LATE_INTERVALS),
    };
    bounds.to <= last && bounds.to > now.saturating_sub(oldest)
}

pub(super) fn is_time(column: &CatalogColumn) -> bool {
    matches!(column.base_type.as_str(), "timestamptz" | "timestamp" | "date")
}

/// The times in one column of rows of binary COPY, in microseconds since 1970.
struct Times<'a> {
    rest: &'a [u8],
    at: usize,
    is_date: bool,
}

impl Iterator for Times<'_> {
    type Item = i64;

    fn next(&mut self) -> Option<i64> {
        loop {
            let mut found = None;
            let (count, mut rest) = self.rest.split_first_chunk::<2>()?;
            for place in 0..usize::from(u16::from_be_bytes(*count)) {
                let (length, tail) = rest.split_first_chunk::<4>()?;
                let field;
                (field, rest) = tail.split_at_checked(usize::try_from(i32::from_be_bytes(*length)).unwrap_or(0))?;
                if place == self.at {
                    found = if self.is_date {
                        field.first_chunk().map(|days| i64::from(i32::from_be_bytes(*days)).saturating_mul(DAY))
                    } else {
                        field.first_chunk().map(|micros| i64::from_be_bytes(*micros))
                    };
                }
            }
            self.rest = rest;
            if let Some(time) = found.and_then(|time| time.checked_add(POSTGRES_EPOCH)) {
                return Some(time);
            }
        }
    }
}

fn micros(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn date(time: i64) -> Option<Date> {
    Some(Timestamp::from_microsecond(time).ok()?.to_zoned(TimeZone::UTC).date())
}

fn midnight(date: Date) -> Option<i64> {
    Some(date.to_zoned(TimeZone::UTC).ok()?.timestamp().as_microsecond())
}

/// Returns when a month begins, in microseconds since 1970. `month` counts from January of the year 0.
fn first_of(month: i64) -> Option<i64> {
    let year = i16::try_from(month.div_euclid(12)).ok()?;
    let month = i8::try_from(month.rem_euclid(12) + 1).ok()?;
    midnight(Date::new(year, month, 1).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Expiry, Interval};
    use proptest::prelude::*;
    use std::num::NonZeroU32;
    use std::time::Duration;

    fn every(count: u32, unit: IntervalUnit) -> PartitionBy {
        PartitionBy {
            column: "ts".to_owned(),
            interval: Interval { count: NonZeroU32::new(count).unwrap(), unit },
            ahead: 2,
            retention: None,
            expired: Expiry::Detach,
            default: false,
        }
    }

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_microsecond()
    }

    fn table(name: &str) -> TableName {
        TableName { schema: "public".to_owned(), name: name.to_owned() }
    }

    #[test]
    fn a_time_belongs_to_the_whole_interval_around_it() {
        let cases = [
            (
                every(1, IntervalUnit::Day),
                "2026-01-31T23:59:59.999999Z",
                "('2026-01-31 00:00:00+00') TO ('2026-02-01 00:00:00+00')",
            ),
            (
                every(1, IntervalUnit::Hour),
                "1969-12-31T23:30:00Z",
                "('1969-12-31 23:00:00+00') TO ('1970-01-01 00:00:00+00')",
            ),
            (
                every(1, IntervalUnit::Week),
                "2026-02-01T12:00:00Z",
                "('2026-01-26 00:00:00+00') TO ('2026-02-02 00:00:00+00')",
            ),
            (
                every(1, IntervalUnit::Month),
                "2024-02-29T00:00:00Z",
                "('2024-02-01 00:00:00+00') TO ('2024-03-01 00:00:00+00')",
            ),
            (
                every(3, IntervalUnit::Month),
                "2026-12-31T00:00:00Z",
                "('2026-10-01 00:00:00+00') TO ('2027-01-01 00:00:00+00')",
            ),
        ];
        for (by, time, expected) in cases {
            let bounds = Bounds::holding(&by, at(time)).unwrap();
            assert_eq!(bounds.for_values(), format!("FOR VALUES FROM {expected}"));
        }
    }

    #[test]
    fn the_present_partition_and_those_ahead_are_due() {
        let due = due(&every(1, IntervalUnit::Day), at("2026-01-31T08:00:00Z"));
        let names: Vec<_> =
            due.iter().map(|bounds| name(&table("t"), &every(1, IntervalUnit::Day), bounds).name).collect();
        assert_eq!(names, ["t_p20260131", "t_p20260201", "t_p20260202"]);
    }

    #[test]
    fn a_partition_expires_when_its_last_moment_has() {
        let by = PartitionBy { retention: Some(Duration::from_secs(86_400)), ..every(1, IntervalUnit::Day) };
        let bounds = Bounds::holding(&by, at("2026-01-01T08:00:00Z")).unwrap();
        assert!(!is_expired(&by, &bounds, at("2026-01-02T23:59:59Z")));
        assert!(is_expired(&by, &bounds, at("2026-01-03T00:00:00Z")));
    }

    #[test]
    fn only_what_is_called_as_we_call_it_is_ours() {
        let by = every(1, IntervalUnit::Day);
        assert!(of_name(&table("t"), &by, &table("t_p20260131")).is_some());
        for other in ["t_default", "t_p2026", "t_p20260132", "t_pold", "u_p20260131", "t_p202601310"] {
            assert_eq!(of_name(&table("t"), &by, &table(other)), None, "{other}");
        }
    }

    #[test]
    fn a_clock_that_was_reset_makes_no_partition() {
        let by = every(1, IntervalUnit::Day);
        let now = at("2026-01-31T08:00:00Z");
        let may = |time: &str| may_be_made(&by, &Bounds::holding(&by, at(time)).unwrap(), now);
        assert!(may("2026-01-30T00:00:00Z") && may("2025-06-01T00:00:00Z") && may("2026-02-02T23:00:00Z"));
        assert!(!may("1970-01-01T00:00:00Z") && !may("2026-02-03T00:00:00Z"));
    }

    proptest! {
        #[test]
        fn every_time_lies_in_its_partition_whose_name_leads_back(time in -60_000_000_000_000_000_i64..250_000_000_000_000_000, count in 1u32..30, unit in 0usize..4) {
            let units = [IntervalUnit::Hour, IntervalUnit::Day, IntervalUnit::Week, IntervalUnit::Month];
            let by = every(count, units[unit]);
            let bounds = Bounds::holding(&by, time).unwrap();
            prop_assert!(bounds.from <= time && time < bounds.to);
            prop_assert_eq!(Bounds::holding(&by, bounds.to - 1), Some(bounds));
            prop_assert_eq!(Bounds::holding(&by, bounds.to).unwrap().from, bounds.to);
            for name_of in ["t", &"long".repeat(20)] {
                let partition = name(&table(name_of), &by, &bounds);
                prop_assert!(partition.name.len() <= LONGEST_NAME);
                prop_assert_eq!(of_name(&table(name_of), &by, &partition), Some(bounds));
            }
        }
    }
}
