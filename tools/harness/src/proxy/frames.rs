//! The framing of the Postgres protocol, version 3: splits bytes into whole messages. Pure.

#[derive(Debug, Default)]
pub(super) struct Frames {
    buffer: Vec<u8>,
    /// The number of bytes at the start of `buffer` that were already returned.
    taken: usize,
}

/// The length of a message's type, in bytes. The message's length field counts itself, but not the type before it.
const TYPE_BYTES: usize = 1;
const LENGTH_BYTES: usize = 4;

impl Frames {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// Removes and returns the next message, which must begin with a type byte. `None` if it hasn't arrived as a whole yet.
    pub(super) fn next_typed(&mut self) -> Option<Vec<u8>> {
        self.take(TYPE_BYTES)
    }

    /// Removes and returns the next whole startup message of a client. Startup messages have no type byte.
    pub(super) fn next_untyped(&mut self) -> Option<Vec<u8>> {
        self.take(0)
    }

    /// Removes and returns the next byte. The answer to a request for encryption is a byte and not a message.
    pub(super) fn next_byte(&mut self) -> Option<u8> {
        let byte = *self.buffer.get(self.taken)?;
        self.taken += 1;
        Some(byte)
    }

    /// Removes and returns all remaining bytes, even if they aren't a whole message.
    pub(super) fn take_rest(&mut self) -> Vec<u8> {
        let rest = self.buffer.split_off(self.taken);
        self.buffer.clear();
        self.taken = 0;
        rest
    }

    fn take(&mut self, length_at: usize) -> Option<Vec<u8>> {
        let left = self.buffer.get(self.taken..)?;
        let length = left.get(length_at..length_at + LENGTH_BYTES)?;
        let length = u32::from_be_bytes(length.try_into().ok()?) as usize;
        let message = left.get(..length_at + length.max(LENGTH_BYTES))?.to_vec();
        self.taken += message.len();
        Some(message)
    }
}

pub(super) fn body(message: &[u8]) -> &[u8] {
    message.get(TYPE_BYTES + LENGTH_BYTES..).unwrap_or_default()
}

/// Returns the code of a client's startup message: the version of the protocol, or the code of a request for encryption.
pub(super) fn start_code(message: &[u8]) -> Option<u32> {
    let code = message.get(LENGTH_BYTES..2 * LENGTH_BYTES)?;
    Some(u32::from_be_bytes(code.try_into().ok()?))
}

/// Returns the text up to the next zero byte, and the bytes after the zero byte.
pub(super) fn text(bytes: &[u8]) -> (String, &[u8]) {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    (String::from_utf8_lossy(&bytes[..end]).into_owned(), bytes.get(end + 1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_out_once_its_last_byte_is_in() {
        let mut frames = Frames::default();
        frames.push(b"Q\0\0\0\x08abc");
        assert_eq!(frames.next_typed(), None);
        frames.push(b"\0S\0\0\0\x04");
        let message = frames.next_typed().unwrap_or_default();
        assert_eq!(text(body(&message)), ("abc".to_owned(), &b""[..]));
        assert_eq!(frames.next_typed().as_deref(), Some(&b"S\0\0\0\x04"[..]));
        assert_eq!(frames.next_typed(), None);
    }

    #[test]
    fn a_start_message_has_a_code_and_no_type() {
        let mut frames = Frames::default();
        frames.push(&[0, 0, 0, 8, 4, 210, 22, 47, b'N']);
        assert_eq!(frames.next_untyped().as_deref().and_then(start_code), Some(80_877_103));
        assert_eq!(frames.next_byte(), Some(b'N'));
        assert_eq!(frames.next_byte(), None);
    }
}
