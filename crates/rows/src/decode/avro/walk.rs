//! Decodes a value of Avro's binary encoding. Each planned field becomes a slot; records, arrays and maps are rendered as JSON.
//! Fields that no column needs are skipped. A value is read again if one column takes it and others take parts of it.
//!
//! Data that doesn't match the schema is an error with its position. The number of elements and the size of the JSON are limited
//! in proportion to the size of the value.

use super::plan::{AvroPlan, FieldTarget, PlannedValue};
use crate::decode::Fields;
use crate::decode::narrow;
use crate::json::string;
use crate::render;
use crate::schema::MAX_DEPTH;
use crate::schema::avro::{AvroNode, AvroSchema, NodeId};
use crate::schema::logical::{Logical, in_micros};
use crate::value::{Flags, Kind, Slot};

/// The value doesn't match its schema. The walk has the position (`at`) and the reason (`what`).
pub(super) struct Broken;

/// Limit on the elements of arrays and maps, per byte of the value. Some elements (nulls, empty records) take no bytes, so the
/// number of bytes alone doesn't limit them.
const ELEMENTS_PER_BYTE: usize = 8;
/// Limit on the JSON text that is rendered from a value: bytes of text per byte of the value.
const JSON_PER_BYTE: usize = 32;
/// The lowest limit on the JSON text in bytes, for short values.
const JSON_AT_LEAST: usize = 1 << 20;

/// The state of a pass over one value, whose bytes are `bytes`. `at` is the index of the next byte. `what` is the reason why the
/// value is invalid, after a method has returned [`Broken`].
pub(super) struct AvroWalk<'w> {
    pub(super) schema: &'w AvroSchema,
    pub(super) plan: &'w AvroPlan,
    pub(super) bytes: &'w [u8],
    pub(super) at: usize,
    pub(super) fields: &'w mut Fields,
    pub(super) what: &'static str,
    /// How many more elements of arrays and maps may be read; see `ELEMENTS_PER_BYTE`.
    elements: usize,
    /// The length in bytes of [`Fields::made`] beyond which no further value is rendered as JSON.
    made_limit: usize,
    /// Whether the JSON that is being rendered contains a NUL. Cleared before each slot and each leftover.
    nul: bool,
}

impl<'w> AvroWalk<'w> {
    pub(super) fn new(
        schema: &'w AvroSchema,
        plan: &'w AvroPlan,
        bytes: &'w [u8],
        at: usize,
        fields: &'w mut Fields,
    ) -> Self {
        Self {
            schema,
            plan,
            bytes,
            at,
            fields,
            what: "",
            elements: bytes.len().saturating_mul(ELEMENTS_PER_BYTE).saturating_add(1024),
            made_limit: bytes.len().saturating_mul(JSON_PER_BYTE).max(JSON_AT_LEAST),
            nul: false,
        }
    }

    pub(super) fn document(&mut self) -> Result<(), Broken> {
        self.put(self.schema.root, self.plan.root, 0)?;
        if self.at < self.bytes.len() {
            return self.fault("bytes follow where its schema has the value end");
        }
        self.fields.copy(&self.plan.copies);
        Ok(())
    }

    #[cold]
    fn fault<T>(&mut self, what: &'static str) -> Result<T, Broken> {
        self.what = what;
        Err(Broken)
    }

    #[inline]
    fn put(&mut self, node: NodeId, target: FieldTarget, depth: u32) -> Result<(), Broken> {
        match target {
            FieldTarget::Skip => self.skip(node, depth),
            FieldTarget::Slot(slot) => {
                let value = self.value(node, depth)?;
                if let Some(place) = self.fields.slots.get_mut(usize::from(slot)) {
                    *place = value;
                }
                Ok(())
            }
            FieldTarget::Into(place) => self.inside(place, depth),
            FieldTarget::Both(slot, place) => {
                let start = self.at;
                self.put(node, FieldTarget::Slot(slot), depth)?;
                self.at = start;
                self.inside(place, depth)
            }
            FieldTarget::Leftover(key) => self.leftover(node, key, depth),
        }
    }

