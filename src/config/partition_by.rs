//! Reads `partition_by = { column = "ts", interval = "1 day", ahead = 2 }`.

use std::num::NonZeroU32;
use std::time::Duration;

use tidegate_rows::spec::{Column, Expiry, Interval, IntervalUnit, PartitionBy};

use super::names;
use super::node::ConfigNode;

/// The default number of partitions that are created ahead of time. With daily partitions, today's partition exists even after
/// Tidegate was down for a day.
const AHEAD: u32 = 2;

pub(super) fn read(node: &ConfigNode<'_>, columns: Option<&[Column]>) -> Option<PartitionBy> {
    if !node.is_table() {
        return None;
    }
    let column = node.at("column");
    column.require("name the column of the time, as in column = \"ts\"");
    if let Some(name) = column.text() {
        let unmapped = columns.is_some_and(|columns| !columns.iter().any(|mapped| mapped.name == name));
        let message =
            if unmapped { Err(format!("{name:?} is not a column of the mapping")) } else { names::identifier(name) };
        message.unwrap_or_else(|message| column.fault(message));
    }
    let interval = node.at("interval");
    interval.require("say how much time a partition holds, as in interval = \"1 day\"");
    let interval = interval.text().and_then(|text| {
        let parsed = parse(text);
        if parsed.is_none() {
            interval
                .fault(format!("{text:?} is not an interval; write a whole number of hours, days, weeks or months"));
        }
        parsed
    });
    let day = Duration::from_secs(86_400);
    let retention = node.at("retention");
    let any = Duration::from_secs(3600)..=day * 36_525;
    Some(PartitionBy {
        column: column.text().unwrap_or_default().to_owned(),
        interval: interval.unwrap_or(Interval { count: NonZeroU32::MIN, unit: IntervalUnit::Day }),
        ahead: node.at("ahead").integer(0..=1000, AHEAD),
        retention: retention.is_set().then(|| retention.duration(any, day * 36_525)),
        expired: node.at("expired").choice(&[("detach", Expiry::Detach), ("drop", Expiry::Drop)]).unwrap_or_default(),
        default: node.at("default").flag(false),
    })
}

/// Reads an interval such as `"1 day"` or `"6 hours"`.
fn parse(text: &str) -> Option<Interval> {
    let (count, unit) = text.split_once(' ')?;
    let unit = match unit.strip_suffix('s').unwrap_or(unit) {
        "hour" => IntervalUnit::Hour,
        "day" => IntervalUnit::Day,
        "week" => IntervalUnit::Week,
        "month" => IntervalUnit::Month,
        _ => return None,
    };
    let count = count.parse::<NonZeroU32>().ok().filter(|count| count.get() <= 1000)?;
    Some(Interval { count, unit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_whole_units() {
        let interval = |count, unit| Some(Interval { count: NonZeroU32::new(count).expect("not 0"), unit });
        assert_eq!(parse("1 day"), interval(1, IntervalUnit::Day));
        assert_eq!(parse("6 hours"), interval(6, IntervalUnit::Hour));
        assert_eq!(parse("3 months"), interval(3, IntervalUnit::Month));
        for wrong in ["", "day", "0 days", "1d", "1.5 days", "-1 day", "1 fortnight", "2000 days"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
