//! Layers: files and the environment, merged by the `config` crate.
//!
//! The `config` crate keeps one origin per value, but error messages need the line of every key, including tables. So each layer
//! is read with `toml_edit`, and the lines are stored beside the values. Two properties of the crate need a workaround:
//! - It reads the *top* keys of a source as path expressions: `"a.b"` becomes two levels. So each layer gives it only one key,
//!   [`TOP`]. The names below that key are kept as they are.
//! - Its own `Environment` lower-cases names and can't distinguish a dot from a level. So `environment` makes its own layer.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::path::Path;

use config::{Map, Value, ValueKind};
use toml_edit::{Item, Key, TableLike};

use super::fault::{Fault, SourceLocation};
use super::schema::Kind;

/// The only top key that a layer gives to the `config` crate. All of the layer's keys are below it.
const TOP: &str = "tidegate";

/// Where each key is set, and whether the key is a table.
#[derive(Clone, Default)]
pub(super) struct Places(HashMap<Vec<String>, (SourceLocation, bool)>);

impl Places {
    /// Returns the place of a key, or of the innermost table that contains it.
    pub(super) fn find(&self, path: &[String]) -> Option<&SourceLocation> {
        (1..=path.len()).rev().find_map(|length| self.0.get(&path[..length])).map(|(place, _)| place)
    }

    fn insert(&mut self, path: &[String], place: SourceLocation, is_table: bool) {
        self.0.insert(path.to_vec(), (place, is_table));
    }

    /// Adds the places of a later layer. They replace the earlier ones. Except: a table keeps its first place.
    fn overlay(&mut self, later: &Places) {
        for (path, (place, is_table)) in &later.0 {
            if !(*is_table && self.0.get(path).is_some_and(|(_, was_table)| *was_table)) {
                self.0.insert(path.clone(), (place.clone(), *is_table));
            }
        }
    }
}

/// The keys that one file or the environment sets, with their values and places.
#[derive(Clone, Default)]
pub(super) struct Layer {
    values: Map<String, Value>,
    places: Places,
}

/// Hides the values, which may be secret; [`config::Source`] requires `Debug`.
impl fmt::Debug for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Layer")
    }
}

impl config::Source for Layer {
    fn clone_into_box(&self) -> Box<dyn config::Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(Map::from_iter([(TOP.to_owned(), Value::new(None, self.values.clone()))]))
    }
}

/// Merges the layers into one tree; later ones override earlier ones.
pub(super) fn merge(layers: &[Layer]) -> (Value, Places) {
    let mut places = Places::default();
    let mut builder = config::Config::builder();
    for layer in layers {
        places.overlay(&layer.places);
        builder = builder.add_source(layer.clone());
    }
    // Merging fails only if a source fails, and layers never fail.
    let tree = builder.build().map(|built| built.cache).unwrap_or_default();
    let empty = || Value::new(None, Map::<String, Value>::new());
    let top = match tree.kind {
        ValueKind::Table(mut table) => table.swap_remove(TOP).unwrap_or_else(empty),
        _ => empty(),
    };
    (top, places)
}

impl Layer {
    pub(super) fn parse(number: usize, file: &Path, text: &str, kind: Kind) -> Result<Layer, Fault> {
        let lines = Lines { number, file, text };
        let document = toml_edit::Document::parse(text).map_err(|error| {
            // Don't use the error's `Display`: it shows the line, which may contain a password.
            Fault::new(lines.place(error.span()), &[], format!("not valid TOML: {}", error.message()))
        })?;
        let mut layer = Layer::default();
        layer.values = layer.table(&mut Vec::new(), document.as_table(), Some(kind), &|key, _| lines.place(key.span()));
        Ok(layer)
    }

    /// Sets the key at `path` to a value from the environment, in place of an earlier one.
    pub(super) fn set(&mut self, path: &[String], value: Value, place: &SourceLocation) {
        let is_table = matches!(value.kind, ValueKind::Table(_));
        self.places.insert(path, place.clone(), is_table);
        let mut nested = value;
        for name in path.iter().skip(1).rev() {
            nested = Value::new(None, Map::from_iter([(name.clone(), nested)]));
        }
        let part = Layer { values: Map::from_iter([(path[0].clone(), nested)]), places: Places::default() };
        let (merged, _) = merge(&[Layer { values: std::mem::take(&mut self.values), ..Layer::default() }, part]);
        if let ValueKind::Table(values) = merged.kind {
            self.values = values;
        }
    }

