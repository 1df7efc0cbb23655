//! What the three services say.

use super::{Sentence, Tone};
use crate::numbers::grouped;
use crate::raw::Table;

pub(super) fn sentences(services: &Table) -> Vec<Sentence> {
    let of_each = services.lines().map(|line| {
        let is_clean = ["missing", "twice", "wrong", "dead_letters"].iter().all(|column| line.count(column) == 0.0);
        let text = format!(
            "{}: {} records sent, {} rows expected, {} in the table; {} missing, {} twice, {} wrong, {} dead letters ({}). At most \
             {} records behind.",
            line.text("service"),
            grouped(line.count("sent")),
            grouped(line.count("expected")),
            grouped(line.count("in_table")),
            grouped(line.count("missing")),
            grouped(line.count("twice")),
            grouped(line.count("wrong")),
            grouped(line.count("dead_letters")),
            line.text("what"),
            grouped(line.count("largest_lag")),
        );
        Sentence::new(if is_clean { Tone::Kept } else { Tone::Broken }, text)
    });
    of_each.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_wrong_fare_breaks_the_verdict() {
        let table = |wrong: &str| {
            Table::parse(&format!(
                "service,sent,expected,in_table,missing,twice,wrong,dead_letters,largest_lag,what\nfare,100,9,9,0,0,{wrong},0,7,fares\n"
            ))
            .unwrap()
        };
        assert_eq!(sentences(&table("0"))[0].tone, Tone::Kept);
        let broken = &sentences(&table("1"))[0];
        assert_eq!(broken.tone, Tone::Broken);
        assert!(broken.text.contains("1 wrong"), "{}", broken.text);
    }
}
