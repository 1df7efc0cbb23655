//! The writes that can't COPY directly into the table. They COPY into a staging table, and then merge its rows into the table.
//!
//! This module makes SQL statements that create the staging table with the target's column types, copy rows into it, and merge
//! them. A window (the rows of one transaction) normally costs one COPY and one statement. If rows leave out different columns,
//! there is one COPY per set of columns. Tombstones need further statements, and so do columns that keep their values. The same
//! transaction advances the ledger, so that no row is merged twice.
//!
//! - If possible, an upsert copies only those rows of a window that may be the newest of their key; see `newest`.
//! - A merge with a key writes in the order of the key, so that writers don't deadlock. For an exception, see `upsert`.
//! - The staging table has a column with the order of delivery. The physical position of a row doesn't show this order: a small
//!   row may fill the gap that a large row left.
//! - A column that a row leaves out gets its default from Postgres, as with INSERT. Normally the target fills in the default. In
//!   some cases, the staging table fills it in; see `shaped`.
//! - The error of a merge names no row. The poison search copies smaller and smaller parts of the batch, each with its own merge,
//!   until the record that Postgres refuses is alone in its part.

mod aggregate;
mod check;
mod computed;
mod key;
pub mod newest;
pub mod partitions;
pub mod shaped;
mod upsert;

use crate::catalog::{Catalog, RelationKind, quote_identifier};
use crate::mapping::shapes::Shapes;
use crate::spec::{RowSpec, WriteMode};
pub(crate) use check::check;
pub use computed::computed;
pub(crate) use computed::key_inputs;
use key::Key;
use newest::Newest;
use upsert::Upsert;

/// The staging table's column with the order of delivery. No column of a user has this name.
const ORDER: &str = "\"tidegate order\"";
/// The staging table's column that says whether a row is a delete.
const DELETED: &str = "\"tidegate deleted\"";
/// The staging table's column with a bit mask of the columns that a record left out. It exists if an upsert may keep an existing
/// row's values in such columns.
const LEFT_OUT: &str = "\"tidegate left out\"";
/// The alias of the target table in statements.
const OLD: &str = "tidegate_old";

/// The statements that stage a window's rows in a temporary table of the connection, and merge them into the target. `create`
/// runs first. Then `copy`, the [`Deletes`] if there are any, and `merge` run for each window. If the rows of a window leave
/// columns out, the window uses the statements of [`shaped`] instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    /// The name of the staging table, with its schema.
    pub stage: String,
    /// Creates the staging table, after dropping an older one. Runs once per connection and plan, outside of any transaction, so
    /// that no rollback removes the table. Except: it runs in the window's transaction if records name their tables. It runs
    /// there again if the target's defaults or generated columns have changed.
    pub create: String,
    /// The columns of the staging table that need the target's defaults: those that a row may leave out and that have a default
    /// of their own. The default of a domain doesn't count.
    pub defaults: Vec<String>,
    /// The generated columns that the merge compares. The staging table computes them as the target does; see `computed`.
    pub computed: Vec<String>,
    pub copy: String,
    pub merge: String,
    /// Set if records can delete rows.
    pub deletes: Option<Deletes>,
    /// Empties the staging table. Runs before the COPY if the same transaction has already filled the table. A commit empties it
    /// too.
    pub clear: String,
    /// How written rows are counted. `true` (mode insert_new): only the rows that the merge reports count. `false`: all rows of
    /// the window count, even if an upsert skips some of them.
    pub skips: bool,
    /// Picks the rows that must be copied. `None` if all rows must be copied.
    pub newest: Option<Newest>,
}

impl Merge {
    /// Returns the statement that gives the staging table the defaults of its target; `None` if no column needs a default.
    /// `of_target` has the target's columns, each with its default as SQL. The caller reads these texts when it creates the
    /// staging table, and not when the plan is made, because reading them takes a lock on the target.
    pub fn set_defaults(&self, of_target: &[(String, String)]) -> Option<String> {
        let taken = of_target.iter().filter(|(name, _)| self.defaults.contains(name));
        let alter: Vec<_> =
            taken.map(|(name, sql)| format!("ALTER COLUMN {} SET DEFAULT {sql}", quote_identifier(name))).collect();
        (!alter.is_empty()).then(|| format!("ALTER TABLE {} {}", self.stage, alter.join(", ")))
    }

    /// Returns the statement that adds the generated columns to the staging table; `None` if the merge compares none of them.
    /// `of_target` has the names of the target's generated columns and their definitions as SQL.
    pub fn add_computed(&self, of_target: &[(String, String)]) -> Option<String> {
        let taken = of_target.iter().filter(|(name, _)| self.computed.contains(name));
        let add: Vec<_> = taken.map(|(name, sql)| format!("ADD COLUMN {} {sql}", quote_identifier(name))).collect();
        (!add.is_empty()).then(|| format!("ALTER TABLE {} {}", self.stage, add.join(", ")))
    }
}

