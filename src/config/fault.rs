//! The faults of a configuration, and their places.

use std::cmp::Reverse;
use std::fmt;
use std::path::PathBuf;

/// Where a key or a value of the configuration was set. `layer` numbers the files in their order, and then the environment. Later
/// layers override earlier ones. `line` and `column` count from 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SourceLocation {
    File {
        layer: usize,
        file: PathBuf,
    },
    Line {
        layer: usize,
        file: PathBuf,
        line: usize,
        column: usize,
    },
    Variable {
        layer: usize,
        name: String,
    },
    /// No file was given.
    Nowhere,
}

impl SourceLocation {
    pub(super) fn layer(&self) -> usize {
        match self {
            Self::File { layer, .. } | Self::Line { layer, .. } | Self::Variable { layer, .. } => *layer,
            Self::Nowhere => 0,
        }
    }

    /// Returns the folder at which relative paths start: the file's folder, or the current folder for a variable.
    pub(super) fn folder(&self) -> PathBuf {
        match self {
            Self::File { file, .. } | Self::Line { file, .. } => file.parent().map(PathBuf::from).unwrap_or_default(),
            Self::Variable { .. } | Self::Nowhere => PathBuf::new(),
        }
    }
}

impl fmt::Display for SourceLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, .. } => write!(f, "{}", file.display()),
            Self::Line { file, line, column, .. } => write!(f, "{}:{line}:{column}", file.display()),
            Self::Variable { name, .. } => f.write_str(name),
            Self::Nowhere => f.write_str("configuration"),
        }
    }
}

/// One fault: `tidegate.toml:31:1  pipelines.rides.batch.max_row: unknown key, did you mean max_rows?`
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    place: SourceLocation,
    key: String,
    message: String,
}

impl Fault {
    pub(super) fn new(place: SourceLocation, path: &[String], message: impl Into<String>) -> Self {
        Self { place, key: dotted(path), message: message.into() }
    }

    /// Returns the full key, with dots between its parts; empty if the fault concerns the whole file.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Returns what is wrong and what to do, without place and key.
    pub fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  ", self.place)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// All faults; never empty. Faults of whole files come first, then those at a line, in the order of the files, then those of
/// variables. Displayed one per line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(Vec<Fault>);

impl Faults {
    pub(super) fn new(mut faults: Vec<Fault>) -> Self {
        faults.sort();
        faults.dedup();
        Self(faults)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Formats a path as TOML does: parts that aren't bare keys are quoted.
pub(super) fn dotted(path: &[String]) -> String {
    let bare = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
    };
    let mut text = String::new();
    for part in path {
        if part.starts_with('[') {
            text.push_str(part); // an element of an array
            continue;
        }
        if !text.is_empty() {
            text.push('.');
        }
        if bare(part) {
            text.push_str(part);
        } else {
            text.push_str(&format!("{part:?}"));
        }
    }
    text
}

/// Returns the candidate that a misspelled word most likely meant. `None` if no candidate is similar.
pub(crate) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let allowed = (word.chars().count() / 3).max(1);
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        // If several names are equally close, prefer the longest: missing letters are more likely than extra ones.
        .min_by_key(|(distance, candidate)| (*distance, Reverse(candidate.len()), *candidate))
        .map(|(_, candidate)| candidate)
}
