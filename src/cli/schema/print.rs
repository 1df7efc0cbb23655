//! Prints a proposal as a part of a configuration.

use std::fmt::Write as _;

use super::columns::Proposed;
use super::infer::{Mode, Proposal, Sample};
use crate::cli::show;

/// Returns the TOML text of `[pipelines.NAME]` and the tables below it.
pub(super) fn block(topic: &str, name: &str, table: &str, proposal: &Proposal, sample: &Sample) -> String {
    let columns = &proposal.columns;
    let key_column = free_name(columns, "kafka_key");
    let mut text = head(topic, proposal, sample);
    let rest = if proposal.complete {
        "Fields that appear later"
    } else {
        "Fields that appear later or found no column below"
    };
    let _infallible = write!(
        text,
        "[pipelines.{name}]\ntopics = [{}]\n# {rest} are kept in this jsonb column.\nunknown_fields = {{ column = {} }}\n\n",
        quoted(topic),
        quoted(&free_name(columns, "extra")),
    );
    let decode = decode(proposal);
    if !decode.is_empty() {
        let _infallible = write!(text, "[pipelines.{name}.decode]\n{decode}\n");
    }
    let _infallible = write!(text, "[pipelines.{name}.table]\nname = {}\ncreate = true\n", quoted(table));
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
    columns.iter().for_each(|column| text += &line(column));
    if let Some(typed) = &proposal.key_column {
        let _infallible = writeln!(text, "{key_column} = {{ meta = \"key\", type = \"{}\" }}", typed.name);
    }
    if proposal.shape.is_change() && proposal.mode == Mode::Append {
        let op = key(&free_name(columns, "op"));
        let _infallible = writeln!(
            text,
            "# Records have no key that says which row changes: each change is a row.\n{op} = {{ meta = \"op\", type = \"text\" }}"
        );
    }
    // These columns identify the record of a row. `verify` needs them to look records up.
    let taken = |name: &str| columns.iter().any(|column| column.name == name);
    if !taken("kafka_partition") && !taken("kafka_offset") {
        text += "kafka_partition = { meta = \"partition\", type = \"int4\" }\n";
        text += "kafka_offset = { meta = \"offset\", type = \"int8\" }\n";
        if (!proposal.levels.is_empty() || proposal.shape.has_several()) && !taken("kafka_row") {
            text += "kafka_row = { meta = \"ordinal\", type = \"int4\" }\n";
        }
    }
    text
}

/// Returns the comment that says which records the proposal was made from, and which of them it would refuse.
fn head(topic: &str, proposal: &Proposal, sample: &Sample) -> String {
    let mut text =
        format!("# Proposed from the newest {} of topic {topic}", show::counted(sample.records, "record", "records"));
    let ignores = proposal.shape.is_change() || proposal.mode != Mode::Append;
    let tombstones = if ignores { 0 } else { sample.tombstones };
    if tombstones + sample.odd() > 0 {
        let _infallible = write!(
            text,
            ", of which {} without a value and {} of another structure: those would be dead letters",
            show::count(tombstones),
            show::count(sample.odd())
        );
    }
    text + ".\n"
}

/// Returns the settings of `decode`.
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

/// Returns the line of a column.
fn line(column: &Proposed) -> String {
    let typed = &column.typed;
    let unit = typed.unit.map_or(String::new(), |unit| format!(", unit = \"{unit}\""));
    let zone = if typed.local { ", zone = \"UTC\"" } else { "" };
    let mut notes = Vec::new();
    if column.with_value < column.rows {
        notes.push(format!("in {} of {}", show::count(column.with_value), show::count(column.rows)));
    }
    if typed.local {
        notes.push("times without a zone are taken for UTC".to_owned());
    }
    let note = if notes.is_empty() { String::new() } else { format!(" # {}", notes.join("; ")) };
    let (name, field) = (key(&column.name), quoted(&path_text(&column.path)));
    format!("{name} = {{ field = {field}, type = \"{}\"{unit}{zone} }}{note}\n", typed.name)
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
