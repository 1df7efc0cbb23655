//! A node of the configuration tree, into which all files and the environment are merged. If a value is wrong, the
//! methods note a fault instead of failing.
//!
//! [`ConfigNode::check`] runs once over the whole tree and notes unknown keys and wrong types. Afterwards the other
//! methods treat a value of the wrong type as absent: its fault is already noted.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use config::{Value, ValueKind};

use super::fault::{Fault, SourceLocation, nearest};
use super::layer::Places;
use super::schema::Kind;
use super::units;

/// The state that all nodes of a tree share.
pub(super) struct Reader {
    pub(super) places: Places,
    /// The place of a fault if neither its key nor any table around the key is set.
    pub(super) top: SourceLocation,
    pub(super) faults: RefCell<Vec<Fault>>,
}

/// A key of the configuration, whether it is set or not.
#[derive(Clone)]
pub(super) struct ConfigNode<'a> {
    reader: &'a Reader,
    path: Vec<String>,
    value: Option<&'a Value>,
    /// Whether a level above has the wrong type. If so, keys that are missing below it aren't reported.
    broken: bool,
}

impl<'a> ConfigNode<'a> {
    pub(super) fn top(reader: &'a Reader, tree: &'a Value) -> Self {
        ConfigNode { reader, path: Vec::new(), value: Some(tree), broken: false }
    }

