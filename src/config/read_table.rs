//! Reads a pipeline's target [`Table`] from the configuration tree.

use tidegate_rows::catalog::TableName;
use tidegate_rows::spec::{AggregateFunction, Column, Missing, Route, Table, WriteMode};

use super::node::ConfigNode;
use super::{defaults, names, partition_by, route};

/// Reads `[pipelines.NAME.table]` and compares it with the mapping.
pub(super) fn target(pipeline: &ConfigNode<'_>, columns: Option<&[Column]>) -> Table {
    let node = pipeline.at("table");
    node.at("name").require("name the table to write, as in name = \"public.rides\"");
    let max_tables = node.at("max_tables").integer(1..=defaults::MAX_TABLES_LIMIT, defaults::MAX_TABLES);
    let text = node.at("name").text();
    let name = text.map_or(Ok(None), |text| route::template(text, max_tables).map(Some)).unwrap_or_else(|message| {
        node.at("name").fault(message);
        None
    });
    let (name, route) = name.unwrap_or_else(|| (TableName { schema: String::new(), name: String::new() }, None));
    if let Some(route) = &route {
        routed(pipeline, &node, columns, route);
    } else if node.at("max_tables").is_set() && text.is_some() {
        node.at("max_tables").fault("of no use to a single table; it is for a name with placeholders");
    }
    let create = node.at("create").flag(false);
    if create {
        creatable(&node, columns, &pipeline.at("columns"));
    }
    Table {
        name,
        route,
        mode: mode(pipeline, &node, columns),
        create,
        after_create: after_create(&node, create),
        evolve: evolve(&node),
        sort_by: sort_by(&node, columns),
        partition_by: partition_by::read(&node.at("partition_by"), columns),
    }
}

/// Reports options that can't be combined with placeholders in the table's name.
fn routed(pipeline: &ConfigNode<'_>, node: &ConfigNode<'_>, columns: Option<&[Column]>, route: &Route) {
    if node.at("mode").text() == Some("upsert") && deletes(pipeline, node) && route.needs_value() {
        node.at("deletes").fault(
            "a tombstone has no fields to name its table, and this name has a placeholder for one; name it by {meta:topic}, {meta:key} or {header:NAME}",
        );
    }
    for key in ["partition_by", "evolve"] {
        if node.at(key).is_set() {
            node.at(key)
                .fault(format!("{key} is for one table, and its name has a placeholder; leave one of the two out"));
        }
    }
    if columns.is_none() && !pipeline.at("columns").is_set() {
        let message = "tables that records name are planned for by columns; write a [pipelines.NAME.columns]";
        node.at("name").fault(message);
    }
}

fn evolve(node: &ConfigNode<'_>) -> bool {
    let at = node.at("evolve");
    let evolves = at.choice(&[("add", true)]).unwrap_or(false);
    if evolves && node.at("mode").text() == Some("aggregate") {
        at.fault("of no use to mode = \"aggregate\": Tidegate can't know how to aggregate the values of a new field");
    }
    evolves
}

/// Checks the name of a column that another setting refers to. If the table is created from the mapping, the mapping
/// must have the column. An existing table may compute the column (GENERATED ALWAYS AS), so in that case the column's
/// name need only be valid.
fn is_own(node: &ConfigNode<'_>, columns: Option<&[Column]>, name: &str) -> Result<(), String> {
    match columns {
        Some(columns) if node.at("create").flag(false) && !columns.iter().any(|mapped| mapped.name == name) => {
            Err(format!("{name:?} is not a column of the mapping"))
        }
        _ => names::identifier(name),
    }
}

fn mode(pipeline: &ConfigNode<'_>, node: &ConfigNode<'_>, columns: Option<&[Column]>) -> WriteMode {
    let words = ["append", "insert_new", "upsert", "aggregate"].map(|word| (word, word));
    let at = node.at("mode");
    let word = at.choice(&words).unwrap_or("append");
    let known = !at.is_set() || at.text().is_some_and(|text| words.contains(&(text, text)));
    let key = node.at("key");
    let key_columns = key.list(|column| is_own(node, columns, column)).unwrap_or_default();
    if word == "append" && known && key.is_set() {
        key.fault("of no use to mode = \"append\"; write mode = \"insert_new\" or leave it out");
    }
    for name in ["newer_by", "deletes", "delete_where"] {
        if node.at(name).is_set() && word != "upsert" && known && (name != "deletes" || node.at(name).flag(false)) {
            node.at(name).fault(format!("of no use to mode = {word:?}; it is for mode = \"upsert\""));
        }
    }
    if matches!(word, "upsert" | "aggregate") {
        key.require("name the columns that identify a row, as in key = [\"vehicle_id\"]");
    }
    if word != "aggregate" && known {
        for column in columns.unwrap_or_default().iter().filter(|column| column.aggregate.is_some()) {
            let at = pipeline.at("columns").at(&column.name).at("aggregate");
            at.fault(format!("of no use to mode = {word:?}; it is for mode = \"aggregate\""));
        }
    }
    if word != "upsert" && known {
        for column in columns.unwrap_or_default().iter().filter(|column| column.missing == Some(Missing::Keep)) {
            let said = if column.keep.is_some() { "keep" } else { "missing" };
            let at = pipeline.at("columns").at(&column.name).at(said);
            at.fault(format!("of no use to mode = {word:?}, which leaves no value of a row as it is; keeping is for mode = \"upsert\""));
        }
    }
    if word == "upsert" {
        let decides =
            |name: &str| node.at("newer_by").text() == Some(name) || key_columns.iter().any(|key| key == name);
        for column in columns.unwrap_or_default().iter().filter(|column| column.missing == Some(Missing::Keep)) {
            if decides(&column.name) {
                let said = if column.keep.is_some() { "keep" } else { "missing" };
                let at = pipeline.at("columns").at(&column.name).at(said);
                at.fault(
                    "`key` and `newer_by` decide which row is written, so a record must give them; leave this out",
                );
            }
        }
    }
    match word {
        "insert_new" => WriteMode::InsertNew { key: key_columns },
        "upsert" => {
            let newer_by = newer_by(node, columns, &key_columns);
            WriteMode::Upsert { key: key_columns, newer_by, deletes: deletes(pipeline, node) }
        }
        "aggregate" => {
            aggregates(pipeline, columns, &key_columns);
            WriteMode::Aggregate { key: key_columns }
        }
        _ => WriteMode::Append,
    }
}

