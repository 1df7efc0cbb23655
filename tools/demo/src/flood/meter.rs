//! Measures the CPU time of the writer, of the database and of Kafka, over restarts of their processes.

use std::time::Duration;

use tidegate_harness::usage;

pub(crate) const WRITER: usize = 0;
pub(crate) const POSTGRES: usize = 1;
pub(crate) const KAFKA: usize = 2;

/// Adds up the CPU time of the writer, of the database and of Kafka. Their processes may restart. The time is sampled twice per
/// second. The time between a process's last sample and its end is lost.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    last: [Option<(u32, Duration)>; 3],
    total: [Duration; 3],
}

impl Meter {
    /// Adds the CPU time that `part` has used since the last sample. `pid` is the part's current process.
    pub(crate) fn count(&mut self, part: usize, pid: Option<u32>) {
        let Some(pid) = pid else { return };
        let Ok(used) = usage::cpu_time(pid, true) else { return };
        self.note(part, pid, used);
    }

    /// Begins to count a process that has been running for a while. Its earlier CPU time isn't counted.
    pub(crate) fn begin(&mut self, part: usize, pid: u32) {
        if let Ok(used) = usage::cpu_time(pid, true) {
            self.last[part] = Some((pid, used));
        }
    }

    fn note(&mut self, part: usize, pid: u32, used: Duration) {
        let before = match self.last[part] {
            Some((last, used)) if last == pid => used,
            _ => Duration::ZERO,
        };
        self.total[part] += used.saturating_sub(before);
        self.last[part] = Some((pid, used));
    }

    pub(crate) fn seconds(&self, part: usize) -> f64 {
        self.total[part].as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_goes_on_counting_when_its_process_is_another() {
        let mut meter = Meter::default();
        meter.last[POSTGRES] = Some((7, Duration::from_secs(10)));
        meter.note(POSTGRES, 7, Duration::from_secs(12));
        meter.note(POSTGRES, 9, Duration::from_secs(1));
        meter.note(POSTGRES, 9, Duration::from_secs(3));
        assert_eq!(meter.seconds(POSTGRES), 5.0);
        assert_eq!(meter.seconds(KAFKA), 0.0);
    }
}
