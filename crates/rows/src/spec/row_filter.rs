//! `where = { field = "state", equals = "paused" }`: tests on one field of a row.

/// Tests on one field of a row. A row matches if it passes all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowFilter {
    /// The path of the field from the top level, one element per level.
    pub field: Vec<String>,
    /// Never empty.
    pub tests: Vec<Test>,
}

/// A test of the field's value. Values to compare with are scalars as JSON text: `"paused"`, `3`, `true`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test {
    /// The field is this text, number or boolean. Numbers are equal by value: 1 and 1.0.
    Equals(String),
    /// The field isn't equal to this value. A missing field and null are unequal to all values, and so pass.
    NotEquals(String),
    /// `true`: the field is present and not null. `false`: it is missing or null.
    Exists(bool),
    Greater(String),
    /// The field is a number less than this number. A value of another type fails this test and [`Self::Greater`].
    Less(String),
}
