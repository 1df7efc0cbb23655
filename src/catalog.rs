//! The target table as Postgres describes it: what the mapping is planned against.

/// A table's columns, in the table's order. `postgres::catalog` reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    /// The table's schema and name, unquoted.
    pub table: TableName,
    /// `pg_class.oid`: a table dropped and made again has another.
    pub oid: u32,
    /// Columns that exist, dropped ones left out.
    pub columns: Vec<CatalogColumn>,
}

/// One column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogColumn {
    /// The column's name, unquoted.
    pub name: String,
    /// `pg_type.oid` of the column's own type (a domain's own oid for a domain).
    pub type_oid: u32,
    /// `pg_type.typname` of the type that the binary form has: a domain's base type.
    pub base_type: String,
    /// `pg_type.oid` of that base type.
    pub base_type_oid: u32,
    /// `format_type(atttypid, atttypmod)`, for people: `character varying(16)`.
    pub type_text: String,
    /// `atttypmod` of the base type, -1 without one: the length of varchar(n), precision and scale of numeric.
    pub typmod: i32,
    /// `NOT NULL`.
    pub not_null: bool,
    /// Has a default, so it may be left out of COPY.
    pub has_default: bool,
    /// `GENERATED ALWAYS` as an expression or an identity: COPY must leave it alone.
    pub generated: bool,
}

/// A table's schema-qualified name, unquoted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    /// The schema.
    pub schema: String,
    /// The table.
    pub name: String,
}

impl TableName {
    /// As SQL writes it, both parts quoted.
    pub fn quoted(&self) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&self.name))
    }
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// An identifier as SQL writes it: always in double quotes, those inside doubled.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
