//! Gets a token for SASL OAUTHBEARER, from a token endpoint or from a program. Blocks.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use tidegate_rows::base64;
use ureq::Agent;
use ureq::tls::TlsConfig;

use crate::config::token::{COMMAND, Oidc, TokenSource};
use crate::config::{Secret, SecretSource};
use crate::credentials::{self, Issued};
use crate::metrics::epoch_ms;
use crate::trust;

/// The longest time for an answer of an endpoint or a program.
const DEADLINE: Duration = Duration::from_secs(10);
/// The largest answer of an endpoint that is read, in bytes.
const ANSWER_MAX: u64 = 1 << 20;

/// A token, in librdkafka's form. `extensions` are SASL extensions: names and values.
#[derive(Clone, Debug)]
pub struct Token {
    pub value: Secret,
    pub principal: String,
    /// When the token expires, in milliseconds since 1970.
    pub expires_at_ms: i64,
    pub extensions: Vec<(String, String)>,
}

/// The answer of a token endpoint (RFC 6749, section 5.1).
#[derive(Deserialize)]
struct Answer {
    access_token: String,
    expires_in: Option<f64>,
}

/// The error response of a token endpoint (RFC 6749, section 5.2).
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

/// The fields that we read from a token that is a JSON Web Token.
#[derive(Default, Deserialize)]
struct Claims {
    exp: Option<f64>,
    sub: Option<String>,
}

/// Gets a token from its source. Returns the token and its lifetime from now on.
///
/// # Errors
/// If the source returns no token, or a token that has expired or
/// whose lifetime isn't known. The text says why, without a secret.
pub fn fetch(source: &TokenSource) -> Result<(Token, Duration), String> {
    match source {
        TokenSource::Oidc(oidc) => {
            let issued = ask(oidc).map_err(|why| format!("{}: {why}", without_query(&oidc.endpoint)))?;
            token(issued, &oidc.client_id, &oidc.extensions)
        }
        TokenSource::Command { command, extensions } => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| format!("`{COMMAND}`: {error}"))?;
            let run = async { tokio::time::timeout(DEADLINE, credentials::run(COMMAND, command)).await };
            let issued = runtime.block_on(run).map_err(|_| format!("`{COMMAND}`: no token within {DEADLINE:?}"))??;
            token(issued, "tidegate", extensions)
        }
    }
}

fn ask(oidc: &Oidc) -> Result<Issued, String> {
    let mut settings = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(DEADLINE))
        .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
        .max_redirects(0);
    if oidc.endpoint.starts_with("https://") {
        let roots = match (&oidc.ca_pem, &oidc.ca_file) {
            (Some(pem), _) => trust::these(pem.as_bytes()).map_err(|why| format!("https.ca.pem: {why}"))?,
            (None, Some(file)) => trust::file("https.ca.location", Path::new(file))?,
            (None, None) => trust::system(),
        };
        settings = settings.tls_config(TlsConfig::builder().root_certs(roots).build());
    }
    let secret = match &oidc.client_secret {
        SecretSource::Inline(secret) => secret.expose().to_owned(),
        SecretSource::File(file) => {
            let text = std::fs::read_to_string(file);
            text.map_err(|error| format!("can't read {}: {error}", file.display()))?.trim_end().to_owned()
        }
    };
    let mut authorization = Vec::new();
    base64::encode(format!("{}:{secret}", oidc.client_id).as_bytes(), &mut authorization);
    let authorization = format!("Basic {}", String::from_utf8(authorization).unwrap_or_default());
    let form = [("grant_type", "client_credentials")].into_iter();
    let form = form.chain(oidc.scope.as_deref().map(|scope| ("scope", scope)));
    let request = settings.build().new_agent().post(&oidc.endpoint);
    let request = request.header("Authorization", authorization).header("Accept", "application/json");
    let mut response = request.send_form(form).map_err(|error| trust::explained(&error, "https.ca.location"))?;
    let status = response.status().as_u16();
    let body =
        response.body_mut().with_config().limit(ANSWER_MAX).read_to_string().map_err(|error| error.to_string())?;
    if status != 200 {
        let refusal = serde_json::from_str::<Refusal>(&body).map(|refusal| format!(": {}", refusal.error));
        return Err(format!(
            "status {status}{}; check sasl.oauthbearer.client.id, its secret and the endpoint's URL",
            refusal.unwrap_or_default()
        ));
    }
    // The parser's own message may quote the token.
    let answer: Answer =
        serde_json::from_str(&body).map_err(|_| "its answer isn't a token; is the endpoint's URL right?".to_owned())?;
    let lifetime = answer.expires_in.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    Ok(Issued { secret: Secret::new(answer.access_token), lifetime, principal: None })
}

