//! JSON objects: one pass that checks the whole document and finds the planned fields on its way, without a tree.
//!
//! Of a key that comes twice the last one counts, as in jsonb; so a later `"position": 5` takes back what an earlier
//! `position` held. Nothing is allocated for a record, but for what an object's keys teach (see `keys`).
//!
//! An array of objects is a row for each of them, found one after the other; so are the objects of NDJSON. A value behind the five
//! bytes of a registry's framing is read as if it began behind them, and so is one behind a byte order mark.

mod keys;
#[cfg(test)]
mod tests;

use crate::decode::Fields;
use crate::decode::Leftovers;
use crate::decode::Path;
use crate::decode::frame;
use crate::json::scan::{Broken, MAX_DEPTH, Scanner};
use crate::json::{not_json, not_utf8, string};
use crate::value::DecodeFault;
use crate::value::{Flags, Kind, Reason, Slot, shown};
use keys::Keys;

/// Finds the planned fields in JSON objects.
#[derive(Debug)]
pub(crate) struct JsonDecoder {
    keys: Keys,
    slots: usize,
    leftovers: Leftovers,
    /// The object whose members without a column are leftovers.
    top: u16,
    /// The slot of an array's element itself, which need not be an object then.
    whole: Option<u16>,
    /// An unescaped key.
    scratch: Vec<u8>,
    /// Within an array: where the next element begins, and its number.
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

    /// Leftovers are those of the object at `base`, which one of the paths looks into.
    pub(crate) fn within(paths: &[Path], leftovers: Leftovers, base: &[String]) -> Self {
        let mut this = Self::new(paths, leftovers);
        // Where no path looks into it, no node is made of it, and leftovers can't be told from the rest.
        this.top = base.iter().try_fold(0, |node, name| this.keys.node(node, name.as_bytes())).unwrap_or(u16::MAX);
        this
    }

    /// The first row of an object or of an array of objects; whether there is one.
    #[inline]
    pub(crate) fn decode(&mut self, payload: &[u8], fields: &mut Fields) -> Result<bool, DecodeFault> {
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

    /// The first of the objects that a value holds one after the other, as NDJSON does; whether there is one.
    #[inline]
    pub(crate) fn first_line(&mut self, payload: &[u8], fields: &mut Fields) -> Result<bool, DecodeFault> {
        if simdutf8::basic::from_utf8(payload).is_err() {
            return Err(not_utf8(payload, 0));
        }
        (self.cursor, self.element) = (byte_order_mark(payload), 0);
        self.next_line(payload, fields)
    }

    /// The next of them.
    pub(crate) fn next_line(&mut self, payload: &[u8], fields: &mut Fields) -> Result<bool, DecodeFault> {
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
                Err(DecodeFault::new(Reason::NotAnObject, format!("the line {value} is not a JSON object")))
            }
            (Err(Broken), None) => Err(not_json(payload, fault)),
        }
    }

    /// From here on [`Self::next`] gives the elements of the array that begins at `start`. The payload ends with it, and is
    /// UTF-8.
    pub(crate) fn enter(&mut self, start: usize) {
        (self.cursor, self.element) = (start + 1, 0);
    }

    #[inline(never)]
    fn framed(&mut self, payload: &[u8], fields: &mut Fields) -> Result<bool, DecodeFault> {
        self.object(payload, frame::HEAD, fields).map(|()| true)
    }

    #[inline(never)]
    fn array(&mut self, payload: &[u8], start: usize, fields: &mut Fields) -> Result<bool, DecodeFault> {
        if simdutf8::basic::from_utf8(payload).is_err() {
            return Err(not_utf8(payload, 0));
        }
        (self.cursor, self.element) = (start + 1, 0);
        self.next(payload, fields)
    }

    /// The array's next element, or its end and that of the value.
    pub(crate) fn next(&mut self, payload: &[u8], fields: &mut Fields) -> Result<bool, DecodeFault> {
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
                Err(DecodeFault::new(
                    Reason::NotAnObject,
                    format!("the element {value} of the array is not a JSON object"),
                ))
            }
            (Err(Broken), None) => Err(not_json(payload, fault)),
        }
    }

    fn walk<'w, 'p>(&'w mut self, payload: &'p [u8], fields: &'w mut Fields) -> Walk<'w, 'p> {
        let mut scan = Scanner::new(payload);
        scan.at = self.cursor;
        Walk {
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

    /// Decodes the object that begins at `start`. What stands before it need not be UTF-8; faults and slots count from the
    /// payload's first byte all the same.
    #[inline]
    pub(crate) fn object(&mut self, payload: &[u8], start: usize, fields: &mut Fields) -> Result<(), DecodeFault> {
        fields.reset(self.slots);
        if simdutf8::basic::from_utf8(&payload[start..]).is_err() {
            return Err(not_utf8(payload, start));
        }
        let mut scan = Scanner::new(payload);
        scan.at = start;
        let mut walk = Walk {
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
                Err(DecodeFault::new(Reason::Tombstone, "the value is JSON's null: the record is a tombstone"))
            }
            Ok(false) => {
                let detail = format!("the value {} is not a JSON object", shown(&payload[start..]));
                Err(DecodeFault { reason: Reason::NotAnObject, detail })
            }
            Err(Broken) => Err(not_json(payload, walk.scan.fault)),
        }
    }
}

