//! One connection through the proxy.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::try_join;

use super::State;
use super::dialog::{Dialog, MessageFate, command_tag};
use super::frames::Frames;
use super::trigger::{Action, Seen, TriggerState};

const READ_BYTES: usize = 64 * 1024;

/// How the proxy ends a connection, unless the client and the server have both closed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Both sides get a reset. Data that was not forwarded yet is lost.
    Reset,
    /// The server gets all forwarded data and the end of the stream. The client gets a reset.
    ResetClient,
    /// The client gets all forwarded data and the end of the stream. The server gets a reset.
    ResetServer,
}

impl From<std::io::Error> for End {
    fn from(_: std::io::Error) -> Self {
        Self::Reset
    }
}

pub(super) async fn serve(mut client: TcpStream, state: Arc<State>) {
    let control = state.control.borrow().clone();
    if control.refuse {
        reset(&client);
        return;
    }
    let Ok(mut server) = TcpStream::connect(&control.upstream).await else {
        reset(&client);
        return;
    };
    // Without this option, the kernel may delay small messages. If setting the option fails, only time is lost.
    drop((client.set_nodelay(true), server.set_nodelay(true)));
    state.open.send_modify(|open| *open += 1);
    let end = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let carried = async {
            if state.reads_postgres {
                let dialog = Mutex::new(Dialog::default());
                let up = Up { state: &state, dialog: &dialog, to_server };
                let down = Down { state: &state, dialog: &dialog, to_client };
                try_join!(up.carry(from_client), down.carry(from_server)).err()
            } else {
                try_join!(carry_all(&state, from_client, to_server), carry_all(&state, from_server, to_client)).err()
            }
        };
        let mut changes = state.control.subscribe();
        let cut = async move {
            // The sender lives as long as the state, so waiting can't fail.
            drop(changes.wait_for(|now| now.cuts != control.cuts).await);
        };
        tokio::select! {
            () = cut => Some(End::Reset),
            end = carried => end,
        }
    };
    if matches!(end, Some(End::Reset | End::ResetClient)) {
        reset(&client);
    }
    if matches!(end, Some(End::Reset | End::ResetServer)) {
        reset(&server);
    }
    state.open.send_modify(|open| *open -= 1);
}

/// Makes the kernel send a reset when the socket is dropped. A failure is ignored, because it means that the socket is closed.
fn reset(stream: &TcpStream) {
    drop(stream.set_zero_linger());
}

async fn carry_all(state: &State, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> Result<(), End> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match from.read(&mut buffer).await? {
            0 => return close(&mut to).await,
            read => write(state, &mut to, &buffer[..read]).await?,
        }
    }
}

async fn write(state: &State, to: &mut WriteHalf<'_>, bytes: &[u8]) -> Result<(), End> {
    if !bytes.is_empty() {
        // The sender lives as long as the state, so waiting can't fail.
        drop(state.control.subscribe().wait_for(|control| !control.hold).await);
        to.write_all(bytes).await?;
    }
    Ok(())
}

/// Ends the stream to one side, because the other side has ended its own stream. The opposite direction continues.
async fn close(to: &mut WriteHalf<'_>) -> Result<(), End> {
    // This side may have closed its socket already, so ignore an error.
    drop(to.shutdown().await);
    Ok(())
}

fn lock(dialog: &Mutex<Dialog>) -> MutexGuard<'_, Dialog> {
    // The two directions of a connection contend for the lock. The lock is never held across an await.
    dialog.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn take(&self, seen: Seen<'_>) -> Option<Arc<TriggerState>> {
        let watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.iter().find(|watched| watched.takes(seen)).cloned()
    }
}

struct Up<'a> {
    state: &'a State,
    dialog: &'a Mutex<Dialog>,
    to_server: WriteHalf<'a>,
}

