//! `where` and `delete_where`: tests on a field of each row.

use std::cmp::Ordering;

use crate::decode::Fields;
use crate::json::string;
use crate::mapping::meta;
use crate::render;
use crate::spec::{RowFilter, Test};
use crate::value::{Flags, Kind, Value};

/// A [`RowFilter`] whose field is in this slot, ready to be applied to rows.
#[derive(Clone, Debug)]
pub(super) struct Check {
    slot: u16,
    tests: Vec<FilterTest>,
}

#[derive(Clone, Debug)]
enum FilterTest {
    Equals(Literal),
    NotEquals(Literal),
    Exists(bool),
    Compares(Ordering, Number),
}

#[derive(Clone, Debug)]
enum Literal {
    Text(Box<[u8]>),
    Number(Number),
    Bool(bool),
}

/// A number in a comparison. Two `Whole` numbers are compared exactly, all other pairs as float8.
#[derive(Clone, Copy, Debug)]
enum Number {
    Whole(i128),
    Float(f64),
}

impl Check {
    pub(super) fn new(slot: u16, condition: &RowFilter) -> Self {
        let tests = condition.tests.iter().filter_map(|test| match test {
            Test::Equals(json) => literal(json).map(FilterTest::Equals),
            Test::NotEquals(json) => literal(json).map(FilterTest::NotEquals),
            Test::Exists(there) => Some(FilterTest::Exists(*there)),
            Test::Greater(json) => Number::parse(json.as_bytes()).map(|n| FilterTest::Compares(Ordering::Greater, n)),
            Test::Less(json) => Number::parse(json.as_bytes()).map(|n| FilterTest::Compares(Ordering::Less, n)),
        });
        Self { slot, tests: tests.collect() }
    }

    /// Returns whether all tests hold. `scratch` is a buffer for unescaped text.
    pub(super) fn holds(&self, fields: &Fields, payload: &[u8], scratch: &mut Vec<u8>) -> bool {
        let value = meta::compared(fields.value(self.slot, payload));
        let there = !matches!(value.kind, Kind::Missing | Kind::Null);
        self.tests.iter().all(|test| match test {
            FilterTest::Equals(literal) => literal.equals(&value, scratch),
            FilterTest::NotEquals(literal) => !literal.equals(&value, scratch),
            FilterTest::Exists(wanted) => there == *wanted,
            FilterTest::Compares(wanted, number) => {
                Number::of(&value).and_then(|value| value.compare(*number)) == Some(*wanted)
            }
        })
    }
}

/// Reads a literal that the configuration stores as JSON text: a string, a number or a boolean. Returns `None` for anything else.
fn literal(json: &str) -> Option<Literal> {
    match serde_json::from_str(json).ok()? {
        serde_json::Value::String(text) => Some(Literal::Text(text.into_bytes().into())),
        serde_json::Value::Bool(flag) => Some(Literal::Bool(flag)),
        serde_json::Value::Number(_) => Number::parse(json.as_bytes()).map(Literal::Number),
        _ => None,
    }
}

impl Literal {
    fn equals(&self, value: &Value<'_>, scratch: &mut Vec<u8>) -> bool {
        match self {
            Self::Text(text) => value.as_text().is_some_and(|inside| {
                if value.kind == Kind::String && value.flags.has(Flags::ESCAPED) {
                    scratch.clear();
                    string::unescape(inside, scratch);
                    **text == **scratch
                } else {
                    **text == *inside
                }
            }),
            Self::Number(number) => Number::of(value).and_then(|value| value.compare(*number)) == Some(Ordering::Equal),
            Self::Bool(flag) => value.kind == if *flag { Kind::True } else { Kind::False },
        }
    }
}

impl Number {
    fn of(value: &Value<'_>) -> Option<Self> {
        if value.kind == Kind::Float {
            return Some(Self::Float(f64::from_bits(value.mantissa)));
        }
        if value.kind == Kind::Decimal {
            let mut lexeme = Vec::new();
            render::text(value, &mut lexeme);
            return Self::parse(&lexeme);
        }
        if value.kind != Kind::Number {
            return None;
        }
        let whole = u32::try_from(value.exponent).ok().filter(|_| !value.flags.has(Flags::INEXACT));
        let magnitude = whole
            .and_then(|exponent| 10_i128.checked_pow(exponent))
            .and_then(|power| power.checked_mul(i128::from(value.mantissa)));
        match magnitude {
            Some(magnitude) if value.flags.has(Flags::NEGATIVE) => Some(Self::Whole(-magnitude)),
            Some(magnitude) => Some(Self::Whole(magnitude)),
            None => Self::parse(value.raw),
        }
    }

    fn parse(lexeme: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(lexeme).ok()?;
        match text.parse::<i128>() {
            Ok(whole) => Some(Self::Whole(whole)),
            Err(_) => text.parse::<f64>().ok().map(Self::Float),
        }
    }

    fn compare(self, other: Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Whole(one), Self::Whole(other)) => Some(one.cmp(&other)),
            (one, other) => one.float().partial_cmp(&other.float()),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "beside a number with a fraction, as float8 compares them")]
    fn float(self) -> f64 {
        match self {
            Self::Whole(whole) => whole as f64,
            Self::Float(float) => float,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json;

    fn holds(test: Test, field: Option<&str>) -> bool {
        let check = Check::new(0, &RowFilter { field: vec!["f".to_owned()], tests: vec![test] });
        let text = field.unwrap_or_default().as_bytes();
        let mut fields = Fields::default();
        fields.slots.push(field.map_or(crate::value::Slot::MISSING, |_| json::document(text).expect("JSON")));
        check.holds(&fields, text, &mut Vec::new())
    }

    #[test]
    fn texts_numbers_and_booleans_are_equal_by_value() {
        let equals = |literal: &str, field| holds(Test::Equals(literal.to_owned()), Some(field));
        assert!(equals("\"paused\"", "\"paused\""));
        assert!(equals("\"paused\"", "\"pa\\u0075sed\""));
        assert!(!equals("\"paused\"", "\"Paused\""));
        assert!(equals("1", "1") && equals("1", "1.0") && equals("1.0", "1") && equals("10", "1e1"));
        assert!(equals("-3", "-3") && !equals("-3", "3") && !equals("1", "\"1\"") && !equals("1", "true"));
        assert!(equals("9007199254740993", "9007199254740993") && !equals("9007199254740993", "9007199254740992"));
        assert!(equals("true", "true") && !equals("true", "false") && !equals("true", "\"true\""));
        assert!(!holds(Test::Equals("1".to_owned()), None));
    }

    #[test]
    fn what_is_missing_or_null_is_not_equal_and_does_not_exist() {
        for field in [None, Some("null")] {
            assert!(holds(Test::NotEquals("1".to_owned()), field));
            assert!(!holds(Test::Exists(true), field) && holds(Test::Exists(false), field));
            assert!(!holds(Test::Less("1".to_owned()), field) && !holds(Test::Greater("-1".to_owned()), field));
        }
        assert!(holds(Test::Exists(true), Some("[]")));
        assert!(!holds(Test::NotEquals("1".to_owned()), Some("1.0")));
    }

    #[test]
    fn numbers_are_above_or_below_and_texts_are_neither() {
        assert!(holds(Test::Greater("1.5".to_owned()), Some("2")));
        assert!(!holds(Test::Greater("2".to_owned()), Some("2")));
        assert!(holds(Test::Less("0".to_owned()), Some("-0.1")));
        assert!(!holds(Test::Less("0".to_owned()), Some("\"-1\"")));
    }
}
