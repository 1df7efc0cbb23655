//! Comments and documentation follow a few rules that a program can check: the subject first, standard verbs, "per" in statements
//! of cost, no comment that only repeats a name.

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// A pattern that no line of prose may match, and advice for a line that matches. `bad` is a text that matches, and `good` one
/// that doesn't.
struct Rule {
    pattern: &'static str,
    instead: &'static str,
    bad: &'static str,
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
        pattern: r"\b([0-9]+|an?|one|two|no) (\w+ )?(allocations?|locks?|[kMG]?i?B|bytes|rows?|records?|spans?|statements?|buffers?|arrays?|box(?:es)?|chips?|objects?|daemons|entry|encoder|transaction|COPY|NOTIFY|call|ns|µs|ms|s) an? (record|row|batch|second|minute|hour|message|partition|pipeline|consumer|instance|segment|window|column|claim|key|table|type)\b",
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
    Rule {
        pattern: r"(^|[.;] )Nor (do|does|did|is|are|can|will|may) ",
        instead: "name the subject again: \"Repeating all records makes no adjustment either.\"",
        bad: "Nor does a repetition of everything.",
        good: "Neither a text nor a number.",
    },
    Rule {
        pattern: r"\bof which (columns|paths)\b",
        instead: "\"from which columns take parts\"",
        bad: "A value of which columns take parts.",
        good: "Says which columns differ, and of which type they are.",
    },
];

/// Matches a doc comment of up to three words. Such a comment says no more than the name.
const NOISE: &str = r"^\s*//[/!] \S+( \S+){0,2}\.$";

/// Matches what makes a short doc comment worth its line: a number, code, a link, a unit, a bound.
const WORTH: &str = r"[0-9`\[<]|\b(milli|micro|nano)?seconds?\b|\b[Mm]inutes\b|\b([Kk]ilo|[Kk]i)?[Bb]ytes\b|\bUTC\b|\bUnix\b|\b[Uu]nquoted\b|\b([Ii]n|[Ee]x)clusive\b|\b[Ss]orted\b|\bPure\b|\b(Never|Always|Not|No|Only|At|Without|May|Must)\b|\bnever\b|\bmay\b|\bmust\b|\bat (least|most)\b";

/// Returns the numbers of the lines whose doc comment says no more than the name, counted from 1. Files with command-line options
/// are left out, because their comments are help texts.
fn noise(text: &str) -> Vec<usize> {
    if text.contains("clap") {
        return Vec::new();
    }
    let (noise, worth) = (Regex::new(NOISE).expect("a pattern"), Regex::new(WORTH).expect("a pattern"));
    let lines: Vec<&str> = text.lines().collect();
    let is_doc = |at: Option<usize>| {
        at.and_then(|at| lines.get(at))
            .is_some_and(|line| ["///", "//!"].iter().any(|sign| line.trim().starts_with(sign)))
    };
    let is_alone = |at: usize| !is_doc(at.checked_sub(1)) && !is_doc(Some(at + 1));
    let is_noise = |at: &usize| noise.is_match(lines[*at]) && !worth.is_match(lines[*at]) && is_alone(*at);
    (0..lines.len()).filter(is_noise).map(|at| at + 1).collect()
}

/// Returns the files with prose. The flag says whether only the file's comments are prose.
fn files(root: &Path) -> Vec<(PathBuf, bool)> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> =
        ["src", "crates", "migrations", "tools", "tests", "benches", "docs", "config", "fuzz/fuzz_targets", "deploy"]
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

/// Returns the prose of a line. With `comments_only`, it is the text after a comment's sign (such as `//`), and `None` for other
/// lines. Otherwise it is the line without Markdown's signs at its beginning.
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
        if path.extension().is_some_and(|extension| extension == "rs") {
            let lines = noise(&text).into_iter();
            faults.extend(lines.map(|line| format!("{place}:{line}: the comment says no more than the name")));
        }
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

#[test]
fn noise_is_a_comment_of_three_words_that_stands_alone() {
    assert_eq!(
        noise("struct A {\n    /// Its offset.\n    offset: u64,\n    /// Which.\n    which: bool,\n}\n"),
        [2, 4]
    );
    for kept in [
        "/// Returns the offset of the next record.\nfn next() {}\n",
        "/// Returns the offset of the record that comes after\n/// the last one.\nfn next() {}\n",
        "/// Unix milliseconds.\ntime: i64,\n",
        "/// Never 0.\ncount: u64,\n",
        "use clap::Args;\n/// The shell.\nshell: Shell,\n",
    ] {
        assert_eq!(noise(kept), [0; 0], "{kept}");
    }
}