impl Up<'_> {
    async fn carry(mut self, mut from_client: ReadHalf<'_>) -> Result<(), End> {
        let mut frames = Frames::default();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let read = from_client.read(&mut buffer).await?;
            if read == 0 {
                write(self.state, &mut self.to_server, &frames.take_rest()).await?;
                return close(&mut self.to_server).await;
            }
            frames.push(&buffer[..read]);
            let mut ready = Vec::new();
            while let Some(message) = self.next(&mut frames) {
                let pulled = self.pulled(&message);
                match pulled {
                    None => ready.extend(message),
                    Some((watched, ready_before)) => {
                        write(self.state, &mut self.to_server, &std::mem::take(&mut ready)).await?;
                        self.act(&watched, ready_before, &message).await?;
                    }
                }
            }
            if lock(self.dialog).is_opaque() {
                ready.extend(frames.take_rest());
            }
            write(self.state, &mut self.to_server, &ready).await?;
        }
    }

    fn next(&self, frames: &mut Frames) -> Option<Vec<u8>> {
        lock(self.dialog).next_of_client(frames)
    }

    fn pulled(&self, message: &[u8]) -> Option<(Arc<TriggerState>, u64)> {
        lock(self.dialog).hear_client(message, |seen| self.state.take(seen))
    }

    async fn act(&mut self, watched: &Arc<TriggerState>, ready_before: u64, message: &[u8]) -> Result<(), End> {
        match watched.action {
            Action::Cut => {
                watched.tell_fired();
                return Err(End::ResetClient);
            }
            Action::CutAfterForward => {
                write(self.state, &mut self.to_server, message).await?;
                watched.tell_fired();
                return Err(End::ResetClient);
            }
            Action::Hold => {
                watched.tell_fired();
                watched.await_release().await;
            }
            Action::DropReplyAndCut => lock(self.dialog).drop_reply(ready_before, Arc::clone(watched)),
        }
        write(self.state, &mut self.to_server, message).await
    }
}

struct Down<'a> {
    state: &'a State,
    dialog: &'a Mutex<Dialog>,
    to_client: WriteHalf<'a>,
}

impl Down<'_> {
    async fn carry(mut self, mut from_server: ReadHalf<'_>) -> Result<(), End> {
        let mut frames = Frames::default();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let read = from_server.read(&mut buffer).await?;
            if read == 0 {
                write(self.state, &mut self.to_client, &frames.take_rest()).await?;
                return close(&mut self.to_client).await;
            }
            frames.push(&buffer[..read]);
            let mut ready = lock(self.dialog).answer_to_encryption(&mut frames);
            while let Some(message) = self.next(&mut frames) {
                if self.is_dropped(&message)? {
                    continue;
                }
                let pulled = command_tag(&message).and_then(|tag| self.state.take(Seen::CommandComplete(&tag)));
                match pulled {
                    None => ready.extend(message),
                    Some(watched) => {
                        write(self.state, &mut self.to_client, &std::mem::take(&mut ready)).await?;
                        self.act(&watched, &message).await?;
                    }
                }
            }
            if lock(self.dialog).is_opaque() {
                ready.extend(frames.take_rest());
            }
            write(self.state, &mut self.to_client, &ready).await?;
        }
    }

    fn next(&self, frames: &mut Frames) -> Option<Vec<u8>> {
        lock(self.dialog).next_of_server(frames)
    }

    /// Returns whether the message belongs to a reply that must be dropped. Returns an error at the reply's end, to end the
    /// connection.
    fn is_dropped(&self, message: &[u8]) -> Result<bool, End> {
        match lock(self.dialog).hear_server(message) {
            MessageFate::Passes => Ok(false),
            MessageFate::Dropped => Ok(true),
            MessageFate::EndsDroppedReply(watched) => {
                watched.tell_fired();
                Err(End::ResetClient)
            }
        }
    }

    async fn act(&mut self, watched: &TriggerState, message: &[u8]) -> Result<(), End> {
        match watched.action {
            Action::Cut | Action::DropReplyAndCut => {
                watched.tell_fired();
                return Err(End::ResetClient);
            }
            Action::CutAfterForward => {
                write(self.state, &mut self.to_client, message).await?;
                watched.tell_fired();
                return Err(End::ResetServer);
            }
            Action::Hold => {
                watched.tell_fired();
                watched.await_release().await;
            }
        }
        write(self.state, &mut self.to_client, message).await
    }
}
