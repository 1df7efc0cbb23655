//! Describes states in sentences: one sentence per problem, the worst first. If there are no problems, one sentence says so. No
//! I/O.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::plan::NeverSeen;
use crate::status::{PipelineState, Trouble, WaitCause};

/// A pipeline's headroom is reported as a problem if it is shorter than this, in seconds, and also shorter than the time that
/// the oldest unwritten record has already waited.
const HEADROOM_LOW: f64 = 4.0 * 3600.0;
/// An oldest unwritten record that is older than this, in seconds, is a reason to say that a pipeline is behind.
const BEHIND: f64 = 10.0;

/// A delay by a Kafka quota is reported if it lasts at least this long, in seconds.
const THROTTLED: f64 = 0.1;

const POSTGRES_UNAVAILABLE: &str = "Postgres is unavailable or blocked: records wait in Kafka.";

/// The severity of a sentence. Sentences are sorted by it, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    /// Records can't be written, or may be lost.
    Bad,
    Warning,
    /// The problem resolves without action.
    Passing,
    #[default]
    Well,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Sentence {
    pub(super) level: Level,
    /// `None` if the sentence is about the whole daemon.
    pub(super) pipeline: Option<String>,
    /// Names the problem, for example `headroom`. It stays the same while the numbers in `text` change, so the
    /// page can tell a new problem from a known one.
    pub(super) kind: Cow<'static, str>,
    pub(super) text: String,
    /// The anchor of the runbook's section about this problem; `None` if nothing has to be done.
    pub(super) runbook: Option<Cow<'static, str>>,
}

/// The facts about a pipeline from which [`troubles`] makes its sentences. `claiming` and `fenced` count partitions of this
/// instance, and `joining` counts its consumers that haven't joined the group yet.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) name: String,
    pub(super) state: PipelineState,
    /// Why the pipeline can't start, why it stopped, or what it waits for while it drains.
    pub(super) why: Option<String>,
    /// The wait of the consumer that has waited longest; `None` if no consumer waits.
    pub(super) waiting: Option<Waiting>,
    /// The wait for Kafka, if Kafka doesn't serve the running pipeline.
    pub(super) kafka: Option<Waiting>,
    /// The longest delay that a quota recently added to an answer of Kafka, in seconds.
    pub(super) throttled: f64,
    /// The first partition with a log-loss condition: some of its records may be lost.
    pub(super) may_be_lost: Option<String>,
    pub(super) missing_topics: Vec<String>,
    pub(super) lag_records: u64,
    pub(super) lag_seconds: f64,
    pub(super) headroom: Option<f64>,
    pub(super) lag_trouble: Option<String>,
    /// The mean rates over the last seconds, in records per second: `into` Kafka, and `out` of Kafka into Postgres.
    pub(super) into: Option<f64>,
    pub(super) out: Option<f64>,
    pub(super) claiming: usize,
    pub(super) fenced: usize,
    pub(super) joining: usize,
    /// Log-loss conditions, and if the pipeline flows also stalls, as text.
    pub(super) conditions: Vec<String>,
    /// The partitions that no consumer of any instance reads.
    pub(super) nobody: Vec<String>,
    pub(super) dead: Option<RecentDeadLetters>,
    /// The reason of this instance's newest dead letter.
    pub(super) dead_reason: Option<Cow<'static, str>>,
    pub(super) held_by_flow: bool,
    pub(super) never_seen: Vec<NeverSeen>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RecentDeadLetters {
    pub(super) count: u64,
    /// The number of dead letters divided by the number of rows and dead letters, from 0 to 1. Like `count`, it is about the last
    /// five minutes.
    pub(super) share: f64,
}

/// A wait of one consumer, or of the whole pipeline for Kafka. The times are in seconds.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) trouble: Trouble,
    pub(super) seconds: f64,
    /// The number of failures so far; always 1 in a wait for Kafka or for schemas.
    pub(super) attempt: u32,
    pub(super) retry_in: f64,
}

