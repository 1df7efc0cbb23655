//! Decodes a message. Each planned field becomes a slot. If a column takes a whole list, map or message, it is rendered as JSON,
//! except for messages that stand for a single value (see `known`). Fields that no column needs are skipped.
//!
//! If a field occurs twice, the last value wins. Except: all elements of a list or map count. They may be scattered over their
//! message, so all of them are gathered when the first one is found. A value that takes more steps, or makes more JSON, than its
//! size allows is rejected: see `STEPS_PER_BYTE` and `JSON_PER_BYTE`.

mod json;
mod known;
mod read;

use super::plan::{FieldTarget, ProtobufPlan};
use super::wire::Wire;
use crate::decode::Fields;
use crate::decode::narrow;
use crate::render;
use crate::schema::MAX_DEPTH;
use crate::schema::protobuf::{FieldKind, Known, MAX_FIELDS, MessageId, ProtoFile, ProtobufField};
use crate::value::{Flags, Kind, Slot};

/// The value doesn't match its schema. The walk has the position (`at`) and the reason (`what`).
pub(super) struct Broken;

/// Limit on steps, per byte of the value. A step reads a tag, or an element of a packed list. A byte may take several steps: a
/// field is read more than once if it is a list or map, or if one column takes the field and others take parts of it.
const STEPS_PER_BYTE: usize = 64;
/// Limit on the JSON text that is rendered from a value: bytes of text per byte of the value.
const JSON_PER_BYTE: usize = 32;
/// The lowest limit on the JSON text in bytes, for short values.
const JSON_AT_LEAST: usize = 1 << 20;

/// The state of a pass over one value, whose bytes are `bytes`. `at` is the index of the next byte. `what` is the reason why the
/// value is invalid, after a method has returned [`Broken`].
pub(super) struct ProtobufWalk<'w> {
    file: &'w ProtoFile,
    plan: &'w ProtobufPlan,
    pub(super) bytes: &'w [u8],
    pub(super) at: usize,
    fields: &'w mut Fields,
    pub(super) what: &'static str,
    /// The first field without a column that was found, if records with such fields are rejected: its name in quotes, or its
    /// number if the message doesn't declare it.
    pub(super) refused: Option<String>,
    /// How many further steps are allowed; see `STEPS_PER_BYTE`.
    steps: usize,
    /// The length in bytes of [`Fields::made`] beyond which no further value is rendered as JSON.
    made_limit: usize,
    /// Whether the JSON that is being rendered contains a NUL. Cleared before each slot and each leftover.
    nul: bool,
}

/// One bit per field of a message: whether the field was gathered already.
type Seen = [u64; MAX_FIELDS / 64];

impl<'w> ProtobufWalk<'w> {
    pub(super) fn new(
        file: &'w ProtoFile,
        plan: &'w ProtobufPlan,
        bytes: &'w [u8],
        at: usize,
        fields: &'w mut Fields,
    ) -> Self {
        Self {
            file,
            plan,
            bytes,
            at,
            fields,
            what: "",
            refused: None,
            steps: bytes.len().saturating_mul(STEPS_PER_BYTE).saturating_add(1024),
            made_limit: bytes.len().saturating_mul(JSON_PER_BYTE).max(JSON_AT_LEAST),
            nul: false,
        }
    }

    pub(super) fn document(&mut self) -> Result<(), Broken> {
        let (top, start) = (narrow(self.plan.places.len()) - 1, self.at);
        self.message(top, self.bytes.len(), 0, true)?;
        if let Some(slot) = self.plan.whole {
            let made = self.fields.made.len();
            (self.at, self.nul) = (start, false);
            self.object(self.plan.places[top as usize].message, self.bytes.len(), 0)?;
            let flags = if self.nul { Flags::NUL } else { Flags::NONE };
            let value = self.fields.made_slot(Kind::Object, flags, made);
            self.set(slot, value);
        }
        self.fields.copy(&self.plan.copies);
        Ok(())
    }

    #[cold]
    fn fault<T>(&mut self, what: &'static str) -> Result<T, Broken> {
        self.what = what;
        Err(Broken)
    }

