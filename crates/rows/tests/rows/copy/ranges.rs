//! Encodes ranges from their three forms in JSON: Postgres' text, an object, an array.

use tidegate_rows::value::Reason;

use super::{bad, good};

/// Returns a range field: `flags`, and then each bound with its length in front.
fn ints(flags: u8, bounds: &[i32]) -> Vec<u8> {
    let bounds = bounds.iter().flat_map(|bound| [4_i32.to_be_bytes(), bound.to_be_bytes()].concat());
    [flags].into_iter().chain(bounds).collect()
}

#[test]
fn all_three_forms_say_the_same_range() {
    for value in [r#""[1,5)""#, r#"{"lower":1,"upper":5}"#, r#"{ "bounds" : "[)", "upper" : 5, "lower":1 }"#, "[1,5]"] {
        assert_eq!(good("int4range", value), ints(0x02, &[1, 5]), "{value}");
    }
    assert_eq!(good("int4range", r#""(\"1\" , 5]""#), ints(0x04, &[1, 5]));
    assert_eq!(good("int4range", r#"" EMPTY ""#), [0x01]);
}

#[test]
fn a_bound_that_is_not_there_is_none_and_never_included() {
    assert_eq!(good("int4range", r#""[,5]""#), ints(0x0c, &[5]));
    assert_eq!(good("int4range", "[null,null]"), [0x18]);
    assert_eq!(good("int4range", r#"{"lower":1,"bounds":"[]"}"#), ints(0x12, &[1]));
}

#[test]
fn what_is_no_range_or_runs_backwards_is_refused() {
    for value in ["1", r#""1,5""#, r#""[1,5""#, r#""[1,5)x""#, "[1]", "[1,2,3]", "{}", r#"{"lower":1,"to":2}"#] {
        assert_eq!(bad("int4range", value), Reason::TypeMismatch, "{value}");
    }
    assert_eq!(bad("int4range", "[5,1]"), Reason::OutOfRange);
    assert_eq!(bad("int4range", r#""[x,1]""#), Reason::TypeMismatch);
    assert_eq!(bad("daterange", r#"["2026-02-30",null]"#), Reason::OutOfRange);
}
