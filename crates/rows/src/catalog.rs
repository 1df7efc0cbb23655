//! The target table as Postgres describes it. A plan combines this description with the mapping.

/// The length in bytes of the longest name that Postgres doesn't truncate: the name of a table, a column or an application.
pub const LONGEST_NAME: usize = 63;

/// Returns the name if it has at most `longest` bytes. A longer name is truncated, and a digest of the whole name is appended.
/// Names that differ only at their ends therefore stay different. `longest` must be at least 9.
pub fn shortened(name: &str, longest: usize) -> String {
    if name.len() <= longest {
        return name.to_owned();
    }
    // FNV-1a, 32 bits (Fowler, Noll, Vo).
    let digest =
        name.bytes().fold(0x811c_9dc5_u32, |digest, byte| (digest ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let mut end = longest - 9;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}_{digest:08x}", &name[..end])
}

/// A table with its columns and unique indexes. The daemon's module `postgres::catalog` reads it from the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Catalog {
    pub table: TableName,
    /// `pg_class.oid`, which changes if the table is dropped and recreated.
    pub oid: u32,
    pub kind: RelationKind,
    /// Whether row-level security applies to the role that read the catalog. If so, COPY refuses the table, and INSERT checks the
    /// policies for each row.
    pub row_security: bool,
    /// The columns in the table's order, without dropped ones.
    pub columns: Vec<CatalogColumn>,
    pub unique: Vec<UniqueIndex>,
    /// Whether the table has any unique index or exclusion constraint, even one that `ON CONFLICT (columns)` can't use. If so, a
    /// new row may conflict with an existing row.
    pub may_conflict: bool,
}

/// A unique index that `ON CONFLICT (columns)` can use: it is valid, not deferrable, not partial, and without expressions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UniqueIndex {
    /// The key columns in the index's order, without those of `INCLUDE`.
    pub columns: Vec<String>,
    /// Whether the index is `NULLS NOT DISTINCT`. In such an index, NULL equals NULL.
    pub nulls_not_distinct: bool,
}

impl UniqueIndex {
    fn is_on(&self, key: &[String]) -> bool {
        self.columns.len() == key.len() && key.iter().all(|column| self.columns.contains(column))
    }
}

impl Catalog {
    /// Returns the catalog of a table of which only the name is known.
    pub fn without_columns(table: TableName) -> Self {
        let (kind, columns, unique) = (RelationKind::Table, Vec::new(), Vec::new());
        Self { table, oid: 0, kind, row_security: false, columns, unique, may_conflict: false }
    }

    /// Returns whether one of the indexes in [`Self::unique`] has exactly these columns, in any order.
    pub fn is_unique(&self, key: &[String]) -> bool {
        self.unique.iter().any(|index| index.is_on(key))
    }

    /// Returns the nullable columns of a key, if a unique index on the key is `NULLS NOT DISTINCT`. They are in the order of that
    /// index. Without such an index, returns nothing.
    pub fn null_keys<'a>(&self, key: &'a [String]) -> Vec<&'a str> {
        let is_nullable = |name: &&str| self.columns.iter().any(|column| column.name == **name && !column.not_null);
        let index = self.unique.iter().find(|index| index.nulls_not_distinct && index.is_on(key));
        let columns = index.into_iter().flat_map(|index| &index.columns);
        columns
            .filter_map(|column| key.iter().find(|name| *name == column))
            .map(String::as_str)
            .filter(is_nullable)
            .collect()
    }
}

/// A column of the target table. `type_oid` and `type_text` describe its type. `base_type` (a `pg_type.typname`), `base_type_oid`
/// and `kind` describe the same type. For a domain, they describe its base type, whose binary form COPY uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogColumn {
    pub name: String,
    pub type_oid: u32,
    pub base_type: String,
    pub base_type_oid: u32,
    /// The type as SQL writes it, for messages: `character varying(16)`. Made by `format_type(atttypid, atttypmod)`.
    pub type_text: String,
    pub kind: TypeKind,
    /// The type modifier: it contains the length of a varchar(n), or the precision and scale of a numeric. -1 if there is none.
    /// It may come from a domain: the type of the column, or the type of an array's elements.
    pub typmod: i32,
    pub not_null: bool,
    /// Whether Postgres gives the column a value if INSERT leaves it out: a default, a domain's default, an identity or a
    /// generated value.
    pub has_default: bool,
    /// The oid of the column's own default (`pg_attrdef.oid`), or of its identity's sequence. Setting another default changes the
    /// oid. `None` if the column is generated, or has neither of the two. A domain's default doesn't count.
    pub default_oid: Option<u32>,
    /// Set for `GENERATED ALWAYS AS (expression)`: neither COPY nor INSERT may fill the column.
    pub generated: Option<Generated>,
    /// `GENERATED ALWAYS AS IDENTITY`: COPY may fill the column, INSERT only with `OVERRIDING SYSTEM VALUE`, and UPDATE never.
    pub identity_always: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// Whether the column is STORED. Otherwise it is VIRTUAL, and no unique index can contain it.
    pub stored: bool,
    /// The names of the columns that the expression reads.
    pub from: Vec<String>,
    /// The oid of the expression (`pg_attrdef.oid`). Setting another expression changes the oid.
    pub oid: u32,
}

/// The kind of a relation in `pg_class`. Plans reject views and `Other` as a pipeline's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelationKind {
    Table,
    Partitioned,
    /// Views and materialized views.
    View,
    Foreign,
    /// Indexes, sequences, composite types and others.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum TypeKind {
    /// A base type or a range type. [`CatalogColumn::base_type_oid`] says which type it is.
    #[default]
    Scalar,
    Enum {
        labels: Vec<String>,
    },
    /// `element_oid` is the oid of the elements' type; the binary form of an array contains it. `element_base_oid` is the same
    /// oid, unless the elements' type is a domain. Then it is the oid of the domain's base type. `element_type` is the
    /// `pg_type.typname` for `element_base_oid`. `labels` are an enum's labels; `None` if the elements aren't enums.
    Array {
        element_type: String,
        element_oid: u32,
        element_base_oid: u32,
        labels: Option<Vec<String>>,
    },
    /// A composite type, a multirange or a pseudo-type.
    Other,
}

/// A table's schema-qualified name, unquoted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    pub schema: String,
    pub name: String,
}

impl TableName {
    /// Returns the name as SQL, with both parts in double quotes.
    pub fn quoted(&self) -> String {
        format!("{}.{}", quote_identifier(&self.schema), quote_identifier(&self.name))
    }
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

const SYSTEM_COLUMNS: [&str; 6] = ["tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"];
/// The length in bytes of the longest identifier that Postgres doesn't truncate.
pub const NAME_MAX: usize = 63;

/// Returns whether a table can have a column with exactly this name. The name must not be empty, contain a NUL or name a system
/// column, and it must be short enough that Postgres doesn't truncate it.
pub fn can_name_a_column(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len()) && !name.contains('\0') && !SYSTEM_COLUMNS.contains(&name)
}

/// Returns an identifier as SQL, in double quotes: `a"b` becomes `"a""b"`.
pub fn quote_identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
