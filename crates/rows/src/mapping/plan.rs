//! The plan: what fills each column, and how it is written. Made once; everything wrong is reported at once.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::catalog::{Catalog, CatalogColumn, RelationKind, TableName, quote_identifier};
use crate::copy::{Encoding, Times};
use crate::decode::Leftovers;
use crate::decode::Path;
use crate::fault::{Faults, PlanFault, hint};
use crate::mapping::evolve::GivenUp;
use crate::mapping::explain::{Described, describe};
use crate::mapping::fold::Fold;
use crate::mapping::function::Applied;
use crate::mapping::mark::Mark;
use crate::mapping::meta::{Lexeme, Reading};
use crate::mapping::planner::Planner;
use crate::mapping::route::{Router, Target};
use crate::mapping::row_filter::Check;
use crate::mapping::shapes::Shapes;
use crate::schema::Schemas;
use crate::spec::{Column, Decode, KeyFormat, NulPolicy, RowSpec, Source, UnknownFields, WriteMode};
use crate::write_mode;

/// The rows of one record may take as much as a batch, and this at least.
const RECORD_BYTES: usize = 1 << 20;

/// What fills a column.
#[derive(Clone, Debug)]
pub(super) enum Feed {
    /// A slot: the path of this index.
    Field(u16),
    Topic,
    Partition(Lexeme),
    Offset(Lexeme),
    Timestamp(Lexeme),
    Ordinal(Lexeme),
    /// The mapping's `value`, which stands as the column's default.
    Constant,
    Key(Reading),
    Headers,
    Header(Box<[u8]>, Reading),
    /// Nothing of the record: that it is there.
    Record,
    /// `empty`: a record without leftovers has `{}` rather than NULL.
    Leftovers {
        empty: bool,
    },
}

/// What a record without a column's field means for its row.
#[derive(Clone, Debug)]
pub(super) enum WhenMissing {
    /// NULL, or a dead letter where the column is NOT NULL.
    Null,
    /// The mapping's `default`, as a field of COPY.
    Constant(Box<[u8]>),
    /// The row has no field for the column: its bit in the mark.
    LeaveOut(u16),
    /// The record is a dead letter.
    DeadLetter,
}

/// A column of the rows.
#[derive(Clone, Debug)]
pub(super) struct PlannedColumn {
    pub(super) name: String,
    /// The type's short name, for sentences.
    pub(super) type_text: String,
    pub(super) not_null: bool,
    pub(super) feed: Feed,
    pub(super) encoding: Encoding,
    pub(super) nul: NulPolicy,
    /// What a missing field means.
    pub(super) missing: WhenMissing,
    /// Part of the key, in a mode where a row without its key has no place.
    pub(super) in_key: bool,
    /// The fields of a record's key that may have the column's value, the likeliest first.
    pub(super) key_from: Vec<u16>,
    /// Text that stands for a value that the record leaves out.
    pub(super) keep: Option<Box<[u8]>>,
    /// What is made of a value before it is written.
    pub(super) function: Option<Box<Applied>>,
    /// What a record gives to an aggregate.
    pub(super) fold: Option<Box<Fold>>,
}

/// A table that takes rows.
#[derive(Debug)]
pub struct Taken {
    /// The table.
    pub catalog: Catalog,
    /// The names of the columns that are filled, in the order of the rows.
    pub columns: Vec<String>,
    /// The COPY of rows that leave no column out.
    pub copy: String,
    /// The columns that a row may leave out.
    pub shapes: Shapes,
}

/// How changes in Debezium's envelope are read.
#[derive(Clone, Debug)]
pub(super) struct Change {
    /// The slot of `op`.
    pub(super) op: u16,
    /// Slots of rows before a change, and those of the rows after it.
    pub(super) before: Vec<(u16, u16)>,
    /// A column has the kind of the change, so a delete is a row of what was before it.
    pub(super) shown: bool,
}

/// How records become rows of one table. Immutable; share it between encoders.
#[derive(Clone, Debug)]
pub struct Plan {
    table: TableName,
    copy_statement: String,
    pub(super) columns: Vec<PlannedColumn>,
    pub(super) column_count: [u8; 2],
    /// The columns that a row may leave out.
    shapes: Shapes,
    pub(super) decode: Decode,
    pub(super) paths: Vec<Path>,
    /// Where in the value the record's own fields lie.
    pub(super) base: Vec<String>,
    /// Arrays whose elements are rows; whether a field is the element's where it has one of this name.
    pub(super) levels: Vec<Path>,
    pub(super) by_name: bool,
    /// Records are changes, in Debezium's envelope.
    pub(super) change: Option<Change>,
    /// Records for which it holds delete.
    pub(super) delete_where: Option<Check>,
    /// How keys are read, and which of their fields are looked for.
    pub(super) keys: KeyFormat,
    pub(super) key_paths: Vec<Path>,
    /// A column takes the key as its format reads it.
    pub(super) reads_keys: bool,
    /// Where schemas come from, for formats that have theirs in a registry.
    pub(super) schemas: Option<Arc<dyn Schemas>>,
    /// What the rows of one record may take beyond the first.
    pub(super) record_bytes: usize,
    pub(super) leftovers: Leftovers,
    /// Records for which it doesn't hold have no rows.
    pub(super) keep: Option<Check>,
    /// Tombstones delete: each row ends with a bool that says so.
    pub(super) deletes: bool,
    /// `evolve`: unknown fields become columns, but for these.
    pub(super) evolves: Option<GivenUp>,
    /// Records name their table.
    pub(super) router: Option<Router>,
    /// `unknown_fields = "dead_letter"`, where the decoder doesn't see to it.
    pub(super) refuses_unknown: bool,
    warnings: Vec<String>,
}

