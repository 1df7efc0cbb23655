//! The faults of a plan.

use std::fmt;

/// One error in a mapping, or one conflict between a mapping and its table. `key` is the key in the configuration, for example
/// `pipelines.ride_history.columns.lat.type`. `message` says what is wrong, and in many cases how to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanFault {
    pub key: String,
    pub message: String,
}

impl fmt::Display for PlanFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

impl std::error::Error for PlanFault {}

/// Collects the faults of one pipeline. All their keys begin with `pipelines.NAME`.
#[derive(Debug)]
pub(crate) struct Faults {
    prefix: String,
    list: Vec<PlanFault>,
}

impl Faults {
    pub(crate) fn of(pipeline: &str) -> Self {
        Self { prefix: format!("pipelines.{pipeline}"), list: Vec::new() }
    }

    /// Adds a fault. `key` is relative to the pipeline's own key.
    pub(crate) fn push(&mut self, key: impl fmt::Display, message: impl Into<String>) {
        self.list.push(PlanFault { key: format!("{}.{key}", self.prefix), message: message.into() });
    }

    pub(crate) fn or<T>(self, value: T) -> Result<T, Vec<PlanFault>> {
        if self.list.is_empty() { Ok(value) } else { Err(self.list) }
    }
}

/// Returns `; did you mean x?` if one of the names is similar, and otherwise the empty text.
pub(crate) fn hint<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> String {
    let closest = names.map(|other| (strsim::damerau_levenshtein(name, other), other)).min();
    closest
        .filter(|(distance, _)| *distance <= 2)
        .map_or(String::new(), |(_, name)| format!("; did you mean `{name}`?"))
}
