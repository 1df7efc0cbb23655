//! Plans the columns one by one: checks that each column's type can take values of its source.

use crate::catalog::{Catalog, CatalogColumn, TypeKind};
use crate::copy::{Encoding, Scratch, Times, types};
use crate::decode::Path;
use crate::decode::either::OP;
use crate::fault::{Faults, hint};
use crate::json;
use crate::mapping::fold::Fold;
use crate::mapping::function::Applied;
use crate::mapping::meta::{Lexeme, Reading};
use crate::mapping::plan::{Change, Feed, PlannedColumn, WhenMissing};
use crate::mapping::row_filter::Check;
use crate::mapping::shapes::Shapes;
use crate::spec::{
    AggregateFunction, Column, EpochUnit, Missing, NulPolicy, RowFilter, RowSpec, Source, UnknownFields, WriteMode,
};
use crate::value::Kind;
use crate::write_mode;

/// Plans columns, and collects the paths that they need and the faults of the mapping. `base` becomes the plan's `base`. `before`
/// and `has_op` become `before` and `shown` of [`Change`].
pub(super) struct Planner<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) mode: &'a WriteMode,
    /// The columns from which Postgres computes generated columns of an upsert's key. A record that deletes a row must have
    /// values for these columns.
    key_inputs: Vec<String>,
    /// Whether there is no mapping in the configuration, so that each column takes the field of its name.
    pub(super) automatic: bool,
    pub(super) paths: Vec<Path>,
    pub(super) base: Vec<String>,
    pub(super) before: Vec<(u16, u16)>,
    pub(super) has_op: bool,
    /// The paths to look up in keys. The first path is empty and stands for the whole key.
    pub(super) key_paths: Vec<Path>,
    pub(super) faults: Faults,
    pub(super) shapes: Shapes,
}

impl<'a> Planner<'a> {
    pub(super) fn new(spec: &RowSpec<'a>, catalog: &'a Catalog, automatic: bool, faults: Faults) -> Self {
        let base = if spec.shape.change { vec!["after".to_owned()] } else { Vec::new() };
        Self {
            catalog,
            mode: &spec.table.mode,
            key_inputs: write_mode::key_inputs(spec.table, catalog),
            automatic,
            paths: Vec::new(),
            base,
            before: Vec::new(),
            has_op: false,
            key_paths: vec![Path::new()],
            faults,
            shapes: Shapes::default(),
        }
    }

    /// Plans how Debezium's changes are read. Call this after all columns are planned.
    pub(super) fn change(&mut self) -> Option<Change> {
        if self.base.is_empty() {
            return None;
        }
        let op = self.slot_at(vec![OP.to_owned()])?;
        Some(Change { op, before: std::mem::take(&mut self.before), shown: self.has_op })
    }

