//! Compares a sample with a table that exists: which field fills which column, and which fields and columns are left over. Pure.

use tidegate_rows::catalog::{Catalog, CatalogColumn, UniqueIndex, quote_identifier};

use super::columns::{Columns, Proposed, array_of_rows, wrapped};
use super::infer::{Mode, Proposal};
use super::print::{EXTRA, path_text};
use super::tree::Node;
use super::values::Typed;
use crate::cli::show;

/// How many levels of objects are searched for a column's field.
const DEPTH_MAX: usize = 8;
/// How many fields without a column are listed by name.
const NAMED_MAX: usize = 20;

/// A field that may fill a column.
struct Candidate<'n> {
    path: Vec<String>,
    /// The names that are compared with the column's name: `path` without the names inside a wrapper object such as `{"$oid":
    /// …}`.
    named: Vec<String>,
    /// If the field is in an array's elements, the length of the array's path, with which `path` begins. Otherwise 0.
    level: usize,
    /// If the field is in the elements of an array: the number of elements of that array in all records. Otherwise the number of
    /// records.
    rows: u64,
    node: &'n Node,
    /// The type of the value, if `node` is an object that only wraps a value to give its type, such as `{"$oid": "…"}`.
    wrapped: Option<Typed>,
    /// Whether the members of `node` are candidates too.
    is_parent: bool,
}

/// How similar a field's name is to a column's name. The most similar kind comes first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Likeness {
    /// `position_lat` for `position.lat`.
    Exact,
    /// `created_at` for `createdAt`.
    Folded,
    /// `lat` for `position.lat`, if no other field's path ends with this name.
    Last,
}

/// Assigns fields to the columns of a table by their names.
pub(super) fn columns(root: &Node, catalog: &Catalog) -> Columns {
    let (mut candidates, mut levels) = (Vec::new(), Vec::new());
    let (mut prefix, mut node) = (Vec::new(), root);
    loop {
        // If the table has a column for an array, the array is stored whole, and its elements don't become rows.
        let has_column = |path: &[String]| catalog.columns.iter().any(|column| column.name == path.join("_"));
        let array = array_of_rows(node).filter(|(path, _)| !has_column(path));
        let within = array.as_ref().map_or(&[][..], |(path, _)| path);
        collect(node, &mut prefix.clone(), prefix.len(), node.seen.objects, within, &mut candidates);
        let Some((path, element)) = array else { break };
        prefix.extend(path.iter().cloned());
        levels.push(path);
        node = element;
    }
    let mut filled: Vec<Option<usize>> = vec![None; catalog.columns.len()];
    for likeness in [Likeness::Exact, Likeness::Folded] {
        for (column, field) in catalog.columns.iter().zip(&mut filled).filter(|(_, field)| field.is_none()) {
            *field = candidates.iter().position(|field| field.fits(&column.name, likeness));
        }
    }
    // A match by the last name of a path is a guess. So it fills no column that has a default, such as a serial `id`, and uses
    // no field that already fills another column.
    let taken: Vec<usize> = filled.iter().copied().flatten().collect();
    for (column, field) in catalog.columns.iter().zip(&mut filled) {
        if field.is_none() && !column.has_default {
            let fits = |at: &usize| candidates[*at].fits(&column.name, Likeness::Last);
            let mut fitting = (0..candidates.len()).filter(fits);
            let first = fitting.next().filter(|at| !taken.contains(at));
            *field = first.filter(|_| fitting.next().is_none());
        }
    }
    let proposed = |(column, field): (&CatalogColumn, &Option<usize>)| {
        let field = candidates.get((*field)?)?;
        column.generated.is_none().then(|| field.proposed(column))
    };
    let columns: Vec<_> = catalog.columns.iter().zip(&filled).filter_map(proposed).collect();
    let homes: Vec<_> = filled.iter().flatten().filter_map(|at| candidates.get(*at)).map(|field| &field.path).collect();
    let unmapped: Vec<_> = candidates
        .iter()
        .filter(|field| !field.is_parent && !homes.iter().any(|home| field.path.starts_with(home)))
        .map(|field| field.path.clone())
        .collect();
    Columns { columns, incomplete: !unmapped.is_empty(), levels, unmapped }
}