    fn inside(&mut self, place: u32, depth: u32) -> Result<(), Broken> {
        if depth >= MAX_DEPTH {
            return self.fault("it is nested too deep");
        }
        let plan = self.plan;
        match &plan.places[place as usize] {
            PlannedValue::Record(fields) => {
                for (node, target) in fields {
                    self.put(*node, *target, depth + 1)?;
                }
                Ok(())
            }
            PlannedValue::Union(branches) => {
                let branch = self.branch(branches.len())?;
                let (node, target) = branches[branch];
                self.put(node, target, depth + 1)
            }
            PlannedValue::Map(values, keys) => self.blocks(|walk| {
                let key = walk.prefixed()?;
                let target =
                    keys.iter().find(|(name, _)| **name == *key).map_or(FieldTarget::Skip, |(_, target)| *target);
                walk.put(*values, target, depth + 1)
            }),
        }
    }

    #[cold]
    fn leftover(&mut self, node: NodeId, key: u32, depth: u32) -> Result<(), Broken> {
        let start = self.fields.made.len();
        self.nul = false;
        self.json(node, depth)?;
        let Fields { leftovers, made, .. } = &mut *self.fields;
        leftovers.extend_from_slice(&self.plan.keys[key as usize]);
        leftovers.extend_from_slice(&made[start..]);
        leftovers.push(b',');
        made.truncate(start);
        if self.nul {
            self.fields.leftovers_flags = Flags::NUL;
        }
        Ok(())
    }

    #[inline]
    fn value(&mut self, node: NodeId, depth: u32) -> Result<Slot, Broken> {
        let schema = self.schema;
        match schema.node(node) {
            AvroNode::Long { int: false } => Ok(Slot::integer(self.long()?)),
            AvroNode::Double => {
                Ok(Slot { mantissa: u64::from_le_bytes(self.array()?), ..Slot::number(Kind::Float, 0) })
            }
            AvroNode::Text => self.text(),
            AvroNode::Union(branches) => {
                let branch = self.branch(branches.len())?;
                if depth >= MAX_DEPTH {
                    return self.fault("it is nested too deep");
                }
                self.value(branches[branch], depth + 1)
            }
            AvroNode::Array(_) | AvroNode::Map(_) | AvroNode::Record { .. } => {
                let start = self.fields.made.len();
                self.nul = false;
                self.json(node, depth)?;
                let kind = if matches!(schema.node(node), AvroNode::Array(_)) { Kind::Array } else { Kind::Object };
                let flags = if self.nul { Flags::NUL } else { Flags::NONE };
                Ok(self.fields.made_slot(kind, flags, start))
            }
            AvroNode::NamedText(logical) => self.named_text(*logical),
            AvroNode::Enum(symbols) => {
                let symbol = self.symbol(symbols)?;
                let start = self.fields.made.len();
                self.fields.made.extend_from_slice(symbol.as_bytes());
                Ok(self.fields.made_slot(Kind::Text, Flags::NONE, start))
            }
            other => self.scalar(other),
        }
    }

