//! Encodes numerics, and compares them with arithmetic on text and on `i128`.

use proptest::prelude::*;
use tidegate_rows::value::Reason;

use super::{bad, good, json};
use crate::fixtures::encode_one;
use crate::reference;

fn numeric(type_text: &str, value: &str) -> String {
    reference::numeric(&good(type_text, value))
}

#[test]
fn numeric_keeps_every_digit_and_its_scale() {
    for (value, expected) in [
        ("0", "0"),
        ("-0.00", "0.00"),
        ("1.10", "1.10"),
        ("10000", "10000"),
        ("0.0001", "0.0001"),
        ("12345678901234567890.123456789012345678901", "12345678901234567890.123456789012345678901"),
        ("1e3", "1000"),
        ("1.50e1", "15.0"),
        ("1.5e-3", "0.0015"),
        ("-120e-1", "-12.0"),
        ("1E+2", "100"),
        ("\" +1_000\"", ""),
        ("\" 12.30 \"", "12.30"),
        ("\".5\"", "0.5"),
        ("\"5.\"", "5"),
        ("\"nan\"", "NaN"),
        ("\"-Infinity\"", "-Infinity"),
    ] {
        match expected {
            "" => assert_eq!(bad("numeric", value), Reason::TypeMismatch),
            expected => assert_eq!(numeric("numeric", value), expected, "{value}"),
        }
    }
    for value in ["true", "\"\"", "\"0x1f\"", "\"1,5\"", "\"$1\"", "[1]"] {
        assert_eq!(bad("numeric", value), Reason::TypeMismatch, "{value}");
    }
}

#[test]
fn numeric_ends_where_postgres_ends() {
    assert_eq!(numeric("numeric", "1e131071").len(), 131_072);
    assert_eq!(bad("numeric", "1e131072"), Reason::OutOfRange);
    assert_eq!(numeric("numeric", "1e-16383").len(), 16_385);
    assert_eq!(bad("numeric", "1e-16384"), Reason::OutOfRange);
    assert_eq!(bad("numeric", "1e999999999999"), Reason::OutOfRange);
    assert_eq!(bad("numeric", "1e-999999999999"), Reason::OutOfRange);
    assert_eq!(bad("numeric", &format!("1{}", "0".repeat(200_000))), Reason::OutOfRange);
    assert_eq!(numeric("numeric(5,2)", "1e-999999999999"), "0.00");
}

#[test]
fn numeric_rounds_half_away_from_zero_and_checks_what_comes_out() {
    for (type_text, value, expected) in [
        ("numeric(5,2)", "1.005", "1.01"),
        ("numeric(5,2)", "-1.005", "-1.01"),
        ("numeric(5,2)", "999.994", "999.99"),
        ("numeric(5,2)", "0.004", "0.00"),
        ("numeric(5,2)", "0.005", "0.01"),
        ("numeric(5,2)", "0.00500", "0.01"),
        ("numeric(5)", "9999.5", "10000"),
        ("numeric(8,4)", "9999.99994", "9999.9999"),
        ("numeric(9,4)", "9999.99995", "10000.0000"),
        ("numeric(3,5)", "0.00999", "0.00999"),
        ("numeric(3,-2)", "12345", "12300"),
        ("numeric(3,-2)", "50", "100"),
        ("numeric(3,-2)", "49.9", "0"),
        ("numeric(5,2)", "\"NaN\"", "NaN"),
    ] {
        assert_eq!(numeric(type_text, value), expected, "{value} as {type_text}");
    }
    for (type_text, value) in [
        ("numeric(5,2)", "1000"),
        ("numeric(5,2)", "999.995"),
        ("numeric(3,5)", "0.01"),
        ("numeric(3,-2)", "99950"),
        ("numeric(5,2)", "\"Infinity\""),
    ] {
        assert_eq!(bad(type_text, value), Reason::OutOfRange, "{value} as {type_text}");
    }
}

fn written_out(negative: bool, whole: &str, fraction: &str, exponent: i32) -> String {
    let digits = format!("{}{whole}{fraction}{}", "0".repeat(100), "0".repeat(100));
    let point = 100 + i32::try_from(whole.len()).expect("short") + exponent;
    let scale = (i32::try_from(fraction.len()).expect("short") - exponent).max(0);
    let (before, behind) = digits.split_at(usize::try_from(point).expect("exponents are small"));
    let before = before.trim_start_matches('0');
    let before = if before.is_empty() { "0" } else { before };
    let behind = &behind[..usize::try_from(scale).expect("positive")];
    let zero = before == "0" && behind.bytes().all(|digit| digit == b'0');
    let sign = if negative && !zero { "-" } else { "" };
    if scale == 0 { format!("{sign}{before}") } else { format!("{sign}{before}.{behind}") }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decimals_come_back_digit_by_digit(
        negative: bool,
        whole in "0|[1-9][0-9]{0,40}",
        fraction in "[0-9]{0,40}",
        exponent in -40_i32..40,
    ) {
        let sign = if negative { "-" } else { "" };
        let point = if fraction.is_empty() { "" } else { "." };
        let text = format!("{sign}{whole}{point}{fraction}e{exponent}");
        let expected = written_out(negative, &whole, &fraction, exponent);
        prop_assert_eq!(numeric("numeric", &text), expected.as_str(), "{}", text);
        prop_assert_eq!(numeric("numeric", &json(&text)), expected, "{}", text);
    }

    #[test]
    fn rounding_agrees_with_integers(number in -1_000_000_000_000_i64..1_000_000_000_000, places in 0_u32..9, scale in 0_u32..9, precision in 1_u32..18) {
        prop_assume!(scale <= precision);
        let magnitude = i128::from(number.unsigned_abs());
        let (power, kept) = (10_i128.pow(places), 10_i128.pow(scale));
        // A half is rounded away from zero: up, because `magnitude` has no sign.
        let rounded = (magnitude * kept * 2 + power) / (power * 2);
        let text = {
            let digits = format!("{magnitude:010}");
            let (whole, fraction) = digits.split_at(digits.len() - places as usize);
            let whole = whole.trim_start_matches('0');
            let point = if places > 0 { "." } else { "" };
            format!("{}{}{point}{fraction}", if number < 0 { "-" } else { "" }, if whole.is_empty() { "0" } else { whole })
        };
        match encode_one(&format!("numeric({precision},{scale})"), &text) {
            Err(rejection) => {
                prop_assert_eq!(rejection.reason, Reason::OutOfRange);
                prop_assert!(rounded >= 10_i128.pow(precision), "{}", text);
            }
            Ok(field) => {
                prop_assert!(rounded < 10_i128.pow(precision), "{}", text);
                let shown = reference::numeric(&field.expect("a field"));
                let unscaled: i128 = shown.replace('.', "").parse().expect("digits");
                prop_assert_eq!(unscaled, if number < 0 { -rounded } else { rounded }, "{} became {}", text, shown);
            }
        }
    }
}