    /// Plans a column. `place` is the column's index in the row. Returns `None` after a fault.
    pub(super) fn column(&mut self, mapped: &Column, place: usize) -> Option<PlannedColumn> {
        let key = format!("columns.{}", mapped.name);
        let column = self.existing(&key, &mapped.name)?;
        if let Some(text) = mapped.type_name.as_deref().filter(|text| !is_type(text, column)) {
            let message = format!("the mapping says `{text}`, but the column is `{}`", column.type_text);
            self.faults.push(format!("{key}.type"), message);
        }
        let unit = if mapped.source == Source::Timestamp { Some(EpochUnit::Millis) } else { mapped.unit };
        let times = Times { unit, zone: mapped.zone.clone() };
        let counts = mapped.aggregate.as_ref().is_some_and(|a| a.function == AggregateFunction::Count);
        let encoding = if counts { Encoding::Bool } else { self.encoding(&key, column, &times)? };
        if mapped.unit.is_some() && !(takes_unit(&encoding) && mapped.source != Source::Timestamp) {
            self.faults.push(format!("{key}.unit"), "only fields that become timestamp or timestamptz have a unit");
        }
        if mapped.zone.is_some() && !takes_zone(&encoding) {
            self.faults.push(format!("{key}.zone"), "only text that becomes timestamptz has a zone");
        }
        let feed = self.feed(&key, &mapped.source, &encoding, column)?;
        let constant = match &mapped.source {
            Source::Constant(json) => Some(json.as_str()),
            _ => mapped.default.as_deref(),
        };
        let default = constant.and_then(|json| self.default(&key, json, mapped.nul, &encoding, column));
        let mut planned = planned(column, feed, encoding, mapped.nul);
        planned.keep = mapped.keep.as_deref().map(|text| text.as_bytes().into());
        planned.function = mapped.function.as_ref().and_then(|function| {
            let applied = Applied::new(function, &planned.encoding);
            applied.map_err(|why| self.faults.push(&key, why)).ok().map(Box::new)
        });
        let merges = matches!(self.mode, WriteMode::Upsert { .. } | WriteMode::Aggregate { .. });
        let is_key = merges && self.mode.key().contains(&mapped.name);
        planned.in_key = is_key || self.key_inputs.contains(&mapped.name);
        planned.not_null |= is_key && !self.catalog.null_keys(self.mode.key()).contains(&mapped.name.as_str());
        if let (true, Source::Field(path)) = (planned.in_key, &mapped.source) {
            planned.key_from = self.key_slots(path, &mapped.name);
        }
        if let Some(aggregate) = &mapped.aggregate {
            let condition = aggregate.condition.as_ref().and_then(|condition| self.check(condition));
            planned.not_null &= condition.is_none() && !counts;
            if counts || condition.is_some() {
                planned.fold = Some(Box::new(Fold { counts, condition }));
            }
        }
        if planned.keep.is_some() || planned.function.is_some() || planned.fold.is_some() {
            planned.plain = None;
        }
        planned.missing = match default {
            Some(constant) => WhenMissing::Constant(constant),
            None => self.missing(&key, mapped, column, planned.in_key, place),
        };
        Some(planned)
    }

    /// Plans what happens if a record lacks this column's field. Called only if the mapping has neither a `default` nor a `value`
    /// for the column.
    fn missing(
        &mut self,
        key: &str,
        mapped: &Column,
        column: &CatalogColumn,
        in_key: bool,
        place: usize,
    ) -> WhenMissing {
        let upserts = matches!(self.mode, WriteMode::Upsert { .. });
        let own = if upserts && !in_key { Missing::Keep } else { Missing::Default };
        // The input of an aggregate is a record's value or nothing, so the table's default isn't used for it. The configuration
        // refuses `missing` for an aggregate.
        let own = (column.has_default && mapped.aggregate.is_none()).then_some(own);
        match mapped.missing.or(own) {
            Some(Missing::DeadLetter) => WhenMissing::DeadLetter,
            Some(Missing::Keep) if column.not_null && !column.has_default => {
                let message = format!(
                    "`{}` is NOT NULL without a default, and Postgres looks at that before it finds the row whose value is kept; \
                     give the column a default, or drop the NOT NULL",
                    column.name
                );
                self.faults.push(format!("{key}.missing"), message);
                WhenMissing::Null
            }
            Some(Missing::Keep) => WhenMissing::LeaveOut(self.shapes.add(&column.name, place, true)),
            // If the table has no default, INSERT gives NULL, or refuses the row.
            Some(Missing::Default) if column.has_default => {
                WhenMissing::LeaveOut(self.shapes.add(&column.name, place, false))
            }
            Some(Missing::Default | Missing::Null) | None => WhenMissing::Null,
        }
    }

    /// Plans a row filter, and reserves a slot for the field that it tests.
    pub(super) fn check(&mut self, condition: &RowFilter) -> Option<Check> {
        self.slot(&condition.field).map(|slot| Check::new(slot, condition))
    }