fn token(issued: Issued, principal: &str, extensions: &[(String, String)]) -> Result<(Token, Duration), String> {
    let value = first_of_tuple(issued.secret.expose());
    let claims = claims(value).or_else(|| presigned(value)).unwrap_or_default();
    let now = epoch_ms();
    #[expect(clippy::cast_precision_loss, reason = "milliseconds since 1970 are far below 2^53")]
    let until = |exp: f64| Duration::try_from_secs_f64(exp - now as f64 / 1000.0).unwrap_or_default();
    let lifetime = issued.lifetime.or_else(|| claims.exp.map(until)).ok_or_else(|| {
        "the token's lifetime is missing: a program prints {\"token\": \"…\", \"lifetime_seconds\": 900}, an endpoint answers with \"expires_in\"".to_owned()
    })?;
    if lifetime.is_zero() {
        return Err("the token has already expired; is this machine's clock right?".to_owned());
    }
    let lifetime_ms = i64::try_from(lifetime.as_millis()).unwrap_or(i64::MAX);
    let token = Token {
        value: Secret::new(value),
        principal: issued.principal.or(claims.sub).unwrap_or_else(|| principal.to_owned()),
        expires_at_ms: now.saturating_add(lifetime_ms),
        extensions: extensions.to_vec(),
    };
    Ok((token, lifetime))
}

/// Returns the token of `('TOKEN', 1767225600000)`, which the command-line tool of AWS's signer for Python prints, and any
/// other text as it is. No token contains a quotation mark.
fn first_of_tuple(text: &str) -> &str {
    text.strip_prefix("('").and_then(|rest| rest.split_once('\'')).map_or(text, |(token, _)| token)
}

/// Returns the payload of a JSON Web Token; `None` for any other token. The signature is not verified here; that is the broker's
/// task.
fn claims(token: &str) -> Option<Claims> {
    serde_json::from_slice(&from_base64url(token.split('.').nth(1)?)?).ok()
}

/// Returns the expiry of a token for IAM access to Amazon MSK; `None` for any other token. A token for MSK is a presigned URL in
/// base64url. The query of the URL says when it was signed (`X-Amz-Date`) and for how many seconds it is valid
/// (`X-Amz-Expires`).
fn presigned(token: &str) -> Option<Claims> {
    let url = String::from_utf8(from_base64url(token)?).ok()?;
    let (_, query) = url.strip_prefix("https://")?.split_once('?')?;
    let get = |name| query.split('&').filter_map(|pair| pair.split_once('=')).find(|pair| pair.0 == name);
    let signed: jiff::Timestamp = get("X-Amz-Date")?.1.parse().ok()?;
    let seconds: u32 = get("X-Amz-Expires")?.1.parse().ok()?;
    Some(Claims { exp: Some(signed.as_duration().as_secs_f64() + f64::from(seconds)), sub: None })
}

/// Decodes base64 with the alphabet of URLs, with or without padding.
fn from_base64url(text: &str) -> Option<Vec<u8>> {
    let mut text = text.replace('-', "+").replace('_', "/");
    text += &"==="[..(4 - text.len() % 4) % 4];
    let mut bytes = Vec::new();
    base64::decode(text.as_bytes(), &mut bytes)?;
    Some(bytes)
}

