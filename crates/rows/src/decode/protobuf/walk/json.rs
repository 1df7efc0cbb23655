//! Writes nested messages, lists and maps as JSON. All functions append the JSON to `Fields::made`. Unlike in Protobuf's own JSON
//! mapping, members have the fields' original names, and 64-bit integers are numbers.

use super::super::wire::Wire;
use super::{Broken, ProtobufWalk, Seen, first};
use crate::json::string;
use crate::render;
use crate::schema::MAX_DEPTH;
use crate::schema::protobuf::{FieldKind, Known, MAX_FIELDS, MessageId, ProtobufField};
use crate::value::{Flags, Kind, Slot};

impl ProtobufWalk<'_> {
    pub(super) fn json(&mut self, kind: FieldKind, wire: Wire, end: usize, depth: u32) -> Result<(), Broken> {
        if depth >= MAX_DEPTH {
            return self.fault("it is nested too deep");
        }
        if self.fields.made.len() > self.made_limit {
            return self.fault("its JSON would be many times its size");
        }
        let file = self.file;
        if let FieldKind::Message(id) = kind
            && matches!(file.message(id).known, Known::No | Known::Struct | Known::Value | Known::ListValue)
        {
            let inner = self.len(wire, end)?;
            self.object(id, inner, depth)?;
            self.at = inner;
            return Ok(());
        }
        let start = self.fields.made.len();
        let value = self.value(kind, wire, end, depth)?;
        self.nul |= value.flags.has(Flags::NUL);
        if !value.flags.has(Flags::MADE) {
            render::json(&value.of(self.bytes), &mut self.fields.made);
        } else if value.kind == Kind::Span {
            let mut interval = [0; 16];
            interval.copy_from_slice(&self.fields.made[start..start + 16]);
            self.fields.made.truncate(start);
            render::json(&Slot { start: 0, ..value }.of(&interval), &mut self.fields.made);
        } else if value.kind != Kind::Object {
            // The text is an enum's name, a date, or an invalid time of day. It has no characters to escape, so only the quotes
            // are missing.
            self.fields.made.insert(start, b'"');
            self.fields.made.push(b'"');
        }
        Ok(())
    }

    /// Appends a message as JSON. The members are in the order in which the fields occur.
    pub(super) fn object(&mut self, id: MessageId, end: usize, depth: u32) -> Result<(), Broken> {
        let file = self.file;
        let message = file.message(id);
        match message.known {
            Known::Struct => return self.only_list(&message.fields, b"{}", end, depth),
            Known::ListValue => return self.only_list(&message.fields, b"[]", end, depth),
            Known::Value => return self.dynamic(&message.fields, end, depth),
            _ => {}
        }
        let mut seen: Seen = [0; MAX_FIELDS / 64];
        self.fields.made.push(b'{');
        let open = self.fields.made.len();
        while self.at < end {
            let start = self.at;
            let (number, wire) = self.tag(end)?;
            let Some(nth) = message.find(number) else {
                self.skip(wire, number, end, depth)?;
                continue;
            };
            let field = &message.fields[nth];
            if field.repeated && !first(&mut seen, nth) {
                self.skip(wire, number, end, depth)?;
                continue;
            }
            self.comma(open);
            self.fields.made.extend_from_slice(&field.key);
            if field.repeated {
                self.at = start;
                self.gather(field, end, depth + 1)?;
                self.at = start;
                self.pass(end, depth)?;
            } else {
                self.json(field.kind, wire, end, depth + 1)?;
            }
        }
        self.fields.made.push(b'}');
        Ok(())
    }

    /// Appends a message whose JSON form is that of its only field, a list or a map. If the message is empty, appends `empty`.
    fn only_list(&mut self, fields: &[ProtobufField], empty: &[u8], end: usize, depth: u32) -> Result<(), Broken> {
        match fields.first() {
            Some(field) if self.at < end => self.gather(field, end, depth + 1),
            _ => {
                self.fields.made.extend_from_slice(empty);
                Ok(())
            }
        }
    }

    /// Appends a `google.protobuf.Value`: the value of the field that is set. Null if no field is set, or if it is `null_value`.
    fn dynamic(&mut self, fields: &[ProtobufField], end: usize, depth: u32) -> Result<(), Broken> {
        let start = self.fields.made.len();
        self.fields.made.extend_from_slice(b"null");
        while self.at < end {
            let (number, wire) = self.tag(end)?;
            match fields.iter().find(|field| field.number == number) {
                Some(field) if field.name != "null_value" => {
                    self.fields.made.truncate(start);
                    self.json(field.kind, wire, end, depth + 1)?;
                }
                _ => self.skip(wire, number, end, depth)?,
            }
        }
        Ok(())
    }

    /// Appends all elements of a list or all entries of a map as JSON. Reads from the current position, where the field's tag is,
    /// to the end of the message.
    pub(super) fn gather(&mut self, field: &ProtobufField, end: usize, depth: u32) -> Result<(), Broken> {
        if depth >= MAX_DEPTH {
            return self.fault("it is nested too deep");
        }
        self.fields.made.push(if field.map { b'{' } else { b'[' });
        let open = self.fields.made.len();
        while self.at < end {
            let (number, wire) = self.tag(end)?;
            if number != field.number {
                self.skip(wire, number, end, depth)?;
            } else if field.map {
                let inner = self.len(wire, end)?;
                self.comma(open);
                self.entry(field, inner, depth)?;
                self.at = inner;
            } else if wire == Wire::Len && is_packable(field.kind) {
                let inner = self.len(wire, end)?;
                while self.at < inner {
                    self.step()?;
                    self.comma(open);
                    self.json(field.kind, plain_wire(field.kind), inner, depth + 1)?;
                }
                if self.at > inner {
                    return self.fault("a list's element goes beyond the list");
                }
            } else {
                self.comma(open);
                self.json(field.kind, wire, end, depth + 1)?;
            }
        }
        self.fields.made.push(if field.map { b'}' } else { b']' });
        Ok(())
    }

    fn entry(&mut self, field: &ProtobufField, end: usize, depth: u32) -> Result<(), Broken> {
        let FieldKind::Message(id) = field.kind else { return Ok(()) };
        let start = self.at;
        let key = self.map_key(id, end, depth)?;
        match key.kind {
            Kind::Text => {
                self.nul |= key.flags.has(Flags::NUL);
                string::quote(key.of(self.bytes).raw, &mut self.fields.made);
            }
            _ => {
                self.fields.made.push(b'"');
                render::json(&key.of(self.bytes), &mut self.fields.made);
                self.fields.made.push(b'"');
            }
        }
        self.fields.made.push(b':');
        self.at = start;
        let file = self.file;
        let value = file.message(id).fields.iter().find(|field| field.number == 2);
        let made = self.fields.made.len();
        while self.at < end {
            let (number, wire) = self.tag(end)?;
            match value {
                Some(value) if number == 2 => {
                    self.fields.made.truncate(made);
                    self.json(value.kind, wire, end, depth + 1)?;
                }
                _ => self.skip(wire, number, end, depth)?,
            }
        }
        if self.fields.made.len() == made {
            self.default_json(value, depth)?;
        }
        Ok(())
    }

    /// Appends the default of a field as JSON, for a map's entry that lacks its value.
    fn default_json(&mut self, value: Option<&ProtobufField>, depth: u32) -> Result<(), Broken> {
        let file = self.file;
        match value.map(|value| value.kind) {
            Some(FieldKind::Enum(id)) => string::quote(file.enumeration(id).default.as_bytes(), &mut self.fields.made),
            Some(kind @ FieldKind::Message(_)) => {
                return self.empty_message(|walk, end| {
                    let (_, wire) = walk.tag(end)?;
                    walk.json(kind, wire, end, depth + 1)
                });
            }
            Some(kind) => {
                let value = self.default(kind);
                render::json(&value.of(&[]), &mut self.fields.made);
            }
            None => self.fields.made.extend_from_slice(b"null"),
        }
        Ok(())
    }

    /// Returns the key of a map's entry, or the default of the key's type if the entry has no key.
    pub(super) fn map_key(&mut self, entry: MessageId, end: usize, depth: u32) -> Result<Slot, Broken> {
        let file = self.file;
        let field = file.message(entry).fields.iter().find(|field| field.number == 1);
        let Some(field) = field else { return Ok(Slot::MISSING) };
        let mut key = self.default(field.kind);
        while self.at < end {
            let (number, wire) = self.tag(end)?;
            if number == 1 {
                key = self.scalar(field.kind, wire, end)?;
            } else {
                self.skip(wire, number, end, depth)?;
            }
        }
        Ok(key)
    }

    fn comma(&mut self, open: usize) {
        if self.fields.made.len() > open {
            self.fields.made.push(b',');
        }
    }
}

fn is_packable(kind: FieldKind) -> bool {
    !matches!(kind, FieldKind::Text | FieldKind::Bytes | FieldKind::Message(_))
}

/// Returns the wire type of the elements of a packed list.
fn plain_wire(kind: FieldKind) -> Wire {
    match kind {
        FieldKind::Double | FieldKind::Fixed64 | FieldKind::Sfixed64 => Wire::Fixed64,
        FieldKind::Float | FieldKind::Fixed32 | FieldKind::Sfixed32 => Wire::Fixed32,
        _ => Wire::Varint,
    }
}