    /// Returns the table's column of this name. Reports a fault if there is none, or if Postgres generates its values.
    fn existing(&mut self, key: &str, name: &str) -> Option<&'a CatalogColumn> {
        let Catalog { table, columns, .. } = self.catalog;
        let Some(column) = columns.iter().find(|column| column.name == name) else {
            let close = hint(name, columns.iter().map(|column| column.name.as_str()));
            self.faults.push(key, format!("`{table}` has no column `{name}`{close}"));
            return None;
        };
        if column.generated.is_some() {
            self.faults.push(key, format!("Postgres generates `{name}` itself; leave it out of the mapping"));
            return None;
        }
        Some(column)
    }

    fn encoding(&mut self, key: &str, column: &CatalogColumn, times: &Times) -> Option<Encoding> {
        let encoding = Encoding::of(column, times);
        if encoding.is_none() {
            let CatalogColumn { name, type_text, base_type, .. } = column;
            let remedy = match (base_type.as_str(), self.automatic) {
                ("money", _) => "its text depends on the server's locale; make it numeric",
                (_, true) => "map the other columns by name, or fill a text column and let Postgres generate this one",
                (_, false) => "leave it out, or fill a text column and let Postgres generate this one from it",
            };
            self.faults.push(key, format!("column `{name}` is `{type_text}`, which has no encoder; {remedy}"));
        }
        encoding
    }

    fn feed(&mut self, key: &str, source: &Source, encoding: &Encoding, column: &CatalogColumn) -> Option<Feed> {
        let reading = Reading::of(encoding);
        let lexeme = Lexeme::of(encoding);
        let integer = matches!(encoding, Encoding::Int2 | Encoding::Int4 | Encoding::Int8 | Encoding::Numeric(_));
        let time = matches!(encoding, Encoding::Timestamp(_) | Encoding::TimestampTz(_));
        let (what, fits, feed) = match source {
            Source::Field(path) => return self.slot(path).map(Feed::Field),
            Source::Envelope(path) if self.base.is_empty() => {
                let message = format!("`{}` is a field of Debezium's envelope; set decode.envelope", path.join("."));
                self.faults.push(format!("{key}.meta"), message);
                return None;
            }
            Source::Envelope(path) => {
                self.has_op |= path.as_slice() == [OP];
                return self.slot_at(path.clone()).map(Feed::Field);
            }
            Source::Topic => ("a text", encoding.is_text() || matches!(encoding, Encoding::Enum(_)), Feed::Topic),
            Source::Partition => ("an int4", integer || encoding.is_text(), Feed::Partition(lexeme)),
            Source::Offset => ("an int8", integer || encoding.is_text(), Feed::Offset(lexeme)),
            Source::Timestamp => ("a timestamptz", time || integer, Feed::Timestamp(lexeme)),
            Source::Ordinal => ("an int4", integer || encoding.is_text(), Feed::Ordinal(lexeme)),
            Source::Constant(_) => ("", true, Feed::Constant),
            Source::Record => ("only counted", matches!(encoding, Encoding::Bool), Feed::Record),
            Source::Key => ("", true, Feed::Key(reading)),
            Source::Header(name) => ("", true, Feed::Header(name.as_bytes().into(), reading)),
            Source::Headers => {
                let fits = matches!(encoding, Encoding::Json | Encoding::Jsonb | Encoding::Text);
                ("a jsonb", fits, Feed::Headers)
            }
        };
        if !fits {
            self.faults.push(key, format!("this is {what}, but the column is `{}`", column.type_text));
        }
        Some(feed)
    }

    /// Returns the slot of a field of the record. In Debezium's envelope, this is a field of the row after the change.
    pub(super) fn slot(&mut self, path: &Path) -> Option<u16> {
        let below = |base: &[String]| base.iter().chain(path).cloned().collect();
        if self.base.is_empty() {
            return self.slot_at(below(&[]));
        }
        let after = self.slot_at(below(&self.base.clone()))?;
        let before = self.slot_at(below(&["before".to_owned()]))?;
        if !self.before.contains(&(before, after)) {
            self.before.push((before, after));
        }
        Some(after)
    }

    /// Returns the slot of a path from the top of the value. Adds the path if it is new.
    pub(super) fn slot_at(&mut self, path: Path) -> Option<u16> {
        let at = self.paths.iter().position(|known| *known == path).unwrap_or_else(|| {
            self.paths.push(path);
            self.paths.len() - 1
        });
        u16::try_from(at).ok()
    }

    /// Returns the slots of the fields in a record's key that may contain the value of a key column of the table. For the column
    /// `id` with the path `a.b`, these are the fields `a.b`, `b` and `id`.
    fn key_slots(&mut self, path: &Path, column: &str) -> Vec<u16> {
        let names = path.last().into_iter().cloned().chain([column.to_owned()]);
        let mut slots = Vec::new();
        for path in std::iter::once(path.clone()).chain(names.map(|name| vec![name])) {
            let at = self.key_paths.iter().position(|known| *known == path).unwrap_or_else(|| {
                self.key_paths.push(path);
                self.key_paths.len() - 1
            });
            slots.extend(u16::try_from(at));
        }
        slots
    }

    /// Encodes a mapping's `default` or `value` as a field of COPY. This happens when the plan is made, so that a bad value is
    /// found before the first record.
    fn default(
        &mut self,
        key: &str,
        text: &str,
        nul: NulPolicy,
        encoding: &Encoding,
        column: &CatalogColumn,
    ) -> Option<Box<[u8]>> {
        let slot = json::document(text.as_bytes()).ok()?;
        let mut field = Vec::new();
        let put = encoding.put(slot.of(text.as_bytes()), nul, &mut Scratch::default(), &mut field);
        match put {
            Ok(()) if slot.kind != Kind::Null => Some(field.into()),
            _ => {
                let message = format!("{text} is not `{}`", column.type_text);
                self.faults.push(format!("{key}.default"), message);
                None
            }
        }
    }

    pub(super) fn leftovers(&mut self, unknown: &UnknownFields, mapping: &[Column]) -> Option<PlannedColumn> {
        const KEY: &str = "unknown_fields.column";
        let UnknownFields::Column(name) = unknown else { return None };
        let column = self.existing(KEY, name)?;
        if mapping.iter().any(|mapped| mapped.name == *name) {
            self.faults.push(KEY, format!("`{name}` is mapped already"));
            return None;
        }
        let encoding = match Encoding::of(column, &Times::default()) {
            Some(encoding @ (Encoding::Jsonb | Encoding::Json)) => encoding,
            _ => {
                self.faults.push(KEY, format!("column `{name}` is `{}`; it must be jsonb", column.type_text));
                return None;
            }
        };
        let feed = Feed::Leftovers { empty: column.not_null };
        Some(planned(column, feed, encoding, NulPolicy::default()))
    }
}

