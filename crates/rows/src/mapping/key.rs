//! Decodes a record's key. Format, framing and envelope of the key may differ from those of the value.

use std::sync::Arc;

use crate::copy::Encoding;
use crate::decode::avro::AvroDecoder;
use crate::decode::connect::ConnectDecoder;
use crate::decode::frame::SchemaHeader;
use crate::decode::json::JsonDecoder;
use crate::decode::protobuf::ProtobufDecoder;
use crate::decode::{Fields, Leftovers, Path, frame, narrow};
use crate::json;
use crate::mapping::meta;
use crate::schema::{Found, SchemaId, Schemas};
use crate::spec::{Decode, KeyFormat, SchemaSource};
use crate::value::{DecodeError, Flags, Kind, Reason, Slot, Value};

/// The slot of the whole key. Its path is empty.
const WHOLE: u16 = 0;

/// The decoder that reads a key whose schema comes from the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framed {
    Avro,
    Protobuf,
    Json,
}

/// Reads the whole key of a record, and the fields in it that may fill the key columns of the table.
#[derive(Debug)]
pub(super) struct KeyReader {
    format: KeyFormat,
    /// Whether the key's format is `auto` and the values' schemas are in a registry. If so, a key that names its schema is
    /// decoded by that schema.
    framed: bool,
    schemas: Option<Arc<dyn Schemas>>,
    json: JsonDecoder,
    /// Detects Kafka Connect's envelope: decodes an object that has only a schema and a payload, and rejects others.
    envelope: JsonDecoder,
    enveloped: ConnectDecoder,
    avro: Option<AvroDecoder>,
    protobuf: Option<ProtobufDecoder>,
    /// For each schema that occurred so far, the decoder for it. There are few schemas, so they are searched one by one.
    kinds: Vec<(SchemaId, Framed)>,
    fields: Fields,
    /// Whether each column reads the bytes of the current key by the column's own type. Always true for the format `text`. For
    /// the format `auto`, true unless the key was decoded by a schema or as JSON.
    plain: bool,
}

impl KeyReader {
    /// Returns a reader that finds the fields `paths` in keys. The first path is empty and stands for the whole key.
    pub(super) fn new(format: &KeyFormat, value: &Decode, paths: &[Path], schemas: Option<&Arc<dyn Schemas>>) -> Self {
        let framed = matches!(format, KeyFormat::Auto) && value.needs_registry();
        let avro = |source: &SchemaSource| AvroDecoder::new(source, paths, Leftovers::Ignore, &[], schemas);
        let protobuf = |source: &SchemaSource| ProtobufDecoder::new(source, paths, Leftovers::Ignore, &[], schemas);
        let (avro, protobuf) = match format {
            KeyFormat::Avro(source) => (Some(avro(source)), None),
            KeyFormat::Protobuf(source) => (None, Some(protobuf(source))),
            _ if framed => (Some(avro(&SchemaSource::Registry)), Some(protobuf(&SchemaSource::Registry))),
            _ => (None, None),
        };
        Self {
            format: format.clone(),
            framed,
            schemas: schemas.cloned(),
            json: JsonDecoder::new(paths, Leftovers::Ignore),
            envelope: JsonDecoder::new(&["schema", "payload"].map(|name| vec![name.to_owned()]), Leftovers::Refuse),
            enveloped: ConnectDecoder::new(paths, Leftovers::Ignore, &[]),
            avro,
            protobuf,
            kinds: Vec::new(),
            fields: Fields::default(),
            plain: true,
        }
    }