/// Returns whether records may delete rows. If `deletes` isn't set, they may delete rows if `envelope` is `"debezium"`
/// or `delete_where` is set.
fn deletes(pipeline: &ConfigNode<'_>, node: &ConfigNode<'_>) -> bool {
    let implied = pipeline.at("decode").at("envelope").text() == Some("debezium") || node.at("delete_where").is_set();
    let deletes = node.at("deletes").flag(implied);
    if !deletes && node.at("delete_where").is_set() {
        node.at("deletes").fault("delete_where says which records delete; leave one of the two out");
    }
    deletes
}

fn newer_by(node: &ConfigNode<'_>, columns: Option<&[Column]>, key: &[String]) -> Option<String> {
    let at = node.at("newer_by");
    let name = at.text()?;
    if let Err(message) = is_own(node, columns, name) {
        at.fault(message);
    } else if key.iter().any(|column| column == name) {
        at.fault(format!("{name:?} is part of the key, so all rows with one key have the same"));
    }
    Some(name.to_owned())
}

/// Checks the columns for mode `aggregate`. Each column must be part of the key or have an aggregate. With `first`, `by` must
/// name a column with aggregate `min`; with `last`, a column with `max`.
fn aggregates(pipeline: &ConfigNode<'_>, columns: Option<&[Column]>, key: &[String]) {
    let Some(columns) = columns else {
        if !pipeline.at("columns").is_set() {
            pipeline
                .at("table")
                .at("mode")
                .fault("needs columns with their aggregates; write a [pipelines.NAME.columns]");
        }
        return;
    };
    if pipeline.at("unknown_fields").is_table() {
        pipeline
            .at("unknown_fields")
            .fault("fields of many records can't be combined into one value; map them, or leave them out");
    }
    for column in columns {
        let node = pipeline.at("columns").at(&column.name);
        let is_key = key.contains(&column.name);
        let Some(aggregate) = &column.aggregate else {
            if !is_key && !node.at("aggregate").is_set() {
                node.fault("neither part of the key nor an aggregate; write aggregate = \"sum\", \"count\", \"min\", \"max\", \"first\" or \"last\"");
            }
            continue;
        };
        if is_key {
            node.at("aggregate").fault("the column is part of the key");
        }
        let (by, kept, word) = match &aggregate.function {
            AggregateFunction::First { by } => (by, AggregateFunction::Min, "min"),
            AggregateFunction::Last { by } => (by, AggregateFunction::Max, "max"),
            _ => continue,
        };
        let function = columns.iter().find(|other| other.name == *by).map(|other| other.aggregate.as_ref());
        if function.flatten().map(|aggregate| &aggregate.function) != Some(&kept) && node.at("by").is_set() {
            node.at("by").fault(format!("{by:?} must be a column of the mapping with aggregate = {word:?}"));
        }
    }
}

fn sort_by(node: &ConfigNode<'_>, columns: Option<&[Column]>) -> Vec<String> {
    let sort_by = node.at("sort_by");
    let list = sort_by.list(|column| is_own(node, columns, column)).unwrap_or_default();
    if sort_by.is_set() && !matches!(node.at("mode").text(), None | Some("append")) {
        sort_by.fault("of no use here: rows are written in the order of the key");
    }
    list
}

/// Reads `after_create`: statements that run once, after the table was created.
fn after_create(node: &ConfigNode<'_>, create: bool) -> Vec<String> {
    let at = node.at("after_create");
    if at.is_set() && !create {
        at.fault("runs when Tidegate creates the table, which requires create = true");
    }
    let is_sql = |sql: &str| if sql.trim().is_empty() { Err("empty; write a statement".to_owned()) } else { Ok(()) };
    at.list(is_sql).unwrap_or_default()
}

/// Checks that a pipeline with `create = true` has a mapping with a type for each column. The table's columns are made from
/// this mapping alone.
fn creatable(node: &ConfigNode<'_>, columns: Option<&[Column]>, columns_node: &ConfigNode<'_>) {
    let Some(columns) = columns else {
        if !columns_node.is_set() {
            node.at("create").fault("needs the columns and their types; write a [pipelines.NAME.columns]");
        }
        return;
    };
    for column in columns.iter().filter(|column| column.type_name.is_none()) {
        let node = columns_node.at(&column.name);
        if !node.at("type").is_set() {
            node.fault("create = true needs its type; write it as in { field = \"ts\", type = \"timestamptz\" }");
        }
    }
}
