//! The open loop: records are sent at their intended times, even if earlier records are late or lost.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use fleet::{Encoder, Fleet, FleetSpec, Format};

use super::BUFFER_BYTES;
use super::acts::Acts;
use super::book::Book;
use super::link::{Answer, Intake, Word};

/// How long the sender sleeps when no record is due. A record may be sent late by about this time.
const REST: Duration = Duration::from_millis(1);
const LOOK: Duration = Duration::from_millis(500);

/// The progress that is shown during the run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Look {
    pub(crate) at: Duration,
    pub(crate) intended: u64,
    pub(crate) acked: u64,
    pub(crate) refused: u64,
    pub(crate) buffer_bytes: u64,
}

/// Actions that the driver starts besides sending records.
pub(crate) trait Surroundings {
    /// Stops the database. Called once, at the beginning of act 3; must not block.
    fn stop_database(&mut self) -> Result<()>;
    /// Shows the progress. Called twice per second. `pid` is the writer's process id.
    fn look(&mut self, look: Look, pid: Option<u32>);
    /// Returns whether the run can end. Called twice per second after the last record was sent. `taken` records weren't refused,
    /// and `freed` records have left the bounded buffer, failed and lost ones included. With a ledger, the run can end when the
    /// ledger counts at least `taken` records. Without a ledger, it can end when `freed` is at least `taken`.
    fn settled(&mut self, taken: u64, freed: u64) -> bool;
}

/// The result of a run. `started_us` is in microseconds since the epoch, for comparison with the clock of Postgres. `killed_us`
/// and `ended_us` are in microseconds since the run's start. When the writer was killed, `buffered_at_kill` records were in the
/// bounded buffer. If it wasn't killed, `killed_us` is the end of the run.
#[derive(Debug)]
pub(crate) struct Drive {
    pub(crate) book: Book,
    pub(crate) started: Instant,
    pub(crate) started_us: i64,
    pub(crate) killed_us: u32,
    pub(crate) ended_us: u32,
    pub(crate) buffered_at_kill: u64,
}

struct Run<'a> {
    intake: &'a mut dyn Intake,
    book: Book,
    started: Instant,
    answers: Vec<Answer>,
    look: Look,
    buffered: u64,
    freed: u64,
}

/// Sends all records of `acts`. Meanwhile, stops the database and kills the writer at the planned times. Then waits until
/// [`Surroundings::settled`] returns true, at most for `settle` after the last act.
pub(crate) fn drive(
    fleet: FleetSpec,
    acts: &Acts,
    settle: Duration,
    intake: &mut dyn Intake,
    around: &mut dyn Surroundings,
) -> Result<Drive> {
    let (schedule, mut fleet) = (acts.schedule(), Fleet::new(fleet)?);
    let (mut encoder, mut json) = (Encoder::new(Format::Telemetry), Vec::new());
    let (total, mut sent) = (acts.records(), 0);
    let mut run = Run {
        intake,
        book: Book::default(),
        started: Instant::now(),
        answers: Vec::new(),
        look: Look::default(),
        buffered: 0,
        freed: 0,
    };
    let started_us = micros_since_epoch();
    let (mut stopped, mut killed, mut looked) = (false, None, Duration::ZERO);
    let mut at_kill = 0;
    loop {
        let now = run.started.elapsed();
        if now >= acts.begins(2) && !stopped {
            stopped = true;
            around.stop_database()?;
        }
        if now >= acts.kill() && killed.is_none() {
            run.take_answers()?;
            killed = Some(micros(now));
            at_kill = run.buffered;
            run.intake.kill()?;
        }
        let due = schedule.intended(now).min(total);
        let next = sent;
        // Send in portions. Otherwise acknowledgements would not be read while many records are late.
        for n in next..due.min(next + 4_096) {
            let Some(reading) = fleet.next() else { break };
            json.clear();
            encoder.write(&reading, &mut json);
            run.offer(u32::try_from(n)?, micros(schedule.due(n)), reading.vehicle_id, &json)?;
            sent += 1;
        }
        run.take_answers()?;
        run.look.at = now;
        run.look.intended = due;
        if now >= looked + LOOK {
            looked = now;
            around.look(run.look, run.intake.pid());
            if sent == total && (around.settled(total - run.look.refused, run.freed) || now > acts.end() + settle) {
                break;
            }
        }
        if sent == due {
            std::thread::sleep(REST);
        }
    }
    let ended_us = micros(run.started.elapsed());
    let killed_us = killed.unwrap_or(ended_us);
    Ok(Drive { book: run.book, started: run.started, started_us, killed_us, ended_us, buffered_at_kill: at_kill })
}

impl Run<'_> {
    fn offer(&mut self, index: u32, due: u32, vehicle: u32, json: &[u8]) -> Result<()> {
        let is_room = self.look.buffer_bytes + json.len() as u64 <= BUFFER_BYTES;
        let taken = is_room && self.intake.offer(index, vehicle, json)?;
        self.book.sent(due, micros(self.started.elapsed()), json.len());
        if taken {
            self.look.buffer_bytes += json.len() as u64;
            self.buffered += 1;
        } else {
            self.look.refused += 1;
            if let Some(mark) = self.book.mark(index) {
                mark.refused = true;
            }
        }
        Ok(())
    }

    fn take_answers(&mut self) -> Result<()> {
        self.intake.answers(&mut self.answers)?;
        for Answer { index, at, word } in self.answers.drain(..) {
            let at = micros(at.saturating_duration_since(self.started));
            let Some(mark) = self.book.mark(index) else { continue };
            match word {
                Word::Acked => mark.acked = at,
                Word::Freed => mark.freed = at,
                Word::Both => (mark.acked, mark.freed) = (at, at),
                Word::Failed => (mark.refused, mark.freed) = (true, at),
                Word::Lost => (mark.lost, mark.freed) = (at, at),
            }
            self.look.acked += u64::from(matches!(word, Word::Acked | Word::Both));
            self.look.refused += u64::from(word == Word::Failed);
            if word != Word::Acked {
                self.look.buffer_bytes = self.look.buffer_bytes.saturating_sub(u64::from(mark.bytes));
                self.buffered = self.buffered.saturating_sub(1);
                self.freed += 1;
            }
        }
        Ok(())
    }
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX - 1)
}

fn micros_since_epoch() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
