//! Maps fields and Kafka's metadata to the columns of a row, by a plan that is made from configuration and catalog.
//!
//! [`Plan::new`] decides everything that doesn't depend on a record, and reports all faults at once. [`Encoder`] does the rest
//! for each record: it finds the fields and writes the columns. For most records, it allocates nothing.
//!
//! - If a field is missing, its column gets the mapping's `default`; without a `default`, `missing` decides. A null field is
//!   NULL. If a NOT NULL column would get NULL, the record is rejected here, without a round trip to Postgres.
//! - If a field is missing and the table has a default for its column, the row leaves the column out; see [`mark`] and
//!   [`shapes`]. The mapping's `default` and `missing` take precedence.
//! - With `unknown_fields = { column = … }`, a record without unknown fields has NULL in that column, or `{}` if the column is
//!   NOT NULL. If a column takes `position.lat`, the field `position` is not unknown.
//! - A row that doesn't match `where` is dropped. A field that `where` tests is not unknown.
//! - In mode aggregate, a row contains the inputs to the aggregates. NULL means that the row doesn't count for the column.
//! - With `evolve = "add"`, a record with a field that should become a column is first rejected as `new_field`; see `evolve`.
//! - If the record names its table, the row has the columns of that table and a mark in front; see `route`.
//! - A field that is JSON's null is SQL's NULL, for json and jsonb columns too.

mod change;
pub mod evolve;
mod explain;
mod fold;
mod function;
mod keep;
mod key;
pub mod mark;
mod meta;
mod plan;
mod planner;
mod presence;
pub mod route;
mod row_filter;
mod schemas_met;
pub mod shapes;
mod tombstone;

use std::sync::Arc;

use crate::catalog::TableName;
use crate::copy::{NULL, Scratch};
use crate::decode::Decoder;
use crate::decode::Fields;
use crate::decode::frame::{self, HeaderNames, SchemaHeader};
use crate::json::members::Members;
use crate::schema::SchemaId;
use crate::value::DecodeError;
use crate::value::{EncodeError, Kind, Reason, Value, shown};
use evolve::{GivenUp, NewFields};
pub use explain::Described;
use key::KeyReader;
use mark::Mark;
pub use plan::Plan;
pub use plan::Taken;
use plan::{Feed, PlannedColumn, WhenMissing};
pub use presence::MissingField;
use presence::Presence;
pub use schemas_met::SchemasMet;
use tidegate_protocol::record::{Headers, Record};

/// Encodes records as rows of binary COPY. Each thread has its own encoder, because an encoder keeps buffers, and facts that it
/// has learned about the keys in JSON objects.
///
/// Four fields are buffers of the current row:
/// - `made`: text that was made for a column, such as the digits of an offset
/// - `computed`: the result of a column's function
/// - `named`: the name of the row's table, if records name their tables
/// - `compared`: unescaped text that `where` and `keep` are compared with
#[derive(Debug)]
pub struct Encoder {
    plan: Arc<Plan>,
    decoder: Decoder,
    fields: Fields,
    scratch: Scratch,
    made: Vec<u8>,
    computed: Vec<u8>,
    named: Vec<u8>,
    compared: Vec<u8>,
    /// `None` if neither deletes nor columns need the keys of records.
    keys: Option<KeyReader>,
    /// The index of the current row in its record, from 0.
    row: u32,
    deletes: u64,
    presence: Presence,
    reads_headers: bool,
}

/// Why a record was rejected. If a column is at fault, the number is its index among the plan's columns.
enum Refusal {
    Record(DecodeError),
    Column(u16, Reason),
    Meta(u16, DecodeError),
}

impl Encoder {
    pub fn new(plan: Arc<Plan>) -> Self {
        let decoder = Decoder::new(
            &plan.decode,
            &plan.paths,
            plan.leftovers,
            &plan.base,
            plan.schemas.as_ref(),
            (&plan.levels, plan.by_name),
        );
        let presence = Presence::of(&plan);
        let keys = (plan.deletes || plan.reads_keys)
            .then(|| KeyReader::new(&plan.keys, &plan.decode, &plan.key_paths, plan.schemas.as_ref()));
        let reads_headers = plan.decode.may_be_framed() || keys.as_ref().is_some_and(KeyReader::reads_header);
        Self {
            plan,
            decoder,
            fields: Fields::default(),
            scratch: Scratch::default(),
            made: Vec::new(),
            computed: Vec::new(),
            named: Vec::new(),
            compared: Vec::new(),
            keys,
            row: 0,
            deletes: 0,
            presence,
            reads_headers,
        }
    }

