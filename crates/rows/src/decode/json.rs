//! JSON objects: one pass checks the whole document and finds the planned fields, without building a tree.
//!
//! If a key occurs twice, the last value wins, as in jsonb: after `"position": {"lat": 1}, "position": 5`, there is no `lat`.
//! Nothing is allocated per record, except to learn keys (see `keys`).
//!
//! Each object in an array of objects is a row, and each object of NDJSON too. The rows are returned one after another. A byte
//! order mark in front of the value is skipped. So is a registry's prefix (five or nine bytes) in front of a single object.

mod keys;
#[cfg(test)]
mod tests;

use crate::decode::Fields;
use crate::decode::Leftovers;
use crate::decode::Path;
use crate::decode::frame;
use crate::json::scan::{Broken, MAX_DEPTH, Scanner};
use crate::json::{not_json, not_utf8, string};
use crate::value::DecodeError;
use crate::value::{Flags, Kind, Reason, Slot, shown};
use keys::Keys;

#[derive(Debug)]
pub(crate) struct JsonDecoder {
    keys: Keys,
    slots: usize,
    leftovers: Leftovers,
    /// The node of the object in which members without a column are leftovers. `u16::MAX` if the decoder finds no
    /// leftovers; see [`JsonDecoder::within`].
    top: u16,
    /// The slot for a whole array element, if a column takes it. The element may then be any value, not only an object.
    whole: Option<u16>,
    scratch: Vec<u8>,
    /// The index of the byte at which the next element of an array, or the next object of NDJSON, begins.
    cursor: usize,
    element: u32,
}

impl JsonDecoder {
    pub(crate) fn new(paths: &[Path], leftovers: Leftovers) -> Self {
        Self {
            keys: Keys::new(paths),
            slots: paths.len(),
            leftovers,
            top: 0,
            whole: paths.iter().position(Vec::is_empty).and_then(|slot| u16::try_from(slot).ok()),
            scratch: Vec::new(),
            cursor: 0,
            element: 0,
        }
    }

    /// Makes a decoder that finds leftovers (members without a column) in the object at the path `base`. If `base` is empty, this
    /// object is the record itself. If no path leads into the object, the decoder doesn't recognize it, and finds no leftovers.
    pub(crate) fn within(paths: &[Path], leftovers: Leftovers, base: &[String]) -> Self {
        let mut this = Self::new(paths, leftovers);
        this.top = base.iter().try_fold(0, |node, name| this.keys.node(node, name.as_bytes())).unwrap_or(u16::MAX);
        this
    }

    /// Decodes the first row of a value that is an object or an array of objects. Returns `false` if the array is empty.
    #[inline]
    pub(crate) fn decode(&mut self, payload: &[u8], fields: &mut Fields) -> Result<bool, DecodeError> {
        let mut start = byte_order_mark(payload);
        while let Some(b' ' | b'\n' | b'\r' | b'\t') = payload.get(start) {
            start += 1;
        }
        match payload.get(start) {
            Some(b'[') => self.array(payload, start, fields),
            Some(0) if start == 0 && payload.len() > frame::HEAD => self.framed(payload, fields),
            _ => self.object(payload, start, fields).map(|()| true),
        }
    }

    /// Decodes the first object of NDJSON. Returns whether there is one.
    #[inline]
    pub(crate) fn first_line(&mut self, payload: &[u8], fields: &mut Fields) -> Result<bool, DecodeError> {
        if simdutf8::basic::from_utf8(payload).is_err() {
            return Err(not_utf8(payload, 0));
        }
        (self.cursor, self.element) = (byte_order_mark(payload), 0);
        self.next_line(payload, fields)
    }

    /// Decodes the next object of NDJSON, after [`Self::first_line`]. Returns whether there is one.
    pub(crate) fn next_line(&mut self, payload: &[u8], fields: &mut Fields) -> Result<bool, DecodeError> {
        fields.reset(self.slots);
        let mut walk = self.walk(payload, fields);
        let result = walk.line();
        let (at, fault, refused) = (walk.scan.at, walk.scan.fault, walk.refused);
        self.cursor = at;
        match (result, refused) {
            (_, Some(at)) => Err(unknown_field(payload, at)),
            (Ok(Element::Object { last }), None) => {
                fields.more = !last;
                Ok(true)
            }
            (Ok(Element::None), None) => Ok(false),
            (Ok(Element::Other { start }), None) => {
                let value = shown(payload.get(start..at).unwrap_or_default());
                Err(DecodeError::new(Reason::NotAnObject, format!("the line {value} is not a JSON object")))
            }
            (Err(Broken), None) => Err(not_json(payload, fault)),
        }
    }

