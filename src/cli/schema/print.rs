//! Prints a proposal as a part of a configuration.

use std::fmt::Write as _;

use tidegate_rows::catalog::Catalog;

use super::columns::Proposed;
use super::existing;
use super::infer::{KEY_COLUMN, Mode, Proposal, Sample};
use crate::cli::show;

/// The column for fields that have no column of their own.
pub(super) const EXTRA: &str = "extra";

/// Finds names for a proposal's columns that no field fills, such as the column for the record's offset. `table` is `None` if the
/// table doesn't exist yet.
struct Others<'a> {
    columns: &'a [Proposed],
    table: Option<&'a Catalog>,
}

impl Others<'_> {
    /// Returns the name of a column that no field fills. In a new table, it is `wanted`, with underscores added until no field's
    /// column has this name. In an existing table, it is `wanted` itself; `None` if the table has no such column, if the column
    /// is generated, or if a field fills it.
    fn name(&self, wanted: &str) -> Option<String> {
        match self.table {
            Some(table) => existing::has_free(table, self.columns, wanted).then(|| wanted.to_owned()),
            None => Some(free_name(self.columns, wanted)),
        }
    }

    /// Returns whether a column that no field fills can have exactly this name.
    fn has(&self, name: &str) -> bool {
        self.name(name).as_deref() == Some(name)
    }

    /// Returns a line of the mapping that fills a column with metadata. The line states the type only if the table is new.
    fn meta(&self, name: &str, meta: &str, type_name: &str) -> String {
        let of_type = if self.table.is_some() { String::new() } else { format!(", type = \"{type_name}\"") };
        format!("{} = {{ meta = \"{meta}\"{of_type} }}\n", key(name))
    }
}

/// Returns the TOML text of `[pipelines.NAME]` and the tables below it. `existing` is the table, if it exists.
pub(super) fn block(
    topic: &str,
    name: &str,
    table: &str,
    proposal: &Proposal,
    sample: &Sample,
    existing: Option<&Catalog>,
) -> String {
    let columns = &proposal.columns;
    let others = Others { columns, table: existing };
    let mut text = head(topic, proposal, sample);
    let _infallible = write!(text, "[pipelines.{name}]\ntopics = [{}]\n", quoted(topic));
    text += &unknown_fields(proposal, &others);
    let decode = decode(proposal);
    if !decode.is_empty() {
        let _infallible = write!(text, "[pipelines.{name}.decode]\n{decode}\n");
    }
    let create = if existing.is_some() { "# This table exists.\n" } else { "create = true\n" };
    let _infallible = write!(text, "[pipelines.{name}.table]\nname = {}\n{create}", quoted(table));
    let key_column = others.name(KEY_COLUMN).unwrap_or_default();
    if let Mode::Upsert { key, delete_where } = &proposal.mode {
        let own = [key_column.clone()];
        let key = if key.is_empty() { &own[..] } else { key };
        let names = key.iter().map(|name| quoted(name)).collect::<Vec<_>>().join(", ");
        let _infallible = write!(
            text,
            "# One row per key of the records; records without a value delete it.\nmode = \"upsert\"\nkey = [{names}]\ndeletes = true\n"
        );
        if let Some(field) = delete_where {
            let _infallible = writeln!(text, "delete_where = {{ field = {}, equals = \"true\" }}", quoted(field));
        }
    }
    let _infallible = write!(text, "\n[pipelines.{name}.columns]\n");
    columns.iter().for_each(|column| text += &line(column, existing.is_some()));
    if let Some(typed) = &proposal.key_column {
        text += &others.meta(&key_column, "key", &typed.name);
    }
    if let Some(op) = others.name("op").filter(|_| proposal.shape.is_change() && proposal.mode == Mode::Append) {
        text += "# Records have no key that says which row changes: each change is a row.\n";
        text += &others.meta(&op, "op", "text");
    }
    // `verify` finds a row's record by these columns.
    if others.has("kafka_partition") && others.has("kafka_offset") {
        text += &others.meta("kafka_partition", "partition", "int4");
        text += &others.meta("kafka_offset", "offset", "int8");
        if (!proposal.levels.is_empty() || proposal.shape.has_several()) && others.has("kafka_row") {
            text += &others.meta("kafka_row", "ordinal", "int4");
        }
    }
    text
}

