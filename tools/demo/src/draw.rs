//! Draws the plots. All data comes from the raw CSV files.

mod flood;
mod ladder;
mod paper;
mod services;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::raw::Table;

/// Draws every plot whose raw files are in `folder`, and saves it in `folder`. Returns the plots' file names.
pub(crate) fn draw(folder: &Path) -> Result<Vec<&'static str>> {
    let mut drawn = Vec::new();
    let mut save = |name: &'static str, svg: String| -> Result<()> {
        fs::write(folder.join(name), svg).with_context(|| format!("could not write `{name}`"))?;
        drawn.push(name);
        Ok(())
    };
    let read = |name: &str| Table::read(&folder.join(name));
    if folder.join("ladder.csv").exists() {
        save("ladder.svg", ladder::draw(&read("ladder.csv")?)?)?;
    }
    if folder.join("flood.csv").exists() {
        save("flood.svg", flood::draw(&read("flood.csv")?, &read("flood-series.csv")?, &read("flood-events.csv")?)?)?;
    }
    if folder.join("services.csv").exists() {
        let (series, events) = (read("services-series.csv")?, read("services-events.csv")?);
        save("services.svg", services::draw(&series, &events)?)?;
    }
    Ok(drawn)
}
