//! Fields and Kafka's metadata become the columns of a row, as planned once from configuration and catalog.
//!
//! [`Plan::new`] decides everything that doesn't depend on a record and reports all that is wrong at once. [`Encoder`] then
//! does per record only what is left: find the fields, write the columns. It allocates nothing for a good record.
//!
//! - A missing field is the mapping's `default`, else what `missing` says. A null field is NULL. Where the column is NOT NULL the
//!   record is refused here, without a round trip.
//! - A row leaves a column out whose field is missing and that takes its default in the table; see [`mark`] and [`shapes`].
//! - Under `unknown_fields = { column = … }` a record without unknown fields has NULL there, `{}` if the column is NOT NULL.
//!   A top-level field that a column looks into (`position.lat`) is not unknown.
//! - A record for which `where` doesn't hold has no rows. A field that a `where` looks at is not unknown.
//! - In mode aggregate a column holds what a record gives to its fold: NULL where the record doesn't count.
//! - Under `evolve = "add"` a record with a field that no column takes is refused as `new_field`; see `evolve`.
//! - Where the record names its table, the row has that table's columns and a mark in front; see `route`.
//! - A JSON null is SQL's NULL for json and jsonb columns too.

pub mod evolve;
mod explain;
mod fold;
pub mod mark;
mod meta;
mod plan;
mod planner;
pub mod route;
mod row_filter;
pub mod shapes;
mod tombstone;

use std::sync::Arc;

use crate::catalog::TableName;
use crate::copy::{NULL, Scratch};
use crate::decode::Decoder;
use crate::decode::Fields;
use crate::decode::Leftovers;
use crate::json::members::Members;
use crate::spec::Decode;
use crate::value::DecodeFault;
use crate::value::{Kind, Reason, Rejection, Value, shown};
use evolve::{GivenUp, NewFields};
pub use explain::Described;
use mark::Mark;
pub use plan::Plan;
pub use plan::Taken;
use plan::{Feed, PlannedColumn, WhenMissing};
use tidegate_protocol::record::Record;

/// Turns records into rows of binary COPY. One a thread: it keeps scratch, and what it learns of the records' shape.
#[derive(Debug)]
pub struct Encoder {
    plan: Arc<Plan>,
    decoder: Decoder,
    fields: Fields,
    scratch: Scratch,
    /// Text made up for a column: an offset's digits, the headers as an object.
    made: Vec<u8>,
    /// The table that the record at hand names.
    named: Vec<u8>,
    /// Text without its escapes, for a `where` to compare.
    compared: Vec<u8>,
    /// Reads the keys of tombstones, where these delete.
    keys: Option<Decoder>,
    /// The number of the row within its record, from 0.
    row: u32,
}

/// Why a row came to an end, and at which column.
enum Refusal {
    Record(DecodeFault),
    Column(u16, Reason),
    Meta(u16, DecodeFault),
}

impl Encoder {
    /// An encoder of this plan's rows.
    pub fn new(plan: Arc<Plan>) -> Self {
        let decoder = Decoder::new(&plan.decode, &plan.paths, plan.leftovers, plan.schemas.as_ref());
        let keys = plan.deletes.then(|| Decoder::new(&Decode::Json, &plan.paths, Leftovers::Ignore, None));
        Self {
            plan,
            decoder,
            fields: Fields::default(),
            scratch: Scratch::default(),
            made: Vec::new(),
            named: Vec::new(),
            compared: Vec::new(),
            keys,
            row: 0,
        }
    }

    /// The plan it encodes by.
    pub fn plan(&self) -> &Arc<Plan> {
        &self.plan
    }

    /// The number of the schema that this record needs and that isn't here yet: it has been asked for. The record must wait,
    /// and with it all that come after it.
    #[inline]
    pub fn wants(&mut self, value: Option<&[u8]>) -> Option<u32> {
        self.decoder.wants(value?)
    }

    /// Appends a record's rows to `rows`, without COPY's header and trailer, and says how many there are.
    ///
    /// # Errors
    /// The record is no row by its own fault; `rows` is as before.
    #[inline]
    pub fn encode(&mut self, record: &Record<'_>, rows: &mut Vec<u8>) -> Result<u32, Rejection> {
        let mark = rows.len();
        match self.rows(record, rows) {
            Ok(count) => Ok(count),
            Err(refusal) => {
                rows.truncate(mark);
                Err(self.reject(refusal, record))
            }
        }
    }