    /// Enters the array that begins at `start`: from now on [`Self::next`] returns its elements. The payload for `next` must be
    /// UTF-8, and must end with the array.
    pub(crate) fn enter(&mut self, start: usize) {
        (self.cursor, self.element) = (start + 1, 0);
    }

    #[inline(never)]
    fn framed(&mut self, payload: &[u8], fields: &mut Fields) -> Result<bool, DecodeError> {
        // With the id 0 in four bytes, five zero bytes come before the JSON text. A sixth zero byte can't be JSON text, so it
        // belongs to an id of eight bytes.
        let head = if payload.starts_with(&[0; 6]) { frame::head(payload) } else { frame::HEAD };
        self.object(payload, head, fields).map(|()| true)
    }

    #[inline(never)]
    fn array(&mut self, payload: &[u8], start: usize, fields: &mut Fields) -> Result<bool, DecodeError> {
        if simdutf8::basic::from_utf8(payload).is_err() {
            return Err(not_utf8(payload, 0));
        }
        (self.cursor, self.element) = (start + 1, 0);
        self.next(payload, fields)
    }

    /// Decodes the next element of the array. Returns `false` if the array is empty.
    pub(crate) fn next(&mut self, payload: &[u8], fields: &mut Fields) -> Result<bool, DecodeError> {
        fields.reset(self.slots);
        let (element, whole) = (self.element, self.whole);
        let mut walk = self.walk(payload, fields);
        let result = walk.element(element, whole);
        let (at, fault, refused) = (walk.scan.at, walk.scan.fault, walk.refused);
        match (result, refused) {
            (_, Some(at)) => Err(unknown_field(payload, at)),
            (Ok(Element::Object { last }), None) => {
                self.element += 1;
                self.cursor = at;
                fields.more = !last;
                Ok(true)
            }
            (Ok(Element::None), None) => Ok(false),
            (Ok(Element::Other { start }), None) => {
                let value = shown(payload.get(start..at).unwrap_or_default());
                Err(DecodeError::new(
                    Reason::NotAnObject,
                    format!("the element {value} of the array is not a JSON object"),
                ))
            }
            (Err(Broken), None) => Err(not_json(payload, fault)),
        }
    }

    fn walk<'w, 'p>(&'w mut self, payload: &'p [u8], fields: &'w mut Fields) -> JsonWalk<'w, 'p> {
        let mut scan = Scanner::new(payload);
        scan.at = self.cursor;
        JsonWalk {
            scan,
            keys: &mut self.keys,
            scratch: &mut self.scratch,
            policy: self.leftovers,
            top: self.top,
            refused: None,
            slots: &mut fields.slots,
            leftovers: &mut fields.leftovers,
            leftovers_flags: &mut fields.leftovers_flags,
        }
    }

    /// Decodes the object that begins at `start`. The bytes before it need not be UTF-8. Positions in faults and slots are
    /// counted from the first byte of the payload.
    #[inline]
    pub(crate) fn object(&mut self, payload: &[u8], start: usize, fields: &mut Fields) -> Result<(), DecodeError> {
        fields.reset(self.slots);
        if simdutf8::basic::from_utf8(&payload[start..]).is_err() {
            return Err(not_utf8(payload, start));
        }
        let mut scan = Scanner::new(payload);
        scan.at = start;
        let mut walk = JsonWalk {
            scan,
            keys: &mut self.keys,
            scratch: &mut self.scratch,
            policy: self.leftovers,
            top: self.top,
            refused: None,
            slots: &mut fields.slots,
            leftovers: &mut fields.leftovers,
            leftovers_flags: &mut fields.leftovers_flags,
        };
        match walk.document() {
            Ok(true) => walk.refused.map_or(Ok(()), |at| Err(unknown_field(payload, at))),
            Ok(false) if payload[start..].trim_ascii() == b"null" => {
                Err(DecodeError::new(Reason::Tombstone, "the value is JSON's null: the record is a tombstone"))
            }
            Ok(false) => {
                let detail = format!("the value {} is not a JSON object", shown(&payload[start..]));
                Err(DecodeError { reason: Reason::NotAnObject, detail })
            }
            Err(Broken) => Err(not_json(payload, walk.scan.fault)),
        }
    }
}

