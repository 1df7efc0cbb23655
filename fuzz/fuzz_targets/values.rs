//! Writes a JSON value into a column of one of 43 types. Checks that Postgres accepts the field and, for about half of the types,
//! that the field means the same as the value.

#![no_main]

mod common;

use std::cell::RefCell;

use common::{Pipeline, accepts, encode_alike, record, reference, rows};
use libfuzzer_sys::fuzz_target;
use tidegate_rows::mapping::Encoder;
use tidegate_rows::spec::{Column, Decode, EpochUnit, NulPolicy, UnknownFields};

/// The first byte of the input selects one of these types of columns, and one of [`NULS`].
const TYPES: &[&str] = &[
    "bool",
    "int2",
    "int4",
    "int8",
    "oid",
    "float4",
    "float8",
    "numeric",
    "numeric(10,2)",
    "numeric(3,5)",
    "numeric(4,-2)",
    "text",
    "varchar(3)",
    "bpchar(2)",
    "name",
    "char",
    "bytea",
    "date",
    "time",
    "timestamp",
    "timestamptz",
    "interval",
    "uuid",
    "json",
    "jsonb",
    "inet",
    "cidr",
    "macaddr",
    "macaddr8",
    "point",
    "mood",
    "int8[]",
    "text[]",
    "numeric(10,2)[]",
    "jsonb[]",
    "point[]",
    "int4range",
    "int8range",
    "numrange",
    "daterange",
    "tsrange",
    "tstzrange",
    "timestamptz[]",
];
const UNITS: [EpochUnit; 4] = [EpochUnit::Seconds, EpochUnit::Millis, EpochUnit::Micros, EpochUnit::Nanos];
const NULS: [NulPolicy; 3] = [NulPolicy::DeadLetter, NulPolicy::Strip, NulPolicy::Replace];

thread_local! {
    static ENCODERS: RefCell<Vec<Vec<Encoder>>> = RefCell::new((0..3).map(made).collect());
}

fn made(nul: usize) -> Vec<Encoder> {
    let one = |(at, of): (usize, &&'static str)| {
        let takes_unit = match of.split(['[', 'r']).next() {
            Some("timestamp" | "timestamptz" | "ts" | "tstz") => !of.starts_with("timestamptz["),
            _ => false,
        };
        let change = |column: &mut Column| {
            column.nul = NULS[nul];
            column.unit = takes_unit.then_some(UNITS[(at + nul) % 4]);
        };
        Pipeline::of(Decode::Json, UnknownFields::Ignore, &[("v", *of, "v")]).with("v", change).encoder()
    };
    TYPES.iter().enumerate().map(one).collect()
}

