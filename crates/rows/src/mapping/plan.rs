//! The plan says which source fills each column, and how the value is written. It is made before records are encoded, and all its
//! faults are reported at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::catalog::{Catalog, CatalogColumn, RelationKind, TableName, quote_identifier};
use crate::copy::{Encoding, Times};
use crate::decode::Leftovers;
use crate::decode::Path;
use crate::fault::{Faults, PlanFault};
use crate::mapping::evolve::GivenUp;
use crate::mapping::explain::{Described, describe};
use crate::mapping::fold::Fold;
use crate::mapping::function::Applied;
use crate::mapping::mark::Mark;
use crate::mapping::meta::{Lexeme, Reading};
use crate::mapping::planner::Planner;
use crate::mapping::route::{RoutedTable, Router};
use crate::mapping::row_filter::Check;
use crate::mapping::shapes::Shapes;
use crate::schema::Schemas;
use crate::spec::{Column, Decode, KeyFormat, NulPolicy, RowSpec, Source, UnknownFields, WriteMode};
use crate::write_mode;

/// The lower bound of [`Plan::record_bytes`], in bytes.
const RECORD_BYTES: usize = 1 << 20;

/// The source of a column's values. A [`Lexeme`] or a [`Reading`] says which form of the value the column's type needs.
#[derive(Clone, Debug)]
pub(super) enum Feed {
    /// A field of the record. The number is the index of its path in [`Plan::paths`], and also its slot.
    Field(u16),
    Topic,
    Partition(Lexeme),
    Offset(Lexeme),
    Timestamp(Lexeme),
    Ordinal(Lexeme),
    /// The mapping's `value`, which is the same in every row. It is stored in the column's [`PlannedColumn::missing`], encoded
    /// like a `default` of the mapping.
    Constant,
    Key(Reading),
    Headers,
    Header(Box<[u8]>, Reading),
    /// A value in every row, for the aggregate `count` without a field.
    Record,
    /// The fields without a column, as a JSON object. For a record without such fields, the column gets `{}` if `empty` is set,
    /// otherwise NULL.
    Leftovers {
        empty: bool,
    },
}

/// How a column treats a record that lacks the column's field.
#[derive(Clone, Debug)]
pub(super) enum WhenMissing {
    /// NULL. If the column is NOT NULL, the record is a dead letter.
    Null,
    /// The mapping's `default`, encoded as a field of COPY.
    Constant(Box<[u8]>),
    /// The row leaves the column out. The number is the column's bit in the row's mask; see [`Shapes`].
    LeaveOut(u16),
    DeadLetter,
}

/// A column of the rows: where its value comes from, and how this value is checked, changed and written.
#[derive(Clone, Debug)]
pub(super) struct PlannedColumn {
    pub(super) name: String,
    /// The type's name as a mapping writes it (`varchar(16)`), for error messages.
    pub(super) type_text: String,
    pub(super) not_null: bool,
    pub(super) feed: Feed,
    /// The slot of the column's field, if the column has neither `keep` nor `function` nor `fold`. The encoder has a fast path
    /// for such columns, because most columns are like this.
    pub(super) plain: Option<u16>,
    /// Whether no earlier column takes the same field. A missing field is counted only for the first column that takes it.
    pub(super) is_first_of_field: bool,
    pub(super) encoding: Encoding,
    pub(super) nul: NulPolicy,
    pub(super) missing: WhenMissing,
    /// Whether the column is part of the key in mode upsert or aggregate. Also set for the inputs of a generated column in an
    /// upsert's key.
    pub(super) in_key: bool,
    /// The slots of the fields in a record's key that are tried for the column's value, in this order. Empty unless `in_key`.
    pub(super) key_from: Vec<u16>,
    /// The configured `keep`: a value with this text counts as a missing field.
    pub(super) keep: Option<Box<[u8]>>,
    pub(super) function: Option<Box<Applied>>,
    /// Set in mode aggregate if the column counts rows, or if it has its own `where`.
    pub(super) fold: Option<Box<Fold>>,
}

/// A table that records name and that receives rows; see [`Plan::routed`].
#[derive(Debug)]
pub struct Taken {
    pub catalog: Catalog,
    /// The unquoted names of the columns that are filled, in the order of a row's fields.
    pub columns: Vec<String>,
    pub copy: String,
    pub shapes: Shapes,
}

