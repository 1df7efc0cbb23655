//! The rules of Postgres' `*_recv` functions: which bytes Postgres accepts as a binary field. This module shares no code with the
//! encoders.

use super::{LABELS, reference};

/// The range of dates, in days since 2000: from 4714-11-24 BC to before 5874898-01-01.
const DAYS: std::ops::Range<i32> = -2_451_545..2_145_031_949;
/// The range of timestamps, in microseconds since 2000: from 4714-11-24 BC to before 294277-01-01.
const MICROS: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;

fn array<const N: usize>(field: &[u8]) -> [u8; N] {
    field.try_into().unwrap_or_else(|_| panic!("{} bytes where {N} belong", field.len()))
}

/// Returns the text of a field. Panics if a database with the encoding UTF-8 would refuse it.
pub fn text(field: &[u8]) -> &str {
    let text = std::str::from_utf8(field).expect("UTF-8");
    assert!(!text.contains('\0'), "no NUL in text");
    text
}

pub fn int(field: &[u8]) -> i64 {
    match field.len() {
        2 => i16::from_be_bytes(array(field)).into(),
        4 => i32::from_be_bytes(array(field)).into(),
        _ => i64::from_be_bytes(array(field)),
    }
}

pub fn day(field: &[u8]) -> i32 {
    let day = i32::from_be_bytes(array(field));
    assert!(DAYS.contains(&day) || matches!(day, i32::MIN | i32::MAX), "a date that Postgres has: {day}");
    day
}

pub fn micros(field: &[u8]) -> i64 {
    let micros = i64::from_be_bytes(array(field));
    assert!(MICROS.contains(&micros) || matches!(micros, i64::MIN | i64::MAX), "a time that Postgres has: {micros}");
    micros
}

/// Panics if Postgres would refuse the text for the type json, or for the type jsonb if `binary` is set. For jsonb, Postgres also
/// resolves the escapes in strings.
fn json(field: &[u8], binary: bool) {
    let text = if binary { std::str::from_utf8(field).expect("UTF-8") } else { text(field) };
    let valid = serde_json::from_str::<&serde_json::value::RawValue>(text);
    assert!(valid.is_ok(), "it is JSON: {text}");
    if binary {
        // Keys and strings must not contain a NUL or half of a surrogate pair. serde rejects half of a pair itself.
        let tree = serde_json::from_str::<serde_json::Value>(text);
        match tree {
            Ok(tree) => no_nul(&tree),
            // serde refuses a number beyond the range of f64, and deep nesting. jsonb accepts both: it stores numbers as numeric.
            // This function doesn't check the limits of numeric, nor Postgres' own limit of nesting.
            Err(error) => {
                let said = error.to_string();
                assert!(said.contains("out of range") || said.contains("recursion limit"), "{said}: {text}");
            }
        }
    }
}

fn no_nul(value: &serde_json::Value) {
    match value {
        serde_json::Value::String(text) => assert!(!text.contains('\0'), "no NUL in a jsonb"),
        serde_json::Value::Array(values) => values.iter().for_each(no_nul),
        serde_json::Value::Object(members) => {
            for (key, value) in members {
                assert!(!key.contains('\0'), "no NUL in a key of a jsonb");
                no_nul(value);
            }
        }
        _ => {}
    }
}