/// Returns the sentences about one pipeline; none if it has no problems.
pub(super) fn troubles(facts: &Facts) -> Vec<Sentence> {
    let mut said = Vec::new();
    let name = &facts.name;
    let mut say = |level, kind: &'static str, text| {
        let runbook = section(kind).map(Cow::Borrowed);
        said.push(Sentence { level, pipeline: Some(name.clone()), kind: kind.into(), text, runbook });
    };
    let why = facts.why.as_deref().unwrap_or("no reason was given");
    let safe = safe(facts);
    match facts.state {
        PipelineState::Stopped => {
            say(Level::Bad, "stopped", format!("{name} stopped: {why}. {safe} Manual action required."))
        }
        PipelineState::Waiting | PipelineState::WaitingForKafka => {
            for waiting in [&facts.waiting, &facts.kafka].into_iter().flatten() {
                let kind = match waiting.trouble.cause {
                    WaitCause::Postgres => "waiting",
                    WaitCause::Kafka => "waiting_for_kafka",
                    WaitCause::Topic => "waiting_for_topic",
                    WaitCause::Partition => "waiting_for_partition",
                    WaitCause::Registry => "waiting_for_schemas",
                };
                say(Level::Bad, kind, format!("{name} {} {safe}", waits(waiting)));
            }
        }
        PipelineState::Starting if facts.why.is_some() => {
            say(Level::Bad, "cannot_start", format!("{name} can't start yet: {why}. It retries. {safe}"))
        }
        PipelineState::Starting => say(Level::Passing, "starting", format!("{name} is starting.")),
        PipelineState::Draining => {
            say(Level::Passing, "draining", format!("{name} is writing its remaining records before it ends."))
        }
        PipelineState::Flowing | PipelineState::Drained => {}
    }
    if let Some(headroom) = facts
        .headroom
        .filter(|headroom| facts.lag_records > 0 && *headroom < HEADROOM_LOW && *headroom < facts.lag_seconds)
    {
        let text = if headroom <= 0.0 {
            format!(
                "{name}: Kafka may be deleting records that aren't written yet. Raise the topic's retention now: retention.ms, and retention.bytes if it is set."
            )
        } else {
            format!(
                "{name}: Kafka deletes records that aren't written yet in {}. Raise the topic's retention.ms, or make Postgres faster.",
                duration(headroom)
            )
        };
        say(Level::Bad, "headroom", text);
    }
    for condition in facts.conditions.iter().take(3) {
        say(Level::Bad, "condition", format!("{name}: {condition}."));
    }
    if facts.fenced > 0 {
        say(
            Level::Warning,
            "fenced",
            format!(
                "{name}: {} taken over by another claim; nothing is written twice.",
                many(facts.fenced, "partition was", "partitions were")
            ),
        );
    }
    if let Some(trouble) = &facts.lag_trouble {
        say(Level::Warning, "lag", format!("{name}: the lag is unknown: {trouble}."));
    }
    if facts.state == PipelineState::Flowing {
        if facts.joining > 0 {
            say(
                Level::Passing,
                "rebalancing",
                format!(
                    "{name}: {} for the group to assign partitions.",
                    many(facts.joining, "consumer waits", "consumers wait")
                ),
            );
        } else if facts.claiming > 0 {
            say(
                Level::Passing,
                "rebalancing",
                format!("{name}: {} being claimed.", many(facts.claiming, "partition is", "partitions are")),
            );
        } else if !facts.nobody.is_empty() {
            let more =
                if facts.nobody.len() > 3 { format!(" and {} more", facts.nobody.len() - 3) } else { String::new() };
            let names = facts.nobody.iter().take(3).cloned().collect::<Vec<_>>().join(", ");
            say(Level::Warning, "nobody", format!("{name}: no consumer reads {names}{more} at the moment."));
        }
        if facts.throttled >= THROTTLED {
            say(
                Level::Warning,
                "throttled",
                format!(
                    "{name}: a Kafka quota delays its responses by up to {}. Raise `consumer_byte_rate` for this user or client id, or accept that the lag grows.",
                    duration(facts.throttled)
                ),
            );
        }
        if facts.held_by_flow {
            say(Level::Passing, "flow", format!("{name} is held at flow.max_rows_per_second, as configured."));
        } else if let (Some(into), Some(out)) = (facts.into, facts.out)
            && into > out * 1.1
            && facts.lag_seconds > BEHIND
        {
            say(
                Level::Warning,
                "behind",
                format!(
                    "{name} falls behind: {} records per second arrive and {} are written; {}. {safe}",
                    whole(into),
                    whole(out),
                    waiting_records(facts.lag_records)
                ),
            );
        }
    }
    if !facts.never_seen.is_empty() {
        let fields: Vec<_> = facts.never_seen.iter().map(|never| format!("`{}`", never.path)).collect();
        let shown = fields[..fields.len().min(3)].join(", ");
        let more = fields.len().saturating_sub(3);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let (word, columns) =
            if fields.len() == 1 { ("field", "its column is") } else { ("fields", "their columns are") };
        say(
            Level::Warning,
            "never_seen",
            format!(
                "{name}: no record so far has had the {word} {shown}{more}, so {columns} NULL. Is the name misspelled?"
            ),
        );
    }
    if let Some(dead) = facts.dead {
        let reason = facts.dead_reason.as_deref().map(|reason| format!(", the newest: {reason}")).unwrap_or_default();
        // This part of the sentence would be wrong while the pipeline waits or has stopped, or if all records are dead letters.
        let others = facts.state == PipelineState::Flowing && dead.share < 1.0;
        let others = if others { " The other records are written." } else { "" };
        say(
            Level::Warning,
            "dead_letters",
            format!(
                "{name}: {} in 5 min, {} of its records{reason}.{others}",
                many(usize::try_from(dead.count).unwrap_or(usize::MAX), "dead letter", "dead letters"),
                percent(dead.share)
            ),
        );
    }
    said
}

