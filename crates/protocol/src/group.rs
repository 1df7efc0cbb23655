//! The interface between the poll loop and Kafka: membership of a consumer group, and records in bulk.

use std::error::Error;
use std::time::Duration;

use crate::batch::Incoming;
use crate::position::{Offset, TopicPartition};

pub trait Group: Send {
    type Client: GroupClient;

    /// Creates a client that joins the group. Joining continues in the background; its result is the first assignment.
    ///
    /// # Errors
    /// If the settings are invalid.
    fn join(&mut self) -> Result<Self::Client, Box<dyn Error + Send + Sync>>;
}

/// A change of the consumer's assignment. If `lost` is set, other members may own the revoked partitions already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupEvent {
    Assigned(Vec<TopicPartition>),
    Revoked { sources: Vec<TopicPartition>, lost: bool },
}

/// How the client changes its assignment. This depends on the group's protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Assigning {
    /// Each change names only the partitions that are added or removed.
    Incremental,
    /// Each change contains the whole assignment, and restarts all of its partitions at the given offsets.
    Whole,
}

/// The result of offering a record to a [`Visitor`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    /// The visitor took the record, or skipped it.
    Taken,
    /// The visitor can't take the record now, so the next [`GroupClient::read`] offers it first.
    NotNow,
}

/// Takes the records of a [`GroupClient::read`].
pub trait Visitor {
    /// Announces the partition of the records that follow, until the next announcement.
    fn partition(&mut self, topic: &str, partition: i32);
    /// Offers a record. `headers` appends the record's headers, in the form of [`Headers`](crate::record::Headers).
    fn record(&mut self, record: &Incoming<'_>, headers: impl FnOnce(&mut Vec<u8>)) -> Visit;
}

/// An error that Kafka's client reported.
#[derive(Debug, thiserror::Error)]
#[error("{source}")]
pub struct ReadError {
    pub kind: ReadErrorKind,
    pub source: Box<dyn Error + Send + Sync>,
}

/// How the poll loop must react to an error of Kafka's client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadErrorKind {
    /// An offset is outside of the log. The error names no partition, so the poll loop claims all owned partitions again.
    OutOfRange,
    Retried,
    /// The Kafka client is broken, and a new one may work.
    Broken,
    /// Kafka ended this consumer for good, and would end a new one too.
    Fatal,
}

/// One member of a consumer group.
///
/// Records of a partition are offered in the order of their offsets. The visitor takes each record at most once per
/// [`GroupClient::fetch`] of the partition. After [`GroupClient::stop`] or a new `fetch` of a partition,
/// [`GroupClient::read`] offers no record of this partition that was fetched earlier.
pub trait GroupClient: Send {
    /// Waits until a record or an event may be available, for at most `wait`.
    ///
    /// # Cancel safety
    /// May be dropped at any point: nothing is lost.
    fn ready(&mut self, wait: Duration) -> impl Future<Output = ()> + Send;
    /// Serves the group without waiting. [`GroupClient::take_events`] then returns the group's decisions.
    ///
    /// # Errors
    /// An error that isn't about a record.
    fn serve(&mut self) -> Result<(), ReadError>;
    /// Offers the records that have arrived, until the visitor can't take one. One call offers at most as many records
    /// as the client takes from its queue at once. Returns whether a record was offered. Doesn't wait.
    ///
    /// # Errors
    /// An error that came instead of a record. The records before it were offered.
    fn read(&mut self, visitor: &mut impl Visitor) -> Result<bool, ReadError>;
    /// Returns the group's decisions since the last call, in order.
    fn take_events(&mut self) -> Vec<GroupEvent>;
    /// Returns the offsets up to which Kafka's logs were read, for partitions whose records have all been taken. For example, if
    /// the last record is at offset 7, and a transaction marker follows at offset 8, this is 9.
    fn take_read_to(&mut self) -> Vec<(TopicPartition, Offset)>;
    fn assigning(&self) -> Assigning;
    /// Confirms an assignment; nothing is fetched before [`GroupClient::fetch`].
    fn accept(&mut self);
    /// Confirms a revocation: the partitions are no longer fetched, and the group may assign them to other members.
    fn release(&mut self, sources: &[TopicPartition]);
    /// Starts to fetch the partitions `starts`, each at its offset. With [`Assigning::Whole`], `all` has every
    /// partition that is fetched afterwards; otherwise it is empty.
    fn fetch(&mut self, starts: &[(TopicPartition, Offset)], all: &[(TopicPartition, Offset)]);
    /// Stops fetching the partitions `sources`; they stay assigned. With [`Assigning::Whole`], `rest` has every
    /// partition that is still fetched; otherwise it is empty.
    fn stop(&mut self, sources: &[TopicPartition], rest: &[(TopicPartition, Offset)]);
    /// Commits the ledger's offsets to Kafka, for tools that show lag. The result isn't awaited.
    fn commit(&mut self, positions: &[(TopicPartition, Offset)]);
    /// Sends the pending commits, then closes the client, all within a limited time. The member leaves the group. Except: a
    /// member with a name (`group.instance.id`) may stay, so that its partitions wait for its return until its session times out.
    fn leave(self) -> impl Future<Output = ()> + Send;
}
