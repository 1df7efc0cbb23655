//! Collects the values of one field, and infers the type of the column that accepts them all. Pure.

use std::borrow::Cow;
use std::net::IpAddr;

use jiff::civil::{Date, DateTime, Time};
use jiff::{Span, Timestamp};
use tidegate_rows::json;
use tidegate_rows::value::{Kind, Value};

use super::names;

/// A column's type, and how its values are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Typed {
    /// The name of the type in Postgres: `int8`, `text[]`.
    pub(super) name: Cow<'static, str>,
    /// The unit in which numbers count the time since the Unix epoch. `None` if numbers aren't times.
    pub(super) unit: Option<&'static str>,
    /// Whether some times have no zone. The proposal then reads them as UTC.
    pub(super) local: bool,
}

impl Typed {
    pub(super) fn plain(name: impl Into<Cow<'static, str>>) -> Self {
        Self { name: name.into(), unit: None, local: false }
    }

    fn epoch(unit: &'static str) -> Self {
        Self { unit: Some(unit), ..Self::plain("timestamptz") }
    }

    /// Returns the type of a column for arrays whose elements have this type: `int8[]` for `int8`. Returns `jsonb` for elements
    /// of type `jsonb`, for arrays of arrays, for times that are numbers, and for times without a zone.
    pub(super) fn array(&self) -> Self {
        let is_scalar = self.name != "jsonb" && !self.name.ends_with("[]") && self.unit.is_none() && !self.local;
        Self::plain(if is_scalar { format!("{}[]", self.name).into() } else { Cow::Borrowed("jsonb") })
    }
}

/// Counts of the values of a field, by kind.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub(super) present: u64,
    pub(super) nulls: u64,
    pub(super) objects: u64,
    pub(super) arrays: u64,
    bools: u64,
    numbers: Numbers,
    texts: Texts,
}

/// Counts and bounds of numbers. [`Seen`] has those of JSON numbers, and [`Texts`] has those of numbers in text.
#[derive(Clone, Copy, Debug, Default)]
struct Numbers {
    count: u64,
    /// The count of numbers that are written with a fraction or an exponent.
    fractions: u64,
    /// The count of whole numbers that an int8 can't hold, and of other numbers that have more digits than a float8 keeps.
    exact: u64,
    least: f64,
    most: f64,
}

/// How many texts are literals of each type, and how many texts there are in all.
#[derive(Debug, Default)]
struct Texts {
    count: u64,
    zoned: u64,
    local: u64,
    dates: u64,
    clocks: u64,
    uuids: u64,
    addresses: u64,
    macs: u64,
    spans: u64,
    bools: u64,
    /// `NaN`, `Infinity` and `-Infinity`.
    special: u64,
    numbers: Numbers,
}

impl Seen {
    pub(super) fn add(&mut self, value: &Value<'_>) {
        self.present += 1;
        match value.kind {
            Kind::Null | Kind::Missing => self.nulls += 1,
            Kind::True | Kind::False => self.bools += 1,
            Kind::Number => self.numbers.add(value.raw),
            Kind::Object => self.objects += 1,
            Kind::Array => self.arrays += 1,
            Kind::String | Kind::Text | Kind::Bytes => self.texts.add(value.as_text().unwrap_or_default()),
            // JSON has no values of the kinds below.
            Kind::Lexical
            | Kind::Float
            | Kind::Instant
            | Kind::Day
            | Kind::Clock
            | Kind::Span
            | Kind::Uuid
            | Kind::Decimal => {}
        }
    }

    pub(super) fn with_value(&self) -> u64 {
        self.present - self.nulls
    }

    /// Returns whether all values are objects or null, and some are objects.
    pub(super) fn is_object(&self) -> bool {
        self.objects > 0 && self.objects + self.nulls == self.present
    }

    /// Returns whether all values are null or one of the texts `true` and `false`, and some are such texts.
    pub(super) fn is_flag_in_text(&self) -> bool {
        self.texts.bools > 0 && self.texts.bools + self.nulls == self.present
    }

    /// Returns the type of a column that accepts all values. `None` if some values are objects or arrays. `name` is the field's
    /// name.
    pub(super) fn scalar(&self, name: &str) -> Option<Typed> {
        let Self { bools, numbers, texts, .. } = self;
        if self.objects + self.arrays > 0 {
            return None;
        }
        Some(match (*bools > 0, numbers.count > 0, texts.count > 0) {
            (true, false, false) => Typed::plain("bool"),
            (false, true, false) => numbers.type_of(name),
            (false, false, true) => texts.type_of(name),
            (false, true, true) if texts.numbers.count + texts.special == texts.count => {
                let all = numbers.and(&texts.numbers);
                if texts.special > 0 { Typed::plain("float8") } else { all.type_of(name) }
            }
            // A text column accepts texts, numbers and booleans together. Numbers and booleans without text become jsonb,
            // because nobody wants them as text.
            (_, _, true) => Typed::plain("text"),
            _ => Typed::plain("jsonb"),
        })
    }
}