/// The state of a pass over one object, or over one element of an array.
struct JsonWalk<'w, 'p> {
    scan: Scanner<'p>,
    keys: &'w mut Keys,
    scratch: &'w mut Vec<u8>,
    slots: &'w mut [Slot],
    leftovers: &'w mut Vec<u8>,
    leftovers_flags: &'w mut Flags,
    policy: Leftovers,
    top: u16,
    /// The position of the first key without a column that was found, if records with such keys are rejected.
    refused: Option<usize>,
}

/// The value at the position of an array's next element or of NDJSON's next object.
enum Element {
    /// An object. If a column takes whole elements, any other value counts as an object too. `last` says whether no further
    /// element or object follows.
    Object { last: bool },
    /// Another value, which begins at `start`.
    Other { start: usize },
    /// Nothing: the array is empty, or the NDJSON has no further object.
    None,
}

impl JsonWalk<'_, '_> {
    /// Reads an array element and what follows the element: the comma, or the bracket and the end of the value.
    fn element(&mut self, number: u32, whole: Option<u16>) -> Result<Element, Broken> {
        self.scan.space();
        if number == 0 && self.scan.peek() == b']' {
            self.scan.at += 1;
            return self.end().map(|()| Element::None);
        }
        let start = self.scan.at;
        let mut value = Slot::MISSING;
        if self.scan.peek() == b'{' {
            let flags = self.object(0, 1)?;
            self.scan.mark(&mut value, Kind::Object, flags, start);
        } else if whole.is_some() {
            self.scan.value(1, &mut value)?;
        } else {
            self.scan.skip(1)?;
            return Ok(Element::Other { start });
        }
        if let Some(place) = whole.and_then(|slot| self.slots.get_mut(usize::from(slot))) {
            *place = value;
        }
        self.scan.space();
        match self.scan.peek() {
            b',' => {
                self.scan.at += 1;
                Ok(Element::Object { last: false })
            }
            b']' => {
                self.scan.at += 1;
                self.end().map(|()| Element::Object { last: true })
            }
            _ => self.scan.fault("expected a comma or the end of the array"),
        }
    }

    /// Reads an object of NDJSON and the spaces after it.
    fn line(&mut self) -> Result<Element, Broken> {
        self.scan.space();
        let start = self.scan.at;
        if start == self.scan.bytes.len() {
            return Ok(Element::None);
        }
        if self.scan.peek() != b'{' {
            self.scan.skip(0)?;
            return Ok(Element::Other { start });
        }
        self.object(0, 0)?;
        self.scan.space();
        Ok(Element::Object { last: self.scan.at == self.scan.bytes.len() })
    }

    /// Checks that only spaces follow up to the end of the text.
    fn end(&mut self) -> Result<(), Broken> {
        self.scan.space();
        if self.scan.at < self.scan.bytes.len() { self.scan.fault("something follows the value") } else { Ok(()) }
    }

    /// Reads the whole document, which may be any JSON value. Returns whether it is an object.
    #[inline]
    fn document(&mut self) -> Result<bool, Broken> {
        if u32::try_from(self.scan.bytes.len()).is_err() {
            return self.scan.fault("it is larger than 4 GiB");
        }
        self.scan.space();
        let object = self.scan.peek() == b'{';
        if object {
            self.object(0, 0)?;
        } else {
            self.scan.skip(0)?;
        }
        self.scan.space();
        if self.scan.at < self.scan.bytes.len() {
            return self.scan.fault("something follows the value");
        }
        Ok(object)
    }

