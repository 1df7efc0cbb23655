//! Writes `run.json`, which describes the machine and the versions of a run.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use sqlx::Row;

use crate::stage::{POSTGRES_SETTINGS, Stage};

pub(crate) async fn save(stage: &Stage, folder: &Path, seed: u64, scale: f64, began: jiff::Timestamp) -> Result<()> {
    let mut connection = stage.database.connect().await?;
    let postgres: String = sqlx::query("SELECT version()").fetch_one(&mut connection).await?.try_get(0)?;
    let mut settings = serde_json::Map::new();
    for name in ["fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "wal_level"] {
        let value: String = sqlx::query(&format!("SHOW {name}")).fetch_one(&mut connection).await?.try_get(0)?;
        settings.insert(name.to_owned(), value.into());
    }
    let tidegate = std::process::Command::new(&stage.tidegate).arg("--version").output();
    let tidegate = tidegate.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    let run = json!({
        "began": began.to_string(),
        "seconds": (jiff::Timestamp::now() - began).total(jiff::Unit::Second)?,
        "seed": seed,
        "scale": scale,
        "versions": {
            "tidegate": tidegate,
            "build": if cfg!(debug_assertions) { "dev" } else { "release" },
            "kafka": format!("{} (KRaft, one broker)", tidegate_harness::versions::kraft()),
            "postgres": postgres,
            "librdkafka": rdkafka::util::get_rdkafka_version().1,
        },
        "postgres_settings": { "changed": POSTGRES_SETTINGS, "in_force": settings },
        "machine": machine(),
    });
    let path = folder.join("run.json");
    fs::write(&path, serde_json::to_string_pretty(&run)? + "\n")
        .with_context(|| format!("could not write `{}`", path.display()))
}

fn machine() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    json!({
        "cpu": field(&read("/proc/cpuinfo"), "model name"),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": field(&read("/proc/meminfo"), "MemTotal"),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load_average_at_the_end": read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
    })
}
