//! `__` separates the levels of a key. Case is ignored, and `_` also stands for `.` and `-`, because a shell can't write every
//! name. Each level is looked up among the keys that the files set, and then among all keys that exist. A pipeline must be in a
//! file, so that a misspelled name is a fault and not a new pipeline. If no file sets a column or a Postgres setting, its name is
//! converted to lower case.

use std::collections::BTreeMap;

use config::{Map, Value, ValueKind};

use super::fault::{Fault, SourceLocation, dotted, nearest};
use super::layer::Layer;
use super::schema::{Kind, ROOT};
use super::{ENVIRONMENT_PREFIX, properties};

/// Makes the layer of the environment from the variables whose names begin with the prefix. `files` are the layers below: a
/// part of a variable's name is first looked up among their keys.
pub(super) fn layer(
    number: usize,
    files: &Value,
    env: impl Iterator<Item = (String, String)>,
    faults: &mut Vec<Fault>,
) -> Layer {
    let mut layer = Layer::default();
    let mut setters: BTreeMap<Vec<String>, String> = BTreeMap::new();
    // Process the variables sorted by name, so that the same environment always gives the same result.
    let variables: BTreeMap<_, _> = env.filter(|(name, _)| name.starts_with(ENVIRONMENT_PREFIX)).collect();
    for (name, text) in variables {
        let place = SourceLocation::Variable { layer: number, name: name.clone() };
        let mut fault = |path: &[String], message: String| faults.push(Fault::new(place.clone(), path, message));
        let (path, kind) = match resolve(&name[ENVIRONMENT_PREFIX.len()..], files) {
            Ok(found) => found,
            Err((path, message)) => {
                fault(&path, message);
                continue;
            }
        };
        if let Some(earlier) = setters.insert(path.clone(), name.clone()) {
            fault(&path, format!("{earlier} sets it too; keep one of the two"));
            continue;
        }
        match value(&mut layer, &path, &text, kind, &place) {
            Ok(value) => layer.set(&path, value, &place),
            Err(message) => fault(&path, message),
        }
    }
    layer
}

/// Returns the variable that was meant, if `name` looks like a variable for a key but has too few underscores, as in
/// `TIDEGATE_POSTGRES_URL`. Returns `None` for variables such as `TIDEGATE_HTTP_SERVICE_HOST`, by which Kubernetes
/// tells containers the addresses of services.
pub(super) fn meant_by(name: &str) -> Option<String> {
    let rest = name.strip_prefix("TIDEGATE_").filter(|rest| !rest.starts_with('_'))?;
    let is_service = ["_SERVICE_HOST", "_SERVICE_PORT", "_PORT_"].iter().any(|part| name.contains(part));
    if is_service || name.ends_with("_PORT") {
        return None;
    }
    let Kind::Table(keys) = ROOT else { return None };
    keys.iter().map(|key| key.name.to_uppercase()).find_map(|key| {
        let inner = rest.strip_prefix(&key)?;
        let inner = inner.trim_start_matches('_');
        let is_key = rest.len() == key.len() || rest[key.len()..].starts_with('_');
        let inner = if inner.is_empty() { String::new() } else { format!("__{inner}") };
        is_key.then(|| format!("{ENVIRONMENT_PREFIX}{key}{inner}"))
    })
}

/// Returns the key that a variable names. If there is no such key, the error has the path that ends with the unknown
/// part, and a message.
fn resolve(name: &str, files: &Value) -> Result<(Vec<String>, Kind), (Vec<String>, String)> {
    let mut path: Vec<String> = Vec::new();
    let (mut kind, mut value) = (ROOT, Some(files));
    for part in name.split("__") {
        let table = value.and_then(|value| match &value.kind {
            ValueKind::Table(table) => Some(table),
            _ => None,
        });
        let existing = table.into_iter().flat_map(Map::keys).map(String::as_str);
        let found = match pick(part, existing.clone()) {
            Ok(Some(key)) => Ok(key.to_owned()),
            Ok(None) => unset(part, kind, existing),
            Err(message) => Err(message),
        };
        let inner = found.and_then(|key| {
            let inner = kind.at(&key).ok_or_else(|| "unknown key".to_owned())?;
            Ok((key, inner))
        });
        match inner {
            Ok((key, inner)) => {
                value = table.and_then(|table| table.get(&key));
                kind = inner;
                path.push(key);
            }
            Err(message) => {
                path.push(part.to_owned());
                return Err((path, message));
            }
        }
    }
    Ok((path, kind))
}

