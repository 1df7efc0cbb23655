//! A Kafka record as the crate `tidegate-rows` sees it: borrowed bytes with metadata.

/// One record. A record of a batch borrows from the batch's arena, so encoding it again reads the same bytes.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub topic: &'a str,
    pub partition: i32,
    pub offset: i64,
    /// In milliseconds since 1970; `None` if the record has no timestamp.
    pub timestamp_ms: Option<i64>,
    pub key: Option<&'a [u8]>,
    /// `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    pub headers: Headers<'a>,
}

/// Headers in the form in which a batch's arena stores them. For each header: `u32` name length, name, `i32` value length (-1
/// for null), value. The lengths are little-endian.
#[derive(Clone, Copy, Debug, Default)]
pub struct Headers<'a>(&'a [u8]);

impl<'a> Headers<'a> {
    /// Wraps bytes that [`push_header`] has written.
    pub fn from_arena(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Returns the headers in order; a name may occur more than once.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let (name_len, tail) = rest.split_first_chunk::<4>()?;
            let (name, tail) = tail.split_at_checked(u32::from_le_bytes(*name_len) as usize)?;
            let (value_len, tail) = tail.split_first_chunk::<4>()?;
            let (value, tail) = match usize::try_from(i32::from_le_bytes(*value_len)) {
                Ok(len) => {
                    let (value, tail) = tail.split_at_checked(len)?;
                    (Some(value), tail)
                }
                Err(_) => (None, tail),
            };
            rest = tail;
            Some((name, value))
        })
    }
}

/// Appends one header, in the form that [`Headers`] reads. Kafka's own limit keeps the lengths far below 2 GiB.
pub fn push_header(arena: &mut Vec<u8>, name: &[u8], value: Option<&[u8]>) {
    let name_len = u32::try_from(name.len()).unwrap_or(u32::MAX);
    arena.extend_from_slice(&name_len.to_le_bytes());
    arena.extend_from_slice(name);
    let value_len = value.map_or(-1, |v| i32::try_from(v.len()).unwrap_or(i32::MAX));
    arena.extend_from_slice(&value_len.to_le_bytes());
    arena.extend_from_slice(value.unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_in_order_with_null_and_empty_apart() {
        let mut arena = Vec::new();
        push_header(&mut arena, b"a", Some(b"1"));
        push_header(&mut arena, b"", None);
        push_header(&mut arena, b"a", Some(b""));
        let headers: Vec<_> = Headers::from_arena(&arena).iter().collect();
        assert_eq!(headers, [(&b"a"[..], Some(&b"1"[..])), (&b""[..], None), (&b"a"[..], Some(&b""[..]))]);
    }
}
