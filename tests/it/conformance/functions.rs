//! The functions that columns apply to their values: `value`, `parse`, `hash`, `scale` and `offset`.

use super::formats::{Column, Format};

/// The secret key of the function `hash`. In the mappings below, `KEY` stands for the path of a file with this secret key.
pub(super) const KEY: &str = "a key of more than sixteen bytes";

/// The mapping of a column, the column's type, and each value in JSON with its text in INSERT.
type Function = (&'static str, &'static str, &'static [(&'static str, &'static str)]);

const HEX: &[(&str, &str)] = &[
    (r#""vehicle 7""#, "5f7fa85277ca64734ca5807e407b1c9480f77952111925e68fc018cce929979a"),
    ("7", "7f5c8b34001119127408149203e14daff005401a9737dcfe1304fb16c253700c"),
];

const ALL: &[Function] = &[
    (r#"value = "north""#, "text", &[("1", "north")]),
    ("value = 7", "int4", &[("1", "7")]),
    ("value = 1.50", "numeric", &[("1", "1.5")]),
    ("value = true", "bool", &[("1", "true")]),
    (
        r#"parse = "json""#,
        "jsonb",
        &[(r#""{\"a\":[1.50,null]}""#, r#"{"a":[1.50,null]}"#), (r#""null""#, "null"), (r#"{"a":1}"#, r#"{"a":1}"#)],
    ),
    (r#"parse = "json""#, "int4[]", &[(r#""[1,2]""#, "{1,2}")]),
    (r#"hash = "sha256", hash_key_file = KEY"#, "text", HEX),
    (
        r#"hash = "sha256", hash_key_file = KEY"#,
        "bytea",
        &[(r#""vehicle 7""#, "\\x5f7fa85277ca64734ca5807e407b1c9480f77952111925e68fc018cce929979a")],
    ),
    (
        "scale = 0.01, offset = -40",
        "numeric",
        &[("6543", "25.43"), ("0", "-40.00"), ("-1", "-40.01"), (r#""6543""#, "25.43")],
    ),
    ("scale = 0.01", "numeric(6,2)", &[("12345", "123.45"), ("1", "0.01")]),
    ("scale = 0.1", "float8", &[("3", "0.3")]),
    ("scale = 10, offset = 5", "int4", &[("7", "75"), ("1.5", "20"), ("214748364", "2147483645")]),
    ("offset = 1", "int8", &[("9223372036854775806", "9223372036854775807")]),
];

pub(super) fn format() -> Format {
    let column = |(mapping, sql, values): &Function| {
        let mut said: Vec<_> = values.iter().map(|(json, text)| (json.as_bytes().to_vec(), Some(*text))).collect();
        // The value of a constant doesn't depend on the record. All other columns also get a null.
        if !mapping.starts_with("value") {
            said.push((b"null".to_vec(), None));
        }
        let example = values[0].0.to_owned();
        Column {
            sql,
            mapping: (*mapping).to_owned(),
            sent_as: "JSON".to_owned(),
            below: "",
            values: said,
            example,
            unsaid: Vec::new(),
        }
    };
    Format { name: "What columns make of values", columns: ALL.iter().map(column).collect(), ..super::formats::json() }
}

/// Texts for floats that JSON lacks, as Python and other programs write them.
const SPECIALS: &[(&str, &[(&str, &str)])] = &[
    ("float4", &[("NaN", "NaN"), ("Infinity", "Infinity"), ("-Infinity", "-Infinity")]),
    ("float8", &[("NaN", "NaN"), ("Infinity", "Infinity"), ("-Infinity", "-Infinity")]),
    ("numeric", &[("NaN", "NaN"), ("Infinity", "Infinity"), ("-Infinity", "-Infinity")]),
    ("numeric(10,2)", &[("NaN", "NaN")]),
    ("text", &[("NaN", "NaN"), ("-Infinity", "-Infinity")]),
    ("float8[]", &[("[1.5, NaN,-Infinity]", "{1.5,NaN,-Infinity}")]),
    (
        "jsonb",
        &[
            (
                r#"{"a": NaN, "b": [-Infinity, "NaN", Infinity]}"#,
                r#"{"a": "NaN", "b": ["-Infinity", "NaN", "Infinity"]}"#,
            ),
            ("NaN", r#""NaN""#),
        ],
    ),
];

pub(super) fn specials() -> Format {
    let column = |(sql, values): &(&'static str, &[(&str, &'static str)])| {
        let mut said: Vec<_> = values.iter().map(|(json, text)| (json.as_bytes().to_vec(), Some(*text))).collect();
        said.push((b"null".to_vec(), None));
        let (sent_as, example) = ("JSON".to_owned(), values[0].0.to_owned());
        Column { sql, mapping: String::new(), sent_as, below: "", values: said, example, unsaid: Vec::new() }
    };
    let columns = SPECIALS.iter().map(column).collect();
    Format { name: "Bare NaN and infinities in JSON", columns, ..super::formats::json() }
}
