//! numeric: converts a decimal lexeme to digits of base 10000. The number is rounded only to the scale of its column.

use crate::copy::decimal::{Decimal, Remainder};
use crate::copy::number::{Special, special};
use crate::value::{Kind, Reason, Value};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NumericLimits {
    precision: i64,
    scale: i64,
}

impl NumericLimits {
    /// Unpacks `atttypmod`. `None` if the column has neither precision nor scale.
    pub(crate) fn from_typmod(typmod: i32) -> Option<Self> {
        let packed = typmod.checked_sub(4).filter(|packed| *packed >= 0)?;
        // The scale is a signed number of 11 bits.
        let scale = ((packed & 0x7ff) ^ 1024) - 1024;
        Some(Self { precision: (packed >> 16 & 0xffff).into(), scale: scale.into() })
    }
}

const BASE: u16 = 10_000;
const DIGITS_PER_GROUP: i64 = 4;
const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xc000;
const INFINITY: u16 = 0xd000;
const NEGATIVE_INFINITY: u16 = 0xf000;
/// The most digits after the point that Postgres accepts in a numeric.
const MAX_SCALE: i64 = 0x3fff;
/// The highest weight that Postgres accepts for the first group of digits. The digits form groups of four around the point:
/// 123456.78 has the groups 12, 3456 and 7800, with the weights 1, 0 and -1.
const MAX_WEIGHT: i64 = 0x7fff;

/// Appends a numeric field, from a number or from text that contains one: amounts of money often come as text. `groups` is
/// scratch space.
pub(super) fn numeric(
    value: Value<'_>,
    limits: Option<NumericLimits>,
    groups: &mut Vec<u16>,
    out: &mut Vec<u8>,
) -> Result<(), Reason> {
    let lexeme = match (value.kind, value.as_text()) {
        (Kind::Number, _) => value.raw,
        (_, Some(text)) => text.trim_ascii(),
        _ => return Err(Reason::TypeMismatch),
    };
    let Some(decimal) = Decimal::parse(lexeme) else {
        return not_finite(special(lexeme).ok_or(Reason::TypeMismatch)?, limits, out);
    };
    let first = (0..decimal.len()).find(|at| decimal.digit(*at) != 0);
    let written = i64::try_from(decimal.fraction.len()).unwrap_or(i64::MAX) - i64::from(decimal.exponent);
    let scale = limits.map_or(written.max(0), |limits| limits.scale);
    // The digits before this index are kept. A negative index is to the left of the first digit.
    let end = decimal.point() + scale;
    let round_up = limits.is_some() && decimal.remainder(end) >= Remainder::Half;
    groups.clear();
    let weight = match first {
        Some(first) => {
            let first = i64::try_from(first).map_err(|_| Reason::OutOfRange)?;
            fill(&decimal, first, end, round_up, groups)?
        }
        None => 0,
    };
    finish(&decimal, weight, scale.max(0), limits, groups, out)
}

/// Fills `groups` with the digits `first..end`, in groups of four that are aligned to the point. Rounds the last digit up if
/// `round_up` is set. Returns the weight of the first group.
fn fill(decimal: &Decimal<'_>, first: i64, end: i64, round_up: bool, groups: &mut Vec<u16>) -> Result<i64, Reason> {
    let point = decimal.point();
    let last = i64::try_from(decimal.len()).map_err(|_| Reason::OutOfRange)?.min(end);
    // The digit at index `first` has the place value 10^(point - first - 1). The weight of its group is this exponent divided by
    // four, rounded down.
    let weight = (point - first - 1).div_euclid(DIGITS_PER_GROUP);
    if weight > MAX_WEIGHT {
        return Err(Reason::OutOfRange);
    }
    // Add one group in front, for a possible carry.
    let weight = if round_up { weight.max((point - end).div_euclid(DIGITS_PER_GROUP)) + 1 } else { weight };
    let mut at = point - (weight + 1) * DIGITS_PER_GROUP;
    while at < last {
        let group = (at..at + DIGITS_PER_GROUP).fold(0, |group, at| {
            let digit = usize::try_from(at).ok().filter(|_| at < last).map_or(0, |at| decimal.digit(at));
            group * 10 + u16::from(digit)
        });
        groups.push(group);
        at += DIGITS_PER_GROUP;
    }
    if round_up {
        carry(point, end, weight, groups)?;
    }
    Ok(weight)
}

