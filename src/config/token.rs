//! The source of tokens for SASL OAUTHBEARER: an OIDC token endpoint (configured by librdkafka's properties) or a
//! program.
//!
//! librdkafka itself would need curl for OIDC, and curl would link a second TLS library. So Tidegate requests the tokens
//! itself, with the same HTTP client as for the schema registry, and doesn't pass these properties to librdkafka.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{Secret, SecretSource};

/// Properties that Tidegate itself uses, and doesn't pass to librdkafka.
pub const OURS: &[&str] = &[
    METHOD,
    "sasl.oauthbearer.client.credentials.client.id",
    "sasl.oauthbearer.client.credentials.client.secret",
    "sasl.oauthbearer.client.id",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.extensions",
    "sasl.oauthbearer.grant.type",
    "sasl.oauthbearer.scope",
    "sasl.oauthbearer.token.endpoint.url",
    "https.ca.location",
    "https.ca.pem",
];

pub const METHOD: &str = "sasl.oauthbearer.method";
pub const COMMAND: &str = "kafka.token_command";

/// The source of tokens for SASL OAUTHBEARER. `extensions` are SASL extensions: names and values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenSource {
    /// A token endpoint, with OAuth 2's client credentials grant.
    Oidc(Box<Oidc>),
    Command {
        /// The program, followed by its arguments; never empty.
        command: Vec<String>,
        extensions: Vec<(String, String)>,
    },
}

/// A token endpoint, and the credentials and parameters with which tokens are requested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oidc {
    pub endpoint: String,
    pub client_id: String,
    pub client_secret: SecretSource,
    pub scope: Option<String>,
    pub extensions: Vec<(String, String)>,
    /// A file with CA certificates (PEM) that verify the endpoint. `None`: the system trust store.
    pub ca_file: Option<String>,
    /// CA certificates as PEM text. If set, `ca_file` is ignored.
    pub ca_pem: Option<String>,
}

/// Determines the source of tokens from all properties of a client, including those that were read from files. `None` if no
/// token is needed, or if librdkafka makes its own.
///
/// # Errors
/// If a setting is missing, has an invalid value, or contradicts another. The text names the setting, and shows no value.
pub fn source(
    properties: &BTreeMap<&str, &Secret>,
    file: impl Fn(&str) -> Option<PathBuf>,
    command: Option<&[String]>,
) -> Result<Option<TokenSource>, String> {
    let get = |name: &str| properties.get(name).map(|value| value.expose());
    let either = |one: &str, other: &str| get(one).or_else(|| get(other)).map(str::to_owned);
    let mechanism = either("sasl.mechanism", "sasl.mechanisms").unwrap_or_default();
    let is_bearer = mechanism.eq_ignore_ascii_case("OAUTHBEARER");
    let is_oidc = match get(METHOD) {
        None => false,
        Some(method) if method.eq_ignore_ascii_case("default") => false,
        Some(method) if method.eq_ignore_ascii_case("oidc") => true,
        Some(_) => return Err(format!("{METHOD} is neither default nor oidc")),
    };
    // `METHOD` itself may be set to `default`, so it isn't reported as unused.
    let unused = |name: &&&str| **name != METHOD && (command.is_none() || !name.ends_with("extensions"));
    if let Some(name) = OURS.iter().filter(unused).find(|name| !is_oidc && properties.contains_key(**name)) {
        return Err(format!("{name} is of use with {METHOD} = \"oidc\" only"));
    }
    let extensions = extensions(get("sasl.oauthbearer.extensions").unwrap_or_default())?;
    match (command, is_oidc) {
        (Some(_), true) => Err(format!("{METHOD} = \"oidc\" and {COMMAND} exclude each other")),
        (_, true) | (Some(_), _) if !is_bearer => {
            Err(format!("{METHOD} = \"oidc\" and {COMMAND} need \"sasl.mechanism\" = \"OAUTHBEARER\""))
        }
        (Some(command), false) => Ok(Some(TokenSource::Command { command: command.to_owned(), extensions })),
        (None, false) => Ok(None),
        (None, true) => {
            let grant = get("sasl.oauthbearer.grant.type").unwrap_or("client_credentials");
            if grant != "client_credentials" {
                return Err(format!(
                    "sasl.oauthbearer.grant.type is not client_credentials; use {COMMAND} for other grants"
                ));
            }
            let missing = |name: &str| format!("{METHOD} = \"oidc\" needs {name}");
            let endpoint = get("sasl.oauthbearer.token.endpoint.url");
            let endpoint = endpoint.ok_or_else(|| missing("sasl.oauthbearer.token.endpoint.url"))?;
            if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
                return Err("sasl.oauthbearer.token.endpoint.url is not a URL; write https://host/path".to_owned());
            }
            let id = either("sasl.oauthbearer.client.id", "sasl.oauthbearer.client.credentials.client.id");
            let secret = ["sasl.oauthbearer.client.secret", "sasl.oauthbearer.client.credentials.client.secret"];
            let secret = secret.iter().find_map(|name| {
                let given = properties.get(name)?;
                Some(file(name).map_or_else(|| SecretSource::Inline((*given).clone()), SecretSource::File))
            });
            Ok(Some(TokenSource::Oidc(Box::new(Oidc {
                endpoint: endpoint.to_owned(),
                client_id: id.ok_or_else(|| missing("sasl.oauthbearer.client.id"))?,
                client_secret: secret.ok_or_else(|| missing("sasl.oauthbearer.client.secret"))?,
                scope: get("sasl.oauthbearer.scope").map(str::to_owned),
                extensions,
                ca_file: get("https.ca.location").filter(|place| *place != "probe").map(str::to_owned),
                ca_pem: get("https.ca.pem").map(str::to_owned),
            }))))
        }
    }
}