/// Adds an object's members, and their own members, to `found`. Leaves out the array whose elements are the rows. Also leaves out
/// the objects that contain this array, but adds their other members.
fn collect<'n>(
    node: &'n Node,
    path: &mut Vec<String>,
    level: usize,
    rows: u64,
    array: &[String],
    found: &mut Vec<Candidate<'n>>,
) {
    for (name, member) in &node.members {
        path.push(name.clone());
        match array.split_first() {
            Some((first, rest)) if first == name => {
                if !rest.is_empty() {
                    collect(member, path, level, rows, rest, found);
                }
            }
            _ => {
                let inner = wrapped(member, name);
                let is_parent = inner.is_none()
                    && member.declared.is_none()
                    && !member.members.is_empty()
                    && path.len() - level < DEPTH_MAX;
                let mut whole = path.clone();
                let wrapped = inner.map(|(within, typed)| {
                    whole.extend(within.iter().map(|part| (*part).to_owned()));
                    typed
                });
                found.push(Candidate {
                    path: whole,
                    named: path.clone(),
                    level,
                    rows,
                    node: member,
                    wrapped,
                    is_parent,
                });
                if is_parent {
                    collect(member, path, level, rows, &[], found);
                }
            }
        }
        path.pop();
    }
}

impl Candidate<'_> {
    fn fits(&self, column: &str, likeness: Likeness) -> bool {
        let own = self.named.get(self.level..).unwrap_or_default();
        match likeness {
            Likeness::Exact => own.join("_") == column,
            Likeness::Folded => {
                let wanted = folded(column);
                folded(&own.concat()) == wanted || folded(&self.named.concat()) == wanted
            }
            Likeness::Last => own.len() > 1 && own.last().is_some_and(|name| folded(name) == folded(column)),
        }
    }

    /// Returns the mapping of this field to `column`. The type is the column's own.
    fn proposed(&self, column: &CatalogColumn) -> Proposed {
        let is_zoned = column.base_type == "timestamptz";
        let is_time = is_zoned || column.base_type == "timestamp";
        let name = self.named.last().map_or("", String::as_str);
        // If the column is a time, numbers are times, whatever the field's name is.
        let seen = self.wrapped.clone().unwrap_or_else(|| self.node.typed(if is_time { "time" } else { name }));
        Proposed {
            name: column.name.clone(),
            path: self.path.clone(),
            typed: Typed {
                name: column.type_text.clone().into(),
                unit: seen.unit.filter(|_| is_time),
                local: seen.local && is_zoned,
            },
            with_value: self.node.seen.with_value(),
            rows: self.rows,
        }
    }
}

fn folded(name: &str) -> String {
    name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
}

/// Returns whether the table has a column of this name that isn't generated and that no field fills.
pub(super) fn has_free(catalog: &Catalog, columns: &[Proposed], name: &str) -> bool {
    let has = catalog.columns.iter().any(|column| column.name == name && column.generated.is_none());
    has && !columns.iter().any(|column| column.name == name)
}

/// Returns remarks on the proposal and the table, such as columns that no field fills, fields without a column, and unique keys.
/// `filled` are the columns that the proposal fills.
pub(super) fn findings(catalog: &Catalog, proposal: &Proposal, filled: &[&str]) -> Vec<String> {
    let mut findings = Vec::new();
    for column in &catalog.columns {
        let CatalogColumn { name, type_text, .. } = column;
        let is_filled = filled.contains(&name.as_str());
        let optional = proposal.columns.iter().find(|field| field.name == *name && field.with_value < field.rows);
        if column.generated.is_some() {
            findings.push(format!("{name}: Postgres computes it"));
        } else if is_filled && column.identity_always {
            findings.push(format!("{name}: GENERATED ALWAYS AS IDENTITY, but the records' own numbers are written"));
        } else if is_filled && column.not_null && !column.has_default && optional.is_some() {
            findings
                .push(format!("{name}: NOT NULL without a default; records that lack the field become dead letters"));
        } else if !is_filled && column.has_default {
            findings.push(format!("{name} ({type_text}): no field; left to Postgres, which has a default for it"));
        } else if !is_filled && !column.not_null {
            findings.push(format!("{name} ({type_text}): no field; NULL in each row"));
        }
        // A column that is NOT NULL, has no default and isn't filled needs no remark: the plan already reports it as a
        // fault.
    }
    if let Some(named) = some_of(&proposal.unmapped) {
        let table = catalog.table.quoted();
        let are_kept = filled.contains(&EXTRA) && !proposal.columns.iter().any(|column| column.name == EXTRA);
        findings.push(if are_kept {
            format!("fields without a column of their own, which are kept in `{EXTRA}`: {named}")
        } else {
            format!(
                "fields without a column, which are dropped: {named}. To keep them, run ALTER TABLE {table} ADD COLUMN {EXTRA} jsonb, \
                 and set unknown_fields = {{ column = \"{EXTRA}\" }}"
            )
        });
    }
    if proposal.mode == Mode::Append {
        let is_filled = |index: &&UniqueIndex| index.columns.iter().all(|column| filled.contains(&column.as_str()));
        for index in catalog.unique.iter().filter(is_filled) {
            let columns = index.columns.iter().map(|name| quote_identifier(name)).collect::<Vec<_>>().join(", ");
            findings.push(format!(
                "({columns}) is unique: a record whose key is in the table already becomes a dead letter; mode = \"insert_new\" skips \
                 it, mode = \"upsert\" updates the row"
            ));
        }
    }
    findings
}

