//! Gives running Kafka clients their credentials: tokens before they expire, and passwords whose file has changed.
//!
//! One [`Keeper`] serves all clients of the process that have the same source. It has its own thread, because a request to an
//! endpoint or a program blocks, and a poll loop must not block. The thread ends when nobody holds the keeper any more. The
//! keeper is held by the settings from which clients are made, and not by the clients themselves.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rdkafka::client::{Client, ClientContext};
use tidegate_kafka_batch::{OAuthToken, set_oauth_token, set_password};
use tracing::{debug, info, warn};

use super::token::{self, Token};
use crate::config::token::TokenSource;
use crate::config::{Kafka, Pipeline, Secret};
use crate::status::lock;

/// The time between two checks of a password's file.
const PASSWORD_LOOK: Duration = Duration::from_secs(1);
/// The first and the longest wait after a failed attempt to get a token. The wait doubles with each failure.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The longest time until a keeper's thread notices that the [`Keeper`] was dropped.
const NAP: Duration = Duration::from_secs(2);

/// The source of credentials that change while a client runs.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Token(TokenSource),
    Password { user: Secret, file: PathBuf },
}

#[derive(Clone, Debug)]
enum Credentials {
    Token(Token),
    Password { user: Secret, password: Secret },
}

/// Passes new credentials to one client. Returns whether the client still exists.
type Update = Box<dyn Fn(&Credentials) -> bool + Send>;

/// Keeps the credentials of one source current.
#[derive(Debug)]
pub struct Keeper {
    source: Source,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    current: Option<Credentials>,
    clients: Vec<Update>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("clients", &self.clients.len()).finish_non_exhaustive()
    }
}

static KEEPERS: Mutex<Vec<Weak<Keeper>>> = Mutex::new(Vec::new());

/// Returns the keeper for a pipeline's clients, and starts it if it isn't running. `None` if their credentials never change.
pub fn keeper(kafka: &Kafka, pipeline: &Pipeline) -> Option<Arc<Keeper>> {
    let source = source(kafka, pipeline)?;
    let mut keepers = lock(&KEEPERS);
    keepers.retain(|keeper| keeper.strong_count() > 0);
    if let Some(keeper) = keepers.iter().filter_map(Weak::upgrade).find(|keeper| keeper.source == source) {
        return Some(keeper);
    }
    let keeper = Arc::new(Keeper { source, state: Mutex::default() });
    let weak = Arc::downgrade(&keeper);
    keepers.push(Weak::clone(&weak));
    let thread = std::thread::Builder::new().name("credentials".to_owned());
    if let Err(error) = thread.spawn(move || keep(&weak)) {
        warn!(%error, "can't start a thread for Kafka's credentials: clients keep those that they start with");
    }
    Some(keeper)
}

fn source(kafka: &Kafka, pipeline: &Pipeline) -> Option<Source> {
    // The token source was checked when the configuration was loaded, so it has no error.
    if let Ok(Some(token)) = kafka.token_source(pipeline) {
        return Some(Source::Token(token));
    }
    let file = kafka.file_of("sasl.password", pipeline)?;
    let user = kafka.properties_of(pipeline).get("sasl.username").copied()?.clone();
    Some(Source::Password { user, file })
}

impl Keeper {
    /// Gives a client the current credentials, if they are known, and the new ones after each change, for as long as `owner`
    /// lives. `client` returns the client that `owner` contains.
    pub fn serve<T: Send + Sync + 'static, C: ClientContext + 'static>(
        &self,
        owner: &Arc<T>,
        client: fn(&T) -> &Client<C>,
    ) {
        let owner = Arc::downgrade(owner);
        let update: Update = Box::new(move |credentials| {
            let Some(owner) = owner.upgrade() else { return false };
            let done = match credentials {
                Credentials::Token(token) => {
                    let Token { value, principal, expires_at_ms, extensions } = token;
                    let (value, expires_at_ms) = (value.expose(), *expires_at_ms);
                    set_oauth_token(client(&owner), OAuthToken { value, principal, expires_at_ms, extensions })
                }
                Credentials::Password { user, password } => {
                    set_password(client(&owner), user.expose(), password.expose())
                }
            };
            if let Err(error) = done {
                warn!(error, "librdkafka refused the new credentials: it keeps the previous ones");
            }
            true
        });
        let mut state = lock(&self.state);
        if state.current.as_ref().is_none_or(&update) {
            state.clients.push(update);
        }
    }

    fn update(&self, new: Credentials) {
        let mut state = lock(&self.state);
        state.clients.retain(|update| update(&new));
        state.current = Some(new);
    }
}

/// Renews the credentials until the keeper is dropped. Runs on the keeper's own thread.
fn keep(keeper: &Weak<Keeper>) {
    let mut failures = 0;
    loop {
        let Some(alive) = keeper.upgrade() else { return };
        let pause = match &alive.source {
            Source::Token(source) => refresh(&alive, source, &mut failures),
            Source::Password { user, file } => {
                reread(&alive, user, file);
                PASSWORD_LOOK
            }
        };
        drop(alive);
        let mut left = pause;
        while !left.is_zero() {
            let nap = left.min(NAP);
            std::thread::sleep(nap);
            left -= nap;
            if keeper.strong_count() == 0 {
                return;
            }
        }
    }
}

/// Gets a token and gives it to the clients. Returns how long to wait before the next request for a token: four fifths of the
/// token's lifetime but at least a second, or a backoff if this request failed.
fn refresh(keeper: &Keeper, source: &TokenSource, failures: &mut u32) -> Duration {
    match token::fetch(source) {
        Ok((token, lifetime)) => {
            if *failures > 0 {
                info!("Kafka's clients have a token again");
            }
            *failures = 0;
            debug!(lifetime_seconds = lifetime.as_secs(), "a new token for Kafka");
            keeper.update(Credentials::Token(token));
            lifetime.mul_f64(0.8).max(RETRY.0)
        }
        Err(error) => {
            let pause = RETRY.0.saturating_mul(1 << (*failures).min(8)).min(RETRY.1);
            *failures = failures.saturating_add(1);
            warn!(
                error,
                retry_seconds = pause.as_secs(),
                "can't get a token for Kafka: clients stay connected until theirs expires, then records wait in Kafka"
            );
            pause
        }
    }
}

/// Gives the clients the password in a file, if the password has changed. While the file can't be read, the clients keep the
/// old password.
fn reread(keeper: &Keeper, user: &Secret, file: &std::path::Path) {
    let Ok(text) = std::fs::read_to_string(file) else { return };
    let password = Secret::new(text.trim_end_matches(['\n', '\r']));
    let before = lock(&keeper.state).current.clone();
    if matches!(&before, Some(Credentials::Password { password: known, .. }) if *known == password) {
        return;
    }
    if before.is_some() {
        info!(file = %file.display(), "a new password for Kafka");
    }
    keeper.update(Credentials::Password { user: user.clone(), password });
}
