//! Records that delete a row, in mode upsert with `deletes`. A tombstone has no value; other records say in their value that they
//! delete. Each becomes a row with the key and a delete mark. Without `deletes`, a tombstone is rejected. Except: in Debezium's
//! topics, it has no effect.

use tidegate_protocol::record::Record;

use crate::copy::NULL;
use crate::decode::{Fields, frame};
use crate::mapping::plan::{Feed, PlannedColumn, WhenMissing};
use crate::mapping::{Encoder, meta};
use crate::value::DecodeError;
use crate::value::{Kind, Reason, Value, shown};

/// The last field of a row that isn't a delete: a bool that is false. Rows have this field only with `deletes`.
pub(super) const KEEPS: [u8; 5] = [0, 0, 0, 1, 0];
const DELETES: [u8; 5] = [0, 0, 0, 1, 1];

/// The longest value, in bytes, that may be an empty envelope.
const SPELLED_OUT_MAX: usize = 64;

/// Returns whether a value is an empty envelope, which Kafka Connect's JSON converter writes for a tombstone.
#[inline]
pub(super) fn is_spelled_out(value: &[u8]) -> bool {
    value.len() <= SPELLED_OUT_MAX && is_empty_envelope(value)
}

#[cold]
fn is_empty_envelope(value: &[u8]) -> bool {
    let text: Vec<u8> = value.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
    [&br#"{"schema":null,"payload":null}"#[..], br#"{"payload":null,"schema":null}"#].contains(&text.as_slice())
}

impl Encoder {
    /// Writes the row of a tombstone. The columns of the table's key get their values from the record's key. If only one of them
    /// takes a field, say `id`, the record's key may be `{"id":7}` or just `7`. Columns of the table's key that take Kafka's
    /// metadata get their values as usual. All other columns are NULL.
    #[cold]
    pub(super) fn tombstone(&mut self, record: &Record<'_>, rows: &mut Vec<u8>) -> Result<(), DecodeError> {
        let refused = |detail: String| DecodeError { reason: Reason::Tombstone, detail };
        if !self.plan.deletes {
            return Err(refused("the record has no value: it is a tombstone".to_owned()));
        }
        if record.key.is_none() {
            return Err(refused("the record has neither a value nor a key that says which row to delete".to_owned()));
        }
        self.delete_row(record, None, rows)
    }

    /// Writes the row of a record that deletes by its value: a change with `op` `d`, or a match of `delete_where`. The columns of
    /// the table's key come from the decoded fields, or else from the record's key.
    #[cold]
    pub(super) fn delete(
        &mut self,
        record: &Record<'_>,
        payload: &[u8],
        rows: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        self.delete_row(record, Some(payload), rows)
    }

    fn delete_row(
        &mut self,
        record: &Record<'_>,
        payload: Option<&[u8]>,
        rows: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        let from_field = |column: &&PlannedColumn| column.in_key && matches!(column.feed, Feed::Field(_));
        let from_fields = self.plan.columns.iter().filter(from_field).count();
        let here = |column: &PlannedColumn, fields: &Fields| match (&column.feed, payload) {
            (Feed::Field(slot), Some(payload)) => {
                let value = fields.value(*slot, payload);
                !matches!(value.kind, Kind::Missing | Kind::Null)
            }
            (Feed::Field(_), None) => false,
            _ => true,
        };
        // If the value contains all columns of the key, the record's key need not be readable.
        let whole =
            payload.is_some() && self.plan.columns.iter().filter(from_field).all(|column| here(column, &self.fields));
        let key = record.key.filter(|_| !whole);
        let header = self.header(record.headers, &frame::OF_KEY);
        if let (Some(keys), Some(key)) = (&mut self.keys, key) {
            keys.read(key, header)?;
        }
        let (columns, mark) = match &self.plan.router {
            None => (&self.plan.columns, self.plan.open(rows)),
            // The configuration ensures that the table's name uses no field, because a tombstone has no fields.
            Some(router) => {
                router.name(record, &self.fields, &mut self.made, &mut self.named)?;
                let target = router.target(&self.named)?;
                (&target.columns, Some(target.open(rows)))
            }
        };
        for column in columns {
            if !column.in_key {
                rows.extend_from_slice(&NULL);
                continue;
            }
            // If a column takes the record's key, the key has already been read for that column.
            let value = match (&column.feed, &self.keys, key.or(record.key)) {
                (Feed::Field(slot), ..) if here(column, &self.fields) => {
                    self.fields.value(*slot, payload.unwrap_or_default())
                }
                (Feed::Field(_), Some(keys), Some(key)) if keys.has_fields() => keys.first(&column.key_from, key),
                (Feed::Field(_), Some(keys), Some(key)) if from_fields == 1 => keys.whole(key, &column.encoding)?,
                (Feed::Field(_), ..) => Value::MISSING,
                (Feed::Key(_), Some(keys), Some(key)) if self.plan.reads_keys => keys.whole(key, &column.encoding)?,
                (feed, ..) => meta::value(feed, record, &self.fields, &mut self.made)?,
            };
            let value = match (&column.feed, payload) {
                // The record's key has no value for this column. Use the null of the record's value, if it has one.
                (Feed::Field(slot), Some(payload)) if value.kind == Kind::Missing => self.fields.value(*slot, payload),
                _ => value,
            };
            let value = if value.kind == Kind::Lexical { meta::lexical(&value, &column.encoding)? } else { value };
            let value = match &column.function {
                Some(function) if !matches!(value.kind, Kind::Missing | Kind::Null) => {
                    function.apply(value, &column.encoding, &mut self.computed)?
                }
                _ => value,
            };
            let put = match value.kind {
                Kind::Missing | Kind::Null => match &column.missing {
                    WhenMissing::Constant(field) if matches!(column.feed, Feed::Constant) => {
                        rows.extend_from_slice(field);
                        Ok(())
                    }
                    // In this column, NULL is a key value like any other. A field that is missing in the record's value means
                    // NULL, as in an upsert. A field that is missing in the record's key may have another name there, so this is
                    // an error.
                    missing
                        if !column.not_null
                            && (value.kind == Kind::Null
                                || payload.is_some() && matches!(missing, WhenMissing::Null)) =>
                    {
                        rows.extend_from_slice(&NULL);
                        Ok(())
                    }
                    _ => Err(Reason::Tombstone),
                },
                _ => column.encoding.put(value, column.nul, &mut self.scratch, rows),
            };
            put.map_err(|reason| DecodeError {
                reason,
                detail: format!(
                    "the record deletes a row, and has no valid value for {} {}: {}",
                    column.name,
                    column.type_text,
                    record.key.map_or("it has no key".to_owned(), |key| format!("its key is {}", shown(key)))
                ),
            })?;
        }
        rows.extend_from_slice(&DELETES);
        self.deletes += 1;
        if let Some(mark) = mark {
            mark.close(rows)
                .map_err(|reason| DecodeError { reason, detail: "the row of its key is too large".to_owned() })?;
        }
        Ok(())
    }
}
