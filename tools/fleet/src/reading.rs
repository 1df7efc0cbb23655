//! The record that one vehicle sends in one second.
//!
//! All numbers are integers. So two consumers compute the same results to the last digit.

/// The half of the city in which a vehicle works. A vehicle never changes its region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Region {
    North,
    South,
}

impl Region {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::North => "north",
            Self::South => "south",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    Driving,
    /// The vehicle stands, for example at a light or for a passenger. This time doesn't count as paused time.
    Stopped,
    /// The driver has a break, which counts as paused time in `paused_ms`.
    Paused,
}

impl State {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Driving => "driving",
            Self::Stopped => "stopped",
            Self::Paused => "paused",
        }
    }
}

/// Marks a trip's first and last reading. The counters (odometer and paused time) are zero in the first reading, and the trip's
/// totals in the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    TripStarted,
    TripEnded,
}

impl Event {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TripStarted => "trip_started",
            Self::TripEnded => "trip_ended",
        }
    }
}

/// One record of one vehicle. `(vehicle_id, seq)` identifies it, and so does `index`. The counters `odometer_mm` and `paused_ms`
/// begin at zero with each trip, and never decrease within a trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// The id of the vehicle, which is also the record's key.
    pub vehicle_id: u32,
    /// The id of the driver on shift. Two drivers share a vehicle.
    pub driver_id: u32,
    /// `n · TRIP_STRIDE + vehicle_id` for trip `n` of the vehicle, counted from 0: 42 is vehicle 42's first trip, and
    /// `30_000_042` its fourth.
    pub trip_id: u64,
    pub region: Region,
    /// When the reading was taken, in milliseconds since the epoch.
    pub ts_ms: i64,
    /// Latitude and longitude are in millionths of a degree.
    pub lat_e6: i64,
    pub lon_e6: i64,
    /// Speed in tenths of a kilometre per hour.
    pub speed_tenths: u32,
    pub odometer_mm: u64,
    pub paused_ms: u64,
    pub state: State,
    /// `None` if the reading is neither the first nor the last of its trip.
    pub event: Option<Event>,
    /// The number of this reading among those of its vehicle, counted from 0 without gaps.
    pub seq: u64,
    /// The number of this reading among those of the fleet, in the order of `ts_ms`, counted from 0 without gaps.
    pub index: u64,
}
