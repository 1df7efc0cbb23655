//! What a turn comes to.

use std::fmt;

/// One contender's turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figures {
    /// Between 10 % and 90 % of the rows.
    pub(crate) rows_per_second: f64,
    /// From the process's start to the last row.
    pub(crate) rows_per_second_whole: f64,
    /// Of the contender's own process.
    pub(crate) cpu_per_million: f64,
    /// Of Postgres, all its processes.
    pub(crate) postgres_cpu_per_million: f64,
    /// Of the contender's own process; 0 where it wasn't looked at.
    pub(crate) peak_rss_mib: f64,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} rows/s (whole run {:.0}), {:.2} CPU-s/M, Postgres {:.2} CPU-s/M, peak RSS {:.0} MiB",
            self.rows_per_second,
            self.rows_per_second_whole,
            self.cpu_per_million,
            self.postgres_cpu_per_million,
            self.peak_rss_mib
        )
    }
}
