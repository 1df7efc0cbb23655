//! Encodes arrays, points, intervals and enums, and arbitrary JSON values into every type.

use std::sync::Arc;

use proptest::prelude::*;
use tidegate_rows::catalog::{CatalogColumn, TypeKind};
use tidegate_rows::copy::types::KNOWN;
use tidegate_rows::value::Reason;

use super::{bad, good, json};
use crate::fixtures::{catalog, column, encode_one, encoder, fields, pipeline, record};
use crate::reference::{self, float8};

fn ints(numbers: &[i32]) -> Vec<Option<Vec<u8>>> {
    numbers.iter().map(|number| Some(number.to_be_bytes().to_vec())).collect()
}

#[test]
fn arrays_have_their_shape_and_their_nulls() {
    let array = |type_text: &str, value: &str| reference::array(&good(type_text, value));
    assert_eq!(array("int4[]", "[]"), (vec![], 23, vec![]));
    assert_eq!(array("int4[]", "[ 1 , 2 ]"), (vec![2], 23, ints(&[1, 2])));
    assert_eq!(array("int4[]", r#"["1","2"]"#), (vec![2], 23, ints(&[1, 2])));
    assert_eq!(array("int4[]", "[[1,2,3],[4,5,6]]"), (vec![2, 3], 23, ints(&[1, 2, 3, 4, 5, 6])));
    assert_eq!(array("text[]", r#"["a\n",null,7]"#), (vec![3], 25, vec![Some(b"a\n".into()), None, Some(b"7".into())]));
    assert_eq!(array("jsonb[]", "[[1],{}]"), (vec![2], 3802, vec![Some(b"\x01[1]".into()), Some(b"\x01{}".into())]));
    assert_eq!(array("point[]", "[[1,2],[3,4]]").0, [2]);
    for value in ["[[1],[2,3]]", "[[1],2]", "[1,[2]]", "[\"x\"]", "1", "{}", "\"{1,2}\"", "[[],[1]]"] {
        assert_eq!(bad("int4[]", value), Reason::TypeMismatch, "{value}");
    }
    assert_eq!(bad("int4[]", "[[[[[[[1]]]]]]]"), Reason::OutOfRange);
    assert_eq!(bad("int2[]", "[1,99999]"), Reason::OutOfRange);
    assert_eq!(bad("text[]", r#"["\u0000"]"#), Reason::NulInText);
}

#[test]
fn points_are_x_then_y_and_longitude_is_x() {
    let point = |value: &str| {
        let field = good("point", value);
        (float8(&field[..8]), float8(&field[8..]))
    };
    for value in [
        "[13.4,52.5]",
        r#"{"lat":52.5,"lon":13.4}"#,
        r#"{ "x" : 13.4 , "y" : 52.5 }"#,
        r#"{"latitude":52.5,"longitude":13.4}"#,
    ] {
        assert_eq!(point(value), (13.4, 52.5), "{value}");
    }
    assert_eq!(point(r#"["1",2]"#), (1.0, 2.0));
    for value in ["[1]", "[1,2,3]", r#"{"x":1,"lat":2}"#, r#"{"x":1}"#, r#"{"x":1,"y":2,"z":3}"#, r#"["x",2]"#, "{}"] {
        assert_eq!(bad("point", value), Reason::TypeMismatch, "{value}");
    }
}

#[test]
fn intervals_keep_months_days_and_time_apart() {
    let expected = [14_706_789_000_i64.to_be_bytes().as_slice(), &3_i32.to_be_bytes(), &14_i32.to_be_bytes()].concat();
    assert_eq!(good("interval", "\"P1Y2M3DT4H5M6.789S\""), expected);
    assert_eq!(good("interval", "\"1 year 2 mons 3 days 04:05:06.789\""), expected);
    assert_eq!(bad("interval", "\"P99999999999Y\""), Reason::OutOfRange);
    assert_eq!((bad("interval", "5"), bad("interval", "\"P0.5M\"")), (Reason::TypeMismatch, Reason::TypeMismatch));
}

#[test]
fn enums_take_their_labels_alone() {
    let labels = vec!["driving".to_owned(), "idle".to_owned()];
    let column = CatalogColumn { kind: TypeKind::Enum { labels }, type_text: "mood".to_owned(), ..column("v", "text") };
    let mut encoder = encoder(&pipeline(None), &catalog(vec![column])).expect("a plan");
    let mut rows = Vec::new();
    assert_eq!(encoder.encode(&record(br#"{"v":"idle"}"#), &mut rows), Ok(1));
    assert_eq!(fields(&rows), [Some(b"idle".to_vec())]);
    let rejection = encoder.encode(&record(br#"{"v":"idl"}"#), &mut rows).expect_err("no label");
    assert_eq!(
        (rejection.reason, rejection.detail.as_str()),
        (Reason::UnknownLabel, "v \"idl\" is not a label of mood")
    );
}

/// Returns the length of a type's fields in bytes. Returns `None` if it varies.
fn fixed_len(name: &str) -> Option<usize> {
    match name {
        "bool" | "char" => Some(1),
        "int2" => Some(2),
        "int4" | "float4" | "date" | "oid" => Some(4),
        "int8" | "float8" | "time" | "timestamp" | "timestamptz" | "macaddr8" => Some(8),
        "macaddr" => Some(6),
        "uuid" | "interval" | "point" => Some(16),
        _ => None,
    }
}

fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|truth| truth.to_string()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f32>().prop_filter("finite", |number| number.is_finite()).prop_map(|number| format!("{number:?}")),
        "\\PC{0,12}".prop_map(|text| json(&text)),
        "[0-9TZ:.+ -]{0,30}".prop_map(|text| json(&text)),
        "P?([0-9]{1,3}[YMDTHS.]){0,4}|[0-9a-f:./]{0,20}|[a-z0-9 :-]{0,20}".prop_map(|text| json(&text)),
        Just(r#""\u0000""#.to_owned()),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|list| format!("[{}]", list.join(","))),
            prop::collection::vec(("[axy]", inner), 0..3).prop_map(|members| {
                let members: Vec<_> = members.iter().map(|(key, value)| format!("\"{key}\":{value}")).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_is_a_whole_field_or_nothing(value in any_json()) {
        // `encode_one` itself checks that earlier rows stay and that a rejected record leaves no byte.
        for known in KNOWN {
            let sql = if known.name == "char" { "\"char\"" } else { known.name };
            if let Ok(Some(field)) = encode_one(sql, &value) {
                prop_assert!(fixed_len(known.name).is_none_or(|len| field.len() == len), "{} {}", known.name, value);
            }
            if let Ok(Some(field)) = encode_one(&format!("{sql}[]"), &value) {
                let (_, oid, elements) = reference::array(&field);
                prop_assert_eq!(oid, known.oid);
                let fits = |element: &Vec<u8>| fixed_len(known.name).is_none_or(|len| element.len() == len);
                prop_assert!(elements.iter().flatten().all(fits));
            }
        }
    }

    #[test]
    fn good_and_bad_records_in_any_order_leave_whole_rows(values in prop::collection::vec(any_json(), 1..20)) {
        let columns = vec![column("v", "int4"), column("w", "text"), column("v2", "numeric(6,2)[]")];
        let config = pipeline(None);
        let plan = Arc::new(tidegate_rows::mapping::Plan::new(&config.spec(), &catalog(columns)).expect("a plan"));
        let mut shared = tidegate_rows::mapping::Encoder::new(Arc::clone(&plan));
        let mut rows = Vec::new();
        for value in &values {
            let payload = format!("{{\"w\":{value},\"v\":{value},\"v2\":[{value}]}}");
            let before = rows.clone();
            let result = shared.encode(&record(payload.as_bytes()), &mut rows);
            let mut fresh = Vec::new();
            prop_assert_eq!(tidegate_rows::mapping::Encoder::new(Arc::clone(&plan)).encode(&record(payload.as_bytes()), &mut fresh), result);
            prop_assert_eq!(&rows[..before.len()], &before[..]);
            prop_assert_eq!(&rows[before.len()..], &fresh[..]);
            if !fresh.is_empty() {
                prop_assert_eq!(fields(&fresh).len(), 3);
            }
        }
    }
}