/// One record's walk.
struct Walk<'w, 'p> {
    scan: Scanner<'p>,
    keys: &'w mut Keys,
    scratch: &'w mut Vec<u8>,
    slots: &'w mut [Slot],
    leftovers: &'w mut Vec<u8>,
    leftovers_flags: &'w mut Flags,
    policy: Leftovers,
    top: u16,
    /// Where the first key stands that no column takes, if that matters.
    refused: Option<usize>,
}

/// What stands at a place in an array.
enum Element {
    /// An object, with the array's end behind it or not.
    Object { last: bool },
    /// Another value, from `start` on.
    Other { start: usize },
    /// The array is empty.
    None,
}

impl Walk<'_, '_> {
    /// An array's element from here on, with the comma behind it, or with the bracket and the end of the value.
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

    /// An object from here on, with the spaces behind it.
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

    /// Nothing but spaces may follow.
    fn end(&mut self) -> Result<(), Broken> {
        self.scan.space();
        if self.scan.at < self.scan.bytes.len() { self.scan.fault("something follows the value") } else { Ok(()) }
    }

    /// The whole document; whether it is an object.
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

    /// An object that columns look into, from its opening brace to behind its closing one.
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
                    (found.map_or(keys::Target::NONE, |(_, target)| target), key_flags)
                }
            };
            let value_flags = match target {
                keys::Target { slot: Some(slot), node: None } => match self.slots.get_mut(usize::from(slot)) {
                    Some(slot) => self.scan.value(depth + 1, slot)?,
                    None => self.scan.skip(depth + 1)?,
                },
                keys::Target { slot, node: Some(inner) } => self.inner(slot, inner, depth + 1)?,
                keys::Target { slot: None, node: None } => {
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

    /// A key that the guess didn't find, up to its value.
    #[inline(never)]
    fn unexpected_key(
        &mut self,
        node: u16,
        previous: Option<keys::KeyId>,
    ) -> Result<(Flags, Option<(keys::KeyId, keys::Target)>), Broken> {
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

    /// A value that columns look into.
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

/// The length of a byte order mark in front of a text: editors and some of Microsoft's libraries write one.
#[inline]
pub(crate) fn byte_order_mark(payload: &[u8]) -> usize {
    if payload.starts_with(&[0xef, 0xbb, 0xbf]) { 3 } else { 0 }
}

#[cold]
fn unknown_field(payload: &[u8], at: usize) -> DecodeFault {
    let mut scan = Scanner::new(payload);
    scan.at = at;
    let name = scan.string().map_or(&[][..], |_| &payload[at..scan.at]);
    DecodeFault { reason: Reason::UnknownField, detail: format!("the field {} has no column", shown(name)) }
}
