//! The measurements of a turn.

use std::fmt;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    /// Rows per second between 10 % and 90 % of the rows; for a bare COPY, of all rows.
    pub(crate) rows_per_second: f64,
    /// Rows per second of the whole turn. If the contender is a process, the turn includes its start.
    pub(crate) rows_per_second_whole: f64,
    /// Seconds from the start of the process to the first committed row; 0 if it wasn't measured.
    pub(crate) first_row: f64,
    /// CPU seconds per million rows, used by the contender's process and its descendants; 0 for a bare COPY.
    pub(crate) cpu_per_million: f64,
    /// CPU seconds per million rows, used by all processes of Postgres.
    pub(crate) postgres_cpu_per_million: f64,
    /// Peak resident memory of the contender's own process, in MiB; 0 if it wasn't measured.
    pub(crate) peak_rss_mib: f64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} rows/s (whole run {:.0}), first row after {:.2} s, {:.2} CPU-s/M, Postgres {:.2} CPU-s/M, peak RSS {:.0} MiB",
            self.rows_per_second,
            self.rows_per_second_whole,
            self.first_row,
            self.cpu_per_million,
            self.postgres_cpu_per_million,
            self.peak_rss_mib
        )
    }
}