    /// Decodes a value of any type except enum, record, array, map and union.
    fn scalar(&mut self, node: &AvroNode) -> Result<Slot, Broken> {
        Ok(match node {
            AvroNode::Null => Slot::NULL,
            AvroNode::Boolean => match self.take(1)? {
                [0] => Slot { kind: Kind::False, ..Slot::MISSING },
                [1] => Slot { kind: Kind::True, ..Slot::MISSING },
                _ => return self.fault("a boolean that is neither 0 nor 1"),
            },
            AvroNode::Long { int: true } => Slot::integer(self.int()?),
            AvroNode::Long { int: false } => Slot::integer(self.long()?),
            AvroNode::Float => {
                let number = f64::from(f32::from_le_bytes(self.array()?));
                let slot = Slot::number(Kind::Float, 0);
                Slot { mantissa: number.to_bits(), flags: slot.flags.with(Flags::SINGLE), ..slot }
            }
            AvroNode::Double => Slot { mantissa: u64::from_le_bytes(self.array()?), ..Slot::number(Kind::Float, 0) },
            AvroNode::Bytes => {
                let len = self.prefixed()?.len();
                self.behind(Kind::Bytes, len)
            }
            AvroNode::Fixed(size) => {
                self.take(*size)?;
                self.behind(Kind::Bytes, *size)
            }
            AvroNode::Decimal { fixed, exponent } => {
                let len = match fixed {
                    Some(size) => self.take(*size)?.len(),
                    None => self.prefixed()?.len(),
                };
                Slot { exponent: *exponent, ..self.behind(Kind::Decimal, len) }
            }
            AvroNode::FixedUuid => {
                self.take(16)?;
                self.behind(Kind::Uuid, 16)
            }
            AvroNode::Text | AvroNode::Uuid => self.text()?,
            AvroNode::Named { int, logical } => {
                let number = if *int { self.int()? } else { self.long()? };
                match logical.number(number, self.fields) {
                    Some(slot) => slot,
                    None => return self.fault("a time that is out of range"),
                }
            }
            AvroNode::VariableDecimal => {
                let Ok(scale) = i32::try_from(self.int()?) else { return self.fault("a scale beyond 32 bits") };
                let len = self.prefixed()?.len();
                Slot { exponent: scale.saturating_neg(), ..self.behind(Kind::Decimal, len) }
            }
            AvroNode::NamedText(logical) => self.named_text(*logical)?,
            AvroNode::Day => Slot::number(Kind::Day, self.int()?),
            AvroNode::Clock { int, unit } => {
                let number = if *int { self.int()? } else { self.long()? };
                match in_micros(number, *unit) {
                    Some(micros) => Slot::number(Kind::Clock, micros),
                    None => return self.fault("a time that is out of range"),
                }
            }
            AvroNode::Instant { unit, local } => {
                let number = self.long()?;
                match in_micros(number, *unit) {
                    Some(micros) => Slot { exponent: i32::from(*local), ..Slot::number(Kind::Instant, micros) },
                    // These microseconds don't fit in 64 bits. Columns of timestamps reject the extreme value.
                    None => Slot::number(Kind::Instant, if number < 0 { i64::MIN } else { i64::MAX }),
                }
            }
            AvroNode::Duration => self.duration()?,
            AvroNode::Enum(_)
            | AvroNode::Record { .. }
            | AvroNode::Array(_)
            | AvroNode::Map(_)
            | AvroNode::Union(_) => Slot::MISSING,
        })
    }

    /// Returns a slot for the last `len` bytes that were read.
    fn behind(&self, kind: Kind, len: usize) -> Slot {
        Slot { start: narrow(self.at - len), len: narrow(len), ..Slot::number(kind, 0) }
    }

    /// Decodes months, days and milliseconds into the 16 bytes of a Postgres interval, which are appended to [`Fields::made`].
    fn duration(&mut self) -> Result<Slot, Broken> {
        let (months, days, millis): ([u8; 4], [u8; 4], [u8; 4]) = (self.array()?, self.array()?, self.array()?);
        let whole = |bytes| i32::try_from(u32::from_le_bytes(bytes));
        let (Ok(months), Ok(days)) = (whole(months), whole(days)) else {
            return self.fault("a duration that is out of range");
        };
        let start = self.fields.made.len();
        let micros = i64::from(u32::from_le_bytes(millis)) * 1_000;
        let made = &mut self.fields.made;
        made.extend_from_slice(&micros.to_be_bytes());
        made.extend_from_slice(&days.to_be_bytes());
        made.extend_from_slice(&months.to_be_bytes());
        Ok(self.fields.made_slot(Kind::Span, Flags::BINARY, start))
    }

