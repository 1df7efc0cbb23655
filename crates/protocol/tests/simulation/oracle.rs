//! Checks the invariants:
//! - Each record before the ledger's offset is exactly once in the table or in the dead letters. Except: records that a rule
//!   skips, that Kafka no longer has, or that are excused. The ledger moved past excused records into another log, or past a
//!   log-loss condition.
//! - No record of the same log at or after the ledger's offset is in the table or in the dead letters.
//! - Rows and dead letters are in the order of the log.
//! - At the end of a run, no record is left to write.

use std::collections::BTreeMap;

use tidegate_protocol::position::Offset;

use crate::kafka::{Kafka, Kind, Place, index};
use crate::postgres::{Data, Row};
use crate::world::World;

/// Checks, before a COMMIT, each partition that continues in another log than the ledger's. Reports a violation if the daemon
/// could have noticed: the new log has a record at the last committed offset. Excuses the new log's records before the
/// transaction's first one, which may be missing from the table.
pub(crate) fn before_commit(world: &mut World, backend: u64) {
    let mut crossed = Vec::new();
    for span in world.server.moves_of(backend) {
        let Some(cell) = &world.server.data.ledger[span.partition] else { continue };
        if cell.log == span.log {
            continue;
        }
        let places = &world.kafka.logs[span.log].places;
        let known = cell.last.filter(|last| matches!(places.get(index(last.offset)), Some(Place::Live(_))));
        crossed.push((span.partition, span.log, index(span.from), known));
    }
    for (partition, log, from, known) in crossed {
        if let Some(last) = known {
            world.violated(format!(
                "partition {partition} went on in log {log}, at {} lies another record",
                last.offset
            ));
        }
        world.excuse(log, 0, from);
    }
}

pub(crate) fn audit(world: &mut World) {
    if let Err(what) = check(&world.kafka, &world.server.data) {
        world.violated(what);
    }
}

fn check(kafka: &Kafka, data: &Data) -> Result<(), String> {
    for partition in 0..kafka.sources.len() {
        let Some(cell) = &data.ledger[partition] else { continue };
        let rows = counted(partition, &data.rows[partition], "row")?;
        let dead = counted(partition, &data.dead[partition], "dead letter")?;
        for ((log, at), letter) in &dead {
            if !letter.kind.may_be_dead() {
                return Err(format!("partition {partition}: a good record is a dead letter: log {log}, offset {at}"));
            }
        }
        let next = index(cell.next);
        let beyond = rows.keys().chain(dead.keys()).find(|(log, at)| *log == cell.log && *at >= next);
        if let Some((log, at)) = beyond {
            return Err(format!("partition {partition}: log {log}, offset {at} is there, the ledger stands at {next}"));
        }
        for (log, places) in kafka.logs.iter().enumerate().map(|(log, l)| (log, &l.places)) {
            if log != cell.log {
                continue;
            }
            for (at, place) in places.iter().enumerate().take(next) {
                let Place::Live(kind) = *place else { continue };
                let (row, letter) = (rows.get(&(log, at)), dead.get(&(log, at)));
                let whole = match (row, letter) {
                    (Some(row), None) => row.rows == kind.rows(),
                    (None, Some(_)) => true,
                    (None, None) => kind == Kind::Skipped,
                    (Some(_), Some(_)) => false,
                };
                if !whole {
                    let found = format!("{row:?} and {letter:?}");
                    return Err(format!(
                        "partition {partition}: log {log}, offset {at}, {kind:?}, is there as {found}"
                    ));
                }
            }
        }
    }
    Ok(())
}

#[derive(Debug)]
struct Found {
    kind: Kind,
    rows: u8,
}

/// Returns how many rows each record has. Fails if a row is duplicated, or if rows aren't in the order of the log.
fn counted(partition: usize, rows: &[Row], what: &str) -> Result<BTreeMap<(usize, usize), Found>, String> {
    let mut found: BTreeMap<(usize, usize), Found> = BTreeMap::new();
    for pair in rows.windows(2) {
        let place = |row: &Row| (row.log, row.at, row.nth);
        if place(&pair[0]) >= place(&pair[1]) {
            return Err(format!("partition {partition}: {what} {:?} comes after {:?}", pair[1], pair[0]));
        }
    }
    for row in rows {
        let kind = Kind::of(row.kind);
        found.entry((row.log, index(row.at))).or_insert(Found { kind, rows: 0 }).rows += 1;
    }
    Ok(found)
}

/// Returns whether all records of Kafka's current logs are written, or needn't be.
pub(crate) fn drained(world: &World) -> bool {
    world.kafka.current.iter().zip(&world.server.data.ledger).all(|(current, cell)| {
        let Some(cell) = cell else { return false };
        let log = &world.kafka.logs[*current];
        // A log that can't be identified counts as the log that the ledger knows, unless it is shorter.
        let known = cell.last.is_some_and(|last| matches!(log.places.get(index(last.offset)), Some(Place::Live(_))));
        let same = cell.log == *current || (!known && log.high() >= cell.next);
        if same { log.next(cell.next).is_none() } else { log.next(Offset::ZERO).is_none() }
    })
}

pub(crate) fn undrained(world: &World) -> String {
    let ledger = world.server.data.ledger.iter().zip(&world.kafka.current);
    let left = ledger.map(|(cell, log)| match cell {
        None => "no row".to_owned(),
        Some(cell) => format!("log {} at {} of {} in log {log}", cell.log, cell.next, world.kafka.logs[*log].high()),
    });
    left.collect::<Vec<_>>().join("; ")
}