impl Plan {
    /// Plans a pipeline's rows against its table.
    ///
    /// # Errors
    /// Everything that is wrong with the mapping, each with its key in the configuration and a remedy.
    pub fn new(spec: &RowSpec<'_>, catalog: &Catalog) -> Result<Self, Vec<PlanFault>> {
        let mut faults = Faults::of(spec.pipeline);
        check_table(catalog, &mut faults);
        let mut warnings = Vec::new();
        write_mode::check(spec, catalog, &mut faults, &mut warnings);
        let automatic = spec.columns.is_none();
        let mapping = match spec.columns {
            None => by_name(spec, catalog, &[]),
            // Columns that were added for fields are not in the file.
            Some(columns) if spec.table.evolve => {
                columns.iter().cloned().chain(by_name(spec, catalog, columns)).collect()
            }
            Some(columns) => columns.to_vec(),
        };
        let mut planner = Planner::new(spec, catalog, automatic, faults);
        let mut columns = Vec::new();
        for column in &mapping {
            let planned = planner.column(column, columns.len());
            columns.extend(planned);
        }
        columns.extend(planner.leftovers(spec.unknown_fields, &mapping));
        let keep = spec.keep.and_then(|filter| planner.check(filter));
        let router = spec.table.route.as_ref().map(|route| Router::new(route, &mut planner));
        let delete_where = spec.shape.delete_where.as_ref().and_then(|filter| planner.check(filter));
        let change = planner.change();
        let Planner { paths, base, key_paths, mut faults, shapes, .. } = planner;
        if !automatic {
            check_fields(spec.decode, &paths, &mut faults);
        }
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

    /// The same plan, with schemas from here.
    #[must_use]
    pub fn with_schemas(self, schemas: Option<Arc<impl Schemas + 'static>>) -> Self {
        Self { schemas: schemas.map(|schemas| schemas as Arc<dyn Schemas>), ..self }
    }

    /// Plans the rows of a pipeline whose records name their table, against the tables that there are: the columns of each, in
    /// one order of slots. Tables that the mapping doesn't fit take no rows, and say why; so do those that `refused` has. Gives
    /// also the tables that take rows, in the order of their numbers.
    ///
    /// # Errors
    /// What is wrong whatever the table.
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
                        // Its slots are everybody's: those of the columns first, those of the name last.
                        plan = of_table.clone();
                        router.take_slots(plan.router.take());
                    }
                    let Self { columns, column_count, copy_statement: copy, shapes, .. } = of_table;
                    let names = columns.iter().map(|column| column.name.clone()).collect();
                    router
                        .add(&catalog.table, Target { number, columns, column_count, mask_bytes: shapes.mask_bytes() });
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

    /// The slots alone: no row is written by it.
    fn without_table(spec: &RowSpec<'_>) -> Result<Self, Vec<PlanFault>> {
        let table = spec.table.name.clone();
        let catalog = Catalog::without_columns(table.clone());
        let faults = Faults::of(spec.pipeline);
        let mut planner = Planner::new(spec, &catalog, false, faults);
        let keep = spec.keep.and_then(|filter| planner.check(filter));
        let router = spec.table.route.as_ref().map(|route| Router::new(route, &mut planner));
        let change = planner.change();
        let Planner { paths, base, faults, .. } = planner;
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

    /// Plans for one of the tables that records name. How they name it stays, and with it the order of the slots.
    fn for_table(spec: &RowSpec<'_>, catalog: &Catalog) -> Result<Self, Vec<PlanFault>> {
        let table = spec.table.named(&catalog.table);
        Self::new(&RowSpec { table: &table, ..*spec }, catalog)
    }

    /// Returns why a table that records name takes no rows; `None` where it does.
    pub fn refusal(spec: &RowSpec<'_>, catalog: &Catalog) -> Option<String> {
        Self::for_table(spec, catalog).err().map(|faults| said(&faults))
    }

    /// The same plan, by which these fields don't become columns.
    #[must_use]
    pub fn giving_up(mut self, fields: GivenUp) -> Self {
        self.evolves = self.evolves.map(|_| fields);
        self
    }

    /// Whether a column takes the top-level field of this name, or looks into it.
    pub fn reads(&self, field: &str) -> bool {
        let below = |path: &Path| path.strip_prefix(self.base.as_slice()).and_then(|path| path.first().cloned());
        self.paths.iter().any(|path| below(path).is_some_and(|name| name == field))
    }

    /// Begins a row of the plan's own table, behind a mark where its rows may differ.
    #[inline]
    pub(super) fn open(&self, rows: &mut Vec<u8>) -> Option<Mark> {
        let mark = (!self.shapes.is_empty()).then(|| Mark::open(0, self.shapes.mask_bytes(), rows));
        rows.extend_from_slice(&self.column_count);
        mark
    }

    /// The columns of the plan's own table that a row may leave out. Where there are some, each row stands behind a mark; see
    /// [`super::mark`].
    pub fn shapes(&self) -> &Shapes {
        &self.shapes
    }

    /// Whether records name their table, so that each row stands behind a mark; see [`super::route`].
    pub fn is_routed(&self) -> bool {
        self.router.is_some()
    }

    /// What works and may surprise, for people: a sum of floats.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The columns with what fills them, for people and programs.
    pub fn describe(&self) -> Vec<Described<'_>> {
        self.columns.iter().map(|column| describe(self, column)).collect()
    }

