//! The campaign: injects one fault after another while records flow. A seed determines the order of the faults. At the end, every
//! record is compared with the table.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::time::sleep;

use crate::fault::Deck;
use crate::stage::Stage;
use crate::strike::RECOVERY_DEADLINE;
use crate::watch::Recovery;

/// The campaign goes on to the next fault when every partition has made progress, or when this time has passed since the fault's
/// end. It waits longer only for the first commit.
const PATIENCE: Duration = Duration::from_secs(4);

/// The faults of one kind so far. `outage` is the result of `Fault::is_outage`.
#[derive(Debug, Default)]
struct Tally {
    outage: bool,
    recoveries: Vec<Recovery>,
}

/// A fault after which some partitions haven't made progress yet. `place` is its index in [`Tally::recoveries`].
struct Open {
    kind: &'static str,
    place: usize,
    over: Instant,
}

/// Runs the campaign. Returns true if the record accounting is exact, and if the first commit after each outage came in time. In
/// time means within `soon` of the outage's end.
pub(crate) async fn run(stage: &mut Stage, minutes: f64, soon: Duration, random: &mut fastrand::Rng) -> Result<bool> {
    stage.postgres.stop()?;
    stage.copy_database()?;
    stage.postgres.start_again()?;
    let started = Instant::now();
    stage.await_first_commit(started).await?;
    let mut tally: BTreeMap<&'static str, Tally> = BTreeMap::new();
    let mut open: Vec<Open> = Vec::new();
    let mut deck = Deck::default();
    let started = Instant::now();
    let length = Duration::from_secs_f64(minutes * 60.0);
    while started.elapsed() < length {
        let fault = deck.draw(random);
        let at = started.elapsed().as_secs_f64();
        let over = stage.strike(&fault).await?;
        let (recovery, whole) = stage.recover(over, PATIENCE).await?;
        let Recovery { first, all } = recovery;
        let more = if whole { "" } else { " and more" };
        let name = fault.to_string();
        stage.output.say(format!("{at:>7.1} s  {name:<46} first commit {first:>5.1?}, all partitions {all:.1?}{more}"));
        let entry = tally.entry(fault.kind()).or_default();
        entry.outage = fault.is_outage();
        entry.recoveries.push(recovery);
        if !whole {
            open.push(Open { kind: fault.kind(), place: entry.recoveries.len() - 1, over });
        }
        close(stage, &mut open, &mut tally)?;
        // Wait for a random time. So the next fault sometimes comes just after the flow has resumed, and sometimes later.
        sleep(Duration::from_millis(random.u64(200..2500))).await;
        close(stage, &mut open, &mut tally)?;
    }
    while !open.is_empty() {
        close(stage, &mut open, &mut tally)?;
        sleep(Duration::from_millis(20)).await;
    }
    stage.output.say("          the faults are over: draining");
    let (copy, database, wal) = stage.disk().await?;
    let accounting = stage.reconcile().await?;
    let in_time = report(stage, &tally, soon);
    let mib = |bytes: i64| bytes >> 20;
    stage.output.say(format!(
        "\n  drained {:.1?} after the last record; on disk: database {} MiB, its log {} MiB, its copy {} MiB",
        accounting.drain,
        mib(database),
        mib(wal),
        copy >> 20
    ));
    stage.output.say(format!(
        "\n  records in Kafka   {:>10}\n  in the table       {:>10}\n  dead letters       {:>10}\n  missing            {:>10}\n  \
         twice              {:>10}\n  damaged            {:>10}\n  out of nowhere     {:>10}\n  lost by Kafka      {:>10}",
        accounting.produced,
        accounting.rows,
        accounting.dead_letters,
        accounting.missing,
        accounting.twice,
        accounting.damaged,
        accounting.strange,
        accounting.lost_by_kafka
    ));
    for finding in &accounting.findings {
        stage.output.say(format!("  ! {finding}"));
    }
    let good = accounting.is_exact();
    stage.output.say(if good {
        "\n  ✔ every record is in the table once"
    } else {
        "\n  ✘ the accounting is not exact"
    });
    Ok(good && in_time)
}

/// Closes each open fault after which all partitions have made progress, and stores its recovery time. Returns an error if a
/// fault stays open for longer than [`RECOVERY_DEADLINE`].
fn close(stage: &Stage, open: &mut Vec<Open>, tally: &mut BTreeMap<&'static str, Tally>) -> Result<()> {
    for waiting in std::mem::take(open) {
        let moved = stage.watch.all_moved(waiting.over);
        if let (true, Some(entry)) = (moved, tally.get_mut(waiting.kind)) {
            entry.recoveries[waiting.place].all = waiting.over.elapsed();
        } else if waiting.over.elapsed() > RECOVERY_DEADLINE {
            anyhow::bail!(
                "partitions (with their offsets) {:?} stand still since `{}` was over {RECOVERY_DEADLINE:?} ago\n{}",
                stage.watch.standing(waiting.over),
                waiting.kind,
                stage.log_tails()
            );
        } else {
            open.push(waiting);
        }
    }
    Ok(())
}

/// Prints the recovery times. Returns true if, after each outage, the first commit came within `soon` of the outage's end.
fn report(stage: &Stage, tally: &BTreeMap<&'static str, Tally>, soon: Duration) -> bool {
    let say = |text: String| stage.output.say(text);
    say(format!(
        "\n  {:<34}{:>6}{:>15}{:>10}{:>18}{:>10}",
        "fault", "times", "first commit", "longest", "all partitions", "longest"
    ));
    let spread = |mut times: Vec<Duration>| {
        times.sort();
        (times[times.len() / 2].as_secs_f64(), times[times.len() - 1].as_secs_f64())
    };
    for (kind, tally) in tally {
        let (first, first_longest) = spread(tally.recoveries.iter().map(|r| r.first).collect());
        let (all, all_longest) = spread(tally.recoveries.iter().map(|r| r.all).collect());
        let times = tally.recoveries.len();
        say(format!("  {kind:<34}{times:>6}{first:>13.2} s{first_longest:>8.2} s{all:>16.2} s{all_longest:>8.2} s"));
    }
    say(format!("  {:<34}{:>6}", "all", tally.values().map(|tally| tally.recoveries.len()).sum::<usize>()));
    let outages: Vec<Duration> = tally
        .values()
        .filter(|tally| tally.outage)
        .flat_map(|tally| tally.recoveries.iter().map(|r| r.first))
        .collect();
    let in_time = outages.iter().filter(|first| **first <= soon).count();
    let good = in_time == outages.len();
    if !outages.is_empty() {
        say(format!(
            "\n  {} the database was away {} times: {in_time} times the first commit came within {soon:?} of its return, at the latest after {:.2} s",
            if good { "✔" } else { "✘" },
            outages.len(),
            spread(outages.clone()).1
        ));
    }
    good
}
