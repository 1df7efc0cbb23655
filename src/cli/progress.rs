//! Shows the progress of a long command on standard error. On a terminal, one line is rewritten. Otherwise, a new line is written
//! every ten seconds, and at each step that a command announces.

use std::io::{IsTerminal as _, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::show;
use crate::status::lock;

/// The time between two updates on a terminal.
const REDRAW: Duration = Duration::from_millis(200);
/// The time between two lines if standard error is not a terminal.
const LINE: Duration = Duration::from_secs(10);
/// The escape codes that move the cursor to the start of the line and clear the line.
const CLEAR: &str = "\r\x1b[K";

/// Shows a command's progress until this value is dropped.
pub(super) struct Progress {
    state: Arc<State>,
    drawing: JoinSet<()>,
    terminal: bool,
}

struct State {
    command: &'static str,
    doing: Mutex<String>,
    done: AtomicU64,
    /// The total number of records; 0 if unknown.
    total: AtomicU64,
}

impl Progress {
    pub(super) fn start(command: &'static str) -> Self {
        let terminal = std::io::stderr().is_terminal();
        Self::draw(command, terminal, std::io::stderr())
    }

    fn draw(command: &'static str, terminal: bool, mut to: impl Write + Send + 'static) -> Self {
        let state =
            Arc::new(State { command, doing: Mutex::default(), done: AtomicU64::new(0), total: AtomicU64::new(0) });
        let shown = Arc::clone(&state);
        let every = if terminal { REDRAW } else { LINE };
        let mut drawing = JoinSet::new();
        drawing.spawn(async move {
            let started = Instant::now();
            let mut ticks = interval_at(started + every, every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                let line = shown.line(started.elapsed());
                let text = if terminal { format!("{CLEAR}{line}") } else { format!("{line}\n") };
                // If the line can't be written, nobody reads it, so ignore the error.
                let _shown = to.write_all(text.as_bytes()).and_then(|()| to.flush()).is_ok();
            }
        });
        Self { state, drawing, terminal }
    }

    pub(super) fn doing(&self, what: impl Into<String>) {
        *lock(&self.state.doing) = what.into();
    }

    /// Sets the current step. If standard error isn't a terminal, also prints the step at once, because the next line may come
    /// ten seconds later.
    pub(super) fn step(&self, what: String) {
        if !self.terminal {
            eprintln!("{}: {what} …", self.state.command);
        }
        self.doing(what);
    }

    pub(super) fn expect(&self, records: u64) {
        self.state.total.store(records, Ordering::Relaxed);
    }

    pub(super) fn add(&self, records: u64) {
        self.state.done.fetch_add(records, Ordering::Relaxed);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.drawing.abort_all();
        if self.terminal {
            let mut stderr = std::io::stderr();
            let _cleared = stderr.write_all(CLEAR.as_bytes()).and_then(|()| stderr.flush()).is_ok();
        }
    }
}

impl State {
    fn line(&self, elapsed: Duration) -> String {
        let (done, total) = (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed));
        let mut line = format!("{}: {}", self.command, lock(&self.doing));
        if let Some(percent) = done.saturating_mul(100).checked_div(total) {
            line += &format!("{} of {} records ({percent} %)", show::count(done), show::count(total));
        }
        let seconds = elapsed.as_secs();
        let left = (done > 0 && total > done).then(|| (total - done) * seconds / done);
        match left {
            Some(left) => line + &format!(", {seconds} s so far, about {left} s left"),
            None => line + &format!(", {seconds} s so far"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Page {
        fn text(&self) -> String {
            String::from_utf8(lock(&self.0).clone()).expect("UTF-8")
        }
    }

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            lock(&self.0).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn off_a_terminal_a_line_comes_every_ten_seconds_without_codes() {
        let page = Page::default();
        let progress = Progress::draw("replay", false, page.clone());
        progress.expect(40_000);
        progress.add(10_000);
        tokio::time::sleep(Duration::from_millis(9_900)).await;
        assert_eq!(page.text(), "");
        tokio::time::sleep(Duration::from_secs(11)).await;
        let lines = "replay: 10 000 of 40 000 records (25 %), 10 s so far, about 30 s left\n\
                     replay: 10 000 of 40 000 records (25 %), 20 s so far, about 60 s left\n";
        assert_eq!(page.text(), lines);
    }

    #[tokio::test(start_paused = true)]
    async fn on_a_terminal_one_line_is_rewritten() {
        let page = Page::default();
        let progress = Progress::draw("verify", true, page.clone());
        progress.doing("telemetry/3");
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(page.text(), "\r\x1b[Kverify: telemetry/3, 0 s so far");
        drop(progress);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(page.text(), "\r\x1b[Kverify: telemetry/3, 0 s so far", "it ends with its command");
    }
}