/// The statements that delete the rows of tombstones, and of other records that delete. They run before the merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletes {
    /// Locks the table's rows whose keys are in the batch. Locks nothing if the batch has no deletes, and no row leaves out a
    /// column that keeps its value.
    pub lock: String,
    /// Deletes the rows. Returns how many keys of tombstones were neither in the table nor in another row of the batch.
    pub delete: String,
}

/// Returns whether rows are first copied into a staging table, and then merged. All modes except `append` need that, and so does
/// `sort_by`. Tables with row-level security and the views in trials of `tidegate check` need it too, because Postgres refuses
/// COPY into these.
pub fn is_staged(spec: &RowSpec<'_>, catalog: &Catalog) -> bool {
    !matches!(spec.table.mode, WriteMode::Append)
        || !spec.table.sort_by.is_empty()
        || catalog.row_security
        || catalog.kind == RelationKind::View
}

/// Returns the name of a connection's staging table, without its schema. `of` is the target's [`MergeTarget::number`].
pub fn stage(of: Option<u16>) -> String {
    of.map_or_else(|| "tidegate_stage".to_owned(), |number| format!("tidegate_stage_{number}"))
}

/// A target table and the settings of its rows, from which the statements are made.
#[derive(Clone, Copy, Debug)]
pub struct MergeTarget<'a> {
    pub spec: &'a RowSpec<'a>,
    pub catalog: &'a Catalog,
    /// The columns of a complete row (a row that leaves no column out), unquoted, in the order of the row's fields.
    pub columns: &'a [&'a str],
    pub shapes: &'a Shapes,
    /// The index of the table if records name their tables. Each table then has its own staging table. Otherwise `None`.
    pub number: Option<u16>,
}

/// The columns of the staged rows, by how the merge treats them.
#[derive(Debug, Default)]
struct Staged<'a> {
    /// The columns that are merged; the others get the target's defaults.
    columns: Vec<&'a str>,
    /// Columns that are not merged, and that an upsert resets to their default in a row that exists.
    reset: Vec<&'a str>,
    /// Columns that are not merged, and that are set to NULL in the staging table. Otherwise Postgres would evaluate their
    /// defaults there, which may advance a sequence.
    nulled: Vec<&'a str>,
    /// Merged columns, each with its bit in the mask of [`LEFT_OUT`]. If a record leaves such a column out, an upsert keeps the
    /// column's value in a row that exists.
    kept: Vec<(u16, &'a str)>,
}

