//! Decides to which partition a reading belongs.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use crate::{ParseError, Reading, Region};

/// How readings are assigned to partitions. Kafka's hash isn't used, because [`Truth`](crate::Truth) must know the partition too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Partitioning {
    /// North is partition 0, south is partition 1.
    ByRegion,
    /// `vehicle_id` modulo the number of partitions.
    ByVehicle(NonZeroU16),
}

impl Partitioning {
    pub fn count(self) -> u16 {
        match self {
            Self::ByRegion => 2,
            Self::ByVehicle(partitions) => partitions.get(),
        }
    }

    /// Returns the partition of a reading. It is the same for all readings of a vehicle, so Kafka keeps their order.
    pub fn of(self, reading: &Reading) -> u16 {
        match (self, reading.region) {
            (Self::ByRegion, Region::North) => 0,
            (Self::ByRegion, Region::South) => 1,
            (Self::ByVehicle(partitions), _) => {
                let partition = reading.vehicle_id % u32::from(partitions.get());
                u16::try_from(partition).expect("less than the number of partitions")
            }
        }
    }
}

impl FromStr for Partitioning {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let expected = "a partitioning: `region` or `vehicle:N`";
        match text.split_once(':') {
            None if text == "region" => Ok(Self::ByRegion),
            Some(("vehicle", partitions)) => {
                partitions.parse().map(Self::ByVehicle).map_err(|_| ParseError::new(text, expected))
            }
            _ => Err(ParseError::new(text, expected)),
        }
    }
}

impl fmt::Display for Partitioning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ByRegion => f.write_str("region"),
            Self::ByVehicle(partitions) => write!(f, "vehicle:{partitions}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fleet, FleetSpec};

    #[test]
    fn it_reads_what_it_writes() {
        for text in ["region", "vehicle:1", "vehicle:12"] {
            assert_eq!(text.parse::<Partitioning>().expect(text).to_string(), text);
        }
        for text in ["regions", "vehicle", "vehicle:0", "vehicle:-1", ""] {
            assert!(text.parse::<Partitioning>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_partition_holds_one_region_or_every_nth_vehicle() {
        let by_vehicle: Partitioning = "vehicle:3".parse().expect("valid");
        for reading in Fleet::new(FleetSpec::default()).expect("valid").take(3_000) {
            assert_eq!(Partitioning::ByRegion.of(&reading) == 0, reading.region == Region::North);
            assert_eq!(u32::from(by_vehicle.of(&reading)), reading.vehicle_id % 3);
        }
    }
}
