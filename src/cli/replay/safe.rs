//! Decides whether records may be written a second time into a table that already has them. Pure.

use tidegate_rows::spec::{AggregateFunction, Column, WriteMode};

/// Returns why a replay into the pipeline's own table could damage its content; `None` if it is safe.
pub(in crate::cli) fn refuses(mode: &WriteMode, columns: &[Column]) -> Option<String> {
    match mode {
        WriteMode::Append => Some("mode append would write every row once more".to_owned()),
        WriteMode::InsertNew { .. } => None,
        WriteMode::Upsert { .. } => needs_order(mode).map(str::to_owned),
        WriteMode::Aggregate { .. } => columns.iter().find_map(|column| {
            let counts = match &column.aggregate.as_ref()?.function {
                AggregateFunction::Sum | AggregateFunction::Count => true,
                AggregateFunction::Min
                | AggregateFunction::Max
                | AggregateFunction::First { .. }
                | AggregateFunction::Last { .. } => false,
            };
            counts.then(|| format!("column `{}` is a sum or a count, and would include each record twice", column.name))
        }),
    }
}

/// Returns why it could damage the table's content to write an old record of a key after newer ones; `None` if the order doesn't
/// matter.
pub(in crate::cli) fn needs_order(mode: &WriteMode) -> Option<&'static str> {
    match mode {
        WriteMode::Upsert { deletes: true, .. } => Some(
            "with `deletes` an old tombstone would delete a newer row, and an old record would restore a deleted row",
        ),
        WriteMode::Upsert { newer_by: None, .. } => Some("without `newer_by` an old record would replace a newer row"),
        WriteMode::Upsert { .. } | WriteMode::Append | WriteMode::InsertNew { .. } | WriteMode::Aggregate { .. } => {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_rows::spec::{Aggregate, NulPolicy, Source};

    use super::*;

    fn refused(mode: &WriteMode, functions: &[AggregateFunction]) -> Option<String> {
        let columns = functions.iter().map(|function| Column {
            name: "a".to_owned(),
            source: Source::Field(vec!["a".to_owned()]),
            type_name: None,
            unit: None,
            zone: None,
            missing: None,
            keep: None,
            default: None,
            nul: NulPolicy::DeadLetter,
            not_null: false,
            function: None,
            aggregate: Some(Aggregate { function: function.clone(), condition: None }),
        });
        refuses(mode, &columns.collect::<Vec<_>>())
    }

    fn key() -> Vec<String> {
        vec!["id".to_owned()]
    }

    #[test]
    fn only_modes_that_come_to_the_same_take_a_record_a_second_time() {
        let upsert = |newer_by: Option<&str>, deletes| WriteMode::Upsert {
            key: key(),
            newer_by: newer_by.map(str::to_owned),
            deletes,
        };
        assert!(refused(&WriteMode::Append, &[]).is_some());
        assert!(refused(&upsert(None, false), &[]).is_some());
        assert!(refused(&upsert(Some("ts"), true), &[]).is_some());
        assert_eq!(refused(&upsert(Some("ts"), false), &[]), None);
        assert_eq!(refused(&WriteMode::InsertNew { key: key() }, &[]), None);
        let by = || "ts".to_owned();
        let same = [
            AggregateFunction::Min,
            AggregateFunction::Max,
            AggregateFunction::First { by: by() },
            AggregateFunction::Last { by: by() },
        ];
        assert_eq!(refused(&WriteMode::Aggregate { key: key() }, &same), None);
        for counts in [AggregateFunction::Sum, AggregateFunction::Count] {
            assert!(refused(&WriteMode::Aggregate { key: key() }, &[AggregateFunction::Max, counts]).is_some());
        }
    }
}
