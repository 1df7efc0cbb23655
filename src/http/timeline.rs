//! The timeline: the daemon's last events, one line each, ordered by time. No I/O.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::document::Entry;
use crate::status::WaitCause;
use crate::status::work::Event;

pub(super) const EVENTS: usize = 500;
/// How many partitions a line of the timeline names. Further partitions are only counted.
const PLACES: usize = 4;

/// The last [`EVENTS`] events of the daemon.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    events: VecDeque<Entry>,
    next: u64,
}

impl Timeline {
    pub(super) fn enter(&mut self, pipeline: Option<&str>, Event { at_ms, kind, text, .. }: Event) {
        if self.events.len() == EVENTS {
            self.events.pop_front();
        }
        let (id, pipeline) = (self.next, pipeline.map(str::to_owned));
        self.next += 1;
        self.events.push_back(Entry { id, at_ms, kind: kind.into(), pipeline, text });
    }

    /// Returns all events, the oldest first. An event may be added up to a second after it happened, so the ids need
    /// not be ascending.
    pub(super) fn in_order(&self) -> Vec<Entry> {
        let mut events: Vec<Entry> = self.events.iter().cloned().collect();
        events.sort_by_key(|entry| entry.at_ms);
        events
    }

    /// Returns the events with this id or a later one.
    pub(super) fn since(&self, id: u64) -> Vec<Entry> {
        self.events.iter().filter(|entry| entry.id >= id).cloned().collect()
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }
}

/// The current waits of a pipeline's consumers, by cause. They are kept so that an outage is one line of the timeline, and not
/// one line per consumer.
#[derive(Debug, Default)]
pub(super) struct Waits(BTreeMap<WaitCause, Wait>);

#[derive(Debug)]
struct Wait {
    since_ms: i64,
    consumers: BTreeSet<u32>,
}

impl Waits {
    /// Returns the timeline's lines for the events that consumers have reported since the last call. The first consumer that
    /// waits begins an outage, and the last one that resumes ends it. Partitions that are assigned or revoked together share a
    /// line, and so do partitions with the same outcome.
    pub(super) fn lines(&mut self, mut events: Vec<(u32, Event)>) -> Vec<Event> {
        events.sort_by_key(|(_, event)| event.at_ms);
        let mut lines: Vec<Event> = Vec::new();
        // For each line about partitions, by the line's index: the text that the partitions share, and their names.
        let mut shared: BTreeMap<usize, (String, Vec<String>)> = BTreeMap::new();
        for (consumer, event) in events {
            match (event.kind, event.cause) {
                ("outage", Some(cause)) => {
                    let wait = self.0.entry(cause).or_insert_with(|| {
                        lines.push(event.clone());
                        Wait { since_ms: event.at_ms, consumers: BTreeSet::new() }
                    });
                    wait.consumers.insert(consumer);
                }
                ("recovered", Some(cause)) => {
                    let Some(wait) = self.0.get_mut(&cause) else { continue };
                    wait.consumers.remove(&consumer);
                    if wait.consumers.is_empty() {
                        #[expect(clippy::cast_precision_loss, reason = "milliseconds of a wait are far below 2^53")]
                        let seconds = (event.at_ms - wait.since_ms) as f64 / 1000.0;
                        let text = format!("{} after {}", event.text, super::duration(seconds));
                        lines.push(Event { text, ..event });
                        self.0.remove(&cause);
                    }
                }
                ("rebalance", _) => match lines.iter_mut().find(|line| line.kind == "rebalance") {
                    Some(line) => line.text = format!("{}; {}", line.text, event.text),
                    None => lines.push(event),
                },
                ("fenced" | "rewind" | "condition", _) => {
                    // Each of these texts begins with a partition, sometimes with an offset, and a colon. No topic's name
                    // contains a colon.
                    let (place, fate) = event.text.split_once(": ").unwrap_or(("", &event.text));
                    let same = shared.iter_mut().find(|(at, (said, _))| lines[**at].kind == event.kind && said == fate);
                    match same {
                        Some((_, (_, places))) => places.push(place.to_owned()),
                        None => {
                            shared.insert(lines.len(), (fate.to_owned(), vec![place.to_owned()]));
                            lines.push(event);
                        }
                    }
                }
                _ => lines.push(event),
            }
        }
        for (at, (fate, places)) in shared.into_iter().filter(|(_, (_, places))| places.len() > 1) {
            let more = places.len().saturating_sub(PLACES);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            lines[at].text = format!("{}{more}: {fate}", places[..places.len().min(PLACES)].join(", "));
        }
        lines.into_iter().map(Event::cut).collect()
    }

