//! The records that a consumer's drain left unwritten.

use std::sync::Mutex;

use super::{PartitionStatus, lock};

/// The result of a consumer's drain; contains `None` until the drain has ended.
#[derive(Debug, Default)]
pub struct Drain(Mutex<Option<Rest>>);

/// The numbers of unwritten records: in the open batch, and in the batch that the writer handles.
#[derive(Clone, Copy, Debug)]
struct Rest {
    open: u32,
    in_flight: u32,
}

impl Drain {
    pub fn ended(&self, open: u32, in_flight: u32) {
        *lock(&self.0) = Some(Rest { open, in_flight });
    }

    /// Notes that the writer wrote its batch. Changes nothing before the drain has ended.
    pub fn in_flight_written(&self) {
        if let Some(rest) = &mut *lock(&self.0) {
            rest.in_flight = 0;
        }
    }

    /// Forgets how the drain ended, because the consumer rejoined the group and reads again.
    pub fn resumed(&self) {
        *lock(&self.0) = None;
    }

    /// Returns how many records were read and not written. If the drain hasn't ended, returns instead the number of offsets
    /// between the committed and the next position, summed over all partitions. `partitions` is the consumer's last snapshot.
    pub fn unwritten(&self, partitions: &[PartitionStatus]) -> u64 {
        if let Some(Rest { open, in_flight }) = *lock(&self.0) {
            return u64::from(open) + u64::from(in_flight);
        }
        let open = partitions.iter().filter_map(|partition| {
            u64::try_from(partition.next?.get().saturating_sub(partition.committed?.get())).ok()
        });
        open.sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_is_written_late_is_not_left() {
        let drain = Drain::default();
        drain.ended(30, 70);
        assert_eq!(drain.unwritten(&[]), 100);
        drain.in_flight_written();
        assert_eq!(drain.unwritten(&[]), 30);
        drain.resumed();
        assert_eq!(drain.unwritten(&[]), 0);
    }
}
