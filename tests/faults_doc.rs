//! Checks the tests that `docs/faults.md` names: each test exists, and every fault has at least one test.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const FAULTS: usize = 32;

fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of the sources") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            into.push(path);
        }
    }
}

fn tests(root: &Path) -> BTreeSet<String> {
    let mut files = Vec::new();
    for folder in ["src", "tests", "crates"] {
        sources(&root.join(folder), &mut files);
    }
    let mut names = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("a source");
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            let name = line.trim_start_matches("async ").strip_prefix("fn ").and_then(|rest| rest.split('(').next());
            match name {
                Some(name) => {
                    if std::mem::take(&mut is_test) {
                        names.insert(name.to_owned());
                    }
                }
                None => is_test |= line.starts_with("#[test") || line.starts_with("#[tokio::test"),
            }
        }
    }
    names
}

/// Returns the texts between backticks that look like names of tests: at least four words joined by underscores.
fn named(text: &str) -> impl Iterator<Item = &str> {
    let is_name =
        |word: &&str| word.matches('_').count() >= 3 && word.chars().all(|c| c == '_' || c.is_ascii_alphanumeric());
    text.split('`').skip(1).step_by(2).filter(is_name).filter(|word| !word.starts_with("tidegate_"))
}

#[test]
fn every_test_that_the_list_of_faults_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/faults.md")).expect("the list of faults");
    let tests = tests(root);
    let missing: Vec<&str> = named(&text).filter(|name| !tests.contains(*name)).collect();
    assert!(missing.is_empty(), "no such tests: {missing:#?}");
    let mut numbers = Vec::new();
    for row in text.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let Ok(number) = cells[0].parse::<usize>() else { continue };
        assert!(named(cells[cells.len() - 1]).next().is_some(), "fault {number} names no test");
        numbers.push(number);
    }
    assert_eq!(numbers, (1..=FAULTS).collect::<Vec<_>>(), "each fault once, in order");
}
