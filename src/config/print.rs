//! Prints the merged settings of all files and the environment, and the JSON schema of the configuration.

use config::{Map, Value, ValueKind};
use serde_json::json;
use toml_edit::{Array, DocumentMut, Item, Table};

use super::schema::{Kind, ROOT};

const HIDDEN: &str = "***";

/// Writes a tree of settings as TOML, with its keys sorted and [`HIDDEN`] in place of each value that may be secret.
pub(super) fn toml(tree: &Value) -> String {
    let mut document = DocumentMut::new();
    if let ValueKind::Table(entries) = &tree.kind {
        fill(document.as_table_mut(), entries, Some(ROOT));
    }
    document.to_string()
}

fn fill(table: &mut Table, entries: &Map<String, Value>, kind: Option<Kind>) {
    let mut names: Vec<&String> = entries.keys().collect();
    names.sort();
    for name in names {
        let value = &entries[name];
        let inner = kind.and_then(|kind| kind.at(name));
        let is_secret = match kind {
            Some(Kind::Properties) => may_be_secret(name),
            _ => matches!(inner, Some(Kind::Secret)),
        };
        let item = if is_secret { toml_edit::value(HIDDEN) } else { item(name, value, inner) };
        table.insert(name, item);
    }
}

fn item(name: &str, value: &Value, kind: Option<Kind>) -> Item {
    match &value.kind {
        ValueKind::Table(entries) => {
            let mut table = Table::new();
            table.set_implicit(entries.values().all(|value| matches!(value.kind, ValueKind::Table(_))));
            fill(&mut table, entries, kind);
            Item::Table(table)
        }
        ValueKind::Array(values) => {
            // Hide the arguments of a program, because they may contain a token.
            let shown = |at: usize, value: &Value| {
                if name.ends_with("_command") && at > 0 { HIDDEN.to_owned() } else { value.to_string() }
            };
            let array: Array = values.iter().enumerate().map(|(at, value)| shown(at, value)).collect();
            toml_edit::value(array)
        }
        ValueKind::Boolean(value) => toml_edit::value(*value),
        ValueKind::I64(value) => toml_edit::value(*value),
        ValueKind::Float(value) => toml_edit::value(*value),
        _ => toml_edit::value(value.to_string()),
    }
}

/// Returns whether the value of a librdkafka property may be secret, judging by the property's name.
pub(crate) fn may_be_secret(name: &str) -> bool {
    let is_path = name.ends_with("_file") || name.ends_with(".location");
    let parts = ["password", "passphrase", "secret", "token", "jaas", "pem", "oauthbearer.config", "ssl.key"];
    !is_path && parts.iter().any(|part| name.contains(part))
}

/// Returns a JSON Schema (draft 2020-12) of the configuration file, with which editors complete and check TOML.
pub fn json_schema() -> serde_json::Value {
    let mut schema = schema_of(ROOT);
    schema["description"] = json!("From topics of Kafka to tables of Postgres");
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("Tidegate's configuration");
    schema
}

fn schema_of(kind: Kind) -> serde_json::Value {
    let scalar = json!(["string", "number", "boolean"]);
    let mut schema = match kind {
        Kind::Text | Kind::Secret | Kind::Size | Kind::Duration => json!({ "type": "string" }),
        Kind::Integer => json!({ "type": "integer" }),
        Kind::Float => json!({ "type": "number" }),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::List => json!({ "type": "array", "items": { "type": "string" } }),
        Kind::Scalar => json!({ "type": scalar }),
        Kind::Properties | Kind::Settings => json!({ "type": "object", "additionalProperties": { "type": scalar } }),
        Kind::Named(kind) => json!({ "type": "object", "additionalProperties": schema_of(*kind) }),
        Kind::Table(keys) => {
            let keys = keys.iter().map(|key| (key.name.to_owned(), schema_of(key.kind)));
            let properties: serde_json::Map<_, _> = keys.collect();
            json!({ "type": "object", "properties": properties, "additionalProperties": false })
        }
        Kind::TextOr(keys) => return json!({ "anyOf": [{ "type": "string" }, schema_of(Kind::Table(keys))] }),
    };
    schema["description"] = json!(kind.expected());
    schema
}
