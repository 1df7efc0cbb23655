//! Comments and documentation follow a few rules that a program can check: short English sentences, the subject first,
//! standard verbs, "per" in statements of cost.

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// A pattern that no line may match, and what to write instead.
struct Rule {
    pattern: &'static str,
    instead: &'static str,
    /// Matches, and must.
    bad: &'static str,
    /// Doesn't match, and mustn't.
    good: &'static str,
}

const RULES: &[Rule] = &[
    Rule {
        pattern: r"(^|[.] )(Who|Whoever|Whose) [a-z][^?]*$",
        instead: "name the subject: \"An owner without the claim …\"",
        bad: "Who doesn't hold the claim moves nothing.",
        good: "Who may read it?",
    },
    Rule {
        pattern: r"(^|[.] )What [a-z][^?]*\.$",
        instead: "name the subject, or begin with a verb: \"Returns …\"",
        bad: "What the group says, put down for the poll thread.",
        good: "What is each trip's fare?",
    },
    Rule {
        pattern: r"\b([0-9]+|an?|one|two|no) (\w+ )?(allocations?|locks?|[kMG]?i?B|bytes|rows?|records?|spans?|statements?|buffers?|arrays?|boxe?s?|chips?|objects?|daemons|entry|encoder|transaction|COPY|NOTIFY|call|ns|µs|ms|s) an? (record|row|batch|second|minute|hour|message|partition|pipeline|consumer|instance|segment|window|column|claim|key|table|type)\b",
        instead: "\"per\": one transaction per batch",
        bad: "one transaction a batch",
        good: "one transaction per batch",
    },
    Rule {
        pattern: r"\b(set|sets|setting) (\w+ ){0,3}aside\b",
        instead: "dead-letter",
        bad: "setting more of them aside",
        good: "an aside",
    },
    Rule {
        pattern: r"\b[Hh](old|olds|eld|olding) (\w+ ){0,6}against\b",
        instead: "compare with",
        bad: "Holds the table against the ledger.",
        good: "Compares the table with the ledger.",
    },
    Rule { pattern: r"\banew\b", instead: "again, recreate, rebuild", bad: "Makes all rows anew.", good: "Renewed." },
    Rule {
        pattern: r"\b[Ss]ees? to\b|\bseen to(\.|,|;| before)",
        instead: "handle, make sure",
        bad: "Sees to the tables.",
        good: "The log was seen to become shorter.",
    },
    Rule {
        pattern: r"\bat hand\b",
        instead: "current, available",
        bad: "with the session at hand",
        good: "at handover",
    },
    Rule {
        pattern: r"\b(data|pure|the) rooms\b",
        instead: "the pure core",
        bad: "This belongs to the pure rooms.",
        good: "It makes room for the next one.",
    },
    Rule {
        pattern: r"\b[Tt]he books\b",
        instead: "record accounting",
        bad: "The books balance.",
        good: "The accounting balances.",
    },
];

/// Files with prose, and whether only their comments are.
fn files(root: &Path) -> Vec<(PathBuf, bool)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        // Not the migrations: their checksums are in the databases that ran them, so that they never change.
        ["src", "crates", "tools", "tests", "benches", "docs", "config", "fuzz/fuzz_targets", "deploy"]
            .map(|name| root.join(name))
            .into();
    found.extend(
        ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
            .map(|name| (root.join(name), false)),
    );
    found.extend(
        ["Makefile", "Dockerfile", "docker-compose.yml", "deny.toml", "Cargo.toml"].map(|name| (root.join(name), true)),
    );
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("the entry is readable").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("md") => found.push((path, false)),
                Some("rs" | "toml" | "sql" | "yml" | "yaml" | "sh" | "py") => found.push((path, true)),
                _ => {}
            }
        }
    }
    found.retain(|(path, _)| !path.ends_with("tests/words.rs"));
    found
}

/// The prose of a line: all of it, or what follows the comment's sign.
fn prose(line: &str, comments_only: bool) -> Option<&str> {
    let line = line.trim();
    if !comments_only {
        return Some(line.trim_start_matches(['#', '-', '*', '>', ' ']));
    }
    let rest = ["///", "//!", "//", "--", "#"].iter().find_map(|sign| line.strip_prefix(sign))?;
    Some(rest.trim())
}

#[test]
fn prose_follows_the_rules() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let rules: Vec<(Regex, &Rule)> =
        RULES.iter().map(|rule| (Regex::new(rule.pattern).expect("the pattern is one"), rule)).collect();
    let mut faults = Vec::new();
    for (path, comments_only) in files(root) {
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let place = path.strip_prefix(root).expect("it lies below the root").display().to_string();
        for (number, line) in text.lines().enumerate() {
            let Some(prose) = prose(line, comments_only) else { continue };
            for (pattern, rule) in &rules {
                if let Some(found) = pattern.find(prose) {
                    faults.push(format!("{place}:{}: {:?}: {}", number + 1, found.as_str(), rule.instead));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{} lines to rewrite:\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn each_rule_finds_what_it_is_for() {
    for Rule { pattern, bad, good, .. } in RULES {
        let pattern = Regex::new(pattern).expect("the pattern is one");
        assert!(pattern.is_match(bad), "{pattern} misses {bad:?}");
        assert!(!pattern.is_match(good), "{pattern} forbids {good:?}");
    }
}