fn without_query(url: &str) -> &str {
    url.split('?').next().unwrap_or(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The token `{"alg":"none"}.{"sub":"gate","exp":4102444800}.`, which expires in the year 2100.
    const UNSIGNED: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJnYXRlIiwiZXhwIjo0MTAyNDQ0ODAwfQ.";

    fn issued(secret: &str, lifetime: Option<u64>) -> Issued {
        Issued { secret: Secret::new(secret), lifetime: lifetime.map(Duration::from_secs), principal: None }
    }

    #[test]
    fn a_web_token_says_itself_whom_it_stands_for_and_until_when() {
        let (token, lifetime) = token(issued(UNSIGNED, None), "client", &[]).expect("a token");
        assert_eq!(token.principal, "gate");
        assert!(token.expires_at_ms.abs_diff(4_102_444_800_000) < 2_000, "{}", token.expires_at_ms);
        assert!(lifetime > Duration::from_secs(86_400 * 365));
    }

    /// The URLs in the tokens of AWS's signers for Python (1.0.2) and JavaScript (1.0.3), for the key `AKIDEXAMPLE`.
    const PYTHON: &str = "https://kafka.eu-central-1.amazonaws.com/?Action=kafka-cluster%3AConnect&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Am\
        z-Credential=AKIDEXAMPLE%2F20261129%2Feu-central-1%2Fkafka-cluster%2Faws4_request&X-Amz-Date=20261129T221831Z&\
        X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Signature=e231d7c305d3a82400e4349df8a14b5e18f135bec2752f6c2ad\
        98cd5fce35667&User-Agent=aws-msk-iam-sasl-signer-python%2F1.0.2";
    const JAVASCRIPT: &str = "https://kafka.eu-central-1.amazonaws.com/?Action=kafka-cluster%3AConnect&User-Agent=aws-msk-iam-sasl-signer-js\
        %2F1.0.3&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIDEXAMPLE%2F20261129%2Feu-central-1%2Fkafka-clust\
        er%2Faws4_request&X-Amz-Date=20261129T221854Z&X-Amz-Expires=900&X-Amz-Signature=fcafb047a8513bc43c8468a829fbfd\
        bce124e96fabd624424c733e57bf873d9b&X-Amz-SignedHeaders=host";

    /// Encodes a URL as AWS's signers do.
    fn signed(url: &str) -> String {
        let mut text = Vec::new();
        base64::encode(url.as_bytes(), &mut text);
        String::from_utf8(text).expect("text").replace('+', "-").replace('/', "_").trim_end_matches('=').to_owned()
    }

    #[test]
    fn a_token_of_an_aws_signer_says_itself_until_when_it_is_valid() {
        // The command-line tool of the signer for Python prints a tuple of the token and its expiry in milliseconds.
        let token_only = signed(PYTHON);
        let tuple = format!("('{token_only}', 1795991611000)");
        assert_eq!(first_of_tuple(&tuple), token_only);
        assert_eq!(first_of_tuple(&token_only), token_only);
        assert_eq!(presigned(&token_only).expect("a presigned URL").exp, Some(1_795_991_611.0));
        assert_eq!(presigned(&signed(JAVASCRIPT)).expect("a presigned URL").exp, Some(1_795_991_634.0));
        // The lifetime of an expired token can be read, so the error says that the token has expired.
        let expired = PYTHON.replace("X-Amz-Date=2026", "X-Amz-Date=2023");
        assert!(token(issued(&signed(&expired), None), "client", &[]).is_err_and(|error| error.contains("expired")));
        // A token whose URL has no lifetime is treated like any other token without a lifetime.
        let endless = PYTHON.replace("X-Amz-Expires=900&", "");
        assert!(token(issued(&signed(&endless), None), "client", &[]).is_err_and(|error| error.contains("is missing")));
    }

    #[test]
    fn any_other_token_needs_a_stated_lifetime() {
        let (made, lifetime) = token(issued("opaque", Some(900)), "client", &[]).expect("a token");
        assert_eq!((made.principal.as_str(), lifetime.as_secs()), ("client", 900));
        assert!(token(issued("CANARY", None), "client", &[]).is_err_and(|error| !error.contains("CANARY")));
        assert!(token(issued("CANARY", Some(0)), "client", &[]).is_err_and(|error| error.contains("clock")));
    }
}