    /// The rows of a record: all of them or none.
    #[inline]
    fn rows(&mut self, record: &Record<'_>, rows: &mut Vec<u8>) -> Result<u32, Refusal> {
        self.row = 0;
        let Some(payload) = record.value else {
            return self.tombstone(record, rows).map(|()| 1).map_err(Refusal::Record);
        };
        if !self.decoder.decode(payload, &mut self.fields).map_err(Refusal::Record)? {
            return Ok(0);
        }
        let count = self.row(record, payload, rows)?;
        if self.fields.more { self.more_rows(record, payload, count, rows) } else { Ok(count) }
    }

    /// What follows the first row.
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
                return Err(Refusal::Record(DecodeFault::new(Reason::TooLarge, detail)));
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
        for (at, column) in (0_u16..).zip(columns) {
            let value = match &column.feed {
                Feed::Field(slot) => match self.fields.value(*slot, payload) {
                    value if value.kind != Kind::Lexical => value,
                    value => meta::lexical(&value, &column.encoding).map_err(|fault| Refusal::Meta(at, fault))?,
                },
                feed => {
                    meta::value(feed, record, &self.fields, &mut self.made).map_err(|fault| Refusal::Meta(at, fault))?
                }
            };
            if let Some(fold) = &column.fold
                && fold.put(&value, &self.fields, payload, &mut self.compared, rows)
            {
                continue;
            }
            let put = match value.kind {
                Kind::Missing | Kind::Null => absent(column, value.kind, mark, rows),
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

    /// Fields that no column takes, where these become columns: a new one holds the record back until it is there.
    #[inline(never)]
    fn unknown(&self, given_up: &GivenUp) -> Result<(), DecodeFault> {
        let leftovers = &self.fields.leftovers;
        if let Some(name) = given_up.first_new(leftovers) {
            return Err(DecodeFault {
                reason: Reason::NewField,
                detail: format!("the field {name} has no column yet"),
            });
        }
        match Members::of(leftovers).next() {
            Some((name, _)) if self.plan.refuses_unknown => {
                let detail = format!("the field {} has no column", shown(name.as_bytes()));
                Err(DecodeFault { reason: Reason::UnknownField, detail })
            }
            _ => Ok(()),
        }
    }

    /// The tables that a record's rows name and that the plan lacks: they may be there, or be made.
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
        let mut more = self.decoder.decode(payload, &mut self.fields) == Ok(true);
        while more {
            if router.name(record, &self.fields, &mut self.made, &mut self.named).is_ok() {
                unknown.extend(router.unknown(&self.named));
            }
            more = self.fields.more && self.decoder.next(payload, &mut self.fields) == Ok(true);
        }
        unknown
    }

    /// Notes the fields of a record that are to become columns, or in a trial would.
    pub fn new_fields(&mut self, record: &Record<'_>, found: &mut NewFields) {
        let plan = Arc::clone(&self.plan);
        let (Some(given_up), Some(payload)) = (&plan.evolves, record.value) else { return };
        let mut more = self.decoder.decode(payload, &mut self.fields) == Ok(true);
        while more {
            found.note(&self.fields.leftovers, given_up);
            more = self.fields.more && self.decoder.next(payload, &mut self.fields) == Ok(true);
        }
    }

    #[cold]
    #[inline(never)]
    fn reject(&mut self, refusal: Refusal, record: &Record<'_>) -> Rejection {
        let of_row = match self.row {
            0 if !self.fields.more => String::new(),
            row => format!("row {} of the record: ", u64::from(row) + 1),
        };
        let (at, reason) = match refusal {
            Refusal::Record(DecodeFault { reason, detail }) => {
                return Rejection { reason, column: None, detail: of_row + &detail };
            }
            Refusal::Meta(at, DecodeFault { reason, detail }) => {
                let name = self.plan.columns.get(usize::from(at)).map_or("", |column| &column.name);
                return Rejection { reason, column: Some(at), detail: format!("{of_row}{name}: {detail}") };
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
        Rejection { reason, column: Some(at), detail: of_row + &explain::sentence(&self.plan, column, reason, &value) }
    }
}

/// A missing or null value: the default, NULL, no field at all, or a refusal.
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
