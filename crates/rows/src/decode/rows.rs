//! `rows = "readings"`: a record with an array becomes one row per element, combined with the fields around the array.
//!
//! An array that is null or empty gives no rows. If an array is missing, the record is rejected.
//!
//! The decoder of the format finds the array and the fields around it. The elements are read as JSON: the decoders of binary
//! formats render an array as JSON. If the elements contain another array, a second decoder of this kind wraps the first. The
//! first one finds the outer elements, and the second one the inner elements.

use std::sync::Arc;

use crate::decode::frame::SchemaHeader;
use crate::decode::json::JsonDecoder;
use crate::decode::{Decoder, Fields, Leftovers, Path};
use crate::schema::{SchemaId, Schemas};
use crate::spec::Decode;
use crate::value::{DecodeError, Flags, Kind, Reason, Slot, shown};

/// Where a row's slot comes from.
/// - `Around`: a field around the array. The number is a slot of the decoder `RowsDecoder::inner`.
/// - `Element`: a field of the element. The number is a slot of the decoder `RowsDecoder::elements`.
/// - `Either`: the element's field or, if the element lacks it, the field of this name around the array. It has both slots.
#[derive(Clone, Copy, Debug)]
enum Origin {
    Around(u16),
    Element(u16),
    Either(u16, u16),
}

/// The array whose elements are being read. `end` is the index of the byte after its closing bracket. `made` says whether the
/// array's text is in [`Fields::made`], and not in the payload.
#[derive(Clone, Copy, Debug)]
struct Array {
    end: usize,
    made: bool,
}

#[derive(Debug)]
pub(crate) struct RowsDecoder {
    inner: Decoder,
    elements: JsonDecoder,
    /// The path of the array, for error messages. `slot` is the array's slot in `inner`.
    path: String,
    slot: usize,
    from: Vec<Origin>,
    /// The fields and leftovers that the inner decoder found outside the current array. Every row of the array gets both.
    around: Fields,
    element: Fields,
    array: Option<Array>,
}

impl RowsDecoder {
    /// Makes a decoder that finds the fields at `paths`. `levels` has the paths of the arrays, at least one. Each further array
    /// lies in the elements of the one before it. With `by_name`, a path of one name is first looked up in the element, and then
    /// around the array.
    pub(crate) fn new(
        format: &Decode,
        paths: &[Path],
        leftovers: Leftovers,
        schemas: Option<&Arc<dyn Schemas>>,
        (levels, by_name): (&[Path], bool),
    ) -> Self {
        let (array, outer) = levels.split_last().map_or((&[][..], levels), |(last, rest)| (last.as_slice(), rest));
        let (mut around, mut elements): (Vec<Path>, Vec<Path>) = (Vec::new(), Vec::new());
        let place = |list: &mut Vec<Path>, path: Path| {
            let at = list.iter().position(|known| *known == path).unwrap_or_else(|| {
                list.push(path);
                list.len() - 1
            });
            u16::try_from(at).unwrap_or(u16::MAX)
        };
        let from = paths.iter().map(|path| match path.strip_prefix(array) {
            Some(below) => Origin::Element(place(&mut elements, below.to_vec())),
            None if by_name && path.len() == 1 => {
                Origin::Either(place(&mut elements, path.clone()), place(&mut around, path.clone()))
            }
            None => Origin::Around(place(&mut around, path.clone())),
        });
        let from = from.collect();
        let slot = usize::from(place(&mut around, array.to_vec()));
        let inner = Decoder::new(format, &around, leftovers, &[], schemas, (outer, by_name));
        Self {
            inner,
            elements: JsonDecoder::new(&elements, leftovers),
            path: array.join("."),
            slot,
            from,
            around: Fields::default(),
            element: Fields::default(),
            array: None,
        }
    }

    pub(crate) fn wants(&mut self, payload: &[u8], header: Option<SchemaHeader<'_>>) -> Option<SchemaId> {
        self.inner.wants(payload, header)
    }

    pub(crate) fn decode(
        &mut self,
        payload: &[u8],
        header: Option<SchemaHeader<'_>>,
        fields: &mut Fields,
    ) -> Result<bool, DecodeError> {
        self.array = None;
        if !self.inner.decode(payload, header, fields)? {
            return Ok(false);
        }
        self.enter(payload, fields)?;
        self.next(payload, fields)
    }

    /// Starts to read the array in the decoded value. Stores the fields around the array, because every row gets them.
    fn enter(&mut self, payload: &[u8], fields: &mut Fields) -> Result<(), DecodeError> {
        std::mem::swap(&mut self.around.slots, &mut fields.slots);
        std::mem::swap(&mut self.around.leftovers, &mut fields.leftovers);
        (self.around.leftovers_flags, self.around.more) = (fields.leftovers_flags, fields.more);
        let slot = self.around.slots.get(self.slot).copied().unwrap_or(Slot::MISSING);
        let made = slot.flags.has(Flags::MADE);
        match slot.kind {
            Kind::Array => {
                self.elements.enter(slot.start as usize);
                self.array = Some(Array { end: (slot.start + slot.len) as usize, made });
                Ok(())
            }
            Kind::Null => Ok(()),
            Kind::Missing => {
                let detail = format!("the record has no `{}`, the array of its rows", self.path);
                Err(DecodeError::new(Reason::MissingField, detail))
            }
            _ => {
                let bytes: &[u8] = if made { &fields.made } else { payload };
                let detail = format!("`{}` {} is not an array", self.path, shown(slot.of(bytes).raw));
                Err(DecodeError::new(Reason::TypeMismatch, detail))
            }
        }
    }

