use std::net::IpAddr;

use crate::copy::number::fixed;
use crate::copy::text::{field, hex_pair};
use crate::value::{Reason, Value};

/// The numbers by which Postgres identifies the address families in the binary form of inet and cidr.
const FAMILY_V4: u8 = 2;
const FAMILY_V6: u8 = 3;

/// Writes inet or cidr: a whole address, with or without `/bits`. In a cidr, no bit may be set to the right of the mask.
pub(super) fn address(value: Value<'_>, cidr: bool, out: &mut Vec<u8>) -> Result<(), Reason> {
    let text = value.as_text().and_then(|text| std::str::from_utf8(text).ok()).ok_or(Reason::TypeMismatch)?;
    let (address, bits) = match text.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().map_err(|_| Reason::TypeMismatch)?;
    let (family, octets, number, width) = match address {
        IpAddr::V4(v4) => (FAMILY_V4, &v4.octets()[..], u128::from(u32::from(v4)) << 96, 32),
        IpAddr::V6(v6) => (FAMILY_V6, &v6.octets()[..], u128::from(v6), 128),
    };
    let bits = match bits {
        Some(bits) if bits.len() <= 3 && bits.bytes().all(|b| b.is_ascii_digit()) => bits.parse().ok(),
        Some(_) => None,
        None => Some(width),
    };
    let bits: u8 = bits.filter(|bits| *bits <= width).ok_or(Reason::TypeMismatch)?;
    if cidr && number.checked_shl(bits.into()).unwrap_or(0) != 0 {
        return Err(Reason::TypeMismatch);
    }
    let mut bytes = [0; 20];
    let (head, tail) = bytes.split_at_mut(4);
    head.copy_from_slice(&[family, bits, u8::from(cidr), width / 8]);
    tail[..octets.len()].copy_from_slice(octets);
    field(&bytes[..4 + octets.len()], out)
}

/// Writes macaddr or macaddr8: pairs of hex digits, with or without `:`, `-` or `.` between pairs or groups. A macaddr8 made of
/// six bytes gets `ff:fe` in the middle, as in Postgres.
pub(super) fn mac(value: Value<'_>, eight: bool, out: &mut Vec<u8>) -> Result<(), Reason> {
    let mut text = value.as_text().ok_or(Reason::TypeMismatch)?;
    let mut bytes = [0; 8];
    let mut count = 0;
    let mut separator = None;
    while let [high, low, rest @ ..] = text {
        let place = bytes.get_mut(count).ok_or(Reason::TypeMismatch)?;
        *place = hex_pair(*high, *low).ok_or(Reason::TypeMismatch)?;
        count += 1;
        text = rest;
        if let [byte @ (b':' | b'-' | b'.'), rest @ ..] = text {
            if *separator.get_or_insert(*byte) != *byte || rest.is_empty() {
                return Err(Reason::TypeMismatch);
            }
            text = rest;
        }
    }
    let [a, b, c, d, e, f, ..] = bytes;
    match (count, eight, text.is_empty()) {
        (6, false, true) => fixed(6, [a, b, c, d, e, f], out),
        (6, true, true) => fixed(8, [a, b, c, 0xff, 0xfe, d, e, f], out),
        (8, true, true) => fixed(8, bytes, out),
        _ => return Err(Reason::TypeMismatch),
    }
    Ok(())
}
