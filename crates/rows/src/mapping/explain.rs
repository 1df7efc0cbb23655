//! Rejections as sentences for people: `lat "n/a" is not float8`.

use crate::copy::{Encoding, Times};
use crate::mapping::function::Applied;
use crate::mapping::plan::{Feed, Plan, PlannedColumn, WhenMissing};
use crate::render;
use crate::value::{Flags, Kind, Reason, Value, shown};

/// A column of a plan, as `tidegate check` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described<'a> {
    pub column: &'a str,
    pub type_text: &'a str,
    /// For example `field position.lat`, `meta offset` or `header trace-id`.
    pub source: String,
    /// Whether a record with null for the column is rejected.
    pub not_null: bool,
    /// How a record without the column's field is treated. Empty if there can't be such a record.
    pub missing: &'static str,
}

pub(super) fn describe<'a>(plan: &Plan, column: &'a PlannedColumn) -> Described<'a> {
    let source = match &column.feed {
        Feed::Field(slot) => {
            format!("field {}", plan.paths.get(usize::from(*slot)).map_or(String::new(), |path| path.join(".")))
        }
        Feed::Topic => "meta topic".to_owned(),
        Feed::Partition(_) => "meta partition".to_owned(),
        Feed::Offset(_) => "meta offset".to_owned(),
        Feed::Timestamp(_) => "meta timestamp".to_owned(),
        Feed::Ordinal(_) => "meta ordinal".to_owned(),
        Feed::Constant => "a constant".to_owned(),
        Feed::Key(_) => "meta key".to_owned(),
        Feed::Headers => "meta headers".to_owned(),
        Feed::Header(name, _) => format!("header {}", String::from_utf8_lossy(name)),
        Feed::Record => "each record".to_owned(),
        Feed::Leftovers { .. } => "all other fields".to_owned(),
    };
    let source = match column.function.as_deref() {
        None => source,
        Some(Applied::Linear { .. }) => source + ", scaled",
        Some(Applied::ParseJson) => source + ", parsed as JSON",
        Some(Applied::Hash(_)) => source + ", hashed",
    };
    let is_filtered = column.fold.as_ref().is_some_and(|fold| fold.condition.is_some());
    let source = if is_filtered { source + ", filtered by `where`" } else { source };
    Described {
        column: &column.name,
        type_text: &column.type_text,
        source,
        not_null: column.not_null,
        missing: when_missing(plan, column),
    }
}

fn when_missing(plan: &Plan, column: &PlannedColumn) -> &'static str {
    if !matches!(column.feed, Feed::Field(_) | Feed::Timestamp(_) | Feed::Key(_) | Feed::Header(..)) {
        return "";
    }
    match column.missing {
        _ if column.fold.as_ref().is_some_and(|fold| fold.counts) => "not counted",
        WhenMissing::Constant(_) => "default of the mapping",
        WhenMissing::LeaveOut(bit) if plan.shapes().keeps(bit) => "kept; in a new row, default of the table",
        WhenMissing::LeaveOut(_) => "default of the table",
        WhenMissing::DeadLetter => "dead letter",
        WhenMissing::Null if column.not_null => "dead letter",
        WhenMissing::Null => "NULL",
    }
}

pub(super) fn sentence(plan: &Plan, column: &PlannedColumn, reason: Reason, value: &Value<'_>) -> String {
    let PlannedColumn { name, type_text, .. } = column;
    let shown = match value.kind {
        _ if value.flags.has(Flags::BINARY) && value.kind != Kind::Lexical => {
            let mut text = Vec::new();
            render::text(value, &mut text);
            shown(&text)
        }
        Kind::Text | Kind::Lexical => format!("\"{}\"", shown(value.raw)),
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
        Reason::UnknownLabel => format!("{name} {shown} is not a label of {type_text}"),
        Reason::TooLarge => format!("{name} is larger than Postgres takes"),
        Reason::InvalidTimestamp | Reason::TypeMismatch => {
            format!("{name} {shown} is not {type_text}{}", wanted(&column.encoding, value.kind))
        }
        Reason::InvalidUuid
        | Reason::InvalidJson
        | Reason::InvalidUtf8
        | Reason::NotAnObject
        | Reason::InvalidFormat
        | Reason::UnknownSchema
        | Reason::Tombstone
        | Reason::UnappliedChange
        | Reason::UnknownField
        | Reason::NewField
        | Reason::NoTable
        | Reason::RefusedByPostgres => format!("{name} {shown} is not {type_text}"),
    }
}

/// Returns the end of the error message: the form of value that the column takes, or the setting that is missing. Returns an
/// empty text if there is no such hint for this type and kind of value.
fn wanted(encoding: &Encoding, kind: Kind) -> &'static str {
    match (encoding, kind) {
        (
            Encoding::Timestamp(Times { unit: None, .. }) | Encoding::TimestampTz(Times { unit: None, .. }),
            Kind::Number,
        ) => "; epochs need `unit` in the mapping",
        (Encoding::TimestampTz(_), Kind::String | Kind::Text) => {
            "; it takes a time with an offset, as in 2026-01-31T12:00:00.5Z, or needs `zone` in the mapping"
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
    match () {
        () if column.in_key && column.not_null => format!("{subject} is {what}, and the column is part of the key"),
        () if column.not_null => format!("{subject} is {what}, and the column is NOT NULL"),
        () => format!("{subject} is {what}, and the mapping has missing = \"dead_letter\" for it"),
    }
}