    /// Decodes a message from which columns take parts, up to `end`. `top` says whether the message is the record itself. Fields
    /// that the schema lacks are rejected only in the record itself.
    fn message(&mut self, place: u32, end: usize, depth: u32, top: bool) -> Result<(), Broken> {
        if depth >= MAX_DEPTH {
            return self.fault("it is nested too deep");
        }
        let (plan, file) = (self.plan, self.file);
        let place = &plan.places[place as usize];
        let message = file.message(place.message);
        self.prefill(&place.defaults, &message.fields);
        let mut seen: Seen = [0; MAX_FIELDS / 64];
        while self.at < end {
            let start = self.at;
            let (number, wire) = self.tag(end)?;
            let Some(nth) = message.find(number) else {
                if top && plan.refuses {
                    self.refused.get_or_insert_with(|| format!("number {number}"));
                }
                self.skip(wire, number, end, depth)?;
                continue;
            };
            let field = &message.fields[nth];
            match place.targets[nth] {
                FieldTarget::Slot(slot) if !field.repeated => {
                    let value = self.value(field.kind, wire, end, depth)?;
                    self.set(slot, value);
                }
                FieldTarget::Skip => self.skip(wire, number, end, depth)?,
                FieldTarget::Refuse => {
                    self.refused.get_or_insert_with(|| format!("\"{}\"", field.name));
                    self.skip(wire, number, end, depth)?;
                }
                target => {
                    if !field.repeated || first(&mut seen, nth) {
                        self.structure(field, target, start, end, depth)?;
                    }
                    self.at = start;
                    self.pass(end, depth)?;
                }
            }
        }
        if self.at > end { self.fault("a field goes beyond its message") } else { Ok(()) }
    }

    /// Decodes a field for `target`. The field's tag is at `start`. The position afterwards is undefined, so the
    /// caller must set it.
    fn structure(
        &mut self,
        field: &ProtobufField,
        target: FieldTarget,
        start: usize,
        end: usize,
        depth: u32,
    ) -> Result<(), Broken> {
        if let FieldTarget::Slot(slot) | FieldTarget::Both(slot, _) = target {
            self.at = start;
            let made = self.fields.made.len();
            self.nul = false;
            if field.repeated {
                self.gather(field, end, depth)?;
                let kind = if field.map { Kind::Object } else { Kind::Array };
                let flags = if self.nul { Flags::NUL } else { Flags::NONE };
                let value = self.fields.made_slot(kind, flags, made);
                self.set(slot, value);
            } else {
                let (_, wire) = self.tag(end)?;
                let value = self.value(field.kind, wire, end, depth)?;
                self.set(slot, value);
            }
        }
        self.at = start;
        match target {
            FieldTarget::Into(place) | FieldTarget::Both(_, place) if field.map => {
                self.look_up(field, place, end, depth)
            }
            FieldTarget::Into(place) | FieldTarget::Both(_, place) => {
                let (_, wire) = self.tag(end)?;
                let inner = self.len(wire, end)?;
                self.clear(place);
                self.message(place, inner, depth + 1, false)
            }
            FieldTarget::Leftover => self.leftover(field, end, depth),
            FieldTarget::Skip | FieldTarget::Slot(_) | FieldTarget::Refuse => Ok(()),
        }
    }

    /// Clears the slots that a value fills, before the value is read: an earlier occurrence of the same field may
    /// have filled them.
    fn clear(&mut self, place: u32) {
        for slot in &self.plan.places[place as usize].slots {
            self.set(*slot, Slot::MISSING);
        }
    }

    #[inline]
    fn set(&mut self, slot: u16, value: Slot) {
        if let Some(place) = self.fields.slots.get_mut(usize::from(slot)) {
            *place = value;
        }
    }

    /// Reads the entries of a map, for columns that take the values of some of its keys. Reads from the current position to the
    /// end of the message.
    fn look_up(&mut self, field: &ProtobufField, place: u32, end: usize, depth: u32) -> Result<(), Broken> {
        let (plan, file) = (self.plan, self.file);
        let FieldKind::Message(entry) = field.kind else { return Ok(()) };
        let value = file.message(entry).fields.iter().find(|field| field.number == 2);
        let Some(value) = value else { return Ok(()) };
        while self.at < end {
            let (number, wire) = self.tag(end)?;
            if number != field.number {
                self.skip(wire, number, end, depth)?;
                continue;
            }
            let inner = self.len(wire, end)?;
            let start = self.at;
            let key = self.map_key(entry, inner, depth)?;
            let mut digits = Vec::new(); // only keys that are numbers are written out
            let key = match key.kind {
                Kind::Text => key.of(self.bytes).raw,
                Kind::True => b"true",
                Kind::False => b"false",
                _ => {
                    render::text(&key.of(self.bytes), &mut digits);
                    &digits
                }
            };
            let found = plan.places[place as usize].keys.iter().find(|(name, _)| **name == *key);
            if let Some((_, target)) = found {
                self.default_entry(value, *target, depth)?;
                self.at = start;
                while self.at < inner {
                    let at = self.at;
                    let (number, wire) = self.tag(inner)?;
                    self.skip(wire, number, inner, depth)?;
                    if number == value.number {
                        let behind = self.at;
                        self.structure(value, *target, at, inner, depth + 1)?;
                        self.at = behind;
                    }
                }
            }
            self.at = inner;
        }
        Ok(())
    }

