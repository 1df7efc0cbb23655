//! The modes bench. The daemon drains a backlog whose records share keys, in each of the modes append, upsert and aggregate. It
//! takes turns with the best hand-written SQL for the same rows. For append, this SQL is a COPY into the table. For the other
//! modes, it is a COPY into a staging table and one `INSERT … SELECT … ON CONFLICT`. Both contenders share the machine with the
//! broker and the database, so only the ratios are meaningful.
//!
//! ```text
//! cargo bench --bench modes                                    # 2 M records over 10 k and over 1 M keys, 3 turns
//! cargo bench --bench modes -- --records 100000 --keys 1000 --turns 1
//! ```
//! The hand-written SQL gets its batches from memory, already encoded. It doesn't read or decode, and keeps no ledger.
//! So the ratio includes the daemon's cost of reading, decoding and the ledger, and not only the cost of the merge.

mod by_hand;
#[path = "../shared/mod.rs"]
mod shared;
mod stage;

use anyhow::Result;
use clap::Parser;

use shared::median;
use stage::{Mode, Stage};

#[derive(Debug, Parser)]
struct Arguments {
    /// How many records each backlog has.
    #[arg(long, default_value_t = 2_000_000)]
    records: u64,
    /// How many distinct keys a backlog has; each record gets one of these keys at random. For each number in the list, a new
    /// backlog is made and measured.
    #[arg(long, value_delimiter = ',', default_value = "10000,1000000")]
    keys: Vec<u64>,
    /// How many times the daemon and the hand-written SQL each write the backlog, per mode.
    #[arg(long, default_value_t = 3)]
    turns: usize,
    /// The most rows per batch, for the daemon and for the hand-written SQL.
    #[arg(long, default_value_t = 50_000)]
    batch: u32,
    /// How many consumers the daemon has, and how many connections the hand-written SQL uses.
    #[arg(long, default_value_t = 1)]
    connections: u32,
    /// Passed by `cargo bench`; ignored.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    tokio::runtime::Runtime::new()?.block_on(run(&arguments))
}

async fn run(arguments: &Arguments) -> Result<()> {
    for keys in &arguments.keys {
        eprintln!(
            "starting Kafka and Postgres, loading {} records of {keys} keys into 4 partitions",
            arguments.records
        );
        let stage = Stage::set(arguments.records, *keys, arguments.batch, arguments.connections).await?;
        let mut rates: Vec<(Mode, Vec<f64>, Vec<f64>)> =
            Mode::ALL.map(|mode| (mode, Vec::new(), Vec::new())).into_iter().collect();
        for turn in 0..arguments.turns {
            for (mode, ours, by_hand) in &mut rates {
                ours.push(stage.drain(*mode).await?);
                by_hand.push(stage.by_hand(*mode).await?);
                eprintln!(
                    "  {keys} keys, turn {turn}, {mode}: tidegate {:.0} rows/s, by hand {:.0} rows/s",
                    ours[turn], by_hand[turn]
                );
            }
        }
        println!("\n{} records over {keys} keys, medians of {} turns", arguments.records, arguments.turns);
        println!("  {:<12}{:>18}{:>18}{:>10}", "", "tidegate rows/s", "by hand rows/s", "ratio");
        for (mode, ours, by_hand) in &rates {
            let ratio = median(ours.iter().zip(by_hand).map(|(ours, by_hand)| ours / by_hand));
            println!(
                "  {:<12}{:>18.0}{:>18.0}{:>10.2}",
                mode.to_string(),
                median(ours.iter().copied()),
                median(by_hand.iter().copied()),
                ratio
            );
        }
    }
    Ok(())
}
