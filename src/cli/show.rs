//! Output for people: tables, times, counts, and bytes in a form that a terminal may safely show.

use std::fmt::Write as _;

use serde::Serialize;

use crate::error::FatalError;

pub(super) fn json(document: &impl Serialize) -> Result<(), FatalError> {
    let text = serde_json::to_string_pretty(document);
    let text = text.map_err(FatalError::bug)?;
    print(&text)
}

/// Prints text. A reader that has closed the pipe (`| head`) is not an error.
pub(super) fn print(text: &str) -> Result<(), FatalError> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(FatalError::Stopped(format!("can't write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// Formats a table with aligned columns. A column is right-aligned if all cells below its title look like numbers.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|&title| title.to_owned()).collect()] }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(super) fn text(&self, indent: &str) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let cell = |row: &'_ Vec<String>, n: usize| row.get(n).cloned().unwrap_or_default();
        let wide: Vec<usize> =
            (0..columns).map(|n| self.rows.iter().map(|row| cell(row, n).chars().count()).max().unwrap_or(0)).collect();
        let right: Vec<bool> = (0..columns)
            .map(|n| self.rows.len() > 1 && self.rows.iter().skip(1).all(|row| is_number(&cell(row, n))))
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = indent.to_owned();
            for n in 0..columns {
                let (cell, width) = (cell(row, n), wide[n]);
                // Writing to a String can't fail.
                let _infallible =
                    if right[n] { write!(line, "{cell:>width$}  ") } else { write!(line, "{cell:<width$}  ") };
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }
}

fn is_number(cell: &str) -> bool {
    cell == "-" || cell.starts_with(|c: char| c.is_ascii_digit()) && !cell.contains(':')
}

/// Formats a count with separated thousands: `1 234 567`.
pub(super) fn count(number: impl Into<i128>) -> String {
    let number: i128 = number.into();
    let digits = number.unsigned_abs().to_string();
    let mut text = if number < 0 { "-".to_owned() } else { String::new() };
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

pub(super) fn counted(number: u64, one: &str, many: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{} {many}", count(number)) }
}

/// Formats milliseconds since the epoch in RFC 3339.
pub(super) fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |time| time.to_string())
}

/// Returns bytes as text if no information is lost and the text can't control a terminal; otherwise `None`.
pub(super) fn as_text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok().filter(|text| text.chars().all(|c| !c.is_control() || c == '\n' || c == '\t'))
}

/// Formats text of unknown origin as one line that can't control a terminal.
pub(super) fn safe(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] }).collect()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stand_right_and_words_left() {
        let mut table = Table::new(&["topic", "lag"]);
        table.row(["a".to_owned(), count(7)]);
        table.row(["telemetry".to_owned(), count(1_234_567)]);
        assert_eq!(table.text("  "), "  topic            lag\n  a                  7\n  telemetry  1 234 567\n");
    }

    #[test]
    fn bytes_that_would_steer_a_terminal_are_no_text() {
        assert_eq!(as_text("grün\n".as_bytes()), Some("grün\n"));
        assert_eq!(as_text(b"\x1b[2J"), None);
        assert_eq!(as_text(b"\xff"), None);
        assert_eq!(safe("a\x1b[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(hex(b"\x00\xff"), "00ff");
    }
}