    /// Returns the number of rows encoded so far that delete a row of the table.
    pub fn deletes(&self) -> u64 {
        self.deletes
    }

    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// Returns the id of the schema that this record needs, if the schema isn't loaded yet. This call also requests the schema.
    /// Until the schema is loaded, this record and all later records must wait.
    #[inline]
    pub fn wants(&mut self, key: Option<&[u8]>, value: Option<&[u8]>, headers: Headers<'_>) -> Option<SchemaId> {
        let header = self.header(headers, &frame::OF_VALUE);
        let of_value = value.and_then(|value| self.decoder.wants(value, header));
        if of_value.is_some() {
            return of_value;
        }
        // Columns may take the key, and a delete may need it. So request the schema of the key too.
        let header = self.header(headers, &frame::OF_KEY);
        self.keys.as_mut()?.wants(key?, header)
    }

    /// Returns whether headers may name the schemas of records.
    #[inline]
    pub fn reads_headers(&self) -> bool {
        self.reads_headers
    }

    #[inline]
    fn header<'a>(&self, headers: Headers<'a>, names: &HeaderNames) -> Option<SchemaHeader<'a>> {
        if self.reads_headers { frame::header(headers, names) } else { None }
    }

    /// Appends a record's rows to `rows`, without COPY's header and trailer. Returns how many rows there are.
    ///
    /// # Errors
    /// If the record can't become rows. The error says why. `rows` is then unchanged.
    #[inline]
    pub fn encode(&mut self, record: &Record<'_>, rows: &mut Vec<u8>) -> Result<u32, EncodeError> {
        let mark = rows.len();
        match self.rows(record, rows) {
            Ok(count) => Ok(count),
            Err(refusal) => {
                rows.truncate(mark);
                self.count_rest(&refusal);
                Err(self.reject(refusal, record))
            }
        }
    }

    /// Appends the rows of a record. After an error, `rows` may end with some of these rows, which the caller must remove.
    #[inline]
    fn rows(&mut self, record: &Record<'_>, rows: &mut Vec<u8>) -> Result<u32, Refusal> {
        self.row = 0;
        let Some(payload) = record.value else {
            // Debezium writes a tombstone after each delete, unless configured otherwise. If the pipeline doesn't apply deletes,
            // the tombstone has no effect.
            if self.plan.change.is_some() && !self.plan.deletes {
                return Ok(0);
            }
            return self.tombstone(record, rows).map(|()| 1).map_err(Refusal::Record);
        };
        if self.plan.deletes && tombstone::is_spelled_out(payload) {
            return self.tombstone(record, rows).map(|()| 1).map_err(Refusal::Record);
        }
        let header = self.header(record.headers, &frame::OF_VALUE);
        match self.decoder.decode(payload, header, &mut self.fields) {
            Ok(true) => {}
            Ok(false) => return Ok(0),
            // The value is JSON's null or an envelope whose payload is null. Both mean a tombstone.
            Err(fault) if fault.reason == Reason::Tombstone && self.plan.deletes => {
                return self.tombstone(record, rows).map(|()| 1).map_err(Refusal::Record);
            }
            Err(fault) => return Err(Refusal::Record(fault)),
        }
        if self.plan.reads_keys {
            self.read_key(record).map_err(Refusal::Record)?;
        }
        if self.plan.change.is_some() {
            return self.change(record, payload, rows);
        }
        let count = self.row(record, payload, rows)?;
        if self.fields.more { self.more_rows(record, payload, count, rows) } else { Ok(count) }
    }

    #[inline(never)]
    fn read_key(&mut self, record: &Record<'_>) -> Result<(), DecodeError> {
        let header = self.header(record.headers, &frame::OF_KEY);
        match (&mut self.keys, record.key) {
            (Some(keys), Some(key)) => keys.read(key, header),
            _ => Ok(()),
        }
    }

    #[inline(never)]
    fn more_rows(
        &mut self,
        record: &Record<'_>,
        payload: &[u8],
        mut count: u32,
        rows: &mut Vec<u8>,
    ) -> Result<u32, Refusal> {
        let start = rows.len();
        while self.fields.more {
            self.row += 1;
            if !self.decoder.next(payload, &mut self.fields).map_err(Refusal::Record)? {
                break;
            }
            count += self.row(record, payload, rows)?;
            if rows.len() - start > self.plan.record_bytes {
                let limit = self.plan.record_bytes;
                let detail = format!("it gives rows of more than {limit} bytes; raise `batch.max_bytes`");
                return Err(Refusal::Record(DecodeError::new(Reason::TooLarge, detail)));
            }
        }
        Ok(count)
    }

    #[inline]
    fn row(&mut self, record: &Record<'_>, payload: &[u8], rows: &mut Vec<u8>) -> Result<u32, Refusal> {
        if let Some(keep) = &self.plan.keep
            && !keep.holds(&self.fields, payload, &mut self.compared)
        {
            return Ok(0);
        }
        if let Some(condition) = &self.plan.delete_where
            && condition.holds(&self.fields, payload, &mut self.compared)
        {
            return self.delete(record, payload, rows).map(|()| 1).map_err(Refusal::Record);
        }
        if let Some(given_up) = &self.plan.evolves
            && !self.fields.leftovers.is_empty()
        {
            self.unknown(given_up).map_err(Refusal::Record)?;
        }
        let (columns, mark) = match &self.plan.router {
            None => (&self.plan.columns, self.plan.open(rows)),
            Some(router) => {
                let named = &mut self.named;
                router.name(record, &self.fields, &mut self.made, named).map_err(Refusal::Record)?;
                let target = router.target(named).map_err(Refusal::Record)?;
                (&target.columns, Some(target.open(rows)))
            }
        };
        self.presence.rows += 1;
        for (at, column) in (0_u16..).zip(columns) {
            let value = if let Some(slot) = column.plain {
                match self.fields.value(slot, payload) {
                    value if value.kind != Kind::Lexical => value,
                    value => meta::lexical(&value, &column.encoding).map_err(|fault| Refusal::Meta(at, fault))?,
                }
            } else {
                let value = match (&column.feed, self.keys.as_ref().filter(|_| self.plan.reads_keys), record.key) {
                    (Feed::Field(slot), ..) => {
                        let value = self.fields.value(*slot, payload);
                        let keep = column.keep.as_deref();
                        if keep.is_some_and(|text| keep::stands_for_missing(&value, text, &mut self.compared)) {
                            Ok(Value::MISSING)
                        } else if value.kind == Kind::Lexical {
                            meta::lexical(&value, &column.encoding)
                        } else {
                            Ok(value)
                        }
                    }
                    (Feed::Ordinal(lexeme), ..) => {
                        self.made.clear();
                        Ok(meta::integer(i64::from(self.row) + 1, *lexeme, &mut self.made))
                    }
                    (Feed::Key(_), Some(keys), Some(key)) => keys.whole(key, &column.encoding),
                    (feed, ..) => meta::value(feed, record, &self.fields, &mut self.made),
                };
                let value = value.map_err(|fault| Refusal::Meta(at, fault))?;
                if let Some(fold) = &column.fold
                    && fold.put(&value, &self.fields, payload, &mut self.compared, rows)
                {
                    if value.kind == Kind::Missing {
                        self.presence.note(column, &self.fields);
                    }
                    continue;
                }
                match &column.function {
                    Some(function) if !matches!(value.kind, Kind::Missing | Kind::Null) => function
                        .apply(value, &column.encoding, &mut self.computed)
                        .map_err(|fault| Refusal::Meta(at, fault))?,
                    _ => value,
                }
            };
            let put = match value.kind {
                Kind::Missing | Kind::Null => {
                    if value.kind == Kind::Missing {
                        self.presence.note(column, &self.fields);
                    }
                    absent(column, value.kind, mark, rows)
                }
                _ => column.encoding.put(value, column.nul, &mut self.scratch, rows),
            };
            put.map_err(|reason| Refusal::Column(at, reason))?;
        }
        if self.plan.deletes {
            rows.extend_from_slice(&tombstone::KEEPS);
        }
        if let Some(mark) = mark {
            mark.close(rows).map_err(|reason| Refusal::Column(0, reason))?;
        }
        Ok(1)
    }

    /// With `evolve`, rejects a record with a field that should become a column. The record is encoded again when the column
    /// exists. Other unknown fields are treated as `unknown_fields` says.
    #[inline(never)]
    fn unknown(&self, given_up: &GivenUp) -> Result<(), DecodeError> {
        let leftovers = &self.fields.leftovers;
        if let Some(name) = given_up.first_new(leftovers) {
            return Err(DecodeError {
                reason: Reason::NewField,
                detail: format!("the field {name} has no column yet"),
            });
        }
        match Members::of(leftovers).next() {
            Some((name, _)) if self.plan.refuses_unknown => {
                let detail = format!("the field {} has no column", shown(name.as_bytes()));
                Err(DecodeError { reason: Reason::UnknownField, detail })
            }
            _ => Ok(()),
        }
    }

    /// Returns the tables that a record's rows name and the plan lacks. Such a table may exist already, or may have to be
    /// created.
    pub fn unknown_tables(&mut self, record: &Record<'_>) -> Vec<TableName> {
        let mut unknown = Vec::new();
        let plan = Arc::clone(&self.plan);
        let Some(router) = &plan.router else { return unknown };
        let Some(payload) = record.value else {
            if router.name(record, &self.fields, &mut self.made, &mut self.named).is_ok() {
                unknown.extend(router.unknown(&self.named));
            }
            return unknown;
        };
        self.each_row(record, payload, |this| {
            if router.name(record, &this.fields, &mut this.made, &mut this.named).is_ok() {
                unknown.extend(router.unknown(&this.named));
            }
        });
        unknown
    }

    /// Adds to `found` the fields of a record that should become columns. `tidegate check` only shows them.
    pub fn new_fields(&mut self, record: &Record<'_>, found: &mut NewFields) {
        let plan = Arc::clone(&self.plan);
        let (Some(given_up), Some(payload)) = (&plan.evolves, record.value) else { return };
        self.each_row(record, payload, |this| found.note(&this.fields.leftovers, given_up));
    }

    /// Decodes the rows of a record's value into `self.fields`, one after another, and calls `visit` after each row. Ends at the
    /// first row that can't be decoded.
    fn each_row(&mut self, record: &Record<'_>, payload: &[u8], mut visit: impl FnMut(&mut Self)) {
        let header = self.header(record.headers, &frame::OF_VALUE);
        let mut more = self.decoder.decode(payload, header, &mut self.fields) == Ok(true);
        while more {
            visit(self);
            more = self.fields.more && self.decoder.next(payload, &mut self.fields) == Ok(true);
        }
    }

    #[cold]
    #[inline(never)]
    fn reject(&mut self, refusal: Refusal, record: &Record<'_>) -> EncodeError {
        let of_row = match self.row {
            0 if !self.fields.more => String::new(),
            row => format!("row {} of the record: ", u64::from(row) + 1),
        };
        let (at, reason) = match refusal {
            Refusal::Record(DecodeError { reason, detail }) => {
                return EncodeError { reason, column: None, detail: of_row + &detail };
            }
            Refusal::Meta(at, DecodeError { reason, detail }) => {
                let name = self.plan.columns.get(usize::from(at)).map_or("", |column| &column.name);
                return EncodeError { reason, column: Some(at), detail: format!("{of_row}{name}: {detail}") };
            }
            Refusal::Column(at, reason) => (at, reason),
        };
        let payload = record.value.unwrap_or_default();
        let routed = self.plan.router.as_ref().and_then(|router| router.target(&self.named).ok());
        let columns = routed.map_or(&self.plan.columns, |target| &target.columns);
        let column = &columns[usize::from(at)];
        let value = match &column.feed {
            Feed::Field(slot) => self.fields.value(*slot, payload),
            feed => meta::value(feed, record, &self.fields, &mut self.made).unwrap_or(Value::MISSING),
        };
        EncodeError {
            reason,
            column: Some(at),
            detail: of_row + &explain::sentence(&self.plan, column, reason, &value),
        }
    }
}

/// Writes the default, NULL or nothing for a column whose value is missing or null.
///
/// # Errors
/// The reason why the record is rejected.
#[inline(never)]
fn absent(column: &PlannedColumn, kind: Kind, mark: Option<Mark>, rows: &mut Vec<u8>) -> Result<(), Reason> {
    match (kind, &column.missing, mark) {
        (Kind::Missing, WhenMissing::Constant(field), _) => rows.extend_from_slice(field),
        (Kind::Missing, WhenMissing::LeaveOut(bit), Some(mark)) => mark.leave_out(*bit, rows),
        (Kind::Missing, WhenMissing::DeadLetter, _) => return Err(Reason::MissingField),
        _ if !column.not_null => rows.extend_from_slice(&NULL),
        (Kind::Missing, ..) => return Err(Reason::MissingField),
        _ => return Err(Reason::NullInNotNull),
    }
    Ok(())
}
