//! Credentials printed by a program that the user configures: a password for Postgres, a token for Kafka.
//!
//! The program prints either the secret alone, or a JSON object with the secret, in which the lifetime and the principal are
//! optional. No message of Tidegate repeats what the program prints, on standard output or on standard error, because both may
//! contain the secret.

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncReadExt as _;
use tokio::process::Command;

use crate::config::Secret;

/// The most bytes of the program's output that are read. Then the pipe is closed.
const OUTPUT_MAX: u64 = 1 << 20;

/// A secret, as the program or a token endpoint issued it.
#[derive(Clone, Debug)]
pub struct Issued {
    pub secret: Secret,
    /// How long the secret is valid from its issue on; `None` if the issuer didn't say.
    pub lifetime: Option<Duration>,
    /// The principal of a token; `None` if the issuer didn't name one.
    pub principal: Option<String>,
}

/// The program's output, if it is a JSON object.
#[derive(Deserialize)]
struct Document {
    #[serde(alias = "password")]
    token: String,
    lifetime_seconds: Option<f64>,
    principal: Option<String>,
}

/// Runs a program, with its arguments, and reads the secret that it prints. If the future is dropped, the program is killed.
///
/// # Errors
/// If the program can't be run, fails, or prints nothing usable. The text names `key`, under which the program is configured.
pub async fn run(key: &str, command: &[String]) -> Result<Issued, String> {
    let Some((program, arguments)) = command.split_first() else { return Err(format!("`{key}` is empty")) };
    let said = |why: String| format!("`{key}` ({program}): {why}");
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| said(format!("can't be run: {error}")))?;
    let mut output = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        let read = stdout.take(OUTPUT_MAX).read_to_end(&mut output).await;
        read.map_err(|error| said(format!("its output can't be read: {error}")))?;
    }
    let status = child.wait().await.map_err(|error| said(format!("can't be waited for: {error}")))?;
    if !status.success() {
        return Err(said(format!("it ended with {status}; run it by hand to see why")));
    }
    let text = String::from_utf8(output).map_err(|_| said("its output is not UTF-8".to_owned()))?;
    read(&text).map_err(said)
}

fn read(text: &str) -> Result<Issued, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("it printed nothing".to_owned());
    }
    if !text.starts_with('{') {
        return Ok(Issued { secret: Secret::new(text), lifetime: None, principal: None });
    }
    // The parser's own message may quote a value.
    let document: Document = serde_json::from_str(text).map_err(|_| {
        "its JSON can't be used; print {\"password\": \"…\", \"lifetime_seconds\": 900}, or \"token\" in place of \"password\""
            .to_owned()
    })?;
    let lifetime = match document.lifetime_seconds.map(Duration::try_from_secs_f64) {
        Some(Err(_)) => return Err("`lifetime_seconds` is not a duration".to_owned()),
        Some(Ok(lifetime)) => Some(lifetime),
        None => None,
    };
    Ok(Issued { secret: Secret::new(document.token), lifetime, principal: document.principal })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn issued(text: &str) -> (String, Option<u64>, Option<String>) {
        let issued = read(text).expect(text);
        (issued.secret.expose().to_owned(), issued.lifetime.map(|lifetime| lifetime.as_secs()), issued.principal)
    }

    #[test]
    fn a_secret_comes_alone_or_with_its_lifetime() {
        assert_eq!(issued("pa ss\n"), ("pa ss".to_owned(), None, None));
        assert_eq!(issued(r#"{"password":"p","lifetime_seconds":900}"#), ("p".to_owned(), Some(900), None));
        let token = r#"{"token":"t","lifetime_seconds":1.5,"principal":"gate","more":1}"#;
        assert_eq!(issued(token), ("t".to_owned(), Some(1), Some("gate".to_owned())));
    }

    #[test]
    fn what_cannot_be_read_is_named_and_not_repeated() {
        for text in ["", " \n", r#"{"secret":"CANARY"}"#, r#"{"token":"CANARY","lifetime_seconds":-1}"#, "{CANARY"] {
            let error = read(text).expect_err(text);
            assert!(!error.contains("CANARY"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_program_that_fails_is_named_and_its_output_is_not_shown() {
        let run = |script: &str| {
            let command = ["sh", "-c", script].map(str::to_owned);
            async move { run("postgres.password_command", &command).await }
        };
        assert_eq!(run("echo kelp").await.expect("it runs").secret.expose(), "kelp");
        let error = run("echo CANARY; echo CANARY >&2; exit 3").await.expect_err("it fails");
        assert!(error.contains("`postgres.password_command` (sh)") && error.contains("exit status: 3"), "{error}");
        assert!(!error.contains("CANARY"), "{error}");
    }
}
