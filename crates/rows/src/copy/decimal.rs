//! Decimal numbers as digits, exact at any length.

/// A decimal number's parts, as text. Its value is ± `whole`.`fraction` × 10^`exponent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decimal<'a> {
    pub(crate) negative: bool,
    pub(crate) whole: &'a [u8],
    pub(crate) fraction: &'a [u8],
    pub(crate) exponent: i32,
}

/// The size of the digits that rounding cuts off. If 1.25 is cut to 1.2, the size is `Half`, because 1.25 is halfway between 1.2
/// and 1.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Remainder {
    Zero,
    BelowHalf,
    Half,
    AboveHalf,
}

/// Exponents are clamped to this limit, which is far outside the range of every type.
const EXPONENT_LIMIT: i32 = 1 << 24;

impl<'a> Decimal<'a> {
    /// Reads a decimal number: an optional sign, digits with an optional point, an optional exponent. Postgres' numeric accepts
    /// this form, and every JSON number has it.
    pub(crate) fn parse(text: &'a [u8]) -> Option<Self> {
        let (negative, unsigned) = match text.split_first()? {
            (b'-', rest) => (true, rest),
            (b'+', rest) => (false, rest),
            _ => (false, text),
        };
        let (whole, rest) = split_digits(unsigned);
        let (fraction, rest) = match rest.split_first() {
            Some((b'.', rest)) => split_digits(rest),
            _ => (&[][..], rest),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let exponent = match rest.split_first() {
            None => 0,
            Some((b'e' | b'E', rest)) => exponent(rest)?,
            Some(_) => return None,
        };
        Some(Self { negative, whole, fraction, exponent })
    }

    /// Makes a decimal of a whole number that has no lexeme, such as a number of a binary format. Writes the
    /// digits into `digits`.
    pub(super) fn of_integer(mut number: u64, negative: bool, digits: &'a mut [u8; 20]) -> Self {
        let mut first = digits.len();
        for (at, digit) in digits.iter_mut().enumerate().rev() {
            *digit = b'0' + u8::try_from(number % 10).unwrap_or(0);
            number /= 10;
            first = at;
            if number == 0 {
                break;
            }
        }
        Self { negative, whole: &digits[first..], fraction: &[], exponent: 0 }
    }

    /// Returns the number of digits before and after the point, leading zeros included.
    pub(super) fn len(&self) -> usize {
        self.whole.len() + self.fraction.len()
    }

    /// Returns the digit at index `at`, counted from the first digit; zero if `at` lies behind the last one.
    pub(super) fn digit(&self, at: usize) -> u8 {
        let digit = match at.checked_sub(self.whole.len()) {
            None => self.whole.get(at),
            Some(at) => self.fraction.get(at),
        };
        digit.map_or(0, |digit| digit - b'0')
    }

    /// Returns the number of digits before the decimal point, with the exponent applied: 3 for `1.5e2`. It is -1 for `1e-2`,
    /// because this number is 0.01, with one zero between the point and the first digit.
    pub(super) fn point(&self) -> i64 {
        i64::try_from(self.whole.len()).unwrap_or(i64::MAX / 2) + i64::from(self.exponent)
    }

    /// Returns the size of the digits from index `from` on, which rounding cuts off. In 1.25 with `from` 2, they are 5
    /// hundredths, which is half of a tenth. A negative `from` is to the left of the first digit, so all digits are cut off.
    pub(super) fn remainder(&self, from: i64) -> Remainder {
        let Ok(at) = usize::try_from(from) else {
            let zero = (0..self.len()).all(|at| self.digit(at) == 0);
            return if zero { Remainder::Zero } else { Remainder::BelowHalf };
        };
        let rest_is_zero = (at + 1..self.len()).all(|at| self.digit(at) == 0);
        match (self.digit(at), rest_is_zero) {
            (0, true) => Remainder::Zero,
            (0..5, _) => Remainder::BelowHalf,
            (5, true) => Remainder::Half,
            _ => Remainder::AboveHalf,
        }
    }

    /// Multiplies the value by 10^`shift`. Returns the whole part of the product, and the size of the fraction that is cut off:
    /// 12 and [`Remainder::Half`] for 1.25 with `shift` 1. The whole part is `None` if `i128` can't hold it.
    pub(super) fn scaled(&self, shift: i32) -> (Option<i128>, Remainder) {
        let end = self.point() + i64::from(shift);
        let remainder = self.remainder(end);
        let mut number = Some(0_i128);
        let mut at = 0;
        while i64::try_from(at).is_ok_and(|at| at < end) {
            let digit = self.digit(at);
            number = number.and_then(|n| n.checked_mul(10)?.checked_add(digit.into()));
            if number.is_none() || number == Some(0) && at >= self.len() {
                break;
            }
            at += 1;
        }
        (number.map(|n| if self.negative { -n } else { n }), remainder)
    }
}

fn split_digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

fn exponent(text: &[u8]) -> Option<i32> {
    let (negative, digits) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let exponent = digits.iter().fold(0, |n, digit| (n * 10 + i32::from(digit - b'0')).min(EXPONENT_LIMIT));
    Some(if negative { -exponent } else { exponent })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaled(text: &str, shift: i32) -> (Option<i128>, Remainder) {
        Decimal::parse(text.as_bytes()).expect("a decimal").scaled(shift)
    }

    #[test]
    fn scaling_is_exact_and_says_what_it_cuts() {
        assert_eq!(scaled("1767225600.123456789", 6), (Some(1_767_225_600_123_456), Remainder::AboveHalf));
        assert_eq!(scaled("-1.5", 0), (Some(-1), Remainder::Half));
        assert_eq!(scaled("0.05", 0), (Some(0), Remainder::BelowHalf));
        assert_eq!(scaled("1e3", 0), (Some(1000), Remainder::Zero));
        assert_eq!(scaled("1.0e-3", 3), (Some(1), Remainder::Zero));
        assert_eq!(scaled("0e99999999999", 0), (Some(0), Remainder::Zero));
        assert_eq!(scaled("1e99999999999", 0), (None, Remainder::Zero));
        assert_eq!(scaled("5e-1", 0), (Some(0), Remainder::Half));
        assert_eq!(scaled("51e-2", 0), (Some(0), Remainder::AboveHalf));
    }

    #[test]
    fn only_decimal_numbers_are_read() {
        for text in ["", "-", ".", "1e", "1e+", "0x1f", "1_000", "1 ", "e5", "1.2.3"] {
            assert_eq!(Decimal::parse(text.as_bytes()), None, "{text}");
        }
        for text in ["1.", ".5", "+1", "-0.0e-7"] {
            assert!(Decimal::parse(text.as_bytes()).is_some(), "{text}");
        }
    }
}
