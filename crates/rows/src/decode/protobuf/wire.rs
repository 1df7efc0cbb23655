//! Protobuf's wire format: tags and varints.

/// Protobuf's wire types: how the bytes after a field's tag are laid out. The fields of a group of proto2 lie between a `Group`
/// and a `GroupEnd`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    Varint,
    Fixed64,
    Len,
    Group,
    GroupEnd,
    Fixed32,
}

/// Reads the varint at `at` (groups of seven bits, the lowest first), and advances `at` past it. `None` if it is invalid.
#[inline]
pub(super) fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let first = *bytes.get(*at)?;
    *at += 1;
    if first < 0x80 {
        return Some(first.into());
    }
    let mut number = u64::from(first & 0x7f);
    let mut shift = 7;
    loop {
        let byte = *bytes.get(*at)?;
        *at += 1;
        if shift == 63 && byte > 1 {
            return None;
        }
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
        shift += 7;
    }
}

/// Reads the tag at `at`, and advances `at` past it. Returns the number and the wire type of the field; `None` if the tag is
/// invalid.
#[inline]
pub(super) fn tag(bytes: &[u8], at: &mut usize) -> Option<(u32, Wire)> {
    let tag = u32::try_from(varint(bytes, at)?).ok()?;
    let wire = match tag & 7 {
        0 => Wire::Varint,
        1 => Wire::Fixed64,
        2 => Wire::Len,
        3 => Wire::Group,
        4 => Wire::GroupEnd,
        5 => Wire::Fixed32,
        _ => return None,
    };
    (tag >> 3 > 0).then_some((tag >> 3, wire))
}
