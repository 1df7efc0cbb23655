//! Base64 with the standard alphabet of RFC 4648.

const NO_DIGIT: u8 = 0xff;

const BASE64: [u8; 256] = {
    let mut table = [NO_DIGIT; 256];
    let mut digit = 0;
    while digit < 64 {
        let letter = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[digit as usize];
        table[letter as usize] = digit;
        digit += 1;
    }
    table
};

/// Appends the bytes that a base64 text encodes. Returns `None` if the text has characters outside the alphabet, wrong padding,
/// or stray bits at its end. In this case, some bytes may have been appended.
pub fn decode(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (groups, []) = text.as_chunks::<4>() else { return None };
    let last = groups.len().wrapping_sub(1);
    for (at, group) in groups.iter().enumerate() {
        let padding = if at == last { group.iter().rev().take_while(|byte| **byte == b'=').count() } else { 0 };
        let mut bits = 0_u32;
        for byte in &group[..4 - padding.min(2)] {
            let digit = BASE64[*byte as usize];
            if digit == NO_DIGIT {
                return None;
            }
            bits = bits << 6 | u32::from(digit);
        }
        let [_, a, b, c] = (bits << (6 * padding.min(2))).to_be_bytes();
        match padding {
            0 => out.extend_from_slice(&[a, b, c]),
            1 if c == 0 => out.extend_from_slice(&[a, b]),
            2 if b == 0 && c == 0 => out.push(a),
            _ => return None,
        }
    }
    Some(())
}

/// Appends `bytes` as base64, with padding.
pub fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for chunk in bytes.chunks(3) {
        let byte = |at: usize| u32::from(chunk.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let letter = ALPHABET[(bits >> (18 - 6 * at) & 63) as usize];
            out.push(if at as usize <= chunk.len() { letter } else { b'=' });
        }
    }
}
