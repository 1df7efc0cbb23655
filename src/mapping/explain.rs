//! Refusals as sentences for a person: `lat "n/a" is not float8`.

use crate::copy::Encoding;
use crate::mapping::plan::{Feed, Plan, PlannedColumn};
use crate::value::{Flags, Kind, Reason, Value, shown};

/// Why this column refuses this value.
pub(super) fn sentence(plan: &Plan, column: &PlannedColumn, reason: Reason, value: &Value<'_>) -> String {
    let PlannedColumn { name, type_text, .. } = column;
    let shown = match value.kind {
        Kind::Text => format!("\"{}\"", shown(value.raw)),
        Kind::Number if value.raw.is_empty() => {
            format!("{}{}", if value.flags.has(Flags::NEGATIVE) { "-" } else { "" }, value.mantissa)
        }
        _ => shown(value.raw),
    };
    match reason {
        Reason::MissingField | Reason::NullInNotNull => absent(plan, column, reason),
        Reason::OutOfRange => format!("{name} {shown} is out of range for {type_text}"),
        Reason::TooLong => format!("{name} {shown} is too long for {type_text}"),
        Reason::NulInText => format!("{name} {shown} holds a NUL, which {type_text} can't store"),
        Reason::UnknownLabel => format!("{name} {shown} is no label of {type_text}"),
        Reason::TooLarge => format!("{name} is larger than Postgres takes"),
        Reason::InvalidTimestamp | Reason::TypeMismatch => {
            format!("{name} {shown} is not {type_text}{}", wanted(&column.encoding, value.kind))
        }
        Reason::InvalidUuid
        | Reason::InvalidJson
        | Reason::InvalidUtf8
        | Reason::NotAnObject
        | Reason::Tombstone
        | Reason::UnknownField
        | Reason::RefusedByPostgres => format!("{name} {shown} is not {type_text}"),
    }
}

/// What would have been right, where that isn't plain from the type's name.
fn wanted(encoding: &Encoding, kind: Kind) -> &'static str {
    match (encoding, kind) {
        (Encoding::Timestamp(None) | Encoding::TimestampTz(None), Kind::Number) => {
            "; epochs need `unit` in the mapping"
        }
        (Encoding::TimestampTz(_), Kind::String | Kind::Text) => {
            "; it takes a time with an offset, as in 2026-01-31T12:00:00.5Z"
        }
        (Encoding::Timestamp(_), Kind::String | Kind::Text) => "; it takes a time without an offset or with Z",
        (Encoding::Bytea, Kind::String | Kind::Text) => "; it takes base64, or hex behind \\x",
        _ => "",
    }
}

fn absent(plan: &Plan, column: &PlannedColumn, reason: Reason) -> String {
    let subject = match &column.feed {
        Feed::Field(slot) => {
            let path = plan.paths.get(usize::from(*slot)).map_or(String::new(), |path| path.join("."));
            if path == column.name { path } else { format!("{path} (for {})", column.name) }
        }
        _ => column.name.clone(),
    };
    let what = if reason == Reason::MissingField { "missing" } else { "null" };
    let default = if column.has_default { "; its default would apply only without a mapping for it" } else { "" };
    format!("{subject} is {what}, and the column is NOT NULL{default}")
}
