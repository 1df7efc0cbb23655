//! A city's fleet of vehicles, and the producer that sends its telemetry to Kafka on a fixed schedule.
//!
//! The modules, in the order in which data flows through them:
//!
//! ```text
//! Fleet ──Reading──▶ Deliveries ──late, repeated──▶ Encoder ──JSON──▶ produce ──▶ Kafka
//!                                        └──first of each──▶ Truth ──▶ JSON or CSV
//! ```
//!
//! [`Customer`] is the reader at the other end. From the rows of the table `customer_info` (each a [`Sighting`]) it makes the
//! sentences for a customer, and measures how old the readings are.
//!
//! Everything except [`produce()`], [`create_topic`], [`watch()`] and [`watch_until`] is pure: the same spec and seed give the
//! same bytes on any machine. The simulation never reads the clock. It starts at [`FleetSpec::start_ms`]. It advances by one
//! second after all vehicles have sent once.

mod customer;
mod delivery;
mod digits;
mod encode;
mod fare;
mod partition;
mod produce;
mod profile;
mod reading;
mod report;
mod sender;
mod simulation;
mod spec;
mod street;
mod topic;
mod truth;
mod vehicle;
mod watch;

pub use customer::{Customer, Sighting, WatchSummary};
pub use delivery::{Arrival, Deliveries, Delivery, DeliverySpec};
pub use encode::{Encoder, Format, write_key};
pub use fare::Tariff;
pub use partition::Partitioning;
pub use produce::{Outcome, produce};
pub use profile::{Profile, Schedule};
pub use reading::{Event, Reading, Region, State};
pub use report::{Progress, Quantiles, Summary};
pub use simulation::{Fleet, FleetSpec, InvalidSpec, TRIP_STRIDE};
pub use spec::{Compression, Limit, ProduceError, ProduceSpec, WhenFull};
pub use topic::create_topic;
pub use truth::{PartitionTruth, TripTruth, Truth};
pub use watch::{WatchSpec, watch, watch_until};

/// A value on the command line that isn't a valid profile, partitioning, format, compression or tariff.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not {expected}")]
pub struct ParseError {
    given: String,
    expected: &'static str,
}

impl ParseError {
    fn new(given: &str, expected: &'static str) -> Self {
        Self { given: given.to_owned(), expected }
    }
}
