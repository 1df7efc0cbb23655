//! The record that one vehicle sends in one second.
//!
//! All numbers are integers, so that the results of two consumers agree to the last digit.

/// The half of the city in which a vehicle works. A vehicle never changes its region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Region {
    /// Partition 0 of [`Partitioning::ByRegion`](crate::Partitioning::ByRegion).
    North,
    /// Partition 1 of [`Partitioning::ByRegion`](crate::Partitioning::ByRegion).
    South,
}

impl Region {
    /// Returns the region's name in the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::North => "north",
            Self::South => "south",
        }
    }
}

/// The vehicle's activity at the instant of the reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    Driving,
    /// The vehicle stands, for example at a light or for a passenger. This time doesn't count as paused time.
    Stopped,
    /// The driver has a break, which counts as paused time in `paused_ms`.
    Paused,
}

impl State {
    /// Returns the state's name in the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Driving => "driving",
            Self::Stopped => "stopped",
            Self::Paused => "paused",
        }
    }
}

/// Marks a trip's first and last reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The trip's first reading; its counters are zero.
    TripStarted,
    /// The trip's last reading; its counters are the trip's totals.
    TripEnded,
}

impl Event {
    /// Returns the event's name in the record.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TripStarted => "trip_started",
            Self::TripEnded => "trip_ended",
        }
    }
}

/// One record of one vehicle. `(vehicle_id, seq)` identifies it, and so does `index`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The vehicle, and the record's key.
    pub vehicle_id: u32,
    /// The driver on shift. Two drivers share a vehicle.
    pub driver_id: u32,
    /// `n · TRIP_STRIDE + vehicle_id` for the vehicle's trip number `n`, counted from 0: 42 is vehicle 42's first trip, and
    /// `30_000_042` its fourth.
    pub trip_id: u64,
    /// The half of the city in which the vehicle works.
    pub region: Region,
    /// When the reading was taken, in milliseconds since the epoch.
    pub ts_ms: i64,
    /// Latitude in millionths of a degree.
    pub lat_e6: i64,
    /// Longitude in millionths of a degree.
    pub lon_e6: i64,
    /// Speed in tenths of a kilometre per hour.
    pub speed_tenths: u32,
    /// Distance since the trip's start. It never decreases within a trip.
    pub odometer_mm: u64,
    /// Break time since the trip's start. It never decreases within a trip.
    pub paused_ms: u64,
    /// Whether the vehicle drives, stands, or waits for its driver's break to end.
    pub state: State,
    /// Whether the trip begins or ends with this reading.
    pub event: Option<Event>,
    /// The number of the reading among the readings of its vehicle, from 0, without gaps.
    pub seq: u64,
    /// The number of the reading among all readings of the fleet, from 0, without gaps, in the order of `ts_ms`.
    pub index: u64,
}