    /// Sets a map's entry to the default of its value's type: some encoders leave out a value that is the default.
    fn default_entry(&mut self, value: &ProtobufField, target: FieldTarget, depth: u32) -> Result<(), Broken> {
        match (value.kind, target) {
            (FieldKind::Message(_), target) => {
                self.empty_message(|walk, end| walk.structure(value, target, 0, end, depth + 1))
            }
            (kind, FieldTarget::Slot(slot)) => {
                let value = self.default(kind);
                self.set(slot, value);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Calls `read` while an empty message replaces the payload. The tag of this message is at position 0, and `read` gets the
    /// position at which the message ends.
    fn empty_message(&mut self, read: impl FnOnce(&mut Self, usize) -> Result<(), Broken>) -> Result<(), Broken> {
        const TAG_AND_LENGTH: &[u8] = &[0x12, 0];
        let (bytes, at) = (std::mem::replace(&mut self.bytes, TAG_AND_LENGTH), std::mem::take(&mut self.at));
        let done = read(self, TAG_AND_LENGTH.len());
        (self.bytes, self.at) = (bytes, at);
        done
    }

    fn leftover(&mut self, field: &ProtobufField, end: usize, depth: u32) -> Result<(), Broken> {
        let start = self.fields.made.len();
        self.nul = false;
        if field.repeated {
            self.gather(field, end, depth)?;
        } else {
            let (_, wire) = self.tag(end)?;
            self.json(field.kind, wire, end, depth)?;
        }
        let Fields { leftovers, made, .. } = &mut *self.fields;
        leftovers.extend_from_slice(&field.key);
        leftovers.extend_from_slice(&made[start..]);
        leftovers.push(b',');
        made.truncate(start);
        if self.nul {
            self.fields.leftovers_flags = Flags::NUL;
        }
        Ok(())
    }

    /// Fills the slots that have a default. This function is called before the message is read, so values in the message replace
    /// the defaults.
    fn prefill(&mut self, defaults: &[(u16, u16)], fields: &[ProtobufField]) {
        for (slot, nth) in defaults {
            let field = &fields[usize::from(*nth)];
            let value = if field.repeated {
                let start = self.fields.made.len();
                self.fields.made.extend_from_slice(if field.map { b"{}" } else { b"[]" });
                let kind = if field.map { Kind::Object } else { Kind::Array };
                self.fields.made_slot(kind, Flags::NONE, start)
            } else {
                self.default(field.kind)
            };
            self.set(*slot, value);
        }
    }

    fn default(&mut self, kind: FieldKind) -> Slot {
        match kind {
            FieldKind::Double => Slot::number(Kind::Float, 0),
            FieldKind::Float => single(0.0),
            FieldKind::Bool => Slot { kind: Kind::False, ..Slot::MISSING },
            FieldKind::Text => Slot { kind: Kind::Text, ..Slot::MISSING },
            FieldKind::Bytes => Slot::number(Kind::Bytes, 0),
            FieldKind::Message(_) => Slot::MISSING,
            FieldKind::Enum(id) => {
                let start = self.fields.made.len();
                let file = self.file;
                self.fields.made.extend_from_slice(file.enumeration(id).default.as_bytes());
                self.fields.made_slot(Kind::Text, Flags::NONE, start)
            }
            _ => Slot::integer(0),
        }
    }

    #[inline]
    fn value(&mut self, kind: FieldKind, wire: Wire, end: usize, depth: u32) -> Result<Slot, Broken> {
        match kind {
            FieldKind::Message(id) => self.of_message(id, wire, end, depth),
            FieldKind::Enum(id) => {
                let number = self.number(wire, end)?;
                let start = self.fields.made.len();
                let file = self.file;
                match file.enumeration(id).name(low(number)) {
                    Some(name) => {
                        self.fields.made.extend_from_slice(name.as_bytes());
                        Ok(self.fields.made_slot(Kind::Text, Flags::NONE, start))
                    }
                    // Treat every enum as open: a number without a name stays a number.
                    None => Ok(Slot::integer(low(number).into())),
                }
            }
            scalar => self.scalar(scalar, wire, end),
        }
    }

    /// Decodes a message that a column takes as a whole: as JSON, or as a single value if its type stands for one.
    fn of_message(&mut self, id: MessageId, wire: Wire, end: usize, depth: u32) -> Result<Slot, Broken> {
        let file = self.file;
        match file.message(id).known {
            Known::No | Known::Struct | Known::Value | Known::ListValue => {
                let start = self.fields.made.len();
                self.nul = false;
                self.json(FieldKind::Message(id), wire, end, depth)?;
                let kind = match self.fields.made.get(start) {
                    Some(b'{') => Kind::Object,
                    Some(b'[') => Kind::Array,
                    Some(b'"') => Kind::String,
                    Some(b'n') => Kind::Null,
                    Some(b't') => Kind::True,
                    Some(b'f') => Kind::False,
                    _ => Kind::Number,
                };
                // A number in a `google.protobuf.Value` is read from its text, and a string there may have escapes.
                let lone = match kind {
                    Kind::Number => Flags::INEXACT,
                    Kind::String => Flags::ESCAPED,
                    _ => Flags::NONE,
                };
                let flags = if self.nul { lone.with(Flags::NUL) } else { lone };
                Ok(self.fields.made_slot(kind, flags, start))
            }
            known => {
                let inner = self.len(wire, end)?;
                let value = self.well_known(id, known, inner, depth)?;
                self.at = inner;
                Ok(value)
            }
        }
    }

    /// Reads a scalar that isn't an enum. For an enum or a message, returns a missing slot and reads nothing.
    #[inline]
    fn scalar(&mut self, kind: FieldKind, wire: Wire, end: usize) -> Result<Slot, Broken> {
        Ok(match kind {
            FieldKind::Int64 => Slot::integer(self.number(wire, end)?.cast_signed()),
            FieldKind::Int32 => Slot::integer(low(self.number(wire, end)?).into()),
            FieldKind::Uint64 => unsigned(self.number(wire, end)?),
            FieldKind::Uint32 => unsigned(self.number(wire, end)? & 0xffff_ffff),
            FieldKind::Sint32 | FieldKind::Sint64 => {
                let number = self.number(wire, end)?;
                Slot::integer((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
            }
            FieldKind::Bool => {
                let kind = if self.number(wire, end)? == 0 { Kind::False } else { Kind::True };
                Slot { kind, ..Slot::MISSING }
            }
            FieldKind::Double => {
                let bits = u64::from_le_bytes(self.fixed(wire, Wire::Fixed64, end)?);
                Slot { mantissa: bits, ..Slot::number(Kind::Float, 0) }
            }
            FieldKind::Float => single(f32::from_le_bytes(self.fixed(wire, Wire::Fixed32, end)?)),
            FieldKind::Fixed64 => unsigned(u64::from_le_bytes(self.fixed(wire, Wire::Fixed64, end)?)),
            FieldKind::Sfixed64 => Slot::integer(i64::from_le_bytes(self.fixed(wire, Wire::Fixed64, end)?)),
            FieldKind::Fixed32 => unsigned(u32::from_le_bytes(self.fixed(wire, Wire::Fixed32, end)?).into()),
            FieldKind::Sfixed32 => Slot::integer(i32::from_le_bytes(self.fixed(wire, Wire::Fixed32, end)?).into()),
            FieldKind::Text | FieldKind::Bytes => {
                let inner = self.len(wire, end)?;
                let (start, len) = (narrow(self.at), narrow(inner - self.at));
                let bytes = &self.bytes[self.at..inner];
                self.at = inner;
                if kind == FieldKind::Bytes {
                    return Ok(Slot { start, len, ..Slot::number(Kind::Bytes, 0) });
                }
                let (high, least) = bytes.iter().fold((0, u8::MAX), |(high, least), b| (high | *b, least.min(*b)));
                if high >= 0x80 && simdutf8::basic::from_utf8(bytes).is_err() {
                    return self.fault("text that is not UTF-8");
                }
                let flags = if least == 0 { Flags::NUL } else { Flags::NONE };
                Slot { kind: Kind::Text, flags, start, len, ..Slot::MISSING }
            }
            FieldKind::Message(_) | FieldKind::Enum(_) => Slot::MISSING,
        })
    }
}

/// Returns whether the field with the index `nth` occurs in its message for the first time, and notes that it occurred.
fn first(seen: &mut Seen, nth: usize) -> bool {
    let (word, bit) = (nth / 64, 1_u64 << (nth % 64));
    match seen.get_mut(word) {
        Some(word) if *word & bit == 0 => {
            *word |= bit;
            true
        }
        _ => false,
    }
}

/// Returns the lower half of a number, which is the value of a 32-bit type.
#[expect(clippy::cast_possible_truncation, reason = "the wire has 32-bit numbers widened to 64, and parsers cut them")]
fn low(number: u64) -> i32 {
    number as u32 as i32
}

fn unsigned(number: u64) -> Slot {
    Slot { mantissa: number, ..Slot::integer(0) }
}

fn single(number: f32) -> Slot {
    let slot = Slot::number(Kind::Float, 0);
    Slot { mantissa: f64::from(number).to_bits(), flags: slot.flags.with(Flags::SINGLE), ..slot }
}