    /// Returns the id of the schema that this key needs, if the schema isn't loaded yet. The schema has then been requested.
    pub(super) fn wants(&mut self, key: &[u8], header: Option<SchemaHeader<'_>>) -> Option<SchemaId> {
        match self.format {
            KeyFormat::Avro(_) => self.avro.as_mut()?.wants(key, header),
            KeyFormat::Protobuf(_) => self.protobuf.as_mut()?.wants(key, header),
            KeyFormat::Auto if self.framed => {
                let id = named(key, header)?;
                if self.kinds.iter().all(|(known, _)| *known != id) {
                    match self.schemas.as_ref()?.find(id) {
                        Found::Wanted => return Some(id),
                        Found::Schema(schema) => {
                            let kind = match schema.kind() {
                                "AVRO" => Framed::Avro,
                                "PROTOBUF" => Framed::Protobuf,
                                _ => Framed::Json,
                            };
                            self.kinds.push((id, kind));
                        }
                        // The Avro decoder will look up the schema again, and report the fault.
                        Found::Fault(_) => return None,
                    }
                }
                match self.kind(id) {
                    Framed::Avro => self.avro.as_mut()?.wants(key, header),
                    Framed::Protobuf => self.protobuf.as_mut()?.wants(key, header),
                    Framed::Json => None,
                }
            }
            _ => None,
        }
    }

    fn kind(&self, id: SchemaId) -> Framed {
        self.kinds.iter().find(|(known, _)| *known == id).map_or(Framed::Avro, |(_, kind)| *kind)
    }

    pub(super) fn reads_header(&self) -> bool {
        self.avro.is_some() || self.protobuf.is_some()
    }

    /// Reads a key. `header` is the record's header that names the key's schema, if there is one.
    ///
    /// # Errors
    /// If the key isn't what its format says.
    pub(super) fn read(&mut self, key: &[u8], header: Option<SchemaHeader<'_>>) -> Result<(), DecodeError> {
        self.plain = false;
        let Self { format, avro, protobuf, fields, .. } = self;
        let slot = match (&*format, key.len()) {
            (KeyFormat::Auto, _) => return self.guess(key, header),
            (KeyFormat::Json, _) => {
                let start = if header.is_none() && registered(key).is_some() { frame::HEAD } else { 0 };
                return self.json(key, start);
            }
            (KeyFormat::Avro(_), _) => {
                return in_key(avro.as_mut().map_or(Ok(()), |avro| avro.decode(key, header, fields)));
            }
            (KeyFormat::Protobuf(_), _) => {
                return in_key(protobuf.as_mut().map_or(Ok(()), |protobuf| protobuf.decode(key, header, fields)));
            }
            (KeyFormat::Text, _) => {
                text(key)?;
                self.plain = true;
                return Ok(());
            }
            (KeyFormat::Bytes, _) => bytes(Kind::Bytes, key),
            (KeyFormat::Int(size), length) if *size == length => Slot::integer(match key {
                [a, b] => i16::from_be_bytes([*a, *b]).into(),
                [a, b, c, d] => i32::from_be_bytes([*a, *b, *c, *d]).into(),
                _ => key.first_chunk().map_or(0, |bytes| i64::from_be_bytes(*bytes)),
            }),
            (KeyFormat::Float(size), length) if *size == length => {
                let slot = Slot::number(Kind::Float, 0);
                match key {
                    [a, b, c, d] => {
                        let number = f64::from(f32::from_be_bytes([*a, *b, *c, *d]));
                        Slot { mantissa: number.to_bits(), flags: slot.flags.with(Flags::SINGLE), ..slot }
                    }
                    _ => Slot { mantissa: key.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes)), ..slot },
                }
            }
            (KeyFormat::Uuid, 16) => bytes(Kind::Uuid, key),
            (KeyFormat::Uuid, _) => text(key)?,
            (KeyFormat::Int(size) | KeyFormat::Float(size), length) => {
                let detail = format!("the key has {length} bytes, and `key_format` says that it has {size}");
                return Err(DecodeError::new(Reason::InvalidFormat, detail));
            }
        };
        self.fields.reset(1);
        self.fields.slots[0] = slot;
        Ok(())
    }

    /// Reads a key of the format `auto`: by the schema that its header or frame names, else as JSON, else by the type of each
    /// column.
    fn guess(&mut self, key: &[u8], header: Option<SchemaHeader<'_>>) -> Result<(), DecodeError> {
        if let (true, Some(id)) = (self.framed, named(key, header)) {
            let Self { avro, protobuf, fields, .. } = self;
            return match self.kinds.iter().find(|(known, _)| *known == id).map_or(Framed::Avro, |(_, kind)| *kind) {
                Framed::Avro => in_key(avro.as_mut().map_or(Ok(()), |avro| avro.decode(key, header, fields))),
                Framed::Protobuf => {
                    in_key(protobuf.as_mut().map_or(Ok(()), |protobuf| protobuf.decode(key, header, fields)))
                }
                Framed::Json => self.json(key, if header.is_some() { 0 } else { frame::HEAD }),
            };
        }
        let start = if registered(key).is_some() && begins_json(&key[frame::HEAD..]) { frame::HEAD } else { 0 };
        // A number alone is JSON too, but a column may need its digits unchanged.
        let is_json = start > 0 || key.trim_ascii_start().starts_with(b"{") || key.starts_with(b"\"");
        self.plain = !(is_json && self.json(key, start).is_ok());
        Ok(())
    }

    fn json(&mut self, key: &[u8], start: usize) -> Result<(), DecodeError> {
        let slot = in_key(json::document(&key[start..]))?;
        let whole = Slot { start: slot.start + narrow(start), ..slot };
        if whole.kind != Kind::Object {
            self.fields.reset(1);
            self.fields.slots[0] = whole;
            return Ok(());
        }
        if self.is_enveloped(key, start) {
            return in_key(self.enveloped.decode_at(key, start, &mut self.fields));
        }
        in_key(self.json.object(key, start, &mut self.fields))?;
        self.fields.slots[0] = whole;
        Ok(())
    }

    fn is_enveloped(&mut self, key: &[u8], start: usize) -> bool {
        self.envelope.object(key, start, &mut self.fields).is_ok()
            && matches!(self.fields.slots[0].kind, Kind::Object | Kind::Null)
            && self.fields.slots[1].kind != Kind::Missing
    }

    /// Returns the whole of the key that [`Self::read`] read last, for a column with this encoding. `key` must have the bytes of
    /// the same key.
    ///
    /// # Errors
    /// If the column can't read the bytes of the key.
    pub(super) fn whole<'a>(&'a self, key: &'a [u8], encoding: &Encoding) -> Result<Value<'a>, DecodeError> {
        if self.plain { meta::key(key, encoding) } else { Ok(self.fields.value(WHOLE, key)) }
    }

    pub(super) fn has_fields(&self) -> bool {
        !self.plain && self.fields.slots.first().is_some_and(|slot| slot.kind == Kind::Object)
    }

    /// Looks up these fields in the key that was read last. Returns the first value that isn't missing, or a missing value.
    pub(super) fn first<'a>(&'a self, slots: &[u16], key: &'a [u8]) -> Value<'a> {
        let mut values = slots.iter().map(|slot| self.fields.value(*slot, key));
        values.find(|value| value.kind != Kind::Missing).unwrap_or(Value::MISSING)
    }
}

