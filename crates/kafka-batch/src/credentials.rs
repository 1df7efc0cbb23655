//! Gives a client new credentials while it runs. The client uses them at its next connection to a broker; open
//! connections keep the old credentials until the broker requires new ones (KIP-368).

use std::ffi::{CStr, CString, c_char};

use rdkafka::bindings as rd;
use rdkafka::client::{Client, ClientContext};
use rdkafka::types::RDKafkaRespErr;

/// The size of the buffer for an error text of librdkafka, in bytes. A longer text is cut off.
const ERROR_SIZE: usize = 512;

/// A token for SASL OAUTHBEARER.
#[derive(Clone, Copy, Debug)]
pub struct OAuthToken<'a> {
    /// The token itself. Secret.
    pub value: &'a str,
    pub principal: &'a str,
    /// When the token expires, in milliseconds since 1970.
    pub expires_at_ms: i64,
    pub extensions: &'a [(String, String)],
}

/// Gives a client a token. A client without a token doesn't connect.
///
/// # Errors
/// If the client doesn't use OAUTHBEARER, if the token has expired, or if the token, the principal or an extension has a
/// character that isn't allowed there. The error's text contains neither the token nor a value of an extension.
pub fn set_oauth_token<C: ClientContext>(client: &Client<C>, token: OAuthToken<'_>) -> Result<(), String> {
    // librdkafka checks these texts too, but its errors repeat them.
    let mut secrets = std::iter::once(token.value).chain(token.extensions.iter().map(|(_, value)| value.as_str()));
    if !secrets.all(is_sasl_value) {
        return Err("the token or an extension has a character that SASL doesn't allow".to_owned());
    }
    let value = c_string(token.value)?;
    let principal = c_string(token.principal)?;
    let extensions: Vec<CString> = token
        .extensions
        .iter()
        .flat_map(|(name, value)| [name, value])
        .map(|text| c_string(text))
        .collect::<Result<_, _>>()?;
    let mut pointers: Vec<*const c_char> = extensions.iter().map(|text| text.as_ptr()).collect();
    let mut error: [c_char; ERROR_SIZE] = [0; ERROR_SIZE];
    // SAFETY: the client is alive, all texts end with NUL and outlive the call, which copies them, and each size is that of its
    // buffer.
    let code = unsafe {
        rd::rd_kafka_oauthbearer_set_token(
            client.native_ptr(),
            value.as_ptr(),
            token.expires_at_ms,
            principal.as_ptr(),
            pointers.as_mut_ptr(),
            pointers.len(),
            error.as_mut_ptr(),
            error.len(),
        )
    };
    if code == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
        return Ok(());
    }
    // SAFETY: librdkafka ends the text with NUL within the buffer, which was zeroed.
    Err(unsafe { CStr::from_ptr(error.as_ptr()) }.to_string_lossy().into_owned())
}

/// Gives a client another user and password for SASL PLAIN and SCRAM.
///
/// # Errors
/// If `user` or `password` contains a NUL. It is no error if the client doesn't use SASL: it then ignores the
/// user and the password.
pub fn set_password<C: ClientContext>(client: &Client<C>, user: &str, password: &str) -> Result<(), String> {
    let (user, password) = (c_string(user)?, c_string(password)?);
    // SAFETY: the client is alive, and both texts end with NUL and outlive the call, which copies them.
    let error = unsafe { rd::rd_kafka_sasl_set_credentials(client.native_ptr(), user.as_ptr(), password.as_ptr()) };
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the error is ours until it is destroyed.
    let text = unsafe { rd::rd_kafka_error_string(error) };
    // SAFETY: the text belongs to the error and ends with NUL.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
    // SAFETY: nobody else has the error, and its text was copied.
    unsafe { rd::rd_kafka_error_destroy(error) };
    Err(text)
}

/// Returns whether SASL allows this text as a token or as the value of an extension (RFC 7628, section 3.1).
fn is_sasl_value(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic() || b" \t\r\n".contains(&byte))
}

fn c_string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| "a credential has a NUL in it".to_owned())
}

#[cfg(test)]
mod tests {
    use rdkafka::ClientConfig;
    use rdkafka::consumer::{BaseConsumer, Consumer as _};

    use super::*;

    fn client(mechanism: &str) -> BaseConsumer {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", "127.0.0.1:1").set("security.protocol", "SASL_PLAINTEXT");
        config.set("group.id", "test").set("sasl.mechanism", mechanism);
        config.set("sasl.username", "gate").set("sasl.password", "old");
        config.set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
        config.create().expect("a client")
    }

    #[test]
    fn a_token_is_taken_until_it_has_expired() {
        let client = client("OAUTHBEARER");
        let extensions = [("logicalCluster".to_owned(), "lkc-1".to_owned())];
        let token =
            OAuthToken { value: "token", principal: "gate", expires_at_ms: 4_102_444_800_000, extensions: &extensions };
        assert_eq!(set_oauth_token(client.client(), token), Ok(()));
        assert_eq!(set_oauth_token(client.client(), OAuthToken { extensions: &[], ..token }), Ok(()));
        let odd = [("logicalCluster".to_owned(), "CANARY\u{e9}".to_owned())];
        for wrong in [
            OAuthToken { expires_at_ms: 1, ..token },
            OAuthToken { value: "CANARY\0", ..token },
            OAuthToken { value: "CANARY\u{7}", ..token },
            OAuthToken { extensions: &odd, ..token },
        ] {
            let error = set_oauth_token(client.client(), wrong).expect_err("it is refused");
            assert!(!error.is_empty() && !error.contains("CANARY"), "{error}");
        }
    }

    #[test]
    fn a_password_is_taken_where_sasl_wants_one() {
        let plain = client("PLAIN");
        assert_eq!(set_password(plain.client(), "gate", "new"), Ok(()));
        assert!(set_password(plain.client(), "gate", "CANARY\0").is_err_and(|error| !error.contains("CANARY")));
    }
}
