//! Upserts: the last record of a key wins or, with `newer_by`, the newest one.

use super::key::Key;
use super::{DELETED, Deletes, LEFT_OUT, OLD, ORDER, names, quoted};
use crate::catalog::quote_identifier;

/// The input of an upsert's statements. Columns are unquoted, everything else is SQL.
pub(super) struct Upsert<'a> {
    pub(super) table: &'a str,
    pub(super) stage: &'a str,
    /// `INSERT INTO … (…)`, without the rows.
    pub(super) insert: &'a str,
    pub(super) columns: &'a [&'a str],
    /// The columns of `columns` that an update sets to the record's values.
    pub(super) set: &'a [&'a str],
    /// Columns that an update sets to the table's defaults.
    pub(super) reset: &'a [&'a str],
    /// Columns that some records leave unchanged, each with its bit in the mask of [`LEFT_OUT`].
    pub(super) kept: &'a [(u16, &'a str)],
    /// Columns that are not inserted, and that are set to NULL in the staging table. Otherwise Postgres would evaluate their
    /// defaults there, which may advance a sequence.
    pub(super) nulled: &'a [&'a str],
    pub(super) key: &'a Key<'a>,
    pub(super) newer_by: Option<&'a str>,
    pub(super) deletes: bool,
}

impl Upsert<'_> {
    /// Returns the statements of the merge. The result is as if each record were applied in the order of delivery. So a tombstone
    /// deletes the table's row and cancels the batch's earlier records of its key. A later record makes a new row.
    ///
    /// If records may delete rows or leave columns unchanged (`kept`), the table's rows with the keys of the batch are locked
    /// first, in the order of the key; with `deletes`, by [`Self::deletions`]. This prevents deadlocks between writers. Except:
    /// a key that isn't in the table can't be locked, so Postgres may abort a writer of new keys (40P01). Its transaction is
    /// retried.
    pub(super) fn sql(&self) -> String {
        let mut statements = Vec::new();
        if !self.deletes && !self.kept.is_empty() {
            statements.push(self.lock());
        }
        if self.kept.is_empty() {
            statements.push(self.insert_or_update());
        } else {
            statements.push(self.fold());
            statements.push(self.insert_new());
            statements.extend(self.update());
        }
        statements.join("; ")
    }

    /// Returns the statements that delete rows; `None` unless `deletes` is set. They run before those of [`Self::sql`].
    pub(super) fn deletions(&self) -> Option<Deletes> {
        self.deletes.then(|| Deletes { lock: self.lock(), delete: self.delete() })
    }

    fn lock(&self) -> String {
        let Self { table, stage, .. } = self;
        let order: Vec<_> =
            self.key.columns.iter().map(|column| format!("{OLD}.{}", quote_identifier(column))).collect();
        let only = match self.kept {
            [] => format!(" WHERE EXISTS (SELECT FROM {stage} WHERE {DELETED})"),
            _ => String::new(),
        };
        format!(
            "SELECT FROM {table} AS {OLD} JOIN (SELECT DISTINCT {} FROM {stage}) AS s ON {}{only} ORDER BY {} FOR UPDATE OF {OLD}",
            quoted(self.key.columns),
            self.key.finds(OLD, "s"),
            order.join(", "),
        )
    }

    /// Returns the statement that deletes the rows of tombstones. The statement counts the keys of tombstones that were neither
    /// in the table nor in another row of the batch.
    fn delete(&self) -> String {
        let (table, stage, key) = (self.table, self.stage, quoted(self.key.columns));
        let returned: Vec<_> =
            self.key.columns.iter().map(|column| format!("{OLD}.{}", quote_identifier(column))).collect();
        format!(
            "WITH d AS (SELECT DISTINCT {key} FROM {stage} WHERE {DELETED}), \
             gone AS (DELETE FROM {table} AS {OLD} USING d WHERE {} RETURNING {}) \
             SELECT count(*) FROM d WHERE NOT EXISTS (SELECT FROM gone WHERE {}) \
             AND NOT EXISTS (SELECT FROM {stage} AS s WHERE NOT s.{DELETED} AND {})",
            self.key.finds(OLD, "d"),
            returned.join(", "),
            self.key.same("gone", "d"),
            self.key.same("s", "d"),
        )
    }

    /// Returns the condition under which a staged row `s` remains: it isn't a tombstone, and `from` has no later tombstone with
    /// its key.
    fn remains_condition(&self, from: &str) -> String {
        format!(
            "NOT {DELETED} AND NOT EXISTS (SELECT FROM {from} AS d WHERE d.{DELETED} AND {} AND d.{ORDER} > s.{ORDER})",
            self.key.same("d", "s")
        )
    }

    fn precedence(&self) -> String {
        let newest = self.newer_by.map(|column| format!("{} DESC NULLS LAST, ", quote_identifier(column)));
        format!("{}{ORDER} DESC", newest.unwrap_or_default())
    }

    /// Returns the condition under which a row of `new` replaces the table's row with its key. Returns `None` if it always does.
    fn is_replaced_condition(&self, new: &str) -> Option<String> {
        let newer = quote_identifier(self.newer_by?);
        Some(format!("({OLD}.{newer} IS NULL OR {new}.{newer} >= {OLD}.{newer})"))
    }

    /// Returns the statement that inserts or updates one row per key, in the order of the key. A second row of a key in the same
    /// statement would fail with "ON CONFLICT DO UPDATE command cannot affect row a second time".
    fn insert_or_update(&self) -> String {
        let (stage, names, key) = (self.stage, names(self.columns), quoted(self.key.columns));
        let rows = if self.deletes {
            format!("SELECT DISTINCT ON ({key}) {names} FROM {stage} AS s WHERE {}", self.remains_condition(stage))
        } else {
            format!("SELECT DISTINCT ON ({key}) {names} FROM {stage}")
        };
        let set: Vec<_> = self.set.iter().chain(self.reset).map(|column| quote_identifier(column)).collect();
        let set: Vec<_> = set.iter().map(|column| format!("{column} = EXCLUDED.{column}")).collect();
        let action = match (set.is_empty(), self.is_replaced_condition("EXCLUDED")) {
            (true, _) => "NOTHING".to_owned(),
            (false, None) => format!("UPDATE SET {}", set.join(", ")),
            (false, Some(is_replaced_condition)) => {
                format!("UPDATE SET {} WHERE {is_replaced_condition}", set.join(", "))
            }
        };
        let (insert, precedence) = (self.insert, self.precedence());
        format!("{insert} {rows} ORDER BY {key}, {precedence} ON CONFLICT ({key}) DO {action}")
    }

    /// Returns the statement that combines the staged rows of each key into one. The combined row is that of the last record, or
    /// with `newer_by` of the newest one. Except: each column in `kept` has the value of the last record that has one.
    ///
    /// With `newer_by`, leaves out records that would be skipped if the records were applied one by one: those that are older
    /// than the table's row, or older than an earlier record of their key.
    fn fold(&self) -> String {
        let (stage, key, precedence) = (self.stage, quoted(self.key.columns), self.precedence());
        let mut rows = match self.deletes {
            true => format!("SELECT s.* FROM gone AS s WHERE {}", self.remains_condition("gone")),
            false => "SELECT s.* FROM gone AS s".to_owned(),
        };
        if let (Some(newer), Some(is_replaced_condition)) =
            (self.newer_by.map(quote_identifier), self.is_replaced_condition("s"))
        {
            rows = format!(
                "SELECT * FROM (SELECT *, max(\"tidegate rank\") OVER (PARTITION BY {key} ORDER BY {ORDER}) AS \"tidegate highest\" \
                 FROM (SELECT s.*, dense_rank() OVER (PARTITION BY {} ORDER BY s.{newer} NULLS FIRST) AS \"tidegate rank\" \
                 FROM ({rows}) AS s LEFT JOIN {} AS {OLD} ON {} WHERE {OLD} IS NULL OR {is_replaced_condition}) AS s) AS s \
                 WHERE \"tidegate rank\" = \"tidegate highest\"",
                self.key
                    .columns
                    .iter()
                    .map(|column| format!("s.{}", quote_identifier(column)))
                    .collect::<Vec<_>>()
                    .join(", "),
                self.table,
                self.key.finds(OLD, "s"),
            );
        }
        let folded = |column: &&str| {
            let quoted = quote_identifier(column);
            match self.kept.iter().find(|(_, kept)| kept == column) {
                None => quoted,
                Some((bit, _)) => format!(
                    "first_value({quoted}) OVER (PARTITION BY {key} ORDER BY get_bit({LEFT_OUT}, {bit}), {precedence})"
                ),
            }
        };
        let values: Vec<_> =
            self.columns.iter().map(folded).chain(self.nulled.iter().map(|_| "NULL".to_owned())).collect();
        format!(
            "WITH gone AS (DELETE FROM {stage} RETURNING *) INSERT INTO {stage} ({}, {LEFT_OUT}) \
             SELECT DISTINCT ON ({key}) {}, bit_and({LEFT_OUT}) OVER (PARTITION BY {key}) FROM ({rows}) AS s \
             ORDER BY {key}, {precedence}",
            names(&[self.columns, self.nulled].concat()),
            values.join(", "),
        )
    }

    /// Returns the statement that inserts the combined rows whose key the table doesn't have. It leaves the other rows in the
    /// staging table.
    fn insert_new(&self) -> String {
        let (stage, names, key) = (self.stage, names(self.columns), quoted(self.key.columns));
        let returned: Vec<_> =
            self.key.columns.iter().map(|column| format!("{OLD}.{}", quote_identifier(column))).collect();
        format!(
            "WITH new AS ({} SELECT {names} FROM {stage} ORDER BY {key} ON CONFLICT ({key}) DO NOTHING RETURNING {}) \
             DELETE FROM {stage} AS s USING new WHERE {}",
            self.insert,
            returned.join(", "),
            self.key.same("s", "new"),
        )
    }

    /// Returns the statement that updates the rows that exist; `None` if there is no column to set. This is a separate statement
    /// from the insert, so that it sees rows that another writer inserted in the meantime.
    fn update(&self) -> Option<String> {
        let set = |column: &&str| {
            let quoted = quote_identifier(column);
            match self.kept.iter().find(|(_, kept)| kept == column) {
                None => format!("{quoted} = s.{quoted}"),
                Some((bit, _)) => format!(
                    "{quoted} = CASE WHEN get_bit(s.{LEFT_OUT}, {bit}) = 1 THEN {OLD}.{quoted} ELSE s.{quoted} END"
                ),
            }
        };
        let mut set: Vec<_> = self.set.iter().map(set).collect();
        set.extend(self.reset.iter().map(|column| format!("{} = DEFAULT", quote_identifier(column))));
        let only = self
            .is_replaced_condition("s")
            .map_or(String::new(), |is_replaced_condition| format!(" AND {is_replaced_condition}"));
        (!set.is_empty()).then(|| {
            format!(
                "UPDATE {} AS {OLD} SET {} FROM {} AS s WHERE {}{only}",
                self.table,
                set.join(", "),
                self.stage,
                self.key.finds(OLD, "s")
            )
        })
    }
}