/// How changes in Debezium's envelope are read. Such a change has the row before the change, the row after it, and the operation
/// `op`.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) op: u16,
    /// Pairs of slots of the same field: in the row before the change, and in the row after it.
    pub(super) before: Vec<(u16, u16)>,
    /// Whether a column takes `op`. If so, a pipeline that doesn't delete rows writes each delete as a row with the values before
    /// the delete.
    pub(super) shown: bool,
}

/// How a pipeline's records become rows: which parts of a record are decoded, and how they fill the table's columns. A plan is
/// immutable, and all encoders of a pipeline share it.
#[derive(Clone, Debug)]
pub struct Plan {
    table: TableName,
    copy_statement: String,
    pub(super) columns: Vec<PlannedColumn>,
    pub(super) column_count: [u8; 2],
    shapes: Shapes,
    pub(super) decode: Decode,
    /// The paths of all fields that the plan reads, from the top of the value. The index of a path is the field's slot.
    pub(super) paths: Vec<Path>,
    /// The path of the object with the record's fields: `after` in Debezium's envelope, else empty. It begins at the top of the
    /// value, or of the value's `payload`.
    pub(super) base: Vec<String>,
    /// The paths of the arrays whose elements are rows, from the outermost array to the innermost. With `by_name`, each column
    /// takes the field of its name: from the element, or from outside of the array if the element lacks the field.
    pub(super) levels: Vec<Path>,
    pub(super) by_name: bool,
    pub(super) change: Option<Change>,
    /// A row that matches this filter deletes the table's row with the same key.
    pub(super) delete_where: Option<Check>,
    /// How keys are read. `key_paths` are the paths that are looked up in keys.
    pub(super) keys: KeyFormat,
    pub(super) key_paths: Vec<Path>,
    /// Whether columns with `meta = "key"` get the decoded key instead of its raw bytes.
    pub(super) reads_keys: bool,
    /// The source of schemas. `None` if the pipeline has no schema registry.
    pub(super) schemas: Option<Arc<dyn Schemas>>,
    /// The most bytes that the rows of one record may take together, not counting its first row: `batch.max_bytes`, but at least
    /// 1 MiB.
    pub(super) record_bytes: usize,
    pub(super) leftovers: Leftovers,
    /// The filter `where`: rows that don't match it are dropped.
    pub(super) keep: Option<Check>,
    /// Whether records can delete rows. If so, each row ends with a bool that says whether the row is a delete.
    pub(super) deletes: bool,
    /// Set if `evolve` makes columns of unknown fields. Contains the unknown fields that don't become columns.
    pub(super) evolves: Option<GivenUp>,
    pub(super) router: Option<Router>,
    /// Whether `unknown_fields` is `"dead_letter"`. With `evolve`, the decoder collects unknown fields instead of rejecting the
    /// record, so the encoder checks this flag.
    pub(super) refuses_unknown: bool,
    warnings: Vec<String>,
}

