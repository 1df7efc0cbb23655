//! Reads `where = { field = "state", equals = "paused" }`.

use tidegate_rows::spec::{RowFilter, Test};

use super::names;
use super::node::ConfigNode;

pub(super) fn read(node: &ConfigNode<'_>) -> Option<RowFilter> {
    if !node.is_table() {
        return None;
    }
    node.at("field").require("name the field to compare, as in where = { field = \"state\", equals = \"paused\" }");
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
        node.fault("has no condition; set equals, not_equals, exists, greater or less");
    }
    Some(RowFilter { field, tests })
}