    /// Reads an object from which columns take parts, including its braces. Returns the flags that the object inherits from its
    /// members.
    fn object(&mut self, node: u16, depth: u32) -> Result<Flags, Broken> {
        if depth >= MAX_DEPTH {
            return self.scan.fault("nested too deep");
        }
        let mut flags = Flags::NONE;
        self.scan.at += 1;
        self.scan.space();
        if self.scan.peek() == b'}' {
            self.scan.at += 1;
            return Ok(flags);
        }
        let mut previous = None;
        loop {
            let key_at = self.scan.at;
            let rest = self.scan.bytes.get(key_at..).unwrap_or_default();
            let (target, key_flags) = match self.keys.guess(node, previous, rest) {
                Some((id, target, len)) => {
                    self.scan.at += len;
                    self.scan.space();
                    previous = Some(id);
                    (target, Flags::NONE)
                }
                None => {
                    let (key_flags, found) = self.unexpected_key(node, previous)?;
                    previous = found.map(|(id, _)| id).or(previous);
                    (found.map_or(keys::KeyTarget::NONE, |(_, target)| target), key_flags)
                }
            };
            let value_flags = match target {
                keys::KeyTarget { slot: Some(slot), node: None } => match self.slots.get_mut(usize::from(slot)) {
                    Some(slot) => self.scan.value(depth + 1, slot)?,
                    None => self.scan.skip(depth + 1)?,
                },
                keys::KeyTarget { slot, node: Some(inner) } => self.inner(slot, inner, depth + 1)?,
                keys::KeyTarget { slot: None, node: None } => {
                    let value_flags = self.scan.skip(depth + 1)?;
                    if node == self.top && self.policy != Leftovers::Ignore {
                        self.leftover(key_at, key_flags.with(value_flags));
                    }
                    value_flags
                }
            };
            flags = flags.with(key_flags.inherited()).with(value_flags.inherited());
            self.scan.space();
            match self.scan.peek() {
                b',' => {
                    self.scan.at += 1;
                    self.scan.space();
                }
                b'}' => {
                    self.scan.at += 1;
                    return Ok(flags);
                }
                _ => return self.scan.fault("expected a comma or the end of the object"),
            }
        }
    }

    /// Reads a key that differs from both keys that were guessed, up to its value. Returns the key's flags. If the key is known,
    /// or is remembered from now on, also returns its id and target.
    #[inline(never)]
    fn unexpected_key(
        &mut self,
        node: u16,
        previous: Option<keys::KeyId>,
    ) -> Result<(Flags, Option<(keys::KeyId, keys::KeyTarget)>), Broken> {
        let start = self.scan.at;
        if self.scan.peek() != b'"' {
            return self.scan.fault("expected a key in quotes");
        }
        let flags = self.scan.string()?;
        let name = &self.scan.bytes[start + 1..self.scan.at - 1];
        self.scan.space();
        if self.scan.peek() != b':' {
            return self.scan.fault("expected a colon");
        }
        self.scan.at += 1;
        self.scan.space();
        if !flags.has(Flags::ESCAPED) {
            return Ok((flags, self.keys.find(node, previous, name)));
        }
        self.scratch.clear();
        string::unescape(name, self.scratch);
        Ok((flags, self.keys.find(node, previous, self.scratch)))
    }

    /// Reads a value from which columns take parts. Clears their slots first, because an earlier value of the same key may have
    /// filled them. `slot` is set if a column takes the whole value.
    fn inner(&mut self, slot: Option<u16>, node: u16, depth: u32) -> Result<Flags, Broken> {
        for below in self.keys.slots_below(node) {
            if let Some(place) = self.slots.get_mut(usize::from(*below)) {
                *place = Slot::MISSING;
            }
        }
        let start = self.scan.at;
        let mut value = Slot::MISSING;
        let flags = if self.scan.peek() == b'{' {
            let flags = self.object(node, depth)?;
            self.scan.mark(&mut value, Kind::Object, flags, start);
            flags
        } else {
            self.scan.value(depth, &mut value)?
        };
        if let Some(place) = slot.and_then(|slot| self.slots.get_mut(usize::from(slot))) {
            *place = value;
        }
        Ok(flags)
    }

    #[inline(never)]
    fn leftover(&mut self, key_at: usize, flags: Flags) {
        if self.policy == Leftovers::Refuse {
            self.refused.get_or_insert(key_at);
            return;
        }
        self.leftovers.extend_from_slice(&self.scan.bytes[key_at..self.scan.at]);
        self.leftovers.push(b',');
        *self.leftovers_flags = self.leftovers_flags.with(flags.inherited());
    }
}

/// Returns the length of the byte order mark at the start of a text, or 0 if there is none.
#[inline]
pub(crate) fn byte_order_mark(payload: &[u8]) -> usize {
    if payload.starts_with(&[0xef, 0xbb, 0xbf]) { 3 } else { 0 }
}

#[cold]
fn unknown_field(payload: &[u8], at: usize) -> DecodeError {
    let mut scan = Scanner::new(payload);
    scan.at = at;
    let name = scan.string().map_or(&[][..], |_| &payload[at..scan.at]);
    DecodeError { reason: Reason::UnknownField, detail: format!("the field {} has no column", shown(name)) }
}
