//! Writes values as binary `COPY`: one encoder per Postgres type, chosen from the catalog.
//!
//! A value that doesn't fit its column is rejected here, by the rules of Postgres' input functions. Otherwise Postgres would
//! refuse the whole batch. Values are truncated or rounded only where INSERT does the same.

mod array;
mod binary;
mod civil;
pub(crate) mod decimal;
mod interval;
mod json;
mod network;
mod number;
mod numeric;
mod range;
pub(crate) mod text;
mod time;
pub mod types;

use std::sync::Arc;

use crate::catalog::{CatalogColumn, TypeKind};
use crate::json::string;
use crate::spec::NulPolicy;
use crate::value::{Flags, Kind, Reason, Value};
pub(crate) use array::Element;
pub(crate) use numeric::NumericLimits;
pub(crate) use time::Times;

/// The start of a binary COPY: signature, no flags, no extension.
pub const HEADER: [u8; 19] = *b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// The end of a binary COPY: -1 where a row would have the number of its fields.
pub const TRAILER: [u8; 2] = [0xff, 0xff];

/// A field that is NULL: the length -1, and no bytes.
pub(crate) const NULL: [u8; 4] = [0xff; 4];

/// The encoder of a column, which is chosen by the column's type.
#[derive(Clone, Debug)]
pub(crate) enum Encoding {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Numeric(Option<NumericLimits>),
    Text,
    /// varchar(n) or char(n). Contains n, the highest number of characters.
    Limited(u32),
    Name,
    OneByte,
    Bytea,
    Date,
    Time,
    TimeTz,
    Timestamp(Times),
    TimestampTz(Times),
    Interval,
    Uuid,
    Json,
    Jsonb,
    Inet,
    Cidr,
    MacAddr,
    MacAddr8,
    Point,
    Enum(Arc<[Box<str>]>),
    Array(Element),
    /// A range whose bounds have this encoding.
    Range(Box<Encoding>),
}

/// Buffers for values that can't be written in one pass. They are reused for every value.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    text: Vec<u8>,
    groups: Vec<u16>,
}

impl Encoding {
    /// Returns the encoding of a column; `None` if its type has no encoder. `times` says how the column reads epochs
    /// and local times.
    pub(crate) fn of(column: &CatalogColumn, times: &Times) -> Option<Self> {
        match &column.kind {
            TypeKind::Scalar => Self::scalar(column.base_type_oid, &column.base_type, column.typmod, times),
            TypeKind::Enum { labels } => Some(Self::Enum(labels.iter().map(|label| label.as_str().into()).collect())),
            TypeKind::Array { element_type, element_oid, element_base_oid, labels } => {
                let encoding = match labels {
                    Some(labels) => Self::Enum(labels.iter().map(|label| label.as_str().into()).collect()),
                    None => Self::scalar(*element_base_oid, element_type, column.typmod, times)?,
                };
                Some(Self::Array(Element { encoding: Box::new(encoding), oid: *element_oid }))
            }
            TypeKind::Other => None,
        }
    }

    fn scalar(oid: u32, name: &str, typmod: i32, times: &Times) -> Option<Self> {
        let limited = || match u32::try_from(typmod.saturating_sub(4)) {
            Ok(limit) if limit > 0 => Self::Limited(limit),
            _ => Self::Text,
        };
        let encoding = match types::by_oid(oid).map(|known| known.name) {
            Some("bool") => Self::Bool,
            Some("bytea") => Self::Bytea,
            Some("char") => Self::OneByte,
            Some("name") => Self::Name,
            Some("int8") => Self::Int8,
            Some("int2") => Self::Int2,
            Some("int4") => Self::Int4,
            Some("text") => Self::Text,
            Some("oid") => Self::Oid,
            Some("json") => Self::Json,
            Some("point") => Self::Point,
            Some("cidr") => Self::Cidr,
            Some("float4") => Self::Float4,
            Some("float8") => Self::Float8,
            Some("macaddr8") => Self::MacAddr8,
            Some("macaddr") => Self::MacAddr,
            Some("inet") => Self::Inet,
            Some("bpchar" | "varchar") => limited(),
            Some("date") => Self::Date,
            Some("time") => Self::Time,
            Some("timetz") => Self::TimeTz,
            Some("timestamp") => Self::Timestamp(times.clone()),
            Some("timestamptz") => Self::TimestampTz(times.clone()),
            Some("interval") => Self::Interval,
            Some("numeric") => Self::Numeric(NumericLimits::from_typmod(typmod)),
            Some("uuid") => Self::Uuid,
            Some("jsonb") => Self::Jsonb,
            Some("int4range") => Self::Range(Box::new(Self::Int4)),
            Some("int8range") => Self::Range(Box::new(Self::Int8)),
            Some("numrange") => Self::Range(Box::new(Self::Numeric(None))),
            Some("daterange") => Self::Range(Box::new(Self::Date)),
            Some("tsrange") => Self::Range(Box::new(Self::Timestamp(times.clone()))),
            Some("tstzrange") => Self::Range(Box::new(Self::TimestampTz(times.clone()))),
            // The oid of an extension's type differs between databases. The binary form of citext is that of text.
            None if name == "citext" => Self::Text,
            _ => return None,
        };
        Some(encoding)
    }

