//! The faults of a plan.

use std::fmt;

/// One fault of a mapping against its table: where in the configuration, and what is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanFault {
    /// The configuration's key: `pipelines.ride_history.columns.lat.type`.
    pub key: String,
    /// The fault and its remedy.
    pub message: String,
}

impl fmt::Display for PlanFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.message)
    }
}

impl std::error::Error for PlanFault {}

/// Gathers the faults of one pipeline.
#[derive(Debug)]
pub(crate) struct Faults {
    prefix: String,
    list: Vec<PlanFault>,
}

impl Faults {
    /// Starts an empty list; keys lie below `pipelines.NAME`.
    pub(crate) fn of(pipeline: &str) -> Self {
        Self { prefix: format!("pipelines.{pipeline}"), list: Vec::new() }
    }

    /// `key` is below the pipeline's own.
    pub(crate) fn push(&mut self, key: impl fmt::Display, message: impl Into<String>) {
        self.list.push(PlanFault { key: format!("{}.{key}", self.prefix), message: message.into() });
    }

    /// `value`, if nothing was wrong.
    pub(crate) fn or<T>(self, value: T) -> Result<T, Vec<PlanFault>> {
        if self.list.is_empty() { Ok(value) } else { Err(self.list) }
    }
}

/// `; did you mean x?`, where one of the names is close.
pub(crate) fn hint<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> String {
    let closest = names.map(|other| (strsim::damerau_levenshtein(name, other), other)).min();
    closest
        .filter(|(distance, _)| *distance <= 2)
        .map_or(String::new(), |(_, name)| format!("; did you mean `{name}`?"))
}
