//! `where = { field = "state", equals = "paused" }`: a question to one field of a record.

use super::names;
use super::node::Node;

/// A question to one field of a record: all of its tests must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The path from the top, one element a level.
    pub field: Vec<String>,
    /// At least one.
    pub tests: Vec<Test>,
}

/// One test. Values are JSON text: `"paused"`, `3`, `true`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// `equals`: the field is this text, number or boolean. Numbers are equal by value: 1 and 1.0.
    Equals(String),
    /// `not_equals`: it is anything else, missing and null included.
    NotEquals(String),
    /// `exists`: it is there and not null; with `false`, it is not.
    Exists(bool),
    /// `greater`: it is a number above this one.
    Greater(String),
    /// `less`: it is a number below this one.
    Less(String),
}

/// The condition at this key, if it is set.
pub(super) fn read(node: &Node<'_>) -> Option<Condition> {
    if !node.is_table() {
        return None;
    }
    node.at("field").require("name the field to look at, as in where = { field = \"state\", equals = \"paused\" }");
    let field = node.at("field").text().map_or_else(Vec::new, |path| {
        names::field_path(path).unwrap_or_else(|message| {
            node.at("field").fault(message);
            Vec::new()
        })
    });
    let exists = node.at("exists");
    let tests: Vec<_> = [
        node.at("equals").scalar_json().map(Test::Equals),
        node.at("not_equals").scalar_json().map(Test::NotEquals),
        exists.is_set().then(|| Test::Exists(exists.flag(true))),
        node.at("greater").scalar_json().map(Test::Greater),
        node.at("less").scalar_json().map(Test::Less),
    ]
    .into_iter()
    .flatten()
    .collect();
    if tests.is_empty() && node.entries().iter().all(|(name, _)| *name == "field") {
        node.fault("asks nothing; set equals, not_equals, exists, greater or less");
    }
    Some(Condition { field, tests })
}
