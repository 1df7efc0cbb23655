//! Computes what changed between two documents, as a list of paths and their new values. No I/O.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Value, json};

/// Fields that change merely because time passes. Such a change alone isn't sent. Two of them count from a time that another
/// field has: `seconds` from `since_ms`, and `lag_age_seconds` from `lag_seen_ms`.
const BY_THEMSELVES: [&str; 5] = ["now_ms", "seconds", "retry_in_seconds", "age_seconds", "lag_age_seconds"];

#[derive(Clone, Copy, Debug)]
enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

/// Returns `[[path, value], …]`. Setting each path in `old` to its value gives `new`, except for the fields of
/// [`BY_THEMSELVES`].
pub(super) fn changes(old: &Value, new: &Value) -> Vec<Value> {
    let mut found = Vec::new();
    walk(old, new, &mut Vec::new(), &mut found);
    found
}

fn walk<'a>(old: &Value, new: &'a Value, path: &mut Vec<Step<'a>>, found: &mut Vec<Value>) {
    match (old, new) {
        (Value::Object(a), Value::Object(b)) if a.len() == b.len() && b.keys().all(|key| a.contains_key(key)) => {
            for (key, value) in b.iter().filter(|(key, _)| !BY_THEMSELVES.contains(&key.as_str())) {
                path.push(Step::Key(key));
                walk(&a[key], value, path, found);
                path.pop();
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (index, (a, b)) in a.iter().zip(b).enumerate() {
                path.push(Step::Index(index));
                walk(a, b, path, found);
                path.pop();
            }
        }
        _ if old == new => {}
        _ => {
            let place: Vec<Value> = path.iter().map(|step| step.value()).collect();
            found.push(json!([place, new]));
        }
    }
}

impl Step<'_> {
    fn value(self) -> Value {
        match self {
            Self::Key(key) => Value::from(key),
            Self::Index(index) => Value::from(index),
        }
    }
}

/// Returns a hash that is equal for documents that differ only in the fields of [`BY_THEMSELVES`].
pub(super) fn fingerprint(document: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    digest(document, &mut hasher);
    hasher.finish()
}

fn digest(value: &Value, hasher: &mut DefaultHasher) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields.iter().filter(|(key, _)| !BY_THEMSELVES.contains(&key.as_str())) {
                key.hash(hasher);
                digest(value, hasher);
            }
            '}'.hash(hasher);
        }
        Value::Array(values) => {
            values.iter().for_each(|value| digest(value, hasher));
            ']'.hash(hasher);
        }
        Value::String(text) => text.hash(hasher),
        other => other.to_string().hash(hasher),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_changed_is_listed() {
        let old = json!({"a": 1, "list": [{"x": 1, "y": 2}, {"x": 3, "y": 4}], "now_ms": 1});
        let new = json!({"a": 1, "list": [{"x": 1, "y": 2}, {"x": 9, "y": 4}], "now_ms": 2});
        assert_eq!(Value::from(changes(&old, &new)), json!([[["list", 1, "x"], 9]]));
        assert_eq!(changes(&old, &old), Vec::<Value>::new());
    }

    #[test]
    fn another_shape_is_sent_as_a_whole() {
        let old = json!({"list": [1, 2], "map": {"a": 1}});
        let new = json!({"list": [1, 2, 3], "map": {"b": 1}});
        assert_eq!(Value::from(changes(&old, &new)), json!([[["list"], [1, 2, 3]], [["map"], {"b": 1}]]));
    }

    #[test]
    fn time_alone_changes_no_fingerprint() {
        let at = |now: u64, rows: u64| fingerprint(&json!({"now_ms": now, "pipelines": [{"rows": rows}]}));
        assert_eq!(at(1, 5), at(2, 5));
        assert_ne!(at(1, 5), at(1, 6));
    }
}