/// Returns the schema that the record's header names for the key. If there is no such header, returns the schema that the key's
/// frame names.
fn named(key: &[u8], header: Option<SchemaHeader<'_>>) -> Option<SchemaId> {
    match header {
        Some(header) => frame::of_header(header.schema).map(|(id, _)| id),
        None => registered(key).map(SchemaId::Number),
    }
}

/// Returns the schema id in the key's frame, if it has one. Ignores the id 0, because a key may be an integer of eight bytes, and
/// the integer 7 begins with five zero bytes, too. Also ignores ids of eight bytes, because their frame begins with five zero
/// bytes, too.
fn registered(key: &[u8]) -> Option<u32> {
    let is_short = frame::head(key) == frame::HEAD;
    frame::schema_id(key).filter(|id| is_short && *id != 0 && key.len() > frame::HEAD)
}

fn begins_json(text: &[u8]) -> bool {
    matches!(text.first(), Some(b'{' | b'[' | b'"' | b'-' | b'0'..=b'9' | b't' | b'f' | b'n'))
}

fn text(key: &[u8]) -> Result<Slot, DecodeError> {
    if simdutf8::basic::from_utf8(key).is_err() {
        return Err(DecodeError::new(Reason::InvalidUtf8, "the key is not UTF-8"));
    }
    let flags = if memchr::memchr(0, key).is_some() { Flags::NUL } else { Flags::NONE };
    Ok(Slot { kind: Kind::Text, flags, len: narrow(key.len()), ..Slot::MISSING })
}

