//! The flood's part of the report.

use super::{Sentence, Tone};
use crate::numbers::{bytes, duration, grouped};
use crate::raw::{Line, Table};

const OURS: &str = "tidegate";
const BUFFER: &str = "app buffer + COPY";
const BUFFER_BYTES: f64 = 67_108_864.0;
const GIB: f64 = 1_073_741_824.0;

pub(super) fn sentences(flood: &Table, series: &Table, events: &Table) -> Vec<Sentence> {
    let mut said = fair_weather(flood, series, events);
    said.extend(outage(flood));
    said.extend(flood.lines().map(catch_up));
    said.extend(flood.lines().map(kill));
    said.extend(costs(flood));
    said
}

/// Returns the tone of a sentence about some counts of an arrangement, such as its missing records. If a count of Tidegate isn't
/// 0, a promise is broken. Sentences about other arrangements are plain.
fn tone(line: Line<'_>, counts: &[&str]) -> Tone {
    let is_clean = counts.iter().all(|column| line.count(column) == 0.0);
    match (line.text("way") == OURS, is_clean) {
        (true, true) => Tone::Kept,
        (true, false) => Tone::Broken,
        (false, _) => Tone::Plain,
    }
}

fn fair_weather(flood: &Table, series: &Table, events: &Table) -> Vec<Sentence> {
    let stopped = |way: &str| {
        let found = events.lines().find(|line| line.text("way") == way && line.text("event") == "database stopped");
        found.map_or(f64::MAX, |line| line.count("second"))
    };
    let before = |way: &str, column: &str| {
        let bins = series.lines().filter(|line| line.text("way") == way && line.count("second") <= stopped(way));
        bins.map(|line| line.count(column)).fold((0.0, 0.0_f64), |(sum, max), value| (sum + value, max.max(value)))
    };
    let latencies = flood.lines().map(|line| match (line.number("commit_p50_ms"), line.number("commit_p99_ms")) {
        (Some(p50), Some(p99)) => format!("{} {} (p99 {})", line.text("way"), duration(p50), duration(p99)),
        _ => format!("{} not measured", line.text("way")),
    });
    let steady = flood.lines().next().map_or(0.0, |line| line.count("steady_per_second"));
    let mut said = vec![Sentence::new(
        Tone::Plain,
        format!(
            "Act 1, {}/s, from a record's intended time until it can be read: {}.",
            grouped(steady),
            latencies.collect::<Vec<_>>().join(", ")
        ),
    )];
    let p50 =
        |way: &str| flood.lines().find(|line| line.text("way") == way).and_then(|line| line.number("commit_p50_ms"));
    if let (Some(ours), Some(insert)) = (p50(OURS), p50("INSERT per record"))
        && ours > insert
    {
        said.push(Sentence::new(
            Tone::Worse,
            format!(
                "Kafka and batches make a record wait: {} against {} of an INSERT, {:.0} times as long.",
                duration(ours),
                duration(insert),
                ours / insert
            ),
        ));
    }
    for line in flood.lines() {
        let way = line.text("way");
        let ((refused, _), (_, backlog)) = (before(way, "refused"), before(way, "backlog"));
        // Two of the arrangements write a batch every half second. So the records of one second may be waiting even if an
        // arrangement keeps up.
        let copes = refused == 0.0 && backlog <= line.count("rush_per_second");
        said.push(Sentence::new(
            Tone::Plain,
            format!(
                "Act 2, {}/s: {way} {}; up to {} records behind, {} refused.",
                grouped(line.count("rush_per_second")),
                if copes { "copes" } else { "falls behind" },
                grouped(backlog),
                grouped(refused)
            ),
        ));
    }
    let (buffer, ours) = (before(BUFFER, "backlog").1, before(OURS, "backlog").1);
    let refused = before(BUFFER, "refused").0 + before(OURS, "refused").0;
    if refused == 0.0 {
        // Short runs vary: a ratio of up to 1.5 counts as equal.
        let equal = ours <= buffer * 1.5;
        let (tone, verb) = if equal { (Tone::Plain, "equals") } else { (Tone::Worse, "does better than") };
        let text = format!(
            "In fair weather a buffer in the program {verb} tidegate: until the database stops both take every record, and are at \
             most {} and {} records behind.",
            grouped(buffer),
            grouped(ours)
        );
        said.push(Sentence::new(tone, text));
    }
    said
}

fn outage(flood: &Table) -> Vec<Sentence> {
    let mut said: Vec<Sentence> = flood
        .lines()
        .map(|line| {
            let text = format!(
                "Act 3, the database away: {} refused {} of {} records; the longest wait for an answer was {}.",
                line.text("way"),
                grouped(line.count("refused")),
                grouped(line.count("intended")),
                duration(line.count("longest_wait_ms"))
            );
            Sentence::new(tone(line, &["refused"]), text)
        })
        .collect();
    if let Some(line) = flood.lines().next() {
        let record = line.count("bytes_per_record").max(1.0);
        let lasts = |rate: &str| BUFFER_BYTES / record / line.count(rate).max(1.0);
        said.push(Sentence::new(
            Tone::Plain,
            format!(
                "64 MiB of records ({record:.0} bytes each) last {:.0} s at {}/s and {:.0} s at {}/s; Kafka's log lasts until its \
                 retention or its disk ends.",
                lasts("rush_per_second"),
                grouped(line.count("rush_per_second")),
                lasts("steady_per_second"),
                grouped(line.count("steady_per_second")),
            ),
        ));
    }
    said
}