    /// The statement that takes the rows: `COPY "public"."t" ("a","b") FROM STDIN (FORMAT binary)`.
    pub fn copy_statement(&self) -> &str {
        &self.copy_statement
    }

    /// The table that the rows are for.
    pub fn table(&self) -> &TableName {
        &self.table
    }

    /// The columns' names, unquoted, in the order of the rows.
    pub fn column_names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }

    /// The name of the column that a rejection or a `COPY` context means.
    pub fn column_name(&self, column: u16) -> Option<&str> {
        self.columns.get(usize::from(column)).map(|column| column.name.as_str())
    }
}

/// Whether a column that takes the key gets it by its format, and not as its bytes are.
fn reads_keys(spec: &RowSpec<'_>) -> bool {
    !matches!(spec.shape.keys, KeyFormat::Auto)
        || matches!(spec.decode, Decode::ConnectJson | Decode::ChangeJson)
        || spec.decode.needs_registry()
}

fn said(faults: &[PlanFault]) -> String {
    faults.iter().map(|fault| fault.message.as_str()).collect::<Vec<_>>().join("; ")
}

/// Each column takes the top-level field of its name; those that the mapping has already, and beside a mapping those without an
/// encoder, are left out.
fn by_name(spec: &RowSpec<'_>, catalog: &Catalog, mapped: &[Column]) -> Vec<Column> {
    let leftovers = match spec.unknown_fields {
        UnknownFields::Column(name) => Some(name),
        UnknownFields::Ignore | UnknownFields::DeadLetter => None,
    };
    let fillable = catalog.columns.iter().filter(|column| {
        let is_mapped = mapped.iter().any(|mapped| mapped.name == column.name);
        let encodes = mapped.is_empty() || Encoding::of(column, &Times::default()).is_some();
        !column.generated && !is_mapped && encodes && Some(&column.name) != leftovers
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

/// Fields that no record can have, where the format says which there are.
fn check_fields(decode: &Decode, paths: &[Path], faults: &mut Faults) {
    let Some(known) = decode.field_names() else { return };
    for path in paths {
        let whole = path.join(".");
        let is_there = |name: &&str| **name == path[0] || **name == whole;
        if path.is_empty() || known.iter().any(is_there) {
            continue;
        }
        let close = hint(&whole, known.iter().copied());
        let all = if known.len() <= 12 { format!(" (there are {})", known.join(", ")) } else { String::new() };
        faults.push("columns", format!("{} has no field `{whole}`{close}{all}", decode.whose_fields()));
    }
}

fn check_table(catalog: &Catalog, faults: &mut Faults) {
    let table = &catalog.table;
    match catalog.kind {
        RelationKind::Table | RelationKind::Partitioned | RelationKind::Foreign => {}
        RelationKind::View => faults.push("table.name", format!("`{table}` is a view; name the table below it")),
        RelationKind::Other => faults.push("table.name", format!("`{table}` is no table")),
    }
}

/// Columns that must have a value, and can't get one.
fn check_unfilled(spec: &RowSpec<'_>, catalog: &Catalog, mapping: &[Column], faults: &mut Faults) {
    for column in &catalog.columns {
        let filled = mapping.iter().any(|mapped| mapped.name == column.name)
            || matches!(spec.unknown_fields, UnknownFields::Column(name) if *name == column.name);
        if column.not_null && !column.has_default && !column.generated && !filled {
            let CatalogColumn { name, type_text, .. } = column;
            let message = format!("column `{name}` ({type_text}) is NOT NULL without a default; map a field to it");
            faults.push("columns", message);
        }
    }
}
