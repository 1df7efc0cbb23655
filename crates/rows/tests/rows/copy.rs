//! Encodes values of each type, and reads the bytes back with code that is independent of the encoders.

mod decimals;
mod ranges;
mod structures;
mod times;

use std::net::IpAddr;

use proptest::prelude::*;
use tidegate_rows::spec::{Column, NulPolicy};
use tidegate_rows::value::Reason;
use uuid::Uuid;

use crate::fixtures::{encode_one, encode_with, mapped};
use crate::reference;

fn good(type_text: &str, value: &str) -> Vec<u8> {
    encode_one(type_text, value).unwrap_or_else(|rejection| panic!("{}", rejection.detail)).expect("not NULL")
}

fn bad(type_text: &str, value: &str) -> Reason {
    match encode_one(type_text, value) {
        Ok(field) => panic!("{type_text} took {value} as {field:?}"),
        Err(rejection) => rejection.reason,
    }
}

fn json(text: &str) -> String {
    serde_json::to_string(text).expect("a string")
}

#[test]
fn a_copy_begins_and_ends_as_the_manual_says() {
    assert_eq!(tidegate_rows::copy::HEADER[..11], *b"PGCOPY\n\xff\r\n\0");
    assert_eq!(tidegate_rows::copy::HEADER[11..], [0; 8]);
    assert_eq!(tidegate_rows::copy::TRAILER, (-1_i16).to_be_bytes());
}

#[test]
fn bools_and_integers_take_their_own_and_nothing_else() {
    assert_eq!((good("bool", "true"), good("bool", "false")), (vec![1], vec![0]));
    for value in ["1", "\"o\"", "\"\"", "\"maybe\"", "[]"] {
        assert_eq!(bad("bool", value), Reason::TypeMismatch);
    }
    for (value, expected) in [("T", 1), (" on ", 1), ("1", 1), ("YE", 1), ("of", 0), ("n", 0), ("0", 0), ("Fals", 0)] {
        assert_eq!(good("bool", &json(value)), [expected], "{value}");
    }
    for (value, expected) in
        [("1.0", 1_i32), ("1e3", 1000), ("-0", 0), ("25.00e-1e", 0), ("120e-1", 12), ("0.0e999", 0)]
    {
        if value.ends_with('e') {
            assert_eq!(encode_one("int4", value).expect_err("no JSON").reason, Reason::InvalidJson);
        } else {
            assert_eq!(good("int4", value), expected.to_be_bytes(), "{value}");
        }
    }
    for value in [
        "1.5",
        "1e-1",
        "\"1.0\"",
        "\"1e3\"",
        "\"_1\"",
        "\"1_\"",
        "\"0x\"",
        "\"12 3\"",
        "true",
        "[1]",
        "\"\"",
        "0.00000000000000000000000000001",
    ] {
        assert_eq!(bad("int8", value), Reason::TypeMismatch, "{value}");
    }
    for value in ["9223372036854775808", "-9223372036854775809", "1e19", "1e999999999999", "100000000000000000000000"] {
        assert_eq!(bad("int8", value), Reason::OutOfRange, "{value}");
    }
    for (text, expected) in
        [("12", 12_i64), (" +007 ", 7), ("-0xFf", -255), ("0b1_0", 2), ("0o17", 15), ("0x_1", 1), ("1_000", 1000)]
    {
        assert_eq!(good("int8", &json(text)), expected.to_be_bytes(), "{text}");
    }
    assert_eq!(good("int8", "\"-9223372036854775808\""), i64::MIN.to_be_bytes());
    assert_eq!(bad("int8", "\"9223372036854775808\""), Reason::OutOfRange);
    assert_eq!(good("int8", "-9223372036854775808"), i64::MIN.to_be_bytes());
    assert_eq!(good("int8", "9223372036854775807.000000000"), i64::MAX.to_be_bytes());
    assert_eq!(good("oid", "4294967295"), u32::MAX.to_be_bytes());
    assert_eq!((bad("oid", "-1"), bad("int2", "32768")), (Reason::OutOfRange, Reason::OutOfRange));
}

