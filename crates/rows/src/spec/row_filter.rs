//! `where = { field = "state", equals = "paused" }`: tests on one field of a row.

/// Tests on one field of a row. A row matches if it passes all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowFilter {
    /// The path of the tested field, from the top level; one element per level.
    pub field: Vec<String>,
    /// The tests. There is at least one.
    pub tests: Vec<Test>,
}

/// A test of the field's value. Values to compare with are JSON text: `"paused"`, `3`, `true`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// `equals`: the field is this text, number or boolean. Numbers are equal by value: 1 and 1.0.
    Equals(String),
    /// `not_equals`: the field isn't equal to this value. This includes a missing field and null.
    NotEquals(String),
    /// `exists`: the field is present and not null; with `false`, it is missing or null.
    Exists(bool),
    /// `greater`: the field is a number greater than this one.
    Greater(String),
    /// `less`: the field is a number less than this one.
    Less(String),
}
