//! What a person sees meanwhile.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, Result};
use tidegate_harness::Daemon;

/// One look at the flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// Records in Kafka.
    pub(crate) sent: i64,
    /// Records whose row is committed.
    pub(crate) written: i64,
    /// Since the fleet set off.
    pub(crate) at: Duration,
}

impl Look {
    pub(crate) fn at(daemon: &Daemon, sent: i64, at: Duration) -> Result<Self> {
        let status = daemon.status_json()?;
        let rows = status["pipelines"][0]["rows"].as_i64().context("no rows in /api/status")?;
        let dead = status["pipelines"][0]["dead_letters"].as_i64().unwrap_or(0);
        Ok(Self { sent, written: rows + dead, at })
    }
}

/// Where progress goes: one line that is redrawn on a terminal, a line a few seconds elsewhere.
#[derive(Debug)]
pub(crate) struct Screen {
    terminal: bool,
    last: Option<Look>,
    largest_lag: i64,
    best_rate: f64,
    drawn: u32,
}

const BAR: usize = 30;

impl Screen {
    pub(crate) fn new() -> Self {
        Self { terminal: std::io::stdout().is_terminal(), last: None, largest_lag: 0, best_rate: 0.0, drawn: 0 }
    }

    pub(crate) fn say(&self, text: &str) {
        let clear = if self.terminal { "\r\x1b[2K" } else { "" };
        println!("{clear}▸ {text}");
    }

    pub(crate) fn largest_lag(&self) -> i64 {
        self.largest_lag
    }

    pub(crate) fn best_rate(&self) -> f64 {
        self.best_rate
    }

    pub(crate) fn draw(&mut self, look: &Look) {
        let last = self.last.replace(*look);
        let lag = (look.sent - look.written).max(0);
        self.largest_lag = self.largest_lag.max(lag);
        let Some(last) = last else { return };
        let seconds = (look.at - last.at).as_secs_f64().max(0.001);
        let rate = |now: i64, before: i64| {
            #[expect(clippy::cast_precision_loss, reason = "counts of a demo")]
            let difference = (now - before) as f64;
            difference / seconds
        };
        let (into, out) = (rate(look.sent, last.sent), rate(look.written, last.written));
        self.best_rate = self.best_rate.max(out);
        self.drawn += 1;
        if !self.terminal && !self.drawn.is_multiple_of(4) {
            return;
        }
        let line = format!(
            "{:>4.0} s  Kafka ⇐ {:>8.0}/s {}  Postgres ⇐ {:>8.0}/s {}  rows {:>10}  waiting {:>8}",
            look.at.as_secs_f64(),
            into,
            bar(into, 200_000.0),
            out,
            bar(out, 200_000.0),
            look.written,
            lag
        );
        if self.terminal {
            print!("\r\x1b[2K{line}");
            std::io::stdout().flush().ok();
        } else {
            println!("{line}");
        }
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and BAR")]
fn bar(value: f64, full: f64) -> String {
    let filled = ((value / full).clamp(0.0, 1.0) * (BAR / 3) as f64).round() as usize;
    format!("{}{}", "▮".repeat(filled), "▯".repeat(BAR / 3 - filled))
}