#[test]
fn floats_refuse_what_they_would_lose() {
    for (type_text, value) in
        [("float8", "1e309"), ("float8", "-1e400"), ("float8", "1e-400"), ("float4", "1e39"), ("float4", "1e-60")]
    {
        assert_eq!(bad(type_text, value), Reason::OutOfRange, "{value}");
    }
    assert_eq!(reference::float8(&good("float8", "5e-324")), f64::from_bits(1));
    assert_eq!(good("float8", "-0.0"), (-0.0_f64).to_be_bytes());
    assert_eq!(good("float8", "0e-400"), 0.0_f64.to_be_bytes());
    assert!(reference::float8(&good("float8", "\"NaN\"")).is_nan());
    assert_eq!(reference::float4(&good("float4", "\" -infinity\"")), f32::NEG_INFINITY);
    assert_eq!(reference::float8(&good("float8", "\" 1.5 \"")), 1.5);
    assert_eq!(reference::float4(&good("float4", "\"-.5e1\"")), -5.0);
    assert_eq!(bad("float4", "\"1e39\""), Reason::OutOfRange);
    for value in ["\"1.5x\"", "\"inf1\"", "\"n/a\"", "\"\"", "true", "{}"] {
        assert_eq!(bad("float8", value), Reason::TypeMismatch, "{value}");
    }
}

