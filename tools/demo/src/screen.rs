//! The progress on the terminal.

use std::io::{IsTerminal, Write};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::numbers::to_u64;

/// Prints permanent lines and a progress line. On a terminal, the progress line is overwritten. Elsewhere it is printed at most
/// every two seconds.
#[derive(Debug)]
pub(crate) struct Screen {
    terminal: bool,
    started: Instant,
    last_step: Mutex<Option<Instant>>,
}

const STEP: Duration = Duration::from_secs(2);
const BAR: u64 = 12;

impl Screen {
    pub(crate) fn new() -> Self {
        Self { terminal: std::io::stdout().is_terminal(), started: Instant::now(), last_step: Mutex::new(None) }
    }

    pub(crate) fn head(&self, text: &str) {
        let (bold, plain) = if self.terminal { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        self.line(&format!("\n{bold}{:>4.0} s  {text}{plain}", self.started.elapsed().as_secs_f64()));
    }

    pub(crate) fn say(&self, text: &str) {
        self.line(&format!("        {text}"));
    }

    fn line(&self, text: &str) {
        print(&format!("{}{text}\n", if self.terminal { "\r\x1b[2K" } else { "" }));
    }

    pub(crate) fn step(&self, text: &str) {
        if self.terminal {
            return print(&format!("\r\x1b[2K{:>4.0} s  {text}", self.started.elapsed().as_secs_f64()));
        }
        let mut last = self.last_step.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= STEP) {
            *last = Some(Instant::now());
            print(&format!("{:>4.0} s  {text}\n", self.started.elapsed().as_secs_f64()));
        }
    }
}

/// Prints text at once. Ignores errors: a closed terminal must not stop the demo.
fn print(text: &str) {
    let mut out = std::io::stdout();
    drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
}

/// Returns a bar such as `▮▮▮▯▯▯`.
pub(crate) fn bar(value: f64, full: f64) -> String {
    let filled = to_u64(((value / full.max(1e-9)).clamp(0.0, 1.0) * BAR as f64).round());
    (0..BAR).map(|at| if at < filled { '▮' } else { '▯' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_full_as_the_share_and_never_fuller() {
        assert_eq!(bar(50.0, 100.0), "▮▮▮▮▮▮▯▯▯▯▯▯");
        assert_eq!(bar(1e9, 100.0).matches('▮').count(), 12);
        assert_eq!(bar(0.0, 0.0).matches('▮').count(), 0);
    }
}
