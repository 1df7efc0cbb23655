//! Decodes a record's value into slots, one for each field that the plan needs.
//!
//! All formats fill the same slots, so the encoders don't know which format filled them. Each format is a variant of `Decoder`. A
//! value may contain several rows, such as a JSON array or lines of CSV. The decoder returns them one after another.

pub(crate) mod avro;
pub(crate) mod connect;
mod csv;
pub(crate) mod either;
pub(crate) mod frame;
pub(crate) mod json;
mod plans;
pub(crate) mod protobuf;
mod raw;
mod rows;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use crate::decode::avro::AvroDecoder;
use crate::decode::connect::ConnectDecoder;
use crate::decode::csv::CsvDecoder;
use crate::decode::either::EitherDecoder;
use crate::decode::frame::SchemaHeader;
use crate::decode::json::JsonDecoder;
use crate::decode::protobuf::ProtobufDecoder;
use crate::decode::rows::RowsDecoder;
use crate::schema::{SchemaId, Schemas};
use crate::spec::Decode;
use crate::value::{DecodeError, Flags, Slot, Value};

/// The path of a field from the top level, one element per level.
pub(crate) type Path = Vec<String>;

/// How the decoder treats leftovers: the top-level fields of a row that no column uses, not even in part. `Refuse` rejects the
/// record as `unknown_field`. `Collect` adds the leftovers to [`Fields::leftovers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leftovers {
    Ignore,
    Refuse,
    Collect,
}

/// The result of decoding: the slots of one row, in the order of the paths. A slot with the flag `MADE` points into `made`, which
/// contains the bytes that don't occur in the payload. All other slots point into the payload.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    pub(crate) slots: Vec<Slot>,
    pub(crate) made: Vec<u8>,
    /// The unknown fields, if a column collects them: each as `"key":value`, followed by a comma.
    pub(crate) leftovers: Vec<u8>,
    /// The flags of all leftovers together, because the column for unknown fields gets all of them as one JSON object.
    pub(crate) leftovers_flags: Flags,
    /// Whether the record's value may contain another row after this one.
    pub(crate) more: bool,
}

impl Fields {
    /// Prepares for the next row: clears everything, and makes `slots` slots. Until a slot is filled, its field counts as
    /// missing.
    #[inline]
    pub(crate) fn reset(&mut self, slots: usize) {
        self.slots.clear();
        self.slots.resize(slots, Slot::MISSING);
        self.made.clear();
        self.leftovers.clear();
        self.leftovers_flags = Flags::NONE;
        self.more = false;
    }

    #[inline]
    pub(crate) fn value<'a>(&'a self, slot: u16, payload: &'a [u8]) -> Value<'a> {
        match self.slots.get(usize::from(slot)) {
            Some(slot) => slot.of(if slot.flags.has(Flags::MADE) { &self.made } else { payload }),
            None => Value::MISSING,
        }
    }

    /// Copies slots; each pair is (from, to). This is needed in two cases. If several paths name the same field, the field was
    /// decoded into the slot of only one path. And a delete in Debezium's envelope takes its fields from the row before the
    /// change.
    #[inline]
    pub(crate) fn copy(&mut self, copies: &[(u16, u16)]) {
        for (from, to) in copies {
            let slot = self.slots.get(usize::from(*from)).copied();
            if let (Some(slot), Some(place)) = (slot, self.slots.get_mut(usize::from(*to))) {
                *place = slot;
            }
        }
    }

    /// Returns a slot for the bytes of `made` from `start` to its end.
    #[inline]
    pub(crate) fn made_slot(&self, kind: crate::value::Kind, flags: Flags, start: usize) -> Slot {
        let (start, len) = (narrow(start), narrow(self.made.len() - start));
        Slot { kind, flags: flags.with(Flags::MADE), exponent: 0, start, len, mantissa: 0 }
    }
}

