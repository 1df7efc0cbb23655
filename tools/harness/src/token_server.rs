//! A stand-in for an OIDC token endpoint. It supports the client credentials grant, and answers with unsigned JSON Web Tokens.
//! Kafka's default validation accepts such tokens, and is meant for development only.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

#[derive(Debug, Clone)]
pub struct TokenServer {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    client_id: String,
    client_secret: String,
    lifetime: Duration,
    issued: Vec<String>,
    refused: usize,
    last_form: String,
}

impl TokenServer {
    /// Starts an endpoint that knows one client. The tokens that it issues are valid for `lifetime`.
    pub fn start(client_id: &str, client_secret: &str, lifetime: Duration) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let state = State {
            client_id: client_id.to_owned(),
            client_secret: client_secret.to_owned(),
            lifetime,
            ..State::default()
        };
        let this = Self { address: listener.local_addr()?, state: Arc::new(Mutex::new(state)) };
        let served = this.clone();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let server = served.clone();
                // If a client closes its connection, that is no error of the server.
                thread::spawn(move || server.serve(&connection).ok());
            }
        });
        Ok(this)
    }

    pub fn url(&self) -> String {
        format!("http://{}/oauth2/token", self.address)
    }

    pub fn issued(&self) -> Vec<String> {
        self.state().issued.clone()
    }

    pub fn refused(&self) -> usize {
        self.state().refused
    }

    pub fn last_form(&self) -> String {
        self.state().last_form.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, connection: &TcpStream) -> Result<()> {
        let mut reader = BufReader::new(connection);
        let (mut length, mut authorization) = (0, String::new());
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 && line.trim() != "" {
            if let Some((name, value)) = line.trim().split_once(": ") {
                match name.to_lowercase().as_str() {
                    "content-length" => length = value.parse()?,
                    "authorization" => value.clone_into(&mut authorization),
                    _ => {}
                }
            }
            line.clear();
        }
        let mut form = vec![0; length];
        reader.read_exact(&mut form)?;
        let (status, body) = self.answer(&authorization, &String::from_utf8(form)?)?;
        let mut writer = connection;
        write!(
            writer,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )?;
        Ok(())
    }

    fn answer(&self, authorization: &str, form: &str) -> Result<(&'static str, String)> {
        let mut state = self.state();
        form.clone_into(&mut state.last_form);
        let client = format!("{}:{}", state.client_id, state.client_secret);
        let expected = format!("Basic {}", base64(client.as_bytes(), ALPHABET, true));
        if authorization != expected || !form.contains("grant_type=client_credentials") {
            state.refused += 1;
            return Ok(("401 Unauthorized", r#"{"error":"invalid_client"}"#.to_owned()));
        }
        let lifetime = state.lifetime.as_secs();
        let token = unsigned_token(&state.client_id, state.lifetime)?;
        state.issued.push(token.clone());
        Ok(("200 OK", format!(r#"{{"access_token":"{token}","token_type":"Bearer","expires_in":{lifetime}}}"#)))
    }
}

/// Returns a JSON Web Token without a signature, for this subject. The token is valid from now on, for `lifetime`.
pub fn unsigned_token(subject: &str, lifetime: Duration) -> Result<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is wrong")?.as_secs();
    let claims = format!(r#"{{"sub":"{subject}","iat":{now},"exp":{}}}"#, now + lifetime.as_secs());
    let part = |json: &str| base64(json.as_bytes(), URL_ALPHABET, false);
    Ok(format!("{}.{}.", part(r#"{"alg":"none"}"#), part(&claims)))
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
const URL_ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn base64(bytes: &[u8], alphabet: &[u8; 64], padded: bool) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let group = chunk.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..=chunk.len() {
            text.push(char::from(alphabet[(group >> (18 - 6 * digit)) as usize & 63]));
        }
        if padded {
            text.extend(std::iter::repeat_n('=', 3 - chunk.len()));
        }
    }
    text
}