/// Reads `name=value,name=value`.
fn extensions(text: &str) -> Result<Vec<(String, String)>, String> {
    let pairs = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let split = |pair: &str| {
        let pair = pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        pair.ok_or_else(|| "sasl.oauthbearer.extensions is not a list of name=value, separated by commas".to_owned())
    };
    pairs.map(split).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(properties: &[(&'static str, &str)], command: Option<&[String]>) -> Result<Option<TokenSource>, String> {
        let properties: Vec<_> = properties.iter().map(|(name, value)| (*name, Secret::new(*value))).collect();
        source(&properties.iter().map(|(name, value)| (*name, value)).collect(), |_| None, command)
    }

    const OIDC: &[(&str, &str)] = &[
        ("sasl.mechanism", "OAUTHBEARER"),
        (METHOD, "OIDC"),
        ("sasl.oauthbearer.token.endpoint.url", "https://tokens/oauth2"),
        ("sasl.oauthbearer.client.id", "gate"),
        ("sasl.oauthbearer.client.secret", "CANARY"),
        ("sasl.oauthbearer.extensions", "logicalCluster=lkc-1, identityPoolId=pool-2"),
    ];

    #[test]
    fn a_token_endpoint_is_read_from_the_properties_of_librdkafka() {
        let Ok(Some(TokenSource::Oidc(oidc))) = read(OIDC, None) else { panic!("an endpoint") };
        assert_eq!((oidc.endpoint.as_str(), oidc.client_id.as_str()), ("https://tokens/oauth2", "gate"));
        assert_eq!(oidc.client_secret, SecretSource::Inline(Secret::new("CANARY")));
        assert_eq!(oidc.extensions.len(), 2);
        assert_eq!(oidc.extensions[1], ("identityPoolId".to_owned(), "pool-2".to_owned()));
    }

    #[test]
    fn what_does_not_go_together_is_named_without_a_value() {
        let command = ["msk-token".to_owned()];
        let without = |name: &str| OIDC.iter().filter(|(found, _)| *found != name).copied().collect::<Vec<_>>();
        let with = |name, value| without(name).into_iter().chain([(name, value)]).collect::<Vec<_>>();
        for (properties, command, words) in [
            (without("sasl.oauthbearer.token.endpoint.url"), None, "needs sasl.oauthbearer.token.endpoint.url"),
            (without("sasl.oauthbearer.client.secret"), None, "needs sasl.oauthbearer.client.secret"),
            (with("sasl.mechanism", "PLAIN"), None, "need \"sasl.mechanism\" = \"OAUTHBEARER\""),
            (with(METHOD, "CANARY"), None, "neither default nor oidc"),
            (with("sasl.oauthbearer.grant.type", "urn:CANARY"), None, "use kafka.token_command"),
            (with("sasl.oauthbearer.extensions", "CANARY"), None, "not a list of name=value"),
            (with("sasl.oauthbearer.token.endpoint.url", "CANARY"), None, "not a URL"),
            (OIDC.to_vec(), Some(command.as_slice()), "exclude each other"),
            (without(METHOD), None, "of use with sasl.oauthbearer.method = \"oidc\" only"),
            (vec![], Some(command.as_slice()), "need \"sasl.mechanism\""),
        ] {
            let error = read(&properties, command).expect_err(words);
            assert!(error.contains(words) && !error.contains("CANARY"), "{error}");
        }
        assert_eq!(read(&[("sasl.mechanism", "PLAIN")], None), Ok(None));
        assert_eq!(read(&[("sasl.mechanism", "OAUTHBEARER"), (METHOD, "default")], None), Ok(None));
    }
}