/// Converts a position in a payload, or in [`Fields::made`], to 32 bits. A position in a payload always fits, because a record's
/// length in Kafka is below 2 GiB.
#[inline]
pub(crate) fn narrow(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// A decoder of one format, with what it has learned from the records so far.
#[derive(Debug)]
pub(crate) enum Decoder {
    Json(JsonDecoder),
    Connect(ConnectDecoder),
    Either(EitherDecoder),
    Lines(JsonDecoder),
    Rows(Box<RowsDecoder>),
    Raw(raw::RawDecoder),
    Csv(CsvDecoder),
    Avro(AvroDecoder),
    Protobuf(ProtobufDecoder),
}

impl Decoder {
    /// Makes a decoder that finds the fields at `paths`, which must be distinct.
    /// - `base` is the path to the object that holds the record's fields: `after` in Debezium's envelope, else empty.
    /// - `levels` are the paths of nested arrays, the outermost first. Each element of the innermost array is a row.
    /// - `by_name` is described at [`RowsDecoder::new`].
    /// - `schemas` provides the schemas for formats that use a registry.
    pub(crate) fn new(
        format: &Decode,
        paths: &[Path],
        leftovers: Leftovers,
        base: &[String],
        schemas: Option<&Arc<dyn Schemas>>,
        (levels, by_name): (&[Path], bool),
    ) -> Self {
        if !levels.is_empty() {
            return Self::Rows(Box::new(RowsDecoder::new(format, paths, leftovers, schemas, (levels, by_name))));
        }
        match format {
            Decode::NdJson => Self::Lines(JsonDecoder::within(paths, leftovers, base)),
            Decode::Json => Self::Json(JsonDecoder::within(paths, leftovers, base)),
            Decode::ConnectJson => Self::Connect(ConnectDecoder::new(paths, leftovers, base)),
            Decode::ChangeJson => Self::Either(EitherDecoder::new(paths, leftovers, base)),
            Decode::Raw => Self::Raw(raw::RawDecoder::new(paths)),
            Decode::Csv(options) => Self::Csv(CsvDecoder::new(options, paths, leftovers)),
            Decode::Avro(source) => Self::Avro(AvroDecoder::new(source, paths, leftovers, base, schemas)),
            Decode::Protobuf(source) => Self::Protobuf(ProtobufDecoder::new(source, paths, leftovers, base, schemas)),
        }
    }

    /// Returns the id of the schema that this value needs, if the schema isn't loaded yet. This call also requests the schema;
    /// the record must wait for it. `header` is set if the record's headers name the schema, and the format reads such headers.
    #[inline]
    pub(crate) fn wants(&mut self, payload: &[u8], header: Option<SchemaHeader<'_>>) -> Option<SchemaId> {
        match self {
            Self::Json(_) | Self::Connect(_) | Self::Either(_) | Self::Lines(_) | Self::Raw(_) | Self::Csv(_) => None,
            Self::Rows(rows) => rows.wants(payload, header),
            Self::Avro(avro) => avro.wants(payload, header),
            Self::Protobuf(protobuf) => protobuf.wants(payload, header),
        }
    }

    /// Fills `fields` with the first row of a payload. Returns whether the payload has a row.
    #[inline]
    pub(crate) fn decode(
        &mut self,
        payload: &[u8],
        header: Option<SchemaHeader<'_>>,
        fields: &mut Fields,
    ) -> Result<bool, DecodeError> {
        match self {
            Self::Json(json) => json.decode(payload, fields),
            Self::Connect(connect) => connect.decode(payload, fields).map(|()| true),
            Self::Lines(lines) => lines.first_line(payload, fields),
            Self::Rows(rows) => rows.decode(payload, header, fields),
            Self::Either(either) => either.decode(payload, fields).map(|()| true),
            Self::Raw(raw) => raw.decode(payload, fields).map(|()| true),
            Self::Csv(csv) => csv.decode(payload, fields),
            Self::Avro(avro) => avro.decode(payload, header, fields).map(|()| true),
            Self::Protobuf(protobuf) => protobuf.decode(payload, header, fields).map(|()| true),
        }
    }

    /// Fills `fields` with the next row of the same payload. Must be called only after a row that set `fields.more`. Returns
    /// whether the payload has another row.
    #[inline(never)]
    pub(crate) fn next(&mut self, payload: &[u8], fields: &mut Fields) -> Result<bool, DecodeError> {
        match self {
            Self::Json(json) => json.next(payload, fields),
            Self::Lines(lines) => lines.next_line(payload, fields),
            Self::Rows(rows) => rows.next(payload, fields),
            Self::Csv(csv) => csv.next(payload, fields),
            Self::Connect(_) | Self::Either(_) | Self::Raw(_) | Self::Avro(_) | Self::Protobuf(_) => Ok(false),
        }
    }
}
