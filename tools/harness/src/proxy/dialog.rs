//! The state that the two directions of a Postgres connection share. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::frames::{Frames, body, start_code, text};
use super::trigger::{Seen, TriggerState};

const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;

/// The state of one Postgres connection, derived from the messages that both sides have sent so far.
#[derive(Debug, Default)]
pub(super) struct Dialog {
    started: bool,
    /// Whether the client has asked for encryption. If so, the server's next answer is a single byte, not a message.
    answer_due: bool,
    /// Whether the connection is encrypted. If so, the proxy can't read its messages any more.
    opaque: bool,
    statements: BTreeMap<String, String>,
    copy_messages: u64,
    copy_bytes: u64,
    /// How many `ReadyForQuery` messages the server owes the client in total, including those that were sent. `ready_seen` counts
    /// the sent ones.
    ready_owed: u64,
    ready_seen: u64,
    /// Set if a reply must be dropped: the number of `ReadyForQuery` messages before this reply, and the trigger.
    drop_after: Option<(u64, Arc<TriggerState>)>,
}

/// How the proxy treats a message of the server. The last message of a reply that must be dropped is `EndsDroppedReply`.
pub(super) enum MessageFate {
    Passes,
    Dropped,
    EndsDroppedReply(Arc<TriggerState>),
}

impl Dialog {
    pub(super) fn is_opaque(&self) -> bool {
        self.opaque
    }

    pub(super) fn next_of_client(&mut self, frames: &mut Frames) -> Option<Vec<u8>> {
        if self.opaque {
            return None;
        }
        if self.started {
            return frames.next_typed();
        }
        let message = frames.next_untyped()?;
        if matches!(start_code(&message), Some(SSL_REQUEST | GSS_REQUEST)) {
            self.answer_due = true;
        } else {
            self.started = true;
            self.ready_owed = 1;
        }
        Some(message)
    }

    pub(super) fn next_of_server(&self, frames: &mut Frames) -> Option<Vec<u8>> {
        if self.opaque { None } else { frames.next_typed() }
    }

    /// Returns the server's answer to a request for encryption, a single byte. Empty if the client hasn't asked.
    pub(super) fn answer_to_encryption(&mut self, frames: &mut Frames) -> Vec<u8> {
        const REFUSED: u8 = b'N';
        if !std::mem::take(&mut self.answer_due) {
            return Vec::new();
        }
        let answer = frames.next_byte();
        self.opaque = answer != Some(REFUSED);
        answer.into_iter().collect()
    }

    /// Reads a message of the client. If `take` finds a trigger for the message, returns the trigger, and the number of
    /// `ReadyForQuery` messages that the server sends before its reply.
    pub(super) fn hear_client(
        &mut self,
        message: &[u8],
        take: impl FnOnce(Seen<'_>) -> Option<Arc<TriggerState>>,
    ) -> Option<(Arc<TriggerState>, u64)> {
        let ready_before = self.ready_owed;
        match message.first()? {
            b'Q' => {
                self.ready_owed += 1;
                (self.copy_messages, self.copy_bytes) = (0, 0);
                Some((take(Seen::Statement(&text(body(message)).0))?, ready_before))
            }
            b'P' => {
                let (name, rest) = text(body(message));
                self.statements.insert(name, text(rest).0);
                None
            }
            b'B' => {
                (self.copy_messages, self.copy_bytes) = (0, 0);
                let (_portal, rest) = text(body(message));
                let statement = self.statements.get(&text(rest).0)?;
                Some((take(Seen::Statement(statement))?, ready_before))
            }
            b'S' => {
                self.ready_owed += 1;
                None
            }
            b'd' => {
                let bytes_before = self.copy_bytes;
                self.copy_messages += 1;
                self.copy_bytes += body(message).len() as u64;
                let seen = Seen::CopyData { nth: self.copy_messages, bytes_before, bytes_after: self.copy_bytes };
                // `ready_owed` includes the `ReadyForQuery` that ends this COPY. The reply comes before it, so subtract it.
                Some((take(seen)?, ready_before.saturating_sub(1)))
            }
            _ => None,
        }
    }

    /// Makes the proxy drop the reply that follows the `ReadyForQuery` message with the number `ready_before`, counted from 1.
    pub(super) fn drop_reply(&mut self, ready_before: u64, watched: Arc<TriggerState>) {
        self.drop_after = Some((ready_before, watched));
    }

    pub(super) fn hear_server(&mut self, message: &[u8]) -> MessageFate {
        let kind = message.first();
        match &self.drop_after {
            Some((after, watched)) if self.ready_seen >= *after => {
                // The client would continue after any of these messages: CommandComplete, ErrorResponse,
                // EmptyQueryResponse, ReadyForQuery or CopyInResponse.
                let is_end = matches!(kind, Some(b'C' | b'E' | b'I' | b'Z' | b'G'));
                if is_end { MessageFate::EndsDroppedReply(Arc::clone(watched)) } else { MessageFate::Dropped }
            }
            Some(_) | None => {
                self.ready_seen += u64::from(kind == Some(&b'Z'));
                MessageFate::Passes
            }
        }
    }
}

/// Returns the tag of a CommandComplete message, such as `COMMIT`; `None` for other messages.
pub(super) fn command_tag(message: &[u8]) -> Option<String> {
    (message.first() == Some(&b'C')).then(|| text(body(message)).0)
}

#[cfg(test)]
mod tests {
    use super::super::trigger::{Action, Trigger, arm};
    use super::*;

    fn query(text: &str) -> Vec<u8> {
        [b"Q\0\0\0\0", text.as_bytes(), b"\0"].concat()
    }

    #[test]
    fn the_replies_to_what_was_sent_before_still_pass() {
        let mut dialog = Dialog { started: true, ready_owed: 1, ready_seen: 1, ..Dialog::default() };
        let (watched, _armed) = arm(Trigger::FrontendQueryContains("COMMIT".to_owned()), Action::DropReplyAndCut, 1);
        let mut hear =
            |text| dialog.hear_client(&query(text), |seen| watched.takes(seen).then(|| Arc::clone(&watched)));
        assert!(hear("BEGIN").is_none());
        let pulled = hear("COMMIT");
        assert_eq!(pulled.as_ref().map(|(_, ready_before)| *ready_before), Some(2));
        dialog.drop_reply(2, Arc::clone(&watched));
        assert!(matches!(dialog.hear_server(b"C\0\0\0\x0aBEGIN\0"), MessageFate::Passes));
        assert!(matches!(dialog.hear_server(b"Z\0\0\0\x05T"), MessageFate::Passes));
        assert!(matches!(dialog.hear_server(b"N\0\0\0\x04"), MessageFate::Dropped));
        assert!(matches!(dialog.hear_server(b"C\0\0\0\x0bCOMMIT\0"), MessageFate::EndsDroppedReply(_)));
    }
}
