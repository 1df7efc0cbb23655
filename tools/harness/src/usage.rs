//! The CPU and memory of a process, read from `/proc` (Linux).

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// Returns the CPU time of a process since its start, including the kernel's time on its behalf.
///
/// With `with_children`, the time of its descendants is included: of living ones, and of those that have ended and were reaped.
pub fn cpu_time(pid: u32, with_children: bool) -> Result<Duration> {
    let mut ticks = ticks_of(pid, with_children).with_context(|| format!("process {pid} is gone"))?;
    if with_children {
        // The time of a descendant that ends meanwhile may be missing. The next call finds it in the parent's time.
        ticks += descendants(pid).into_iter().filter_map(|child| ticks_of(child, true)).sum::<u64>();
    }
    #[expect(clippy::cast_precision_loss, reason = "ticks of a process stay far below 2^52")]
    let seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    Ok(Duration::from_secs_f64(seconds))
}

pub fn peak_rss_bytes(pid: u32) -> Result<u64> {
    memory_bytes(pid, "VmHWM:")
}

pub fn rss_bytes(pid: u32) -> Result<u64> {
    memory_bytes(pid, "VmRSS:")
}

/// Returns all descendants of `pid`, parents before their children.
pub fn descendants(pid: u32) -> Vec<u32> {
    let mut children_of: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if let Some(parent) = stat_fields(child).and_then(|fields| fields.get(PARENT)?.parse().ok()) {
            children_of.entry(parent).or_default().push(child);
        }
    }
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(parent) = found.get(next) {
        found.extend(children_of.remove(parent).unwrap_or_default());
        next += 1;
    }
    found.split_off(1)
}

/// Returns whether the process runs, sleeps or is suspended. A zombie (ended, but not reaped by its parent) isn't alive.
pub fn is_alive(pid: u32) -> bool {
    stat_fields(pid).is_some_and(|fields| !matches!(fields.first().map(String::as_str), Some("Z" | "X") | None))
}

// Indexes of fields in `/proc/PID/stat`, counted from the first field after the name. The name is in parentheses and may
// contain any character.
const PARENT: usize = 1;
const USER_TICKS: usize = 11;
const SYSTEM_TICKS: usize = 12;
const ENDED_CHILDREN_USER_TICKS: usize = 13;
const ENDED_CHILDREN_SYSTEM_TICKS: usize = 14;

fn stat_fields(pid: u32) -> Option<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(") ")?;
    Some(after_name.split_whitespace().map(str::to_owned).collect())
}

fn ticks_of(pid: u32, with_ended_children: bool) -> Option<u64> {
    let fields = stat_fields(pid)?;
    let mut wanted = vec![USER_TICKS, SYSTEM_TICKS];
    if with_ended_children {
        wanted.extend([ENDED_CHILDREN_USER_TICKS, ENDED_CHILDREN_SYSTEM_TICKS]);
    }
    wanted.into_iter().map(|field| fields.get(field)?.parse::<u64>().ok()).sum()
}

fn memory_bytes(pid: u32, line: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid} is gone"))?;
    let kibibytes =
        status.lines().find_map(|text| text.strip_prefix(line)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(kibibytes.with_context(|| format!("process {pid} tells no `{line}`"))? * 1024)
}