    /// Forgets all waits. Called when the pipeline starts, drains or has ended: the waits of its consumers then end without an
    /// event.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at_ms: i64, kind: &'static str, text: &str) -> Event {
        Event { at_ms, kind, cause: None, text: text.to_owned() }
    }

    fn wait(at_ms: i64, cause: WaitCause, kind: &'static str) -> Event {
        let text = if kind == "outage" { "waits: 57P01" } else { "writes again" };
        Event { cause: Some(cause), ..event(at_ms, kind, text) }
    }

    fn texts(lines: Vec<Event>) -> Vec<String> {
        lines.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn the_last_events_are_kept_under_growing_numbers() {
        let mut timeline = Timeline::default();
        (0..EVENTS + 20).for_each(|n| timeline.enter(None, Event::now("start", n.to_string())));
        let all = timeline.in_order();
        assert_eq!((all.len(), all[0].id, timeline.since(500).len()), (EVENTS, 20, 20));
    }

    #[test]
    fn events_that_are_entered_late_stand_where_they_happened() {
        let mut timeline = Timeline::default();
        for at_ms in [5, 9, 7] {
            timeline.enter(Some("p"), event(at_ms, "start", ""));
        }
        assert_eq!(timeline.in_order().iter().map(|entry| entry.at_ms).collect::<Vec<_>>(), [5, 7, 9]);
    }

    #[test]
    fn an_outage_is_one_line_and_so_is_its_end() {
        let mut waits = Waits::default();
        let postgres = |at_ms, kind| wait(at_ms, WaitCause::Postgres, kind);
        let began = waits.lines(vec![(1, postgres(1500, "outage")), (0, postgres(1000, "outage"))]);
        assert_eq!((began.len(), began[0].at_ms), (1, 1000));
        assert!(waits.lines(vec![(2, postgres(2000, "outage")), (0, postgres(4000, "recovered"))]).is_empty());
        assert!(waits.lines(vec![(1, postgres(5000, "recovered"))]).is_empty());
        assert_eq!(texts(waits.lines(vec![(2, postgres(6000, "recovered"))])), ["writes again after 5.0 s"]);
        assert_eq!(waits.lines(vec![(0, postgres(7000, "outage"))]).len(), 1, "the next outage is news");
    }

    #[test]
    fn outages_of_two_systems_are_two_lines() {
        let both = vec![(0, wait(1, WaitCause::Postgres, "outage")), (0, wait(2, WaitCause::Registry, "outage"))];
        assert_eq!(Waits::default().lines(both).len(), 2);
    }

    #[test]
    fn a_rebalance_is_one_line_whatever_the_number_of_consumers() {
        let moves =
            vec![(1, event(2, "rebalance", "c1 was assigned t/1")), (0, event(1, "rebalance", "c0 was assigned t/0"))];
        assert_eq!(texts(Waits::default().lines(moves)), ["c0 was assigned t/0; c1 was assigned t/1"]);
    }

    #[test]
    fn partitions_with_one_fate_share_a_line() {
        let fenced = |n| (0, event(n, "fenced", &format!("t/{n}: another claim holds it")));
        let lines = texts(Waits::default().lines(vec![fenced(0), fenced(1)]));
        assert_eq!(lines, ["t/0, t/1: another claim holds it"]);
        let lines = texts(Waits::default().lines((0..6).map(fenced).collect()));
        assert_eq!(lines, ["t/0, t/1, t/2, t/3 and 2 more: another claim holds it"]);
    }
}
