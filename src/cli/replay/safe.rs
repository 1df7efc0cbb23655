//! Whether records may go a second time into the table that they are in already. Pure.

use crate::config::{AggregateFunction, Pipeline, TableMode};

/// Why a replay into the pipeline's own table would change what it says; `None` where it comes to the same.
pub(super) fn refuses(pipeline: &Pipeline) -> Option<String> {
    match &pipeline.table.mode {
        TableMode::Append => Some("mode append would write every row once more".to_owned()),
        TableMode::InsertNew { .. } => None,
        TableMode::Upsert { deletes: true, .. } => {
            Some("with `deletes` an old tombstone would delete a newer row".to_owned())
        }
        TableMode::Upsert { newer_by: None, .. } => {
            Some("without `newer_by` an old record would take the place of a newer row".to_owned())
        }
        TableMode::Upsert { newer_by: Some(_), .. } => None,
        TableMode::Aggregate { .. } => pipeline.columns.iter().flatten().find_map(|column| {
            let counts = match &column.aggregate.as_ref()?.function {
                AggregateFunction::Sum | AggregateFunction::Count => true,
                AggregateFunction::Min
                | AggregateFunction::Max
                | AggregateFunction::First { .. }
                | AggregateFunction::Last { .. } => false,
            };
            counts.then(|| format!("column `{}` sums or counts, and would take each record in once more", column.name))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Aggregate;
    use crate::mapping::fixtures;

    fn refused(mode: TableMode, functions: &[AggregateFunction]) -> Option<String> {
        let columns = functions.iter().map(|function| {
            let mut column = fixtures::mapped("a", "a");
            column.aggregate = Some(Aggregate { function: function.clone(), condition: None });
            column
        });
        let mut pipeline = fixtures::pipeline(Some(columns.collect()));
        pipeline.table.mode = mode;
        refuses(&pipeline)
    }

    fn key() -> Vec<String> {
        vec!["id".to_owned()]
    }

    #[test]
    fn only_modes_that_come_to_the_same_take_a_record_a_second_time() {
        let upsert = |newer_by: Option<&str>, deletes| TableMode::Upsert {
            key: key(),
            newer_by: newer_by.map(str::to_owned),
            deletes,
        };
        assert!(refused(TableMode::Append, &[]).is_some());
        assert!(refused(upsert(None, false), &[]).is_some());
        assert!(refused(upsert(Some("ts"), true), &[]).is_some());
        assert_eq!(refused(upsert(Some("ts"), false), &[]), None);
        assert_eq!(refused(TableMode::InsertNew { key: key() }, &[]), None);
        let by = || "ts".to_owned();
        let same = [
            AggregateFunction::Min,
            AggregateFunction::Max,
            AggregateFunction::First { by: by() },
            AggregateFunction::Last { by: by() },
        ];
        assert_eq!(refused(TableMode::Aggregate { key: key() }, &same), None);
        for counts in [AggregateFunction::Sum, AggregateFunction::Count] {
            assert!(refused(TableMode::Aggregate { key: key() }, &[AggregateFunction::Max, counts]).is_some());
        }
    }
}