impl Numbers {
    fn add(&mut self, lexeme: &[u8]) {
        let text = std::str::from_utf8(lexeme).unwrap_or_default();
        let number: f64 = text.parse().unwrap_or_default();
        let is_whole = !text.contains(['.', 'e', 'E']);
        let digits = text.bytes().filter(u8::is_ascii_digit).count();
        self.least = if self.count == 0 { number } else { self.least.min(number) };
        self.most = if self.count == 0 { number } else { self.most.max(number) };
        self.count += 1;
        self.fractions += u64::from(!is_whole);
        self.exact += u64::from(if is_whole { text.parse::<i64>().is_err() } else { digits > 17 });
    }

    fn and(&self, other: &Self) -> Self {
        Self {
            count: self.count + other.count,
            fractions: self.fractions + other.fractions,
            exact: self.exact + other.exact,
            least: self.least.min(other.least),
            most: self.most.max(other.most),
        }
    }

    fn type_of(&self, name: &str) -> Typed {
        match names::epoch_unit(name, self.least, self.most) {
            Some(unit) => Typed::epoch(unit),
            None if self.exact > 0 => Typed::plain("numeric"),
            None if self.fractions > 0 => Typed::plain("float8"),
            None => Typed::plain("int8"),
        }
    }
}

impl Texts {
    fn add(&mut self, text: &[u8]) {
        let text = std::str::from_utf8(text).unwrap_or_default();
        self.count += 1;
        let day_ends = text.as_bytes().get(10).is_some_and(|byte| matches!(byte, b'T' | b' '));
        let is_zoned = day_ends && text.len() >= 20 && text.parse::<Timestamp>().is_ok();
        self.zoned += u64::from(is_zoned);
        self.local += u64::from(!is_zoned && day_ends && text.len() >= 19 && text.parse::<DateTime>().is_ok());
        self.dates += u64::from(text.len() == 10 && text.parse::<Date>().is_ok());
        self.clocks += u64::from(is_clock(text));
        self.uuids += u64::from(text.len() == 36 && text.parse::<uuid::Uuid>().is_ok());
        self.addresses += u64::from(text.parse::<IpAddr>().is_ok());
        self.macs += u64::from(is_mac(text));
        self.spans += u64::from(is_span(text));
        self.bools += u64::from(matches!(text, "true" | "false"));
        self.special += u64::from(matches!(text, "NaN" | "Infinity" | "-Infinity"));
        if is_number(text) {
            self.numbers.add(text.as_bytes());
        }
    }

    fn type_of(&self, name: &str) -> Typed {
        let kinds = [
            (self.dates, "date"),
            (self.clocks, "time"),
            (self.uuids, "uuid"),
            (self.addresses, "inet"),
            (self.macs, "macaddr"),
            (self.spans, "interval"),
            (self.bools, "bool"),
        ];
        if let Some((_, kind)) = kinds.into_iter().find(|(count, _)| *count == self.count) {
            return Typed::plain(kind);
        }
        if self.zoned + self.local == self.count {
            return Typed { local: self.local > 0, ..Typed::plain("timestamptz") };
        }
        let numbers = &self.numbers;
        if numbers.count + self.special < self.count || names::is_code(name) {
            return Typed::plain("text");
        }
        match numbers.type_of(name) {
            _ if self.special > 0 => Typed::plain("float8"),
            // A producer that writes a fraction as text wants it to stay exact.
            Typed { unit: None, .. } if numbers.fractions > 0 => Typed::plain("numeric"),
            typed => typed,
        }
    }
}

/// Returns whether the text is a time of day, `12:30:00`, with a fraction or without.
fn is_clock(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 8 && bytes[2] == b':' && bytes[5] == b':' && text.parse::<Time>().is_ok()
}

/// Returns whether the text is a MAC address, `08:00:2b:01:02:03`, with colons or hyphens.
fn is_mac(text: &str) -> bool {
    text.len() == 17
        && [':', '-'].iter().any(|between| {
            let mut parts = text.split(*between);
            parts.clone().count() == 6
                && parts.all(|part| part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit()))
        })
}

