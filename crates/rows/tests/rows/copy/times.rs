//! Dates and times, compared with `jiff`.

use jiff::civil::Date;
use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, ToSpan};
use proptest::prelude::*;
use tidegate_rows::spec::{Column, EpochUnit};
use tidegate_rows::value::Reason;

use super::{bad, good, json};
use crate::fixtures::{encode_with, mapped};
use crate::reference;

/// The microseconds from 1970 to 2000, where Postgres' timestamps begin.
const GAP: i64 = 946_684_800_000_000;

fn micros(type_text: &str, text: &str) -> i64 {
    reference::int8(&good(type_text, &json(text)))
}

fn epoch(unit: EpochUnit, value: &str) -> Result<i64, Reason> {
    let column = Column { unit: Some(unit), ..mapped("v", "v") };
    match encode_with(column, "timestamptz", value) {
        Ok(field) => Ok(reference::int8(&field.expect("a field")) + GAP),
        Err(rejection) => Err(rejection.reason),
    }
}

#[test]
fn timestamptz_takes_rfc_3339_and_what_postgres_prints() {
    let expected = micros("timestamptz", "2026-01-31T12:30:45.5Z");
    for text in [
        "2026-01-31T12:30:45.500Z",
        "2026-01-31t12:30:45.5z",
        "2026-01-31 12:30:45.500000+00",
        "2026-01-31T13:30:45.5+01:00",
        "2026-01-31T13:30:45.5+0100",
        "2026-01-31T02:00:45.5-10:30",
        "2026-01-31 12:50:17.5+00:19:32",
    ] {
        assert_eq!(micros("timestamptz", text), expected, "{text}");
    }
    assert_eq!(micros("timestamptz", "2016-12-31T23:59:60Z"), micros("timestamptz", "2017-01-01T00:00:00Z"));
    assert_eq!(micros("timestamptz", "2016-12-31T24:00:00Z"), micros("timestamptz", "2017-01-01T00:00:00Z"));
    assert_eq!(micros("timestamptz", "2026-01-01T00:00Z"), micros("timestamptz", "2026-01-01T00:00:00Z"));
    assert_eq!((micros("timestamptz", "infinity"), micros("timestamptz", "-Infinity")), (i64::MAX, i64::MIN));
}

#[test]
fn finer_than_a_microsecond_is_rounded_as_postgres_rounds() {
    let of = |fraction: &str| micros("timestamptz", &format!("2000-01-01T00:00:00.{fraction}Z"));
    assert_eq!(
        (of("123456499"), of("123456501"), of("9999999"), of("0000005"), of("0000015")),
        (123_456, 123_457, 1_000_000, 0, 2)
    );
}

#[test]
fn timestamps_end_where_postgres_ends() {
    assert_eq!(micros("timestamptz", "294276-12-31T23:59:59.999999Z"), 9_223_371_331_199_999_999);
    assert_eq!(micros("timestamptz", "4714-11-24T00:00:00Z BC"), -211_813_488_000_000_000);
    for text in [
        "294277-01-01T00:00:00Z",
        "4714-11-23T23:59:59Z BC",
        "0000-01-01T00:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-01-01T25:00:00Z",
        "2026-01-01T00:60:00Z",
        "2026-01-01T00:00:00+16:00",
        "2026-13-01T00:00:00Z",
    ] {
        assert_eq!(bad("timestamptz", &json(text)), Reason::OutOfRange, "{text}");
    }
    assert_eq!(
        (good("date", "\"5874897-12-31\""), bad("date", "\"5874898-01-01\"")),
        (2_145_031_948_i32.to_be_bytes().to_vec(), Reason::OutOfRange)
    );
}

#[test]
fn a_time_that_depends_on_a_session_or_says_more_than_its_column_is_refused() {
    for (type_text, texts) in [
        (
            "timestamptz",
            &[
                "2026-01-01T00:00:00",
                "2026-01-01",
                "now",
                "",
                "1767225600",
                "2026-01-01T00:00:00 Z",
                "2026-1-1T00:00:00Z",
                "2026-01-01T00:00:00.Z",
                "2026-01-01T00:00:00Zjunk",
                "2026-01-01T",
            ][..],
        ),
        ("timestamp", &["2026-01-01T00:00:00+01:00", "2026-01-01T00:00:00+00:00", "today"]),
        ("date", &["2026-01-01T", "2026-01", "01.02.2026", "202601011"]),
        ("time", &["12", "12:00:00+01 x", "noon", "2026-01-01", "1200"]),
        ("timetz", &["12:00:00", "12:00:00 Europe/Berlin"]),
    ] {
        for text in texts {
            assert_eq!(bad(type_text, &json(text)), Reason::InvalidTimestamp, "{text} as {type_text}");
        }
    }
    assert_eq!(micros("timestamp", "2000-01-02T00:00:00Z"), 86_400_000_000);
    assert_eq!(micros("timestamp", "2000-01-02"), 86_400_000_000);
    assert_eq!(micros("timestamptz", "20000102T000001Z"), 86_401_000_000);
    assert_eq!(good("date", &json("2000-01-02T23:00:00-05")), 1_i32.to_be_bytes());
    assert_eq!(micros("time", "2026-01-01 00:00:01+01"), 1_000_000);
    assert_eq!(micros("time", "24:00:00"), 86_400_000_000);
    // PostgreSQL reads two numbers with a fraction as minutes and seconds: '34:56.5'::time is 00:34:56.5.
    assert_eq!(micros("time", "34:56.5"), (34 * 60 + 56) * 1_000_000 + 500_000);
    assert_eq!(micros("timestamp", "2026-01-01 34:56.5"), micros("timestamp", "2026-01-01 00:34:56.5"));
    assert_eq!(bad("time", "\"61:00.5\""), Reason::OutOfRange);
    assert_eq!(bad("time", "\"24:00:01\""), Reason::OutOfRange);
}