/// Panics if Postgres would refuse the field for a column of the type `of`.
pub fn check(of: &str, field: &[u8]) {
    let of = of.trim_end_matches('!');
    if let Some(element) = of.strip_suffix("[]") {
        let (lengths, _oid, elements) = reference::array(field);
        assert!(lengths.len() <= 6 && lengths.iter().all(|length| *length > 0), "dimensions: {lengths:?}");
        return elements.iter().flatten().for_each(|field| check(element, field));
    }
    let (base, modifiers) = of.split_once('(').unwrap_or((of, ""));
    let modifiers = modifiers.trim_end_matches(')');
    match base {
        "bool" => assert!(matches!(field, [0 | 1])),
        "int2" => assert_eq!(field.len(), 2),
        "int4" | "oid" | "float4" => assert_eq!(field.len(), 4),
        "int8" | "float8" => assert_eq!(field.len(), 8),
        "numeric" => {
            assert!(field.len() >= 8 && field.len() % 2 == 0);
            let shown = reference::numeric(field);
            assert!(u16::from_be_bytes([field[6], field[7]]) <= 0x3fff, "a scale that Postgres has");
            if let Some((precision, scale)) = modifiers.split_once(',') {
                let (precision, scale): (i64, i64) = (precision.parse().unwrap(), scale.parse().unwrap());
                let (whole, fraction) = shown.trim_start_matches('-').split_once('.').unwrap_or((&shown, ""));
                let whole = whole.trim_start_matches('-').trim_start_matches('0');
                assert!(shown == "NaN" || whole.len() as i64 <= (precision - scale).max(0), "{shown}");
                assert!(shown == "NaN" || fraction.len() as i64 == scale.max(0), "{shown}");
            }
        }
        "bytea" => {}
        "text" => {
            text(field);
        }
        "varchar" | "bpchar" => {
            let limit = modifiers.parse().unwrap_or(usize::MAX);
            assert!(text(field).chars().count() <= limit);
        }
        "name" => assert!(text(field).len() <= 63),
        "char" => assert_eq!(field.len(), 1),
        "mood" => assert!(LABELS.contains(&text(field))),
        "json" => json(field, false),
        "jsonb" => {
            assert_eq!(field.first(), Some(&1), "the version");
            json(&field[1..], true);
        }
        "date" => {
            day(field);
        }
        "time" => assert!((0..=86_400_000_000).contains(&int(&array::<8>(field)))),
        "timestamp" | "timestamptz" => {
            micros(field);
        }
        "interval" => assert_eq!(field.len(), 16),
        "uuid" => assert_eq!(field.len(), 16),
        "inet" | "cidr" => {
            let [family, bits, cidr, len, rest @ ..] = field else { panic!("an address") };
            assert!(matches!((family, len, bits), (2, 4, 0..=32) | (3, 16, 0..=128)));
            assert_eq!((rest.len(), *cidr), (usize::from(*len), u8::from(base == "cidr")));
            if base == "cidr" {
                let right = (usize::from(*bits)..rest.len() * 8).any(|bit| rest[bit / 8] >> (7 - bit % 8) & 1 == 1);
                assert!(!right, "no bit right of a cidr's mask");
            }
        }
        "macaddr" => assert_eq!(field.len(), 6),
        "macaddr8" => assert_eq!(field.len(), 8),
        "point" => assert_eq!(field.len(), 16),
        range if range.ends_with("range") => check_range(range, field),
        other => panic!("no rule for {other}"),
    }
}

fn check_range(range: &str, field: &[u8]) {
    let element = match range {
        "int4range" => "int4",
        "int8range" => "int8",
        "numrange" => "numeric",
        "daterange" => "date",
        "tsrange" => "timestamp",
        _ => "timestamptz",
    };
    let (flags, mut rest) = field.split_first().expect("the flags");
    assert!(flags & !0x1f == 0, "flags that Postgres sends");
    let mut bounds = Vec::new();
    for infinite in [0x08, 0x10] {
        if flags & 1 == 0 && flags & infinite == 0 {
            let (len, tail) = rest.split_first_chunk::<4>().expect("a bound's length");
            let (bound, tail) = tail.split_at(usize::try_from(i32::from_be_bytes(*len)).expect("a bound"));
            check(element, bound);
            bounds.push(bound);
            rest = tail;
        }
    }
    assert!(rest.is_empty(), "nothing behind the bounds");
    if let ([lower, upper], false) = (bounds.as_slice(), element == "numeric") {
        assert!(int(lower) <= int(upper), "the lower bound is not above the upper one");
    }
    // Postgres converts a range of integers to `[lower,upper)` by adding one to an inclusive upper bound.
    if let ([.., upper], true) = (bounds.as_slice(), matches!(element, "int4" | "int8")) {
        let last = if element == "int4" { i64::from(i32::MAX) } else { i64::MAX };
        assert!(flags & 0x10 != 0 || flags & 0x04 == 0 || int(upper) < last, "the upper bound has a successor");
    }
}