    /// Appends a value as JSON to [`Fields::made`].
    fn json(&mut self, node: NodeId, depth: u32) -> Result<(), Broken> {
        if depth >= MAX_DEPTH {
            return self.fault("it is nested too deep");
        }
        if self.fields.made.len() > self.made_limit {
            return self.fault("its JSON would be many times its size");
        }
        let schema = self.schema;
        match schema.node(node) {
            AvroNode::Record { fields, .. } => {
                self.fields.made.push(b'{');
                for (nth, field) in fields.iter().enumerate() {
                    if nth > 0 {
                        self.fields.made.push(b',');
                    }
                    self.fields.made.extend_from_slice(&field.key);
                    self.json(field.node, depth + 1)?;
                }
                self.fields.made.push(b'}');
            }
            AvroNode::Array(items) => {
                self.fields.made.push(b'[');
                let start = self.fields.made.len();
                self.blocks(|walk| {
                    walk.comma(start);
                    walk.json(*items, depth + 1)
                })?;
                self.fields.made.push(b']');
            }
            AvroNode::Map(values) => {
                self.fields.made.push(b'{');
                let start = self.fields.made.len();
                self.blocks(|walk| {
                    walk.comma(start);
                    let key = walk.text()?;
                    walk.quote(key);
                    walk.fields.made.push(b':');
                    walk.json(*values, depth + 1)
                })?;
                self.fields.made.push(b'}');
            }
            AvroNode::Union(branches) => {
                let branch = self.branch(branches.len())?;
                return self.json(branches[branch], depth + 1);
            }
            AvroNode::Text | AvroNode::Uuid => {
                let text = self.text()?;
                self.quote(text);
            }
            AvroNode::Enum(symbols) => {
                let symbol = self.symbol(symbols)?;
                string::quote(symbol.as_bytes(), &mut self.fields.made);
            }
            AvroNode::Duration => {
                let start = self.fields.made.len();
                let slot = self.duration()?;
                let mut interval = [0; 16];
                interval.copy_from_slice(&self.fields.made[start..start + 16]);
                self.fields.made.truncate(start);
                render::json(&Slot { start: 0, ..slot }.of(&interval), &mut self.fields.made);
            }
            AvroNode::NamedText(Logical::Json) => {
                let start = self.fields.made.len();
                let slot = self.named_text(Logical::Json)?;
                self.nul |= slot.flags.has(Flags::NUL);
                // Text that is valid JSON is already in `made`, as it was written. Other text becomes a JSON string.
                if !slot.flags.has(Flags::MADE) {
                    self.fields.made.truncate(start);
                    self.quote(slot);
                }
            }
            AvroNode::NamedText(_) => {
                let text = self.text()?;
                self.quote(text);
            }
            AvroNode::Named { .. } => {
                let start = self.fields.made.len();
                let slot = self.scalar(schema.node(node))?;
                let bytes = self.fields.made.split_off(start);
                render::json(&Slot { start: 0, ..slot }.of(&bytes), &mut self.fields.made);
            }
            scalar => {
                let slot = self.scalar(scalar)?;
                render::json(&slot.of(self.bytes), &mut self.fields.made);
            }
        }
        Ok(())
    }

    fn comma(&mut self, start: usize) {
        if self.fields.made.len() > start {
            self.fields.made.push(b',');
        }
    }

    fn quote(&mut self, text: Slot) {
        self.nul |= text.flags.has(Flags::NUL);
        string::quote(text.of(self.bytes).raw, &mut self.fields.made);
    }

    fn skip(&mut self, node: NodeId, depth: u32) -> Result<(), Broken> {
        if depth >= MAX_DEPTH {
            return self.fault("it is nested too deep");
        }
        let schema = self.schema;
        match schema.node(node) {
            AvroNode::Null => {}
            AvroNode::Boolean => drop(self.take(1)?),
            AvroNode::Float => drop(self.take(4)?),
            AvroNode::Double => drop(self.take(8)?),
            AvroNode::Fixed(size) | AvroNode::Decimal { fixed: Some(size), .. } => drop(self.take(*size)?),
            AvroNode::FixedUuid => drop(self.take(16)?),
            AvroNode::Duration => drop(self.take(12)?),
            AvroNode::Long { .. }
            | AvroNode::Day
            | AvroNode::Clock { .. }
            | AvroNode::Instant { .. }
            | AvroNode::Named { .. } => {
                self.long()?;
            }
            AvroNode::VariableDecimal => {
                self.long()?;
                self.prefixed()?;
            }
            AvroNode::NamedText(_) => drop(self.prefixed()?),
            AvroNode::Enum(symbols) => drop(self.symbol(symbols)?),
            AvroNode::Bytes | AvroNode::Text | AvroNode::Uuid | AvroNode::Decimal { fixed: None, .. } => {
                self.prefixed()?;
            }
            AvroNode::Record { fields, .. } => {
                for field in fields {
                    self.skip(field.node, depth + 1)?;
                }
            }
            AvroNode::Array(items) => self.blocks(|walk| walk.skip(*items, depth + 1))?,
            AvroNode::Map(values) => self.blocks(|walk| {
                walk.prefixed()?;
                walk.skip(*values, depth + 1)
            })?,
            AvroNode::Union(branches) => {
                let branch = self.branch(branches.len())?;
                self.skip(branches[branch], depth + 1)?;
            }
        }
        Ok(())
    }

