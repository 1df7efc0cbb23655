//! The receiver of records, from the sender's view. One kind of receiver is a writer process, connected by two pipes.

use std::collections::BTreeMap;
use std::io::{BufWriter, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result};

use super::writer::{ACKED, ANSWER_BYTES, BOTH, FREED, WriterArguments};

/// The receiver's answer to a record. `Both` is `Acked` and `Freed` at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// The receiver has acknowledged the record: the record is safe, by the receiver's own definition.
    Acked,
    /// The record has left the bounded buffer.
    Freed,
    Both,
    /// The receiver has given up on the record, which then counts as refused.
    Failed,
    /// The record was acknowledged, and was lost with the memory of a killed process.
    Lost,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Answer {
    pub(crate) index: u32,
    pub(crate) at: Instant,
    pub(crate) word: Word,
}

/// The receiver of one arrangement: a writer process, or Kafka with Tidegate behind it.
pub(crate) trait Intake {
    /// Offers a record. Returns false if there is no room. Never blocks.
    fn offer(&mut self, index: u32, vehicle: u32, json: &[u8]) -> Result<bool>;

    /// Appends to `into` the answers that have arrived since the last call.
    fn answers(&mut self, into: &mut Vec<Answer>) -> Result<()>;

    /// Kills (SIGKILL) the process that writes into the database, and starts it again.
    fn kill(&mut self) -> Result<()>;

    /// Returns the id of the process that writes into the database, to measure its CPU time.
    fn pid(&self) -> Option<u32>;
}

#[derive(Debug)]
pub(crate) struct WriterLink {
    arguments: WriterArguments,
    running: Option<Running>,
    answered: (Sender<Answer>, Receiver<Answer>),
    /// The JSON of each record without an answer, by index. If the writer is killed, these records are sent again to the new
    /// writer.
    unacked: BTreeMap<u32, Box<[u8]>>,
    /// Acknowledged records that are still in the writer's memory. They are lost if the writer is killed.
    in_memory: std::collections::BTreeSet<u32>,
    late: Vec<Answer>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    frames: Sender<Vec<u8>>,
    threads: Vec<JoinHandle<()>>,
}

impl WriterLink {
    pub(crate) fn start(arguments: WriterArguments) -> Result<Self> {
        let answered = channel();
        let running = Some(Running::start(&arguments, answered.0.clone())?);
        let (unacked, in_memory) = Default::default();
        Ok(Self { arguments, running, answered, unacked, in_memory, late: Vec::new() })
    }

    fn note(&mut self, answer: Answer, into: &mut Vec<Answer>) {
        match answer.word {
            Word::Acked => {
                self.unacked.remove(&answer.index);
                self.in_memory.insert(answer.index);
            }
            Word::Freed => {
                self.in_memory.remove(&answer.index);
            }
            _ => {
                self.unacked.remove(&answer.index);
            }
        }
        into.push(answer);
    }
}

impl Intake for WriterLink {
    fn offer(&mut self, index: u32, _vehicle: u32, json: &[u8]) -> Result<bool> {
        self.unacked.insert(index, json.into());
        let running = self.running.as_ref().context("the writer is not running")?;
        running.send(index, json);
        Ok(true)
    }

    fn answers(&mut self, into: &mut Vec<Answer>) -> Result<()> {
        into.append(&mut self.late);
        while let Ok(answer) = self.answered.1.try_recv() {
            self.note(answer, into);
        }
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        let running = self.running.take().context("the writer is not running")?;
        running.end()?;
        // Answers that the writer sent before it was killed count too. Its pipe was read to the end, so take them now.
        let mut late = Vec::new();
        self.answers(&mut late)?;
        let at = Instant::now();
        let in_memory = std::mem::take(&mut self.in_memory);
        late.extend(in_memory.into_iter().map(|index| Answer { index, at, word: Word::Lost }));
        self.late = late;
        let running = Running::start(&self.arguments, self.answered.0.clone())?;
        self.unacked.iter().for_each(|(index, json)| running.send(*index, json));
        self.running = Some(running);
        Ok(())
    }

    fn pid(&self) -> Option<u32> {
        Some(self.running.as_ref()?.child.id())
    }
}

impl Drop for WriterLink {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            drop(running.end());
        }
    }
}

impl Running {
    fn start(arguments: &WriterArguments, answered: Sender<Answer>) -> Result<Self> {
        let program = std::env::current_exe().context("where is this program?")?;
        let mut command = Command::new(program);
        command.arg("writer").args(arguments.to_args()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("could not start the writer")?;
        let (frames, mut waiting) = channel::<Vec<u8>>();
        let input = child.stdin.take().context("the writer has no input")?;
        let mut output = child.stdout.take().context("the writer has no output")?;
        let to = std::thread::spawn(move || {
            let mut input = BufWriter::with_capacity(64 << 10, input);
            // The loop ends when the writer has exited, or when there are no more records.
            while let Ok(frame) = next(&mut waiting, &mut input) {
                if input.write_all(&frame).is_err() {
                    return;
                }
            }
        });
        let from = std::thread::spawn(move || {
            let mut answer = [0; ANSWER_BYTES];
            while output.read_exact(&mut answer).is_ok() {
                let index = u32::from_le_bytes([answer[1], answer[2], answer[3], answer[4]]);
                let word = match answer[0] {
                    ACKED => Word::Acked,
                    FREED => Word::Freed,
                    BOTH => Word::Both,
                    _ => Word::Failed,
                };
                if answered.send(Answer { index, at: Instant::now(), word }).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, frames, threads: vec![to, from] })
    }

    fn send(&self, index: u32, json: &[u8]) {
        let mut frame = Vec::with_capacity(8 + json.len());
        frame.extend_from_slice(&index.to_le_bytes());
        frame.extend_from_slice(&u32::try_from(json.len()).unwrap_or(u32::MAX).to_le_bytes());
        frame.extend_from_slice(json);
        // Sending fails if the writer has exited. Ignore the error here: the record stays in `unacked`, without an answer.
        drop(self.frames.send(frame));
    }

    fn end(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        drop(self.frames);
        for thread in self.threads {
            drop(thread.join());
        }
        Ok(())
    }
}

/// Returns the next frame. If there is none yet, flushes the earlier frames and waits.
fn next(
    waiting: &mut Receiver<Vec<u8>>,
    input: &mut BufWriter<std::process::ChildStdin>,
) -> Result<Vec<u8>, std::sync::mpsc::RecvError> {
    if let Ok(frame) = waiting.try_recv() {
        return Ok(frame);
    }
    // If the writer has exited, the next write reports that. So ignore the error here.
    drop(input.flush());
    waiting.recv()
}