impl MergeTarget<'_> {
    /// Returns the statements for staging and merging rows; `None` if COPY writes directly into the table.
    pub fn merge(&self) -> Option<Merge> {
        let staged = Staged { columns: self.columns.to_vec(), ..Staged::default() };
        let (merge, deletes) = self.merge_of(&staged)?;
        // In a trial of `tidegate check`, the target is a view, and the transaction may be read-only. Postgres refuses TRUNCATE
        // in a read-only transaction.
        let clear = if self.catalog.kind == RelationKind::View { "DELETE FROM" } else { "TRUNCATE" };
        Some(Merge {
            merge,
            deletes,
            stage: self.stage(),
            create: self.create(),
            defaults: self
                .shapes
                .columns()
                .map(|(_, column)| column.name.clone())
                .filter(|name| self.has_own(name))
                .collect(),
            computed: computed(self.spec.table, self.catalog).map(|column| column.name.clone()).collect(),
            copy: self.copy(self.columns, &[]),
            clear: format!("{clear} {}", self.stage()),
            skips: matches!(self.spec.table.mode, WriteMode::InsertNew { .. }),
            newest: Newest::of(&self.spec.table.mode, self.columns, self.catalog),
        })
    }

    fn stage(&self) -> String {
        format!("pg_temp.{}", stage(self.number))
    }

    /// Returns whether the column has a default of its own, not only that of its domain.
    fn has_own(&self, name: &str) -> bool {
        self.catalog.columns.iter().any(|of| of.name == name && of.default_oid.is_some())
    }

    fn deletes(&self) -> bool {
        matches!(self.spec.table.mode, WriteMode::Upsert { deletes: true, .. })
    }

    /// Returns the COPY into the staging table. Its columns are `columns`, then [`DELETED`] if records can delete rows, then
    /// those in `behind`.
    fn copy(&self, columns: &[&str], behind: &[String]) -> String {
        let mut names: Vec<_> = columns.iter().map(|column| quote_identifier(column)).collect();
        names.extend(self.deletes().then(|| DELETED.to_owned()));
        names.extend_from_slice(behind);
        format!("COPY {} ({}) FROM STDIN (FORMAT binary)", self.stage(), names.join(", "))
    }

    /// Returns the statement that merges, and the deletes that run before it. `None` if COPY writes directly into the table.
    fn merge_of(&self, staged: &Staged<'_>) -> Option<(String, Option<Deletes>)> {
        let Self { spec, catalog, .. } = self;
        let table = &catalog.table.quoted();
        let stage = &self.stage();
        let names = &names(&staged.columns);
        // INSERT requires OVERRIDING SYSTEM VALUE to fill a column that is GENERATED ALWAYS AS IDENTITY.
        let is_fixed = |column: &&str| catalog.columns.iter().any(|of| of.name == **column && of.identity_always);
        let fixed: Vec<_> = staged.columns.iter().chain(&staged.reset).filter(|column| is_fixed(column)).collect();
        // If the target is a view, its own default may fill such a column even if the merge doesn't name it.
        let is_view = catalog.kind == RelationKind::View;
        let overrides =
            staged.columns.iter().any(is_fixed) || is_view && catalog.columns.iter().any(|of| of.identity_always);
        let overriding = if overrides { " OVERRIDING SYSTEM VALUE" } else { "" };
        let insert = |table: &str| format!("INSERT INTO {table} ({names}){overriding}");
        let mut deleting = None;
        let merge = match &spec.table.mode {
            WriteMode::Append if !is_staged(spec, catalog) => return None,
            WriteMode::Append => {
                let sort = spec.table.sort_by.iter().map(|column| quote_identifier(column) + ", ").collect::<String>();
                format!("{} SELECT {names} FROM {stage} ORDER BY {sort}{ORDER}", insert(table))
            }
            WriteMode::InsertNew { key } => insert_new(&insert(table), stage, names, key),
            WriteMode::Upsert { key, newer_by, deletes } => {
                let set = staged.columns.iter().filter(|column| !fixed.contains(column));
                let set = set.filter(|column| !key.iter().any(|key| key == **column));
                let reset = staged.reset.iter().filter(|column| !fixed.contains(column));
                let upsert = Upsert {
                    table,
                    stage,
                    insert: &insert(&format!("{table} AS {OLD}")),
                    columns: &staged.columns,
                    set: &set.copied().collect::<Vec<_>>(),
                    reset: &reset.copied().collect::<Vec<_>>(),
                    kept: &staged.kept,
                    nulled: &staged.nulled,
                    key: &Key::new(key, catalog),
                    newer_by: newer_by.as_deref(),
                    deletes: *deletes,
                };
                deleting = upsert.deletions();
                upsert.sql()
            }
            WriteMode::Aggregate { key } => {
                let mapping = spec.columns.unwrap_or_default();
                let insert = &insert(&format!("{table} AS {OLD}"));
                aggregate::sql(insert, names, stage, key, mapping, catalog)
            }
        };
        Some((merge, deleting))
    }

    /// Returns the statement that creates the staging table. CREATE TABLE AS copies the columns' types but not the constraints,
    /// which the target checks itself. A column for a count is a bool in the staging table, because a row only says whether it is
    /// counted.
    fn create(&self) -> String {
        let (table, stage) = (self.catalog.table.quoted(), stage(self.number));
        let counts = aggregate::counts(self.spec.columns.unwrap_or_default());
        let of = |name: &&str| {
            let quoted = quote_identifier(name);
            if counts.contains(name) { format!("NULL::bool AS {quoted}") } else { quoted }
        };
        let mut columns: Vec<String> = self.columns.iter().map(of).collect();
        columns.extend(self.deletes().then(|| format!("false AS {DELETED}")));
        if self.shapes.columns().any(|(_, column)| column.keeps) {
            columns.push(format!("NULL::bit({}) AS {LEFT_OUT}", self.shapes.bits()));
        }
        format!(
            "DROP TABLE IF EXISTS pg_temp.{stage}; \
             CREATE TEMP TABLE {stage} ON COMMIT DELETE ROWS AS SELECT {} FROM {table} WITH NO DATA; \
             ALTER TABLE pg_temp.{stage} ADD COLUMN {ORDER} int8 GENERATED BY DEFAULT AS IDENTITY (CACHE 1000)",
            columns.join(", ")
        )
    }
}

/// Returns the merge of `insert_new`. If several rows have the same key, the first one delivered is kept.
fn insert_new(insert: &str, stage: &str, names: &str, key: &[String]) -> String {
    let (order, conflict) = match quoted(key) {
        key if key.is_empty() => (ORDER.to_owned(), String::new()),
        key => (format!("{key}, {ORDER}"), format!(" ({key})")),
    };
    format!("{insert} SELECT {names} FROM {stage} ORDER BY {order} ON CONFLICT{conflict} DO NOTHING")
}

fn names(columns: &[&str]) -> String {
    columns.iter().map(|name| quote_identifier(name)).collect::<Vec<_>>().join(", ")
}

fn quoted(names: &[String]) -> String {
    names.iter().map(|name| quote_identifier(name)).collect::<Vec<_>>().join(", ")
}