/// Returns the key that a part of a variable's name means. Called if the part matches none of the keys that the files set.
fn unset<'a>(part: &str, kind: Kind, existing: impl Iterator<Item = &'a str>) -> Result<String, String> {
    match kind {
        Kind::Table(keys) | Kind::TextOr(keys) => pick(part, keys.iter().map(|key| key.name))?
            .map(str::to_owned)
            .ok_or_else(|| match nearest(part, keys.iter().map(|key| key.name)) {
                Some(meant) => format!("unknown key, did you mean {}?", meant.to_uppercase()),
                None => "unknown key".to_owned(),
            }),
        Kind::Properties => Ok(properties::by_folded_name(part).unwrap_or_else(|| part.to_lowercase())),
        Kind::Settings => Ok(part.to_lowercase()),
        Kind::Named(Kind::Table(_)) => Err(match nearest(part, existing) {
            Some(meant) => format!("no file has this pipeline, did you mean {}?", meant.to_uppercase()),
            None => "no file has this pipeline; a variable changes one that a file has".to_owned(),
        }),
        Kind::Named(_) if !part.is_empty() => Ok(part.to_lowercase()),
        _ => Err("unknown key".to_owned()),
    }
}

/// Returns the name that is equal to `part`, or else the only name that is equal to it after [`fold`]. Fails if there
/// are several such names.
fn pick<'a>(part: &str, names: impl Iterator<Item = &'a str>) -> Result<Option<&'a str>, String> {
    let mut found = None;
    for name in names {
        if name == part {
            return Ok(Some(name));
        }
        if fold(name) == fold(part) {
            if let Some(other) = found {
                return Err(format!(
                    "may mean {other:?} or {name:?}; write the intended one exactly as it is in the file"
                ));
            }
            found = Some(name);
        }
    }
    Ok(found)
}

/// Normalizes a name for comparison with a part of a variable's name: lower case, and `_` in place of `.` and `-`.
pub(super) fn fold(name: &str) -> String {
    name.chars()
        .map(|c| match c {
            '.' | '-' => '_',
            other => other.to_ascii_lowercase(),
        })
        .collect()
}

/// Converts a variable's text to the type of the key that the variable sets.
fn value(layer: &mut Layer, path: &[String], text: &str, kind: Kind, place: &SourceLocation) -> Result<Value, String> {
    let digits = || text.trim().replace('_', "");
    let wrong = || format!("{text:?} is not {}", kind.expected());
    let kind_of_value = match kind {
        Kind::Integer => ValueKind::I64(digits().parse().map_err(|_| wrong())?),
        Kind::Float => ValueKind::Float(digits().parse().map_err(|_| wrong())?),
        Kind::Bool => ValueKind::Boolean(text.trim().to_lowercase().parse().map_err(|_| wrong())?),
        Kind::Scalar if path.iter().any(|part| part == "columns") => {
            // A key such as `default` takes a number, a boolean or a text. `5` is a number, `true` a boolean, anything
            // else a text.
            let read = layer.value_of(path, text, kind, place).map(|value| value.kind);
            match read {
                Some(scalar @ (ValueKind::I64(_) | ValueKind::Float(_) | ValueKind::Boolean(_))) => scalar,
                _ => text.into(),
            }
        }
        Kind::List if !text.trim_start().starts_with('[') => {
            text.split(',').map(|element| Value::new(None, element.trim())).collect::<Vec<_>>().into()
        }
        Kind::TextOr(_) if !text.trim_start().starts_with('{') => text.into(),
        Kind::List | Kind::TextOr(_) | Kind::Table(_) | Kind::Named(_) | Kind::Properties | Kind::Settings => {
            let is_list = matches!(kind, Kind::List);
            let right = |value: &Value| match value.kind {
                ValueKind::Array(_) => is_list,
                ValueKind::Table(_) => !is_list,
                _ => false,
            };
            let whole = layer.value_of(path, text, kind, place).filter(right);
            let whole = whole.ok_or_else(|| match kind {
                Kind::List => "not a valid TOML array; write a,b or [\"a\", \"b\"]".to_owned(),
                _ => format!("{} is a table; name one of its keys after another __", dotted(path)),
            })?;
            return Ok(whole);
        }
        Kind::Text | Kind::Secret | Kind::Size | Kind::Duration | Kind::Scalar => text.into(),
    };
    Ok(Value::new(None, kind_of_value))
}