#[test]
fn text_takes_everything_as_its_json_text() {
    for (value, expected) in
        [("1.50", "1.50"), ("true", "true"), ("{\"a\": 1}", "{\"a\": 1}"), ("[ ]", "[ ]"), ("\"\"", "")]
    {
        assert_eq!(good("text", value), expected.as_bytes());
    }
    assert_eq!(good("text", r#""a\tb\\.\n\\N""#), b"a\tb\\.\n\\N");
    assert_eq!(good("char(3)", "\"ab\""), b"ab");
    assert_eq!((bad("char(3)", "\"abcd\""), bad("varchar(1)", "10")), (Reason::TooLong, Reason::TooLong));
    assert_eq!(bad("name", &json(&"x".repeat(64))), Reason::TooLong);
    assert_eq!((good("\"char\"", "\"x\""), bad("\"char\"", "\"xy\"")), (b"x".to_vec(), Reason::TooLong));
}

#[test]
fn a_nul_is_handled_by_its_columns_policy_and_escaped_letters_are_no_nul() {
    let put = |type_text: &str, nul, value: &str| {
        encode_with(Column { nul, ..mapped("v", "v") }, type_text, value)
            .map(|field| String::from_utf8(field.expect("a field")))
    };
    let (nul, letters) = (r#""a\u0000b\\""#, r#""a\\u0000b""#);
    for type_text in ["text", "varchar(20)", "jsonb"] {
        assert_eq!(bad(type_text, nul), Reason::NulInText, "{type_text}");
    }
    assert_eq!(put("text", NulPolicy::Strip, nul), Ok(Ok("ab\\".to_owned())));
    assert_eq!(put("text", NulPolicy::Replace, nul), Ok(Ok("a\u{fffd}b\\".to_owned())));
    assert_eq!(put("jsonb", NulPolicy::Strip, nul), Ok(Ok("\u{1}\"ab\\\\\"".to_owned())));
    let object = r#"{"k\u0000":[{"\u0000":"\\u0000"}]}"#;
    assert_eq!(bad("jsonb", object), Reason::NulInText);
    assert_eq!(
        put("jsonb", NulPolicy::Replace, object),
        Ok(Ok(r#"{"k\ufffd":[{"\ufffd":"\\u0000"}]}"#.replacen('{', "\u{1}{", 1)))
    );
    assert_eq!(put("json", NulPolicy::DeadLetter, object), Ok(Ok(object.to_owned())));
    for policy in [NulPolicy::DeadLetter, NulPolicy::Strip, NulPolicy::Replace] {
        assert_eq!(put("text", policy, letters), Ok(Ok("a\\u0000b".to_owned())));
        assert_eq!(put("jsonb", policy, letters), Ok(Ok(format!("\u{1}{letters}"))));
    }
}

#[test]
fn addresses_are_whole_and_networks_have_no_host_bits() {
    assert_eq!(good("inet", "\"192.168.1.5/24\""), [2, 24, 0, 4, 192, 168, 1, 5]);
    assert_eq!(good("cidr", "\"10.0.0.0/8\""), [2, 8, 1, 4, 10, 0, 0, 0]);
    assert_eq!(good("cidr", "\"0.0.0.0/0\""), [2, 0, 1, 4, 0, 0, 0, 0]);
    for value in ["\"10.1\"", "\"10.0.0.1/33\"", "\"10.0.0.1/+8\"", "\"::1/129\"", "\"\"", "7"] {
        assert_eq!(bad("inet", value), Reason::TypeMismatch, "{value}");
    }
    assert_eq!(
        (bad("cidr", "\"10.0.0.1/8\""), bad("cidr", "\"::1/64\"")),
        (Reason::TypeMismatch, Reason::TypeMismatch)
    );
    let mac = vec![8, 0, 0x2b, 1, 2, 3];
    for value in
        ["08:00:2b:01:02:03", "08-00-2b-01-02-03", "08002b:010203", "08002b-010203", "0800.2b01.0203", "08002b010203"]
    {
        assert_eq!(good("macaddr", &json(value)), mac, "{value}");
    }
    assert_eq!(good("macaddr8", "\"08:00:2b:01:02:03\""), [8, 0, 0x2b, 0xff, 0xfe, 1, 2, 3]);
    for value in ["08:00:2b:01:02", "08:00:2b:01:02:03:", "08:00-2b:01:02:03", "zz002b010203", "08:00:2b:01:02:03:04"] {
        assert_eq!(bad("macaddr", &json(value)), Reason::TypeMismatch, "{value}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn integers_come_back(number: i64, small: i16) {
        prop_assert_eq!(good("int8", &number.to_string()), number.to_be_bytes());
        prop_assert_eq!(good("int4", &format!("{small}.00")), i32::from(small).to_be_bytes());
        prop_assert_eq!(good("int2", &format!("{small}0e-1")), small.to_be_bytes());
        prop_assert_eq!(encode_one("int4", &number.to_string()).is_ok(), i32::try_from(number).is_ok());
    }

    #[test]
    fn floats_come_back_bit_by_bit(bits: u64) {
        let number = f64::from_bits(bits);
        prop_assume!(number.is_finite());
        for text in [format!("{number:?}"), format!("{number:e}"), format!("{number:E}")] {
            prop_assert_eq!(good("float8", &text), number.to_be_bytes(), "{}", text);
        }
    }

    #[test]
    fn decimals_become_the_nearest_float(text in "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,20})?(e-?[0-9]{1,2})?") {
        let double: f64 = text.parse().expect("a number");
        prop_assert_eq!(good("float8", &text), double.to_be_bytes(), "{}", text);
        let single: f32 = text.parse().expect("a number");
        let lost = single.is_infinite() || single == 0.0 && double != 0.0;
        match encode_one("float4", &text) {
            Ok(field) => prop_assert_eq!(field, Some(single.to_be_bytes().to_vec()), "{}", text),
            Err(rejection) => prop_assert!(lost && rejection.reason == Reason::OutOfRange, "{}", text),
        }
    }

    #[test]
    fn text_comes_back(text in "\\PC{0,40}|[\\x01-\u{7f}é😀]{0,40}") {
        let value = json(&text);
        prop_assert_eq!(good("text", &value), text.as_bytes());
        prop_assert_eq!(good("json", &value), value.as_bytes());
        prop_assert_eq!(good("jsonb", &value), [b"\x01", value.as_bytes()].concat());
        prop_assert_eq!(encode_one("varchar(20)", &value).is_ok(), text.trim_end_matches(' ').chars().count() <= 20);
    }

    #[test]
    fn uuids_come_back(bytes: [u8; 16]) {
        let uuid = Uuid::from_bytes(bytes);
        for text in [uuid.hyphenated().to_string(), uuid.simple().to_string(), uuid.braced().to_string().to_uppercase()] {
            prop_assert_eq!(good("uuid", &json(&text)), bytes);
        }
    }

    #[test]
    fn uuids_are_refused_where_they_are_broken(text in "[0-9a-f]{31}|[0-9a-f]{33}|[0-9a-g-]{36}") {
        prop_assume!(Uuid::parse_str(&text).is_err() && text.matches('-').count() != 4);
        let refused = matches!(encode_one("uuid", &json(&text)), Err(rejection) if rejection.reason == Reason::InvalidUuid);
        prop_assert!(refused || text.replace('-', "").len() == 32, "{}", text);
    }

    #[test]
    fn bytes_come_back_from_hex(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        prop_assert_eq!(good("bytea", &json(&format!("\\x{hex}"))), bytes);
    }

    #[test]
    fn addresses_come_back(address: IpAddr, bits in 0_u8..=32) {
        let field = good("inet", &json(&format!("{address}/{bits}")));
        let octets = match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let family = if address.is_ipv4() { 2 } else { 3 };
        prop_assert_eq!(field, [&[family, bits, 0, u8::try_from(octets.len()).expect("short")], &octets[..]].concat());
    }
}