/// Returns the anchor of the runbook's section for a kind of sentence; `None` if nothing has to be done.
fn section(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "stopped" => "tidegatepipelinestopped",
        "waiting" => "tidegatedatabaseunreachable",
        "waiting_for_kafka" => "tidegatekafkaunavailable",
        "waiting_for_topic" => "a-topic-is-missing",
        "waiting_for_partition" => "a-partition-has-no-leader",
        "waiting_for_schemas" => "the-schema-registry-is-away",
        "cannot_start" => "tidegatenotstarting",
        "headroom" => "tidegateretentionheadroomlow",
        "condition" => "tidegatelogloss",
        "nobody" => "tidegatepartitionstuck",
        "fenced" => "tidegatefencedagain",
        "lag" => "tidegatelagunknown",
        "behind" => "a-pipeline-falls-behind",
        "throttled" => "tidegatekafkathrottled",
        "dead_letters" => "tidegatedeadletterswait",
        "never_seen" => "a-field-was-never-seen",
        "reload_refused" => "tidegateconfigreloadfailed",
        _ => return None,
    })
}

/// Returns the first fault of `faults`, which has one fault per line, and the number of further faults.
pub(super) fn first(faults: &str) -> String {
    let mut lines = faults.lines().filter(|line| !line.trim().is_empty());
    let first = lines.next().unwrap_or_default().trim();
    match lines.count() {
        0 => first.to_owned(),
        more => format!("{first} (and {})", many(more, "more fault", "more faults")),
    }
}

const FAULTS_SHOWN: usize = 20;

/// Joins the lines of `faults`, each of which is one fault, into one sentence without its full stop. If there are more than
/// [`FAULTS_SHOWN`], the sentence has only that many, and says where the others are shown.
fn listed(faults: &str) -> String {
    let faults: Vec<&str> = faults.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let shown = faults[..faults.len().min(FAULTS_SHOWN)].join("; ");
    match faults.len().saturating_sub(FAULTS_SHOWN) {
        0 => shown,
        more => format!("{shown}; and {more} more, which the log and `tidegate check --offline --config FILE` show"),
    }
}

fn percent(share: f64) -> String {
    match share * 100.0 {
        p if p < 0.01 => "under 0.01 %".to_owned(),
        p if p < 1.0 => format!("{p:.2} %"),
        p => format!("{p:.0} %"),
    }
}

