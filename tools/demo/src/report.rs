//! The report of a run: sentences and a page, made from the raw files only.

mod flood;
mod html;
mod ladder;
pub(crate) mod readme;
mod services;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::raw::Table;
pub(crate) use html::escaped;

/// The kind of a sentence. `Kept` and `Broken` are about promises of Tidegate. One broken promise makes the verdict bad. `Worse`
/// is for a comparison in which Tidegate or Kafka does worse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Kept,
    Broken,
    Plain,
    Worse,
}

#[derive(Clone, Debug)]
pub(crate) struct Sentence {
    pub(crate) tone: Tone,
    pub(crate) text: String,
}

#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) ladder: Vec<Sentence>,
    pub(crate) flood: Vec<Sentence>,
    pub(crate) services: Vec<Sentence>,
    run: Value,
    ladder_table: Option<Table>,
    flood_table: Option<Table>,
    services_table: Option<Table>,
}

impl Sentence {
    fn new(tone: Tone, text: impl Into<String>) -> Self {
        Self { tone, text: text.into() }
    }

    pub(crate) fn sign(&self) -> &'static str {
        match self.tone {
            Tone::Kept => "✔",
            Tone::Broken => "✘",
            Tone::Plain => "·",
            Tone::Worse => "▽",
        }
    }
}

impl Report {
    /// Reads the raw files in `folder`. Only `run.json` must exist. The figures of missing CSV files are left out.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let table = |name: &str| -> Result<Option<Table>> {
            let path = folder.join(name);
            if path.exists() { Table::read(&path).map(Some) } else { Ok(None) }
        };
        let (rungs, flood, services) = (table("ladder.csv")?, table("flood.csv")?, table("services.csv")?);
        let (series, events) = (table("flood-series.csv")?, table("flood-events.csv")?);
        let run = fs::read_to_string(folder.join("run.json")).context("there is no run.json")?;
        let (lags, happened) = (table("services-series.csv")?, table("services-events.csv")?);
        let told = services.as_ref().zip(lags.as_ref()).zip(happened.as_ref());
        let flooded = flood.as_ref().zip(series.as_ref()).zip(events.as_ref());
        Ok(Self {
            ladder: rungs.as_ref().map(ladder::sentences).unwrap_or_default(),
            flood: flooded.map(|((flood, series), events)| flood::sentences(flood, series, events)).unwrap_or_default(),
            services: told.map(|((books, lags), events)| services::sentences(books, lags, events)).unwrap_or_default(),
            run: serde_json::from_str(&run).context("run.json")?,
            ladder_table: rungs,
            flood_table: flood,
            services_table: services,
        })
    }

    pub(crate) fn sentences(&self) -> impl Iterator<Item = &Sentence> {
        self.ladder.iter().chain(&self.flood).chain(&self.services)
    }

    pub(crate) fn is_good(&self) -> bool {
        self.sentences().all(|sentence| sentence.tone != Tone::Broken)
    }

    pub(crate) fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join("report.html");
        fs::write(&path, html::page(self, folder)).with_context(|| format!("could not write `{}`", path.display()))
    }
}