/// Splits a decimal number: `-012.50` becomes `(true, "12", "5")`, without the zeros at both ends. Returns `None` if the text
/// isn't a decimal number, or if its exponent is huge.
fn digits(number: &str) -> Option<(bool, String, String)> {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let exponent: i64 = exponent.parse().ok().filter(|exponent: &i64| exponent.abs() < 20_000)?;
    let (negative, mantissa) = match mantissa.as_bytes().first()? {
        b'-' => (true, &mantissa[1..]),
        b'+' => (false, &mantissa[1..]),
        _ => (false, mantissa),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut all = format!("{whole}{fraction}");
    let mut point = whole.len() as i64 + exponent;
    while point > all.len() as i64 {
        all.push('0');
    }
    while point < 0 {
        all.insert(0, '0');
        point += 1;
    }
    let (whole, fraction) = all.split_at(point as usize);
    let (whole, fraction) = (whole.trim_start_matches('0').to_owned(), fraction.trim_end_matches('0').to_owned());
    Some((negative && !(whole.is_empty() && fraction.is_empty()), whole, fraction))
}

fn same(raw: &str, written: &str) {
    if let Some(wanted) = digits(raw) {
        assert_eq!(Some(wanted), digits(written), "{raw} became {written}");
    }
}

/// Checks that the field means the same as the JSON value. The field is read by code that shares nothing with the encoder. Values
/// that this code can't compare are accepted.
fn compare(of: &str, raw: &str, nul: usize, field: &[u8]) {
    let text = serde_json::from_str::<String>(raw).ok();
    match (of, text.as_deref()) {
        ("bool", None) => assert_eq!(field, [u8::from(raw == "true")]),
        ("int2" | "int4" | "int8", None) => {
            same(raw, &accepts::int(field).to_string());
        }
        ("oid", None) => {
            let oid = u32::from_be_bytes(field.try_into().expect("four bytes"));
            same(raw, &oid.to_string());
        }
        ("float8", None) => {
            assert_eq!(raw.parse::<f64>().map(f64::to_bits), Ok(reference::float8(field).to_bits()), "{raw}")
        }
        ("float4", None) => {
            assert_eq!(raw.parse::<f32>().map(f32::to_bits), Ok(reference::float4(field).to_bits()), "{raw}")
        }
        ("numeric", text) => {
            same(text.unwrap_or(raw).trim_ascii(), &reference::numeric(field));
        }
        ("numeric(10,2)", None) => {
            // The field has at most ten digits, so a float is precise enough. Rounding to two places changes the value by at most
            // 0.005.
            let shown: f64 = reference::numeric(field).parse().expect("a number");
            let wanted: f64 = raw.parse().expect("a number");
            assert!((shown - wanted).abs() <= 0.005_000_1, "{raw} became {shown}");
        }
        ("text", None) => assert_eq!(accepts::text(field), raw),
        ("text", Some(text)) => match nul {
            0 => assert_eq!(accepts::text(field), text),
            1 => assert_eq!(accepts::text(field), text.replace('\0', "")),
            _ => assert_eq!(accepts::text(field), text.replace('\0', "\u{fffd}")),
        },
        ("varchar(3)" | "bpchar(2)", Some(text)) if nul == 0 => {
            assert_eq!(accepts::text(field).trim_end_matches(' '), text.trim_end_matches(' '));
        }
        ("bytea", Some(text)) if text.starts_with("\\x") && nul == 0 => {
            let hex: String = field.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(text[2..].to_lowercase(), hex);
        }
        ("uuid", Some(text)) if nul == 0 => {
            let hex: String = field.iter().map(|byte| format!("{byte:02x}")).collect();
            let wanted: String = text.chars().filter(char::is_ascii_hexdigit).collect();
            assert_eq!(wanted.to_lowercase(), hex);
        }
        ("json", _) if nul == 0 => assert_eq!(field, raw.as_bytes()),
        ("jsonb", _) if nul == 0 => assert_eq!(&field[1..], raw.as_bytes()),
        ("date", Some(text)) => {
            if let Ok(date) = text.parse::<jiff::civil::Date>()
                && text.len() == 10
            {
                let epoch = jiff::civil::date(2000, 1, 1);
                assert_eq!(i64::from(accepts::day(field)), i64::from((date - epoch).get_days()), "{text}");
            }
        }
        ("timestamptz", Some(text)) => {
            // The other parser clamps leap seconds. It truncates fractions below a microsecond, while Postgres rounds them.
            let fraction = text.split_once('.').map_or("", |(_, rest)| rest);
            let fine = fraction.bytes().take_while(u8::is_ascii_digit).count() > 6;
            if let (Ok(time), false) = (text.parse::<jiff::Timestamp>(), fine || text.contains(":60")) {
                assert_eq!(accepts::micros(field), time.as_microsecond() - 946_684_800_000_000, "{text}");
            }
        }
        ("interval", Some(text)) if text.starts_with('P') && !text.contains('.') => {
            if let Ok(span) = text.parse::<jiff::Span>() {
                let [micros, rest] = [0, 8].map(|at| i64::from_be_bytes(field[at..at + 8].try_into().expect("eight")));
                let (days, months) = ((rest >> 32) as i64, i64::from(rest as i32));
                assert_eq!(months, i64::from(span.get_years()) * 12 + i64::from(span.get_months()), "{text}");
                assert_eq!(days, i64::from(span.get_weeks()) * 7 + i64::from(span.get_days()), "{text}");
                let seconds = i64::from(span.get_hours()) * 3600 + span.get_minutes() * 60 + span.get_seconds();
                assert_eq!(micros, seconds * 1_000_000, "{text}");
            }
        }
        ("int8[]", None) => {
            let (_, _, elements) = reference::array(field);
            if let Ok(wanted) = serde_json::from_str::<Vec<Option<i64>>>(raw) {
                let found: Vec<_> = elements.iter().map(|e| e.as_deref().map(reference::int8)).collect();
                assert_eq!(found, wanted);
            }
        }
        ("text[]", None) if nul == 0 => {
            let (_, _, elements) = reference::array(field);
            if let Ok(wanted) = serde_json::from_str::<Vec<Option<String>>>(raw) {
                let found: Vec<_> =
                    elements.iter().map(|e| e.as_deref().map(|e| accepts::text(e).to_owned())).collect();
                assert_eq!(found, wanted);
            }
        }
        _ => {}
    }
}

fuzz_target!(|input: &[u8]| {
    let [choice, value @ ..] = input else { return };
    let (at, nul) = (usize::from(*choice) % TYPES.len(), usize::from(*choice) / TYPES.len() % 3);
    let payload = [b"{\"v\":", value, b"}"].concat();
    ENCODERS.with_borrow_mut(|encoders| {
        let mut out = Vec::new();
        let Some(count) = encode_alike(&mut encoders[nul][at], &record(&payload), &mut out) else { return };
        let rows = rows(count, &out);
        let [row] = rows.as_slice() else { panic!("one row") };
        let [Some(field)] = row[..] else { return };
        // The input may close the object or add another member. Then it isn't one JSON value, and nothing is compared.
        let raw = serde_json::from_slice::<&serde_json::value::RawValue>(value);
        accepts::check(TYPES[at], field);
        if let Ok(raw) = raw {
            compare(TYPES[at], raw.get(), nul, field);
        }
    });
});
