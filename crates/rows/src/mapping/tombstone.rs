//! Records without a value: refused, or in mode upsert with `deletes` a row of the key and the mark that it goes.

use tidegate_protocol::record::Record;

use crate::copy::NULL;
use crate::mapping::plan::Feed;
use crate::mapping::{Encoder, meta};
use crate::value::DecodeFault;
use crate::value::{Kind, Reason, Value, shown};

/// The last field of each row where tombstones delete: a bool that is false.
pub(super) const KEEPS: [u8; 5] = [0, 0, 0, 1, 0];
const DELETES: [u8; 5] = [0, 0, 0, 1, 1];

impl Encoder {
    /// The key's columns come from the record's key: from the fields of its JSON object, or where one column alone comes from
    /// a field, from the key as it is. Columns that Kafka's own metadata fills have it from there. All others are NULL.
    #[cold]
    pub(super) fn tombstone(&mut self, record: &Record<'_>, rows: &mut Vec<u8>) -> Result<(), DecodeFault> {
        let refused = |detail: String| DecodeFault { reason: Reason::Tombstone, detail };
        let Some(keys) = &mut self.keys else {
            return Err(refused("the record has no value: it is a tombstone".to_owned()));
        };
        let Some(key) = record.key else {
            return Err(refused("the record has neither a value nor a key that says which row to delete".to_owned()));
        };
        let is_object = key.trim_ascii_start().starts_with(b"{") && keys.decode(key, &mut self.fields).is_ok();
        let from_fields =
            self.plan.columns.iter().filter(|column| column.in_key && matches!(column.feed, Feed::Field(_))).count();
        let (columns, mark) = match &self.plan.router {
            None => (&self.plan.columns, self.plan.open(rows)),
            // The configuration sees to it that no field names the table: there is none.
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
            let value = match &column.feed {
                Feed::Field(slot) if is_object => self.fields.value(*slot, key),
                Feed::Field(_) if from_fields == 1 => meta::key(key, &column.encoding)?,
                Feed::Field(_) => Value::MISSING,
                feed => meta::value(feed, record, &self.fields, &mut self.made)?,
            };
            let put = match value.kind {
                Kind::Missing | Kind::Null => Err(Reason::Tombstone),
                _ => column.encoding.put(value, column.nul, &mut self.scratch, rows),
            };
            put.map_err(|reason| DecodeFault {
                reason,
                detail: format!(
                    "the record has no value, and its key {} gives no {} {} to delete",
                    shown(key),
                    column.name,
                    column.type_text
                ),
            })?;
        }
        rows.extend_from_slice(&DELETES);
        if let Some(mark) = mark {
            mark.close(rows)
                .map_err(|reason| DecodeFault { reason, detail: "the row of its key is too large".to_owned() })?;
        }
        Ok(())
    }
}
