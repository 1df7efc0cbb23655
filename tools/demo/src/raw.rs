//! The raw files: the measurements, one CSV file per kind. Plots and texts are made from them.

use std::fmt::Display;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

/// A CSV file that is being written. Commas and line ends in values are replaced by spaces.
#[derive(Debug)]
pub(crate) struct Sheet {
    columns: usize,
    text: String,
}

impl Sheet {
    pub(crate) fn new(columns: &[&str]) -> Self {
        Self { columns: columns.len(), text: columns.join(",") + "\n" }
    }

    pub(crate) fn push(&mut self, values: &[&dyn Display]) {
        assert_eq!(values.len(), self.columns, "a line has as many values as there are columns");
        let values: Vec<String> =
            values.iter().map(|value| value.to_string().replace([',', '\n', '\r'], " ")).collect();
        self.text += &values.join(",");
        self.text.push('\n');
    }

    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        fs::write(path, &self.text).with_context(|| format!("could not write `{}`", path.display()))
    }
}

/// A CSV file that was read back.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    columns: Vec<String>,
    rows: Vec<Vec<String>>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Line<'a> {
    columns: &'a [String],
    values: &'a [String],
}

impl Table {
    /// Reads a file that [`Sheet::save`] wrote.
    ///
    /// # Errors
    /// If the file can't be read or is empty, or a line has too few or too many values.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("could not read `{}`", path.display()))?;
        Self::parse(&text).with_context(|| format!("`{}`", path.display()))
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        let split = |line: &str| line.split(',').map(str::to_owned).collect::<Vec<_>>();
        let mut lines = text.lines();
        let columns = split(lines.next().context("the file is empty")?);
        let rows: Vec<Vec<String>> = lines.map(split).collect();
        for (at, row) in rows.iter().enumerate() {
            ensure!(row.len() == columns.len(), "line {} has {} values of {}", at + 2, row.len(), columns.len());
        }
        Ok(Self { columns, rows })
    }

    pub(crate) fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        self.rows.iter().map(|values| Line { columns: &self.columns, values })
    }

    /// Returns the distinct values of a column, in the order in which they first occur.
    pub(crate) fn distinct(&self, column: &str) -> Vec<String> {
        let mut seen = Vec::new();
        for line in self.lines() {
            let value = line.text(column).to_owned();
            if !seen.contains(&value) {
                seen.push(value);
            }
        }
        seen
    }
}

impl<'a> Line<'a> {
    /// Returns the text in a column; empty if there is no such column.
    pub(crate) fn text(&self, column: &str) -> &'a str {
        let at = self.columns.iter().position(|name| name == column);
        at.and_then(|at| self.values.get(at)).map_or("", String::as_str)
    }

    /// Returns the number in a column; `None` if the text there is empty or no number.
    pub(crate) fn number(&self, column: &str) -> Option<f64> {
        self.text(column).parse().ok()
    }

    /// Returns the number in a column; 0 if there is none.
    pub(crate) fn count(&self, column: &str) -> f64 {
        self.number(column).unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        let mut sheet = Sheet::new(&["way", "rows", "caught_up"]);
        sheet.push(&[&"INSERT, a record", &12, &"3.5"]);
        sheet.push(&[&"tidegate", &34, &""]);
        let table = Table::parse(&sheet.text).unwrap();
        assert_eq!(table.distinct("way"), ["INSERT  a record", "tidegate"]);
        let lines: Vec<_> = table.lines().collect();
        assert_eq!((lines[0].count("rows"), lines[0].number("caught_up")), (12.0, Some(3.5)));
        assert_eq!((lines[1].number("caught_up"), lines[1].text("nothing")), (None, ""));
    }

    #[test]
    fn a_line_that_was_cut_off_is_told() {
        let told = format!("{:#}", Table::parse("a,b\n1,2\n3\n").unwrap_err());
        assert!(told.contains("line 3 has 1 values of 2"), "{told}");
    }
}
