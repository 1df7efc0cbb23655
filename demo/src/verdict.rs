//! What was sent, held against what is in the table.

use std::time::Duration;

use anyhow::{Context, Result};
use fleet::Outcome;
use sqlx::Row;
use tidegate_harness::Database;

use crate::progress::Screen;

/// The books at the end.
#[derive(Debug)]
pub(crate) struct Verdict {
    sent: i64,
    acked: u64,
    rows: i64,
    dead: i64,
    missing: i64,
    twice: i64,
    /// Readings that the fleet made, and those that the table tells apart.
    readings: (u64, i64),
}

impl Verdict {
    /// Every record is known by its partition and offset, which the table holds; every reading by vehicle and number.
    pub(crate) async fn reach(database: &Database, ends: &[i64], outcome: &Outcome) -> Result<Self> {
        let mut connection = database.connect().await?;
        let sql = "SELECT count(*)::int8, count(DISTINCT (kafka_partition, kafka_offset))::int8,
                count(DISTINCT (vehicle_id, seq))::int8,
                (SELECT count(*) FROM tidegate.dead_letter)::int8 FROM ride_history";
        let row = sqlx::query(sql).fetch_one(&mut connection).await?;
        let (rows, distinct, readings, dead): (i64, i64, i64, i64) =
            (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?);
        let sent: i64 = ends.iter().sum();
        let truth = outcome.truth.as_ref().context("the fleet kept no truth")?;
        Ok(Self {
            sent,
            acked: outcome.summary.acked,
            rows,
            dead,
            missing: sent - distinct - dead,
            twice: rows - distinct,
            readings: (truth.distinct(), readings),
        })
    }

    /// Prints it; whether all is well.
    pub(crate) fn print(&self, screen: &Screen, peak_rss: u64, cpu: Duration) -> bool {
        let Self { sent, acked, rows, dead, missing, twice, readings } = self;
        let good = *missing == 0 && *twice == 0 && *dead == 0 && i64::try_from(readings.0) == Ok(readings.1);
        println!();
        println!("  sent by the fleet          {acked:>12}   (Kafka holds {sent})");
        println!("  in the table               {rows:>12}");
        println!("  missing                    {missing:>12}");
        println!("  twice                      {twice:>12}");
        println!("  dead letters               {dead:>12}");
        println!("  readings sent / in table   {:>12} / {}", readings.0, readings.1);
        println!("  best rate into Postgres    {:>12.0} rows/s", screen.best_rate());
        println!("  largest lag                {:>12} records", screen.largest_lag());
        println!("  the daemon's peak memory   {:>12} MiB of 256", peak_rss >> 20);
        println!("  the daemon's CPU           {:>12.1} s", cpu.as_secs_f64());
        println!("\n  {}", if good { "✔ every record is in the table once" } else { "✘ the books don't balance" });
        good
    }
}
