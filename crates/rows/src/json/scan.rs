//! Tokens of RFC 8259, read strictly: whatever isn't JSON is a [`Fault`] with its position. The exceptions are `NaN`,
//! `Infinity` and `-Infinity`, which Python and others write for floats that JSON lacks.
//!
//! Strings and runs of digits are read eight bytes at a time. Their lengths vary, so branches per byte would be mispredicted. The
//! input has been checked to be UTF-8.

use crate::value::{Flags, Kind, Slot};

/// The deepest nesting of arrays and objects that is accepted.
pub(crate) const MAX_DEPTH: u32 = 128;

/// Why a text isn't JSON: at the byte with the index `at`, and for the reason `what`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) at: usize,
    pub(crate) what: &'static str,
}

/// The text isn't JSON; the scanner has the [`Fault`]. `Broken` has no size, so a `Result` that contains it is
/// returned in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Broken;

/// Reads JSON tokens from `bytes`. `at` is the index of the next byte. `fault` is set when a method returns [`Broken`].
pub(crate) struct Scanner<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) at: usize,
    pub(crate) fault: Fault,
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;
const POW10: [u64; 9] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000];
/// A `u64` can hold any decimal number with up to this many digits.
const EXACT_DIGITS: u32 = 19;
/// The highest number of digits after the point; more digits count as this many. Written exponents are clamped to a sixteenth of
/// this limit. Both are far beyond the limits of any column, and their sum can't overflow.
const EXPONENT_LIMIT: i32 = 1 << 28;

