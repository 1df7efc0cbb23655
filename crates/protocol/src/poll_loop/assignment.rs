//! Assignments and revocations, and fetching: no partition is fetched before it is claimed.

use super::{LedgerReadings, RecordEncoder};
use super::{Member, PollLoop, REVOKE_WAIT};
use crate::batch::Trigger;
use crate::event::Event;
use crate::group::{Assigning, Group, GroupClient, GroupEvent};
use crate::now;
use crate::position::{Offset, TopicPartition};
use crate::stopped::Stopped;

impl<G: Group, E: RecordEncoder, L: LedgerReadings> Member<G, E, L> {
    pub(super) async fn rebalance(&mut self, event: GroupEvent) -> Result<(), Stopped> {
        match event {
            GroupEvent::Assigned(sources) => {
                self.client.accept();
                self.parts.session.assigned(sources.iter().cloned(), now());
                let all = self.parts.session.partitions().count();
                self.on(&Event::Assigned { added: &sources, all });
                // Take the snapshot first, so that the assignment is visible when the consumer reports that it joined.
                self.snapshot(now());
                self.on(&Event::Joined);
            }
            GroupEvent::Revoked { sources, lost } => {
                self.on(&Event::Revoked { sources: &sources, lost });
                if !lost {
                    self.flush(Trigger::Revoke, REVOKE_WAIT.min(self.parts.drain_timeout)).await;
                    self.commit();
                }
                self.withdraw(|source| sources.contains(source));
                self.parts.session.revoked(&sources);
                for source in &sources {
                    self.committed_to_kafka.remove(source);
                    self.fetching.remove(source);
                }
                self.client.release(&sources);
                self.snapshot(now());
            }
        }
        self.carry_out()
    }

    pub(super) fn fetch(&mut self, starts: &[(TopicPartition, Offset)]) {
        if starts.is_empty() {
            return;
        }
        self.fetching.extend(starts.iter().map(|(source, _)| source.clone()));
        let all = self.whole();
        self.client.fetch(starts, &all);
    }

    pub(super) fn stop_fetching(&mut self, sources: &[TopicPartition]) {
        let stopped: Vec<_> = sources.iter().filter(|source| self.fetching.remove(source)).cloned().collect();
        if !stopped.is_empty() {
            let rest = self.whole();
            self.client.stop(&stopped, &rest);
        }
    }

    /// Returns all fetched partitions, each with the offset at which fetching must start or continue. The list is empty if the
    /// client changes assignments incrementally, because it then doesn't need the list.
    fn whole(&self) -> Vec<(TopicPartition, Offset)> {
        let PollLoop { session, .. } = &self.parts;
        match self.client.assigning() {
            Assigning::Incremental => Vec::new(),
            Assigning::Whole => session
                .positions()
                .filter(|(source, _)| self.fetching.contains(*source))
                .map(|(source, owned)| (source.clone(), owned.fetch_at()))
                .collect(),
        }
    }
}
