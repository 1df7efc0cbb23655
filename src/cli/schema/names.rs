//! Guesses from field names what the fields mean, and makes names for columns. Pure.

use tidegate_rows::catalog::{NAME_MAX, can_name_a_column};

/// Words at the end of a field's name that mean a time.
const OF_TIME: &[&str] = &[
    "ts",
    "t",
    "at",
    "time",
    "when",
    "date",
    "epoch",
    "on",
    "timestamp",
    "datetime",
    "rowtime",
    "created",
    "updated",
    "modified",
    "expires",
    "seen",
];
/// Words that may follow one of [`OF_TIME`] at the end of a field's name, as in `created_ms`. Most of them name the unit.
const OF_UNIT: &[&str] = &[
    "s",
    "sec",
    "secs",
    "seconds",
    "ms",
    "millis",
    "milliseconds",
    "us",
    "micros",
    "microseconds",
    "ns",
    "nano",
    "nanos",
    "nanoseconds",
    "unix",
    "utc",
];
/// Words in the names of codes. A code's digits aren't a number: nobody adds them up, and the next code may contain a letter.
const OF_CODE: &[&str] = &[
    "code", "zip", "zipcode", "postcode", "postal", "phone", "mobile", "tel", "msisdn", "imei", "imsi", "iccid", "sku",
    "isbn", "ean", "gtin", "vin", "iban", "plate", "serial", "version", "hash", "card",
];

/// Returns the unit of a field's numbers, if its name suggests a time and all numbers are between the years 2000 and 2100 in
/// that unit.
pub(super) fn epoch_unit(name: &str, least: f64, most: f64) -> Option<&'static str> {
    const SINCE: f64 = 946_684_800.0;
    const UNTIL: f64 = 4_102_444_800.0;
    let units = [("s", 1.0), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)];
    let fits = |per_second: f64| least >= SINCE * per_second && most < UNTIL * per_second;
    let is_time = || {
        let words = words(name);
        let last = words.iter().rev().find(|word| !OF_UNIT.contains(&word.as_str()));
        last.is_some_and(|word| OF_TIME.contains(&word.as_str()) || word.ends_with("timestamp"))
    };
    units.into_iter().find(|(_, per_second)| fits(*per_second)).map(|(unit, _)| unit).filter(|_| is_time())
}

pub(super) fn is_code(name: &str) -> bool {
    words(name).iter().any(|word| OF_CODE.contains(&word.as_str()))
}

/// Splits `startTimeUnixNano` and `start_time` into words in lower case.
fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut after_lower = false;
    for c in name.chars() {
        let begins = c.is_uppercase() && after_lower;
        if begins || !c.is_alphanumeric() {
            words.push(String::new());
        }
        if let (true, Some(word)) = (c.is_alphanumeric(), words.last_mut()) {
            word.extend(c.to_lowercase());
        }
        after_lower = c.is_lowercase() || c.is_numeric();
    }
    words.retain(|word| !word.is_empty());
    words
}

/// Returns a name for a field's column: `position_lat` for `position.lat`, `ctid_` for `ctid`. The name has no NUL, and is cut to
/// the length that Postgres keeps. Underscores are added until Postgres allows the name and no other column has it. `None` for an
/// empty name.
pub(super) fn column(path: &[String], is_taken: impl Fn(&str) -> bool) -> Option<String> {
    let joined: String = path.join("_").chars().filter(|c| *c != '\0').collect();
    if joined.is_empty() {
        return None;
    }
    (0..NAME_MAX).find_map(|underscores| {
        let mut end = joined.len().min(NAME_MAX - underscores);
        while !joined.is_char_boundary(end) {
            end -= 1;
        }
        let name = joined[..end].to_owned() + &"_".repeat(underscores);
        (can_name_a_column(&name) && !is_taken(&name)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_into_their_words() {
        assert_eq!(words("startTimeUnixNano"), ["start", "time", "unix", "nano"]);
        assert_eq!(words("@timestamp"), ["timestamp"]);
        assert_eq!(words("id.orig_h"), ["id", "orig", "h"]);
        assert_eq!(words("ROWTIME"), ["rowtime"]);
        assert!(is_code("zipCode") && is_code("phone_number") && !is_code("decode"));
    }

    #[test]
    fn a_name_that_no_column_can_have_becomes_one_that_it_can() {
        let name = |path: &[&str], taken: &[&str]| {
            let path: Vec<_> = path.iter().map(|part| (*part).to_owned()).collect();
            column(&path, |name| taken.contains(&name))
        };
        assert_eq!(name(&["position", "lat"], &[]).as_deref(), Some("position_lat"));
        assert_eq!(name(&["ctid"], &[]).as_deref(), Some("ctid_"));
        assert_eq!(name(&["xmin"], &["xmin_"]).as_deref(), Some("xmin__"));
        assert_eq!(name(&["a"], &["a", "a_"]).as_deref(), Some("a__"));
        assert_eq!(name(&["a\0b"], &[]).as_deref(), Some("ab"));
        assert_eq!(name(&[""], &[]), None);
        let long = "é".repeat(40);
        assert_eq!(name(&[&long], &[]), Some("é".repeat(31)));
        assert_eq!(name(&[&long], &["é".repeat(31).as_str()]), Some("é".repeat(31) + "_"));
    }
}