/// Returns the sentences of all pipelines. If there are no problems, the first sentence says so. `refused` has the faults of the
/// last reload of the configuration; `None` if that reload was applied, or if there was none.
pub(super) fn all(facts: &[Facts], refused: Option<&str>) -> Vec<Sentence> {
    let refused = refused.map(|faults| Sentence {
        level: Level::Warning,
        pipeline: None,
        kind: "reload_refused".into(),
        text: format!(
            "The last reload was refused, and the pipelines keep the previous configuration: {}.",
            listed(faults)
        ),
        runbook: section("reload_refused").map(Cow::Borrowed),
    });
    let mut said: Vec<Sentence> = facts.iter().flat_map(troubles).chain(refused).collect();
    said.sort_by_key(|sentence| sentence.level);
    if said.iter().all(|sentence| sentence.kind == "flow") {
        let (oldest, lag) =
            facts.iter().fold((0.0, 0), |(oldest, lag), f| (f64::max(oldest, f.lag_seconds), lag + f.lag_records));
        let text = if facts.iter().all(|facts| facts.state == PipelineState::Drained) {
            "Every record is written, and the pipelines have ended as requested.".to_owned()
        } else if lag == 0 {
            "Everything flows. Every record is written.".to_owned()
        } else if oldest > BEHIND {
            let drains = facts.iter().filter(|facts| facts.lag_seconds > BEHIND).all(|facts| facts.out > facts.into);
            let drains = if drains { "; the backlog drains" } else { "" };
            format!("Everything flows. {}, the oldest for {}{drains}.", waiting_records(lag), duration(oldest))
        } else {
            format!("Everything flows. The oldest unwritten record waits {}.", duration(oldest))
        };
        said.insert(0, Sentence { level: Level::Well, kind: "well".into(), text, ..Sentence::default() });
    }
    said
}

pub(super) fn state_words(facts: &Facts) -> &'static str {
    let outgrown = facts.into.zip(facts.out).is_some_and(|(into, out)| into > out * 1.1);
    match facts.state {
        PipelineState::Waiting => match facts.waiting.as_ref().map(|waiting| waiting.trouble.cause) {
            Some(WaitCause::Kafka) => "waiting for Kafka",
            Some(WaitCause::Topic) => "waiting for a topic",
            Some(WaitCause::Partition) => "waiting for a partition",
            Some(WaitCause::Registry) => "waiting for schemas",
            Some(WaitCause::Postgres) | None => "waiting for Postgres",
        },
        PipelineState::WaitingForKafka => match facts.kafka.as_ref().map(|waiting| waiting.trouble.cause) {
            Some(WaitCause::Topic) => "waiting for a topic",
            Some(WaitCause::Partition) => "waiting for a partition",
            _ => "waiting for Kafka",
        },
        PipelineState::Starting if facts.why.is_some() => "can't start yet",
        PipelineState::Flowing if facts.joining > 0 || facts.claiming > 0 => "rebalancing",
        PipelineState::Flowing if facts.fenced > 0 => "partly fenced",
        PipelineState::Flowing if facts.held_by_flow => "held by flow",
        PipelineState::Flowing if facts.lag_seconds > BEHIND && outgrown => "falling behind",
        PipelineState::Flowing if facts.lag_seconds > BEHIND => "catching up",
        state @ (PipelineState::Starting
        | PipelineState::Flowing
        | PipelineState::Draining
        | PipelineState::Drained
        | PipelineState::Stopped) => state.as_str(),
    }
}

/// Describes a wait, as a sentence without its subject.
fn waits(waiting: &Waiting) -> String {
    let (waited, what) = (duration(waiting.seconds), waiting.trouble.waited_for());
    match waiting.trouble.cause {
        WaitCause::Kafka | WaitCause::Topic | WaitCause::Partition | WaitCause::Registry => {
            format!("has waited {waited} for {what}. It retries.")
        }
        WaitCause::Postgres => {
            let retry =
                if waiting.retry_in < 1.0 { "now".to_owned() } else { format!("in {}", duration(waiting.retry_in)) };
            format!("has waited {waited} for {what}. Retry {} {retry}.", waiting.attempt)
        }
    }
}