impl Plan {
    /// Plans a pipeline's rows for its table.
    ///
    /// # Errors
    /// Every fault of the mapping, each with its key in the configuration.
    pub fn new(spec: &RowSpec<'_>, catalog: &Catalog) -> Result<Self, Vec<PlanFault>> {
        let mut faults = Faults::of(spec.pipeline);
        check_table(catalog, &mut faults);
        let mut warnings = Vec::new();
        write_mode::check(spec, catalog, &mut faults, &mut warnings);
        let automatic = spec.columns.is_none();
        let stated = spec.columns.unwrap_or_default();
        // Columns that `evolve` added are not in the configuration.
        let others = if automatic || spec.table.evolve { by_name(spec, catalog, stated) } else { Vec::new() };
        // A column without an entry in the mapping takes the field of its name. The plan is valid even if no record can have that
        // field.
        let unstated: Vec<_> = others.iter().map(|column| vec![column.name.clone()]).collect();
        let mapping: Vec<_> = stated.iter().cloned().chain(others).collect();
        let mut planner = Planner::new(spec, catalog, automatic, faults);
        let mut columns: Vec<PlannedColumn> = Vec::new();
        let mut fields = BTreeSet::new();
        for column in &mapping {
            let planned = planner.column(column, columns.len());
            columns.extend(planned.map(|column| PlannedColumn {
                is_first_of_field: matches!(column.feed, Feed::Field(slot) if fields.insert(slot)),
                ..column
            }));
        }
        columns.extend(planner.leftovers(spec.unknown_fields, &mapping));
        let keep = spec.keep.and_then(|filter| planner.check(filter));
        let router = spec.table.route.as_ref().map(|route| Router::new(route, &mut planner));
        let delete_where = spec.shape.delete_where.as_ref().and_then(|filter| planner.check(filter));
        let change = planner.change();
        let Planner { paths, base, key_paths, mut faults, shapes, .. } = planner;
        let is_stated = |path: &&Path| {
            let own = path.strip_prefix(base.as_slice()).unwrap_or(path);
            !unstated.iter().any(|name| name == own)
        };
        let stated: Vec<_> = paths.iter().filter(is_stated).cloned().collect();
        check_fields(spec, &stated, &mut faults);
        check_unfilled(spec, catalog, &mapping, &mut faults);
        if mapping.is_empty() {
            faults.push("columns", "no column is left to fill");
        }
        let deletes = matches!(spec.table.mode, WriteMode::Upsert { deletes: true, .. });
        let column_count = u16::try_from(columns.len() + usize::from(deletes)).unwrap_or(u16::MAX).to_be_bytes();
        let names: Vec<_> = columns.iter().map(|column| quote_identifier(&column.name)).collect();
        let copy_statement =
            format!("COPY {} ({}) FROM STDIN (FORMAT binary)", catalog.table.quoted(), names.join(","));
        let leftovers = match spec.unknown_fields {
            _ if spec.table.evolve => Leftovers::Collect,
            UnknownFields::Ignore => Leftovers::Ignore,
            UnknownFields::DeadLetter => Leftovers::Refuse,
            UnknownFields::Column(_) => Leftovers::Collect,
        };
        let table = catalog.table.clone();
        let decode = spec.decode.clone();
        let reads_keys = reads_keys(spec) && columns.iter().any(|column| matches!(column.feed, Feed::Key(_)));
        faults.or(Self {
            table,
            copy_statement,
            columns,
            column_count,
            shapes,
            decode,
            paths,
            base,
            levels: spec.shape.rows.clone(),
            by_name: spec.columns.is_none() || spec.table.evolve,
            change,
            delete_where,
            keys: spec.shape.keys.clone(),
            key_paths,
            reads_keys,
            schemas: None,
            record_bytes: usize::try_from(spec.max_bytes).unwrap_or(usize::MAX).max(RECORD_BYTES),
            leftovers,
            keep,
            deletes,
            router,
            evolves: spec.table.evolve.then(GivenUp::default),
            refuses_unknown: *spec.unknown_fields == UnknownFields::DeadLetter,
            warnings,
        })
    }

    #[must_use]
    pub fn with_schemas(self, schemas: Option<Arc<impl Schemas + 'static>>) -> Self {
        Self { schemas: schemas.map(|schemas| schemas as Arc<dyn Schemas>), ..self }
    }

    /// Plans the rows of a pipeline whose records name their table. `catalogs` are the tables that exist. Returns the plan, and
    /// the tables that receive rows, in the order of their indexes.
    ///
    /// Two kinds of tables receive no rows: those for which the mapping is wrong, and those in `refused`, which has the reasons.
    /// Records for these tables are rejected with the reason.
    ///
    /// # Errors
    /// If there are faults that don't depend on a table.
    pub fn routed(
        spec: &RowSpec<'_>,
        catalogs: Vec<Catalog>,
        refused: &BTreeMap<TableName, String>,
    ) -> Result<(Self, Vec<Taken>), Vec<PlanFault>> {
        let mut plan = Self::without_table(spec)?;
        let mut taken: Vec<Taken> = Vec::new();
        let max_tables = spec.table.route.as_ref().map_or(0, |route| route.max_tables as usize);
        let Some(mut router) = plan.router.take() else { return Ok((plan, taken)) };
        for catalog in catalogs {
            match Self::for_table(spec, &catalog) {
                Ok(of_table) if taken.is_empty() || of_table.paths == plan.paths => {
                    let number = u16::try_from(taken.len()).unwrap_or(u16::MAX);
                    if taken.is_empty() {
                        // All tables share the slots of this plan: first the slots of the columns, then those of the table's
                        // name.
                        plan = of_table.clone();
                        router.take_slots(plan.router.take());
                    }
                    let Self { columns, column_count, copy_statement: copy, shapes, .. } = of_table;
                    let names = columns.iter().map(|column| column.name.clone()).collect();
                    router.add(
                        &catalog.table,
                        RoutedTable { number, columns, column_count, mask_bytes: shapes.mask_bytes() },
                    );
                    taken.push(Taken { catalog, columns: names, copy, shapes });
                }
                Ok(_) => router.refuse(&catalog.table, "its columns are of another order".to_owned()),
                Err(faults) => router.refuse(&catalog.table, said(&faults)),
            }
        }
        refused.iter().for_each(|(table, why)| router.refuse(table, why.clone()));
        if taken.len() >= max_tables {
            router.close();
        }
        plan.router = Some(router);
        Ok((plan, taken))
    }