    pub(super) fn at(&self, name: &str) -> ConfigNode<'a> {
        let mut path = self.path.clone();
        path.push(name.to_owned());
        let value = self.table().and_then(|table| table.get(name));
        let broken = self.broken || (self.value.is_some() && self.table().is_none());
        ConfigNode { reader: self.reader, path, value, broken }
    }

    /// Returns every key of this table that is set, in the order of the files.
    pub(super) fn entries(&self) -> Vec<(&'a str, ConfigNode<'a>)> {
        self.table().into_iter().flatten().map(|(name, _)| (name.as_str(), self.at(name))).collect()
    }

    pub(super) fn is_set(&self) -> bool {
        self.value.is_some()
    }

    pub(super) fn is_table(&self) -> bool {
        self.table().is_some()
    }

    /// Returns the place of the key, or, if it isn't set, of the table that would contain it.
    pub(super) fn place(&self) -> SourceLocation {
        self.reader.places.find(&self.path).unwrap_or(&self.reader.top).clone()
    }

    pub(super) fn fault(&self, message: impl Into<String>) {
        if !self.broken {
            self.reader.faults.borrow_mut().push(Fault::new(self.place(), &self.path, message));
        }
    }

    /// Notes a fault if the key isn't set. The fault's text ends with `remedy`.
    pub(super) fn require(&self, remedy: &str) {
        if !self.is_set() {
            self.fault(format!("missing; {remedy}"));
        }
    }

    fn table(&self) -> Option<&'a config::Map<String, Value>> {
        match &self.value?.kind {
            ValueKind::Table(table) => Some(table),
            _ => None,
        }
    }

    /// Returns which of several mutually exclusive keys is set. If several files, or the environment, set different keys, the
    /// last one wins. If the last one itself sets two of the keys, notes a fault.
    pub(super) fn one_of<'n>(&self, names: &[&'n str]) -> Option<(&'n str, ConfigNode<'a>)> {
        let mut set: Vec<_> =
            names.iter().map(|name| (*name, self.at(name))).filter(|(_, node)| node.is_set()).collect();
        set.sort_by_key(|(_, node)| node.place());
        let (name, node) = set.pop()?;
        if let Some((other, _)) = set.iter().rev().find(|(_, lower)| lower.place().layer() == node.place().layer()) {
            node.fault(format!("{other} is set too; keep one of the two"));
        }
        Some((name, node))
    }

    pub(super) fn text(&self) -> Option<&'a str> {
        match &self.value?.kind {
            ValueKind::String(text) => Some(text),
            _ => None,
        }
    }

    /// Reads text, a number or a boolean, as text.
    pub(super) fn scalar_text(&self) -> Option<String> {
        match &self.value?.kind {
            ValueKind::Table(_) | ValueKind::Array(_) | ValueKind::Nil => None,
            other => Some(other.to_string()),
        }
    }

    /// Reads text, a number or a boolean, as JSON.
    pub(super) fn scalar_json(&self) -> Option<String> {
        match &self.value?.kind {
            ValueKind::String(text) => Some(serde_json::Value::from(text.as_str()).to_string()),
            ValueKind::I64(number) => Some(number.to_string()),
            ValueKind::Boolean(flag) => Some(flag.to_string()),
            ValueKind::Float(number) => {
                let json = serde_json::Number::from_f64(*number);
                if json.is_none() {
                    self.fault("JSON has no such number; write it as text");
                }
                Some(json?.to_string())
            }
            _ => None,
        }
    }

    pub(super) fn flag(&self, default: bool) -> bool {
        match self.value.map(|value| &value.kind) {
            Some(ValueKind::Boolean(flag)) => *flag,
            _ => default,
        }
    }

    pub(super) fn integer(&self, range: RangeInclusive<u32>, default: u32) -> u32 {
        let Some(ValueKind::I64(number)) = self.value.map(|value| &value.kind) else { return default };
        match u32::try_from(*number).ok().filter(|number| range.contains(number)) {
            Some(number) => number,
            None => {
                self.out_of(number, range.start(), range.end());
                default
            }
        }
    }

    pub(super) fn float(&self) -> Option<f64> {
        match self.value?.kind {
            ValueKind::Float(number) => Some(number),
            ValueKind::I64(number) => i32::try_from(number).ok().map(f64::from),
            _ => None,
        }
    }

    pub(super) fn size(&self, range: RangeInclusive<u64>, default: u64) -> u64 {
        let Some(text) = self.text() else { return default };
        match units::parse_size(text) {
            Ok(size) if range.contains(&size) => return size,
            Ok(_) => self.out_of(text, units::show_size(*range.start()), units::show_size(*range.end())),
            Err(message) => self.fault(message),
        }
        default
    }

    pub(super) fn duration(&self, range: RangeInclusive<Duration>, default: Duration) -> Duration {
        let Some(text) = self.text() else { return default };
        match units::parse_duration(text) {
            Ok(duration) if range.contains(&duration) => return duration,
            Ok(_) => self.out_of(text, units::show_duration(*range.start()), units::show_duration(*range.end())),
            Err(message) => self.fault(message),
        }
        default
    }

    fn out_of(&self, value: impl Display, from: impl Display, to: impl Display) {
        self.fault(format!("{value} is out of range; it goes from {from} to {to}"));
    }

    /// Reads a text that must be one of `words`, and returns the word's meaning.
    pub(super) fn choice<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        if found.is_none() {
            let names: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.fault(match nearest(text, names.iter().copied()) {
                Some(word) => format!("{text:?} is not known here, did you mean {word:?}?"),
                None => format!("{text:?} is not known here; write one of {}", quoted(&names)),
            });
        }
        found
    }

    /// Reads an array of distinct texts. `check` is called for each of them, and returns an error if the text is invalid.
    pub(super) fn list(&self, check: impl Fn(&str) -> Result<(), String>) -> Option<Vec<String>> {
        let ValueKind::Array(array) = &self.value?.kind else { return None };
        let mut seen = BTreeSet::new();
        let mut list = Vec::new();
        for element in array {
            let ValueKind::String(text) = &element.kind else { return None };
            if let Err(message) = check(text) {
                self.fault(message);
            } else if !seen.insert(text) {
                self.fault(format!("{text:?} is listed twice"));
            }
            list.push(text.clone());
        }
        if list.is_empty() {
            self.fault("empty; name at least one");
        }
        Some(list)
    }

    pub(super) fn command(&self) -> Option<Vec<String>> {
        let ValueKind::Array(array) = &self.value?.kind else { return None };
        let words = array.iter().map(|word| match &word.kind {
            ValueKind::String(text) => Some(text.clone()),
            _ => None,
        });
        let command: Vec<String> = words.collect::<Option<_>>()?;
        if command.first().is_none_or(String::is_empty) {
            self.fault("names no program; write [\"/path/of/it\", \"argument\"]");
        }
        Some(command)
    }

    /// Reads a path to a file. A relative path starts from the folder of the configuration file that sets it, or from the
    /// current folder if an environment variable sets it.
    pub(super) fn file(&self) -> Option<PathBuf> {
        let text = self.text()?;
        if text.is_empty() {
            self.fault("empty; write the path of a file");
        }
        Some(self.place().folder().join(text))
    }

    /// Notes unknown keys and wrong types, of this node and of all nodes below it.
    pub(super) fn check(&self, kind: Kind) {
        let Some(value) = self.value else { return };
        match (&value.kind, kind) {
            (ValueKind::Table(_), Kind::Table(_) | Kind::TextOr(_)) => {
                for (name, node) in self.entries() {
                    match kind.at(name) {
                        Some(inner) => node.check(inner),
                        None => node.fault(unknown_key(name, kind)),
                    }
                }
            }
            (ValueKind::Table(_), Kind::Named(_) | Kind::Properties | Kind::Settings) => {
                for (name, node) in self.entries() {
                    if let Some(inner) = kind.at(name) {
                        node.check(inner);
                    }
                }
            }
            (ValueKind::String(_), Kind::Text | Kind::Secret | Kind::Size | Kind::Duration | Kind::Scalar)
            | (ValueKind::String(_), Kind::TextOr(_))
            | (ValueKind::I64(_), Kind::Integer | Kind::Float | Kind::Scalar)
            | (ValueKind::Float(_), Kind::Float | Kind::Scalar)
            | (ValueKind::Boolean(_), Kind::Bool | Kind::Scalar) => {}
            (ValueKind::Array(array), Kind::List)
                if array.iter().all(|element| matches!(element.kind, ValueKind::String(_))) => {}
            (found, _) => self.fault(wrong_type(found, kind)),
        }
    }
}