    /// Returns whether the encoder reads a value as JSON text. If so, the encoder itself handles escapes and NULs in it.
    pub(crate) fn reads_json(&self) -> bool {
        matches!(self, Self::Json | Self::Jsonb | Self::Array(_) | Self::Point)
    }

    /// Returns whether the column is of a text type: text, varchar, char, name or citext.
    pub(crate) fn is_text(&self) -> bool {
        matches!(self, Self::Text | Self::Limited(_) | Self::Name)
    }

    /// Appends a value, with its length in front. The value must be neither missing nor null. After an error, the appended bytes
    /// are undefined.
    #[inline]
    pub(crate) fn put(
        &self,
        value: Value<'_>,
        nul: NulPolicy,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Reason> {
        if value.flags.has(Flags::ESCAPED.with(Flags::NUL).with(Flags::BINARY)) {
            if value.flags.has(Flags::BINARY) {
                return self.put_binary(value, nul, scratch, out);
            }
            if !self.reads_json() {
                return self.put_cleaned(value, nul, scratch, out);
            }
        }
        self.put_clean(value, nul, scratch, out)
    }

    /// Writes text that has escapes or NULs: resolves the escapes, and rejects, removes or replaces the NULs as `nul` says.
    #[inline(never)]
    fn put_cleaned(
        &self,
        value: Value<'_>,
        nul: NulPolicy,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Reason> {
        let Some(inside) = value.as_text() else {
            return self.put_clean(value, nul, scratch, out);
        };
        let mut text = std::mem::take(&mut scratch.text);
        text.clear();
        if value.kind == Kind::String {
            string::unescape(inside, &mut text)
        } else {
            text.extend_from_slice(inside)
        }
        let nuls = value.flags.has(Flags::NUL);
        let result = match nul {
            NulPolicy::DeadLetter if nuls => Err(Reason::NulInText),
            _ => {
                if nuls {
                    remove_nuls(&mut text, nul == NulPolicy::Replace);
                }
                self.put_clean(Value::text(&text, Flags::NONE), nul, scratch, out)
            }
        };
        scratch.text = text;
        result
    }

    #[inline]
    fn put_clean(
        &self,
        value: Value<'_>,
        nul: NulPolicy,
        scratch: &mut Scratch,
        out: &mut Vec<u8>,
    ) -> Result<(), Reason> {
        match self {
            Self::Bool => number::boolean(value, out),
            Self::Int2 => number::int2(value, out),
            Self::Int4 => number::int4(value, out),
            Self::Int8 => number::int8(value, out),
            Self::Oid => number::oid(value, out),
            Self::Float4 => number::float4(value, out),
            Self::Float8 => number::float8(value, out),
            Self::Numeric(limits) => numeric::numeric(value, *limits, &mut scratch.groups, out),
            Self::Text => text::text(value, out),
            Self::Limited(limit) => text::limited(value, *limit, out),
            Self::Name => text::name(value, out),
            Self::OneByte => text::one_byte(value, out),
            Self::Bytea => text::bytea(value, out),
            Self::Date => time::date(value, out),
            Self::Time => time::time(value, out),
            Self::TimeTz => time::timetz(value, out),
            Self::Timestamp(times) => time::timestamp(value, times, out),
            Self::TimestampTz(times) => time::timestamptz(value, times, out),
            Self::Interval => interval::interval(value, out),
            Self::Uuid => text::uuid(value, out),
            Self::Json => json::json(value, nul, out),
            Self::Jsonb => json::jsonb(value, nul, out),
            Self::Inet => network::address(value, false, out),
            Self::Cidr => network::address(value, true, out),
            Self::MacAddr => network::mac(value, false, out),
            Self::MacAddr8 => network::mac(value, true, out),
            Self::Point => array::point(value, out),
            Self::Enum(labels) => text::label(value, labels, out),
            Self::Array(element) => array::array(value, element, nul, scratch, out),
            Self::Range(bound) => range::range(value, bound, nul, scratch, out),
        }
    }
}

#[cold]
fn remove_nuls(text: &mut Vec<u8>, replace: bool) {
    if replace {
        *text = text.split(|byte| *byte == 0).collect::<Vec<_>>().join("\u{fffd}".as_bytes());
    } else {
        text.retain(|byte| *byte != 0);
    }
}
