//! Who reads what, and who is behind, in words.

use serde_json::Value;

use super::super::words::whole_number;
use super::{list, time, word};

/// Partitions named in a box; the others are counted.
const PARTITIONS: usize = 24;
/// Partitions named as those that lag most.
const WORST: usize = 5;

/// The partitions that lag most, the worst first.
pub(super) fn behind(partitions: &[Value]) -> Vec<String> {
    let mut worst: Vec<&Value> = partitions.iter().filter(|p| p["lag_records"].as_u64() > Some(0)).collect();
    worst.sort_by_key(|partition| std::cmp::Reverse(partition["lag_records"].as_u64()));
    worst
        .into_iter()
        .take(WORST)
        .map(|p| {
            let behind = whole_number(p["lag_records"].as_u64().unwrap_or_default());
            format!("{}/{} {behind} ({})", word(&p["topic"]), p["partition"], time(&p["lag_seconds"]))
        })
        .collect()
}

/// Partitions that nobody reads, with who read them last.
pub(super) fn unread(pipeline: &Value, places: &Value) -> String {
    let places = list(places);
    let name = |place: &Value| {
        let at = usize::try_from(place.as_u64().unwrap_or_default()).unwrap_or_default();
        let partition = &pipeline["partitions"][at];
        let last = partition["owner"].as_str().map_or_else(
            || "never read".to_owned(),
            |owner| format!("last {owner}, {} ago", time(&partition["idle_seconds"])),
        );
        format!("{}/{} ({last})", word(&partition["topic"]), partition["partition"])
    };
    let mut names: Vec<String> = places.iter().take(PARTITIONS).map(name).collect();
    if places.len() > PARTITIONS {
        names.push(format!("and {} more", places.len() - PARTITIONS));
    }
    names.join(", ")
}

pub(super) fn chips(pipeline: &Value, places: &Value) -> String {
    let places = list(places);
    if places.is_empty() {
        return "idle".to_owned();
    }
    let several = list(&pipeline["topics"]).len() > 1;
    let name = |place: &Value| {
        let partition =
            &pipeline["partitions"][usize::try_from(place.as_u64().unwrap_or_default()).unwrap_or_default()];
        let topic = if several { format!("{}/", word(&partition["topic"])) } else { String::new() };
        let sign = match word(&partition["sign"]) {
            "flowing" => String::new(),
            sign => format!("({sign})"),
        };
        format!("{topic}{}{sign}", partition["partition"])
    };
    let mut names: Vec<String> = places.iter().take(PARTITIONS).map(name).collect();
    if places.len() > PARTITIONS {
        names.push(format!("and {} more", places.len() - PARTITIONS));
    }
    names.join(" ")
}