    /// Calls `element` for each element of an array or a map. The elements come in blocks, each with its count. An empty block
    /// ends the array or map.
    fn blocks(&mut self, mut element: impl FnMut(&mut Self) -> Result<(), Broken>) -> Result<(), Broken> {
        loop {
            let count = self.long()?;
            if count == 0 {
                return Ok(());
            }
            if count < 0 {
                self.long()?; // the block's length in bytes
            }
            let Some(count) = usize::try_from(count.unsigned_abs()).ok().filter(|count| *count <= self.elements) else {
                return self.fault("an array or map with more elements than its bytes can hold");
            };
            self.elements -= count;
            for _ in 0..count {
                element(self)?;
            }
        }
    }

    fn symbol<'s>(&mut self, symbols: &'s [Box<str>]) -> Result<&'s str, Broken> {
        let at = usize::try_from(self.int()?).ok();
        match at.and_then(|at| symbols.get(at)) {
            Some(symbol) => Ok(symbol),
            None => self.fault("an enum's number that its schema doesn't have"),
        }
    }

    #[inline]
    fn branch(&mut self, count: usize) -> Result<usize, Broken> {
        match usize::try_from(self.long()?) {
            Ok(branch) if branch < count => Ok(branch),
            _ => self.fault("a union's branch that its schema doesn't have"),
        }
    }

    #[inline]
    fn text(&mut self) -> Result<Slot, Broken> {
        let bytes = self.prefixed()?;
        let mut high = 0;
        let mut low = u8::MAX;
        for byte in bytes {
            high |= *byte;
            low = low.min(*byte);
        }
        if high >= 0x80 && simdutf8::basic::from_utf8(bytes).is_err() {
            return self.fault("text that is not UTF-8");
        }
        let flags = if low == 0 { Flags::NUL } else { Flags::NONE };
        let (start, len) = (narrow(self.at - bytes.len()), narrow(bytes.len()));
        Ok(Slot { kind: Kind::Text, flags, start, len, ..Slot::MISSING })
    }

    /// Decodes text that has one of Debezium's logical types in its schema, such as JSON or a timestamp with a zone.
    #[inline(never)]
    fn named_text(&mut self, logical: Logical) -> Result<Slot, Broken> {
        let slot = self.text()?;
        let start = self.fields.made.len();
        self.fields.made.extend_from_slice(slot.of(self.bytes).raw);
        Ok(logical.made_text(start, self.fields).unwrap_or(slot))
    }

    /// Reads a length, and then that many bytes. Returns these bytes.
    #[inline]
    fn prefixed(&mut self) -> Result<&'w [u8], Broken> {
        match usize::try_from(self.long()?) {
            Ok(len) => self.take(len),
            Err(_) => self.fault("a length below zero"),
        }
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'w [u8], Broken> {
        match self.bytes.get(self.at..).and_then(|rest| rest.get(..len)) {
            Some(bytes) => {
                self.at += len;
                Ok(bytes)
            }
            None => self.fault("it ends too early"),
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], Broken> {
        match self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>()) {
            Some(bytes) => {
                self.at += N;
                Ok(*bytes)
            }
            None => self.fault("it ends too early"),
        }
    }

    fn int(&mut self) -> Result<i64, Broken> {
        let number = self.long()?;
        if i32::try_from(number).is_ok() { Ok(number) } else { self.fault("an int beyond 32 bits") }
    }

    /// Reads a zigzag number in groups of seven bits, the lowest first.
    #[inline]
    fn long(&mut self) -> Result<i64, Broken> {
        let mut number = 0_u64;
        let mut shift = 0;
        loop {
            let Some(byte) = self.bytes.get(self.at) else {
                return self.fault("it ends too early");
            };
            self.at += 1;
            if shift == 63 && *byte > 1 {
                return self.fault("a number beyond 64 bits");
            }
            number |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((number >> 1).cast_signed() ^ -(number & 1).cast_signed());
            }
            shift += 7;
        }
    }
}
