//! The street grid: square blocks, with one grid for each region.
//!
//! This module is only about geometry. The module `vehicle` decides where a vehicle drives, and how fast.

use crate::Region;

pub(crate) const BLOCK_MM: u32 = 200_000;
/// The number of crossings along one side of a region's grid. The side is 9.4 km long.
pub(crate) const CROSSINGS: u8 = 48;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heading {
    North,
    East,
    South,
    West,
}

impl Heading {
    pub(crate) const ALL: [Self; 4] = [Self::North, Self::East, Self::South, Self::West];

    pub(crate) fn left(self) -> Self {
        match self {
            Self::North => Self::West,
            Self::West => Self::South,
            Self::South => Self::East,
            Self::East => Self::North,
        }
    }

    pub(crate) fn right(self) -> Self {
        self.left().left().left()
    }
}

/// Where two streets meet, counted from the grid's south-western corner, which is (0, 0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Crossing {
    pub(crate) east: u8,
    pub(crate) north: u8,
}

impl Crossing {
    /// Returns the next crossing in this direction; `None` at the city's edge.
    pub(crate) fn next(self, heading: Heading) -> Option<Self> {
        let Self { east, north } = self;
        let (east, north) = match heading {
            Heading::North => (east, north + 1),
            Heading::South => (east, north.checked_sub(1)?),
            Heading::East => (east + 1, north),
            Heading::West => (east.checked_sub(1)?, north),
        };
        (east < CROSSINGS && north < CROSSINGS).then_some(Self { east, north })
    }

    /// Returns a position as latitude and longitude, in millionths of a degree. The position is `along_mm` beyond this crossing
    /// in the direction `heading`.
    pub(crate) fn position(self, heading: Heading, along_mm: u32, region: Region) -> (i64, i64) {
        let along = i64::from(along_mm);
        let east = i64::from(self.east) * i64::from(BLOCK_MM);
        let north = i64::from(self.north) * i64::from(BLOCK_MM);
        let (east, north) = match heading {
            Heading::North => (east, north + along),
            Heading::South => (east, north - along),
            Heading::East => (east + along, north),
            Heading::West => (east - along, north),
        };
        // 1 mm is 8.983e-9 degrees of latitude. For degrees of longitude, this number is divided by cos(latitude).
        let (lat, lon, lon_per_mm) = match region {
            Region::North => (52_530_000, 13_330_000, 14_793),
            Region::South => (52_400_000, 13_330_000, 14_723),
        };
        (lat + north * 8_983 / 1_000_000, lon + east * lon_per_mm / 1_000_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_ends_at_the_citys_edge() {
        let corner = Crossing { east: 0, north: CROSSINGS - 1 };
        assert_eq!(corner.next(Heading::North), None);
        assert_eq!(corner.next(Heading::West), None);
        assert_eq!(corner.next(Heading::East), Some(Crossing { east: 1, ..corner }));
    }

    #[test]
    fn a_block_north_is_two_hundred_metres_of_latitude() {
        let here = Crossing { east: 3, north: 3 };
        let (lat, lon) = here.position(Heading::North, 0, Region::North);
        let (next_lat, next_lon) = here.position(Heading::North, BLOCK_MM, Region::North);
        assert_eq!((next_lat - lat, next_lon - lon), (1_797, 0));
    }

    #[test]
    fn the_regions_do_not_overlap() {
        let top = Crossing { east: 0, north: CROSSINGS - 1 };
        let bottom = Crossing { east: 0, north: 0 };
        let (south_top, _) = top.position(Heading::North, 0, Region::South);
        let (north_bottom, _) = bottom.position(Heading::North, 0, Region::North);
        assert!(south_top < north_bottom);
    }

    #[test]
    fn turns_undo_each_other() {
        for heading in Heading::ALL {
            assert_eq!(heading.left().right(), heading);
        }
    }
}