    /// Makes a plan without columns. It has the slots of the filter and of the table's name, and writes no rows.
    fn without_table(spec: &RowSpec<'_>) -> Result<Self, Vec<PlanFault>> {
        let table = spec.table.name.clone();
        let catalog = Catalog::without_columns(table.clone());
        let faults = Faults::of(spec.pipeline);
        let mut planner = Planner::new(spec, &catalog, false, faults);
        let keep = spec.keep.and_then(|filter| planner.check(filter));
        let router = spec.table.route.as_ref().map(|route| Router::new(route, &mut planner));
        let change = planner.change();
        let Planner { paths, base, mut faults, .. } = planner;
        let of_columns = spec.columns.unwrap_or_default().iter().filter_map(|column| match &column.source {
            Source::Field(path) => Some(base.iter().chain(path).cloned().collect()),
            _ => None,
        });
        let stated: Vec<Path> = paths.iter().cloned().chain(of_columns).collect();
        check_fields(spec, &stated, &mut faults);
        faults.or(Self {
            table,
            copy_statement: String::new(),
            columns: Vec::new(),
            column_count: [0; 2],
            shapes: Shapes::default(),
            decode: spec.decode.clone(),
            paths,
            base,
            levels: spec.shape.rows.clone(),
            by_name: spec.columns.is_none() || spec.table.evolve,
            change,
            delete_where: None,
            keys: spec.shape.keys.clone(),
            key_paths: Vec::new(),
            reads_keys: false,
            schemas: None,
            record_bytes: usize::try_from(spec.max_bytes).unwrap_or(usize::MAX).max(RECORD_BYTES),
            leftovers: Leftovers::Ignore,
            keep,
            deletes: false,
            evolves: None,
            router,
            refuses_unknown: false,
            warnings: Vec::new(),
        })
    }

    /// Plans for one of the tables that records name. The fields that form the table's name have the same slots in every table's
    /// plan.
    fn for_table(spec: &RowSpec<'_>, catalog: &Catalog) -> Result<Self, Vec<PlanFault>> {
        let table = spec.table.named(&catalog.table);
        Self::new(&RowSpec { table: &table, ..*spec }, catalog)
    }

    pub fn refusal(spec: &RowSpec<'_>, catalog: &Catalog) -> Option<String> {
        Self::for_table(spec, catalog).err().map(|faults| said(&faults))
    }

    /// Returns the same plan, except that the fields in `fields` don't become columns (with `evolve`).
    #[must_use]
    pub fn giving_up(mut self, fields: GivenUp) -> Self {
        self.evolves = self.evolves.map(|_| fields);
        self
    }

    /// Returns whether the plan reads the top-level field of this name, or a part of it: for a column, for a filter, or for the
    /// table's name.
    pub fn reads(&self, field: &str) -> bool {
        let below = |path: &Path| path.strip_prefix(self.base.as_slice()).and_then(|path| path.first().cloned());
        self.paths.iter().any(|path| below(path).is_some_and(|name| name == field))
    }

    /// Begins a row of the plan's own table, with a mark in front if rows may leave columns out.
    #[inline]
    pub(super) fn open(&self, rows: &mut Vec<u8>) -> Option<Mark> {
        let mark = (!self.shapes.is_empty()).then(|| Mark::open(0, self.shapes.mask_bytes(), rows));
        rows.extend_from_slice(&self.column_count);
        mark
    }

    /// Returns the columns of the plan's own table that a row may leave out. If there are any, each row has a mark in front; see
    /// [`super::mark`].
    pub fn shapes(&self) -> &Shapes {
        &self.shapes
    }

    /// Returns whether records name their table, so that each row has a mark in front; see [`super::route`].
    pub fn is_routed(&self) -> bool {
        self.router.is_some()
    }