fn bytes(kind: Kind, key: &[u8]) -> Slot {
    Slot { kind, flags: Flags::BINARY, len: narrow(key.len()), ..Slot::MISSING }
}

fn in_key<T>(result: Result<T, DecodeError>) -> Result<T, DecodeError> {
    result.map_err(|DecodeError { reason, detail }| {
        let detail = match detail.strip_prefix("the value") {
            Some(rest) => format!("the key{rest}"),
            None => format!("the key: {detail}"),
        };
        DecodeError { reason: if reason == Reason::Tombstone { Reason::InvalidFormat } else { reason }, detail }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(format: &KeyFormat, key: &[u8]) -> Result<Vec<String>, DecodeError> {
        let paths = ["", "after.id", "id"]
            .map(|path| path.split('.').filter(|name| !name.is_empty()).map(str::to_owned).collect());
        let mut reader = KeyReader::new(format, &Decode::Json, &paths, None);
        reader.read(key, None)?;
        let shown = |value: Value<'_>| {
            let mut out = Vec::new();
            crate::render::text(&value, &mut out);
            format!("{:?} {}", value.kind, String::from_utf8_lossy(&out))
        };
        Ok(vec![shown(reader.whole(key, &Encoding::Text)?), shown(reader.first(&[1, 2], key))])
    }

    #[test]
    fn keys_are_read_by_their_envelope_frame_and_format() {
        let schema = r#"{"type":"struct","fields":[{"type":"int32","field":"id"}]}"#;
        let enveloped = format!(r#"{{"schema":{schema},"payload":{{"id":7}}}}"#);
        let scalar = r#"{"schema":{"type":"int32"},"payload":7}"#;
        let framed = [&[0, 0, 0, 0, 9][..], br#"{"id":7}"#].concat();
        let cases: [(&KeyFormat, &[u8], &str, &str); 12] = [
            (&KeyFormat::Auto, enveloped.as_bytes(), r#"Object {"id":7}"#, "Number 7"),
            (&KeyFormat::Auto, scalar.as_bytes(), "Number 7", "Missing "),
            (&KeyFormat::Auto, &framed, r#"Object {"id":7}"#, "Number 7"),
            (
                &KeyFormat::Auto,
                br#"{"schema":1,"payload":2,"id":7}"#,
                r#"Object {"schema":1,"payload":2,"id":7}"#,
                "Number 7",
            ),
            (&KeyFormat::Auto, b"\"a\"", "String a", "Missing "),
            (&KeyFormat::Auto, b"007", "Text 007", "Missing "),
            (&KeyFormat::Auto, b"{x", "Text {x", "Missing "),
            (&KeyFormat::Text, b"\"a\"", "Text \"a\"", "Missing "),
            (&KeyFormat::Int(8), &7_i64.to_be_bytes(), "Number 7", "Missing "),
            (&KeyFormat::Int(4), &(-7_i32).to_be_bytes(), "Number -7", "Missing "),
            (&KeyFormat::Uuid, &[0x11; 16], "Uuid 11111111-1111-1111-1111-111111111111", "Missing "),
            (&KeyFormat::Json, b"7", "Number ", "Missing "),
        ];
        for (format, key, whole, field) in cases {
            let found = read(format, key).expect("a key");
            assert!(found[0].starts_with(whole) && found[1].starts_with(field), "{format:?}: {found:?}");
        }
        for (format, key) in [(KeyFormat::Int(8), &b"abc"[..]), (KeyFormat::Json, b"{"), (KeyFormat::Text, b"\xff")] {
            let fault = read(&format, key).expect_err("no key");
            assert!(fault.detail.starts_with("the key"), "{fault:?}");
        }
    }
}