    /// Reads a value of the environment as TOML, for [`Layer::set`]. Also remembers the places of the keys in it. Returns
    /// `None` if the text isn't one TOML value.
    pub(super) fn value_of(
        &mut self,
        path: &[String],
        toml: &str,
        kind: Kind,
        place: &SourceLocation,
    ) -> Option<Value> {
        let document = toml_edit::Document::parse(format!("value = {toml}\n")).ok()?;
        let item = document.get("value").filter(|_| document.as_table().len() == 1)?;
        Some(self.item(&mut path.to_vec(), item, Some(kind), &|_, _| place.clone()))
    }

    fn table(
        &mut self,
        path: &mut Vec<String>,
        table: &dyn TableLike,
        kind: Option<Kind>,
        place: &dyn Fn(&Key, &Item) -> SourceLocation,
    ) -> Map<String, Value> {
        let mut values = Map::new();
        for (name, item) in table.iter() {
            let Some(key) = table.key(name) else { continue };
            path.push(name.to_owned());
            let inner = kind.and_then(|kind| kind.at(name));
            self.places.insert(path, place(key, item), item.is_table_like());
            let value = self.item(path, item, inner, place);
            path.pop();
            match value.kind {
                // If `sasl.password = "…"` is written without quotes, TOML reads a table `sasl` with a key `password`. The user
                // means the key "sasl.password".
                ValueKind::Table(nested) if kind.is_some_and(|kind| kind.is_flat()) => {
                    for (rest, value) in nested {
                        let mut long = path.clone();
                        long.extend([name.to_owned(), rest.clone()]);
                        let flat = format!("{name}.{rest}");
                        if let Some((place, _)) = self.places.0.remove(&long) {
                            path.push(flat.clone());
                            self.places.insert(path, place, false);
                            path.pop();
                        }
                        values.insert(flat, value);
                    }
                }
                _ => {
                    values.insert(name.to_owned(), value);
                }
            }
        }
        values
    }

    fn item(
        &mut self,
        path: &mut Vec<String>,
        item: &Item,
        kind: Option<Kind>,
        place: &dyn Fn(&Key, &Item) -> SourceLocation,
    ) -> Value {
        if let Some(table) = item.as_table_like() {
            // A property's name may have several dots, as in `ssl.ca.location`. So an inner table of a property table
            // is handled like the property table.
            let kind = if matches!(kind, Some(Kind::Scalar)) { Some(Kind::Settings) } else { kind };
            return Value::new(None, self.table(path, table, kind, place));
        }
        match item {
            Item::Value(value) => scalar(value),
            Item::ArrayOfTables(tables) => Value::new(
                None,
                ValueKind::Array(tables.iter().map(|_| Value::new(None, Map::<String, Value>::new())).collect()),
            ),
            Item::None | Item::Table(_) => Value::default(),
        }
    }
}

fn scalar(value: &toml_edit::Value) -> Value {
    let kind = match value {
        toml_edit::Value::String(text) => ValueKind::String(text.value().clone()),
        toml_edit::Value::Integer(number) => ValueKind::I64(*number.value()),
        toml_edit::Value::Float(number) => ValueKind::Float(*number.value()),
        toml_edit::Value::Boolean(flag) => ValueKind::Boolean(*flag.value()),
        // `start = 2026-01-01T00:00:00Z` also works without quotes.
        toml_edit::Value::Datetime(time) => ValueKind::String(time.value().to_string()),
        toml_edit::Value::Array(array) => ValueKind::Array(array.iter().map(scalar).collect()),
        toml_edit::Value::InlineTable(_) => ValueKind::Table(Map::new()), // in an array, where no table is allowed
    };
    Value::new(None, kind)
}

struct Lines<'a> {
    number: usize,
    file: &'a Path,
    text: &'a str,
}

impl Lines<'_> {
    fn place(&self, span: Option<Range<usize>>) -> SourceLocation {
        let (layer, file) = (self.number, self.file.to_owned());
        let Some(before) = span.and_then(|span| self.text.get(..span.start)) else {
            return SourceLocation::File { layer, file };
        };
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        SourceLocation::Line { layer, file, line, column }
    }
}