fn planned(column: &CatalogColumn, feed: Feed, encoding: Encoding, nul: NulPolicy) -> PlannedColumn {
    PlannedColumn {
        name: column.name.clone(),
        type_text: short_type(column),
        not_null: column.not_null,
        plain: if let Feed::Field(slot) = feed { Some(slot) } else { None },
        feed,
        is_first_of_field: false,
        encoding,
        nul,
        missing: WhenMissing::Null,
        in_key: false,
        key_from: Vec::new(),
        keep: None,
        function: None,
        fold: None,
    }
}

fn takes_zone(encoding: &Encoding) -> bool {
    match encoding {
        Encoding::TimestampTz(_) => true,
        Encoding::Array(element) => takes_zone(&element.encoding),
        Encoding::Range(bound) => takes_zone(bound),
        _ => false,
    }
}

fn takes_unit(encoding: &Encoding) -> bool {
    match encoding {
        Encoding::Timestamp(_) | Encoding::TimestampTz(_) => true,
        Encoding::Array(element) => takes_unit(&element.encoding),
        Encoding::Range(bound) => takes_unit(bound),
        _ => false,
    }
}

/// Returns whether the type in the mapping is the column's type. A type without a modifier matches columns with any modifier.
fn is_type(text: &str, column: &CatalogColumn) -> bool {
    let named = |name: &str| text.trim().trim_matches('"').eq_ignore_ascii_case(name.trim_matches('"'));
    if named(&column.type_text) || named(&column.base_type) {
        return true;
    }
    let Some(parsed) = types::parse(text) else { return false };
    let oid = match column.kind {
        TypeKind::Array { .. } if parsed.array => types::by_array_oid(column.base_type_oid).map(|known| known.oid),
        TypeKind::Scalar if !parsed.array => Some(column.base_type_oid),
        _ => None,
    };
    let same_modifiers = parsed.modifiers.0.is_none()
        || types::parse(&column.type_text).is_none_or(|own| {
            own.modifiers.0 == parsed.modifiers.0 && own.modifiers.1.unwrap_or(0) == parsed.modifiers.1.unwrap_or(0)
        });
    oid == Some(parsed.oid) && same_modifiers
}

fn short_type(column: &CatalogColumn) -> String {
    types::parse(&column.type_text).and_then(types::TypeText::to_sql).unwrap_or_else(|| column.type_text.clone())
}
