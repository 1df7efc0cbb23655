//! Writes arrays of up to six dimensions, from JSON arrays. Also writes points.

use crate::copy::{Encoding, Scratch, number, text};
use crate::json::members::{Elements, RawMembers};
use crate::spec::NulPolicy;
use crate::value::{Kind, Reason, Value};

/// The highest number of dimensions of an array that Postgres allows.
const MAX_DIMENSIONS: usize = 6;

/// The element type of an array. `oid` is the type's oid, which the binary form of the array contains. For a domain, `oid` is the
/// oid of the domain itself, and not of its base type.
#[derive(Clone, Debug)]
pub(crate) struct Element {
    pub(crate) encoding: Box<Encoding>,
    pub(crate) oid: u32,
}

impl Element {
    /// Returns whether every array inside the array is an element, and not a further dimension. This is so for json and jsonb.
    fn takes_arrays(&self) -> bool {
        matches!(*self.encoding, Encoding::Json | Encoding::Jsonb)
    }

    /// Returns whether `value` is an element. For the type point, an array of numbers such as `[1, 2]` is an element.
    fn is_leaf(&self, value: &Value<'_>) -> bool {
        value.kind != Kind::Array
            || self.takes_arrays()
            || matches!(*self.encoding, Encoding::Point)
                && Elements::of(value.raw).all(|inner| inner.kind == Kind::Number)
    }
}

/// Writes an array. As in Postgres, all subarrays of a dimension must have the same length.
pub(super) fn array(
    value: Value<'_>,
    element: &Element,
    nul: NulPolicy,
    scratch: &mut Scratch,
    out: &mut Vec<u8>,
) -> Result<(), Reason> {
    if value.kind != Kind::Array {
        return Err(Reason::TypeMismatch);
    }
    let lengths = lengths(value, element)?;
    let len_at = out.len();
    out.extend_from_slice(&[0; 4]);
    let dimensions = lengths.iter().take_while(|length| **length > 0).count();
    out.extend_from_slice(&u32::try_from(dimensions).map_err(|_| Reason::TooLarge)?.to_be_bytes());
    let has_null_at = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&element.oid.to_be_bytes());
    for length in &lengths[..dimensions] {
        out.extend_from_slice(&length.to_be_bytes());
        // Subscripts begin at 1.
        out.extend_from_slice(&1_i32.to_be_bytes());
    }
    let mut writer = Writer { element, nul, scratch, has_null: false };
    writer.put(value, &lengths[..dimensions.max(1)], out)?;
    out[has_null_at + 3] = u8::from(writer.has_null);
    text::patch_len(len_at, out)
}

/// Returns the length of each dimension, counted in its first subarray: 2 and 3 for `[[1,2,3],[4,5,6]]`. The lengths after the
/// last dimension are 0.
fn lengths(value: Value<'_>, element: &Element) -> Result<[i32; MAX_DIMENSIONS], Reason> {
    let mut lengths = [0; MAX_DIMENSIONS];
    let mut row = Some(value);
    for length in &mut lengths {
        let Some(value) = row else { return Ok(lengths) };
        *length = i32::try_from(Elements::of(value.raw).count()).map_err(|_| Reason::TooLarge)?;
        row = Elements::of(value.raw).next().filter(|first| !element.is_leaf(first));
    }
    if row.is_some() { Err(Reason::OutOfRange) } else { Ok(lengths) }
}

struct Writer<'w> {
    element: &'w Element,
    nul: NulPolicy,
    scratch: &'w mut Scratch,
    has_null: bool,
}

impl Writer<'_> {
    fn put(&mut self, value: Value<'_>, lengths: &[i32], out: &mut Vec<u8>) -> Result<(), Reason> {
        let Some((length, inner)) = lengths.split_first() else {
            return self.leaf(value, out);
        };
        if value.kind != Kind::Array {
            return Err(Reason::TypeMismatch);
        }
        let mut count = 0;
        for element in Elements::of(value.raw) {
            self.put(element, inner, out)?;
            count += 1;
        }
        if count == *length { Ok(()) } else { Err(Reason::TypeMismatch) }
    }

    fn leaf(&mut self, value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
        if value.kind == Kind::Null {
            self.has_null = true;
            out.extend_from_slice(&(-1_i32).to_be_bytes());
            return Ok(());
        }
        if !self.element.is_leaf(&value) {
            return Err(Reason::TypeMismatch);
        }
        self.element.encoding.put(value, self.nul, self.scratch, out)
    }
}

/// Writes a point from `[x, y]`, `{"x": 1, "y": 2}` or `{"lon": 13.4, "lat": 52.5}`. The longitude is x, as in PostGIS and
/// GeoJSON.
pub(super) fn point(value: Value<'_>, out: &mut Vec<u8>) -> Result<(), Reason> {
    let (x, y) = match value.kind {
        Kind::Array => {
            let mut elements = Elements::of(value.raw);
            match (elements.next(), elements.next(), elements.next()) {
                (Some(x), Some(y), None) => (x, y),
                _ => return Err(Reason::TypeMismatch),
            }
        }
        Kind::Object => members(value.raw).ok_or(Reason::TypeMismatch)?,
        _ => return Err(Reason::TypeMismatch),
    };
    out.extend_from_slice(&[0, 0, 0, 16]);
    out.extend_from_slice(&number::double(x)?.to_be_bytes());
    out.extend_from_slice(&number::double(y)?.to_be_bytes());
    Ok(())
}

/// Returns the coordinates of an object that has either `x` and `y`, or a longitude and a latitude. `None` if a member is
/// missing, or if there are other members.
fn members(raw: &[u8]) -> Option<(Value<'_>, Value<'_>)> {
    let (mut x, mut y) = (None, None);
    for (name, _, value) in RawMembers::of(raw) {
        match name {
            b"x" => x = Some((value, true)),
            b"lon" | b"lng" | b"longitude" => x = Some((value, false)),
            b"y" => y = Some((value, true)),
            b"lat" | b"latitude" => y = Some((value, false)),
            _ => return None,
        }
    }
    let ((x, plain_x), (y, plain_y)) = (x?, y?);
    (plain_x == plain_y).then_some((x, y))
}