fn some_of(paths: &[Vec<String>]) -> Option<String> {
    let named: Vec<_> = paths.iter().take(NAMED_MAX).map(|path| format!("`{}`", path_text(path))).collect();
    let more = paths.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(" and {} more", show::count(more as u64)) } else { String::new() };
    (!named.is_empty()).then(|| named.join(", ") + &more)
}

#[cfg(test)]
mod tests {
    use tidegate_rows::catalog::{RelationKind, TableName, TypeKind};

    use super::*;

    fn catalog(columns: &[(&str, &str)]) -> Catalog {
        let column = |(name, base_type): &(&str, &str)| CatalogColumn {
            name: (*name).to_owned(),
            type_oid: 0,
            base_type: (*base_type).to_owned(),
            base_type_oid: 0,
            type_text: (*base_type).to_owned(),
            kind: TypeKind::Scalar,
            typmod: -1,
            not_null: false,
            has_default: false,
            default_oid: None,
            generated: None,
            identity_always: false,
        };
        let table = TableName { schema: "public".to_owned(), name: "t".to_owned() };
        Catalog {
            columns: columns.iter().map(column).collect(),
            kind: RelationKind::Table,
            ..Catalog::without_columns(table)
        }
    }

    #[test]
    fn fields_are_assigned_by_their_names_the_likest_first() {
        let mut root = Node::default();
        root.row(
            br#"{"vehicleId":7,"ts":1767225600000,"pos":{"lat":1,"lon":2,"acc":3},"vehicle_id":8,"a":{"x":1},"b":{"x":2},"o":{"y":1}}"#,
            None,
        );
        let wanted = [
            ("vehicle_id", "int8"),
            ("ts", "timestamptz"),
            ("pos_lat", "float8"),
            ("lon", "float8"),
            ("x", "int8"),
            ("o", "jsonb"),
        ];
        let found = columns(&root, &catalog(&wanted));
        let lines: Vec<_> = found.columns.iter().map(|column| (column.name.as_str(), column.path.join("."))).collect();
        let expected =
            [("vehicle_id", "vehicle_id"), ("ts", "ts"), ("pos_lat", "pos.lat"), ("lon", "pos.lon"), ("o", "o")];
        assert_eq!(
            lines,
            expected.map(|(name, path)| (name, path.to_owned())),
            "two fields end with x, so none is chosen"
        );
        assert_eq!(found.columns[1].typed.unit, Some("ms"));
        let unmapped: Vec<_> = found.unmapped.iter().map(|path| path.join(".")).collect();
        assert_eq!(unmapped, ["vehicleId", "pos.acc", "a.x", "b.x"]);
    }

    #[test]
    fn a_guess_fills_no_column_with_a_default_and_takes_no_field_twice() {
        let mut root = Node::default();
        root.row(br#"{"vehicle":{"id":7},"meta":{"created":"x","number":1}}"#, None);
        let mut table = catalog(&[("id", "int8"), ("vehicle_id", "int8"), ("created", "text"), ("number", "int8")]);
        table.columns[2].has_default = true;
        let found = columns(&root, &table).columns;
        let lines: Vec<_> = found.iter().map(|column| (column.name.as_str(), column.path.join("."))).collect();
        assert_eq!(lines, [("vehicle_id", "vehicle.id".to_owned()), ("number", "meta.number".to_owned())]);
    }
}
