//! `where = { field = "state", equals = "paused" }`: a question to one field of a record.

/// A question to one field of a record: all of its tests must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowFilter {
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