pub(super) fn limit_while_waiting(cause: WaitCause) -> &'static str {
    match cause {
        WaitCause::Kafka => "Kafka is unavailable: no records arrive.",
        WaitCause::Topic => "Kafka doesn't have a listed topic: no records of it arrive.",
        WaitCause::Partition => "A partition has no leader: no records of it arrive.",
        WaitCause::Postgres => POSTGRES_UNAVAILABLE,
        WaitCause::Registry => "The schema registry is unavailable: records wait for their schemas.",
    }
}

fn safe(facts: &Facts) -> String {
    let kept = facts
        .headroom
        .filter(|seconds| seconds.is_finite())
        .map_or_else(|| "keeps them".to_owned(), |seconds| format!("keeps them {} more", duration(seconds)));
    match facts.lag_records {
        // Nobody knows whether a deleted topic held unwritten records.
        _ if !facts.missing_topics.is_empty() => {
            let names = facts.missing_topics.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let others = match facts.lag_records {
                0 => String::new(),
                lag => format!(" Of other topics, {} in Kafka, which {kept}.", waiting_records(lag)),
            };
            format!("If {names} held unwritten records, Kafka no longer has them.{others}")
        }
        _ if facts.may_be_lost.is_some() => {
            format!("Records may be lost: see the message about {}.", facts.may_be_lost.as_deref().unwrap_or_default())
        }
        0 => "Nothing is lost.".to_owned(),
        lag => format!("Nothing is lost: {} in Kafka, which {kept}.", waiting_records(lag)),
    }
}

/// Returns a sentence about what limits the flow; `None` if the consumers did too little to tell. `cycles` has the shares of each
/// consumer's time in the order poll, decode, held, copy, commit, outage.
pub(super) fn limit(cycles: &[[f64; 6]]) -> Option<String> {
    #[expect(clippy::cast_precision_loss, reason = "a number of consumers")]
    let mean = |phase: usize| cycles.iter().map(|shares| shares[phase]).sum::<f64>() / cycles.len().max(1) as f64;
    let [poll, decode, held, _, _, outage] = std::array::from_fn(mean);
    if cycles.is_empty() || poll + decode + held + outage < 0.1 {
        return None;
    }
    Some(
        if outage > 0.3 {
            POSTGRES_UNAVAILABLE
        } else if held > 0.3 {
            "Postgres is the limit: consumers wait for their writers or for the rate limit."
        } else if decode > 0.7 {
            "This process is the limit: decoding takes most of its consumers' time. More consumers help if there are idle cores."
        } else {
            "Consumers wait for records: the pipeline has spare capacity."
        }
        .to_owned(),
    )
}

fn many(n: usize, one: &str, more: &str) -> String {
    format!("{} {}", whole_number(n as u64), if n == 1 { one } else { more })
}

pub(super) fn records(n: u64) -> String {
    if n == 1 { "1 record".to_owned() } else { format!("{} records", whole_number(n)) }
}

fn waiting_records(n: u64) -> String {
    format!("{} {}", records(n), if n == 1 { "waits" } else { "wait" })
}

pub(super) fn whole(rate: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a rate is positive and far below 2^53"
    )]
    let whole = rate.max(0.0).round() as u64;
    whole_number(whole)
}

/// Formats a count as `912`, `21 004` or `2.1 M`.
pub(super) fn whole_number(n: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    match n {
        0..10_000 => n.to_string(),
        10_000..1_000_000 => format!("{} {:03}", n / 1000, n % 1000),
        1_000_000..1_000_000_000 => format!("{:.1} M", n as f64 / 1e6),
        _ => format!("{:.1} G", n as f64 / 1e9),
    }
}

/// Formats seconds for people: `0.4 s`, `42 s`, `3 min`, `71 h`, `5 d`.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        s if s < 9.95 => format!("{s:.1} s"),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 96.0 * 3600.0 => format!("{:.0} h", s / 3600.0),
        s => format!("{:.0} d", s / 86400.0),
    }
}

#[cfg(test)]
mod tests;