/// Returns the setting `unknown_fields` of the proposal: which column keeps the fields that have no column of their own.
fn unknown_fields(proposal: &Proposal, others: &Others<'_>) -> String {
    let rest = if proposal.complete {
        "Fields that appear later"
    } else {
        "Fields that appear later or found no column below"
    };
    let takes_json = |table: &Catalog| {
        table.columns.iter().any(|column| column.name == EXTRA && matches!(column.base_type.as_str(), "jsonb" | "json"))
    };
    match others.name(EXTRA).filter(|_| others.table.is_none_or(takes_json)) {
        Some(extra) => {
            format!("# {rest} are kept in this jsonb column.\nunknown_fields = {{ column = {} }}\n\n", quoted(&extra))
        }
        None => format!(
            "# {rest} are dropped: the table has no column `{EXTRA}` for them.\nunknown_fields = \"ignore\"\n\n"
        ),
    }
}

/// Returns a comment that says from which records the proposal was made, and how many of them may become dead letters.
fn head(topic: &str, proposal: &Proposal, sample: &Sample) -> String {
    let mut text =
        format!("# Proposed from the newest {} of topic {topic}", show::counted(sample.records, "record", "records"));
    let ignores = proposal.shape.is_change() || proposal.mode != Mode::Append;
    let tombstones = if ignores { 0 } else { sample.tombstones };
    let parts = [(tombstones, "without a value"), (sample.odd(), "of another structure")];
    let dead: Vec<_> = parts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, which)| format!("{} {which}", show::count(count)))
        .collect();
    if !dead.is_empty() {
        let _infallible = write!(text, ". Some would be dead letters: {}", dead.join(", "));
    }
    text + ".\n"
}

fn decode(proposal: &Proposal) -> String {
    let mut text = proposal.shape.decode().to_owned();
    if let Some(format) = proposal.key_format {
        let _infallible = writeln!(text, "key_format = \"{format}\"");
    }
    if !proposal.levels.is_empty() {
        let path = proposal.levels.iter().map(|path| path_text(path)).collect::<Vec<_>>().join("[].");
        let _infallible = writeln!(text, "# Each element of this array is a row.\nrows = {}", quoted(&path));
    }
    text
}

/// Returns the line of the mapping for a column. If the column exists already, the line doesn't state its type, but a comment
/// does.
fn line(column: &Proposed, exists: bool) -> String {
    let typed = &column.typed;
    let unit = typed.unit.map_or(String::new(), |unit| format!(", unit = \"{unit}\""));
    let zone = if typed.local { ", zone = \"UTC\"" } else { "" };
    let mut notes = Vec::new();
    if exists {
        notes.push(show::safe(&typed.name).to_string());
    }
    if column.with_value < column.rows {
        notes.push(format!("in {} of {}", show::count(column.with_value), show::count(column.rows)));
    }
    if typed.local {
        notes.push("times without a zone are taken for UTC".to_owned());
    }
    let note = if notes.is_empty() { String::new() } else { format!(" # {}", notes.join("; ")) };
    let (name, field) = (key(&column.name), quoted(&path_text(&column.path)));
    let of_type = if exists { String::new() } else { format!(", type = \"{}\"", typed.name) };
    format!("{name} = {{ field = {field}{of_type}{unit}{zone} }}{note}\n")
}

/// Returns `wanted`, with underscores added until no column has this name.
fn free_name(columns: &[Proposed], wanted: &str) -> String {
    let mut name = wanted.to_owned();
    while columns.iter().any(|column| column.name == name) {
        name.push('_');
    }
    name
}

/// Formats a path as the configuration reads it.
pub(super) fn path_text(path: &[String]) -> String {
    path.iter().map(|name| name.replace('\\', "\\\\").replace('.', "\\.")).collect::<Vec<_>>().join(".")
}

/// Formats a TOML key.
fn key(name: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !name.is_empty() && name.bytes().all(bare) { name.to_owned() } else { quoted(name) }
}

/// Formats a basic TOML string.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => {
                let _infallible = write!(quoted, "\\u{:04X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted + "\""
}