impl<'a> Scanner<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, fault: Fault { at: 0, what: "" } }
    }

    /// Returns the byte at the current position, or 0 at the end of the text. No token begins with 0.
    #[inline]
    pub(crate) fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    /// Returns the next eight bytes as a number, with the first byte in its lowest bits. Bytes beyond the end of the
    /// text are zeros.
    #[inline]
    fn word(&self) -> u64 {
        match self.bytes.get(self.at..).and_then(|tail| tail.first_chunk::<8>()) {
            Some(chunk) => u64::from_le_bytes(*chunk),
            None => self.last_word(),
        }
    }

    #[inline(never)]
    fn last_word(&self) -> u64 {
        match self.bytes.last_chunk::<8>() {
            Some(chunk) if self.at < self.bytes.len() => {
                u64::from_le_bytes(*chunk) >> (8 * (self.at + 8 - self.bytes.len()))
            }
            _ => {
                let mut padded = [0; 8];
                let tail = self.bytes.get(self.at..).unwrap_or_default();
                padded.iter_mut().zip(tail).for_each(|(to, from)| *to = *from);
                u64::from_le_bytes(padded)
            }
        }
    }

    #[inline]
    pub(crate) fn space(&mut self) {
        while matches!(self.peek(), b' ' | b'\n' | b'\r' | b'\t') {
            self.at += 1;
        }
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn fault<T>(&mut self, what: &'static str) -> Result<T, Broken> {
        let what = if self.at >= self.bytes.len() { "it ends too early" } else { what };
        self.fault = Fault { at: self.at.min(self.bytes.len()), what };
        Err(Broken)
    }

    /// Makes `slot` point to the text from `start` to the current position. Leaves the slot's mantissa and exponent unchanged.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "payloads of 4 GiB and more are refused before")]
    pub(crate) fn mark(&self, slot: &mut Slot, kind: Kind, flags: Flags, start: usize) {
        slot.kind = kind;
        slot.flags = flags;
        slot.start = start as u32;
        slot.len = (self.at - start) as u32;
    }

    /// Advances to the next byte that is one of `stops` or a NUL, or to the end of the text.
    #[inline]
    pub(crate) fn find(&mut self, stops: [u8; 3]) {
        let [a, b, c] = stops.map(|stop| ONES * u64::from(stop));
        while self.at < self.bytes.len() {
            let word = self.word();
            let (a, b, c) = (word ^ a, word ^ b, word ^ c);
            // The lowest set bit is reliable, as in `string`.
            let found = ((a.wrapping_sub(ONES) & !a)
                | (b.wrapping_sub(ONES) & !b)
                | (c.wrapping_sub(ONES) & !c)
                | (word.wrapping_sub(ONES) & !word))
                & HIGHS;
            if found != 0 {
                // After the end of the text, a word contains zeros.
                self.at = (self.at + (found.trailing_zeros() / 8) as usize).min(self.bytes.len());
                return;
            }
            self.at += 8;
        }
        self.at = self.bytes.len();
    }

    /// Reads any value into `slot`. `depth` is the number of arrays and objects around the value. Writing into the caller's slot
    /// is faster than returning one, which the caller would have to copy.
    #[inline]
    pub(crate) fn value(&mut self, depth: u32, slot: &mut Slot) -> Result<Flags, Broken> {
        let start = self.at;
        let (kind, flags) = match self.peek() {
            b'"' => (Kind::String, self.string()?),
            b'-' | b'0'..=b'9' => match self.number::<true>(slot) {
                Ok(flags) => (Kind::Number, flags),
                Err(Broken) => (Kind::Float, self.minus_infinity(start, slot)?),
            },
            b'{' => (Kind::Object, self.container(depth)?),
            b'[' => (Kind::Array, self.container(depth)?),
            _ => self.literal(slot)?,
        };
        self.mark(slot, kind, flags, start);
        Ok(flags)
    }

    /// Skips any value, and checks it like [`Self::value`].
    #[inline]
    pub(crate) fn skip(&mut self, depth: u32) -> Result<Flags, Broken> {
        match self.peek() {
            b'"' => self.string(),
            b'-' | b'0'..=b'9' => {
                let start = self.at;
                let mut slot = Slot { ..Slot::MISSING };
                self.number::<false>(&mut slot).or_else(|Broken| self.minus_infinity(start, &mut slot))
            }
            b'{' | b'[' => self.container(depth),
            _ => self.literal(&mut Slot { ..Slot::MISSING }).map(|(_, flags)| flags),
        }
    }

    fn literal(&mut self, slot: &mut Slot) -> Result<(Kind, Flags), Broken> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        for (text, kind) in [(&b"null"[..], Kind::Null), (b"true", Kind::True), (b"false", Kind::False)] {
            if rest.starts_with(text) {
                self.at += text.len();
                return Ok((kind, Flags::NONE));
            }
        }
        for (text, float) in [(&b"NaN"[..], f64::NAN), (b"Infinity", f64::INFINITY)] {
            if rest.starts_with(text) {
                self.at += text.len();
                slot.mantissa = float.to_bits();
                return Ok((Kind::Float, Flags::BINARY.with(Flags::SPECIAL)));
            }
        }
        self.fault("expected a value")
    }

    /// Reads `-Infinity` at `start`, after [`Self::number`] has failed there. Any other text is an error.
    #[cold]
    #[inline(never)]
    fn minus_infinity(&mut self, start: usize, slot: &mut Slot) -> Result<Flags, Broken> {
        const TEXT: &[u8] = b"-Infinity";
        if !self.bytes.get(start..).unwrap_or_default().starts_with(TEXT) {
            return Err(Broken);
        }
        self.at = start + TEXT.len();
        slot.mantissa = f64::NEG_INFINITY.to_bits();
        slot.exponent = 0;
        Ok(Flags::BINARY.with(Flags::SPECIAL))
    }

    /// Reads a string with its quotes. The current position must be the opening quote.
    #[inline]
    pub(crate) fn string(&mut self) -> Result<Flags, Broken> {
        self.at += 1;
        let mut flags = Flags::NONE;
        loop {
            let word = self.word();
            let quote = word ^ (ONES * b'"' as u64);
            let backslash = word ^ (ONES * b'\\' as u64);
            // The lowest set bit is reliable: a borrow only affects bytes above a byte that has matched.
            let stops = ((quote.wrapping_sub(ONES) & !quote)
                | (backslash.wrapping_sub(ONES) & !backslash)
                | (word.wrapping_sub(ONES * 0x20) & !word))
                & HIGHS;
            if stops == 0 {
                self.at += 8;
                continue;
            }
            self.at += (stops.trailing_zeros() / 8) as usize;
            match self.peek() {
                b'"' => {
                    self.at += 1;
                    return Ok(flags);
                }
                b'\\' => flags = flags.with(self.escape()?),
                _ => return self.fault("a control character in a string"),
            }
        }
    }

    #[inline(never)]
    fn escape(&mut self) -> Result<Flags, Broken> {
        self.at += 1;
        let letter = self.peek();
        match letter {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 1,
            b'u' => {
                let unit = self.code_unit()?;
                match unit {
                    0 => return Ok(Flags::ESCAPED.with(Flags::NUL)),
                    0xd800..=0xdbff => {
                        if !self.bytes.get(self.at..).unwrap_or_default().starts_with(b"\\u") {
                            return self.fault("half of a surrogate pair");
                        }
                        self.at += 1;
                        if !(0xdc00..=0xdfff).contains(&self.code_unit()?) {
                            return self.fault("half of a surrogate pair");
                        }
                    }
                    0xdc00..=0xdfff => return self.fault("half of a surrogate pair"),
                    _ => {}
                }
            }
            _ => return self.fault("an unknown escape in a string"),
        }
        Ok(Flags::ESCAPED)
    }

    /// Reads the four hex digits of a `\u` escape. The current position must be the `u`.
    fn code_unit(&mut self) -> Result<u32, Broken> {
        let mut unit = 0;
        for _ in 0..4 {
            self.at += 1;
            let Some(digit) = (self.peek() as char).to_digit(16) else {
                return self.fault("an escape without four hex digits");
            };
            unit = unit * 16 + digit;
        }
        self.at += 1;
        Ok(unit)
    }

    /// Reads a number, and writes its mantissa and exponent to the slot. The mantissa is valid only if `WANTED`, and only if
    /// the returned flags don't include `INEXACT`.
    #[inline]
    pub(crate) fn number<const WANTED: bool>(&mut self, slot: &mut Slot) -> Result<Flags, Broken> {
        let mut flags = Flags::NONE;
        if self.peek() == b'-' {
            flags = Flags::NEGATIVE;
            self.at += 1;
        }
        let first = self.peek();
        let (mut mantissa, mut digits) = self.digits::<WANTED>(0);
        if digits == 0 {
            return self.fault("expected a digit");
        }
        if first == b'0' && digits > 1 {
            self.at -= digits as usize - 1;
            return self.fault("a number with a leading zero");
        }
        let mut exponent = 0;
        if self.peek() == b'.' {
            self.at += 1;
            let (whole, fraction) = self.digits::<WANTED>(mantissa);
            if fraction == 0 {
                return self.fault("expected a digit");
            }
            mantissa = whole;
            digits = digits.saturating_add(fraction);
            exponent = -i32::try_from(fraction).unwrap_or(EXPONENT_LIMIT).min(EXPONENT_LIMIT);
        }
        if self.peek() | 0x20 == b'e' {
            exponent += self.exponent()?;
        }
        if digits > EXACT_DIGITS {
            flags = flags.with(Flags::INEXACT);
        }
        slot.mantissa = mantissa;
        slot.exponent = exponent;
        Ok(flags)
    }

    /// Reads a run of digits. Returns `mantissa` and the number of digits. If `WANTED`, the digits are appended to `mantissa`,
    /// which wraps on overflow.
    #[inline]
    fn digits<const WANTED: bool>(&mut self, mut mantissa: u64) -> (u64, u32) {
        let start = self.at;
        loop {
            let word = self.word() ^ (ONES * b'0' as u64);
            let others = (word.wrapping_add(ONES * 0x76) | word) & HIGHS;
            if others == 0 {
                if WANTED {
                    mantissa = mantissa.wrapping_mul(POW10[8]).wrapping_add(eight_digits(word));
                }
                self.at += 8;
                continue;
            }
            let count = (others.trailing_zeros() / 8) as usize;
            if WANTED && count > 0 {
                // After this shift, the bytes before the digits count as leading zeros.
                let aligned = word << (64 - 8 * count);
                mantissa = mantissa.wrapping_mul(POW10[count]).wrapping_add(eight_digits(aligned));
            }
            self.at += count;
            return (mantissa, u32::try_from(self.at - start).unwrap_or(u32::MAX));
        }
    }

    #[inline(never)]
    fn exponent(&mut self) -> Result<i32, Broken> {
        self.at += 1;
        let negative = self.peek() == b'-';
        if matches!(self.peek(), b'-' | b'+') {
            self.at += 1;
        }
        if !self.peek().is_ascii_digit() {
            return self.fault("expected a digit");
        }
        let mut exponent = 0_i32;
        while self.peek().is_ascii_digit() {
            exponent = (exponent * 10 + i32::from(self.peek() - b'0')).min(EXPONENT_LIMIT / 16);
            self.at += 1;
        }
        Ok(if negative { -exponent } else { exponent })
    }

    /// Skips an object or array that no column looks into. The levels of nesting are kept as bits, so they take no stack.
    #[inline(never)]
    fn container(&mut self, depth: u32) -> Result<Flags, Broken> {
        let mut flags = Flags::NONE;
        let mut objects = 0_u128;
        let mut levels = 0;
        'opened: loop {
            if depth + levels >= MAX_DEPTH {
                return self.fault("nested too deep");
            }
            let mut object = self.peek() == b'{';
            objects = objects << 1 | u128::from(object);
            levels += 1;
            self.at += 1;
            self.space();
            let mut after_value = self.peek() == if object { b'}' } else { b']' };
            loop {
                if !after_value {
                    if object {
                        flags = flags.with(self.key()?.inherited());
                    }
                    if matches!(self.peek(), b'{' | b'[') {
                        continue 'opened;
                    }
                    flags = flags.with(self.skip(MAX_DEPTH)?.inherited());
                    self.space();
                }
                match self.peek() {
                    b',' => {
                        self.at += 1;
                        self.space();
                        after_value = false;
                    }
                    close if close == if object { b'}' } else { b']' } => {
                        self.at += 1;
                        levels -= 1;
                        if levels == 0 {
                            return Ok(flags);
                        }
                        objects >>= 1;
                        object = objects & 1 == 1;
                        self.space();
                        after_value = true;
                    }
                    _ => return self.fault("expected a comma or the end of the array or object"),
                }
            }
        }
    }

    /// Reads a key and its colon, and the spaces around the colon. The next byte is then the first one of the value.
    pub(crate) fn key(&mut self) -> Result<Flags, Broken> {
        if self.peek() != b'"' {
            return self.fault("expected a key in quotes");
        }
        let flags = self.string()?;
        self.space();
        if self.peek() != b':' {
            return self.fault("expected a colon");
        }
        self.at += 1;
        self.space();
        Ok(flags)
    }
}

/// Returns the number that eight digits make. Each byte is a digit's value (0 to 9); the first digit is in the lowest byte.
#[inline]
pub(crate) fn eight_digits(digits: u64) -> u64 {
    const PAIRS: u64 = 0x0000_00ff_0000_00ff;
    let pairs = digits.wrapping_mul(10).wrapping_add(digits >> 8);
    let high = (pairs & PAIRS).wrapping_mul(0x000f_4240_0000_0064);
    let low = (pairs >> 16 & PAIRS).wrapping_mul(0x0000_2710_0000_0001);
    high.wrapping_add(low) >> 32
}