/// Adds one to the last digit that is kept: the digit at index `end - 1`.
fn carry(point: i64, end: i64, weight: i64, groups: &mut Vec<u16>) -> Result<(), Reason> {
    let power = point - end;
    let group = weight - power.div_euclid(DIGITS_PER_GROUP);
    let mut at = usize::try_from(group).map_err(|_| Reason::OutOfRange)?;
    if groups.len() <= at {
        groups.resize(at + 1, 0);
    }
    let mut add = [1, 10, 100, 1000][usize::try_from(power.rem_euclid(DIGITS_PER_GROUP)).unwrap_or(0)];
    loop {
        groups[at] += add;
        if groups[at] < BASE {
            return Ok(());
        }
        groups[at] -= BASE;
        add = 1;
        // The first group was zero, so the carry ends there at the latest.
        at -= 1;
    }
}

fn finish(
    decimal: &Decimal<'_>,
    weight: i64,
    scale: i64,
    limits: Option<NumericLimits>,
    groups: &[u16],
    out: &mut Vec<u8>,
) -> Result<(), Reason> {
    let leading = groups.iter().take_while(|group| **group == 0).count();
    let trailing = groups[leading..].iter().rev().take_while(|group| **group == 0).count();
    let groups = &groups[leading..groups.len() - trailing];
    let weight = weight - i64::try_from(leading).map_err(|_| Reason::OutOfRange)?;
    let weight = if groups.is_empty() { 0 } else { weight };
    if let (Some(limits), Some(first)) = (limits, groups.first()) {
        let digits_before_point = weight * DIGITS_PER_GROUP + i64::from(first.ilog10()) + 1;
        if digits_before_point > limits.precision - limits.scale {
            return Err(Reason::OutOfRange);
        }
    }
    if weight > MAX_WEIGHT || scale > MAX_SCALE {
        return Err(Reason::OutOfRange);
    }
    let count = u16::try_from(groups.len()).map_err(|_| Reason::OutOfRange)?;
    let sign = if decimal.negative && count > 0 { NEGATIVE } else { 0 };
    let weight = i16::try_from(weight).map_err(|_| Reason::OutOfRange)?;
    let scale = u16::try_from(scale).map_err(|_| Reason::OutOfRange)?;
    header(count, weight.cast_unsigned(), sign, scale, out);
    groups.iter().for_each(|group| out.extend_from_slice(&group.to_be_bytes()));
    Ok(())
}

fn not_finite(special: Special, limits: Option<NumericLimits>, out: &mut Vec<u8>) -> Result<(), Reason> {
    let sign = match special {
        Special::Nan => NAN,
        // Infinity exceeds the limits of any column that has a precision.
        _ if limits.is_some() => return Err(Reason::OutOfRange),
        Special::Infinity => INFINITY,
        Special::NegativeInfinity => NEGATIVE_INFINITY,
    };
    header(0, 0, sign, 0, out);
    Ok(())
}

fn header(count: u16, weight: u16, sign: u16, scale: u16, out: &mut Vec<u8>) {
    let len = 8 + 2 * u32::from(count);
    let [a, b, c, d] = len.to_be_bytes();
    let ([e, f], [g, h]) = (count.to_be_bytes(), weight.to_be_bytes());
    let ([i, j], [k, l]) = (sign.to_be_bytes(), scale.to_be_bytes());
    out.extend_from_slice(&[a, b, c, d, e, f, g, h, i, j, k, l]);
}
