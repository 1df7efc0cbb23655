//! How a merge compares keys. Columns of a key are compared with `=`, which never finds NULLs equal. But in a unique index with
//! NULLS NOT DISTINCT, NULL is a key value like any other. For such an index, nullable columns are compared in other ways.

use crate::catalog::{Catalog, TypeKind, quote_identifier};

/// The most nullable columns of a key that are looked up in the index. [`Key::finds`] has one alternative per combination of
/// NULLs, so four columns make sixteen alternatives.
const NULLABLE_IN_INDEX: usize = 4;

pub(super) struct Key<'a> {
    pub(super) columns: &'a [String],
    /// Those of `columns` in which NULL is a key value like any other, in the order of the unique index.
    nullable: Vec<&'a str>,
    catalog: &'a Catalog,
}

impl<'a> Key<'a> {
    pub(super) fn new(columns: &'a [String], catalog: &'a Catalog) -> Self {
        Self { columns, nullable: catalog.null_keys(columns), catalog }
    }

    pub(super) fn has_nulls(&self) -> bool {
        !self.nullable.is_empty()
    }

    /// Returns the condition that two staged rows have the same key. Columns that may be NULL are compared as elements of arrays,
    /// because `=` treats NULLs in arrays as equal, and Postgres can use a hash join for `=`. For IS NOT DISTINCT FROM, Postgres
    /// would compare each row with every other.
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

    /// Returns the condition that a row of the table has the key of a staged row. If the columns `a` and `b` are nullable, there
    /// are four alternatives, joined by OR: no NULL, `a` is NULL, `b` is NULL, both are NULL. Each alternative finds one row by
    /// the index.
    ///
    /// If more than [`NULLABLE_IN_INDEX`] columns are nullable, only the first ones in the index have alternatives. The others
    /// are compared by IS NOT DISTINCT FROM, which can't use the index.
    pub(super) fn finds(&self, table: &str, staged: &str) -> String {
        let (in_index, behind) = self.nullable.split_at(self.nullable.len().min(NULLABLE_IN_INDEX));
        let combinations = (0..1_usize << in_index.len()).map(|nulls| {
            let is_null = |name: &str| {
                let place = in_index.iter().position(|nullable| *nullable == name);
                place.is_some_and(|place| nulls >> place & 1 == 1)
            };
            let columns = self.columns.iter().map(|name| {
                let column = quote_identifier(name);
                if behind.contains(&name.as_str()) {
                    format!("{table}.{column} IS NOT DISTINCT FROM {staged}.{column}")
                } else if is_null(name) {
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
