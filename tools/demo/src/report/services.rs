//! The three services' part of the report.

use super::{Sentence, Tone};
use crate::numbers::grouped;
use crate::raw::Table;

pub(super) fn sentences(services: &Table, series: &Table, events: &Table) -> Vec<Sentence> {
    let story = Story { series, events };
    let mut said = Vec::new();
    said.extend(story.burst());
    said.extend(story.killed());
    said.extend(story.locked());
    said.extend(books(services));
    said
}

fn books(services: &Table) -> Vec<Sentence> {
    let of_each = services.lines().map(|line| {
        let is_clean = ["missing", "twice", "wrong", "dead_letters"].iter().all(|column| line.count(column) == 0.0);
        let text = format!(
            "{}: {} records sent, {} rows expected, {} in the table; {} missing, {} twice, {} wrong, {} dead letters ({}).",
            line.text("service"),
            grouped(line.count("sent")),
            grouped(line.count("expected")),
            grouped(line.count("in_table")),
            grouped(line.count("missing")),
            grouped(line.count("twice")),
            grouped(line.count("wrong")),
            grouped(line.count("dead_letters")),
            line.text("what"),
        );
        Sentence::new(if is_clean { Tone::Kept } else { Tone::Broken }, text)
    });
    of_each.collect()
}

/// The raw files of the story, in which the three services go through a burst, a kill and a locked table: the lags over time, and
/// the events.
struct Story<'a> {
    series: &'a Table,
    events: &'a Table,
}

/// The figures of a service during a period. `most_behind` is its highest lag in records. The service wrote `written` records per
/// second, and `sent` records per second were sent to Kafka.
struct Stretch {
    service: String,
    most_behind: f64,
    written: f64,
    sent: f64,
}