    /// Returns warnings for people about settings that work but may surprise, such as a sum of floats.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    pub fn describe(&self) -> Vec<Described<'_>> {
        self.columns.iter().map(|column| describe(self, column)).collect()
    }

    /// Returns the COPY directly into the table, for rows that leave no column out:
    /// `COPY "public"."t" ("a","b") FROM STDIN (FORMAT binary)`.
    pub fn copy_statement(&self) -> &str {
        &self.copy_statement
    }

    pub fn table(&self) -> &TableName {
        &self.table
    }

    /// Returns the unquoted names of the columns, in the order of a row's fields.
    pub fn column_names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }

    /// Returns the name of the column with this index, for example that of
    /// [`EncodeError::column`](crate::value::EncodeError::column).
    pub fn column_name(&self, column: u16) -> Option<&str> {
        self.columns.get(usize::from(column)).map(|column| column.name.as_str())
    }
}

fn reads_keys(spec: &RowSpec<'_>) -> bool {
    !matches!(spec.shape.keys, KeyFormat::Auto)
        || matches!(spec.decode, Decode::ConnectJson | Decode::ChangeJson)
        || spec.decode.needs_registry()
}

fn said(faults: &[PlanFault]) -> String {
    faults.iter().map(|fault| fault.message.as_str()).collect::<Vec<_>>().join("; ")
}

/// Maps the table's columns to the top-level fields of their names. Leaves out generated columns, the column for unknown fields,
/// and those in `mapped`. If `mapped` isn't empty, also leaves out columns whose type has no encoder.
fn by_name(spec: &RowSpec<'_>, catalog: &Catalog, mapped: &[Column]) -> Vec<Column> {
    let leftovers = match spec.unknown_fields {
        UnknownFields::Column(name) => Some(name),
        UnknownFields::Ignore | UnknownFields::DeadLetter => None,
    };
    let fillable = catalog.columns.iter().filter(|column| {
        let is_mapped = mapped.iter().any(|mapped| mapped.name == column.name);
        let encodes = mapped.is_empty() || Encoding::of(column, &Times::default()).is_some();
        column.generated.is_none() && !is_mapped && encodes && Some(&column.name) != leftovers
    });
    fillable
        .map(|column| Column {
            name: column.name.clone(),
            source: Source::Field(vec![column.name.clone()]),
            type_name: None,
            unit: None,
            default: None,
            missing: None,
            keep: None,
            zone: None,
            nul: NulPolicy::default(),
            not_null: false,
            function: None,
            aggregate: None,
        })
        .collect()
}

/// Reports fields that no record can have, if the configuration says which fields records have (for example by a schema file).
/// `paths` begin at the top of the value.
fn check_fields(spec: &RowSpec<'_>, paths: &[Path], faults: &mut Faults) {
    let mut found: Vec<String> = Vec::new();
    for path in paths.iter().filter(|path| !path.is_empty()) {
        // In a change, the row in `before` has the same fields as the row in `after`.
        let is_before = spec.shape.change && path.first().is_some_and(|first| first == "before");
        let lack = spec.decode.lack(path, &spec.shape.rows).filter(|lack| !is_before && !found.contains(lack));
        found.extend(lack);
    }
    found.into_iter().for_each(|lack| faults.push("columns", lack));
}

fn check_table(catalog: &Catalog, faults: &mut Faults) {
    let table = &catalog.table;
    match catalog.kind {
        RelationKind::Table | RelationKind::Partitioned | RelationKind::Foreign => {}
        RelationKind::View => {
            faults.push("table.name", format!("`{table}` is a view; name the table that the view reads"))
        }
        RelationKind::Other => faults.push("table.name", format!("`{table}` is not a table")),
    }
}

/// Reports columns that are NOT NULL without a default, and that nothing fills.
fn check_unfilled(spec: &RowSpec<'_>, catalog: &Catalog, mapping: &[Column], faults: &mut Faults) {
    for column in &catalog.columns {
        let filled = mapping.iter().any(|mapped| mapped.name == column.name)
            || matches!(spec.unknown_fields, UnknownFields::Column(name) if *name == column.name);
        if column.not_null && !column.has_default && column.generated.is_none() && !filled {
            let CatalogColumn { name, type_text, .. } = column;
            let message = format!(
                "column `{name}` ({type_text}) is NOT NULL without a default; map a field or a constant (`value`) to it, or give it a default"
            );
            faults.push("columns", message);
        }
    }
}
