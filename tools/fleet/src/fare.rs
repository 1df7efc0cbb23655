//! The fare of a trip, exact to the cent.
//!
//! The rule, which SQL must reproduce:
//!
//! ```text
//! fare = max(minimum, base + km · per_km + minutes · per_minute + paused minutes · per_paused_minute)
//! ```
//!
//! `minutes` is the length of the trip without the paused minutes. Kilometres and minutes are not rounded. The sum is rounded
//! **once, at the end, half up to the cent**. The following is the rule in PostgreSQL, over bigint columns. It is exact because
//! it divides only once:
//!
//! ```sql
//! greatest(minimum_cents, base_cents + round(
//!     ( odometer_mm::numeric * per_km_cents * 3
//!     + greatest(duration_ms - paused_ms, 0)::numeric * per_minute_cents * 50
//!     + paused_ms::numeric * per_paused_minute_cents * 50 ) / 3000000))
//! ```

use std::str::FromStr;

use crate::ParseError;

/// The prices from which a fare is computed, in whole cents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Tariff {
    pub base_cents: u32,
    pub per_km_cents: u32,
    /// The price of each minute that was not paused.
    pub per_minute_cents: u32,
    pub per_paused_minute_cents: u32,
    pub minimum_cents: u32,
}

impl Default for Tariff {
    fn default() -> Self {
        Self {
            base_cents: 250,
            per_km_cents: 180,
            per_minute_cents: 35,
            per_paused_minute_cents: 20,
            minimum_cents: 600,
        }
    }
}

impl Tariff {
    pub fn fare_cents(&self, odometer_mm: u64, duration_ms: u64, paused_ms: u64) -> i128 {
        // A cent has 3 000 000 parts, so that millimetres (1 000 000 per kilometre) and milliseconds (60 000 per minute) are
        // whole parts.
        const PARTS: i128 = 3_000_000;
        let driven_ms = i128::from(duration_ms.saturating_sub(paused_ms));
        let parts = i128::from(odometer_mm) * i128::from(self.per_km_cents) * 3
            + driven_ms * i128::from(self.per_minute_cents) * 50
            + i128::from(paused_ms) * i128::from(self.per_paused_minute_cents) * 50;
        let metered = (parts + PARTS / 2) / PARTS;
        i128::from(self.minimum_cents).max(i128::from(self.base_cents) + metered)
    }
}

impl FromStr for Tariff {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let numbers: Result<Vec<u32>, _> = text.split(',').map(str::parse).collect();
        let Ok([base_cents, per_km_cents, per_minute_cents, per_paused_minute_cents, minimum_cents]) =
            numbers.as_deref()
        else {
            return Err(ParseError::new(text, "a tariff in cents: BASE,PER_KM,PER_MINUTE,PER_PAUSED_MINUTE,MINIMUM"));
        };
        Ok(Self {
            base_cents: *base_cents,
            per_km_cents: *per_km_cents,
            per_minute_cents: *per_minute_cents,
            per_paused_minute_cents: *per_paused_minute_cents,
            minimum_cents: *minimum_cents,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARIFF: Tariff = Tariff {
        base_cents: 250,
        per_km_cents: 180,
        per_minute_cents: 35,
        per_paused_minute_cents: 20,
        minimum_cents: 600,
    };

    #[test]
    fn it_adds_up() {
        // 5 km and 10 minutes, 2 of them paused: 250 + 900 + 280 + 40
        assert_eq!(TARIFF.fare_cents(5_000_000, 600_000, 120_000), 1_470);
        assert_eq!(TARIFF.fare_cents(0, 0, 0), 600);
    }

    #[test]
    fn half_a_cent_rounds_up_and_less_rounds_down() {
        let tariff = Tariff { base_cents: 0, per_km_cents: 1, minimum_cents: 0, ..TARIFF };
        assert_eq!(tariff.fare_cents(499_999, 0, 0), 0);
        assert_eq!(tariff.fare_cents(500_000, 0, 0), 1);
        assert_eq!(tariff.fare_cents(1_499_999, 0, 0), 1);
    }

    #[test]
    fn it_rounds_the_sum_and_not_its_parts() {
        let tariff = Tariff { base_cents: 0, per_km_cents: 1, per_minute_cents: 1, minimum_cents: 0, ..TARIFF };
        // 0.3 + 0.3 cents: each would round to nothing
        assert_eq!(tariff.fare_cents(300_000, 18_000, 0), 1);
    }

    #[test]
    fn the_largest_trip_does_not_overflow() {
        let dear =
            Tariff { per_km_cents: u32::MAX, per_minute_cents: u32::MAX, per_paused_minute_cents: u32::MAX, ..TARIFF };
        assert!(dear.fare_cents(u64::MAX, u64::MAX, u64::MAX) > 0);
    }

    #[test]
    fn it_is_read_from_five_numbers() {
        assert_eq!("250,180,35,20,600".parse(), Ok(TARIFF));
        assert!("250,180,35,20".parse::<Tariff>().is_err());
        assert!("250,180,35,20,-1".parse::<Tariff>().is_err());
    }
}
