//! How a merge compares keys. Columns of a key are compared with `=`. This isn't enough if the unique index is NULLS NOT
//! DISTINCT. NULL is then a key value like any other: the index accepts it only once, and ON CONFLICT finds the row that has
//! it.

use crate::catalog::{Catalog, TypeKind, quote_identifier};

/// A key, as SQL compares it.
pub(super) struct Key<'a> {
    pub(super) columns: &'a [String],
    /// The columns of the key in which NULL is a key value.
    nullable: Vec<&'a str>,
    catalog: &'a Catalog,
}

impl<'a> Key<'a> {
    pub(super) fn new(columns: &'a [String], catalog: &'a Catalog) -> Self {
        Self { columns, nullable: catalog.null_keys(columns), catalog }
    }

    /// Returns whether NULL is a key value in some column.
    pub(super) fn has_nulls(&self) -> bool {
        !self.nullable.is_empty()
    }

    /// Returns the condition that two staged rows have the same key. Columns with NULLs are compared as elements of
    /// arrays, because two arrays with NULLs are equal by `=`, for which Postgres can use a hash join. With IS NOT
    /// DISTINCT FROM it would compare each row with every other.
    pub(super) fn same(&self, one: &str, other: &str) -> String {
        let equal = self.columns.iter().map(|name| {
            let column = quote_identifier(name);
            if !self.nullable.contains(&name.as_str()) {
                return format!("{one}.{column} = {other}.{column}");
            }
            // An array can't be compared as the element of an array: Postgres would make one array of more dimensions.
            let of = self.catalog.columns.iter().find(|of| of.name == *name);
            match of.map(|of| &of.kind) {
                Some(TypeKind::Array { .. }) => format!("{one}.{column} IS NOT DISTINCT FROM {other}.{column}"),
                _ => format!("ARRAY[{one}.{column}] = ARRAY[{other}.{column}]"),
            }
        });
        equal.collect::<Vec<_>>().join(" AND ")
    }

    /// Returns the condition that a row of the table has the key of a staged row. It has one alternative per
    /// combination of NULL columns, and each alternative finds one row by the index. With a condition per column,
    /// Postgres would read, for each staged row, all rows that have NULL in the index's first column.
    pub(super) fn finds(&self, table: &str, staged: &str) -> String {
        let combinations = (0..1_usize << self.nullable.len()).map(|nulls| {
            let is_null = |name: &str| {
                let place = self.nullable.iter().position(|nullable| *nullable == name);
                place.is_some_and(|place| nulls >> place & 1 == 1)
            };
            let columns = self.columns.iter().map(|name| {
                let column = quote_identifier(name);
                if is_null(name) {
                    format!("{table}.{column} IS NULL AND {staged}.{column} IS NULL")
                } else {
                    format!("{table}.{column} = {staged}.{column}")
                }
            });
            columns.collect::<Vec<_>>().join(" AND ")
        });
        let combinations: Vec<_> = combinations.collect();
        match combinations.as_slice() {
            [only] => only.clone(),
            several => format!("({})", several.join(" OR ")),
        }
    }
}