impl Story<'_> {
    fn when(&self, kind: &str) -> Option<f64> {
        self.events.lines().find(|line| line.text("kind") == kind).map(|line| line.count("second"))
    }

    fn end(&self) -> f64 {
        self.series.lines().map(|line| line.count("second")).fold(0.0, f64::max)
    }

    fn stretch(&self, from: f64, to: f64) -> Vec<Stretch> {
        let of = |service: &String| {
            let within = self.series.lines().filter(|line| {
                line.text("service") == service && line.count("second") >= from && line.count("second") <= to
            });
            let looks: Vec<_> = within.collect();
            let (first, last) = (looks.first()?, looks.last()?);
            let seconds = (last.count("second") - first.count("second")).max(1e-3);
            let rate = |column: &str| (last.count(column) - first.count(column)) / seconds;
            let most_behind = looks.iter().map(|line| line.count("lag")).fold(0.0, f64::max);
            Some(Stretch { service: service.clone(), most_behind, written: rate("written"), sent: rate("sent") })
        };
        self.series.distinct("service").iter().filter_map(of).collect()
    }

    fn burst(&self) -> Option<Sentence> {
        let began = self.when("burst")?;
        let until = self.when("killed").unwrap_or_else(|| self.end());
        let of_each = self.stretch(began, until).into_iter().map(|stretch| {
            let peak = self.series.lines().find(|line| {
                line.text("service") == stretch.service
                    && line.count("second") >= began
                    && line.count("lag") >= stretch.most_behind
            });
            let at = peak.map_or(0.0, |line| line.count("second") - began);
            format!("{} {} after {at:.1} s", stretch.service, grouped(stretch.most_behind))
        });
        let of_each: Vec<String> = of_each.collect();
        let text = format!("The burst: records behind at the most: {}.", of_each.join(", "));
        (!of_each.is_empty()).then(|| Sentence::new(Tone::Plain, text))
    }

    fn killed(&self) -> Option<Sentence> {
        let (killed, until) = (self.when("killed")?, self.when("locked").unwrap_or_else(|| self.end()));
        let of_each = self.stretch(killed, until).into_iter().map(|stretch| {
            let is_within = |second: f64| second >= killed && second <= until;
            let looks = self.series.lines().filter(|line| line.text("service") == stretch.service);
            let behind =
                looks.filter(|line| is_within(line.count("second")) && line.count("lag") > stretch.sent.max(1.0));
            // A lag of at most one second of input counts as no lag.
            let back = match behind.last().map(|line| line.count("second")) {
                None => "never more than a second".to_owned(),
                Some(last) => format!("for {:.0} s", last - killed),
            };
            format!("{} {} behind, {back}", stretch.service, grouped(stretch.most_behind))
        });
        let of_each: Vec<String> = of_each.collect();
        let text =
            format!("An instance killed: its partitions waited until its session ended: {}.", of_each.join("; "));
        (!of_each.is_empty()).then(|| Sentence::new(Tone::Worse, text))
    }

    /// Checks the other services while the table `ride_analysis` was locked. Each must have written at least half of the sent
    /// records.
    fn locked(&self) -> Option<Sentence> {
        let (from, to) = (self.when("locked")?, self.when("unlocked")?);
        let (locked, others): (Vec<_>, Vec<_>) =
            self.stretch(from, to).into_iter().partition(|stretch| stretch.service == "ride_analysis");
        let locked = locked.first()?;
        let flow = others.iter().all(|other| other.written >= other.sent * 0.5);
        let of_each = others.iter().map(|other| {
            format!(
                "{} wrote {} records/s and was at most {} behind",
                other.service,
                grouped(other.written),
                grouped(other.most_behind)
            )
        });
        let text = format!(
            "With ride_analysis locked for {:.0} s it wrote {} records/s and fell {} behind; {}: the others {}.",
            to - from,
            grouped(locked.written),
            grouped(locked.most_behind),
            of_each.collect::<Vec<_>>().join(", "),
            if flow { "flowed" } else { "didn't keep up" }
        );
        Some(Sentence::new(if flow { Tone::Kept } else { Tone::Broken }, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: &str = "second,kind,event\n1,burst,b\n10,killed,k\n20,locked,l\n30,unlocked,u\n";

    fn told(wrong: &str, fare_in_the_lock: f64) -> Vec<Sentence> {
        let books = format!(
            "service,sent,expected,in_table,missing,twice,wrong,dead_letters,largest_lag,what\nfare,100,9,9,0,0,{wrong},0,7,fares\n"
        );
        let mut series = "second,service,sent,written,lag\n".to_owned();
        for second in 0..40 {
            let sent = second * 1_000;
            let fare =
                if second > 20 { 20_000.0 + (f64::from(second) - 20.0) * fare_in_the_lock } else { f64::from(sent) };
            let rides = if (21..30).contains(&second) { 20_000 } else { sent };
            series += &format!("{second},fare,{sent},{fare},{}\n", f64::from(sent) - fare);
            series += &format!("{second},ride_analysis,{sent},{rides},{}\n", sent - rides);
        }
        let parse = |text: &str| Table::parse(text).unwrap();
        sentences(&parse(&books), &parse(&series), &parse(EVENTS))
    }

    #[test]
    fn a_single_wrong_fare_breaks_the_verdict() {
        assert!(told("0", 1_000.0).iter().all(|sentence| sentence.tone != Tone::Broken));
        let broken = told("1", 1_000.0);
        assert!(
            broken.iter().any(|sentence| sentence.tone == Tone::Broken && sentence.text.contains("1 wrong")),
            "{broken:?}"
        );
    }

    #[test]
    fn who_isnt_locked_must_flow() {
        let flowing = told("0", 1_000.0);
        let said =
            flowing.iter().any(|sentence| sentence.text.contains("fell 9 000 behind; fare wrote 1 000 records/s"));
        assert!(said, "{flowing:?}");
        let stuck = told("0", 100.0);
        let said =
            stuck.iter().any(|sentence| sentence.tone == Tone::Broken && sentence.text.contains("didn't keep up"));
        assert!(said, "{stuck:?}");
    }
}
