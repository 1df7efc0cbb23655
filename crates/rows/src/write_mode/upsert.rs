//! The last record of a key wins, or the newest.

use super::{DELETED, OLD, ORDER, quoted};
use crate::catalog::quote_identifier;

/// What an upsert needs to know. Names are quoted where they stand alone.
pub(super) struct Upsert<'a> {
    pub(super) table: &'a str,
    /// The staging table.
    pub(super) stage: &'a str,
    /// Quoted, the key's among them.
    pub(super) columns: &'a [String],
    pub(super) key: &'a [String],
    pub(super) newer_by: Option<&'a str>,
}

impl Upsert<'_> {
    /// One row a key goes in, in the order of the key: a second one would be "ON CONFLICT DO UPDATE command cannot affect row a
    /// second time".
    pub(super) fn sql(&self) -> String {
        let (stage, names, key) = (self.stage, self.columns.join(", "), quoted(self.key));
        let winners = format!("SELECT DISTINCT ON ({key}) {names} FROM {stage} ORDER BY {key}, {}", self.precedence());
        self.insert(&winners)
    }

    /// The same with tombstones, as if each record were applied in the order of delivery: what came before a key's last
    /// tombstone is gone with the row, what came after it is a new row. It follows [`Self::deletes`].
    pub(super) fn behind_deletes(&self) -> String {
        let (stage, names, key) = (self.stage, self.columns.join(", "), quoted(self.key));
        let winners = format!(
            "SELECT DISTINCT ON ({key}) {names} FROM {stage} AS s WHERE NOT {DELETED} AND NOT EXISTS \
             (SELECT FROM {stage} AS d WHERE d.{DELETED} AND {} AND d.{ORDER} > s.{ORDER}) ORDER BY {key}, {}",
            self.same("d", "s"),
            self.precedence(),
        );
        self.insert(&winners)
    }

    /// Locks the rows that are to be deleted or replaced.
    ///
    /// Rows that are to be deleted and rows that are to be replaced are locked first, in the order of the key. A key that no
    /// table has can't be locked: where two writers bring the same new keys and delete others, Postgres may end one of them
    /// (40P01), and its transaction is sent again.
    pub(super) fn locks(&self) -> String {
        let (table, stage, key) = (self.table, self.stage, quoted(self.key));
        let order: Vec<_> = self.key.iter().map(|column| format!("{OLD}.{}", quote_identifier(column))).collect();
        format!(
            "SELECT FROM {table} AS {OLD} JOIN (SELECT DISTINCT {key} FROM {stage}) AS s ON {} \
             WHERE EXISTS (SELECT FROM {stage} WHERE {DELETED}) ORDER BY {} FOR UPDATE OF {OLD}",
            self.same(OLD, "s"),
            order.join(", "),
        )
    }

    /// Deletes rows and returns how many of the deleted keys neither the table nor the batch had.
    pub(super) fn deletes(&self) -> String {
        let (table, stage, key) = (self.table, self.stage, quoted(self.key));
        let returned: Vec<_> = self.key.iter().map(|column| format!("{OLD}.{}", quote_identifier(column))).collect();
        format!(
            "WITH d AS (SELECT DISTINCT {key} FROM {stage} WHERE {DELETED}), \
             gone AS (DELETE FROM {table} AS {OLD} USING d WHERE {} RETURNING {}) \
             SELECT count(*) FROM d WHERE NOT EXISTS (SELECT FROM gone WHERE {}) \
             AND NOT EXISTS (SELECT FROM {stage} AS s WHERE NOT s.{DELETED} AND {})",
            self.same(OLD, "d"),
            returned.join(", "),
            self.same("gone", "d"),
            self.same("s", "d"),
        )
    }

    fn same(&self, one: &str, other: &str) -> String {
        let equal = self.key.iter().map(|column| {
            let column = quote_identifier(column);
            format!("{one}.{column} = {other}.{column}")
        });
        equal.collect::<Vec<_>>().join(" AND ")
    }

    fn precedence(&self) -> String {
        let newest = self.newer_by.map(|column| format!("{} DESC NULLS LAST, ", quote_identifier(column)));
        format!("{}{ORDER} DESC", newest.unwrap_or_default())
    }

    fn insert(&self, winners: &str) -> String {
        let (table, names, key) = (self.table, self.columns.join(", "), quoted(self.key));
        let is_key = |column: &&String| self.key.iter().any(|key| quote_identifier(key) == **column);
        let set: Vec<_> =
            self.columns.iter().filter(|c| !is_key(c)).map(|column| format!("{column} = EXCLUDED.{column}")).collect();
        let action = match (set.is_empty(), self.newer_by.map(quote_identifier)) {
            (true, _) => "NOTHING".to_owned(),
            (false, None) => format!("UPDATE SET {}", set.join(", ")),
            (false, Some(newer)) => format!(
                "UPDATE SET {} WHERE {OLD}.{newer} IS NULL OR EXCLUDED.{newer} >= {OLD}.{newer}",
                set.join(", ")
            ),
        };
        format!("INSERT INTO {table} AS {OLD} ({names}) {winners} ON CONFLICT ({key}) DO {action}")
    }
}
