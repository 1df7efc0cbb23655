//! How rows get from a COPY into a table that doesn't simply take them: by a staging table and one statement that merges.
//!
//! Everything here is text, made once a plan: the staging table with the types of the target's columns, the COPY into it, and
//! the SQL that folds what is in it and merges it. So a batch costs one COPY and one statement, whatever the mode, and the
//! ledger's move commits with them: what was merged once is never merged again.
//!
//! - An upsert copies only the rows of a batch that may win; see `newest`.
//! - Every writer merges in the order of the key, so that two of them don't wait for each other in a circle.
//! - The order of delivery is a column of the staging table, a number that COPY itself counts: the place of a row in the
//!   table is no order, since a small row may go back into the gap that a large one left.
//! - An error of a merge names no row. The search for bad records copies less and less of the batch, each piece with a merge of
//!   its own, until the record that is refused stands alone.

mod aggregate;
mod check;
pub mod newest;
pub mod partitions;
mod upsert;

use crate::catalog::{Catalog, quote_identifier};
use crate::spec::{RowSpec, WriteMode};
pub(crate) use check::check;
use newest::Newest;

/// Its column that counts rows in the order of delivery. No user's column is called so.
const ORDER: &str = "\"tidegate order\"";
/// Its column that marks tombstones.
const DELETED: &str = "\"tidegate deleted\"";
/// The target as statements call it.
const OLD: &str = "tidegate_old";

/// Rows go into a staging table of the connection's own, and from there into the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Merge {
    /// Makes the staging table, once a connection and outside of any transaction.
    pub create: String,
    /// The COPY into it.
    pub copy: String,
    /// Merges what is in it, behind [`Self::deletes`].
    pub merge: String,
    /// Where tombstones delete.
    pub deletes: Option<Deletes>,
    /// Empties it, for the next COPY of the same transaction. A commit empties it too.
    pub clear: String,
    /// The merge leaves out rows by rule, so that what it merged, not what was copied, is what was written.
    pub skips: bool,
    /// Which rows need not be copied at all.
    pub newest: Option<Newest>,
}

/// What deletes the rows that tombstones name, before the merge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deletes {
    /// Locks the rows of the batch's keys.
    pub lock: String,
    /// Deletes rows; its one number counts deletes that found none.
    pub delete: String,
}

/// The staging table of a connection; where records name their table, one for each, by its number.
pub fn stage(of: Option<u16>) -> String {
    of.map_or_else(|| "tidegate_stage".to_owned(), |number| format!("tidegate_stage_{number}"))
}

/// What follows the COPY; `None` where it goes straight into the table. `stage` is the staging table's name.
pub fn merge(spec: &RowSpec<'_>, columns: &[&str], catalog: &Catalog, stage: &str) -> Option<Merge> {
    let table = catalog.table.quoted();
    let newest = Newest::of(&spec.table.mode, columns, catalog);
    let create = |marks: &str| create(spec, columns, &table, stage, marks);
    let stage = &format!("pg_temp.{stage}");
    let columns: Vec<String> = columns.iter().map(|column| quote_identifier(column)).collect();
    let names = columns.join(", ");
    let mut deleting = None;
    let (merge, skips) = match &spec.table.mode {
        WriteMode::Append if spec.table.sort_by.is_empty() => return None,
        WriteMode::Append => {
            let sort = quoted(&spec.table.sort_by);
            (format!("INSERT INTO {table} ({names}) SELECT {names} FROM {stage} ORDER BY {sort}, {ORDER}"), false)
        }
        WriteMode::InsertNew { key } => (insert_new(&table, stage, &names, key), true),
        WriteMode::Upsert { key, newer_by, deletes } => {
            let upsert = upsert::Upsert { table: &table, stage, columns: &columns, key, newer_by: newer_by.as_deref() };
            deleting = deletes.then(|| Deletes { lock: upsert.locks(), delete: upsert.deletes() });
            (if *deletes { upsert.behind_deletes() } else { upsert.sql() }, false)
        }
        WriteMode::Aggregate { key } => {
            let mapping = spec.columns.unwrap_or_default();
            (aggregate::sql(&table, stage, key, mapping, catalog), false)
        }
    };
    let marks = |mark: &str| if deleting.is_some() { format!(", {mark}") } else { String::new() };
    let (staged, marked) = (marks(&format!("false AS {DELETED}")), marks(DELETED));
    Some(Merge {
        create: create(&staged),
        copy: format!("COPY {stage} ({names}{marked}) FROM STDIN (FORMAT binary)"),
        merge,
        deletes: deleting,
        clear: format!("TRUNCATE {stage}"),
        skips,
        newest,
    })
}

/// WITH NO DATA takes the columns' types and nothing else: constraints and defaults are the target's to ask. A count is fed by
/// marks, whatever its own type.
fn create(spec: &RowSpec<'_>, columns: &[&str], table: &str, stage: &str, marks: &str) -> String {
    let counts = aggregate::counts(spec.columns.unwrap_or_default());
    let columns: Vec<String> = columns
        .iter()
        .map(|name| {
            let quoted = quote_identifier(name);
            if counts.contains(name) { format!("NULL::bool AS {quoted}") } else { quoted }
        })
        .collect();
    let columns = columns.join(", ");
    format!(
        "DROP TABLE IF EXISTS pg_temp.{stage}; \
         CREATE TEMP TABLE {stage} ON COMMIT DELETE ROWS AS SELECT {columns}{marks} FROM {table} WITH NO DATA; \
         ALTER TABLE pg_temp.{stage} ADD COLUMN {ORDER} int8 GENERATED ALWAYS AS IDENTITY (CACHE 1000)"
    )
}

/// Of several rows with one key the first delivered is the one that stays.
fn insert_new(table: &str, stage: &str, names: &str, key: &[String]) -> String {
    let (order, conflict) = match quoted(key) {
        key if key.is_empty() => (ORDER.to_owned(), String::new()),
        key => (format!("{key}, {ORDER}"), format!(" ({key})")),
    };
    format!(
        "INSERT INTO {table} ({names}) SELECT {names} FROM {stage} ORDER BY {order} ON CONFLICT{conflict} DO NOTHING"
    )
}

/// Names as a list of SQL.
fn quoted(names: &[String]) -> String {
    names.iter().map(|name| quote_identifier(name)).collect::<Vec<_>>().join(", ")
}