fn catch_up(line: Line<'_>) -> Sentence {
    let (backlog, capacity, input) =
        (line.count("backlog_at_return"), line.count("capacity_per_second"), line.count("steady_per_second"));
    let predicted =
        if capacity > input { format!("{:.1} s", backlog / (capacity - input)) } else { "never".to_owned() };
    let took = match line.number("caught_up_s") {
        Some(seconds) if line.count("returned_s") + seconds > line.count("killed_s") => {
            format!("took {seconds:.1} s, the killing of the writer included")
        }
        Some(seconds) => format!("took {seconds:.1} s"),
        None => format!(
            "was not done {:.0} s later, when the run ended",
            (line.count("ended_s") - line.count("returned_s")).max(0.0)
        ),
    };
    let text = format!(
        "{}: when the database was back {} records waited; {} ÷ ({} − {}) predicts {predicted}, and it {took}.",
        line.text("way"),
        grouped(backlog),
        grouped(backlog),
        grouped(capacity),
        grouped(input)
    );
    Sentence::new(Tone::Plain, text)
}

fn kill(line: Line<'_>) -> Sentence {
    let mut text = format!(
        "Act 4, kill −9: {}: {} acknowledged and missing, {} there twice, {} still waiting at the end.",
        line.text("way"),
        grouped(line.count("missing")),
        grouped(line.count("twice")),
        grouped(line.count("waiting")),
    );
    if line.text("way") == BUFFER {
        text += &format!(
            " It held {} records when it was killed; killed as the database came back, it would have lost {}.",
            grouped(line.count("buffered_at_kill")),
            grouped(line.count("buffered_at_return"))
        );
    }
    Sentence::new(tone(line, &["missing", "twice", "waiting"]), text)
}

fn costs(flood: &Table) -> Vec<Sentence> {
    let cpu = flood.lines().map(|line| {
        format!(
            "{} {:.1} (writer {:.1}, database {:.1}, Kafka {:.1})",
            line.text("way"),
            line.count("writer_cpu_s") + line.count("database_cpu_s") + line.count("kafka_cpu_s"),
            line.count("writer_cpu_s"),
            line.count("database_cpu_s"),
            line.count("kafka_cpu_s")
        )
    });
    let mut said = vec![Sentence::new(
        Tone::Plain,
        format!(
            "CPU-s of the whole run on the same cores (Kafka and the idle services' daemon are there in all four): {}.",
            cpu.collect::<Vec<_>>().join("; ")
        ),
    )];
    if let Some(line) = flood.lines().find(|line| line.text("way") == OURS) {
        let a_record = line.count("log_bytes") / line.count("in_table").max(1.0);
        let an_hour = a_record * line.count("rush_per_second") * 3_600.0 / GIB;
        let hours = line.count("reservoir_s") / 3_600.0;
        said.push(Sentence::new(
            Tone::Worse,
            format!(
                "Kafka isn't free: {:.1} CPU-s and {} of log (lz4), kept until retention ends, for a table of {} with its indexes. In \
                 the rush hour the log grows by {an_hour:.1} GiB an hour, {:.0} GiB in the {hours:.0} h that the topic keeps: where its \
                 disk ends, so does the reservoir.",
                line.count("kafka_cpu_s"),
                bytes(line.count("log_bytes")),
                bytes(line.count("table_bytes")),
                an_hour * hours,
            ),
        ));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "way,intended,refused,missing,twice,waiting,longest_wait_ms,commit_p50_ms,commit_p99_ms,steady_per_second,\
        rush_per_second,backlog_at_return,capacity_per_second,caught_up_s,ended_s,returned_s,bytes_per_record,killed_s\n";

    fn said(insert: &str, ours: &str) -> Vec<Sentence> {
        let flood = format!("{HEAD}INSERT per record,{insert}\ntidegate,{ours}\n");
        let series = "way,second,refused,backlog\nINSERT per record,0.5,0,10\ntidegate,0.5,0,20\n";
        let events = "way,second,event\nINSERT per record,1,database stopped\n";
        let parse = |text: &str| Table::parse(text).unwrap();
        sentences(&parse(&flood), &parse(series), &parse(events))
    }

    const INSERT: &str = "1000,200,0,1,30,20000,1.5,4,5000,20000,90000,15000,,50,30,200,36";
    const CLEAN: &str = "1000,0,0,0,0,400,300,520,5000,20000,400000,205000,2.5,50,30,200,36";

    #[test]
    fn what_is_ours_and_clean_is_kept_and_what_others_lose_is_told() {
        let said = said(INSERT, CLEAN);
        assert!(said.iter().all(|sentence| sentence.tone != Tone::Broken), "{said:?}");
        let has = |text: &str| said.iter().any(|sentence| sentence.text.contains(text));
        assert!(
            has("INSERT per record refused 200 of 1 000 records; the longest wait for an answer was 20 s"),
            "{said:?}"
        );
        assert!(has("90 000 ÷ (15 000 − 5 000) predicts 9.0 s, and it was not done 20 s later"), "{said:?}");
        assert!(has("400 000 ÷ (205 000 − 5 000) predicts 2.0 s, and it took 2.5 s"), "{said:?}");
        assert!(has("300 ms against 1.50 ms of an INSERT, 200 times as long"), "{said:?}");
    }

    #[test]
    fn one_record_of_ours_refused_missing_twice_or_waiting_breaks_the_verdict() {
        for broken in [
            "1000,1,0,0,0,400,300,520,5000,20000,400000,205000,2.5,50,30,200,36",
            "1000,0,1,0,0,400,300,520,5000,20000,400000,205000,2.5,50,30,200,36",
            "1000,0,0,1,0,400,300,520,5000,20000,400000,205000,2.5,50,30,200,36",
            "1000,0,0,0,1,400,300,520,5000,20000,400000,205000,2.5,50,30,200,36",
        ] {
            assert!(said(INSERT, broken).iter().any(|sentence| sentence.tone == Tone::Broken), "{broken}");
        }
    }
}