/// Returns whether the text is a duration: `1.5s`, as Protobuf writes it in JSON, or `PT1.5S`, as in ISO 8601.
fn is_span(text: &str) -> bool {
    match text.strip_suffix('s') {
        Some(seconds) => json_number(seconds),
        None => text.len() > 2 && text.starts_with('P') && text.parse::<Span>().is_ok(),
    }
}

/// Returns whether the text is a number and not a code that only looks like one. Such codes often have leading zeros, which JSON
/// doesn't allow in numbers, or too many digits for a whole number of 64 bits.
fn is_number(text: &str) -> bool {
    let is_whole = !text.contains('.');
    json_number(text)
        && !text.contains(['e', 'E'])
        && text != "-0"
        && (!is_whole || text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok())
}

fn json_number(text: &str) -> bool {
    json::document(text.as_bytes()).is_ok_and(|slot| slot.kind == Kind::Number && !text.contains(char::is_whitespace))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(name: &str, values: &[&str]) -> String {
        let mut seen = Seen::default();
        for value in values {
            seen.add(&json::document(value.as_bytes()).expect("JSON").of(value.as_bytes()));
        }
        let Some(typed) = seen.scalar(name) else { return "-".to_owned() };
        let unit = typed.unit.map(|unit| format!("/{unit}")).unwrap_or_default();
        format!("{}{unit}{}", typed.name, if typed.local { " UTC" } else { "" })
    }

    #[test]
    fn text_that_is_a_literal_has_its_type() {
        for (name, values, expected) in [
            ("v", vec![r#""9007199254740993""#, r#""-3""#], "int8"),
            ("v", vec![r#""18446744073709551615""#], "numeric"),
            ("v", vec![r#""12.50""#, r#""3""#], "numeric"),
            ("v", vec!["1.5", r#""NaN""#, r#""-Infinity""#], "float8"),
            ("v", vec!["1", r#""2""#], "int8"),
            ("v", vec![r#""007""#], "text"),
            ("v", vec![r#""""#, r#""1""#], "text"),
            ("v", vec![r#""12345678901234567890123456789012""#], "text"),
            ("zip", vec![r#""90210""#], "text"),
            ("phoneNumber", vec![r#""4930123456""#], "text"),
            ("firmware_version", vec![r#""1.2""#], "text"),
            ("v", vec![r#""true""#, r#""false""#], "bool"),
            ("v", vec![r#""10.0.0.1""#, r#""2001:db8::1""#], "inet"),
            ("v", vec![r#""08:00:2b:01:02:03""#], "macaddr"),
            ("v", vec![r#""1.5s""#, r#""-3s""#, r#""0.000340012s""#], "interval"),
            ("v", vec![r#""PT1H30M""#, r#""P1DT2H""#], "interval"),
            ("v", vec![r#""12:30:00""#, r#""23:59:59.5""#], "time"),
            ("v", vec![r#""2026-01-31T12:00:00.000Z""#, r#""2026-01-31T12:00:00.1+0100""#], "timestamptz"),
            ("v", vec![r#""2015-04-16T10:45:47.000""#], "timestamptz UTC"),
            ("v", vec![r#""2015-04-16 10:45:47""#, r#""2015-04-16T10:45:47Z""#], "timestamptz UTC"),
            ("v", vec![r#""2015-04-16""#, r#""2015-04-16T10:45:47Z""#], "text"),
            ("v", vec!["true", "1"], "jsonb"),
            ("v", vec!["true", r#""x""#], "text"),
        ] {
            assert_eq!(typed(name, &values), expected, "{name} {values:?}");
        }
    }

    #[test]
    fn numbers_under_a_name_of_time_are_epochs_with_fractions_and_in_text_too() {
        for (name, values, expected) in [
            ("date", vec!["1769860800.123456"], "timestamptz/s"),
            ("ts", vec!["1769860800", "1769860800.5"], "timestamptz/s"),
            ("startTimeUnixNano", vec![r#""1769860800123456789""#], "timestamptz/ns"),
            ("@timestamp", vec!["1769860800.123456789"], "timestamptz/s"),
            ("ts_ms", vec!["1769860800123"], "timestamptz/ms"),
            ("createdAt", vec!["1769860800123"], "timestamptz/ms"),
            ("duration", vec!["1769860800.5"], "float8"),
            ("uptime", vec!["1769860800"], "int8"),
            ("ts", vec!["12.5"], "float8"),
        ] {
            assert_eq!(typed(name, &values), expected, "{name} {values:?}");
        }
    }
}
