//! Reads the table back: which records are in it, how often, and when they were committed.

use anyhow::{Context, Result};
use futures_util::TryStreamExt;

use super::book::{Book, NEVER};
use crate::stage::Stage;

/// Selects every row with the time of its commit, which Postgres stores (`track_commit_timestamp`).
const ROWS: &str = "COPY (SELECT vehicle_id, seq,
    (extract(epoch FROM pg_xact_commit_timestamp(xmin)) * 1000000)::int8 FROM ride) TO STDOUT";

/// Adds every row of the table to the book. `started_us` is the schedule's start, in microseconds since 1970. The vehicles 1 to
/// `vehicles` send in turn, so a vehicle's number and the sequence number give a record's index.
pub(super) async fn read(stage: &Stage, book: &mut Book, started_us: i64, vehicles: u32) -> Result<()> {
    let mut connection = stage.database.connect().await?;
    let mut chunks = connection.copy_out_raw(ROWS).await?;
    let mut rest = Vec::new();
    while let Some(chunk) = chunks.try_next().await? {
        rest.extend_from_slice(&chunk);
        let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in rest[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let (index, committed) = row(std::str::from_utf8(line)?, started_us, vehicles)?;
            book.row(index, committed);
        }
        rest.drain(..whole);
    }
    Ok(())
}

fn row(line: &str, started_us: i64, vehicles: u32) -> Result<(u32, u32)> {
    let mut fields = line.split('\t');
    let mut field = || -> Result<i64> { Ok(fields.next().context("a row is cut short")?.parse()?) };
    let (vehicle, seq, committed_us) = (field()?, field()?, field()?);
    let index = u32::try_from(seq * i64::from(vehicles) + vehicle - 1)?;
    Ok((index, u32::try_from((committed_us - started_us).max(0)).unwrap_or(NEVER - 1)))
}

#[cfg(test)]
mod tests {
    use fleet::{Fleet, FleetSpec};

    use super::*;

    #[test]
    fn a_row_names_its_record_and_when_it_was_committed() {
        assert_eq!(row("3\t2\t1700000000000500", 1_700_000_000_000_000, 10).unwrap(), (22, 500));
        // Two clocks may differ slightly, so a commit may seem to come before the start.
        assert_eq!(row("1\t0\t1699999999999999", 1_700_000_000_000_000, 10).unwrap(), (0, 0));
        assert!(row("1\t0", 0, 10).is_err());
    }

    #[test]
    fn number_and_sequence_are_the_fleets_own_order() {
        let fleet = Fleet::new(FleetSpec { vehicles: 7, ..FleetSpec::default() }).unwrap();
        for reading in fleet.take(100) {
            assert_eq!(reading.index, reading.seq * 7 + u64::from(reading.vehicle_id) - 1);
        }
    }
}