#[test]
fn epochs_need_their_unit_and_lose_nothing() {
    assert_eq!(bad("timestamptz", "1767225600"), Reason::TypeMismatch);
    assert_eq!(epoch(EpochUnit::Seconds, "1767225600"), Ok(1_767_225_600_000_000));
    assert_eq!(epoch(EpochUnit::Seconds, "1767225600.123456"), Ok(1_767_225_600_123_456));
    assert_eq!(epoch(EpochUnit::Seconds, "1.767225600123456e9"), Ok(1_767_225_600_123_456));
    assert_eq!(epoch(EpochUnit::Millis, "1767225600123.4"), Ok(1_767_225_600_123_400));
    assert_eq!(epoch(EpochUnit::Micros, "-1"), Ok(-1));
    for (nanos, expected) in [("1500", 2), ("2500", 2), ("2501", 3), ("-1500", -2), ("-2500", -2), ("499", 0)] {
        assert_eq!(epoch(EpochUnit::Nanos, nanos), Ok(expected), "{nanos}");
    }
    for value in ["1e30", "-1e18", "9223372036854775807"] {
        assert_eq!(epoch(EpochUnit::Seconds, value), Err(Reason::OutOfRange), "{value}");
    }
    // Even if a unit is set, a text with a timestamp is read as a timestamp.
    assert_eq!(epoch(EpochUnit::Seconds, "\"1970-01-01T00:00:01Z\""), Ok(1_000_000));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn instants_come_back_through_any_offset_and_precision(
        second in -62_000_000_000_i64..253_000_000_000,
        micro in 0_i64..1_000_000,
        digits in 0_usize..=6,
        minutes in -900_i32..=900,
    ) {
        let unit = 10_i64.pow(u32::try_from(6 - digits).expect("small"));
        let micro = micro / unit * unit;
        let instant = Timestamp::from_microsecond(second * 1_000_000 + micro).expect("within jiff's years");
        let utc = instant.to_zoned(TimeZone::UTC).datetime();
        let fraction = if digits > 0 { format!(".{}", &format!("{micro:06}")[..digits]) } else { String::new() };
        prop_assert_eq!(micros("timestamptz", &format!("{}{fraction}Z", utc.strftime("%Y-%m-%dT%H:%M:%S"))) + GAP, instant.as_microsecond());
        prop_assert_eq!(micros("timestamp", &format!("{}{fraction}", utc.strftime("%Y-%m-%d %H:%M:%S"))) + GAP, instant.as_microsecond());
        let offset = Offset::from_seconds(minutes * 60).expect("an offset");
        let local = instant.to_zoned(offset.to_time_zone()).datetime();
        prop_assume!(local.year() > 0);
        let zone = format!("{}{:02}:{:02}", if minutes < 0 { '-' } else { '+' }, minutes.abs() / 60, minutes.abs() % 60);
        let text = format!("{}{fraction}{zone}", local.strftime("%Y-%m-%dT%H:%M:%S"));
        prop_assert_eq!(micros("timestamptz", &text) + GAP, instant.as_microsecond(), "{}", text);
    }

    #[test]
    fn dates_come_back(days in -730_000_i32..2_900_000) {
        let date = Date::constant(2000, 1, 1).checked_add(days.days()).expect("within jiff's years");
        prop_assert_eq!(good("date", &json(&date.to_string())), days.to_be_bytes());
    }

    #[test]
    fn dates_that_no_calendar_has_are_refused(year in 1_i16..9999, month in 1_i8..=12, day in 29_i8..=31) {
        let text = json(&format!("{year:04}-{month:02}-{day:02}"));
        let exists = Date::new(year, month, day).is_ok();
        if exists {
            prop_assert_eq!(good("date", &text).len(), 4);
        } else {
            prop_assert_eq!(bad("date", &text), Reason::OutOfRange);
        }
    }

    #[test]
    fn epochs_agree_with_integers(number in -10_000_000_000_000_000_i64..10_000_000_000_000_000) {
        prop_assert_eq!(epoch(EpochUnit::Micros, &number.to_string()), Ok(number));
        prop_assert_eq!(epoch(EpochUnit::Millis, &(number / 1000).to_string()), Ok(number / 1000 * 1000));
        prop_assert_eq!(epoch(EpochUnit::Nanos, &format!("{number}000")), Ok(number));
        prop_assert_eq!(epoch(EpochUnit::Seconds, &format!("{number}e-6")), Ok(number));
    }
}