    /// Decodes the row of the next element. Returns `false` if no element is left.
    pub(crate) fn next(&mut self, payload: &[u8], fields: &mut Fields) -> Result<bool, DecodeError> {
        loop {
            if let Some(array) = self.array.take() {
                let bytes: &[u8] = if array.made { &fields.made } else { payload };
                if self.elements.next(bytes.get(..array.end).unwrap_or_default(), &mut self.element)? {
                    self.array = self.element.more.then_some(array);
                    self.fill(array, fields);
                    return Ok(true);
                }
            }
            if !self.around.more || !self.inner.next(payload, fields)? {
                fields.more = false;
                return Ok(false);
            }
            self.enter(payload, fields)?;
        }
    }

    fn fill(&self, array: Array, fields: &mut Fields) {
        let around = |slot: u16| self.around.slots.get(usize::from(slot)).copied().unwrap_or(Slot::MISSING);
        let element = |slot: u16| {
            let slot = self.element.slots.get(usize::from(slot)).copied().unwrap_or(Slot::MISSING);
            if array.made { Slot { flags: slot.flags.with(Flags::MADE), ..slot } } else { slot }
        };
        fields.slots.clear();
        fields.slots.extend(self.from.iter().map(|from| match *from {
            Origin::Around(slot) => around(slot),
            Origin::Element(slot) => element(slot),
            Origin::Either(inside, outside) => {
                let slot = element(inside);
                if slot.kind == Kind::Missing { around(outside) } else { slot }
            }
        }));
        fields.leftovers.clear();
        fields.leftovers.extend_from_slice(&self.around.leftovers);
        fields.leftovers.extend_from_slice(&self.element.leftovers);
        fields.leftovers_flags = self.around.leftovers_flags.with(self.element.leftovers_flags);
        fields.more = self.array.is_some() || self.around.more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        text.split('.').map(str::to_owned).collect()
    }

    fn rows(paths: &[&str], levels: &[&str], by_name: bool, value: &str) -> Result<Vec<String>, DecodeError> {
        let paths: Vec<_> = paths.iter().map(|text| path(text)).collect();
        let levels: Vec<_> = levels.iter().map(|text| path(text)).collect();
        let mut decoder = RowsDecoder::new(&Decode::Json, &paths, Leftovers::Collect, None, (&levels, by_name));
        let mut fields = Fields::default();
        let mut found = Vec::new();
        let mut more = decoder.decode(value.as_bytes(), None, &mut fields)?;
        while more {
            let values = (0_u16..).take(paths.len()).map(|slot| fields.value(slot, value.as_bytes()).raw);
            let mut row = values.map(|raw| String::from_utf8_lossy(raw).into_owned()).collect::<Vec<_>>().join("|");
            row += &format!("|{}", String::from_utf8_lossy(&fields.leftovers));
            found.push(row);
            more = fields.more && decoder.next(value.as_bytes(), &mut fields)?;
        }
        Ok(found)
    }

    #[test]
    fn each_element_is_a_row_with_the_fields_around_it() {
        let value = r#"{"device":7,"readings":[{"t":1,"v":2.5},{"t":2,"x":0}],"site":"n"}"#;
        let paths = ["device", "readings.t", "readings.v", "site"];
        let found = rows(&paths, &["readings"], false, value).expect("rows");
        assert_eq!(found, [r#"7|1|2.5|"n"|"#, r#"7|2||"n"|"x":0,"#]);
        // With `by_name`, the element's own field takes precedence.
        let value = r#"{"t":0,"device":7,"readings":[{"t":1},{"v":2}]}"#;
        assert_eq!(rows(&["t", "device"], &["readings"], true, value).expect("rows"), [r#"1|7|"#, r#"0|7|"v":2,"#]);
        // Elements may be other values than objects if a column takes whole elements.
        let value = r#"{"device":7,"readings":[1,[2],null]}"#;
        assert_eq!(
            rows(&["device", "readings"], &["readings"], false, value).expect("rows"),
            ["7|1|", "7|[2]|", "7|null|"]
        );
        assert_eq!(rows(&["device"], &["readings"], false, r#"{"readings":[]}"#).expect("rows"), Vec::<String>::new());
        assert_eq!(
            rows(&["device"], &["readings"], false, r#"{"readings":null}"#).expect("rows"),
            Vec::<String>::new()
        );
        let reason = |value| rows(&["device"], &["readings"], false, value).expect_err("a fault").reason;
        assert_eq!(reason(r#"{"device":7}"#), Reason::MissingField);
        assert_eq!(reason(r#"{"readings":{}}"#), Reason::TypeMismatch);
        assert_eq!(reason(r#"{"readings":[1]}"#), Reason::NotAnObject);
    }

    #[test]
    fn arrays_within_arrays_and_arrays_of_records_are_walked_to_their_ends() {
        let value = r#"{"a":[{"n":1,"b":[{"v":1},{"v":2}]},{"n":2,"b":[]},{"n":3,"b":[{"v":3}]}],"top":9}"#;
        let found = rows(&["top", "a.n", "a.b.v"], &["a", "a.b"], false, value).expect("rows");
        assert_eq!(found, ["9|1|1|", "9|1|2|", "9|3|3|"]);
        let value = r#"[{"d":1,"r":[]},{"d":2,"r":[{"v":5}]},{"d":3,"r":[{"v":6},{"v":7}]}]"#;
        assert_eq!(rows(&["d", "r.v"], &["r"], false, value).expect("rows"), ["2|5|", "3|6|", "3|7|"]);
    }
}
