//! Summaries of many numbers, and numbers formatted for people.

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Returns `None` if there are no values.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Some(Self { min, median, max })
    }
}

/// Returns a quantile by the nearest-rank method. `share` is from 0 to 1: with 0.99, at least 99 % of the values are at most the
/// result. Returns `None` if there are no values. Changes the order of `values`.
pub(crate) fn quantile(values: &mut [u32], share: f64) -> Option<u32> {
    let last = values.len().checked_sub(1)?;
    let rank = to_u64((share.clamp(0.0, 1.0) * values.len() as f64).ceil()).saturating_sub(1);
    let rank = usize::try_from(rank).unwrap_or(last).min(last);
    let (_, value, _) = values.select_nth_unstable(rank);
    Some(*value)
}

/// Cuts off the fraction; negative values and NaN become 0.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and that is what is wanted")]
pub(crate) fn to_u64(value: f64) -> u64 {
    value as u64
}

/// Formats a number as `1 234 567`.
pub(crate) fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::new();
    if value <= -0.5 {
        out.push('−');
    }
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// Formats a time as `0.41 ms`, `23 ms`, `1.3 s` or `42 s`.
pub(crate) fn duration(ms: f64) -> String {
    match ms {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 1_000.0 => format!("{ms:.0} ms"),
        ms if ms < 10_000.0 => format!("{:.1} s", ms / 1e3),
        ms => format!("{:.0} s", ms / 1e3),
    }
}

/// Formats a size as `640 kiB` or `12.5 MiB`.
pub(crate) fn bytes(bytes: f64) -> String {
    if bytes < 1_048_576.0 { format!("{:.0} kiB", bytes / 1_024.0) } else { format!("{:.1} MiB", bytes / 1_048_576.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_that_of_the_sorted_list() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Some(Spread { min: 1.0, median: 2.0, max: 3.0 }));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).map(|spread| spread.median), Some(2.5));
        assert_eq!(Spread::of([]), None);
    }

    #[test]
    fn a_quantile_is_the_nearest_rank() {
        let mut hundred: Vec<u32> = (1..=100).rev().collect();
        assert_eq!(quantile(&mut hundred, 0.5), Some(50));
        assert_eq!(quantile(&mut hundred, 0.99), Some(99));
        assert_eq!(quantile(&mut hundred, 1.0), Some(100));
        assert_eq!(quantile(&mut hundred, 0.0), Some(1));
        assert_eq!(quantile(&mut [7], 0.99), Some(7));
        assert_eq!(quantile(&mut [], 0.5), None);
    }

    #[test]
    fn figures_are_written_for_people() {
        assert_eq!(grouped(1_234_567.4), "1 234 567");
        assert_eq!(grouped(-1_000.0), "−1 000");
        assert_eq!(grouped(12.0), "12");
        assert_eq!(duration(0.414), "0.41 ms");
        assert_eq!(duration(20_400.0), "20 s");
        assert_eq!(bytes(67_108_864.0), "64.0 MiB");
    }
}