fn unknown_key(name: &str, kind: Kind) -> String {
    let keys = kind.keys();
    let meant = nearest(name, keys.iter().map(|key| key.name)).map(str::to_owned).or_else(|| {
        // Find a key that belongs one level further down, such as `max_rows` beside `batch` instead of in it.
        let inner = keys.iter().find(|key| key.kind.keys().iter().any(|inner| inner.name == name))?;
        Some(format!("{}.{name}", inner.name))
    });
    match meant {
        Some(meant) => format!("unknown key, did you mean {meant}?"),
        None => format!("unknown key; known here: {}", keys.iter().map(|key| key.name).collect::<Vec<_>>().join(", ")),
    }
}

fn wrong_type(found: &ValueKind, kind: Kind) -> String {
    let name = match found {
        ValueKind::String(_) => "text",
        ValueKind::Boolean(_) => "a boolean",
        ValueKind::Float(_) => "a number with a fraction",
        ValueKind::Table(_) => "a table",
        ValueKind::Array(_) => "an array",
        _ => "a whole number",
    };
    let remedy = match (kind, found) {
        (Kind::Size, ValueKind::I64(bytes @ 1..)) => {
            format!("; write {:?}", units::show_size(bytes.unsigned_abs()))
        }
        (Kind::Size, _) => "; write it as in \"8MiB\"".to_owned(),
        (Kind::Duration, ValueKind::I64(number @ 1..)) => format!("; write \"{number}ms\" or \"{number}s\""),
        (Kind::Duration, _) => "; write it as in \"500ms\"".to_owned(),
        (Kind::List, ValueKind::String(text)) => format!("; write [{text:?}]"),
        (Kind::Text, ValueKind::I64(_) | ValueKind::Boolean(_)) => format!("; write \"{found}\""),
        (Kind::Integer | Kind::Float | Kind::Bool, ValueKind::String(_)) => "; write it without quotes".to_owned(),
        _ => String::new(),
    };
    format!("expected {}, found {name}{remedy}", kind.expected())
}

pub(super) fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ")
}
